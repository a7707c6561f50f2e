"""What each stage of the engine costs, in one process, on warm and recycled memory.

The peer in the same run is a plain memcpy of as many bytes between buffers of the same size.
"""

import mmap
import os
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass

from totalog.engine import VIEW, Log, Topic
from totalog.engine._core import ffi, lib
from totalog.engine._core_long import ffi as long_ffi
from totalog.engine._core_long import lib as long_lib
from totalog.engine.region import Region

ROUNDS = 7
"""Medians of at least five."""
MIB = 1 << 20
RETAINED = 64 * MIB


@dataclass(frozen=True, slots=True)
class Cost:
    """Seconds for each of some operations, one value per round."""

    name: str
    seconds: list[float]


@dataclass(frozen=True, slots=True)
class Stage:
    """A kind of operation, warmed up. `measure`: seconds for each of some, once a round."""

    name: str
    measure: Callable[[], float]


class Workload:
    """A topic with retention, so that memory is used again, and a group of batches to append to it."""

    def __init__(self, log: Log, name: str, size: int, count: int) -> None:
        self.log = log
        self.size = size
        self.count = count
        self.topic: Topic = log.create_topic(
            name, id=os.urandom(16), partitions=4, retention_bytes=max(RETAINED // 4, size)
        )
        self.group = log.group(count)
        self._payload = ffi.from_buffer(bytes(size))

    def append(self) -> None:
        source, topic = int(ffi.cast("uintptr_t", self._payload)), self.topic
        for index in range(self.count):
            append = self.group[index]
            append.source, append.size, append.segment = source, self.size, 0
            append.topic_slot, append.topic_generation, append.partition = topic.slot, topic.generation, index % 4
            append.record_count, append.last_offset_delta, append.base_sequence = 1, 0, -1
            append.producer_id, append.max_timestamp, append.status = -1, 0, lib.STATUS_OK
        self.log.append(self.group, self.count)
        assert self.group[self.count - 1].status == lib.STATUS_OK

    def filling_s(self) -> float:
        """Of which the filling of the descriptions in Python, measured alone: it is not the log's."""
        log, self.log = self.log, _Nothing()  # type: ignore[assignment]
        self.group[self.count - 1].status = lib.STATUS_OK
        try:
            return _timed(self.append, 200)
        finally:
            self.log = log


class _Nothing:
    def append(self, group: object, count: int) -> None:
        return


def _timed(action: Callable[[], object], repeats: int) -> float:
    """Seconds per call."""
    began = time.perf_counter()
    for _ in range(repeats):
        action()
    return (time.perf_counter() - began) / repeats


def _appends(log: Log, name: str, size: int, count: int, repeats: int) -> Stage:
    """Publishing and ordering, per batch."""
    workload = Workload(log, name.replace(" ", "-"), size, count)
    _timed(workload.append, repeats)
    filling = workload.filling_s()
    return Stage(name, lambda: max(_timed(workload.append, repeats) - filling, 0.0) / count)


def _reads(log: Log, size: int) -> Stage:
    workload = Workload(log, "reads", 16 * 1024, 64)
    workload.append()
    room = ffi.from_buffer(bytearray(size))
    batches = log.read_batches(256)

    def read() -> None:
        target = int(ffi.cast("uintptr_t", room))
        result = log.read(workload.topic, VIEW, 0, target, size, batches=batches)
        assert result.size == size

    return Stage(f"read {size // 1024} KiB in total order", lambda: _timed(read, 50))


def memcpy(size: int) -> Stage:
    source, target = bytearray(size), bytearray(size)
    view = memoryview(target)

    def copy() -> None:
        view[:] = source

    return Stage(f"memcpy {size // 1024} KiB", lambda: _timed(copy, 50))


def _allocations(log: Log, threads: int, policy: str = "shared") -> Stage:
    """One claim and the free of it, per thread."""
    core = long_ffi.cast("struct log *", int(ffi.cast("uintptr_t", log._core)))
    claims, taken = long_ffi.new("uint64_t *"), long_ffi.new("double *")

    def race() -> float:
        assert long_lib.core_bitmap_race(core, threads, 100_000, 1, 0, claims, taken) == 0
        return float(taken[0]) / 1e9

    return Stage(f"claim and free a block, {policy}, {threads} thread{'s' if threads > 1 else ''}", race)


def _publishes(log: Log, size: int, count: int) -> Stage:
    """Publishing alone, per batch; what was published is ordered and collected outside of the time."""
    workload = Workload(log, "publishes", size, count)
    workload.append()

    def publish() -> float:
        times = []
        for _ in range(200):
            began = time.perf_counter()
            lib.log_publish(log._core, workload.group._appends, count)
            times.append(time.perf_counter() - began)
            lib.log_sequence(log._core, 0)
            assert lib.log_collect(log._core, workload.group._appends, count) == 0
        return statistics.median(times) / count

    return Stage(f"publish {size} B in a group of {count}", publish)


class Ring:
    """Published headers of 100-byte batches, written as a broker would: a pass over them is the sequencer alone."""

    def __init__(self, log: Log, count: int) -> None:
        self.log = log
        self.count = count
        self.topic = log.create_topic("passes", id=os.urandom(16), partitions=4)
        self.reservation = log.reserve(count * 128)
        self.written = log.frontiers().written
        self.map = mmap.mmap(log.region.descriptor, log.region.size)
        self.header = ffi.new("struct batch_header *")

    def publish(self) -> None:
        size, header, topic = ffi.sizeof("struct batch_header"), self.header, self.topic
        header.kind, header.topic_slot, header.topic_generation = lib.HEADER_BATCH, topic.slot, topic.generation
        header.segment, header.size, header.record_count, header.producer_id = self.reservation.segment, 100, 1, -1
        for index in range(self.count):
            header.turn = (self.written + 1) % 2**32
            header.partition, header.segment_position = index % topic.partitions, index * 128
            position = lib.BATCH_RING_POSITION + self.written % lib.RING_SLOTS * size
            self.map[position : position + size] = bytes(ffi.buffer(header))
            self.written += 1
        position = lib.BROKER_TABLE_POSITION + ffi.offsetof("struct broker_entry", "written")
        self.map[position : position + 8] = self.written.to_bytes(8, "little")

    def pass_s(self) -> float:
        self.publish()
        began = time.perf_counter()
        handled = lib.log_sequence(self.log._core, 0)
        taken = time.perf_counter() - began
        assert handled == self.count
        return taken


def _passes(coherent: bool, count: int) -> Cost:
    """A sequencer pass alone, per header. The log is one of its own: its ring goes on without it."""
    log = Log.create(size=256 * MIB, coherent=coherent)
    ring = Ring(log, count)
    seconds = [statistics.median(ring.pass_s() for _ in range(100)) / count for _ in range(ROUNDS)]
    ring.map.close()
    log.close()
    return Cost(f"sequencer pass of {count}, per header", seconds)


def _attach(coherent: bool, batches: int) -> Cost:
    """A start on a log that holds so many batches."""
    log = Log.create(size=512 * MIB, coherent=coherent)
    workload = Workload(log, "attach", 8, 1000)
    workload.topic = log.create_topic("kept", id=os.urandom(16), partitions=4)
    workload.append()
    for _ in range(
        batches // workload.count - 1
    ):  # the answered group is as good as filled: its statuses are STATUS_OK
        log.append(workload.group, workload.count)
    descriptor, size = os.dup(log.region.descriptor), log.region.size
    log.close()
    seconds = []
    for _ in range(ROUNDS):
        began = time.perf_counter()
        with Log(Region(os.dup(descriptor), size, None)) as log:
            seconds.append(time.perf_counter() - began)
            assert log.bounds(log.topics()[-1], VIEW).next_offset == batches
    os.close(descriptor)
    return Cost(f"attach of {batches:,} batches", seconds)


def costs(coherent: bool) -> list[Cost]:
    """All of them, in one mode of memory. Stages of one log take turns, round after round."""
    alone = [_passes(coherent, 1), _passes(coherent, 64), _attach(coherent, 1_000_000)]
    with (
        Log.create(size=1 << 30, coherent=coherent) as log,
        Log.create(size=256 * MIB, coherent=coherent, ranges=4) as partitioned,
    ):
        stages = [
            _allocations(log, 1),
            _allocations(partitioned, 1, "partitioned"),
            _allocations(log, 2),
            _allocations(partitioned, 2, "partitioned"),
            _publishes(log, 100, 64),
            _appends(log, "append 100 B, alone", 100, 1, 2000),
            _appends(log, "append 100 B, in a group of 64", 100, 64, 200),
            _appends(log, "append 16 KiB, alone", 16 * 1024, 1, 1000),
            _appends(log, "append 1 MiB, alone", MIB, 1, 100),
            memcpy(MIB),
            _reads(log, MIB),
        ]
        rounds = [[stage.measure() for stage in stages] for _ in range(ROUNDS)]
    return alone + [Cost(stage.name, list(of)) for stage, of in zip(stages, zip(*rounds, strict=True), strict=True)]
