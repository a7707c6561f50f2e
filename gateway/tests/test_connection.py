"""One connection: order, groups, large bodies, and every way to end."""

from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from contextlib import asynccontextmanager

import pytest
import trio
from trio.testing import memory_stream_pair, wait_all_tasks_blocked

from totalog.engine import EngineError, LimitReached, OutOfMemory
from totalog.gateway.apis.api import Dispatched, Request
from totalog.gateway.connection import Bytes, Connection, Disconnected, Phase
from totalog.gateway.tests.peers import (
    BROKEN,
    ECHO,
    LIMITS,
    PRODUCE,
    SLOW,
    MemoryTransport,
    Toys,
    answer,
    holders,
    receive_answer,
    request,
)
from totalog.gateway.waiting import Stopped, stop_waiting
from totalog.gateway.wire.answer import Answer
from totalog.gateway.wire.errors import ProtocolViolation


class Peer:
    """A running connection and the client's end of it."""

    def __init__(self, toys: Toys) -> None:
        self.toys = toys
        self.stream, ours = memory_stream_pair()
        self.transport = MemoryTransport(ours)
        self.connection = Connection(toys.service, self.transport)
        self.ended = trio.Event()
        self.fault: Exception | None = None

    async def run(self) -> None:
        try:
            await self.connection.run()
        except (ProtocolViolation, Disconnected, Stopped, ZeroDivisionError) as fault:
            self.fault = fault
        self.ended.set()
        await self.transport._stream.aclose()

    async def send(self, data: bytes) -> None:
        await self.stream.send_all(data)
        await wait_all_tasks_blocked()

    async def answers(self, count: int) -> list[bytes]:
        return [await receive_answer(self.stream) for _ in range(count)]

    async def end(self) -> Exception | None:
        """How the connection ended, once it did."""
        with trio.fail_after(1000):
            await self.ended.wait()
        return self.fault


@asynccontextmanager
async def connected(toys: Toys | None = None) -> AsyncIterator[Peer]:
    peer = Peer(toys or Toys())
    async with trio.open_nursery() as nursery:
        nursery.start_soon(peer.run)
        yield peer
        nursery.cancel_scope.cancel()
    check_nothing_is_held(peer.toys)


def check_nothing_is_held(toys: Toys) -> None:
    assert all(reservation.closed for reservation in toys.log.reservations)
    assert toys.service.budget.taken == 0


async def test_produce_requests_that_come_together_are_one_group_and_one_send() -> None:
    async with connected() as peer:
        bodies = [b"a", b"b", b"c"]
        await peer.send(b"".join(request(PRODUCE, body) for body in bodies))
        assert await peer.answers(3) == bodies
        assert peer.toys.groups == [bodies]
        assert peer.transport.sends == [[answer(body) for body in bodies]]


async def test_other_requests_part_the_groups_and_order_stays() -> None:
    async with connected() as peer:
        keys = [PRODUCE, PRODUCE, ECHO, ECHO, PRODUCE, ECHO, PRODUCE]
        await peer.send(b"".join(request(key, b"%d" % index) for index, key in enumerate(keys)))
        assert await peer.answers(7) == [b"%d" % index for index in range(7)]
        assert peer.toys.groups == [[b"0", b"1"], [b"4"], [b"6"]]
        assert len(peer.transport.sends) == 1
        assert [one.key for one in peer.toys.requests] == keys


async def test_byte_by_byte() -> None:
    async with connected() as peer:
        data = request(PRODUCE, b"one") + request(ECHO, b"two") + request(PRODUCE, bytes(1500)) + request(PRODUCE, b"x")
        for index in range(len(data)):
            await peer.stream.send_all(data[index : index + 1])
        assert await peer.answers(4) == [b"one", b"two", bytes(1500), b"x"]
        assert len(peer.toys.log.reservations) == 1


async def test_requests_without_an_answer_get_none() -> None:
    async with connected() as peer:
        await peer.send(request(PRODUCE, b"-") + request(PRODUCE, b"a") + request(PRODUCE, b"-") + request(ECHO, b"b"))
        assert await peer.answers(2) == [b"a", b"b"]
        await peer.send(request(PRODUCE, b"-"))
        assert peer.toys.groups[-1] == [b"-"]
        assert len(peer.transport.sends) == 1


