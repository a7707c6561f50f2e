"""Waiting: every way in which a handler can sleep until something happens.

This is the only door from the handlers to the event loop: they await what is here and import no trio.

Invariants
- Everything belongs to one event loop and one thread; nothing here is safe to call from another thread.
- No wake-up is lost: a waiter is registered before the first checkpoint of `wait`, so what a handler saw just before
  it called `wait` cannot change unseen. Waking never runs the waiter: it only makes it runnable.
- A waiter leaves nothing behind, whether it was woken, timed out or cancelled.
- `stop_waiting` ends the waits of the running loop: a `Bell` answers as if its time were up, a `Later` raises
  `Stopped`. Waits begun afterwards end at once. So a stopping server has nothing parked that it has to outwait, but for
  what comes by itself in any case, and is still worth waiting for then (`Frontier`, `Nudge`).

Times are seconds of the loop's clock (`now`), which the tests replace by a mock; wall time is the broker's clock.
"""

from bisect import bisect_left, insort
from collections.abc import Awaitable, Callable, Hashable, Iterable
from types import TracebackType
from typing import Generic, Self, TypeVar

import trio

T = TypeVar("T")

DISK_THREADS_COUNT = 8
"""Threads that wait for a disk at once; who comes later waits for one of them."""

OPENING_THREADS_COUNT = 2
"""Threads that decompress at once. Each may take memory of its own, and a core."""


class Stopped(Exception):
    """The gateway is stopping; what was waited for will not come any more. The connection ends without an answer."""


def now() -> float:
    """The loop's monotonic clock in seconds. Only differences mean anything."""
    return trio.current_time()


class _Parked:
    """What is parked in one run of the event loop, so that stopping can end it."""

    def __init__(self) -> None:
        self.stopped = False
        self.tasks: dict[trio.lowlevel.Task, None] = {}


_parked_of_run: trio.lowlevel.RunVar[_Parked] = trio.lowlevel.RunVar("totalog.parked")


def _parked() -> _Parked:
    try:
        return _parked_of_run.get()
    except LookupError:
        parked = _Parked()
        _parked_of_run.set(parked)
        return parked


def stop_waiting() -> None:
    """End every wait of this loop, now and from now on."""
    parked = _parked()
    parked.stopped = True
    tasks, parked.tasks = parked.tasks, {}
    for task in tasks:
        trio.lowlevel.reschedule(task)


def _wake(task: trio.lowlevel.Task) -> None:
    """Make a parked task runnable; the second wake-up of a task that has not run since does nothing."""
    if _parked().tasks.pop(task, task) is None:
        trio.lowlevel.reschedule(task)


async def _park() -> None:
    """Sleep until `_wake`, `stop_waiting` or cancellation."""
    tasks = _parked().tasks
    task = trio.lowlevel.current_task()
    tasks[task] = None

    def abort(_raise_cancel: object) -> trio.lowlevel.Abort:
        _parked().tasks.pop(task, None)
        return trio.lowlevel.Abort.SUCCEEDED

    await trio.lowlevel.wait_task_rescheduled(abort)


class Bell:
    """Wakes those who wait on a key.

    Ringing a key that nobody waits on costs one dictionary look-up, so that the produce path can ring for each topic.
    """

    def __init__(self) -> None:
        self._waiters: dict[Hashable, dict[trio.lowlevel.Task, None]] = {}
        self._rung: set[trio.lowlevel.Task] = set()

    def ring(self, key: Hashable) -> None:
        """Wake everyone who waits on `key`."""
        waiters = self._waiters.get(key)
        if waiters is not None:
            for task in waiters:
                self._rung.add(task)
                _wake(task)

    async def wait(self, keys: Iterable[Hashable], timeout: float) -> bool:
        """Wait until one of `keys` rings, at most `timeout` seconds. False: the time ran out, or the gateway stops."""
        task = trio.lowlevel.current_task()
        keys = tuple(keys)
        for key in keys:
            self._waiters.setdefault(key, {})[task] = None
        try:
            if not _parked().stopped:
                with trio.move_on_after(max(timeout, 0.0)):
                    await _park()
            return task in self._rung
        finally:
            self._rung.discard(task)
            for key in keys:
                waiters = self._waiters.get(key)
                if waiters is not None and waiters.pop(task, task) is None and not waiters:
                    del self._waiters[key]

    def waiting(self) -> int:
        """How many tasks wait (a statistic)."""
        return len({task for waiters in self._waiters.values() for task in waiters})


class Nudge:
    """Wakes one task, which looks again whether what it waits for is there. The end of waiting does not end this."""

    def __init__(self) -> None:
        self._task: trio.lowlevel.Task | None = None

    def give(self) -> None:
        task, self._task = self._task, None
        if task is not None:
            trio.lowlevel.reschedule(task)

    async def wait(self) -> None:
        assert self._task is None, "one task waits at a time"
        self._task = trio.lowlevel.current_task()

        def abort(_raise_cancel: object) -> trio.lowlevel.Abort:
            self._task = None
            return trio.lowlevel.Abort.SUCCEEDED

        await trio.lowlevel.wait_task_rescheduled(abort)


