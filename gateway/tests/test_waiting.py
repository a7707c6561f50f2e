"""Bells, values that come later, and budgets, under a clock that jumps."""

import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from totalog.gateway.waiting import (
    Bell,
    Budget,
    Frontier,
    Helpers,
    Later,
    Nudge,
    Stopped,
    in_thread,
    now,
    stop_waiting,
)


async def test_bell_wakes_everyone_who_waits_on_the_key(nursery: trio.Nursery) -> None:
    bell, woken = Bell(), []

    async def wait(name: str, *keys: int) -> None:
        assert await bell.wait(keys, 1000)
        woken.append(name)

    nursery.start_soon(wait, "one", 1)
    nursery.start_soon(wait, "both", 1, 2)
    nursery.start_soon(wait, "two", 2)
    await wait_all_tasks_blocked()
    assert bell.waiting() == 3
    bell.ring(3)
    await wait_all_tasks_blocked()
    assert woken == []
    bell.ring(1)
    bell.ring(1)
    await wait_all_tasks_blocked()
    assert sorted(woken) == ["both", "one"]
    bell.ring(2)
    await wait_all_tasks_blocked()
    assert sorted(woken) == ["both", "one", "two"]
    assert bell.waiting() == 0


async def test_bell_says_false_when_the_time_ran_out(autojump_clock: trio.testing.MockClock) -> None:
    bell = Bell()
    start = now()
    assert not await bell.wait([1, 2], 0.5)
    assert now() - start == pytest.approx(0.5)
    assert not await bell.wait([1], 0)
    assert not await bell.wait([1], -1)
    assert now() - start == pytest.approx(0.5)
    assert bell.waiting() == 0


async def test_a_ring_between_looking_and_waiting_is_not_lost(nursery: trio.Nursery) -> None:
    """The producer runs at every point where the consumer lets it run; the consumer must see each of its records."""
    bell = Bell()
    records: list[int] = []
    seen: list[int] = []

    async def consume() -> None:
        while len(seen) < 100:
            if len(records) > len(seen):
                seen.append(records[len(seen)])
            else:
                assert await bell.wait(["topic"], 1e9)

    async def produce() -> None:
        for record in range(100):
            records.append(record)
            bell.ring("topic")
            if record % 3 == 0:
                await trio.lowlevel.checkpoint()

    with trio.fail_after(60):
        async with trio.open_nursery() as both:
            both.start_soon(consume)
            both.start_soon(produce)
    assert seen == records


async def test_a_ring_counts_even_when_time_runs_out_with_it(autojump_clock: trio.testing.MockClock) -> None:
    bell, answers = Bell(), []

    async def wait() -> None:
        answers.append(await bell.wait([1], 10))

    async with trio.open_nursery() as nursery:
        nursery.start_soon(wait)
        await wait_all_tasks_blocked()
        bell.ring(1)
        autojump_clock.jump(20)
    assert answers == [True]


async def test_cancelled_waiters_leave_nothing_behind(nursery: trio.Nursery) -> None:
    bell, later = Bell(), Later[int]()
    with trio.CancelScope() as scope:
        nursery.start_soon(bell.wait, [1], 1000)
        async with trio.open_nursery() as inner:
            inner.start_soon(bell.wait, [1, 1, 2], 1000)
            inner.start_soon(later.wait)
            await wait_all_tasks_blocked()
            scope.cancel()
    assert bell.waiting() == 1
    later.set(1)
    bell.ring(1)
    await wait_all_tasks_blocked()
    assert bell.waiting() == 0


async def test_later_gives_its_value_to_all(nursery: trio.Nursery) -> None:
    later, got = Later[str](), []

    async def wait() -> None:
        got.append(await later.wait())

    nursery.start_soon(wait)
    nursery.start_soon(wait)
    await wait_all_tasks_blocked()
    assert not later.is_set
    later.set("value")
    assert later.is_set
    await wait_all_tasks_blocked()
    assert got == ["value", "value"]
    assert await later.wait() == "value"
    with pytest.raises(AssertionError):
        later.set("another")


async def test_later_may_hold_none() -> None:
    later: Later[None] = Later()
    later.set(None)
    with trio.fail_after(60):
        await later.wait()


async def test_stopping_ends_every_wait_now_and_from_now_on(nursery: trio.Nursery) -> None:
    bell, later, full = Bell(), Later[int](), Budget(1)
    await full.take(1)
    ended: list[str] = []

    async def ring() -> None:
        ended.append(f"rung: {await bell.wait([1], 1e9)}")

    async def value() -> None:
        with pytest.raises(Stopped):
            await later.wait()
        ended.append("no value")

    async def turn() -> None:
        with pytest.raises(Stopped):
            await full.take(1)
        ended.append("no turn")

    for wait in (ring, value, turn):
        nursery.start_soon(wait)
    await wait_all_tasks_blocked()
    stop_waiting()
    await wait_all_tasks_blocked()
    assert sorted(ended) == ["no turn", "no value", "rung: False"]
    with trio.fail_after(60):
        await ring()
        await value()
        await turn()
    full.give(1)
    assert full.taken == 0


