"""Many processes on one region: they append, one of them orders, others read; and any of them is killed.

Values are unique, so what was acknowledged can be held against what is there by linear scans. What was ordered is
checked from a process of its own, the test's, which has joined the log as well.
"""

import signal
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from totalog.engine import VIEW, RegionInUse
from totalog.engine._core import lib
from totalog.engine.tests.process_worker import ACK, GROUP
from totalog.engine.tests.processes import (
    BROKER_POINTS,
    RANGES,
    SEQUENCER_POINTS,
    World,
    acks_of,
    check,
    joined,
    left,
    make,
    topics_of,
    wait_for_free,
)


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    made = World(tmp_path / "region")
    yield made
    made.end()


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


@pytest.mark.parametrize(
    ("point", "ranges"),
    [*((point, 0) for point in BROKER_POINTS), (lib.FAIL_CLAIMED, RANGES), (lib.FAIL_RETURNED, RANGES)],
)
def test_an_appender_is_killed_at_a_step_of_publishing(world: World, point: int, ranges: int) -> None:
    make(world, {"a": 2, "b": 2}, ranges=ranges)
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
        check(log, topics_of(log, "a", "b"), np.concatenate(acks), all_arrive=False)
        for topic in topics_of(log, "a", "b"):
            log.delete_topic(topic)
        wait_for_free(log, before)


@pytest.mark.parametrize("ranges", [0, RANGES])
def test_appenders_are_killed_at_any_moment(world: World, ranges: int) -> None:
    make(world, {"a": 2}, retention_bytes=1 << 20, ranges=ranges)
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
        wait_for_free(log, before)


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


def test_a_reader_is_killed_while_it_pins(world: World) -> None:
    """While it lives, what it pins stays, also of a topic that is gone; when it is dead, nothing of it is left."""
    make(world, {"a": 1})
    world.sequencer().wait_for(b"took over\n")
    with joined(world) as log:
        before = log.memory().blocks_free
        reader = world.appender(1, ["a"], 2, fail_at=lib.FAIL_PINNED, healthy=0, reads=True, stops=True)
        reader.wait_until_stopped()
        reader.go_on()
        reader.wait_until_stopped()
        assert left(log).pins == 1
        log.delete_topic(topics_of(log, "a")[0])
        for _ in range(20):
            log.delete_topic(log.create_topic("occasion", id=bytes(16), partitions=1))
        assert left(log).pins == 1
        assert log.memory().blocks_free < before
        reader.process.kill()
        reader.rest(-signal.SIGKILL)
        wait_for_free(log, before)
        assert left(log).pins == 0


@pytest.mark.parametrize("point", [lib.FAIL_COPIED, lib.FAIL_HEADERS, lib.FAIL_WRITTEN])
def test_a_stopped_appender_wakes_when_its_topic_is_gone_and_the_sequencer_another(world: World, point: int) -> None:
    make(world, {"a": 1, "b": 1})
    first = world.sequencer()
    first.wait_for(b"took over\n")
    with joined(world) as log:
        gone, stays = topics_of(log, "a", "b")
        before = log.memory().blocks_free
        late = world.appender(1, ["a"], 2, fail_at=point, healthy=1, stops=True)
        late.wait_until_stopped()
        late.go_on()
        late.wait_until_stopped()
        log.delete_topic(gone)
        first.process.kill()
        world.sequencer().wait_for(b"took over\n")
        other = acks_of(world.appender(2, ["b"], 20).rest())
        late.go_on()
        acks = acks_of(late.rest())
        assert set(acks["status"][:GROUP].tolist()) == {lib.STATUS_OK}
        answers = set(acks["status"][GROUP:].tolist())
        may_be_first = point == lib.FAIL_WRITTEN  # published, as the deletion is, in two rings at the same time
        assert answers == {lib.STATUS_UNKNOWN_TOPIC} or (may_be_first and answers == {lib.STATUS_OK})
        check(log, [stays], other)
        log.delete_topic(stays)
        wait_for_free(log, before)


@pytest.mark.parametrize(("point", "ranges"), [*((point, 0) for point in SEQUENCER_POINTS), (lib.FAIL_CLAIMED, RANGES)])
def test_another_sequencer_takes_over_at_a_step_of_ordering(world: World, point: int, ranges: int) -> None:
    make(world, {"a": 2, "b": 3}, ranges=ranges)
    first = world.sequencer(fail_at=point, healthy=500)
    first.wait_for(b"took over\n")
    with joined(world) as log:
        before = log.memory().blocks_free
    second = world.sequencer()
    writers = [world.appender(writer, ["a", "b"], 120, producer_id=100 + writer) for writer in range(3)]
    first.rest(-signal.SIGKILL)
    second.wait_for(b"took over\n")
    acks = [acks_of(writer.rest()) for writer in writers]
    assert [len(each) for each in acks] == [120 * 8] * 3
    with joined(world) as log:
        topics = topics_of(log, "a", "b")
        check(log, topics, np.concatenate(acks))
        for topic in topics:
            log.delete_topic(topic)
        wait_for_free(log, before)


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
