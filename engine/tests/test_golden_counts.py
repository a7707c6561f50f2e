"""What operations cost in flushed lines, fences and invalidated lines: a change of cost, or a flush that went missing,
shows as a diff.

After a wanted change: `python -m totalog.engine.tests.test_golden_counts --write` writes the table anew.

Counted are lines (64 bytes) and fences, as mem.h counts them: on coherent memory, full fences alone.
"""

import functools
import os
import sys
from collections.abc import Callable
from typing import NamedTuple, TypeVar

import pytest

from totalog.engine import VIEW, Log, Topic
from totalog.engine._core import ffi, lib
from totalog.engine.core_build import ROOT
from totalog.engine.region import Region
from totalog.engine.tests import driver
from totalog.engine.tests.driver import Batch

GOLDEN = ROOT / "engine/tests/golden_counts.txt"
HEADER = """\
# What operations cost, by coherence mode: lines flushed, fences, lines invalidated. Compared by test_golden_counts.py;
# written by: python -m totalog.engine.tests.test_golden_counts --write
"""
SMALL, LARGE, GROUP = 100, 1 << 20, 64
"""Bytes of a small and of a large batch, batches of a group."""
Result = TypeVar("Result")


class Cost(NamedTuple):
    flushed: int
    fences: int
    invalidated: int


class Scale:
    """A log whose operations are counted one by one."""

    def __init__(self, coherent: bool) -> None:
        self.coherent = coherent
        self.log = Log.create(size=driver.SIZE_SMALL, coherent=coherent)
        self.costs = {"takeover of an empty region": self.now()}

    def now(self) -> Cost:
        """Since the log was opened."""
        words = [ffi.new("uint64_t *") for _ in range(3)]
        lib.log_memory_operations(self.log._core, *words)
        return Cost(*(int(word[0]) for word in words))

    def count(self, name: str, operation: Callable[[], Result]) -> Result:
        before = self.now()
        result = operation()
        self.costs[name] = Cost(*(after - at for after, at in zip(self.now(), before, strict=True)))
        return result

    def take_over(self, name: str) -> None:
        descriptor, size = os.dup(self.log.region.descriptor), self.log.region.size
        self.log.close()
        self.log = Log(Region(descriptor, size, None))
        self.costs[name] = self.now()

    # -- each of these is counted in turn, on a log that the ones before have left

    def topics(self) -> Topic:
        log = self.log
        self.count("create the first topic, 1 partition", lambda: create(log, 1, 1))
        topic = self.count("create a topic, 4 partitions", lambda: create(log, 2, 4))
        self.count("alter its retention", lambda: log.alter_topic(topic, retention_ms=1000))
        self.count("find its description and settings", log.topics)
        gone = create(log, 3, 4)
        self.count("delete an empty topic", lambda: log.delete_topic(gone))
        self.count("sweep it", lambda: driver.settle(log))
        return log.alter_topic(topic, retention_ms=-1)

    def appends(self, topic: Topic) -> None:
        log = self.log
        self.append("publish and order the first batch of a topic, 100 bytes", topic, 1, SMALL)
        driver.append(log, [Batch(topic, partition, bytes(SMALL)) for partition in range(4)])
        self.append("publish and order a batch, 100 bytes", topic, 1, SMALL)
        self.append(f"publish and order a group of {GROUP}, 100 bytes each, 4 partitions", topic, GROUP, SMALL)
        self.append("publish and order a batch, 1 MiB", topic, 1, LARGE)
        with self.count("reserve 1 MiB", lambda: log.reserve(LARGE)) as reservation:
            batch = driver.in_reservation(Batch(topic, 0, bytes(LARGE)), reservation, 0)
            self.count("publish and order it", lambda: driver.append(log, [batch]))
            self.count("close the reservation, published", reservation.close)
        driver.append(log, [driver.with_sequence(Batch(topic, 0, bytes(SMALL)), 7, 0, 0)])
        again = driver.with_sequence(Batch(topic, 0, bytes(SMALL)), 7, 0, 0)
        self.count("publish a duplicate", lambda: driver.append(log, [again]))
        other = Batch(Topic(5, 1, "none", b"", 1, 5, -1, -1, False, b""), 0, bytes(SMALL))
        self.count("append to a topic that is not there", lambda: driver.append(log, [other]))

    def append(self, name: str, topic: Topic, count: int, size: int) -> None:
        batches = [Batch(topic, number % 4, bytes(size)) for number in range(count)]
        answers = self.count(name, lambda: driver.append(self.log, batches))
        assert {answer.status for answer in answers} == {lib.STATUS_OK}

    def reads(self, topic: Topic) -> None:
        reader = driver.Reader(self.log, 2 * LARGE, GROUP)
        ends = {partition: self.log.bounds(topic, partition).next_offset for partition in (0, VIEW)}
        for partition, by in ((0, "partition"), (VIEW, "total order")):
            for name, offset, size_max in (
                ("read a batch, 100 bytes", 0, SMALL),
                ("read 16 batches, 100 bytes each", 0, 16 * SMALL),
                ("read a batch, 1 MiB", 19 if partition == 0 else 70, LARGE),
                ("read at the end", ends[partition], LARGE),
            ):
                read = functools.partial(reader.read, topic, partition, offset, size_max)
                result, found = self.count(f"{name}, by {by}", read)
                assert result.status == lib.STATUS_OK
                assert sum(len(batch.payload) for batch in found) == (0 if offset == ends[partition] else size_max)
        lending = functools.partial(reader.read, topic, 0, 19, LARGE, lent_size_min=LARGE)
        self.count("read a batch, 1 MiB, by partition, lent and given back", lending)
        self.count("bounds of a partition", lambda: self.log.bounds(topic, 0))
        self.count("bounds of the total order", lambda: self.log.bounds(topic, VIEW))
        self.count("find a timestamp", lambda: self.log.find_timestamp(topic, 0, 0))

    def memory(self) -> None:
        log = self.log
        block = self.count("claim a block", lambda: lib.core_claim(log._core, 1))
        self.count("free it", lambda: lib.core_free(log._core, block, 1))
        reservation = self.count("reserve 64 KiB", lambda: log.reserve(65_536))
        pin = self.count("pin a segment", lambda: lib.core_pin(log._core, reservation.segment))
        self.count("let it go", lambda: lib.core_unpin(log._core, pin))
        self.count("close the reservation, not published", reservation.close)

    def ranges(self) -> None:
        """A region of two brokers, each with a range of its own; this process is both."""
        self.log.close()
        self.log = log = Log.create(size=driver.SIZE_SMALL, coherent=self.coherent, ranges=2)
        self.costs["takeover of an empty region with two ranges"] = self.now()
        block = self.count("claim a block of one's own range", lambda: lib.core_claim(log._core, 1))
        self.count("free a block of one's own range", lambda: lib.core_free(log._core, block, 1))
        other = driver.join(log, 1)
        block = lib.core_claim(other, 1)
        self.count("free a block of another's range", lambda: lib.core_free(log._core, block, 1))
        self.count("count the blocks in use", log.memory)
        lib.log_close(other)

    def ends(self, topic: Topic) -> None:
        self.count("upkeep with nothing to do", lambda: self.log.maintain(0))
        self.take_over("takeover of 2 topics, 74 batches")
        log = self.log
        topic = next(found for found in log.topics() if found.name == topic.name)
        self.count("trim 8 batches of a partition", lambda: log.trim(topic, 0, 8))
        self.count("trim 32 records of the total order", lambda: log.trim(topic, VIEW, 32))
        self.count("delete the topic", lambda: log.delete_topic(topic))
        self.count("sweep it, with its batches", lambda: driver.settle(log))
        self.take_over("takeover of 1 topic, after that")


