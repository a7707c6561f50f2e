"""A sequencer that has stopped: it is not replaced while it lives; and one that lost its part all the same, and wakes,
changes nothing, and its answers are not believed."""

import mmap
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from totalog.engine import RegionInUse
from totalog.engine._core import ffi, lib
from totalog.engine.errors import Replaced
from totalog.engine.shared import SharedLog
from totalog.engine.tests.process_worker import GROUP, Appender
from totalog.engine.tests.processes import World, acks_of, check, joined, make, peek, topics_of


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    made = World(tmp_path / "region")
    make(made, {"a": 2})
    yield made
    made.end()


def publish(mine: Appender) -> None:
    for index in range(GROUP):
        mine._fill(index, mine.number + index)
    mine.log.publish(mine.group, GROUP)


def answered(mine: Appender) -> list[tuple[int, int]]:
    """Status and global position of each."""
    return [(mine.group[index].status, mine.group[index].global_position) for index in range(GROUP)]


def everything(log: SharedLog) -> bytes:
    """All of the fixed part, with the control block, the tables, the rings and the order ring."""
    return peek(log, 0, lib.FIXED_SIZE)


def seize(log: SharedLog) -> None:
    """Takes over from one that lives, as no process can: the lock says no."""
    assert lib.log_take_over(log._core, 0) == lib.OPEN_OK


def test_a_stopped_sequencer_is_replaced_when_it_was_killed_and_not_before(world: World) -> None:
    stopped = world.sequencer(lib.FAIL_ENTRIES, healthy=GROUP, stops=True)
    stopped.wait_for(b"took over\n")
    with joined(world) as log:
        mine = Appender(log, 1, topics_of(log, "a"), 100, 7)
        acks = [acks_of(mine.append(GROUP))]
        stopped.wait_for(b"armed\n")  # or what is published now may be ordered before
        publish(mine)
        stopped.wait_until_stopped()
        with pytest.raises(RegionInUse):
            log.take_over()
        assert not log.collect(mine.group)
        stopped.process.kill()
        stopped.process.wait()
        log.take_over()
        log.sequence(0)
        assert log.collect(mine.group)
        assert answered(mine) == [(lib.STATUS_OK, acks[0]["global_position"][-1] + 1 + at) for at in range(GROUP)]
        mine.number += GROUP
        acks.append(acks_of(mine.append(GROUP)))
        check(log, topics_of(log, "a"), np.concatenate(acks), all_arrive=False)


def test_one_that_was_replaced_between_two_passes_changes_nothing(world: World) -> None:
    with joined(world) as old, joined(world) as new, joined(world) as broker:
        old.take_over()
        seize(new)
        mine = Appender(broker, 1, topics_of(broker, "a"), 100, 7)
        publish(mine)
        before = everything(broker)
        assert old.maintain(10**15) is False
        with pytest.raises(Replaced):
            old.sequence(0)
        assert everything(broker) == before
        assert old.sequence(0) == 0, "it is a broker like others"
        new.sequence(0)
        assert broker.collect(mine.group)
        assert [status for status, _ in answered(mine)] == [lib.STATUS_OK] * GROUP


def test_one_that_was_replaced_in_the_middle_of_a_pass_orders_nothing(world: World) -> None:
    """It has written entries, which its successor wrote again, and wakes before it would say that they are ordered."""
    stopped = world.sequencer(lib.FAIL_ENTRIES, healthy=0, stops=True)
    stopped.wait_for(b"took over\n")
    with joined(world) as broker, joined(world) as new:
        mine = Appender(broker, 1, topics_of(broker, "a"), 100, 7)
        publish(mine)
        stopped.wait_until_stopped()
        seize(new)
        new.sequence(0)
        assert broker.collect(mine.group)
        acks = [acks_of(b"".join(mine._ack(at, mine.number + at, 0, 1) for at in range(GROUP)))]
        mine.number += GROUP
        before = everything(broker)
        stopped.go_on()
        assert stopped.process.wait(60) == 1, "Replaced ends it"
        assert everything(broker) == before
        publish(mine)
        new.sequence(0)
        assert broker.collect(mine.group)
        acks.append(acks_of(b"".join(mine._ack(at, mine.number + at, 2, 3) for at in range(GROUP))))
        check(broker, topics_of(broker, "a"), np.concatenate(acks))


class Forger:
    """Writes completions into the region, as a process would that had the part once."""

    def __init__(self, log: SharedLog) -> None:
        self.log = log
        self.map = mmap.mmap(log.region.descriptor, log.region.size)

    def answer(self, sequence: int, epoch: int, global_position: int) -> None:
        """And says that the header is completed."""
        broker = self.log.broker
        completion = ffi.new("struct completion *")
        completion.turn, completion.sequencer_epoch, completion.status = sequence + 1, epoch, lib.STATUS_OK
        completion.global_position = completion.base_offset = completion.total_order = global_position
        size = ffi.sizeof("struct completion")
        at = lib.COMPLETION_POSITION + (broker * lib.RING_SLOTS + sequence % lib.RING_SLOTS) * size
        self.map[at : at + size] = bytes(ffi.buffer(completion))
        entry = lib.BROKER_TABLE_POSITION + broker * ffi.sizeof("struct broker_entry")
        at = entry + ffi.offsetof("struct broker_entry", "completed")
        self.map[at : at + 8] = (sequence + 1).to_bytes(8, "little")


@pytest.mark.parametrize(("epoch_back", "ahead"), [(1, 0), (0, 1000)], ids=["older epoch", "not ordered"])
def test_an_answer_that_cannot_be_true_is_not_taken(world: World, epoch_back: int, ahead: int) -> None:
    with joined(world) as new, joined(world) as broker:
        new.take_over()
        epoch = int.from_bytes(
            peek(new, lib.CONTROL_POSITION + ffi.offsetof("struct control", "sequencer_epoch"), 8), "little"
        )
        mine, forger = Appender(broker, 1, topics_of(broker, "a"), 100, 7), Forger(broker)
        first = broker.frontiers().written
        publish(mine)
        ordered = broker.frontiers().ordered
        for at in range(GROUP):
            forger.answer(first + at, epoch - epoch_back, ordered - 1 + ahead)
        assert not broker.collect(mine.group)
        new.sequence(0)
        assert broker.collect(mine.group)
        assert answered(mine) == [(lib.STATUS_OK, ordered + at) for at in range(GROUP)]
        forger.map.close()
