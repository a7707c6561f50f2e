"""A gap in a producer's sequence: held while another living ring could still bring what is missing, and no longer.

One process plays all: each broker publishes without waiting, and the sequencer is stepped by hand.
"""

import inspect
import itertools
import time
from collections.abc import Callable
from contextlib import ExitStack
from functools import wraps
from pathlib import Path
from typing import Any

import pytest

from totalog.engine import VIEW, Log, Topic
from totalog.engine._core import ffi, lib
from totalog.engine.appends import AppendGroup
from totalog.engine.shared import SharedLog

HOLD_S = 0.2
HEADERS_MAX = 32
PRODUCER = 7
PAYLOAD = bytes(100)


class Broker:
    def __init__(self, path: Path) -> None:
        self.log = SharedLog.join(path)
        self.group: AppendGroup = self.log.group(HEADERS_MAX + 1)
        self.source = ffi.from_buffer(PAYLOAD)
        self.topic: Topic = self.log.topics()[0]

    def publish(self, *sequences: int, producer: int = PRODUCER, epoch: int = 0) -> None:
        """One group of batches of one record each."""
        for index, sequence in enumerate(sequences):
            append = self.group[index]
            append.source, append.size, append.status = int(ffi.cast("uintptr_t", self.source)), 100, lib.STATUS_OK
            append.topic_slot, append.topic_generation = self.topic.slot, self.topic.generation
            append.partition, append.record_count, append.last_offset_delta = 0, 1, 0
            append.producer_id, append.producer_epoch, append.base_sequence = producer, epoch, sequence
        self.log.publish(self.group, len(sequences))
        self.count = len(sequences)

    @property
    def answers(self) -> list[tuple[int, int]] | None:
        """Status and base offset of each batch of the group; None: not all are answered."""
        if not self.log.collect(self.group):
            return None
        return [(self.group[index].status, self.group[index].base_offset) for index in range(self.count)]


class World:
    def __init__(self, path: Path, stack: ExitStack) -> None:
        with Log.create(path, size=32 << 20) as log:
            log.create_topic("t", id=bytes(16), partitions=1)
        self.sequencer, self.one, self.other = (Broker(path) for _ in range(3))
        for broker in (self.sequencer, self.one, self.other):
            stack.callback(broker.log.close)
        self.sequencer.log.take_over()
        self.one.publish(0)
        assert self.step(self.one) == [(lib.STATUS_OK, 0)]

    def step(self, broker: Broker) -> list[tuple[int, int]] | None:
        self.sequencer.log.sequence(0)
        return broker.answers

    def until_answered(self, broker: Broker) -> float:
        """Seconds; the sequencer sleeps as long as it may."""
        began = time.monotonic()
        while broker.log.collect(broker.group) is False:
            self.sequencer.log.sequence(60)
        return time.monotonic() - began


def in_time(steps: Callable[..., None]) -> Callable[..., None]:
    """A test whose steps, in a world of their own, come within the time for which a gap is held. Where the machine
    stalled for longer than that they are no such steps, whatever came of them, and are gone through in another world.
    """

    @wraps(steps)
    def test(tmp_path: Path, **parameters: Any) -> None:
        for attempt in itertools.count():
            with ExitStack() as stack:
                world = World(tmp_path / f"region{attempt}", stack)
                began = time.monotonic()
                try:
                    return steps(world, **parameters)
                except AssertionError:
                    if time.monotonic() - began < HOLD_S:
                        raise

    first, *others = inspect.signature(steps).parameters.values()
    test.__signature__ = inspect.Signature([first.replace(name="tmp_path"), *others])  # type: ignore[attr-defined]
    return test


OUT_OF_ORDER = (lib.STATUS_OUT_OF_ORDER_SEQUENCE, -1)


@in_time
def test_what_is_missing_comes_by_another_ring(world: World) -> None:
    world.other.publish(2, 3)
    assert world.step(world.other) is None
    world.one.publish(1)
    assert world.step(world.one) == [(lib.STATUS_OK, 1)]
    assert world.other.answers == [(lib.STATUS_OK, 2), (lib.STATUS_OK, 3)]


@pytest.mark.parametrize("first", ["one", "other"])
@in_time
def test_both_rings_are_found_in_one_pass(world: World, first: str) -> None:
    """Whichever ring is looked at first."""
    for turn in range(4):
        sequence = 1 + 2 * turn
        early, late = (world.one, world.other) if first == "one" else (world.other, world.one)
        early.publish(sequence + 1)
        late.publish(sequence)
        assert world.step(late) == [(lib.STATUS_OK, sequence)]
        assert early.answers == [(lib.STATUS_OK, sequence + 1)]


