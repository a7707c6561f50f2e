"""Requests whose work a client can make long: they are handled in steps, between which all others get their turn.

What such a request builds is several times its size, and its answer may be larger, so only one of them is in hand at a
time; of those that wait the smallest is next. A request that is small and done within `STEPS_AT_ONCE` steps never comes
here.
"""

from collections.abc import Generator
from heapq import heapify, heappop, heappush
from typing import TypeAlias, TypeVar

from totalog.gateway.waiting import Later, yield_once

T = TypeVar("T")

Steps: TypeAlias = Generator[None, None, T]
"""A handler that yields where others may get their turn, and returns the answer. What it looked up before may be gone
when it goes on. A step takes a few milliseconds at most."""

STEPS_AT_ONCE = 4
"""Steps of a small request that are done before anything waits."""

SMALL_SIZE_MAX = 4096
"""Bytes of a request that is small: what is decoded from it may be held while it waits."""


class Lane:
    def __init__(self) -> None:
        self._busy = False
        self._queue: list[tuple[int, int, Later[None]]] = []
        self._count = 0

    @property
    def waiting(self) -> int:
        """How many requests wait for their turn (a statistic)."""
        return len(self._queue)

    async def run(self, steps: Steps[T], size: int) -> T:
        """Do all steps of a request of `size` bytes when it is its turn. Raises `Stopped` when the gateway stops
        first, and what the steps raise."""
        try:
            await self._take(size)
            try:
                while True:
                    try:
                        next(steps)
                    except StopIteration as done:
                        answer: T = done.value
                        return answer
                    await yield_once()
            finally:
                self._give()
        finally:
            steps.close()

    async def _take(self, size: int) -> None:
        if not self._busy:
            self._busy = True
            return
        turn: Later[None] = Later()
        self._count += 1
        entry = (size, self._count, turn)
        heappush(self._queue, entry)
        try:
            await turn.wait()
        except BaseException:
            if turn.is_set:
                self._give()
            else:
                self._queue.remove(entry)
                heapify(self._queue)
            raise

    def _give(self) -> None:
        if self._queue:
            heappop(self._queue)[2].set(None)
        else:
            self._busy = False


def finish(steps: Steps[T]) -> T:
    """Do all steps at once: for work that no client can make long."""
    while True:
        try:
            next(steps)
        except StopIteration as done:
            answer: T = done.value
            return answer


def step(steps: Steps[T]) -> list[T]:
    """Do one step. Empty: there are more of them."""
    try:
        next(steps)
    except StopIteration as done:
        return [done.value]
    return []


def start(steps: Steps[T]) -> list[T]:
    """Do the first steps. Empty: there are more of them."""
    for _ in range(STEPS_AT_ONCE):
        for answer in step(steps):
            return [answer]
    return []
