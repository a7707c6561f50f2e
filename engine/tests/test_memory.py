"""Memory that runs out, comes back, and is never written over."""

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from totalog.engine import VIEW, Log, OutOfMemory, Topic
from totalog.engine._core import lib
from totalog.engine.tests import driver
from totalog.engine.tests.driver import Batch

KIB = 1 << 10
MIB = 1 << 20


@pytest.fixture
def log() -> Iterator[Log]:
    with Log.create(size=driver.SIZE_SMALL) as log:
        yield log


def create(log: Log, name: str = "a", number: int = 0, **more: Any) -> Topic:
    return log.create_topic(name, id=driver.topic_id(number), partitions=2, **more)


def fill(log: Log, topic: Topic, size: int = 20_000) -> list[bytes]:
    """Appends to partition 0 until no batch fits; what was stored."""
    stored: list[bytes] = []
    for number in range(1_000_000):
        payload = driver.payload(number, size)
        answer = driver.append_one(log, Batch(topic, 0, payload, max_timestamp=number))
        if answer.status == lib.STATUS_OUT_OF_MEMORY:
            assert (answer.base_offset, answer.total_order, answer.global_position) == (-1, -1, -1)
            return stored
        assert answer.status == lib.STATUS_OK
        assert answer.base_offset == len(stored)
        stored.append(payload)
    raise AssertionError("memory never ran out")


def read_all(log: Log, topic: Topic, partition: int = 0) -> list[bytes]:
    return [found.payload for found in driver.Reader(log, 32 * MIB).read_all(topic, partition)]


def test_a_full_log_refuses_and_keeps_what_it_has(log: Log) -> None:
    topic = create(log)
    stored = fill(log, topic)
    assert log.memory().blocks_free < 4
    for _ in range(100):
        answers = driver.append(log, [Batch(topic, 1, bytes(70_000)), Batch(topic, 0, bytes(70_000))])
        assert {answer.status for answer in answers} == {lib.STATUS_OUT_OF_MEMORY}
    with pytest.raises(OutOfMemory, match="no run of blocks for 1000000 bytes is free"):
        log.reserve(1_000_000)
    assert log.counters()["out_of_memory"] > 100
    assert log.counters()["rejected_batches"] == 201
    assert read_all(log, topic) == read_all(log, topic, VIEW) == stored
    assert log.bounds(topic, 1) == (0, 0, 0, 0)


@pytest.mark.parametrize("size", [8, 20_000])
def test_deleting_works_when_full_and_service_returns(log: Log, size: int) -> None:
    """With batches of 8 bytes, index pages take most of the memory and run out first."""
    topic = create(log)
    stored = fill_small(log, topic) if size == 8 else len(fill(log, topic, size))
    assert driver.left_when_empty(log) == []
    again = create(log)
    stored_again = fill_small(log, again) if size == 8 else len(fill(log, again, size))
    assert stored_again >= stored * 0.95


def fill_small(log: Log, topic: Topic) -> int:
    bulk = driver.Bulk(log, 256)
    first = total = log.bounds(topic, VIEW).next_offset
    while True:
        appended = bulk.append(topic, 256, partition=np.arange(256) % 2)
        stored = int((appended["status"] == lib.STATUS_OK).sum())
        assert set(appended["status"]) <= {lib.STATUS_OK, lib.STATUS_OUT_OF_MEMORY}
        total += stored
        assert log.bounds(topic, VIEW).next_offset == total
        if stored == 0:
            return total - first


def test_creating_a_topic_when_full(log: Log) -> None:
    fill_small(log, create(log))
    topics = []
    with pytest.raises(OutOfMemory, match="no free block is left, and nothing may be freed"):
        for number in range(1, 4000):
            topics.append(
                log.create_topic(str(number), id=driver.topic_id(number), partitions=1, settings=bytes(20_000))
            )
    assert [topic.name for topic in log.topics()] == ["a", *[topic.name for topic in topics]]
    for topic in topics:
        log.delete_topic(topic)


