"""What the log makes of its replicas' words: what may be released, what is visible, what leaves memory for the disk.

The replicas are played by hand (`driver.replicate`); the real ones have tests of their own.
"""

import os
from collections.abc import Iterator
from typing import Any

import pytest

from totalog.engine import VIEW, Log, Topic
from totalog.engine._core import lib
from totalog.engine.region import Region
from totalog.engine.tests import driver
from totalog.engine.tests.driver import Batch

EVERYTHING = 1 << 60
"""A position that nothing reaches."""


@pytest.fixture
def log() -> Iterator[Log]:
    with Log.create(size=driver.SIZE_SMALL) as log:
        yield log


def test_a_topic_says_how_it_is_kept(log: Log) -> None:
    plain = log.create_topic("plain", id=driver.topic_id(0), partitions=1)
    assert (plain.memory, plain.visible_when_ordered, plain.replication) == (False, False, 1)
    kept = log.create_topic("kept", id=driver.topic_id(1), partitions=1, memory=True, replication=3, internal=True)
    assert log.find_topic("kept") == kept
    assert (kept.memory, kept.visible_when_ordered, kept.replication, kept.internal) == (True, False, 3, True)
    altered = log.alter_topic(plain, visible_when_ordered=True, replication=15)
    assert log.find_topic("plain") == altered
    assert (altered.visible_when_ordered, altered.replication) == (True, 15)
    assert log.alter_topic(altered, visible_when_ordered=False).replication == 15
    assert log.find_topic("kept") == kept


def test_without_data_directories_what_is_ordered_is_replicated(log: Log) -> None:
    topic = log.create_topic("a", id=driver.topic_id(0), partitions=1, replication=3)
    answer = driver.append_one(log, driver.Batch(topic, 0, b"a"))
    assert not log.durable
    assert (log.replicas(), log.replica_descriptor) == ((), None)
    assert log.replicated() == log.replicated(3) == log.frontiers().replicated == answer.global_position + 1
    for level in (0, 1, 2):
        assert log.acknowledged(answer.global_position, level, 3)
    assert not log.acknowledged(answer.global_position + 1, 2)
    assert log.bounds(topic, 0).next_offset == log.bounds(topic, VIEW).end_offset == 1
    driver.replicate(log, 2, 1)
    assert log.frontiers().replicated == 2


# -- the release limit


def create(log: Log, name: str = "a", **more: Any) -> Topic:
    id = driver.topic_id(len(log.topics()))
    return log.create_topic(name, id=id, partitions=2, **more)


def append(log: Log, topic: Topic, count: int, size: int = 1000) -> list[int]:
    """Global positions of as many batches, in the partitions in turn."""
    batches = [Batch(topic, number % topic.partitions, driver.payload(number, size)) for number in range(count)]
    answers = driver.append(log, batches)
    assert {answer.status for answer in answers} == {lib.STATUS_OK}
    return [answer.global_position for answer in answers]


def attach_again(log: Log) -> Log:
    """What a next process makes of it."""
    descriptor, size = os.dup(log.region.descriptor), log.region.size
    log.close()
    return Log(Region(descriptor, size, None))


def replicate(log: Log, releasable: int, archived: int = 0) -> None:
    """One directory: everything is visible, and so much may be released."""
    driver.replicate(log, EVERYTHING, releasable=releasable, archived=archived)


@pytest.mark.parametrize("order_level", [0, 5])
@pytest.mark.parametrize("by", ["size", "time"])
def test_retention_cuts_what_is_durable_only(log: Log, order_level: int, by: str) -> None:
    replicate(log, 0)
    limit: dict[str, Any] = {"retention_bytes": 2000} if by == "size" else {"retention_ms": 10}
    topic = create(log, order_level=order_level, **limit)
    positions = append(log, topic, 20)
    log.maintain(1000)
    assert [log.bounds(topic, partition).log_start_offset for partition in (0, 1, VIEW)] == [0, 0, 0]
    replicate(log, positions[10])
    log.maintain(1000)
    assert [log.bounds(topic, partition).log_start_offset for partition in (0, 1, VIEW)] == [5, 5, 10]
    replicate(log, EVERYTHING)
    log.maintain(1000)
    kept = 2 if by == "size" else 0
    assert [log.bounds(topic, partition).log_start_offset for partition in (0, 1)] == [10 - kept, 10 - kept]
    memory = create(log, "memory", order_level=order_level, memory=True, **limit)
    replicate(log, 0)
    append(log, memory, 20)
    log.maintain(1000)
    assert log.bounds(memory, 0).log_start_offset == 10 - kept


