"""Timers: plain functions that are called at their times, on the event loop. Times are those of `waiting.now`."""

import math
from collections.abc import Callable
from heapq import heappop, heappush

import trio

from totalog.gateway.waiting import now


class Handle:
    """A call that waits for its time; `cancel` may come at any moment, also twice or after the call."""

    __slots__ = ("_callback", "deadline")

    def __init__(self, deadline: float, callback: Callable[[], object]) -> None:
        self.deadline = deadline
        self._callback: Callable[[], object] | None = callback

    @property
    def active(self) -> bool:
        """True until the call was made or cancelled."""
        return self._callback is not None

    def cancel(self) -> None:
        self._callback = None

    def _call(self) -> None:
        callback, self._callback = self._callback, None
        if callback is not None:
            callback()


class Timers:
    """Calls plain functions at their times, all from one task: `broker.timers`, run by the server.

    Callbacks run in deadline order, equal deadlines in the order they were asked for. A callback may set further
    timers and ring bells; an exception in it is a fault of ours and ends the server.
    """

    def __init__(self) -> None:
        self._heap: list[tuple[float, int, Handle]] = []
        self._count = 0
        self._next_at = math.inf
        self._scope: trio.CancelScope | None = None

    def call_at(self, deadline: float, callback: Callable[[], object]) -> Handle:
        """Call `callback` when `now()` reaches `deadline`; a deadline in the past is called as soon as possible."""
        handle = Handle(deadline, callback)
        self._count += 1
        heappush(self._heap, (deadline, self._count, handle))
        if deadline < self._next_at and self._scope is not None:
            self._next_at = self._scope.deadline = deadline
        return handle

    async def run(self, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Runs until cancelled; start it with `nursery.start(timers.run)`."""
        task_status.started()
        while True:
            self._call_due()
            self._next_at = self._heap[0][0] if self._heap else math.inf
            with trio.CancelScope(deadline=self._next_at) as self._scope:
                await trio.sleep_forever()
            self._scope = None

    def _call_due(self) -> None:
        time = now()
        while self._heap and (self._heap[0][0] <= time or not self._heap[0][2].active):
            heappop(self._heap)[2]._call()