async def test_six_hundred_requests_in_flight() -> None:
    """More than one receive buffer and one group hold; all are sent before one answer is read."""
    async with connected() as peer:
        bodies = [b"%03d" % index for index in range(600)]
        await peer.send(b"".join(request(PRODUCE, body) for body in bodies))
        assert await peer.answers(600) == bodies
        assert [body for group in peer.toys.groups for body in group] == bodies
        assert max(map(len, peer.toys.groups)) == LIMITS.group_count_max


async def test_a_handler_that_waits_holds_back_what_is_behind_it() -> None:
    async with connected() as peer:
        await peer.send(request(PRODUCE, b"before") + request(SLOW, b"slow") + request(PRODUCE, b"behind"))
        assert await peer.answers(1) == [b"before"]
        assert peer.toys.groups == [[b"before"]]
        assert peer.connection.phase is Phase.HANDLER
        await peer.send(request(ECHO, b"later"))
        assert peer.transport.sends == [[answer(b"before")]]
        peer.toys.go.set()
        assert await peer.answers(3) == [b"slow", b"behind", b"later"]


async def test_large_answers_do_not_wait_for_each_other() -> None:
    async with connected() as peer:
        await peer.send(request(ECHO, bytes(900)) * 3)
        assert await peer.answers(3) == [bytes(900)] * 3
        assert [len(send) for send in peer.transport.sends] == [3]
        await peer.send(request(ECHO, bytes(1100)) * 3)
        await peer.answers(3)
        assert [len(send) for send in peer.transport.sends] == [3, 2, 1]


# Large bodies


@pytest.mark.parametrize("first", [14, 100, 1024])
async def test_a_large_body_is_received_into_its_reservation(first: int) -> None:
    async with connected() as peer:
        body = bytes(range(256)) * 20
        data = request(PRODUCE, b"small") + request(PRODUCE, body) + request(PRODUCE, b"behind")
        at = len(request(PRODUCE, b"small")) + first
        await peer.send(data[:at])
        assert await peer.answers(1) == [b"small"]
        (reservation,) = peer.toys.log.reservations
        assert reservation.size == len(request(PRODUCE, body))
        assert peer.toys.service.budget.taken == reservation.size
        assert peer.connection.phase is Phase.BODY
        assert not reservation.closed
        await peer.send(data[at:])
        assert await peer.answers(2) == [body, b"behind"]
        assert reservation.closed
        assert peer.toys.requests[1].reservation is reservation
        assert bytes(reservation.memory) == request(PRODUCE, body)
        assert peer.toys.groups == [[b"small"], [body], [b"behind"]]


@pytest.mark.parametrize("refusal", [OutOfMemory("no room"), LimitReached("bytes in one reservation", 1000)])
async def test_without_room_in_the_log_a_large_body_gets_its_answer_all_the_same(refusal: EngineError) -> None:
    async with connected() as peer:
        peer.toys.log.room, peer.toys.log.refusal = 1000, refusal
        body = bytes(5000)
        await peer.send(request(PRODUCE, body) + request(ECHO, b"next"))
        assert await peer.answers(2) == [body, b"next"]
        assert peer.toys.requests[0].reservation is None
        assert peer.toys.service.broker.counters.bodies_without_room == 1


async def test_large_requests_of_other_apis_take_no_room_in_the_log() -> None:
    async with connected() as peer:
        body = bytes(9000)
        await peer.send(request(ECHO, body))
        assert await peer.answers(1) == [body]
        assert peer.toys.log.reservations == []


async def test_large_bodies_wait_for_their_turn() -> None:
    toys = Toys()
    async with connected(toys) as one, connected(toys) as two:
        body = bytes(6000)
        await one.send(request(PRODUCE, body)[:-1])
        await two.send(request(PRODUCE, body))
        assert two.connection.phase is Phase.TURN
        assert len(toys.log.reservations) == 1
        await one.send(b"\0")
        assert await one.answers(1) == [body]
        assert await two.answers(1) == [body]


async def test_a_body_may_be_larger_than_the_budget() -> None:
    async with connected() as peer:
        await peer.send(request(PRODUCE, bytes(15_000)))
        assert await peer.answers(1) == [bytes(15_000)]


