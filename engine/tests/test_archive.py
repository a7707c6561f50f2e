"""The archive says what memory said: by offset, total order and timestamp, over many files, and when files go."""

import errno
import mmap
import random
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from totalog.engine import VIEW, Log, Topic
from totalog.engine._core_long import ffi, lib
from totalog.engine.tests import driver
from totalog.engine.tests.stores import LOG_ID, Store


@pytest.fixture(params=[True, False], ids=["coherent", "noncoherent"])
def log(request: pytest.FixtureRequest) -> Iterator[Log]:
    with Log.create(size=driver.SIZE_SMALL, coherent=request.param) as log:
        yield log


@pytest.fixture
def store(log: Log, tmp_path: Path) -> Iterator[Store]:
    store = Store(log, [tmp_path])
    yield store
    store.close()


def fill(log: Log, topics: list[Topic], count: int, seed: int, size_max: int = 3000) -> list[driver.Batch]:
    """Batches of random sizes, records and timestamps for random partitions."""
    print(f"seed {seed}")
    chance = random.Random(seed)
    batches = []
    for number in range(count):
        topic = chance.choice(topics)
        content = driver.payload(seed << 32 | number, chance.choice([1, 70, chance.randrange(1, size_max)]))
        batches.append(
            driver.Batch(
                topic,
                chance.randrange(topic.partitions),
                content,
                records=chance.randrange(1, 5),
                max_timestamp=chance.randrange(10_000),
                flags=chance.randrange(1 << 16),
            )
        )
        assert driver.append_one(log, batches[-1]).status == lib.STATUS_OK
    return batches


def logs_of(topics: list[Topic]) -> list[tuple[Topic, int]]:
    return [(topic, partition) for topic in topics for partition in [VIEW, *range(topic.partitions)]]


def position_of(topic: Topic, partition: int) -> tuple[int, int, int]:
    return topic.slot, topic.generation, partition & 0xFFFFFFFF


def find_timestamp(store: Store, topic: Topic, partition: int, timestamp: int | None) -> tuple[Any, ...] | None:
    found = ffi.new("struct batch_at *")
    at = position_of(topic, partition)
    if timestamp is None:
        status = lib.archive_find_max_timestamp(store.archive(), *at, found)
    else:
        status = lib.archive_find_timestamp(store.archive(), *at, timestamp, found)
    assert status in (lib.STATUS_OK, lib.STATUS_OFFSET_OUT_OF_RANGE)
    if status != lib.STATUS_OK:
        return None
    return found.base_offset, found.size, found.max_timestamp, found.leader_epoch, found.flags


def failure_of(store: Store) -> Any:
    failure = ffi.new("struct archive_failure *")
    lib.archive_why(store.archive(), failure)
    return failure


def test_it_reads_what_memory_reads(log: Log, store: Store) -> None:
    topics = [log.create_topic(name, id=driver.topic_id(i), partitions=1 + 3 * i) for i, name in enumerate("ab")]
    fill(log, topics, 600, seed=1)
    store.run_all()
    store.rotate()
    assert len(store.files()) > 5
    reader = driver.Reader(log)
    for topic, partition in logs_of(topics):
        assert store.read_all(topic, partition) == reader.read_all(topic, partition)
        end = log.bounds(topic, partition).next_offset
        for offset in range(0, end + 2, 7):
            for size, whole in ((1 << 20, True), (5000, True), (100, False)):
                said, found = store.read(topic, partition, offset, size) if whole else (None, [])
                if said is None:
                    continue
                expected, there = reader.read(topic, partition, offset, size)
                assert (said.status, said.size, said.size_needed) == (
                    expected.status,
                    expected.size,
                    expected.size_needed,
                )
                assert found == there
                assert (said.log_start_offset, said.next_offset) == (expected.log_start_offset, expected.next_offset)


def test_only_what_is_archived_is_read(log: Log, store: Store) -> None:
    topic = log.create_topic("a", id=driver.topic_id(0), partitions=1)
    fill(log, [topic], 20, seed=2)
    store.run_all()
    assert store.read_all(topic, 0) == []
    assert store.read_all(topic, VIEW) == []
    store.rotate()
    before = store.read_all(topic, 0)
    assert len(before) == 20
    fill(log, [topic], 20, seed=3)
    store.run_all()
    assert store.read_all(topic, 0) == before
    assert store.read(topic, 0, log.bounds(topic, 0).end_offset + 1)[0].status == lib.STATUS_OFFSET_OUT_OF_RANGE


