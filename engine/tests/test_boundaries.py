"""Every boundary of the layout is crossed, and every limit is met at the limit."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from totalog.engine import VIEW, LimitReached, Log, Topic
from totalog.engine._core import ffi, lib
from totalog.engine.tests import driver

MIB = 1 << 20


@pytest.fixture
def log() -> Iterator[Log]:
    with Log.create(size=256 * MIB) as log:
        yield log


def create(log: Log, name: str = "a", partitions: int = 1, number: int = 0, **more: Any) -> Topic:
    return log.create_topic(name, id=driver.topic_id(number), partitions=partitions, **more)


def found_again(log: Log, topic: Topic) -> Topic:
    again = log.find_topic(topic.name)
    assert again == topic
    return again


def control(log: Log) -> Any:
    return driver.peek_struct(log, lib.CONTROL_POSITION, "control")


# -- index pages


def test_index_pages_and_trees_of_them(tmp_path: Path) -> None:
    """Past one page (32 entries, 256 elements), one inner page (1,024 pages) of each index, and one of those."""
    counts = [31, 1, 1, 223, 1, 32 * 1024 - 257, 1, 1, 256 * 1024 - 32 * 1024 - 3, 1, 1, 1]
    with Log.create(tmp_path / "region", size=256 * MIB) as log:
        topic = create(log)
        bulk = driver.Bulk(log)
        total = 0
        for count in counts:
            appended = bulk.append(topic, count, max_timestamp=np.arange(total, total + count))
            assert (appended["status"] == lib.STATUS_OK).all()
            assert (appended["base_offset"] == np.arange(total, total + count)).all()
            total += count
            assert log.bounds(topic, 0).next_offset == log.bounds(topic, VIEW).next_offset == total
            for offset in {0, total // 2, max(total - 40, 0), total - 1}:
                check_from(log, topic, offset, min(total, offset + 100))
        assert total == 256 * 1024 + 2
        roots = {name: peek_root(log, topic, name) >> 32 for name in ("order", "partition")}
        assert roots == {"order": 2, "partition": 2}
    with Log.attach(tmp_path / "region") as log:
        topic = found_again(log, topic)
        for partition in (0, VIEW):
            offsets, numbers = driver.Numbers(log).read(topic, partition)
            assert (offsets == np.arange(total)).all()
            assert (numbers == np.arange(total)).all()
        for timestamp in (0, 31, 32, 33, 255, 256, 257, 32_767, 32_768, 32_769, 262_143, 262_144, 262_145):
            found = log.find_timestamp(topic, 0, timestamp)
            assert found is not None
            assert found.base_offset == timestamp
        assert log.find_timestamp(topic, 0, total) is None


def check_from(log: Log, topic: Topic, offset: int, end: int) -> None:
    reader = driver.Numbers(log, end - offset)
    for partition in (0, VIEW):
        target = reader.buffer.ctypes.data
        result = log.read(topic, partition, offset, target, reader.buffer.nbytes, batches=reader.batches)
        assert result.count == end - offset
        assert (reader.buffer == np.arange(offset, end)).all()


def peek_root(log: Log, topic: Topic, index: str) -> int:
    line = driver.topic_line(log, topic) if index == "order" else driver.partition_lines(log, topic)[0]
    return int(line.index_root)


@pytest.mark.parametrize("partition", [0, VIEW])
def test_pages_go_as_the_log_start_passes_them(log: Log, partition: int) -> None:
    create(log, "stays", number=1)
    before = driver.blocks_used(log)
    topic = create(log)
    bulk = driver.Bulk(log)
    total = 33 * 1024
    bulk.append(topic, total)
    full = driver.blocks_used(log)
    assert full - before > total * 200 // lib.BLOCK_SIZE
    for cut in (1, 31, 32, 33, 255, 256, 257, 20_000, 32_767, 32_768, 32_769, total - 1, total):
        log.trim(topic, partition, cut)
        assert driver.idle_pages(log, topic) == []
        offsets, numbers = driver.Numbers(log).read(topic, 0, cut)
        assert (offsets == np.arange(cut, total)).all()
        assert (numbers == np.arange(cut, total)).all()
    assert driver.blocks_used(log) - before <= lib.SEGMENT_BLOCKS_MAX, "the open segment, and one block of index pages"
    bulk.append(topic, 100)
    assert (driver.Numbers(log).read(topic, 0, total)[0] == np.arange(total, total + 100)).all()
    log.delete_topic(topic)
    driver.settle(log)
    assert driver.blocks_used(log) == before


def test_the_only_page_goes_with_its_last_entry(log: Log) -> None:
    topic = create(log)
    driver.Bulk(log).append(topic, 32)
    assert peek_root(log, topic, "order") >> 32 == 0
    log.trim(topic, 0, 31)
    assert peek_root(log, topic, "order") != 0
    log.trim(topic, 0, 32)
    assert peek_root(log, topic, "order") == 0
    assert (driver.Bulk(log).append(topic, 40)["base_offset"] == np.arange(32, 72)).all()
    assert (driver.Numbers(log).read(topic, VIEW, 32)[0] == np.arange(32, 72)).all()


def test_a_view_whose_end_was_trimmed(log: Log) -> None:
    """Nothing is available behind the last batch that is left, over pages that are gone and entries that are not."""
    topic = create(log, partitions=2)
    bulk = driver.Bulk(log)
    bulk.append(topic, 10)
    bulk.append(topic, 150, partition=1)
    log.trim(topic, 1, 150)
    assert log.bounds(topic, VIEW) == (0, 160, 0, 160)
    for offset in (10, 31, 32, 100, 159, 160):
        assert log.available(topic, VIEW, offset) == 0
        assert driver.Reader(log).read(topic, VIEW, offset)[1] == []
    bulk.append(topic, 3)
    for offset in (10, 31, 32, 100, 159, 160):
        assert log.available(topic, VIEW, offset) == 3 * 8
        found = driver.Reader(log).read(topic, VIEW, offset)[1]
        assert [batch.base_offset for batch in found] == [160, 161, 162]
    assert log.available(topic, VIEW, 9) == 154 * 8, "what was trimmed in between counts"


def test_entries_leave_out_pages_that_are_gone(log: Log) -> None:
    topic = create(log, partitions=2)
    bulk = driver.Bulk(log)
    bulk.append(topic, 200, partition=np.arange(200) % 2)
    bulk.append(topic, 200, partition=1)
    log.trim(topic, 1, log.bounds(topic, 1).next_offset)
    bulk.append(topic, 10, partition=0)
    table = log.entries(topic)
    assert table["total_order"][table["state"] == lib.ENTRY_LIVE].tolist() == [*range(0, 200, 2), *range(400, 410)]
    assert len(table) < 300


# -- segments


def test_segments_double_to_their_maximum() -> None:
    with Log.create(size=2 << 30) as log:
        topic = create(log)
        payload = bytes(1 * MIB)
        for _ in range(70):
            assert driver.append_one(log, driver.Batch(topic, 0, payload)).status == lib.STATUS_OK
        sizes = [count for _, kind, count, slot in driver.claimed_blocks(log) if (kind, slot) == (lib.BLOCK_SEGMENT, 1)]
        assert sorted(sizes) == [16, 32, 64, 128, *[lib.SEGMENT_BLOCKS_MAX] * 4]


def test_segments_start_at_one_block_and_stay_small_in_a_small_region() -> None:
    with Log.create(size=driver.SIZE_SMALL) as log:
        topic = create(log)
        for _ in range(40):
            assert driver.append_one(log, driver.Batch(topic, 0, bytes(20_000))).status == lib.STATUS_OK
        sizes = {count for _, kind, count, slot in driver.claimed_blocks(log) if (kind, slot) == (lib.BLOCK_SEGMENT, 1)}
        assert sizes == {1, 2, 4}


def test_a_batch_as_large_as_a_segment_and_larger(log: Log) -> None:
    topic = create(log)
    reader = driver.Reader(log, 40 * MIB)
    for number, size in enumerate((65_535, 65_536, 65_537, 16 * MIB, 16 * MIB + 1)):
        payload = driver.payload(number, size)
        assert driver.append_one(log, driver.Batch(topic, 0, payload)).base_offset == number
        assert [found.payload for found in reader.read(topic, 0, number)[1]] == [payload]


# -- rings


@pytest.mark.parametrize("group", [1, 999, 1024])
def test_the_batch_ring_wraps(tmp_path: Path, group: int) -> None:
    total = 2 * lib.RING_SLOTS + 17
    with Log.create(tmp_path / "region", size=64 * MIB) as log:
        topic = create(log)
        bulk = driver.Bulk(log, group, size=300)
        appended = bulk.append(topic, total)
        assert (appended["status"] == lib.STATUS_OK).all()
        assert (appended["base_offset"] == np.arange(total)).all()
        assert log.frontiers().written > total
    with Log.attach(tmp_path / "region") as log:
        topic = found_again(log, topic)
        assert (driver.Bulk(log).append(topic, 5)["base_offset"] == np.arange(total, total + 5)).all()


def test_a_group_larger_than_a_pass(log: Log) -> None:
    topic = create(log, partitions=3)
    bulk = driver.Bulk(log, 5000)
    appended = bulk.append(topic, 5000, partition=np.arange(5000) % 3)
    assert (appended["total_order"] == np.arange(5000)).all()
    assert (appended["base_offset"] == np.arange(5000) // 3).all()


def test_the_order_ring_wraps_and_producers_survive(tmp_path: Path) -> None:
    """Past 131,072 positions, with a snapshot of the producers each 65,536; a restart knows the duplicates."""
    topic, total = None, 0
    Log.create(tmp_path / "region", size=256 * MIB).close()
    for count in (65_000, 1000, 64_000, 3000, 66_000, 10):
        with Log.attach(tmp_path / "region") as log:
            topic = topic or create(log)
            first = total
            total += count
            sequences = {"producer_id": 9, "producer_epoch": 0, "base_sequence": np.arange(first, total)}
            appended = driver.Bulk(log).append(topic, count, **sequences)
            assert (appended["base_offset"] == np.arange(first, total)).all()
            known = control(log)
            assert known.ordered == total + 1
            assert known.order_trimmed == known.checkpoint
            assert known.ordered - known.checkpoint < lib.CHECKPOINT_BATCHES
        with Log.attach(tmp_path / "region") as log:
            again = driver.Bulk(log)
            last = np.arange(total - 5, total)
            answers = append_statuses(again, topic, producer_id=9, producer_epoch=0, base_sequence=last)
            assert answers == [(lib.STATUS_DUPLICATE, offset, offset, offset + 1) for offset in last.tolist()]
            gap = append_statuses(again, topic, producer_id=9, producer_epoch=0, base_sequence=np.array([total + 1]))
            assert gap[0][0] == lib.STATUS_OUT_OF_ORDER_SEQUENCE
    with Log.attach(tmp_path / "region") as log:
        assert topic is not None
        assert (driver.Numbers(log).read(topic, VIEW)[0] == np.arange(total)).all()


def empty_snapshot(position: int) -> bytes:
    """The header of a producer snapshot without producers, as the core writes it."""
    total = (position ^ 0) * 0x100000001B3 % 2**64
    checksum = (total ^ (total >> 32)) | 1
    return position.to_bytes(8, "little") + bytes(8) + checksum.to_bytes(8, "little") + bytes(40)


def test_snapshots_alternate_wherever_they_fall(tmp_path: Path) -> None:
    """The newest whole snapshot is never the one that is written over, even when passes overshoot the interval."""
    Log.create(tmp_path / "region", size=64 * MIB).close()
    start = 2 * lib.CHECKPOINT_BATCHES - 10
    areas = [lib.SNAPSHOT_POSITION, lib.SNAPSHOT_POSITION + lib.SNAPSHOT_SIZE]
    with (tmp_path / "region").open("r+b") as file:
        for field in ("ordered", "applied", "checkpoint", "order_trimmed"):
            file.seek(lib.CONTROL_POSITION + ffi.offsetof("struct control", field))
            file.write(start.to_bytes(8, "little"))
        file.seek(areas[1])
        file.write(empty_snapshot(start))
    with Log.attach(tmp_path / "region") as log:
        topic = create(log)
        driver.Bulk(log, 1000).append(topic, lib.CHECKPOINT_BATCHES + 1000)
        positions = [driver.peek_struct(log, area, "snapshot_header").position for area in areas]
        assert positions[1] == start
        assert start + lib.CHECKPOINT_BATCHES <= positions[0] == control(log).checkpoint
    Log.attach(tmp_path / "region").close()


def append_statuses(bulk: driver.Bulk, topic: Topic, **fields: Any) -> list[tuple[int, int, int, int]]:
    count = len(fields["base_sequence"])
    appended = bulk.append(topic, count, **fields)
    columns = ("status", "base_offset", "total_order", "global_position")
    return [tuple(int(each[column]) for column in columns) for each in appended]  # type: ignore[misc]


# -- producers


def test_the_producer_that_was_quiet_for_longest_is_forgotten(tmp_path: Path) -> None:
    extra = 500
    with Log.create(tmp_path / "region", size=256 * MIB) as log:
        topic = create(log)
        bulk = driver.Bulk(log)
        everyone = np.arange(lib.PRODUCERS_MAX)
        bulk.append(topic, len(everyone), producer_id=everyone, producer_epoch=0, base_sequence=0)
        refreshed = np.arange(100)
        bulk.append(topic, 100, producer_id=refreshed, producer_epoch=0, base_sequence=1)
        newcomers = lib.PRODUCERS_MAX + np.arange(extra)
        bulk.append(topic, extra, producer_id=newcomers, producer_epoch=0, base_sequence=0)
    for _ in range(2):  # as it is, and as a successor knows it
        with Log.attach(tmp_path / "region") as log:
            bulk = driver.Bulk(log)
            # A gap shows who is known; it stores nothing, so the order of use stays.
            probes = {"producer_epoch": 0, "base_sequence": 7}
            for producers, known in (
                (refreshed, True),
                (np.arange(100 + extra, 100 + extra + 50), True),
                (newcomers, True),
            ):
                appended = bulk.append(topic, len(producers), producer_id=producers, **probes)
                assert ((appended["status"] == lib.STATUS_OUT_OF_ORDER_SEQUENCE) == known).all()
    with Log.attach(tmp_path / "region") as log:
        forgotten = np.arange(100, 100 + extra)
        appended = driver.Bulk(log).append(topic, extra, producer_id=forgotten, producer_epoch=0, base_sequence=7)
        assert (appended["status"] == lib.STATUS_OK).all()


def test_one_producer_in_many_partitions_takes_many_places(log: Log) -> None:
    topic = create(log, partitions=1000)
    bulk = driver.Bulk(log)
    for sequence in (0, 1):
        fields = {"producer_id": 1, "producer_epoch": 0, "partition": np.arange(1000), "base_sequence": sequence}
        assert (bulk.append(topic, 1000, **fields)["status"] == lib.STATUS_OK).all()
    again = bulk.append(topic, 1000, **fields)
    assert (again["status"] == lib.STATUS_DUPLICATE).all()
    assert (again["base_offset"] == 1).all()


# -- topics and partitions


def test_topics_to_the_limit_and_one_more(tmp_path: Path) -> None:
    most = lib.TOPICS_MAX - 1
    with Log.create(tmp_path / "region", size=64 * MIB) as log:
        topics = [create(log, f"t{number}", number=number) for number in range(most)]
        assert len({topic.slot for topic in topics}) == most
        with pytest.raises(LimitReached, match=f"the region's limit of {most} topics is reached") as caught:
            create(log, "one more")
        assert (caught.value.limit_name, caught.value.limit) == ("topics", most)
        log.delete_topic(topics[77])
        again = create(log, "one more")
        assert again.slot == topics[77].slot
        assert again.generation == topics[77].generation + 1
        last = driver.append_one(log, driver.Batch(topics[-1], 0, b"last"))
        assert last.base_offset == 0
    with Log.attach(tmp_path / "region") as log:
        assert len(log.topics()) == most
        assert [found.payload for found in driver.Reader(log).read_all(topics[-1], 0)] == [b"last"]
        with pytest.raises(LimitReached):
            create(log, "and another")


def test_partitions_to_the_limit_and_one_more(tmp_path: Path) -> None:
    most = lib.PARTITIONS_MAX - 1
    with Log.create(tmp_path / "region", size=64 * MIB) as log:
        with pytest.raises(LimitReached, match=f"limit of {most} partitions"):
            create(log, partitions=most + 1)
        with pytest.raises(LimitReached, match=f"limit of {most} partitions"):
            create(log, partitions=2**32 - 1)
        topic = create(log, partitions=most - 10)
        topic = log.alter_topic(topic, partitions=most)
        with pytest.raises(LimitReached, match=f"limit of {most} partitions"):
            log.alter_topic(topic, partitions=most + 1)
        with pytest.raises(LimitReached, match=f"limit of {most} partitions"):
            create(log, "b")
        for partition in (0, most - 1):
            assert driver.append_one(log, driver.Batch(topic, partition, b"%d" % partition)).base_offset == 0
        unknown = driver.append_one(log, driver.Batch(topic, most, b"x"))
        assert unknown.status == lib.STATUS_UNKNOWN_TOPIC
    with Log.attach(tmp_path / "region") as log:
        topic = found_again(log, topic)
        assert [found.payload for found in driver.Reader(log).read_all(topic, most - 1)] == [b"%d" % (most - 1)]
        assert log.bounds(topic, 5) == (0, 0, 0, 0)
        log.delete_topic(topic)
        driver.settle(log)
        again = create(log, "b", partitions=most)
        assert log.bounds(again, most - 1) == (0, 0, 0, 0)


def test_a_topic_grows_around_others_in_pieces(tmp_path: Path) -> None:
    pieces = lib.EXTENTS_MAX
    with Log.create(tmp_path / "region", size=64 * MIB) as log:
        topic = create(log, "grows")
        others = []
        for number in range(pieces - 1):
            others.append(create(log, f"other{number}", number=number))
            topic = log.alter_topic(topic, partitions=topic.partitions + 2)
        others.append(create(log, "the last"))
        with pytest.raises(LimitReached, match=f"limit of {pieces} extensions of one topic"):
            log.alter_topic(topic, partitions=topic.partitions + 1)
        numbers = [partition for partition in range(topic.partitions) for _ in range(partition + 1)]
        for partition in numbers:
            assert driver.append_one(log, driver.Batch(topic, partition, b"%d" % partition)).status == lib.STATUS_OK
        for other in others:
            assert log.bounds(other, 0) == (0, 0, 0, 0)
    with Log.attach(tmp_path / "region") as log:
        topic = found_again(log, topic)
        reader = driver.Reader(log)
        for partition in range(topic.partitions):
            payloads = [found.payload for found in reader.read_all(topic, partition)]
            assert payloads == [b"%d" % partition] * (partition + 1)
        # What stood behind the last piece goes: it grows in place again, up to the next one.
        log.delete_topic(others[-1])
        driver.settle(log)
        topic = log.alter_topic(topic, partitions=topic.partitions + 100)
        assert driver.append_one(log, driver.Batch(topic, topic.partitions - 1, b"x")).base_offset == 0


def test_one_topic_fills_the_gaps_of_many(log: Log) -> None:
    """Rows of deleted topics are used again, in pieces, and no row belongs to two."""
    topics = [create(log, f"t{number}", partitions=3, number=number) for number in range(30)]
    for topic in topics[::2]:
        log.delete_topic(topic)
    driver.settle(log)
    # The largest run is behind the last topic: all of it, so that only the gaps are left.
    tail = create(log, "tail", partitions=lib.PARTITIONS_MAX - 1 - 30 * 3)
    wide = create(log, "wide", partitions=3 * (lib.EXTENTS_MAX - 2))
    kept = [*topics[1::2], tail, wide]
    places = [(topic, partition) for topic in kept for partition in {0, 1, 2, topic.partitions - 1}]
    for topic, partition in places:
        assert driver.append_one(log, driver.Batch(topic, partition, b"x")).base_offset == 0, (topic.name, partition)
    with pytest.raises(LimitReached, match="partitions"):
        create(log, "no", partitions=10)


@pytest.mark.parametrize("name", ["n" * 255, "ä" * 127])
def test_names_to_the_limit(log: Log, name: str) -> None:
    topic = create(log, name)
    assert [found.name for found in log.topics()] == [name]
    with pytest.raises(LimitReached, match="limit of 255 bytes of a topic name"):
        create(log, name + "nn")
    log.delete_topic(topic)


def test_settings_to_the_limit(tmp_path: Path) -> None:
    most = lib.SETTINGS_SIZE_MAX
    with Log.create(tmp_path / "region", size=64 * MIB) as log:
        topic = create(log, settings=driver.payload(7, most))
        with pytest.raises(LimitReached, match=f"limit of {most} bytes of topic settings"):
            log.alter_topic(topic, settings=bytes(most + 1))
        with pytest.raises(LimitReached, match=f"limit of {most} bytes of topic settings"):
            create(log, "b", settings=bytes(most + 1))
        for number in range(100):  # records that were replaced go
            topic = log.alter_topic(topic, settings=driver.payload(number, most))
        assert sum(count for _, kind, count, slot in driver.claimed_blocks(log) if slot == 0 and kind == 1) <= 32
    with Log.attach(tmp_path / "region") as log:
        assert found_again(log, topic).settings == driver.payload(99, most)


def test_a_reservation_to_the_limit() -> None:
    most = lib.RUN_BLOCKS_MAX * lib.BLOCK_SIZE
    with (
        Log.create(size=256 * MIB) as log,
        pytest.raises(LimitReached, match=f"limit of {most} bytes in one reservation"),
    ):
        log.reserve(most + 1)


# -- pins


def test_more_segments_are_read_than_can_be_pinned(log: Log) -> None:
    topic = create(log)
    pins = []
    for number in range(lib.PINS_MAX):
        append = driver.append_one(log, driver.Batch(topic, 0, driver.payload(number, 60_000)))
        assert append.status == lib.STATUS_OK
    segments = [block for block, kind, _, slot in driver.claimed_blocks(log) if (kind, slot) == (lib.BLOCK_SEGMENT, 1)]
    for _ in range(lib.PINS_MAX):
        pins.append(lib.core_pin(log._core, segments[0]))
    assert sorted(pins) == list(range(lib.PINS_MAX))
    assert lib.core_pin(log._core, segments[0]) == -1
    expected = [driver.payload(number, 60_000) for number in range(lib.PINS_MAX)]
    assert [found.payload for found in driver.Reader(log, 8 * MIB).read_all(topic, 0)] == expected
    for pin in pins:
        lib.core_unpin(log._core, pin)
    assert lib.core_pin(log._core, segments[0]) == 0
