"""Waiting across processes: no wake-up is lost, whichever step a waker or a sleeper is stopped at, and nothing is busy
that waits.

The sequencers here sleep for ten minutes if nobody wakes them: no timeout comes to the aid of a wake-up that was lost.
"""

import os
import select
import signal
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

from totalog.engine import VIEW
from totalog.engine._core import ffi, lib
from totalog.engine.shared import SharedLog
from totalog.engine.tests.process_worker import GROUP, SPAN, Appender
from totalog.engine.tests.processes import (
    DEADLINE,
    PER_WRITER,
    Process,
    World,
    acks_of,
    joined,
    left,
    make,
    peek,
    reader_of,
    topics_of,
    until,
)

WAKER_POINTS = (lib.FAIL_WAKER_FENCED, lib.FAIL_WAKER_LOOKED)
SLEEPER_POINTS = (lib.FAIL_SLEEPER_SPUN, lib.FAIL_SLEEPER_SAID, lib.FAIL_SLEEPER_LOOKED)
LONG = 600.0


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    made = World(tmp_path / "region")
    make(made, {"a": 2})
    yield made
    made.end()


@pytest.fixture
def log(world: World) -> Iterator[SharedLog]:
    with joined(world) as log:
        yield log


def word_of_sequencer(log: SharedLog) -> int:
    position = lib.CONTROL_POSITION + ffi.offsetof("struct control", "sequencer_sleeps")
    return int.from_bytes(peek(log, position, 4), "little")


def word_of_broker(log: SharedLog, broker: int) -> int:
    entry = lib.BROKER_TABLE_POSITION + broker * ffi.sizeof("struct broker_entry")
    return int.from_bytes(peek(log, entry + ffi.offsetof("struct broker_entry", "broker_sleeps"), 4), "little")


def sequencer(world: World, fail_at: int = lib.FAIL_NOWHERE, healthy: int = 0) -> Process:
    """It stops at the step, once, when it has handled so many headers."""
    made = world.sequencer(fail_at, healthy, stops=True, seconds_max=LONG)
    made.wait_for(b"took over\n")
    return made


class InThread:
    """One group of this process, appended while it does other things."""

    def __init__(self, log: SharedLog) -> None:
        self.appender = Appender(log, 1, topics_of(log, "a"), 100, -1)
        self.said = b""
        self.thread = threading.Thread()

    def start(self) -> None:
        self.thread = threading.Thread(target=self.append)
        self.thread.start()

    def append(self) -> None:
        self.said = self.appender.append(GROUP)

    def end(self) -> None:
        self.thread.join(DEADLINE)
        assert not self.thread.is_alive(), "it waits for ever"
        assert set(acks_of(self.said)["status"].tolist()) == {lib.STATUS_OK}


@pytest.mark.parametrize("point", WAKER_POINTS)
def test_a_sequencer_is_stopped_as_it_wakes_a_broker(world: World, log: SharedLog, point: int) -> None:
    waker, mine = sequencer(world, point, healthy=GROUP), InThread(log)
    mine.append()
    until(lambda: word_of_sequencer(log) == 1)
    waker.stop()
    mine.start()
    until(lambda: word_of_broker(log, log.broker) == 1)
    waker.go_on()
    waker.wait_until_stopped()
    assert mine.thread.is_alive()
    assert word_of_broker(log, log.broker) == 1, "or nobody else would wake it"
    waker.go_on()
    mine.end()
    assert log.counters()["completion_sleeps"] > 0


@pytest.mark.parametrize("point", WAKER_POINTS)
def test_a_broker_is_stopped_as_it_wakes_the_sequencer_and_another_wakes_it(
    world: World, log: SharedLog, point: int
) -> None:
    sequencer(world)
    waker = world.appender(2, ["a"], 2, fail_at=point, healthy=1, stops=True)
    waker.wait_until_stopped()
    until(lambda: word_of_sequencer(log) == 1)
    waker.go_on()
    waker.wait_until_stopped()
    mine = InThread(log)
    mine.start()
    mine.end()
    until(lambda: left(log).headers == 0)
    waker.go_on()
    assert len(acks_of(waker.rest())) == 2 * GROUP


@pytest.mark.parametrize("point", WAKER_POINTS)
def test_a_broker_is_killed_as_it_wakes_the_sequencer_and_another_wakes_it(
    world: World, log: SharedLog, point: int
) -> None:
    sequencer(world)
    waker = world.appender(2, ["a"], 2, fail_at=point, healthy=1, stops=True)
    waker.wait_until_stopped()
    until(lambda: word_of_sequencer(log) == 1)
    waker.go_on()
    waker.wait_until_stopped()
    waker.process.kill()
    assert len(acks_of(waker.rest(-signal.SIGKILL))) == GROUP
    mine = InThread(log)
    mine.start()
    mine.end()


@pytest.mark.parametrize("point", SLEEPER_POINTS)
def test_a_broker_is_stopped_as_it_falls_asleep(world: World, log: SharedLog, point: int) -> None:
    waker = sequencer(world)
    sleeper = world.appender(2, ["a"], 1, fail_at=point, healthy=0, stops=True)
    sleeper.wait_until_stopped()
    waker.stop()
    sleeper.go_on()
    sleeper.wait_until_stopped()
    waker.go_on()
    until(lambda: left(log).headers == 0)
    sleeper.go_on()
    assert len(acks_of(sleeper.rest())) == GROUP


