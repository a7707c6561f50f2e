"""Worker processes on one region, for tests, and the order checker over what they said and what is there."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import IO, Any, NamedTuple

import numpy as np
import numpy.typing as npt

from totalog.engine import VIEW, Log, Topic
from totalog.engine._core import ffi, lib
from totalog.engine.check import History, Numbers, Seen, Told, judge
from totalog.engine.check.histories import agree
from totalog.engine.check.pages import judge_pages, seen
from totalog.engine.check.reading import read_heads
from totalog.engine.shared import SharedLog
from totalog.engine.tests.process_worker import ACK, GROUP, MARK, READY, SPAN

WORKER = Path(__file__).with_name("process_worker.py")
SIZE = 64 << 20
RANGES = 8
"""Of blocks, where each broker claims in one of its own."""
DEADLINE = 100
"""Seconds after which a process is taken to hang."""
PER_WRITER = 1 << 20
"""More than any writer appends: what tells one writer's batches from another's."""
ACKS = np.dtype(
    {
        "names": [
            *("writer", "number", "slot", "partition", "global_position", "total_order", "base_offset", "status"),
            *("sent_ns", "answered_ns"),
        ],
        "formats": ["<u4", "<u4", "<u4", "<u4", "<i8", "<i8", "<i8", "<i4", "<i8", "<i8"],
        "offsets": [0, 4, 8, 12, 16, 24, 32, 40, 48, 56],
        "itemsize": ACK.size,
    }
)
HEAD = np.dtype([("mark", "<u8"), ("writer", "<u4"), ("number", "<u4")])
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


def until(condition: Callable[[], bool]) -> None:
    """Polls: what is waited for happens in other processes, or threads."""
    deadline = time.monotonic() + DEADLINE
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.001)


class Process:
    """One worker."""

    def __init__(self, role: str, path: Path, **options: object) -> None:
        command = [sys.executable, str(WORKER), role, str(path), json.dumps(options)]
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE)

    @property
    def output(self) -> IO[bytes]:
        assert self.process.stdout is not None
        return self.process.stdout

    def wait_for(self, line: bytes) -> None:
        said = self.output.readline()
        assert said == line, (said, line)

    def wait_until_stopped(self) -> None:
        """Until it has stopped itself at a `core_stop` point."""
        ended = os.waitid(os.P_PID, self.process.pid, os.WSTOPPED | os.WEXITED | os.WNOWAIT)
        assert ended is not None
        assert ended.si_code == os.CLD_STOPPED, "it has ended"
        os.waitid(os.P_PID, self.process.pid, os.WSTOPPED)

    def stop(self) -> None:
        self.process.send_signal(signal.SIGSTOP)
        self.wait_until_stopped()

    def go_on(self) -> None:
        self.process.send_signal(signal.SIGCONT)

    def rest(self, ending: int = 0) -> bytes:
        """What it told until its end, which must be as expected."""
        hangs = threading.Timer(DEADLINE, self.process.kill)
        hangs.start()
        said = self.output.read()
        assert self.process.wait() == ending
        hangs.cancel()
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

    def start(self, role: str, *, wait: bool = True, **options: object) -> Process:
        """It has joined the log when this returns; without `wait`, when it says READY."""
        process = Process(role, self.path, **options)
        self.processes.append(process)
        if wait:
            process.wait_for(READY)
        return process

    def appender(self, writer: int, topics: list[str], groups: int, **options: object) -> Process:
        defaults: dict[str, object] = {"fail_at": 0, "healthy": -1, "size": 1000, "producer_id": -1}
        defaults |= {"reserved": 0, "reads": False, "stops": False}
        options = defaults | options
        wait = bool(options.pop("wait", True))
        return self.start("append", wait=wait, writer=writer, topics=topics, limit=groups, **options)

    def sequencer(
        self, fail_at: int = 0, healthy: int = 0, *, stops: bool = False, seconds_max: float = 0.05, wait: bool = True
    ) -> Process:
        options = {"fail_at": fail_at, "healthy": healthy, "stops": stops, "seconds_max": seconds_max}
        return self.start("sequence", wait=wait, **options)

    def end(self) -> None:
        for process in self.processes:
            process.end()


def make(world: World, topics: dict[str, int], *, size: int = SIZE, ranges: int = 0, **options: Any) -> None:
    with Log.create(world.path, size=size, ranges=ranges) as log:
        for number, (name, partitions) in enumerate(topics.items()):
            log.create_topic(name, id=bytes([number]) * 16, partitions=partitions, **options)


@contextmanager
def joined(world: World) -> Iterator[SharedLog]:
    """The log, with the test's own process as one more broker."""
    with SharedLog.join(world.path) as log:
        yield log