def test_nothing_is_read_beyond_the_end_that_the_region_says(log: Log, store: Store) -> None:
    """Replicas follow what is ordered, and the sequencer writes the lines of topics and partitions behind it."""
    topic = log.create_topic("a", id=driver.topic_id(0), partitions=1)
    fill(log, [topic], 20, seed=2)
    store.run_all()
    store.rotate()
    topic_size = ffi.sizeof("struct topic_entry") + lib.BROKERS_MAX * ffi.sizeof("struct topic_counter")
    topic_at = lib.TOPIC_TABLE_POSITION + topic.slot * topic_size
    row = driver.topic_line(log, topic).extents[0].first
    row_at = lib.PARTITION_TABLE_POSITION + row * ffi.sizeof("struct partition_entry")
    with mmap.mmap(log.region.descriptor, log.region.size) as region:
        for partition, word_at in (
            (VIEW, topic_at + ffi.offsetof("struct topic_entry", "next_total_order")),
            (0, row_at + ffi.offsetof("struct partition_entry", "next_offset")),
        ):
            whole = store.read_all(topic, partition)
            (end,) = struct.unpack_from("=Q", region, word_at)
            assert end == log.bounds(topic, partition).next_offset
            for written in range(end + 1):
                struct.pack_into("=Q", region, word_at, written)
                found = store.read_all(topic, partition)
                assert found == whole[: len(found)]
                assert len(found) == len(whole) if written == end else len(found) < len(whole)
                assert store.read(topic, partition, written)[0].next_offset == written
        assert store.read_all(topic, 0) == driver.Reader(log).read_all(topic, 0)


def test_large_bodies_and_small_ones_side_by_side(log: Log, store: Store) -> None:
    topic = log.create_topic("a", id=driver.topic_id(0), partitions=2)
    for number, size in enumerate([10, 70_000, 500, 65_536, 65_535, 200_000, 30] * 3):
        driver.append_one(log, driver.Batch(topic, number % 2, driver.payload(number, size)))
    store.run_all()
    store.rotate()
    reader = driver.Reader(log)
    for partition in (VIEW, 0, 1):
        assert store.read_all(topic, partition) == reader.read_all(topic, partition)


def test_timestamps(log: Log, store: Store) -> None:
    topics = [log.create_topic("a", id=driver.topic_id(0), partitions=3)]
    fill(log, topics, 400, seed=4)
    store.run_all()
    store.rotate()
    for topic, partition in logs_of(topics):
        for timestamp in [*range(0, 10_100, 97), None]:
            expected = (
                log.find_max_timestamp(topic, partition)
                if timestamp is None
                else log.find_timestamp(topic, partition, timestamp)
            )
            assert find_timestamp(store, topic, partition, timestamp) == expected, (partition, timestamp)