def test_trims_and_deletions_never_run_out_of_memory(log: Log) -> None:
    """Their records take little, and go; the reserve is for them."""
    topic = create(log)
    others = [create(log, f"other{number}", number) for number in range(5)]
    count = fill_small(log, topic)
    for _ in range(1000):
        log.trim(topic, 0, 0)
    for other in others:
        log.delete_topic(other)
    log.trim(topic, VIEW, count)
    assert fill_small(log, topic) > count * 0.9


def test_retention_makes_room(log: Log) -> None:
    """A topic with a limit larger than the memory fills it; with a smaller limit the log never fills."""
    topic = create(log, retention_bytes=2 * MIB)
    expected = [driver.payload(number, 20_000) for number in range(2000)]
    for number, payload in enumerate(expected):
        answer = driver.append_one(log, Batch(topic, 0, payload))
        assert (answer.status, answer.base_offset) == (lib.STATUS_OK, number)
    start = log.bounds(topic, 0).log_start_offset
    assert read_all(log, topic) == expected[start:]
    assert 4 * MIB <= log.size_bytes(topic, 0) < 4 * MIB + 20_000, "retention.bytes of each of two partitions"
    assert log.counters()["out_of_memory"] == 0


def test_a_full_log_finds_what_retention_may_take(log: Log) -> None:
    """A lower limit frees nothing by itself; the append that needs memory has retention look again."""
    topic = create(log)
    stored = fill(log, topic)
    topic = log.alter_topic(topic, retention_bytes=1 * MIB)
    answer = driver.append_one(log, Batch(topic, 0, bytes(70_000)))
    assert answer.status == lib.STATUS_OK
    start = log.bounds(topic, 0).log_start_offset
    assert read_all(log, topic) == [*stored[start:], bytes(70_000)]