@pytest.mark.parametrize("again", [False, True])
def test_a_trim_moves_the_log_start_at_once_and_releases_when_it_may(log: Log, again: bool) -> None:
    replicate(log, 0)
    topic = create(log)
    positions = append(log, topic, 40, 60_000)
    full = driver.blocks_used(log)
    log.trim(topic, 0, 10)
    log.trim(topic, VIEW, 6)
    reader = driver.Reader(log)
    assert [log.bounds(topic, partition).log_start_offset for partition in (0, 1, VIEW)] == [10, 3, 7]
    assert [found.base_offset for found in reader.read_all(topic, VIEW)] == [*range(7, 20, 2), *range(20, 40)]
    assert [found.base_offset for found in reader.read_all(topic, 0)] == list(range(10, 20))
    assert log.size_bytes(topic, VIEW) == 60_000 * 27 == log.size_bytes(topic, 0) + log.size_bytes(topic, 1)
    log.maintain(0)
    assert driver.blocks_used(log) == full
    if again:
        log = attach_again(log)
        reader = driver.Reader(log)
        assert driver.blocks_used(log) >= full
        assert [found.base_offset for found in reader.read_all(topic, VIEW)] == [*range(7, 20, 2), *range(20, 40)]
        assert log.size_bytes(topic, VIEW) == 60_000 * 27
    replicate(log, positions[13])
    log.maintain(0)
    some = driver.blocks_used(log)
    assert some < full
    replicate(log, EVERYTHING)
    log.maintain(0)
    assert driver.blocks_used(log) <= some
    assert driver.idle_pages(log, topic) == []
    assert log.counters()["released_batches"] == 13
    assert [found.base_offset for found in reader.read_all(topic, VIEW)] == [*range(7, 20, 2), *range(20, 40)]
    log.close()


def test_a_deleted_topic_and_old_records_wait(log: Log) -> None:
    replicate(log, 0)
    topic, kept = create(log), create(log, "kept", memory=True)
    for number in range(100):
        topic = log.alter_topic(topic, settings=bytes([number]) * 1000)
    append(log, topic, 40, 60_000)
    append(log, kept, 40, 60_000)
    used = driver.blocks_used(log)
    log.delete_topic(topic)
    driver.settle(log)
    assert driver.blocks_used(log) >= used
    again = create(log)
    assert again.slot != topic.slot
    log.delete_topic(kept)
    driver.settle(log)
    assert driver.blocks_used(log) < used - 30
    log = attach_again(log)
    driver.settle(log)
    used = driver.blocks_used(log)
    replicate(log, EVERYTHING)
    driver.settle(log)
    assert driver.blocks_used(log) < used - 30
    assert driver.left_when_empty(log) == []
    log.close()


def test_the_order_ring_is_never_overwritten() -> None:
    with Log.create(size=64 << 20) as log:
        topic = create(log)
        bulk = driver.Bulk(log)
        replicate(log, 1000)
        room = lib.ORDER_RING_SLOTS + 1000
        assert set(bulk.append(topic, room - 1)["status"]) == {lib.STATUS_OK}
        assert log.frontiers().ordered == room
        assert set(bulk.append(topic, 10)["status"]) == {lib.STATUS_OUT_OF_MEMORY}
        replicate(log, 1004)
        assert list(bulk.append(topic, 5)["status"]) == [lib.STATUS_OK] * 4 + [lib.STATUS_OUT_OF_MEMORY]
        replicate(log, EVERYTHING)
        assert set(bulk.append(topic, lib.CHECKPOINT_BATCHES)["status"]) == {lib.STATUS_OK}


# -- visibility