def test_what_was_trimmed_is_not_read(log: Log, store: Store) -> None:
    topic = log.create_topic("a", id=driver.topic_id(0), partitions=3)
    fill(log, [topic], 300, seed=5)
    log.trim(topic, 1, log.bounds(topic, 1).end_offset // 2)
    log.trim(topic, VIEW, log.bounds(topic, VIEW).end_offset // 4)
    log.trim(topic, 2, log.bounds(topic, 2).end_offset // 2)
    store.run_all()
    store.rotate()
    reader = driver.Reader(log)
    for partition in (VIEW, 0, 1, 2):
        assert store.read_all(topic, partition) == reader.read_all(topic, partition)
        start = log.bounds(topic, partition).log_start_offset
        assert store.read(topic, partition, start - 1)[0].status == lib.STATUS_OFFSET_OUT_OF_RANGE
        assert find_timestamp(store, topic, partition, 0) == log.find_timestamp(topic, partition, 0)
    log.delete_topic(topic)
    assert store.read(topic, 0, 100)[0].status == lib.STATUS_UNKNOWN_TOPIC


def test_footers_are_loaded_and_let_go(log: Log, store: Store) -> None:
    topics = [log.create_topic("a", id=driver.topic_id(0), partitions=4)]
    fill(log, topics, 500, seed=6)
    store.run_all()
    store.rotate()
    lib.archive_bound(store.archive(), 5000)
    reader = driver.Reader(log)
    for topic, partition in logs_of(topics):
        assert store.read_all(topic, partition, batches_max=3) == reader.read_all(topic, partition)


def test_available_bytes(log: Log, store: Store) -> None:
    topics = [log.create_topic("a", id=driver.topic_id(0), partitions=2)]
    fill(log, topics, 200, seed=7)
    store.run_all()
    store.rotate()
    for topic, partition in logs_of(topics):
        for offset in range(0, log.bounds(topic, partition).end_offset, 5):
            said = lib.archive_available(store.archive(), *position_of(topic, partition), offset)
            assert said == log.available(topic, partition, offset)


def test_a_flipped_bit_is_told(log: Log, store: Store) -> None:
    topic = log.create_topic("a", id=driver.topic_id(0), partitions=1)
    batches = fill(log, [topic], 100, seed=8)
    store.run_all()
    store.rotate()
    whole = store.read_all(topic, 0)
    path = store.files()[1]
    content = bytearray(path.read_bytes())
    damaged = next(i for i in range(20, 100) if len(batches[i].payload) > 64 and batches[i].payload in content)
    at = content.index(batches[damaged].payload)
    content[at + 10] ^= 4
    path.write_bytes(content)
    store.close_archives()
    said, found = store.read(topic, 0, whole[damaged].base_offset)
    assert (said.status, found) == (lib.STATUS_ARCHIVE_FAILED, [])
    failure = failure_of(store)
    assert (failure.saved_errno, failure.damaged) == (errno.EILSEQ, 1)
    assert f"journal-{failure.file:020}.log" == path.name
    assert failure.byte == at - ffi.sizeof("struct journal_record")
    # What stands before it is read.
    _, found = store.read(topic, 0, whole[damaged - 3].base_offset)
    assert found == whole[damaged - 3 : damaged]
    # The same in a footer.
    content[at + 10] ^= 4
    content[-ffi.sizeof("struct journal_trailer") - 20] ^= 1
    path.write_bytes(content)
    store.close_archives()
    assert store.read(topic, 0, whole[damaged].base_offset)[0].status == lib.STATUS_ARCHIVE_FAILED
    assert failure_of(store).damaged == 1


def cut(store: Store, topic: Topic, partition: int, now_ms: int) -> int:
    offset = ffi.new("int64_t *")
    assert lib.archive_cut(store.archive(), *position_of(topic, partition), now_ms, offset) == lib.STATUS_OK
    return int(offset[0])


def test_retention_cuts_where_memory_would(log: Log, store: Store) -> None:
    plain = log.create_topic("plain", id=driver.topic_id(0), partitions=3)
    loose = log.create_topic("loose", id=driver.topic_id(1), partitions=2, order_level=0)
    fill(log, [plain, loose], 400, seed=9)
    store.run_all()
    store.rotate()
    kept = 20_000
    for topic, partition in [(plain, VIEW), (loose, 0), (loose, 1)]:
        assert cut(store, topic, partition, 1 << 40) == -1
        size = log.size_bytes(topic, partition)
        assert size > kept * topic.partitions
    plain, loose = (log.alter_topic(topic, retention_bytes=kept) for topic in (plain, loose))
    said = {where: cut(store, *where, -1) for where in [(plain, VIEW), (loose, 0), (loose, 1)]}
    rows = {where: trim_rows(store, *where, offset) for where, offset in said.items()}
    store.run_all()
    driver.settle(log)
    for (topic, partition), offset in said.items():
        assert log.bounds(topic, partition).log_start_offset == offset
    for (topic, partition), moved in rows.items():
        for number, start, size in moved:
            line = driver.partition_lines(log, topic)[number]
            assert (line.log_start_offset, line.bytes_released) == (start, size)
        assert len(moved) == (topic.partitions if partition == VIEW else 1)


def trim_rows(store: Store, topic: Topic, partition: int, offset: int) -> list[tuple[int, int, int]]:
    """(partition, log start, bytes)."""
    rows = ffi.new("struct trim_row[]", 64)
    count = lib.archive_trim_rows(store.archive(), *position_of(topic, partition), offset, rows, 64)
    assert count >= 0
    return [(row.partition, row.log_start_offset, row.bytes) for row in rows[0:count]]


def test_retention_by_time(log: Log, store: Store) -> None:
    topic = log.create_topic("a", id=driver.topic_id(0), partitions=2, retention_ms=100)
    for number in range(100):
        driver.append_one(log, driver.Batch(topic, number % 2, driver.payload(number, 900), max_timestamp=number))
    store.run_all()
    store.rotate()
    assert cut(store, topic, VIEW, 100) == -1
    assert cut(store, topic, VIEW, 160) == 60
    driver.settle(log, 160)
    assert log.bounds(topic, VIEW).log_start_offset == 60


def test_dead_files_are_emptied_then_removed(log: Log, store: Store) -> None:
    topic = log.create_topic("a", id=driver.topic_id(0), partitions=1)
    other = log.create_topic("b", id=driver.topic_id(1), partitions=1)
    fill(log, [topic], 400, seed=10)
    fill(log, [other], 1, seed=11)
    store.run_all()
    store.rotate()
    count = len(store.files())
    assert drop(store) == 0
    assert len(store.files()) == count
    kept = store.read_all(other, 0)
    last = store.read_all(topic, 0)[-1]
    log.trim(topic, 0, last.base_offset)
    store.run_all()
    drop(store)  # asks for a new file, whose checkpoint will say so
    assert store.run() == lib.RUN_IDLE
    assert drop(store) > 50_000
    sizes = [path.stat().st_size for path in store.files()]
    assert sizes.count(lib.JOURNAL_HEADER_SIZE) == len(sizes) - 2  # all but the one in hand and one with what is kept
    store.verify()
    assert store.read_all(topic, 0) == [last]
    assert store.read_all(other, 0) == kept
    store.rotate()  # its header says that they may be missing
    drop(store)
    assert store.files()[0].stat().st_size > lib.JOURNAL_HEADER_SIZE
    assert len(store.files()) <= 4
    store.verify()
    assert store.read_all(topic, 0) == [last]
    assert store.read_all(other, 0) == kept


def test_a_deleted_topic_leaves_no_files(log: Log, store: Store) -> None:
    topic = log.create_topic("a", id=driver.topic_id(0), partitions=1)
    fill(log, [topic], 150, seed=12)
    store.run_all()
    log.delete_topic(topic)
    store.run_all()
    for _ in range(3):
        drop(store)
        store.run_all()
    drop(store)
    assert len(store.files()) <= 3
    assert sum(path.stat().st_size for path in store.files()) < 40_000
    store.verify()


def test_another_archive_removes_files_meanwhile(log: Log, store: Store) -> None:
    topic = log.create_topic("a", id=driver.topic_id(0), partitions=1)
    fill(log, [topic], 150, seed=13)
    store.run_all()
    store.rotate()
    whole = store.read_all(topic, 0)
    reading = lib.archive_open(store.core, store.descriptors[0], LOG_ID)
    first, store.archives[0] = store.archives[0], reading
    assert store.read_all(topic, 0) == whole
    log.trim(topic, 0, whole[-2].base_offset)
    store.archives[0] = first
    for _ in range(3):
        store.rotate()
        drop(store)
    store.archives[0] = reading
    assert store.read_all(topic, 0) == whole[-2:]
    lib.archive_close(reading)
    store.archives[0] = first


def drop(store: Store) -> int:
    freed = int(lib.archive_drop(store.archive(), store.replicas, 0))
    assert freed >= 0, (failure_of(store).saved_errno, failure_of(store).file)
    return freed


def test_what_was_evicted_is_read_from_the_archive(log: Log, store: Store) -> None:
    """Far more than memory holds is appended; what memory says and what the archive says join."""
    topic = log.create_topic("a", id=driver.topic_id(0), partitions=3)
    expected: dict[int, list[driver.Found]] = {VIEW: [], 0: [], 1: [], 2: []}
    refused = 0
    for number in range(500):
        batch = driver.Batch(topic, number % 3, driver.payload(number, 60_000), records=2)
        answer = driver.append_one(log, batch)
        if answer.status == lib.STATUS_OUT_OF_MEMORY:
            refused += 1
            store.run_all()
            store.rotate()
            answer = driver.append_one(log, batch)
        assert answer.status == lib.STATUS_OK
        expected[batch.partition].append(driver.Found(answer.base_offset, 0, batch.payload))
        expected[VIEW].append(driver.Found(answer.total_order, 0, batch.payload))
    assert refused > 0
    store.run_all()
    reader = driver.Reader(log)
    for partition, batches in expected.items():
        assert log.archived(topic, partition)
        found: list[driver.Found] = []
        while len(found) < len(batches):
            offset = found[-1].base_offset + 2 if found else 0
            said, some = reader.read(topic, partition, offset)
            if said.status == lib.STATUS_ON_DISK:
                said, some = store.read(topic, partition, offset)
            assert said.status == lib.STATUS_OK
            assert some
            found += some
        assert found == batches