async def leave(peer: Peer) -> None:
    await peer.stream.send_eof()


async def vanish(peer: Peer) -> None:
    await peer.stream.aclose()


@pytest.mark.parametrize("go", [leave, vanish])
@pytest.mark.parametrize("room", [0, 1 << 30], ids=["full", "room"])
async def test_a_client_that_goes_in_the_middle_of_a_body_leaves_nothing(
    go: Callable[[Peer], Awaitable[None]], room: int
) -> None:
    async with connected() as peer:
        peer.toys.log.room = room
        await peer.send(request(PRODUCE, bytes(8000))[:5000])
        assert peer.toys.service.budget.taken > 0
        await go(peer)
        assert isinstance(await peer.end(), Disconnected)
        check_nothing_is_held(peer.toys)
        assert peer.toys.groups == []


async def test_a_connection_cut_in_the_middle_of_a_body_leaves_nothing() -> None:
    async with connected() as peer:
        await peer.send(request(PRODUCE, bytes(8000))[:5000])
        assert not peer.toys.log.reservations[0].closed
    assert peer.toys.log.reservations[0].closed


async def test_one_who_waits_for_its_turn_and_is_cut_takes_nothing() -> None:
    toys = Toys()
    async with connected(toys) as one:
        await one.send(request(PRODUCE, bytes(6000))[:-1])
        two = Peer(toys)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(two.run)
            await two.send(request(PRODUCE, bytes(6000)))
            nursery.cancel_scope.cancel()
        assert len(toys.log.reservations) == 1
        await one.send(b"\0")
        await one.answers(1)


async def test_a_fault_of_ours_in_a_large_request_closes_its_reservation() -> None:
    toys = Toys()

    def fault(broker: object, requests: Sequence[Request]) -> Sequence[Bytes | None]:
        raise ZeroDivisionError

    toys.service.produce = fault
    async with connected(toys) as peer:
        await peer.send(request(PRODUCE, bytes(8000)))
        assert isinstance(await peer.end(), ZeroDivisionError)


# The ways to end


async def test_half_closed_clients_get_their_answers() -> None:
    async with connected() as peer:
        await peer.stream.send_all(request(PRODUCE, b"a") + request(SLOW, b"b") + request(ECHO, b"c"))
        await peer.stream.send_eof()
        await wait_all_tasks_blocked()
        peer.toys.go.set()
        assert await peer.answers(3) == [b"a", b"b", b"c"]
        assert await peer.end() is None
        assert await peer.stream.receive_some() == b""


async def test_leaving_inside_a_frame_is_no_polite_end() -> None:
    async with connected() as peer:
        await peer.send(request(PRODUCE, b"a") + request(PRODUCE, b"b")[:-1])
        await peer.stream.send_eof()
        assert isinstance(await peer.end(), Disconnected)
        assert await peer.answers(1) == [b"a"]


BAD_FRAMES = [b"\0\0\0\0", b"\xff\xff\xff\xff", b"GET / HTTP/1.1", request(4711), request(ECHO, bytes(20_001))]


@pytest.mark.parametrize("bad", BAD_FRAMES, ids=range(len(BAD_FRAMES)))
async def test_what_came_before_bad_bytes_is_answered(bad: bytes) -> None:
    async with connected() as peer:
        await peer.stream.send_all(request(PRODUCE, b"a") + request(PRODUCE, b"b") + bad + request(ECHO, b"never"))
        fault = await peer.end()
        assert isinstance(fault, ProtocolViolation)
        assert holders(fault) == []
        assert await peer.answers(2) == [b"a", b"b"]
        assert await peer.stream.receive_some() == b""


