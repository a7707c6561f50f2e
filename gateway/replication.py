"""What waits for the data directories: answers that promise something stored, and consumers of what is durable only.

Words: a *level* is a number of data directories. What is durable on a level stands on that many of them, or on all that
are alive where those are fewer; on level 0 it is ordered, which is all that a topic in memory, or a broker without data
directories, knows.

Invariants
- `moved` runs in the event loop after every move of a replicated frontier and every change of a directory's health (the
  log's `replica_descriptor` tells). Its cost grows with what became durable, not with what there is.
- An answer is checked against the log itself, never against what was seen last.
- Everything here costs nothing without data directories: level 0 is reached at once.
"""

import logging
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Final, TypeVar

from totalog.gateway import lane, waiting
from totalog.gateway.lane import Steps
from totalog.gateway.outbox import Bytes, Owed
from totalog.gateway.waiting import Bell, Frontier
from totalog.gateway.wire.answer import Answer
from totalog.gateway.wire.errors import ErrorCode

if TYPE_CHECKING:
    from totalog.engine import Log, Replica, Topic
    from totalog.gateway.config import Config

T = TypeVar("T")

NOTHING: Final = -1
"""As a global position: nothing was promised."""

PROMISE_S_MAX: Final = 20.0
"""Of waiting for what an answer promises, where the request says no time itself: below the time after which clients
give a request up."""

log = logging.getLogger("totalog")


class Replication:
    def __init__(self, engine: "Log", config: "Config", visible: Bell) -> None:
        """`visible` is rung with a topic's slot when batches of it have become visible."""
        self._log = engine
        self._visible = visible
        self.durable = engine.durable
        """There are data directories."""
        self.directories = engine.directories
        self.own_level = min(config.integer("default.replication.factor"), self.directories)
        """Of what the broker stores itself: topics, groups' offsets, producer ids."""
        self.promised = NOTHING
        """The last global position that the answer being made promises to be stored, and on which level."""
        self.promised_level = 0
        self._frontiers = {level: Frontier() for level in range(1, self.directories + 1)}
        self._hidden: dict[int, OrderedDict[int, tuple[int, int]]] = {level: OrderedDict() for level in self._frontiers}
        """By level and topic slot: first and last position that is not visible yet; in the order of the first."""
        self._failures: dict[Path, str | None] = {}
        self.live = 0
        """Data directories that can be written."""
        self.live = self._look(engine.replicas())

    # Levels

    def ack_level(self, topic: "Topic", insync: int) -> int:
        """On which acks=all of a topic's records is answered; `insync` is its min.insync.replicas."""
        return 0 if topic.memory else min(max(topic.replication, insync), self.directories)

    def visible_level(self, topic: "Topic") -> int:
        """On which consumers see a topic's records."""
        return 0 if topic.memory or topic.visible_when_ordered else min(topic.replication, self.directories)

    def reached(self, position: int, level: int) -> bool:
        return level == 0 or position < self._log.replicated(level)

    @property
    def lost(self) -> bool:
        """Nothing can be stored at the moment."""
        return self.durable and self.live == 0

    # Consumers

    def hide(self, slot: int, level: int, first: int, last: int) -> None:
        """Batches of a topic were ordered, which consumers see once they are durable: then its bell rings."""
        hidden = self._hidden[level]
        known = hidden.get(slot)
        hidden[slot] = (first if known is None else known[0], last)

    def _show(self, level: int, replicated: int) -> None:
        hidden, partly = self._hidden[level], []
        while hidden:
            slot, (first, last) = next(iter(hidden.items()))
            if first >= replicated:
                break
            del hidden[slot]
            if last >= replicated:
                partly.append((slot, last))
            self._visible.ring(slot)
        for slot, last in partly:
            hidden[slot] = replicated, last
            hidden.move_to_end(slot, last=False)

    # Answers

    def promise(self, position: int, level: int = 0) -> None:
        """The answer that is being made is true once `position` is stored: it leaves then, wherever it is made."""
        if self.durable:
            self.promised = max(self.promised, position)
            self.promised_level = max(self.promised_level, level, self.own_level)

    def take_promise(self) -> tuple[int, int]:
        """The position and the level that were promised, once."""
        promised = self.promised, self.promised_level
        self.promised, self.promised_level = NOTHING, 0
        return promised

    def promised_by(self, steps: Steps[T]) -> Steps[tuple[T, tuple[int, int]]]:
        """What a handler in steps returns, and what it promises. Others promise between its steps."""
        position, level = NOTHING, 0
        try:
            while True:
                self.take_promise()
                answers = lane.step(steps)
                promised, promised_level = self.take_promise()
                position, level = max(position, promised), max(level, promised_level)
                for answer in answers:
                    return answer, (position, level)
                yield
        finally:
            steps.close()

    async def stored(self, position: int, level: int, live_min: int, deadline: float) -> ErrorCode:
        """Wait until `position` is durable: NONE. NOT_ENOUGH_REPLICAS_AFTER_APPEND: fewer than `live_min` directories
        are left meanwhile. REQUEST_TIMED_OUT at `deadline`. With an error, nothing is certain."""
        while not self.reached(position, level):
            left = deadline - waiting.now()
            if self.live < live_min:
                return ErrorCode.NOT_ENOUGH_REPLICAS_AFTER_APPEND
            if left <= 0:
                return ErrorCode.REQUEST_TIMED_OUT
            await self._frontiers[level].wait(position + 1, left)
        return ErrorCode.NONE

    async def caught_up(self, ordered: int, level: int, deadline: float) -> bool:
        """Wait until everything below the global position `ordered` is durable, as far as anything still becomes so.
        False: not in time."""
        return await self.stored(ordered - 1, level, 1, deadline) is not ErrorCode.REQUEST_TIMED_OUT

    # What the replicas did

    def moved(self) -> None:
        """Wake who waits for what has been reached since."""
        live = self._look(self._log.replicas())
        changed, self.live = live != self.live, live
        for level, frontier in self._frontiers.items():
            replicated = self._log.replicated(level)
            self._show(level, replicated)
            frontier.reached(float("inf") if changed else replicated)

    def _look(self, replicas: "tuple[Replica, ...]") -> int:
        """Tell of directories that were lost or came back; how many are alive."""
        live = 0
        for replica in replicas:
            live += replica.failure is None
            if replica.failure == self._failures.get(replica.path):
                continue
            self._failures[replica.path] = replica.failure
            if replica.failure is None:
                log.warning("data directory %s is written again", replica.path)
            else:
                log.error("data directory %s is not written any more: %s", replica.path, replica.failure)
        return live

    def waiting(self) -> int:
        """How many tasks wait for a frontier (a statistic)."""
        return sum(frontier.waiting() for frontier in self._frontiers.values())


class Promise(Owed):
    """An answer that is true once a position is stored."""

    def __init__(
        self,
        replication: Replication,
        position: int,
        level: int,
        timeout_s: float,
        encode: Callable[[ErrorCode], Bytes | Answer],
    ) -> None:
        """`encode` makes the answer: with NONE, or with why nothing is certain."""
        self._replication = replication
        self._position = position
        self._level = level
        self._deadline = waiting.now() + timeout_s
        self._encode = encode
        self._code = ErrorCode.NONE

    @property
    def ready(self) -> bool:
        return self._replication.reached(self._position, self._level)

    async def wait(self) -> None:
        self._code = await self._replication.stored(self._position, self._level, 1, self._deadline)

    def answer(self) -> Bytes | Answer:
        return self._encode(self._code)