def test_nothing_comes_and_it_is_answered_when_the_time_is_over(tmp_path: Path) -> None:
    with ExitStack() as stack:
        world = World(tmp_path / "region", stack)
        world.other.publish(2)
        began = time.process_time()
        assert HOLD_S * 0.9 <= world.until_answered(world.other)
        assert time.process_time() - began < HOLD_S / 2, "the sequencer slept meanwhile"
        assert world.other.group[0].status == lib.STATUS_OUT_OF_ORDER_SEQUENCE
        world.other.publish(1, 2)
        assert world.step(world.other) == [(lib.STATUS_OK, 1), (lib.STATUS_OK, 2)]


@in_time
def test_other_rings_are_not_delayed(world: World) -> None:
    world.other.publish(2)
    assert world.step(world.other) is None
    for sequence in range(50):
        world.one.publish(sequence, producer=8)
        assert world.step(world.one) == [(lib.STATUS_OK, 1 + sequence)]
    assert world.other.answers is None


@in_time
def test_a_ring_is_not_held_when_many_headers_would_wait(world: World) -> None:
    world.other.publish(2, *range(HEADERS_MAX - 1))
    assert world.step(world.other) is None
    world.one.publish(1)
    world.step(world.one)
    answers = world.other.answers
    assert answers is not None
    assert answers[0] == (lib.STATUS_OK, 2)
    world.other.publish(9, *range(HEADERS_MAX))
    answers = world.step(world.other)
    assert answers is not None
    assert answers[0] == OUT_OF_ORDER


@in_time
def test_a_ring_alone_is_answered_at_once(world: World) -> None:
    world.one.log.close()
    world.other.log.close()
    world.sequencer.publish(5)
    assert world.step(world.sequencer) == [OUT_OF_ORDER]


@in_time
def test_what_is_old_is_no_gap(world: World) -> None:
    world.one.publish(1)
    world.step(world.one)
    world.other.publish(0)
    assert world.step(world.other) == [(lib.STATUS_DUPLICATE, 0)]
    for sequence in range(2, 10):
        world.one.publish(sequence)
        world.step(world.one)
    world.other.publish(1)
    assert world.step(world.other) == [OUT_OF_ORDER], "older than what is remembered"
    world.other.publish(11, epoch=-1)
    assert world.step(world.other) == [(lib.STATUS_INVALID_PRODUCER_EPOCH, -1)]


@in_time
def test_the_wrap_of_sequences_is_no_gap(world: World) -> None:
    world.one.publish(2**31 - 2, producer=9)
    assert world.step(world.one) == [(lib.STATUS_OK, 1)]
    world.other.publish(0, producer=9)
    assert world.step(world.other) is None
    world.one.publish(2**31 - 1, producer=9)
    assert world.step(world.one) == [(lib.STATUS_OK, 2)]
    assert world.other.answers == [(lib.STATUS_OK, 3)]


@in_time
def test_a_new_epoch_waits_for_its_first_batch(world: World) -> None:
    world.other.publish(1, epoch=1)
    assert world.step(world.other) is None
    world.one.publish(0, epoch=1)
    assert world.step(world.one) == [(lib.STATUS_OK, 1)]
    assert world.other.answers == [(lib.STATUS_OK, 2)]


@in_time
def test_a_successor_holds_it_anew(world: World) -> None:
    world.other.publish(2)
    assert world.step(world.other) is None
    world.sequencer.log.close()
    world.one.log.take_over()
    world.one.log.sequence(0)
    assert world.other.answers is None
    world.one.publish(1)
    world.one.log.sequence(0)
    assert world.one.answers == [(lib.STATUS_OK, 1)]
    assert world.other.answers == [(lib.STATUS_OK, 2)]
    assert world.one.log.bounds(world.one.topic, VIEW).next_offset == 3


@in_time
def test_the_ring_of_a_dead_broker_is_ordered_to_its_end(world: World) -> None:
    """Before its segments go; `answers` are what it would have been told."""
    world.other.publish(2, 0)
    assert world.step(world.other) is None
    lib.log_bury(world.sequencer.log._core, 1 << world.other.log.broker)
    answers = world.other.answers
    assert answers is not None
    assert answers == [OUT_OF_ORDER, (lib.STATUS_DUPLICATE, 0)]


@in_time
def test_the_sequencers_own_ring_is_held_too(world: World) -> None:
    world.sequencer.publish(2)
    assert world.step(world.sequencer) is None
    world.one.publish(1)
    world.sequencer.log.sequence(0)
    assert world.one.answers == [(lib.STATUS_OK, 1)]
    assert world.sequencer.answers == [(lib.STATUS_OK, 2)]
