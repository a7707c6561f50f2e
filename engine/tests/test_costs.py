"""Non-coherent memory is flushed and its stale lines are dropped, at each operation; coherent memory never.

How many lines an operation takes is pinned elsewhere (test_golden_counts.py).
"""

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest

from totalog.engine import VIEW, Log, Topic
from totalog.engine._core import ffi, lib
from totalog.engine.tests import driver
from totalog.engine.tests.driver import Batch


class Cost(NamedTuple):
    flushes: int
    """Lines."""
    fences: int
    invalidates: int
    """Lines."""


def count(log: Log, action: Callable[[], object]) -> Cost:
    before = operations(log)
    action()
    after = operations(log)
    return Cost(*(new - old for new, old in zip(after, before, strict=True)))


def operations(log: Log) -> tuple[int, int, int]:
    values = [ffi.new("uint64_t *") for _ in range(3)]
    lib.log_memory_operations(log._core, *values)
    return values[0][0], values[1][0], values[2][0]


def make(coherent: bool) -> tuple[Log, Topic]:
    log = Log.create(size=64 << 20, coherent=coherent)
    return log, log.create_topic("a", id=driver.topic_id(0), partitions=2)


def actions(log: Log, topic: Topic) -> dict[str, Callable[[], object]]:
    small = driver.Bulk(log, 64, size=100)
    reader = driver.Reader(log)
    idempotent = iter(range(100))

    def append_idempotent() -> None:
        batch = driver.with_sequence(Batch(topic, 0, bytes(100)), 7, 0, next(idempotent))
        assert driver.append_one(log, batch).status == lib.STATUS_OK

    return {
        "one batch of 100 bytes": lambda: small.append(topic, 1),
        "one idempotent batch of 100 bytes": append_idempotent,
        "one batch of 10,000 bytes": lambda: driver.append_one(log, Batch(topic, 1, bytes(10_000))),
        "8 batches of 100 bytes": lambda: small.append(topic, 8, partition=np.arange(8) % 2),
        "a read of one batch": lambda: reader.read(topic, 0, 0, 100),
        "a read of the view": lambda: reader.read(topic, VIEW, 0, 100),
        "a look at the bounds": lambda: log.bounds(topic, 0),
        "a reservation that is given back": lambda: log.reserve(100_000).close(),
        "a topic that is altered": lambda: log.alter_topic(topic, retention_ms=1000),
        "a trim": lambda: log.trim(topic, 0, 1),
    }


def test_coherent_memory_is_not_flushed() -> None:
    log, topic = make(coherent=True)
    with log:
        for name, action in actions(log, topic).items():
            action()
            cost = count(log, action)
            assert (cost.flushes, cost.invalidates) == (0, 0), name


def test_every_operation_reaches_memory_where_it_has_to() -> None:
    """What writes flushes and fences, and what reads drops its own lines first."""
    log, topic = make(coherent=False)
    with log:
        for name, action in actions(log, topic).items():
            action()
            cost = count(log, action)
            if name.startswith(("a read", "a look")):
                assert cost.invalidates > 0, name
            else:
                assert cost.flushes > 0, name
                assert cost.fences > 0, name


@pytest.mark.parametrize("coherent", [True, False])
def test_a_whole_life_in_coherent_mode_flushes_nothing(tmp_path: Path, coherent: bool) -> None:
    """Every kind of operation, retention, restart: in one mode only the header is read anew, as it names the mode."""
    header = ffi.sizeof("struct region_header") // lib.LINE_SIZE
    path = tmp_path / "region"
    Log.create(path, size=driver.SIZE_SMALL, coherent=coherent).close()
    for _ in range(2):
        with Log.attach(path) as log:
            topic = log.find_topic("a") or log.create_topic(
                "a", id=driver.topic_id(0), partitions=2, retention_bytes=5000
            )
            driver.Bulk(log, size=100).append(topic, 500, partition=np.arange(500) % 2)
            log.alter_topic(topic, partitions=topic.partitions + 1, settings=b"x")
            log.trim(topic, VIEW, log.bounds(topic, VIEW).next_offset)
            log.delete_topic(topic)
            driver.settle(log)
            flushes, _, invalidates = operations(log)
            assert ((flushes, invalidates) == (0, header)) == coherent


def test_who_makes_a_topic_operation_reads_one_topic_again() -> None:
    """Also when what was deleted is swept. Counted are the lines that listing all topics drops and reads again."""
    listed = {}
    for topics in (10, 100):
        with Log.create(size=64 << 20, coherent=False) as log:
            made = [log.create_topic(f"t{i}", id=driver.topic_id(i), partitions=1) for i in range(topics)]
            log.topics()

            def change(log: Log = log, made: list[Topic] = made) -> None:
                log.delete_topic(made.pop())
                while log.maintain(0):
                    pass
                made.append(log.create_topic("again", id=driver.topic_id(1_000), partitions=2))
                made[0] = log.alter_topic(made[0], partitions=3, settings=b"other")
                assert sorted(log.topics(), key=lambda topic: topic.name) == sorted(made, key=lambda topic: topic.name)

            listed[topics] = count(log, change).invalidates
    assert listed[100] - listed[10] < 100 - 10, "not one line for each topic more"