@pytest.mark.parametrize("count", [1, 5, 40, 700])
def test_readers_see_what_is_durable_on_enough_directories(log: Log, count: int) -> None:
    driver.replicate(log, 0, 0)
    one, two, three = (create(log, str(number), replication=number) for number in (1, 2, 3))
    others = create(log, "memory", memory=True), create(log, "ordered", visible_when_ordered=True)
    topics = (one, two, three, *others)
    batches = [
        Batch(topic, number % 2, driver.payload(number, 100), records=3, max_timestamp=number)
        for number in range(count)
        for topic in topics
    ]
    positions = [answer.global_position for answer in driver.append(log, batches)]
    first, end = positions[0], positions[-1] + 1
    reader = driver.Reader(log)
    for frontier in {0, first, first + 1, first + len(topics) * (count // 2), end - 1, end, EVERYTHING}:
        driver.replicate(log, frontier, min(frontier, first + 5))
        for topic, seen in ((one, frontier), (two, min(frontier, first + 5)), (three, min(frontier, first + 5))):
            place = topics.index(topic)
            numbers = [number for number in range(count) if positions[len(topics) * number + place] < seen]
            check_visible(log, reader, topic, count, numbers)
        for topic in others:
            check_visible(log, reader, topic, count, list(range(count)))


def check_visible(log: Log, reader: driver.Reader, topic: Topic, count: int, seen: list[int]) -> None:
    for partition in (0, 1, VIEW):
        of_it = [number for number in range(count) if partition in (VIEW, number % 2)]
        visible = [number for number in of_it if number in seen]
        bounds = log.bounds(topic, partition)
        assert (bounds.next_offset, bounds.end_offset) == (3 * len(visible), 3 * len(of_it))
        payloads = [found.payload for found in reader.read_all(topic, partition)]
        assert payloads == [driver.payload(number, 100) for number in visible]
        assert log.available(topic, partition, 0) == 100 * len(visible)
        if len(of_it) > len(visible):
            result, found = reader.read(topic, partition, bounds.end_offset)
            assert (result.status, found, result.next_offset) == (lib.STATUS_OK, [], bounds.next_offset)
            assert log.available(topic, partition, bounds.end_offset) == 0
        latest = log.find_max_timestamp(topic, partition)
        assert (None if latest is None else latest.max_timestamp) == (max(visible) if visible else None)
        last = log.find_timestamp(topic, partition, of_it[-1]) if of_it else None
        assert (last is not None) == (bool(of_it) and of_it[-1] in seen)


def test_what_is_trimmed_before_it_was_seen(log: Log) -> None:
    driver.replicate(log, 0)
    topic = create(log)
    append(log, topic, 10)
    log.trim(topic, 0, 5)
    log.trim(topic, VIEW, 4)
    assert log.bounds(topic, 0) == (5, 5, 0, 5)
    assert log.bounds(topic, 1) == (2, 2, 0, 5)
    assert log.bounds(topic, VIEW) == (5, 5, 0, 10)
    driver.replicate(log, EVERYTHING)
    assert log.bounds(topic, VIEW) == (5, 10, 0, 10)


# -- eviction


def evicting(log: Log, **more: Any) -> tuple[Topic, list[int]]:
    topic = create(log, **more)
    return topic, append(log, topic, 60, 60_000)


def test_what_is_archived_leaves_memory_and_is_kept(log: Log) -> None:
    topic, positions = evicting(log)
    memory = create(log, "memory", memory=True)
    append(log, memory, 20, 60_000)
    replicate(log, EVERYTHING, archived=positions[30])
    used = driver.blocks_used(log)
    freed = lib.log_evict(log._core, 10_000)
    assert driver.blocks_used(log) == used - freed
    assert freed >= 20
    assert log.counters()["evicted_batches"] == 30
    assert lib.log_evict(log._core, 10_000) == 0
    check_evicted(log, topic, 30, 60)
    again = attach_again(log)
    check_evicted(again, topic, 30, 60)
    assert [found.base_offset for found in driver.Reader(again).read_all(memory, 0)] == list(range(10))
    replicate(again, EVERYTHING, archived=EVERYTHING)
    lib.log_evict(again._core, 10_000)
    check_evicted(again, topic, 60, 60)
    append(again, topic, 2, 60_000)
    check_evicted(again, topic, 60, 62)
    again.close()


def check_evicted(log: Log, topic: Topic, evicted: int, count: int) -> None:
    """`evicted` of so many batches, which are in two partitions in turn, are in the archive alone."""
    reader = driver.Reader(log)
    for partition, share in ((0, 2), (1, 2), (VIEW, 1)):
        bounds = log.bounds(topic, partition)
        assert bounds == (0, count // share, 0, count // share)
        assert log.size_bytes(topic, partition) == count // share * 60_000
        assert log.archived(topic, partition)
        for offset in range(count // share):
            result, found = reader.read(topic, partition, offset, 60_000)
            if offset < evicted // share:
                assert (result.status, result.log_start_offset, result.next_offset) == (
                    lib.STATUS_ON_DISK,
                    0,
                    bounds.next_offset,
                )
                assert log.available(topic, partition, offset) >= 1
            else:
                assert [batch.base_offset for batch in found] == [offset]
                assert log.available(topic, partition, offset) == (count // share - offset) * 60_000
        assert reader.read(topic, partition, count // share)[0].status == lib.STATUS_OK


def test_the_oldest_of_all_topics_goes_first(log: Log) -> None:
    replicate(log, 0)
    topics = [create(log, str(number)) for number in range(5)]
    for _ in range(20):
        for topic in topics:
            append(log, topic, 2, 60_000)
    replicate(log, EVERYTHING, EVERYTHING)
    lib.log_evict(log._core, 40)
    starts = [log._bounds(topic, VIEW).memory_start_offset for topic in topics]
    assert max(starts) - min(starts) <= 2
    assert min(starts) > 0


def test_a_full_log_makes_room_by_eviction(log: Log) -> None:
    """Four times what memory holds."""
    replicate(log, EVERYTHING, EVERYTHING)
    topic = create(log)
    reader = driver.Reader(log)
    for number in range(1000):
        payload = driver.payload(number, 60_000)
        assert driver.append_one(log, Batch(topic, 0, payload)).status == lib.STATUS_OK
        assert [found.payload for found in reader.read(topic, 0, number)[1]] == [payload]
    assert log.bounds(topic, 0) == (0, 1000, 0, 1000)
    assert log.size_bytes(topic, 0) == 60_000_000
    with log.reserve(8_000_000):
        pass
    log = attach_again(log)
    assert log.bounds(topic, 0) == (0, 1000, 0, 1000)
    assert driver.left_when_empty(log) == []
    log.close()


def test_small_batches_whose_index_fills_memory_are_evicted_too(log: Log) -> None:
    replicate(log, EVERYTHING, EVERYTHING)
    topic = create(log)
    bulk = driver.Bulk(log, 256)
    for _ in range(1000):
        assert set(bulk.append(topic, 256)["status"]) == {lib.STATUS_OK}
    assert log.bounds(topic, 0).next_offset == 256_000


def test_upkeep_keeps_an_eighth_free(log: Log) -> None:
    topic = create(log)
    while log.memory().blocks_free > log.memory().blocks_total // 16:
        append(log, topic, 2, 60_000)
    driver.settle(log)
    assert log.memory().blocks_free <= log.memory().blocks_total // 16
    replicate(log, EVERYTHING, EVERYTHING)
    driver.settle(log)
    assert log.memory().blocks_total // 8 <= log.memory().blocks_free < log.memory().blocks_total // 4


@pytest.mark.parametrize("order_level", [0, 5])
def test_retention_leaves_to_the_archive_what_it_keeps(log: Log, order_level: int) -> None:
    topic, positions = evicting(log, retention_ms=10, order_level=order_level)
    replicate(log, EVERYTHING, positions[30])
    lib.log_evict(log._core, 10_000)
    log.maintain(1000)
    assert [log.bounds(topic, partition).log_start_offset for partition in (0, 1, VIEW)] == [0, 0, 0]
    log.trim(topic, 0, 15)
    log.trim(topic, 1, 15)
    log.maintain(1000)
    assert [log.bounds(topic, partition).log_start_offset for partition in (0, 1, VIEW)] == [30, 30, 60]
    assert log.size_bytes(topic, VIEW) == log.size_bytes(topic, 0) == 0


# -- trims of what was evicted


@pytest.mark.parametrize("offset", [30, 31, 45, 60])
@pytest.mark.parametrize("by", ["partitions", "total order"])
def test_a_trim_above_what_was_evicted(log: Log, offset: int, by: str) -> None:
    topic, positions = evicting(log)
    replicate(log, EVERYTHING, positions[30])
    lib.log_evict(log._core, 10_000)
    starts = {0: (offset + 1) // 2, 1: offset // 2, VIEW: offset}
    if by == "partitions":
        log.trim(topic, 0, starts[0])
        assert log.archived(topic, VIEW)
        log.trim(topic, 1, starts[1])
    else:
        log.trim(topic, VIEW, offset)
    for _ in range(2):
        for partition, start in starts.items():
            assert log.bounds(topic, partition).log_start_offset == start
            assert log.size_bytes(topic, partition) == (60 // (1 if partition == VIEW else 2) - start) * 60_000
            assert not log.archived(topic, partition)
        log = attach_again(log)
    log.close()