def acks_of(said: bytes) -> npt.NDArray[np.void]:
    """A process that was killed may have told its last one in part."""
    return np.frombuffer(said[: len(said) // ACK.size * ACK.size], dtype=ACKS)


def identities(rows: npt.NDArray[np.void]) -> Numbers:
    return np.asarray(rows["writer"].astype(np.int64) * PER_WRITER + rows["number"])


def topics_of(log: Log, *names: str) -> list[Topic]:
    found = [log.find_topic(name) for name in names]
    return [topic for topic in found if topic is not None]


def reader_of(log: Log, topic: Topic, partitions: Sequence[int]) -> Seen:
    """What a reader of these partitions (or of the view) sees. Batches that nobody wrote get an identity of nobody."""
    parts = [(partition, *read_heads(log, topic, partition, HEAD, SPAN)) for partition in partitions]
    of = np.concatenate([np.full(len(offsets), max(partition, 0)) for partition, offsets, _ in parts])
    heads = np.concatenate([heads for _, _, heads in parts])
    identity = np.where(heads["mark"] == MARK, identities(heads), -1)
    return Seen(of, np.concatenate([offsets for _, offsets, _ in parts]), identity, SPAN)


def check(log: Log, topics: list[Topic], acks: npt.NDArray[np.void], all_arrive: bool = True) -> None:
    """All that the log promises, of these topics: by index pages, by readers of them, by what writers were told.

    `all_arrive` False: some writers were killed, and what they had sent last may be there or not.
    """
    assert set(acks["status"].tolist()) <= {lib.STATUS_OK}
    assert len(np.unique(acks["global_position"])) == len(acks)
    pages = [log.entries(topic) for topic in topics]
    found = judge_pages(pages, log.frontiers().ordered)
    assert found == {}, found
    numbers = {int(writer): int(acks["number"][acks["writer"] == writer].max()) for writer in np.unique(acks["writer"])}
    for topic, entries in zip(topics, pages, strict=True):
        reader, view = reader_of(log, topic, range(topic.partitions)), reader_of(log, topic, [VIEW])
        told = acks[acks["slot"] == topic.slot]
        run = History([reader], [view], told_of(told), PER_WRITER, view_keeps_producers=True)
        if not all_arrive:
            run = replace(run, sent=may_be_there(view, numbers), all_arrive=False)
        found = judge(run)
        assert found == {}, found
        assert [agree(one, other) for one, other in zip((reader, view), seen(entries, view.identity), strict=True)] == [
            [],
            [],
        ]
        places = np.searchsorted(entries["total_order"], told["total_order"].astype(np.uint64))
        assert (entries["global_position"][places] == told["global_position"]).all()


def told_of(acks: npt.NDArray[np.void]) -> Told:
    columns = (
        acks[name].astype(np.int64) for name in ("partition", "base_offset", "sent_ns", "answered_ns", "total_order")
    )
    return Told(identities(acks), *columns)


def may_be_there(view: Seen, numbers: dict[int, int]) -> Numbers:
    """What was read of the writers that were killed: nothing after the group whose answers they did not tell."""
    writer, number = view.identity // PER_WRITER, view.identity % PER_WRITER
    limit = np.array([numbers.get(int(each), -1) + GROUP for each in writer], dtype=np.int64)
    return view.identity[(view.identity >= 0) & (number <= limit)]


def wait_for_free(log: SharedLog, wanted: int) -> None:
    """The sequencer's process buries and sweeps between headers: each operation gives it the next occasion."""

    def enough() -> bool:
        log.delete_topic(log.create_topic("occasion", id=bytes(16), partitions=1))
        return log.memory().blocks_free >= wanted

    until(enough)


class Left(NamedTuple):
    """What brokers have in the shared tables."""

    processes: int
    pins: int
    headers: int
    """Published and not answered."""
    claims: int
    """Blocks that somebody says he is just taking or giving back."""


def left(log: Log) -> Left:
    peeked = {name: peek(log, position, count * ffi.sizeof(f"struct {name}")) for name, position, count in _TABLES}
    brokers = np.frombuffer(peeked["broker_entry"], dtype="<u8").reshape(lib.BROKERS_MAX, -1)
    words = {name: ffi.offsetof("struct broker_entry", name) // 8 for name in ("written", "completed", "claim")}
    process_ids = np.frombuffer(peeked["broker_entry"], dtype="<u4").reshape(lib.BROKERS_MAX, -1)
    process_ids = process_ids[:, ffi.offsetof("struct broker_entry", "process_id") // 4]
    return Left(
        processes=int(np.count_nonzero(process_ids)),
        pins=sum(1 for pin in ffi.from_buffer("struct pin[]", peeked["pin"]) if pin.segment),
        headers=int((brokers[:, words["written"]] - brokers[:, words["completed"]]).sum()),
        claims=int(np.count_nonzero((brokers[:, words["claim"]] >> 32) * (process_ids == 0))),
    )


_TABLES = (
    ("broker_entry", lib.BROKER_TABLE_POSITION, lib.BROKERS_MAX),
    ("pin", lib.PIN_TABLE_POSITION, lib.BROKERS_MAX * lib.PINS_MAX),
)


def peek(log: Log, position: int, size: int) -> bytes:
    """Region bytes as they are."""
    target = ffi.new("uint8_t[]", size)
    assert lib.core_peek(log._core, position, target, size) == lib.STATUS_OK
    return bytes(ffi.buffer(target))
