"""Peers that mean harm, and what the others notice of them: nothing."""

import gc
import weakref
from collections.abc import AsyncIterator, Awaitable, Iterable
from contextlib import asynccontextmanager, suppress
from typing import Any

import pytest
import trio
from trio.testing import MockClock, memory_stream_pair, wait_all_tasks_blocked

from totalog.gateway import apis, start
from totalog.gateway.apis.api import Request
from totalog.gateway.broker import Broker
from totalog.gateway.connection import Connection, Disconnected, Phase
from totalog.gateway.limits import Limits
from totalog.gateway.tests.harness import build, make_request
from totalog.gateway.tests.peers import (
    ECHO,
    FORMATS,
    LIMITS,
    PRODUCE,
    SLOW,
    MemoryTransport,
    Toys,
    answer,
    receive_answer,
    request,
)
from totalog.gateway.waiting import Budget, Stopped, now
from totalog.gateway.wire import codec
from totalog.gateway.wire.errors import ProtocolViolation

LARGE = 8000
"""Bytes that no receive buffer of these tests holds."""
SMALL_BUDGET = LIMITS._replace(inflight_size_max=LARGE * 3 // 2, inflight_others_size_max=LARGE * 3 // 2)


class Peer:
    """A running connection and the client's end of it."""

    def __init__(self, toys: Toys) -> None:
        self.stream, ours = memory_stream_pair()
        self.transport = MemoryTransport(ours)
        self.connection = Connection(toys.service, self.transport)
        self.scope = trio.CancelScope()

    async def run(self) -> None:
        with suppress(ProtocolViolation, Disconnected, Stopped), self.scope:
            await self.connection.run()
        await self.transport._stream.aclose()


@asynccontextmanager
async def connected(toys: Toys, count: int) -> AsyncIterator[list[Peer]]:
    async with trio.open_nursery() as nursery:
        peers = [Peer(toys) for _ in range(count)]
        for peer in peers:
            nursery.start_soon(peer.run)
        yield peers
        nursery.cancel_scope.cancel()
    assert toys.service.broker.unsent.size == 0
    assert toys.service.budget.taken == toys.service.budget_others.taken == 0
    assert all(reservation.closed for reservation in toys.log.reservations)


def longest_run(bodies: Iterable[bytes]) -> int:
    """How many requests of one peer (the first byte of the body) were answered without one of another between."""
    longest = length = 0
    last = b""
    for body in bodies:
        length = length + 1 if body[:1] == last else 1
        last = body[:1]
        longest = max(longest, length)
    return longest


@pytest.mark.parametrize("later", [False, True], ids=["answered at once", "by handlers that may wait and do not"])
async def test_a_buffer_full_of_requests_does_not_keep_others_waiting(later: bool) -> None:
    toys = Toys()

    async def dispatch(broker: object, one: Request) -> Any:
        return toys.dispatch(broker, one)

    if later:
        toys.service.dispatch = dispatch
    async with connected(toys, 2) as (first, second):
        await first.stream.send_all(request(ECHO, b"1") * 100)
        await second.stream.send_all(request(ECHO, b"2") * 100)
        await wait_all_tasks_blocked()
        bodies = [bytes(one.body) for one in toys.requests]
        assert sorted(bodies) == [b"1"] * 100 + [b"2"] * 100
        assert longest_run(bodies) <= 4


async def test_a_long_poll_with_a_large_request_keeps_no_producer_waiting() -> None:
    toys = Toys(SMALL_BUDGET)
    async with connected(toys, 2) as (consumer, producer):
        await consumer.stream.send_all(request(SLOW, b"c" * LARGE))
        await wait_all_tasks_blocked()
        assert consumer.connection.phase is Phase.HANDLER
        assert toys.service.budget_others.taken > LARGE
        await producer.stream.send_all(request(PRODUCE, b"p" * LARGE))
        with trio.fail_after(1000):
            assert await producer.stream.receive_some(4) == answer(b"p" * LARGE)[:4]


async def test_large_requests_other_than_produce_wait_for_each_other() -> None:
    toys = Toys(SMALL_BUDGET)
    async with connected(toys, 2) as (first, second):
        await first.stream.send_all(request(SLOW, b"1" * LARGE))
        await wait_all_tasks_blocked()
        await second.stream.send_all(request(SLOW, b"2" * LARGE))
        await wait_all_tasks_blocked()
        assert second.connection.phase is Phase.TURN
        toys.go.set()
        await wait_all_tasks_blocked()
        assert [bytes(one.body[:1]) for one in toys.requests] == [b"1", b"2"]


async def test_a_handler_that_lets_go_of_its_request_gives_its_share_back_while_it_waits() -> None:
    """Members of a group may wait for days. Neither budget nor memory must be theirs for so long."""
    toys = Toys(SMALL_BUDGET)
    toys.service.formats = FORMATS | {SLOW: FORMATS[SLOW]._replace(lets_go=True)}
    frames: list[weakref.ref[memoryview]] = []

    async def waits(broker: object, one: Request) -> bytes:
        frames.append(weakref.ref(one.frame))
        del one
        await toys.go.wait()
        return answer(b"done")

    toys.service.dispatch = waits
    async with connected(toys, 3) as peers:
        for peer in peers:
            await peer.stream.send_all(request(SLOW, b"x" * LARGE))
            await wait_all_tasks_blocked()
        assert len(frames) == 3
        assert toys.service.budget_others.taken == 0
        gc.collect()
        assert [frame() for frame in frames] == [None] * 3
        toys.go.set()
        await wait_all_tasks_blocked()
        for peer in peers:
            assert await peer.stream.receive_some(100) == answer(b"done")


async def test_members_that_wait_hold_no_message(broker: Broker) -> None:
    """The handlers of JoinGroup and SyncGroup do what their rows in the API table say."""
    join = {
        "group_id": "g",
        "session_timeout_ms": 10_000,
        "rebalance_timeout_ms": 60_000,
        "protocol_type": "consumer",
        "protocols": [{"name": "range", "metadata": b""}],
    }
    held: list[weakref.ref[Any]] = []

    async def ask(key: int, version: int, fields: dict[str, Any]) -> Any:
        name = apis.TABLE[key].name
        one = make_request(key, version, bytes(build(getattr(codec, f"{name}Request"), version, fields).encode()))
        held.append(weakref.ref(one.frame))
        waiting = apis.dispatch(broker, one)
        assert isinstance(waiting, Awaitable)
        del one
        frame = await waiting
        assert isinstance(frame, bytearray)
        return getattr(codec, f"{name}Response").decode(bytes(frame)[4:], version=version, header=True)

    def check_nothing_is_held(count: int) -> None:
        gc.collect()
        assert [frame() for frame in held] == [None] * count
        messages = (codec.JoinGroupRequest, codec.SyncGroupRequest)
        assert [one for one in gc.get_objects() if isinstance(one, messages)] == []

    assert {api.name for api in apis.TABLE.values() if api.lets_go} == {"JoinGroup", "SyncGroup"}
    async with trio.open_nursery() as nursery:
        await nursery.start(broker.timers.run)
        first = await ask(11, 3, join)
        assert first.error_code == 0
        nursery.start_soon(ask, 11, 3, join)  # waits for the first to join again
        await wait_all_tasks_blocked()
        check_nothing_is_held(2)
        again = await ask(11, 3, join | {"member_id": first.member_id})
        sync = {"group_id": "g", "generation_id": again.generation_id, "member_id": first.member_id}
        follower = next(member.member_id for member in again.members if member.member_id != first.member_id)
        nursery.start_soon(ask, 14, 3, sync | {"member_id": follower})  # waits for the leader
        await wait_all_tasks_blocked()
        check_nothing_is_held(4)
        nursery.cancel_scope.cancel()


async def test_a_connection_that_waits_holds_no_buffer() -> None:
    """Neither for its next request, nor in a long poll with another request behind it, nor with a few bytes of one."""
    toys = Toys()
    toys.service.formats = FORMATS | {SLOW: FORMATS[SLOW]._replace(copies=True)}
    async with connected(toys, 3) as peers:
        for data in (b"", request(SLOW, b"poll") + request(ECHO, b"behind"), request(ECHO, b"x" * 100)[:50]):
            for peer in peers:
                await peer.stream.send_all(data)
                await wait_all_tasks_blocked()
                assert peer.connection._reader._buffer.nbytes == 0
        toys.go.set()
        for peer in peers:
            await peer.stream.send_all(request(ECHO, b"x" * 100)[50:])
            answers = [await receive_answer(peer.stream) for _ in range(3)]
            assert answers == [b"poll", b"behind", b"x" * 100]


def test_requests_whose_frames_are_read_while_they_wait_keep_them(broker: Broker) -> None:
    """The rows of the API table say which do not: those that were decoded, and Fetch."""
    formats = start.service(broker, Limits()).formats
    assert {apis.TABLE[key].name for key, one in formats.items() if not one.copies} == {
        api.name for api in apis.TABLE.values() if (api.raw or api.steps) and api.name != "Fetch"
    }


@pytest.mark.parametrize("wanted", [True, False], ids=["others wait", "nobody waits"])
async def test_who_is_slow_with_a_large_request_gets_less_time_while_others_wait(
    wanted: bool, autojump_clock: MockClock
) -> None:
    toys = Toys(SMALL_BUDGET)
    async with connected(toys, 2) as (slow, other):
        await slow.stream.send_all(request(PRODUCE, b"s" * LARGE)[:2000])
        await wait_all_tasks_blocked()
        assert slow.connection.phase is Phase.BODY
        if wanted:
            await other.stream.send_all(request(PRODUCE, b"o" * LARGE))
            await wait_all_tasks_blocked()
            assert other.connection.phase is Phase.TURN
        assert slow.connection.overdue(now()) is None
        await trio.sleep(LIMITS.pressed_time_s_max + 1)
        assert (slow.connection.overdue(now()) is not None) == wanted
        assert other.connection.overdue(now()) is None


async def test_who_is_quick_with_a_large_request_gets_its_time_though_others_wait(autojump_clock: MockClock) -> None:
    limits = SMALL_BUDGET._replace(pressed_rate_min=100)
    toys = Toys(limits)
    async with connected(toys, 2) as (quick, other):
        frame = request(PRODUCE, b"q" * LARGE)
        await quick.stream.send_all(frame[:2000])
        await wait_all_tasks_blocked()
        await other.stream.send_all(request(PRODUCE, b"o" * LARGE))
        await wait_all_tasks_blocked()
        assert quick.connection.overdue(now()) is None
        for at in range(2000, 4000, 200):
            await trio.sleep(2)  # as fast as is asked for
            await quick.stream.send_all(frame[at : at + 200])
            await wait_all_tasks_blocked()
            assert quick.connection.overdue(now()) is None


async def test_a_budget_knows_whether_it_is_wanted(autojump_clock: MockClock) -> None:
    budget = Budget(10)
    await budget.take(6)
    assert not budget.wanted
    async with trio.open_nursery() as nursery:
        nursery.start_soon(budget.take, 6)
        await wait_all_tasks_blocked()
        assert budget.wanted
        budget.give(6)
        await wait_all_tasks_blocked()
        assert not budget.wanted


def test_the_defaults_hold_each_other() -> None:
    """A large request fits into its budget, and pressure shortens times."""
    limits = Limits()
    assert max(api.frame_size_max for api in apis.TABLE.values() if api.key != PRODUCE) <= (
        limits.inflight_others_size_max
    )
    assert limits.pressed_time_s_max < limits.frame_time_s_max
    assert limits.pressed_send_s_max < limits.send_stall_s_max
    assert limits.pressed_rate_min > limits.transfer_rate_min