def test_time_makes_room(log: Log) -> None:
    topic = create(log)
    stored = fill(log, topic)
    topic = log.alter_topic(topic, retention_ms=100)
    driver.settle(log, now_ms=100 + len(stored) // 2)
    assert log.bounds(topic, 0).log_start_offset == len(stored) // 2
    assert read_all(log, topic) == stored[len(stored) // 2 :]
    answer = driver.append_one(log, Batch(topic, 0, bytes(70_000), max_timestamp=10**6))
    assert answer.status == lib.STATUS_OK


def test_what_a_reader_pins_is_not_used_again(log: Log) -> None:
    topic = create(log)
    stored = fill(log, topic)
    oldest = int(log.entries(topic)[0]["segment"])
    header = driver.peek_struct(log, 0, "region_header")
    position = header.blocks_position + oldest * lib.BLOCK_SIZE
    assert driver.peek(log, position, 20_000) == stored[0]
    pin = lib.core_pin(log._core, oldest)
    assert pin >= 0
    log.trim(topic, VIEW, len(stored))
    driver.settle(log)
    assert log.counters()["pinned_releases"] > 0
    # It is filled again, more than once; the pinned block keeps its bytes.
    for _ in range(3):
        fill(log, topic := replaced(log, topic), 30_000)
        assert driver.peek(log, position, 20_000) == stored[0]
    lib.core_unpin(log._core, pin)
    driver.settle(log)
    fill(log, replaced(log, topic), 30_000)
    assert driver.peek(log, position, 20_000) != stored[0]


def replaced(log: Log, topic: Topic) -> Topic:
    log.delete_topic(topic)
    driver.settle(log)
    return create(log)


def test_ten_thousand_bodies_that_end_half_way() -> None:
    with Log.create(size=64 * MIB) as log:
        before = driver.blocks_used(log)
        half = bytes(512 * KIB)
        for number in range(10_000):
            with log.reserve(MIB) as reservation:
                if number % 50 == 0:
                    reservation.buffer[: len(half)] = half
                else:
                    reservation.buffer[512 * KIB - 1] = 7
        assert driver.blocks_used(log) == before
        assert log.counters()["out_of_memory"] == 0


def test_bodies_beside_each_other(log: Log) -> None:
    """Open reservations keep apart; what was appended of one stays when it is closed, the rest goes."""
    topic = create(log)
    before = driver.blocks_used(log)
    open_ones = [log.reserve(100_000) for _ in range(20)]
    for number, reservation in enumerate(open_ones):
        reservation.buffer[:] = driver.payload(number, 100_000)
    for number, reservation in enumerate(open_ones):
        if number % 2:
            payload = driver.payload(number, 90_000)
            batch = Batch(topic, 0, payload, reservation=reservation)
            assert driver.append_one(log, batch).status == lib.STATUS_OK
    for reservation in reversed(open_ones):
        reservation.close()
        reservation.close()
    assert read_all(log, topic) == [driver.payload(number, 90_000) for number in range(1, 20, 2)]
    log.trim(topic, 0, 10)
    assert driver.blocks_used(log) <= before + 1, "an index block"


def test_two_batches_of_one_body(log: Log) -> None:
    topic = create(log)
    used = driver.blocks_used(log)
    with log.reserve(200_000) as reservation:
        reservation.buffer[:1000] = driver.payload(1, 1000)
        reservation.buffer[150_000:151_000] = driver.payload(2, 1000)
        batches = [
            Batch(topic, 0, driver.payload(1, 1000), reservation=reservation),
            Batch(topic, 1, driver.payload(2, 1000), reservation=reservation, position=150_000),
        ]
        assert [answer.status for answer in driver.append(log, batches)] == [lib.STATUS_OK] * 2
    assert (read_all(log, topic, 0), read_all(log, topic, 1)) == ([driver.payload(1, 1000)], [driver.payload(2, 1000)])
    log.trim(topic, 0, 1)
    assert read_all(log, topic, 1) == [driver.payload(2, 1000)], "the run stays for its second batch"
    log.trim(topic, 1, 1)
    assert driver.blocks_used(log) <= used + 1


def test_a_body_is_released_while_it_is_still_open(log: Log) -> None:
    topic = create(log)
    used = driver.blocks_used(log)
    reservation = log.reserve(100_000)
    batch = Batch(topic, 0, bytes(1000), reservation=reservation)
    assert driver.append_one(log, batch).status == lib.STATUS_OK
    log.trim(topic, 0, 1)
    log.delete_topic(topic)
    driver.settle(log)
    assert driver.blocks_used(log) >= used + 2, "the caller may still append from it"
    reservation.close()
    assert driver.blocks_used(log) <= used + 1


def test_a_duplicate_body_goes_back(log: Log) -> None:
    topic = create(log)
    batch = driver.with_sequence(Batch(topic, 0, bytes(1000)), 1, 0, 0)
    assert driver.append_one(log, batch).status == lib.STATUS_OK
    used = driver.blocks_used(log)
    with log.reserve(100_000) as reservation:
        again = driver.append_one(log, driver.in_reservation(batch, reservation, 0))
        assert (again.status, again.base_offset) == (lib.STATUS_DUPLICATE, 0)
    assert driver.blocks_used(log) == used


def test_a_reservation_that_is_dropped_goes_back(log: Log) -> None:
    used = driver.blocks_used(log)
    for _ in range(10):
        with pytest.warns(ResourceWarning, match="a reservation of 1000000 bytes was dropped, not closed"):
            log.reserve(1_000_000)
    assert driver.blocks_used(log) == used


def test_reservations_end_with_the_log() -> None:
    log = Log.create(size=driver.SIZE_SMALL)
    reservation = log.reserve(100_000)
    log.close()
    with pytest.raises(ValueError, match="released memoryview"):
        reservation.buffer[0]
    reservation.close()


def test_a_size_limit_beyond_everything_is_none(log: Log) -> None:
    topic = log.create_topic("endless", id=driver.topic_id(9), partitions=4, retention_bytes=1 << 62)
    fill(log, topic, 200_000)
    assert log.bounds(topic, VIEW).log_start_offset == 0
    assert log.bounds(topic, VIEW).next_offset > 0