async def test_what_came_before_a_bad_request_is_answered() -> None:
    """The handlers tell, instead of the frames; Produce gives the answers of the group first."""
    toys = Toys()

    def dispatch(broker: object, one: Request) -> Dispatched:
        raise ProtocolViolation("bad request")

    def produce(broker: object, requests: Sequence[Request]) -> Iterator[Bytes]:
        yield answer(bytes(requests[0].body))
        if len(requests) > 1:
            raise ProtocolViolation("bad produce request")

    toys.service.dispatch, toys.service.produce = dispatch, produce
    async with connected(toys) as peer:
        await peer.stream.send_all(request(PRODUCE, b"a") + request(ECHO, b"b") + request(PRODUCE, b"c"))
        assert str(await peer.end()) == "bad request"
        assert await peer.answers(1) == [b"a"]
    async with connected(toys) as peer:
        await peer.stream.send_all(request(PRODUCE, b"a") + request(PRODUCE, b"b"))
        assert str(await peer.end()) == "bad produce request"
        assert await peer.answers(1) == [b"a"]


async def test_a_fault_of_ours_is_not_caught() -> None:
    async with connected() as peer:
        await peer.send(request(BROKEN))
        assert isinstance(await peer.end(), ZeroDivisionError)


async def test_handlers_that_end_because_the_server_stops() -> None:
    toys = Toys()

    async def wait(echo: bytes) -> bytes:
        raise Stopped

    toys.slow = wait  # type: ignore[method-assign]
    async with connected(toys) as peer:
        await peer.send(request(SLOW))
        assert isinstance(await peer.end(), Stopped)


# Answers that hold a buffer


class Held(Answer):
    """An answer that counts how often it was released."""

    released = 0

    def release(self) -> None:
        self.released += 1
        super().release()


def hold(toys: Toys) -> list[Held]:
    held: list[Held] = []

    def dispatch(broker: object, one: Request) -> Dispatched:
        if one.key == BROKEN:
            raise ZeroDivisionError
        echo = memoryview(answer(bytes(one.body)))
        held.append(Held([echo[:4], echo[4:]]))
        return held[-1]

    toys.service.dispatch = dispatch
    return held


async def test_answers_are_released_once_they_are_sent() -> None:
    toys = Toys()
    held = hold(toys)
    async with connected(toys) as peer:
        await peer.send(request(ECHO, b"a") + request(ECHO, b"b"))
        assert await peer.answers(2) == [b"a", b"b"]
        assert [one.released for one in held] == [1, 1]
        assert [len(send) for send in peer.transport.sends] == [4]


async def test_answers_are_released_when_they_can_not_be_sent() -> None:
    toys = Toys()
    held = hold(toys)
    peer = Peer(toys)
    await peer.stream.send_all(request(ECHO, b"a"))
    await peer.stream.aclose()
    await peer.run()
    assert isinstance(peer.fault, Disconnected)
    assert [one.released for one in held] == [1]


async def test_answers_are_released_when_a_later_request_fails() -> None:
    toys = Toys()
    held = hold(toys)
    async with connected(toys) as peer:
        await peer.stream.send_all(request(ECHO, b"a") + request(BROKEN))
        assert isinstance(await peer.end(), ZeroDivisionError)
        assert [one.released for one in held] == [1]


# Peers that are too slow


async def test_an_idle_connection_is_overdue_after_its_time() -> None:
    async with connected(Toys(settings=["connections.max.idle.ms=5000"])) as peer:
        await wait_all_tasks_blocked()
        assert peer.connection.overdue(100) is None
        assert peer.connection.overdue(105) is None
        await peer.send(request(ECHO, b"a"))  # traffic starts the time anew
        assert peer.connection.overdue(106) is None
        assert peer.connection.overdue(111) is None
        assert peer.connection.overdue(111.1) == "it waited too long for the next request"


async def test_a_frame_that_trickles_in_is_overdue() -> None:
    async with connected() as peer:
        data = request(ECHO, bytes(3000))
        await peer.send(data[:1])
        assert peer.connection.overdue(0) is None
        for second in range(1, 31):
            await peer.send(data[second : second + 1])
            assert peer.connection.overdue(second) is None
        # 30 bytes in 30 seconds buy 0.3 seconds at 100 bytes a second
        assert peer.connection.overdue(30.3) is None
        assert peer.connection.overdue(30.4) == "it waited too long for the rest of a request"


async def test_each_frame_has_its_own_time() -> None:
    """Requests without an answer, always cut in the middle: at no time the connection waits for nothing."""
    async with connected() as peer:
        data = request(PRODUCE, b"-")
        await peer.send(data[:5])
        for second in range(0, 1000, 20):
            assert peer.connection.overdue(second) is None
            await peer.send(data[5:] + data[:5])
        assert len(peer.toys.groups) == 50


