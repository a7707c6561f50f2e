"""What all clients together have not taken is bounded, and who takes its answers gets on all the same."""

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from totalog.gateway.connection import Phase
from totalog.gateway.tests.peers import ECHO, LIMITS, PRODUCE, Toys, receive_answer, request
from totalog.gateway.tests.test_hostile_connections import Peer, connected
from totalog.gateway.unsent import Unsent
from totalog.gateway.waiting import Stopped, now, stop_waiting

MIB = 1 << 20


async def test_those_who_wait_are_let_in_one_by_one_in_their_order(nursery: trio.Nursery) -> None:
    unsent, order = Unsent(100), []

    async def answer(name: int, size: int) -> None:
        await unsent.room()
        order.append(name)
        unsent.add(size)

    unsent.add(100)
    for name, size in enumerate([60, 60, 60, 1, 1]):
        nursery.start_soon(answer, name, size)
        await wait_all_tasks_blocked()
    assert order == []
    unsent.remove(100)
    await wait_all_tasks_blocked()
    assert order == [0, 1]
    assert unsent.size == 120  # one answer past the limit
    unsent.remove(60)
    await wait_all_tasks_blocked()
    assert order == [0, 1, 2]
    unsent.remove(60)
    await wait_all_tasks_blocked()
    assert order == [0, 1, 2, 3, 4]


async def test_nobody_overtakes_those_who_wait(nursery: trio.Nursery) -> None:
    unsent, order = Unsent(100), []

    async def answer(name: str) -> None:
        await unsent.room()
        order.append(name)

    unsent.add(100)
    nursery.start_soon(answer, "one")
    nursery.start_soon(answer, "two")
    await wait_all_tasks_blocked()
    waiting = sorted(order)
    unsent.remove(1)  # the first is woken and has not run yet: there is room, and somebody waits
    assert not unsent.full
    await answer("late")
    assert waiting == []
    assert order[-1] == "late"
    assert sorted(order) == ["late", "one", "two"]


@pytest.mark.parametrize("woken", [False, True], ids=["while it waits", "just when it was let in"])
async def test_who_goes_away_passes_its_turn_on(nursery: trio.Nursery, woken: bool) -> None:
    unsent, scope, done = Unsent(10), trio.CancelScope(), []

    async def leaves() -> None:
        with scope:
            await unsent.room()
            await trio.sleep_forever()

    async def stays() -> None:
        await unsent.room()
        done.append(True)

    unsent.add(10)
    nursery.start_soon(leaves)
    await wait_all_tasks_blocked()
    nursery.start_soon(stays)
    await wait_all_tasks_blocked()
    if woken:
        unsent.remove(10)
        scope.cancel()
    else:
        scope.cancel()
        await wait_all_tasks_blocked()
        unsent.remove(10)
    await wait_all_tasks_blocked()
    assert done == [True]


async def test_a_stopping_gateway_ends_the_waiting(nursery: trio.Nursery) -> None:
    unsent = Unsent(10)
    unsent.add(10)
    stopped = []

    async def wait() -> None:
        with pytest.raises(Stopped):
            await unsent.room()
        stopped.append(True)

    nursery.start_soon(wait)
    await wait_all_tasks_blocked()
    stop_waiting()
    await wait_all_tasks_blocked()
    assert stopped == [True]


def test_answers_become_smaller_long_before_it_is_full() -> None:
    unsent, sizes = Unsent(128 * MIB), []
    while not unsent.full:
        sizes.append(unsent.answer_size_max(32 << 10, 4 * MIB))
        unsent.add(sizes[-1])
    assert sizes[0] == 4 * MIB
    assert sizes == sorted(sizes, reverse=True)
    assert sizes[-1] == 32 << 10
    assert len(sizes) > 3000


def stall(peer: Peer) -> None:
    """From now on it reads nothing."""
    peer.transport._stream.send_stream.send_all_hook = trio.sleep_forever  # type: ignore[attr-defined]


@pytest.mark.parametrize("key", [ECHO, PRODUCE])
async def test_peers_that_never_read_lose_their_connections_and_the_others_get_their_answers(
    key: int, autojump_clock: MockClock
) -> None:
    toys = Toys()
    unsent: Unsent = toys.service.broker.unsent
    async with connected(toys, 12) as (good, *bad):
        for peer in bad:
            stall(peer)
            await peer.stream.send_all(request(key, b"x" * 1000))
            await wait_all_tasks_blocked()
        assert [peer.connection.phase for peer in bad] == [Phase.SEND] * 10 + [Phase.TURN]
        await good.stream.send_all(request(key, b"good"))
        await wait_all_tasks_blocked()
        assert good.connection.phase is Phase.TURN
        for peer in (good, *bad):
            assert peer.connection.overdue(now()) is None
        await trio.sleep(LIMITS.pressed_send_s_max + 0.1)
        overdue = [peer.connection.overdue(now()) is not None for peer in (good, *bad)]
        assert overdue == [False] + [True] * 10 + [False]
        for peer in bad[:10]:
            peer.scope.cancel()
        assert await receive_answer(good.stream) == b"good"
        await wait_all_tasks_blocked()
        assert bad[10].connection.phase is Phase.SEND
        assert unsent.size == unsent.size_max // 10 + 4


async def test_without_pressure_a_slow_reader_has_its_time(autojump_clock: MockClock) -> None:
    toys = Toys()
    async with connected(toys, 1) as (slow,):
        stall(slow)
        await slow.stream.send_all(request(ECHO, b"x" * 1000))
        await wait_all_tasks_blocked()
        assert slow.connection.overdue(now()) is None
        await trio.sleep(LIMITS.send_stall_s_max - 1)
        assert slow.connection.overdue(now()) is None
        await trio.sleep(2)
        assert slow.connection.overdue(now()) is not None
