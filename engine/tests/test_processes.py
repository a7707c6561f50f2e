"""Many processes on one region: they append, one of them orders, others read; and any of them is killed.

Values are unique, so what was acknowledged can be held against what is there by linear scans. What was ordered is
checked from a process of its own, the test's, which has joined the log as well.
"""

import json
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

import numpy as np
import numpy.typing as npt
import pytest

from totalog.engine import VIEW, Log, RegionInUse, Topic
from totalog.engine._core import ffi, lib
from totalog.engine.shared import SharedLog
from totalog.engine.tests.process_worker import ACK, BATCH, MARK, READY

WORKER = Path(__file__).with_name("process_worker.py")
SIZE = 64 << 20
ACKS = np.dtype(
    {
        "names": ["writer", "number", "slot", "partition", "global_position", "total_order", "base_offset", "status"],
        "formats": ["<u4", "<u4", "<u4", "<u4", "<i8", "<i8", "<i8", "<i4"],
        "itemsize": ACK.size,
    }
)
BROKER_POINTS = (
    lib.FAIL_CLAIMED,
    lib.FAIL_COPIED,
    lib.FAIL_HEADERS,
    lib.FAIL_WRITTEN,
    lib.FAIL_RETURNED,
    lib.FAIL_PINNED,
)
SEQUENCER_POINTS = (
    lib.FAIL_ENTRIES,
    lib.FAIL_ORDERED,
    lib.FAIL_LINES,
    lib.FAIL_COMPLETIONS,
    lib.FAIL_COMPLETED,
    lib.FAIL_CLAIMED,
)