@pytest.mark.parametrize("point", SLEEPER_POINTS)
def test_a_sequencer_is_stopped_as_it_falls_asleep(world: World, log: SharedLog, point: int) -> None:
    sleeper, mine = sequencer(world, point), InThread(log)
    sleeper.wait_until_stopped()
    mine.start()
    until(lambda: left(log).headers == GROUP and word_of_sequencer(log) == 0)
    sleeper.go_on()
    mine.end()


@pytest.mark.skipif(not getattr(sys, "_is_gil_enabled", lambda: True)(), reason="there is no GIL to wait for")
def test_who_gives_up_the_gil_counts_what_it_waits_for_it(log: SharedLog) -> None:
    log.take_over()
    before = log.counters()
    for number in range(1, 1000):
        waiter = threading.Thread(target=log.sequence, args=(0.01,))
        waiter.start()
        while waiter.is_alive():
            pass  # holds the GIL whenever it may
        after = log.counters()
        assert after["gil_calls"] == before["gil_calls"] + number
        if after["gil_waits"] > before["gil_waits"]:
            break
    assert 0 < after["gil_waits"] - before["gil_waits"] <= number
    assert after["gil_wait_nanoseconds"] - before["gil_wait_nanoseconds"] >= 5000


# -- listeners


def readable(descriptor: int, seconds_max: float = DEADLINE) -> bool:
    poll = select.poll()
    poll.register(descriptor, select.POLLIN)
    return bool(poll.poll(seconds_max * 1000))


def follow(log: SharedLog, batches: int) -> int:
    """Looks only when it was told, until so many batches are there; how often that was."""
    topic, told = topics_of(log, "a")[0], 0
    while log.bounds(topic, VIEW).next_offset < batches * SPAN:
        assert readable(log.ordered_event), "what was ordered was not told"
        os.eventfd_read(log.ordered_event)
        told += 1
    return told


def test_what_others_append_is_told(world: World, log: SharedLog) -> None:
    sequencer(world)
    assert log.ordered_event == log.ordered_event
    assert not readable(log.ordered_event, 0)
    appenders = [world.appender(writer, ["a"], 40) for writer in (2, 3)]
    assert follow(log, 2 * 40 * GROUP) <= 2 * 40 * GROUP
    for appender in appenders:
        appender.rest()


@pytest.mark.parametrize("point", WAKER_POINTS)
def test_a_sequencer_is_stopped_as_it_wakes_a_listener(world: World, log: SharedLog, point: int) -> None:
    waker = sequencer(world, point, healthy=GROUP)
    event = log.ordered_event
    world.appender(2, ["a"], 1).rest()
    follow(log, GROUP)
    until(lambda: word_of_broker(log, log.broker) == 2)
    other = world.appender(3, ["a"], 1)
    waker.wait_until_stopped()
    waker.go_on()
    assert readable(event)
    follow(log, 2 * GROUP)
    other.rest()


def test_a_listener_goes_on_with_the_next_sequencer(world: World, log: SharedLog) -> None:
    first = sequencer(world)
    assert log.ordered_event >= 0
    first.process.kill()
    first.process.wait()
    sequencer(world)
    world.appender(2, ["a"], 3).rest()
    follow(log, 3 * GROUP)


def test_a_process_that_listens_may_append_as_well(world: World, log: SharedLog) -> None:
    sequencer(world)
    assert log.ordered_event >= 0
    appender, mine = world.appender(2, ["a"], 30), InThread(log)
    for _ in range(30):
        mine.append()
    follow(log, 2 * 30 * GROUP)
    appender.rest()


def test_what_others_publish_is_told_to_a_sequencer(world: World, log: SharedLog) -> None:
    with pytest.raises(OSError, match="cannot be listened to"):
        log.published_event  # noqa: B018
    log.take_over()
    appenders = [world.appender(writer, ["a"], 40) for writer in (2, 3)]
    handled = log.sequence(0)
    assert log.published_event == log.published_event
    handled += log.sequence(0)  # what was published before anybody listened
    while handled < 2 * 40 * GROUP:
        assert readable(log.published_event), "what was published was not told"
        os.eventfd_read(log.published_event)
        handled += log.sequence(0)
    assert all(len(acks_of(appender.rest())) == 40 * GROUP for appender in appenders)


@pytest.mark.parametrize("busy", [False, True])
def test_one_call_orders_what_stands_in_a_ring_that_no_pass_knew(world: World, log: SharedLog, busy: bool) -> None:
    """What was published is not told again to an event loop, also where a ring that is known had something as well."""
    log.take_over()
    assert log.sequence(0) == 0
    with joined(world) as known, joined(world) as other:  # the first one has the ring of whoever made the region
        appenders = [InThread(joiner).appender for joiner in ([known, other] if busy else [other])]
        for mine in appenders:
            for index in range(GROUP):
                mine._fill(index, index)
            mine.log.publish(mine.group, GROUP)
        assert log.sequence(0) == len(appenders) * GROUP
        assert all(mine.log.collect(mine.group) for mine in appenders)