def create(log: Log, number: int, partitions: int) -> Topic:
    return log.create_topic(f"topic {number}", id=driver.topic_id(number), partitions=partitions, settings=bytes(100))


def measure(coherent: bool) -> dict[str, Cost]:
    scale = Scale(coherent)
    topic = scale.topics()
    scale.appends(topic)
    scale.reads(topic)
    scale.memory()
    scale.ends(topic)
    scale.ranges()
    scale.log.close()
    return scale.costs


def table(coherent: dict[str, Cost], noncoherent: dict[str, Cost]) -> str:
    width = max(map(len, coherent))
    titles = "".join(f"{title:>13}" for title in Cost._fields)
    lines = [f"{'':{width}}  {'coherent':^39}  {'not coherent':^39}", f"{'':{width}}  {titles}  {titles}"]
    for name, cost in coherent.items():
        cells = ("".join(f"{number:>13,}" for number in costs) for costs in (cost, noncoherent[name]))
        lines.append(f"{name:{width}}  {'  '.join(cells)}")
    return HEADER + "\n".join(line.rstrip() for line in lines) + "\n"


@pytest.fixture(scope="module")
def costs() -> tuple[dict[str, Cost], dict[str, Cost]]:
    return measure(True), measure(False)


def test_golden_counts(costs: tuple[dict[str, Cost], dict[str, Cost]]) -> None:
    assert table(*costs).splitlines() == GOLDEN.read_text().splitlines()


def test_coherent_memory_is_neither_flushed_nor_invalidated(costs: tuple[dict[str, Cost], dict[str, Cost]]) -> None:
    """But for the region's header, two lines, which is read before it can say what memory it lies in."""
    for name, cost in costs[0].items():
        assert (cost.flushed, cost.invalidated) == (0, 2 if name.startswith("takeover") else 0), name


def test_payload_is_flushed_once_and_invalidated_once(costs: tuple[dict[str, Cost], dict[str, Cost]]) -> None:
    """What else an operation needs does not grow with the payload, and is less than a quarter of a large one."""
    lines = LARGE // lib.LINE_SIZE
    for name, cost in costs[1].items():
        flushes = name.startswith("publish") and ("1 MiB" in name or name == "publish and order it")
        reads = name.startswith("read a batch, 1 MiB")
        assert lines * flushes <= cost.flushed < lines * flushes + lines // 4, name
        assert lines * reads <= cost.invalidated < lines * reads + lines // 4, name


if __name__ == "__main__":
    if sys.argv[1:] != ["--write"]:
        sys.exit("usage: python -m totalog.engine.tests.test_golden_counts --write")
    GOLDEN.write_text(table(measure(True), measure(False)))
