"""GB/s of append + order for several writer processes, beside what a copy into the same memory takes.

Batches hold messages of 1 KiB; writers append groups of some batches to one topic, a process of its own orders them.
Two groups of each writer are in flight: it copies one while the other is ordered. The sequencer sleeps as an event loop
does, and so spins for nobody.
Warm: retention gives the memory back, and every byte has been written before. The limit is `core_copy`: the batch is
copied into blocks of the same region and made visible, by the same processes at the same time, over as much memory.
Both take turns in one run. Fresh: memory that nobody has touched, beside a copy into a file that nobody has touched.

    python -m totalog.engine.bench.writers ROLE PATH JSON     one process of it, driven through its standard input
"""

import json
import mmap
import os
import select
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np
import numpy.typing as npt

from totalog.engine import Log
from totalog.engine._core import ffi, lib
from totalog.engine._core_long import lib as long_lib
from totalog.engine.appends import AppendGroup
from totalog.engine.shared import SharedLog

MIB = 1 << 20
MESSAGE = 1024
SIZES = (64 * 1024, 512 * 1024, 4 * MIB)
WRITERS = (1, 2, 4)
GROUP_BYTES = 2 * MIB
"""In one call: what one receive buffer or two may hold. A batch that is larger goes alone."""
GROUPS_IN_FLIGHT = 2
YIELDS_MAX = 5
"""Times that a writer gives its processor away when no group is answered, before it sleeps."""
FOOTPRINT = 64 * MIB
"""Memory that copies go round in, all writers together, and likewise appends: twice the usual last-level cache."""
ROUND = 256 * MIB
"""Written in one round, all writers together."""
FRESH = 512 * MIB
FRESH_SIZE = 512 * 1024
ROUNDS = 7
FRESH_ROUNDS = 5


@dataclass(frozen=True, slots=True)
class Rate:
    """Bytes per second, one value for each round."""

    name: str
    appended: list[float]
    copied: list[float]

    @property
    def ratios(self) -> list[float]:
        """Of each round."""
        return [append / copy for append, copy in zip(self.appended, self.copied, strict=True)]


