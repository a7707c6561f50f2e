"""A hundred appenders killed and a hundred take-overs, under load, on one region.

Each round one appender dies, at a named step of publishing or at any moment, and one sequencer, at a named step of
ordering or at any moment; two more appenders never stop, and the test's own process sends every batch twice, before the
take-over and after it.
"""

import os
import random
import signal
import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest

from totalog.engine._core import lib
from totalog.engine.tests.process_worker import ACK, GROUP, Appender
from totalog.engine.tests.processes import (
    BROKER_POINTS,
    SEQUENCER_POINTS,
    Process,
    World,
    acks_of,
    check,
    joined,
    left,
    make,
    topics_of,
    wait_for_free,
)

ROUNDS = 100
NAMES = ["a", "b"]


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    made = World(tmp_path / "region")
    yield made
    made.end()


class Load:
    """Appenders that nobody kills. They stop by themselves where nobody listens to what they were told."""

    def __init__(self, world: World, count: int) -> None:
        self.writers = [world.appender(at, NAMES, 10**6, size=200, producer_id=100 + at) for at in range(count)]
        self.said = [b"" for _ in self.writers]

    def step(self, groups: int) -> None:
        """So many further groups of each, which need a sequencer that lives, or its successor."""
        for at, writer in enumerate(self.writers):
            self.said[at] += writer.output.read(ACK.size * GROUP * groups)

    def end(self) -> list[npt.NDArray[np.void]]:
        for writer in self.writers:
            writer.process.send_signal(signal.SIGTERM)
        return [acks_of(said + writer.rest()) for said, writer in zip(self.said, self.writers, strict=True)]


def twice(mine: Appender, before: npt.NDArray[np.void]) -> None:
    """What was appended before the take-over is answered as it was the first time."""
    mine.number -= len(before)
    again = acks_of(mine.append(len(before)))
    assert set(again["status"].tolist()) == {lib.STATUS_DUPLICATE}
    for name in ("number", "global_position", "total_order", "base_offset"):
        assert (again[name] == before[name]).all(), name


class Succession(threading.Thread):
    """Sequencers, one after the other: there is always one that waits to take over, also when its predecessor died
    as soon as it had done so."""

    def __init__(self, world: World, dice: random.Random) -> None:
        super().__init__()
        self.world = world
        self.dice = dice
        self.reign: list[tuple[Process, bool]] = []
        """Each that took over, and whether it kills itself at a step of ordering."""
        self.peaceful = False
        """The next ones do not."""
        self.began = threading.Event()
        self.waiting: Process | None = None
        self.start()

    def run(self) -> None:
        while True:
            point = lib.FAIL_NOWHERE if self.peaceful else self.dice.choice((lib.FAIL_NOWHERE, *SEQUENCER_POINTS))
            self.waiting = self.world.sequencer(fail_at=point, healthy=self.dice.randrange(300))
            if self.waiting.output.readline() != b"took over\n":
                return
            self.reign.append((self.waiting, point != lib.FAIL_NOWHERE))
            self.began.set()

    def end_one(self, load: Load) -> None:
        """The sequencer of now is dead when this returns."""
        process, dies_alone = self.reign[-1]
        if not dies_alone:
            process.process.kill()
        while process.process.poll() is None:
            load.step(1)
        assert process.process.wait() == -signal.SIGKILL

    def settle(self, load: Load) -> None:
        """One that lives, and none that waits."""
        self.peaceful = True
        while self.reign[-1][1] or self.reign[-1][0].process.poll() is not None:
            self.end_one(load)
            load.step(1)
        while self.is_alive():
            if self.waiting is not None and self.waiting is not self.reign[-1][0]:
                self.waiting.process.kill()
            self.join(0.01)


class Victims:
    """Appenders that are killed, at a step of publishing or at any moment."""

    def __init__(self, world: World, dice: random.Random) -> None:
        self.world = world
        self.dice = dice
        self.all: list[Process] = []

    def another(self) -> Process:
        point = self.dice.choice((lib.FAIL_NOWHERE, lib.FAIL_NOWHERE, *BROKER_POINTS))
        options = {"size": self.dice.choice((300, 3000)), "reserved": 100_000, "reads": True}
        healthy, writer = self.dice.randrange(1, 6), 10 + len(self.all)
        self.all.append(self.world.appender(writer, NAMES, 10**6, fail_at=point, healthy=healthy, **options))
        return self.all[-1]

    def end(self) -> list[npt.NDArray[np.void]]:
        """What they were told."""
        for victim in self.all:
            victim.process.kill()
        return [acks_of(victim.rest(-signal.SIGKILL)) for victim in self.all]


def test_a_hundred_kills_and_a_hundred_take_overs_under_load(world: World) -> None:
    seed = int.from_bytes(os.urandom(4), "little")
    print(f"seed {seed}")
    dice = random.Random(seed)
    make(world, {"a": 3, "b": 2}, size=512 << 20)
    with joined(world) as log:
        before = log.memory().blocks_free
        succession, victims = Succession(world, random.Random(seed + 1)), Victims(world, dice)
        succession.began.wait()
        load, mine = Load(world, 2), Appender(log, 2, topics_of(log, *NAMES), 100, 500)
        acks = []
        while len(victims.all) < ROUNDS or len(succession.reign) <= ROUNDS:
            victim = victims.another()
            acks.append(acks_of(mine.append(GROUP)))
            load.step(dice.randrange(4))
            moment = dice.randrange(3)
            if moment == 0:
                victim.process.kill()
            succession.end_one(load)
            twice(mine, acks[-1])
            if moment == 1:
                victim.process.kill()
        succession.settle(load)
        acks += [*load.end(), *victims.end()]
        topics = topics_of(log, *NAMES)
        check(log, topics, np.concatenate(acks), all_arrive=False)
        for topic in topics:
            log.delete_topic(topic)
        wait_for_free(log, before)
        after = left(log)
        assert (after.processes, after.pins, after.headers, after.claims) == (2, 0, 0, 0), after
        assert log.memory().blocks_free == before