class Frontier:
    """Wakes those who wait for a number that only grows to reach their goals, the lowest goal first.

    Whoever waits looks at the number itself before and after. The end of waiting does not end this.
    """

    def __init__(self) -> None:
        self._waiters: list[tuple[int, int, Nudge]] = []
        """By goal. The second number makes every entry another one, so that nudges are never compared."""
        self._count = 0

    def reached(self, value: float) -> None:
        """Wake those whose goal is at most `value`; infinity wakes everyone."""
        count = bisect_left(self._waiters, value, key=lambda waiter: waiter[0] - 0.5)
        woken, self._waiters[:count] = self._waiters[:count], []
        for _, _, nudge in woken:
            nudge.give()

    async def wait(self, goal: int, timeout: float) -> None:
        """Returns when woken, or after `timeout` seconds."""
        self._count += 1
        waiter = (goal, self._count, Nudge())
        insort(self._waiters, waiter)
        try:
            with trio.move_on_after(max(timeout, 0.0)):
                await waiter[2].wait()
        finally:
            at = bisect_left(self._waiters, waiter)
            if self._waiters[at : at + 1] == [waiter]:
                del self._waiters[at]

    def waiting(self) -> int:
        """How many tasks wait (a statistic)."""
        return len(self._waiters)


class Helpers:
    """Tasks beside the one that enters the block, started in it, cancelled and gone when it ends.

    An exception of a helper is a fault of ours and ends the block; one of the block itself passes through as it is.
    """

    async def __aenter__(self) -> Self:
        self._manager = trio.open_nursery()
        self._nursery = await self._manager.__aenter__()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, fault: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._nursery.cancel_scope.cancel()
        await self._manager.__aexit__(None, None, None)

    def start(self, run: Callable[[], Awaitable[None]]) -> None:
        self._nursery.start_soon(run)


class Later(Generic[T]):
    """One value that is set later, once; any number of tasks may wait for it, before or after."""

    def __init__(self) -> None:
        self._value: list[T] = []
        self._waiters: list[trio.lowlevel.Task] = []

    @property
    def is_set(self) -> bool:
        return bool(self._value)

    def set(self, value: T) -> None:
        assert not self._value, "a Later is set once"
        self._value.append(value)
        waiters, self._waiters = self._waiters, []
        for task in waiters:
            _wake(task)

    async def wait(self) -> T:
        """The value. Raises `Stopped` when the gateway stops first."""
        if not self._value and not _parked().stopped:
            task = trio.lowlevel.current_task()
            self._waiters.append(task)
            try:
                await _park()
            finally:
                if task in self._waiters:
                    self._waiters.remove(task)
        if not self._value:
            raise Stopped
        return self._value[0]


class Budget:
    """A number of bytes that may be in flight at once. Those who ask for more wait in the order they came.

    A single request larger than the whole budget is let in alone, so that nothing waits for ever.
    """

    def __init__(self, size: int) -> None:
        self.size = size
        self.taken = 0
        self._queue: dict[Later[None], int] = {}

    @property
    def wanted(self) -> bool:
        """Somebody waits for others to give back."""
        return bool(self._queue)

    def _fits(self, size: int) -> bool:
        return self.taken == 0 or self.taken + size <= self.size

    async def take(self, size: int) -> None:
        """Wait until `size` bytes are free, and take them. Raises `Stopped` when the gateway stops first."""
        if not self._queue and self._fits(size):
            self.taken += size
            return
        turn: Later[None] = Later()
        self._queue[turn] = size
        try:
            await turn.wait()
        except BaseException:
            if turn.is_set:
                self.give(size)
            else:
                del self._queue[turn]
                self._admit()
            raise

    @property
    def overdrawn(self) -> bool:
        return self.taken > self.size

    def charge(self, size: int) -> None:
        """Take `size` bytes without waiting, whether they are free or not: what they are spent on is there already."""
        self.taken += size

    def give(self, size: int) -> None:
        """Give back what was taken."""
        self.taken -= size
        assert self.taken >= 0
        self._admit()

    def _admit(self) -> None:
        while self._queue:
            turn, size = next(iter(self._queue.items()))
            if not self._fits(size):
                break
            del self._queue[turn]
            self.taken += size
            turn.set(None)


async def yield_once() -> None:
    """Let other tasks run: for loops that could otherwise keep the event loop to themselves."""
    await trio.lowlevel.checkpoint()


async def in_thread(call: Callable[[], T]) -> T:
    """What `call` returns, from a thread: for what waits for a disk. It is waited for to its end, also when the waiting
    task is cancelled meanwhile, so that what it writes to stays where it is."""
    return await trio.to_thread.run_sync(call, limiter=_threads(_disk_threads_of_run, DISK_THREADS_COUNT))


async def in_opening_thread(call: Callable[[], T]) -> T:
    """The same for what decompresses."""
    return await trio.to_thread.run_sync(call, limiter=_threads(_opening_threads_of_run, OPENING_THREADS_COUNT))


_Limiter = trio.lowlevel.RunVar[trio.CapacityLimiter]
_disk_threads_of_run: _Limiter = trio.lowlevel.RunVar("totalog.disk_threads")
_opening_threads_of_run: _Limiter = trio.lowlevel.RunVar("totalog.opening_threads")


def _threads(of_run: _Limiter, count: int) -> trio.CapacityLimiter:
    try:
        return of_run.get()
    except LookupError:
        limiter = trio.CapacityLimiter(count)
        of_run.set(limiter)
        return limiter
