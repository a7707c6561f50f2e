"""What data directories cost: a replica's pass, reading from the archive, and a region made anew from the journal.

    python -m totalog.engine.bench.store [folder]

Peers in the same run: a memcpy, a plain file with as many bytes, and reading the journal's files themselves. Without a
folder the files lie in memory (/dev/shm), so that no disk is measured.
"""

import os
import statistics
import sys
import tempfile
import time
from pathlib import Path

from totalog.engine import VIEW, Log, Topic
from totalog.engine._core_long import ffi, lib
from totalog.engine.bench.stages import ROUNDS, Cost, Workload, memcpy
from totalog.engine.tests import driver
from totalog.engine.tests.stores import Store, core_of

MIB = 1 << 20
FILE_SIZE = 64 * MIB
PASS_SIZE = 128 * MIB
"""Bytes of payload that wait for one pass, or stand in the archive."""
TOPICS, PARTITIONS, PRODUCERS = 1000, 10_000, lib.PRODUCERS_MAX


def _pass(folder: Path, size: int) -> Cost:
    """A replica's pass with its sync, per byte of payload."""
    with Log.create(size=1 << 30) as log:
        store = Store(log, [folder], file_size=FILE_SIZE)
        workload = Workload(log, f"pass-{size}", size, max(min(512, PASS_SIZE // size), 1))
        workload.topic = log.create_topic("kept", id=os.urandom(16), partitions=4, retention_bytes=16 * MIB)
        seconds, count = [], min(PASS_SIZE // size, lib.ORDER_RING_SLOTS // 2) // workload.count
        for _ in range(ROUNDS + 1):
            for _ in range(count):
                workload.append()
            began = time.perf_counter()
            assert store.run() == lib.RUN_IDLE
            seconds.append((time.perf_counter() - began) / (count * workload.count * size))
            log.maintain(-1)
        store.close()
    return Cost(f"replica pass, {size:,} B", seconds[1:])


def _write(folder: Path) -> Cost:
    """As many bytes into a new file, 1 MiB at once, then one fdatasync: the peer of a pass."""
    content, seconds = bytes(range(256)) * (MIB // 256), []
    for number in range(ROUNDS):
        began = time.perf_counter()
        with open(folder / str(number), "xb", buffering=0) as file:
            for _ in range(PASS_SIZE // MIB):
                file.write(content)
            os.fdatasync(file.fileno())
        seconds.append((time.perf_counter() - began) / PASS_SIZE)
    return Cost("write and fdatasync of a file, 1024 KiB at once", seconds)


def _archive(folder: Path, size: int, partition: int) -> tuple[Cost, Cost]:
    """Reading all of one partition of four, or of the total order, per byte; and reading the files."""
    room = MIB
    with Log.create(size=1 << 30) as log:
        store = Store(log, [folder], file_size=FILE_SIZE)
        workload = Workload(log, "archive", size, max(min(512, PASS_SIZE // size), 1))
        workload.topic = log.create_topic("kept", id=os.urandom(16), partitions=4)
        for _ in range(min(PASS_SIZE // size, lib.ORDER_RING_SLOTS // 2) // workload.count):
            workload.append()
        store.run_all()
        store.rotate()
        reading = [_read_all(store, workload.topic, partition, room) for _ in range(ROUNDS + 1)]
        peer = [_read_files(store.files(), room) for _ in range(ROUNDS + 1)]
        store.close()
    name = "total order" if partition == VIEW else "one partition of four"
    return (
        Cost(f"archive read of {name}, {size:,} B", reading[1:]),
        Cost(f"the same files, {room // 1024} KiB at once", peer[1:]),
    )


def _read_all(store: Store, topic: Topic, partition: int, size_max: int) -> float:
    room, batches = ffi.new("uint8_t[]", size_max), ffi.new("struct read_batch[]", 16384)
    result, archive = ffi.new("struct read_result *"), store.archive()
    address, described = (int(ffi.cast("uintptr_t", pointer)) for pointer in (room, batches))
    where = (topic.slot, topic.generation, partition & 0xFFFFFFFF)
    offset, size, began = 0, 0, time.perf_counter()
    while True:
        lib.archive_read(archive, *where, offset, address, size_max, True, described, 16384, result)
        assert result.status == lib.STATUS_OK
        if result.count == 0:
            break
        offset = batches[result.count - 1].base_offset + 1
        size += result.size
    return (time.perf_counter() - began) / size


def _read_files(paths: list[Path], size_max: int) -> float:
    room, size, began = memoryview(bytearray(size_max)), 0, time.perf_counter()
    for path in paths:
        with open(path, "rb", buffering=0) as file:
            while count := file.readinto(room):
                size += count
    return (time.perf_counter() - began) / size


def _restore(folder: Path) -> list[Cost]:
    """Opening a sealed journal, and making a region from it."""
    with Log.create(size=512 * MIB) as log:
        store = Store(log, [folder], file_size=FILE_SIZE)
        count = PARTITIONS // TOPICS
        topics = [
            log.create_topic(f"t{i}", id=driver.topic_id(i), partitions=count, settings=bytes(200))
            for i in range(TOPICS)
        ]
        store.run_all()
        for number in range(PRODUCERS // 512):
            driver.append(log, [_by_producer(topics, number * 512 + i) for i in range(512)])
        store.run_all()
        store.close(seal=True)
    opening, restoring, attaching = [], [], []
    for _ in range(ROUNDS):
        with Log.create(size=512 * MIB) as log:
            store = Store.__new__(Store)
            store.folders, store.file_size, store.reports = [folder], FILE_SIZE, [ffi.new("struct journal_report *")]
            store.descriptors = [os.open(folder, os.O_RDONLY | os.O_DIRECTORY)]
            began = time.perf_counter()
            journal = store.open_journal(0)
            opened = time.perf_counter()
            core = core_of(log)
            assert lib.restore_region(core, journal) == lib.OPEN_OK
            restored = time.perf_counter()
            assert lib.journal_begin(journal) == 0
            attached = time.perf_counter()
            opening.append(opened - began)
            restoring.append(restored - opened)
            attaching.append(attached - restored)
            assert len(log.topics()) == TOPICS
            lib.journal_close(journal)
            os.close(store.descriptors[0])
    what = f"{TOPICS:,} topics, {PARTITIONS:,} partitions, {PRODUCERS:,} producers"
    return [
        Cost(f"open the journal: {what}", opening),
        Cost("restore the region", restoring),
        Cost("begin the next file", attaching),
    ]


def _by_producer(topics: list[Topic], number: int) -> driver.Batch:
    topic = topics[number % len(topics)]
    batch = driver.Batch(topic, number // len(topics) % topic.partitions, b"eight by")
    return driver.with_sequence(batch, number, 0, 0)


def main(folder: str | None) -> None:
    def fresh() -> "tempfile.TemporaryDirectory[str]":
        return tempfile.TemporaryDirectory(dir=folder or "/dev/shm")

    copy = memcpy(MIB)
    costs = [Cost(copy.name, [copy.measure() for _ in range(ROUNDS)])]
    with fresh() as place:
        costs.append(_write(Path(place)))
    for size in (1024, 16 * 1024, MIB):
        with fresh() as place:
            costs.append(_pass(Path(place), size))
    for size, partition in ((1024, 0), (1024, VIEW), (16 * 1024, 0), (16 * 1024, VIEW), (MIB, 0)):
        with fresh() as place:
            costs += _archive(Path(place), size, partition)
    for cost in costs:
        middle = statistics.median(cost.seconds)
        scale = MIB if cost.name.startswith("memcpy") else 1
        print(f"{cost.name:<50} {scale / middle / 1e6:>9,.0f} MB/s")
    with fresh() as place:
        for cost in _restore(Path(place)):
            print(f"{cost.name:<75} {statistics.median(cost.seconds) * 1e3:>9.1f} ms")


if __name__ == "__main__":
    main(sys.argv[1] if len(sys.argv) > 1 else None)