async def test_a_large_body_gets_time_for_its_size_but_not_for_nothing() -> None:
    async with connected() as peer:
        data = request(PRODUCE, bytes(15_000))
        await peer.send(data[:1000])
        assert peer.connection.overdue(0) is None
        at = 1000
        for second in range(1, 100):
            await peer.send(data[at : at + 110])
            at += 110
            assert peer.connection.overdue(second) is None
        assert peer.connection.overdue(30 + 108) is None
        assert peer.connection.overdue(30 + 110) == "it waited too long for the rest of a large request"


async def test_a_client_that_never_reads_is_overdue() -> None:
    toys = Toys()
    peer = Peer(toys)
    reads = trio.Event()
    peer.transport._stream.send_stream.send_all_hook = reads.wait  # type: ignore[attr-defined]
    async with trio.open_nursery() as nursery:
        nursery.start_soon(peer.run)
        await peer.send(request(ECHO, b"a"))
        assert peer.connection.phase is Phase.SEND
        assert peer.connection.overdue(0) is None
        assert peer.connection.overdue(20) is None
        assert peer.connection.overdue(20.1) == "it waited too long for the peer to take an answer"
        nursery.cancel_scope.cancel()


async def test_a_handler_may_wait_for_long_unless_the_peer_is_gone() -> None:
    async with connected(Toys(settings=["connections.max.idle.ms=5000"])) as peer:
        await peer.send(request(SLOW))
        assert peer.connection.overdue(0) is None
        assert peer.connection.overdue(10_000) is None
        peer.transport.gone = True
        assert peer.connection.overdue(10_001) == "it waited too long for a peer that is gone"


async def test_waiting_for_a_turn_is_not_the_peers_fault() -> None:
    toys = Toys()
    async with connected(toys) as one, connected(toys) as two:
        await one.send(request(PRODUCE, bytes(6000))[:-1])
        await two.send(request(PRODUCE, bytes(6000)))
        assert two.connection.overdue(0) is None
        assert two.connection.overdue(1e9) is None
        await one.send(b"\0")
        assert await two.answers(1) == [bytes(6000)]


# Stopping


async def stop(peer: Peer) -> None:
    peer.toys.service.stopping = True
    stop_waiting()
    peer.connection.stop()
    await wait_all_tasks_blocked()


@pytest.mark.parametrize("data", [b"", request(ECHO, b"cut off")[:-1]], ids=["idle", "inside a frame"])
async def test_who_has_nothing_in_hand_stops_at_once(data: bytes) -> None:
    async with connected() as peer:
        await peer.send(data)
        await stop(peer)
        assert await peer.end() is None


async def test_requests_in_hand_are_finished() -> None:
    async with connected() as peer:
        await peer.send(request(SLOW, b"in hand") + request(ECHO, b"received too"))
        await stop(peer)
        assert not peer.ended.is_set()
        await peer.send(request(ECHO, b"too late"))
        peer.toys.go.set()
        assert await peer.answers(2) == [b"in hand", b"received too"]
        assert await peer.end() is None
        assert await peer.stream.receive_some() == b""


async def test_a_large_body_in_hand_is_finished() -> None:
    async with connected() as peer:
        data = request(PRODUCE, bytes(8000))
        await peer.send(data[:5000])
        await stop(peer)
        await peer.send(data[5000:])
        assert await peer.answers(1) == [bytes(8000)]
        assert await peer.end() is None


async def test_who_waits_has_no_buffer() -> None:
    async with connected() as peer:
        buffers = peer.toys.service.buffers
        await peer.send(request(ECHO, b"a"))
        assert await peer.answers(1) == [b"a"]
        own = buffers.take()
        assert own is not buffers.take(), "there was one, and it was given back"
        buffers.give(own)
        own[:] = b"\xff" * len(own)
        for part in (request(ECHO, b"b")[:7], request(ECHO, b"b")[7:]):
            await peer.send(part)
            buffers.take()[:] = b"\xff" * len(own)
        assert await peer.answers(1) == [b"b"]