class Writer:
    """One process: appends, or copies, so many bytes when it is told to."""

    def __init__(self, path: str, number: int, size: int, footprint: int) -> None:
        self.log = SharedLog.join(path)
        self.size = size
        self.payload = ffi.from_buffer(os.urandom(size))
        self.batches = max(1, GROUP_BYTES // size)
        self.group = self.log.group(GROUPS_IN_FLIGHT * self.batches)
        self.status = statuses(self.group)
        self.footprint = footprint
        self.room = lib.core_claim(self.log._core, footprint // lib.BLOCK_SIZE) if footprint else 0
        self.at = 0
        (topic,) = self.log.topics()
        for append in (self.group[index] for index in range(len(self.group))):
            append.source, append.size = int(ffi.cast("uintptr_t", self.payload)), size
            append.topic_slot, append.topic_generation = topic.slot, topic.generation
            append.partition, append.record_count = number % topic.partitions, size // MESSAGE
            append.last_offset_delta, append.producer_id, append.base_sequence = size // MESSAGE - 1, -1, -1

    def append(self, count: int) -> None:
        """So many bytes, or a few batches more, answered when this returns. A batch that was answered is as good as
        filled: its status is STATUS_OK."""
        left = max(1, count // self.size)
        while left > 0:
            left -= self.wait_for_room()
            self.log.publish(self.group, len(self.group))
        self.wait_for_answers()

    def wait_for_room(self) -> int:
        """Batches that are not in flight: those of one group at least."""
        for _ in range(YIELDS_MAX):
            room = len(self.group) - np.count_nonzero(self.status)
            if room < self.batches:
                self.log.collect(self.group)
                room = len(self.group) - np.count_nonzero(self.status)
            if room >= self.batches:
                return int(room)
            os.sched_yield()
        self.wait_for_answers()
        return len(self.group)

    def wait_for_answers(self) -> None:
        idle = self.status == lib.STATUS_OK
        self.status[idle] = lib.STATUS_INVALID_ARGUMENT  # not to be published
        self.log.append(self.group, len(self.group))
        self.status[idle] = lib.STATUS_OK
        assert not self.status.any(), self.status

    def copy(self, count: int) -> None:
        assert self.room
        for _ in range(count // self.size):
            if self.at + self.size > self.footprint:
                self.at = 0
            lib.core_copy(self.log._core, self.room, self.at, self.payload, self.size)
            self.at += self.size

    def fresh(self, count: int) -> None:
        """A copy into memory that nobody has touched."""
        with tempfile.TemporaryFile(dir=folder()) as file:
            file.truncate(count)
            with mmap.mmap(file.fileno(), count) as target:
                room = ffi.from_buffer(target)
                for at in range(0, count - self.size + 1, self.size):
                    ffi.memmove(room + at, self.payload, self.size)
                ffi.release(room)


def statuses(group: AppendGroup) -> npt.NDArray[np.int32]:
    """Of the batches, as they stand."""
    size, at = ffi.sizeof("struct append"), ffi.offsetof("struct append", "status")
    memory = ffi.buffer(ffi.cast("uint8_t *", group.address), size * len(group))
    return np.frombuffer(memory, dtype=np.int32).reshape(len(group), -1)[:, at // 4]


def write(path: str, number: int, size: int, footprint: int) -> None:
    writer = Writer(path, number, size, footprint)
    actions = {"append": writer.append, "copy": writer.copy, "fresh": writer.fresh}
    print("ready", flush=True)
    for line in sys.stdin:
        name, count = line.split()
        began = time.monotonic_ns()
        actions[name](int(count))
        print(began, time.monotonic_ns(), flush=True)
    writer.log.close()


def sequence(path: str) -> None:
    """Until it is killed."""
    log = SharedLog.join(path)
    log.take_over()
    event, core, sequence_now = log.published_event, log._long_core, long_lib.log_sequence
    published = select.poll()
    published.register(event, select.POLLIN)
    print("ready", flush=True)
    while True:
        published.poll()
        os.eventfd_read(event)
        sequence_now(core, 0)


def folder() -> str:
    """Memory, where there is a file system of memory."""
    return "/dev/shm" if os.access("/dev/shm", os.W_OK) else tempfile.gettempdir()


class Process:
    def __init__(self, role: str, path: str, **options: object) -> None:
        command = [sys.executable, "-m", "totalog.engine.bench.writers", role, path, json.dumps(options)]
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        assert self._pipe(self.process.stdout).readline() == "ready\n"

    @staticmethod
    def _pipe(pipe: IO[str] | None) -> IO[str]:
        assert pipe is not None
        return pipe

    def tell(self, action: str, count: int) -> None:
        pipe = self._pipe(self.process.stdin)
        pipe.write(f"{action} {count}\n")
        pipe.flush()

    def answer(self) -> tuple[int, int]:
        began, ended = self._pipe(self.process.stdout).readline().split()
        return int(began), int(ended)

    def end(self, kill: bool = False) -> None:
        if kill:
            self.process.kill()
        self._pipe(self.process.stdin).close()
        self.process.wait()
        self._pipe(self.process.stdout).close()


@contextmanager
def region(size: int, coherent: bool, **topic: Any) -> Iterator[str]:
    """With one topic, and a sequencer."""
    with tempfile.TemporaryDirectory(dir=folder()) as where:
        path = str(Path(where, "region"))
        with Log.create(path, size=size, coherent=coherent) as log:
            log.create_topic("written", id=os.urandom(16), partitions=4, **topic)
        sequencer = Process("sequence", path)
        try:
            yield path
        finally:
            sequencer.end(kill=True)


def together(writers: list[Process], action: str, count: int) -> float:
    """Bytes per second of all, from the first one's beginning to the last one's end."""
    for writer in writers:
        writer.tell(action, count // len(writers))
    times = [writer.answer() for writer in writers]
    return count / (max(ended for _, ended in times) - min(began for began, _ in times)) * 1e9


def warm(coherent: bool, count: int, size: int) -> Rate:
    with region(2 * FOOTPRINT + 32 * MIB, coherent, retention_bytes=FOOTPRINT // 16) as path:
        writers = [
            Process("write", path, number=number, size=size, footprint=FOOTPRINT // count) for number in range(count)
        ]
        for action in ("append", "copy"):
            together(writers, action, ROUND)
        rates = [(together(writers, "append", ROUND), together(writers, "copy", ROUND)) for _ in range(ROUNDS)]
        for writer in writers:
            writer.end()
    return _rate(f"{'coherent' if coherent else 'non-coherent'}, warm", count, size, rates)


def fresh(count: int, size: int) -> Rate:
    rates = []
    for _ in range(FRESH_ROUNDS):
        with region(FRESH + 128 * MIB, True) as path:
            writers = [Process("write", path, number=number, size=size, footprint=0) for number in range(count)]
            rates.append((together(writers, "append", FRESH), together(writers, "fresh", FRESH)))
            for writer in writers:
                writer.end()
    return _rate("coherent, fresh", count, size, rates)


def _rate(kind: str, count: int, size: int, rates: list[tuple[float, float]]) -> Rate:
    appended, copied = zip(*rates, strict=True)
    return Rate(f"{kind}: {count} writer{'s'[: count > 1]}, {size // 1024} KiB", list(appended), list(copied))


def rates() -> Iterator[Rate]:
    for count in WRITERS:
        for mode in ("coherent", "non-coherent"):
            yield from (warm(mode == "coherent", count, size) for size in SIZES)
        yield fresh(count, FRESH_SIZE)


if __name__ == "__main__":
    role, region_path, options = sys.argv[1:]
    roles: dict[str, Callable[..., None]] = {"write": write, "sequence": sequence}
    roles[role](region_path, **json.loads(options))