def test_a_listener_ends_with_its_log_also_when_nobody_takes_what_it_told(world: World) -> None:
    sequencer(world)
    with joined(world) as log:
        event = log.ordered_event
        world.appender(2, ["a"], 4).rest()
        assert readable(event)
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.eventfd_read(event)


def test_an_event_loop_appends_without_waiting(world: World, log: SharedLog) -> None:
    """Published, told, collected; and what was published before the sequencer was stopped is not answered till it goes
    on."""
    waker, mine = sequencer(world), InThread(log).appender
    event = log.ordered_event
    with pytest.raises(NotImplementedError, match="without the GIL"):
        _ = log.append_call
    for stopped in (False, True, False):
        if stopped:
            waker.stop()
        for index in range(GROUP):
            mine._fill(index, mine.number + index)
        log.publish(mine.group, GROUP)
        with pytest.raises(AssertionError):
            log.append(log.group(GROUP), GROUP)
        if stopped:
            assert not log.collect(mine.group)
            waker.go_on()
        while not log.collect(mine.group):
            assert readable(event), "the answers were not told"
            os.eventfd_read(event)
        answers = [mine.group[index] for index in range(GROUP)]
        assert [answer.status for answer in answers] == [lib.STATUS_OK] * GROUP
        first = answers[0].global_position
        assert [answer.global_position for answer in answers] == list(range(first, first + GROUP))
        mine.number += GROUP


def test_half_of_a_group_is_filled_while_the_other_is_in_flight(log: SharedLog) -> None:
    """What is in flight is not sent again, whether it is ordered already or not; and what is collected may be."""
    log.take_over()
    mine, half = InThread(log).appender, GROUP // 2
    for index in range(GROUP):
        mine.group[index].status = lib.STATUS_INVALID_ARGUMENT  # not to be published yet

    def publish(at: int, number: int) -> None:
        for index in range(at, at + half):
            mine._fill(index, number + index - at)
        log.publish(mine.group, GROUP)

    def statuses() -> list[int]:
        return [mine.group[index].status for index in (0, half - 1, half, GROUP - 1)]

    publish(0, 0)
    log.sequence(0)
    publish(half, half)
    assert statuses() == [lib.STATUS_PENDING] * 4
    assert not log.collect(mine.group)
    assert statuses() == [lib.STATUS_OK] * 2 + [lib.STATUS_PENDING] * 2
    publish(0, 2 * half)
    assert statuses() == [lib.STATUS_PENDING] * 4
    log.append(mine.group, GROUP)  # nothing more goes out: it waits for both
    assert statuses() == [lib.STATUS_OK] * 4
    (topic,) = topics_of(log, "a")
    seen = reader_of(log, topic, [VIEW]).identity
    assert (seen % PER_WRITER).tolist() == list(range(3 * half))


class Effort(NamedTuple):
    """What all threads of a process did so far."""

    processor_s: float
    sleeps: int
    """How often one of them gave up its processor to wait for something."""

    @classmethod
    def of(cls, process_id: int) -> "Effort":
        fields = Path(f"/proc/{process_id}/stat").read_text().rpartition(")")[2].split()
        told = [path.read_text() for path in Path(f"/proc/{process_id}/task").glob("*/status")]
        sleeps = sum(int(text.partition("\nvoluntary_ctxt_switches:")[2].split()[0]) for text in told)
        return cls((int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK"), sleeps)

    def is_next_to_nothing(self, before: "Effort") -> bool:
        """It neither spun nor slept again and again, however busy the machine was: a few threads that end, at most."""
        return self.processor_s - before.processor_s < 0.1 and self.sleeps - before.sleeps <= 20


def test_nothing_is_busy_that_waits(world: World, log: SharedLog) -> None:
    """A sequencer without headers and a listener without news, for a second."""
    waits, event = sequencer(world), log.ordered_event
    world.appender(2, ["a"], 1).rest()
    follow(log, GROUP)
    pids = (waits.process.pid, os.getpid())
    before = [Effort.of(pid) for pid in pids]
    for _ in range(GROUP):  # no more news can be on the way than there are batches
        if not readable(event, 1.0):
            break
        os.eventfd_read(event)
        before = [Effort.of(pid) for pid in pids]
    else:
        raise AssertionError("it is told again and again")
    assert all(Effort.of(pid).is_next_to_nothing(of) for pid, of in zip(pids, before, strict=True))


def test_a_broker_that_waits_for_its_answers_is_not_busy(world: World, log: SharedLog) -> None:
    stopped = sequencer(world)
    stopped.stop()
    waits = world.appender(2, ["a"], 1)
    until(lambda: any(word_of_broker(log, broker) == 1 for broker in range(lib.BROKERS_MAX)))
    before = Effort.of(waits.process.pid)
    assert not readable(waits.output.fileno(), 1.0)
    assert Effort.of(waits.process.pid).is_next_to_nothing(before)
    stopped.go_on()
    waits.rest()
