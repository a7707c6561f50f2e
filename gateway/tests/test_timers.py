"""Timers, under a clock that jumps."""

from functools import partial

import pytest
import trio

from totalog.gateway.timers import Timers
from totalog.gateway.waiting import now


async def test_timers_call_in_order(autojump_clock: trio.testing.MockClock, nursery: trio.Nursery) -> None:
    timers, calls = Timers(), []
    start = now()

    def call(name: str) -> None:
        calls.append((name, now() - start))

    timers.call_at(start + 3, lambda: call("before it runs"))
    await nursery.start(timers.run)
    timers.call_at(now() + 5, lambda: call("five"))
    timers.call_at(now() + 1, lambda: call("one"))
    cancelled = timers.call_at(now() + 2, lambda: call("cancelled"))
    cancelled.cancel()
    cancelled.cancel()
    assert not cancelled.active
    twice = [timers.call_at(now() + 4, partial(call, name)) for name in ("four", "four again")]
    timers.call_at(start - 7, lambda: call("past"))
    timers.call_at(now() + 4, lambda: timers.call_at(now() + 0.5, lambda: call("from a callback")))
    await trio.sleep(10)
    assert calls == [
        ("past", 0),
        ("one", 1),
        ("before it runs", 3),
        ("four", 4),
        ("four again", 4),
        ("from a callback", 4.5),
        ("five", 5),
    ]
    assert not any(handle.active for handle in twice)


async def test_a_fault_in_a_callback_ends_the_server() -> None:
    timers = Timers()

    def fault() -> None:
        raise ZeroDivisionError

    with pytest.RaisesGroup(ZeroDivisionError):
        async with trio.open_nursery() as nursery:
            await nursery.start(timers.run)
            timers.call_at(now() + 0, fault)