class Process:
    """One worker. It is ready when this returns."""

    def __init__(self, role: str, path: Path, **options: object) -> None:
        command = [sys.executable, str(WORKER), role, str(path), json.dumps(options)]
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE)
        assert self.output.readline() == READY

    @property
    def output(self) -> IO[bytes]:
        assert self.process.stdout is not None
        return self.process.stdout

    def wait_for(self, line: bytes) -> None:
        assert self.output.readline() == line

    def rest(self, ending: int = 0) -> bytes:
        """What it told until its end, which must be as expected."""
        said = self.output.read()
        assert self.process.wait(60) == ending
        self.output.close()
        return said

    def end(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()
        self.output.close()


class World:
    """A region, and the processes on it."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.processes: list[Process] = []

    def start(self, role: str, **options: object) -> Process:
        process = Process(role, self.path, **options)
        self.processes.append(process)
        return process

    def appender(self, writer: int, topics: list[str], groups: int, **options: object) -> Process:
        defaults: dict[str, object] = {"fail_at": 0, "healthy": -1, "size": 1000, "producer_id": -1}
        defaults |= {"reserved": 0, "reads": False}
        return self.start("append", writer=writer, topics=topics, limit=groups, **(defaults | options))

    def sequencer(self, fail_at: int = 0, healthy: int = 0) -> Process:
        return self.start("sequence", fail_at=fail_at, healthy=healthy)

    def end(self) -> None:
        for process in self.processes:
            process.end()


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    made = World(tmp_path / "region")
    yield made
    made.end()


def make(world: World, topics: dict[str, int], **options: Any) -> None:
    with Log.create(world.path, size=SIZE) as log:
        for number, (name, partitions) in enumerate(topics.items()):
            log.create_topic(name, id=bytes([number]) * 16, partitions=partitions, **options)


@contextmanager
def joined(world: World) -> Iterator[SharedLog]:
    with SharedLog.join(world.path) as log:
        yield log


def acks_of(said: bytes) -> npt.NDArray[np.void]:
    """A process that was killed may have told its last one in part."""
    return np.frombuffer(said[: len(said) // ACK.size * ACK.size], dtype=ACKS)


def payloads(log: Log, topic: Topic) -> npt.NDArray[np.void]:
    """(writer, number, partition, base offset, total order) of every batch, read in total order."""
    room = bytearray(4 << 20)
    address = int(ffi.cast("uintptr_t", ffi.from_buffer(room)))
    batches = log.read_batches(4096)
    bounds = log.bounds(topic, VIEW)
    offset, rows = bounds.log_start_offset, []
    while offset < bounds.next_offset:
        result = log.read(topic, VIEW, offset, address, len(room), batches=batches)
        assert result.status == lib.STATUS_OK
        assert result.count > 0
        at = 0
        for index in range(result.count):
            mark, writer, number = BATCH.unpack_from(room, at)
            assert mark == MARK
            assert batches[index].base_offset == offset
            rows.append((writer, number, offset))
            at, offset = at + batches[index].size, offset + 2
    return np.array(rows, dtype=[("writer", "u4"), ("number", "u4"), ("total_order", "i8")])


def check(log: Log, topics: list[Topic], acks: npt.NDArray[np.void]) -> None:
    """Both orders are dense, nothing is there twice, each acknowledged batch is where its acknowledgement says."""
    assert set(acks["status"].tolist()) <= {lib.STATUS_OK}
    assert len(np.unique(acks["global_position"])) == len(acks)
    for topic in topics:
        entries = log.entries(topic)
        assert (np.diff(entries["total_order"]) == 2).all()
        assert (np.diff(entries["global_position"].astype(np.int64)) > 0).all()
        for partition in range(topic.partitions):
            offsets = entries["base_offset"][entries["partition"] == partition]
            assert (offsets == np.arange(len(offsets)) * 2).all()
        stored = payloads(log, topic)
        assert len(np.unique(stored[["writer", "number"]])) == len(stored), "nothing twice"
        assert (stored["total_order"] == entries["total_order"]).all()
        told = acks[acks["slot"] == topic.slot]
        places = np.searchsorted(entries["total_order"], told["total_order"].astype(np.uint64))
        assert (places < len(entries)).all(), "nothing acknowledged is lost"
        assert (stored["writer"][places] == told["writer"]).all()
        assert (stored["number"][places] == told["number"]).all()
        assert (entries["base_offset"][places] == told["base_offset"]).all()
        assert (entries["global_position"][places] == told["global_position"]).all()
        for writer in np.unique(stored["writer"]):
            for partition in range(topic.partitions):
                mine = stored["number"][(stored["writer"] == writer) & (entries["partition"] == partition)]
                assert (np.diff(mine.astype(np.int64)) > 0).all(), "a writer's order is kept"


def topics_of(log: Log, *names: str) -> list[Topic]:
    found = [log.find_topic(name) for name in names]
    return [topic for topic in found if topic is not None]


def test_four_append_one_sequences_two_read_and_a_fifth_comes_later(world: World) -> None:
    make(world, {"a": 3, "b": 1, "c": 2})
    names, groups = ["a", "b", "c"], 60
    world.sequencer().wait_for(b"took over\n")
    writers = [world.appender(writer, names, groups) for writer in range(4)]
    in_all = 4 * groups * 8 // 3
    readers = [world.start("read", topic="a", partition=VIEW, until=in_all) for _ in range(2)]
    acks = np.concatenate([acks_of(writer.rest()) for writer in writers])
    assert len(acks) == 4 * groups * 8
    said = {reader.rest() for reader in readers}
    assert len(said) == 1, "two readers see the same order"
    late = world.start("read", topic="a", partition=VIEW, until=in_all)
    assert late.rest() in said
    with joined(world) as log:
        check(log, topics_of(log, *names), acks)


@pytest.mark.parametrize("point", BROKER_POINTS)
def test_an_appender_is_killed_at_a_step_of_publishing(world: World, point: int) -> None:
    make(world, {"a": 2, "b": 2})
    world.sequencer().wait_for(b"took over\n")
    with joined(world) as log:
        before = log.memory().blocks_free
        other = world.appender(0, ["a", "b"], 40)
        killed = [
            world.appender(
                writer, ["a", "b"], 1000, fail_at=point, healthy=writer, size=40_000, reserved=200_000, reads=True
            )
            for writer in (1, 2, 3)
        ]
        acks = [acks_of(each.rest(-signal.SIGKILL)) for each in killed]
        acks.append(acks_of(other.rest()))
        assert len(acks[-1]) == 40 * 8, "nobody waited for the dead"
        check(log, topics_of(log, "a", "b"), np.concatenate(acks))
        for topic in topics_of(log, "a", "b"):
            log.delete_topic(topic)
        wait_for_free(world, log, before)


def wait_for_free(world: World, log: SharedLog, wanted: int) -> None:
    """The sequencer's process buries and sweeps between headers: each operation gives it the next occasion."""
    for _ in range(400):
        if log.memory().blocks_free >= wanted:
            return
        topic = log.create_topic("occasion", id=bytes(16), partitions=1)
        log.delete_topic(topic)
    assert log.memory().blocks_free >= wanted


def test_appenders_are_killed_at_any_moment(world: World) -> None:
    make(world, {"a": 2}, retention_bytes=1 << 20)
    world.sequencer().wait_for(b"took over\n")
    with joined(world) as log:
        (topic,) = topics_of(log, "a")
        before = log.memory().blocks_free
        for writer in range(12):
            killed = world.appender(writer, ["a"], 100_000, reserved=100_000, reads=True)
            killed.output.read(ACK.size * (1 + 37 * writer % 100))
            killed.process.kill()
            assert killed.process.wait() == -signal.SIGKILL
            killed.output.close()
        log.delete_topic(topic)
        wait_for_free(world, log, before)


def test_a_stopped_appender_holds_up_nobody_and_goes_on(world: World) -> None:
    make(world, {"a": 2})
    world.sequencer().wait_for(b"took over\n")
    stopped = world.appender(1, ["a"], 200)
    first = stopped.output.read(ACK.size)
    stopped.process.send_signal(signal.SIGSTOP)
    other = acks_of(world.appender(2, ["a"], 50).rest())
    assert len(other) == 50 * 8
    stopped.process.send_signal(signal.SIGCONT)
    acks = acks_of(first + stopped.rest())
    assert len(acks) == 200 * 8
    with joined(world) as log:
        check(log, topics_of(log, "a"), np.concatenate([other, acks]))


@pytest.mark.parametrize("point", SEQUENCER_POINTS)
def test_another_sequencer_takes_over_at_a_step_of_ordering(world: World, point: int) -> None:
    make(world, {"a": 2, "b": 3})
    first = world.sequencer(fail_at=point, healthy=500)
    first.wait_for(b"took over\n")
    second = world.sequencer()
    writers = [world.appender(writer, ["a", "b"], 120, producer_id=100 + writer) for writer in range(3)]
    first.rest(-signal.SIGKILL)
    second.wait_for(b"took over\n")
    acks = [acks_of(writer.rest()) for writer in writers]
    assert [len(each) for each in acks] == [120 * 8] * 3
    with joined(world) as log:
        check(log, topics_of(log, "a", "b"), np.concatenate(acks))


def test_twenty_take_overs_under_load(world: World) -> None:
    make(world, {"a": 2})
    world.sequencer().wait_for(b"took over\n")
    current = world.processes[-1]
    writers = [world.appender(writer, ["a"], 1500, size=200, producer_id=7 + writer) for writer in range(2)]
    said = [b"", b""]
    for _ in range(20):
        successor = world.sequencer()
        said = [before + writer.output.read(ACK.size * 40) for before, writer in zip(said, writers, strict=True)]
        current.process.kill()
        successor.wait_for(b"took over\n")
        current = successor
    acks = [acks_of(before + writer.rest()) for before, writer in zip(said, writers, strict=True)]
    with joined(world) as log:
        check(log, topics_of(log, "a"), np.concatenate(acks))


def test_a_sequencer_that_lives_is_not_replaced(world: World) -> None:
    make(world, {"a": 1})
    world.sequencer().wait_for(b"took over\n")

    with joined(world) as log, pytest.raises(RegionInUse):
        log.take_over()