async def test_budget_lets_in_what_fits_in_the_order_of_asking(nursery: trio.Nursery) -> None:
    budget = Budget(10)
    admitted: set[int] = set()

    async def take(size: int) -> None:
        await budget.take(size)
        admitted.add(size)

    for size in (6, 3, 5, 1):
        nursery.start_soon(take, size)
        await wait_all_tasks_blocked()
    assert admitted == {6, 3}  # 5 does not fit, and 1 stands behind it
    budget.give(3)
    await wait_all_tasks_blocked()
    assert admitted == {6, 3}
    budget.give(6)
    await wait_all_tasks_blocked()
    assert admitted == {6, 3, 5, 1}
    assert budget.taken == 6


async def test_budget_lets_the_largest_in_alone(nursery: trio.Nursery) -> None:
    budget, order = Budget(10), []

    async def taken(size: int) -> None:
        await budget.take(size)
        order.append(size)

    await taken(100)
    nursery.start_soon(taken, 1)
    await wait_all_tasks_blocked()
    assert order == [100]
    budget.give(100)
    await wait_all_tasks_blocked()
    assert order == [100, 1]


async def test_who_gives_up_its_turn_lets_the_next_go() -> None:
    budget, order = Budget(10), []

    async def taken(size: int) -> None:
        await budget.take(size)
        order.append(size)

    await budget.take(6)
    async with trio.open_nursery() as nursery:
        with trio.CancelScope() as scope:
            async with trio.open_nursery() as inner:
                inner.start_soon(taken, 9)
                await wait_all_tasks_blocked()
                nursery.start_soon(taken, 2)
                await wait_all_tasks_blocked()
                assert order == []
                scope.cancel()
    assert order == [2]
    assert budget.taken == 8


async def test_a_turn_that_comes_with_cancellation_is_given_back() -> None:
    budget = Budget(10)
    await budget.take(10)
    with trio.CancelScope() as scope:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(budget.take, 4)
            await wait_all_tasks_blocked()
            scope.cancel()
            budget.give(10)
    assert budget.taken in (0, 4)
    if budget.taken:
        budget.give(4)
    await budget.take(10)
    assert budget.taken == 10


# Frontiers, nudges, helpers, threads


async def test_a_frontier_wakes_those_whose_goal_it_reached(nursery: trio.Nursery) -> None:
    frontier, woken = Frontier(), []

    async def wait(goal: int) -> None:
        await frontier.wait(goal, 1e9)
        woken.append(goal)

    for goal in (7, 3, 9, 3, 5):
        nursery.start_soon(wait, goal)
    await wait_all_tasks_blocked()
    frontier.reached(2)
    await wait_all_tasks_blocked()
    assert woken == []
    frontier.reached(5)
    await wait_all_tasks_blocked()
    assert sorted(woken) == [3, 3, 5]
    assert frontier.waiting() == 2
    frontier.reached(float("inf"))
    await wait_all_tasks_blocked()
    assert sorted(woken) == [3, 3, 5, 7, 9]


async def test_who_waits_for_a_frontier_leaves_nothing_behind(autojump_clock: trio.testing.MockClock) -> None:
    frontier, start = Frontier(), now()
    await frontier.wait(1, 5)
    assert now() - start == pytest.approx(5)
    assert frontier.waiting() == 0
    with trio.move_on_after(1):
        await frontier.wait(1, 1e9)
    assert frontier.waiting() == 0
    frontier.reached(1)


async def test_the_end_of_waiting_does_not_end_what_comes_by_itself(nursery: trio.Nursery) -> None:
    frontier, nudge, woken = Frontier(), Nudge(), []

    async def for_the_frontier() -> None:
        await frontier.wait(1, 1e9)
        woken.append("frontier")

    async def for_the_nudge() -> None:
        await nudge.wait()
        woken.append("nudge")

    nursery.start_soon(for_the_frontier)
    nursery.start_soon(for_the_nudge)
    await wait_all_tasks_blocked()
    stop_waiting()
    await wait_all_tasks_blocked()
    assert woken == []
    nudge.give()
    nudge.give()
    frontier.reached(1)
    await wait_all_tasks_blocked()
    assert sorted(woken) == ["frontier", "nudge"]


async def test_helpers_are_gone_when_the_block_ends_and_its_fault_is_its_own() -> None:
    ended = []

    async def helper() -> None:
        try:
            await trio.sleep_forever()
        finally:
            ended.append(True)

    with pytest.raises(ZeroDivisionError):  # not in a group
        async with Helpers() as helpers:
            helpers.start(helper)
            await wait_all_tasks_blocked()
            raise ZeroDivisionError
    assert ended == [True]


async def test_a_thread_is_waited_for_also_by_who_was_cancelled() -> None:
    ended: list[bool] = []

    def work() -> int:
        trio.from_thread.run_sync(scope.cancel)
        ended.append(True)
        return 3

    with trio.CancelScope() as scope:
        assert await in_thread(work) == 3
    assert ended == [True]


async def test_a_charge_waits_for_nothing_and_makes_others_wait(nursery: trio.Nursery) -> None:
    budget, taken = Budget(10), []

    async def take() -> None:
        await budget.take(5)
        taken.append(True)

    budget.charge(8)
    assert not budget.overdrawn
    budget.charge(8)
    assert budget.overdrawn
    nursery.start_soon(take)
    await wait_all_tasks_blocked()
    budget.give(8)
    await wait_all_tasks_blocked()
    assert taken == []
    budget.give(8)
    await wait_all_tasks_blocked()
    assert taken == [True]
    assert budget.taken == 5
