"""The server on real sockets: accepting, watching, stopping; and the transport, against the one the other tests use."""

import logging
import socket
import struct
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
import trio
from trio.testing import MockClock, memory_stream_pair, wait_all_tasks_blocked

from totalog.gateway.connection import Bytes, Disconnected, Transport
from totalog.gateway.limits import Limits
from totalog.gateway.outbox import drop
from totalog.gateway.server import Server
from totalog.gateway.sockets import PARTS_COUNT_MAX, RECEIVES_AT_ONCE, SocketTransport, listen
from totalog.gateway.tests.peers import (
    BROKEN,
    ECHO,
    LIMITS,
    PRODUCE,
    SLOW,
    MemoryTransport,
    Toys,
    receive_answer,
    receive_exactly,
    request,
)

Pair = tuple[trio.abc.HalfCloseableStream, Transport]


@pytest.fixture
def autojump_clock() -> MockClock:
    """Over real sockets: it jumps once nothing has come for a moment, since what was sent may be on its way."""
    return MockClock(autojump_threshold=0.02)


def memory_pair() -> Pair:
    theirs, ours = memory_stream_pair()
    return theirs, MemoryTransport(ours)


def socket_pair() -> tuple[trio.SocketStream, SocketTransport]:
    """Over TCP, with small buffers, so that an ordinary answer does not fit in them."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        theirs = socket.create_connection(listener.getsockname())
        ours, _ = listener.accept()
    ours.setblocking(False)
    ours.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
    return trio.SocketStream(trio.socket.from_stdlib_socket(theirs)), SocketTransport(ours)


@pytest.fixture
async def sockets() -> AsyncIterator[tuple[trio.SocketStream, SocketTransport]]:
    theirs, ours = socket_pair()
    yield theirs, ours
    await theirs.aclose()
    ours.close()


@pytest.fixture(params=[memory_pair, socket_pair])
async def pair(request: pytest.FixtureRequest) -> AsyncIterator[Pair]:
    theirs, ours = request.param()
    yield theirs, ours
    await theirs.aclose()
    if isinstance(ours, SocketTransport):
        ours.close()


async def reset(stream: trio.abc.AsyncResource) -> None:
    """Close as a client does that is killed: with a reset, where there is such a thing."""
    if isinstance(stream, trio.SocketStream):
        stream.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    await stream.aclose()


async def receive(transport: Transport, target: bytearray) -> int:
    """As a connection does."""
    while (count := transport.receive_now(memoryview(target))) is None:
        await transport.wait_to_receive()
    return count


# What both transports promise


async def test_a_transport_gives_what_was_sent_and_then_the_end(pair: Pair) -> None:
    theirs, ours = pair
    await theirs.send_all(b"abcdef")
    target = bytearray(4)
    assert await receive(ours, target) == 4
    assert target == b"abcd"
    assert await receive(ours, target) == 2
    assert target[:2] == b"ef"
    await theirs.send_eof()
    assert await receive(ours, target) == 0
    assert ours.moved == 6


@pytest.mark.parametrize(
    "parts", [[b"x" * 300_000], [b"ab", bytearray(b"cd"), memoryview(b"ef")], [b"abc"] * (2 * PARTS_COUNT_MAX + 1)]
)
async def test_a_transport_sends_all_parts_in_order(pair: Pair, parts: list[bytes]) -> None:
    theirs, ours = pair
    whole = b"".join(parts)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(ours.send, parts)
        assert await receive_exactly(theirs, len(whole)) == whole
    assert ours.moved == len(whole)


async def test_the_socket_asks_once_what_to_keep(sockets: tuple[trio.SocketStream, SocketTransport]) -> None:
    theirs, ours = sockets
    kept: list[int] = []

    def keep(left: list[Bytes]) -> list[Bytes]:
        whole = b"".join(left)
        kept.append(len(whole))
        return [whole]

    await ours.send([b"short"], keep)
    assert kept == []
    parts: list[Bytes] = [bytes([number]) * 1_000_000 for number in range(30)]
    async with trio.open_nursery() as nursery:
        nursery.start_soon(ours.send, parts, keep)
        assert await receive_exactly(theirs, 30_000_005) == b"short" + b"".join(parts)
    (left,) = kept
    assert 0 < left < 30_000_000


async def test_a_transport_tells_when_the_peer_is_gone(pair: Pair) -> None:
    theirs, ours = pair
    await reset(theirs)
    with pytest.raises(Disconnected):
        await ours.send([b"a"])


async def test_a_transport_stops_receiving_when_told(pair: Pair) -> None:
    theirs, ours = pair
    async with trio.open_nursery() as nursery:

        async def receive_the_end() -> None:
            assert await receive(ours, bytearray(10)) == 0

        nursery.start_soon(receive_the_end)
        await wait_all_tasks_blocked()
        ours.end_receiving()
    assert await receive(ours, bytearray(10)) == 0
    await ours.send([b"an answer"])
    assert await theirs.receive_some() == b"an answer"


# The socket alone


async def test_a_reset_ends_receiving(sockets: tuple[trio.SocketStream, SocketTransport]) -> None:
    theirs, ours = sockets
    assert not ours.closed_by_peer()
    await reset(theirs)
    with pytest.raises(Disconnected, match="receiving failed"):
        await receive(ours, bytearray(10))
    assert ours.closed_by_peer()


async def test_what_is_there_is_received_without_a_wait(sockets: tuple[trio.SocketStream, SocketTransport]) -> None:
    theirs, ours = sockets
    target = bytearray(4)
    assert ours.receive_now(memoryview(target)) is None
    await theirs.send_all(bytes(100))
    assert await receive(ours, target) == 4
    counts = [ours.receive_now(memoryview(target)) for _ in range(2 * RECEIVES_AT_ONCE)]
    assert counts == [4] * RECEIVES_AT_ONCE + [None] * RECEIVES_AT_ONCE, "then it is the turn of others"
    assert await receive(ours, target) == 4
    assert ours.moved == 4 * (RECEIVES_AT_ONCE + 2)
    await reset(theirs)
    with pytest.raises(Disconnected, match="receiving failed"):
        for _ in range(2):  # what came before it comes first
            ours.receive_now(memoryview(bytearray(1000)))


async def test_what_comes_is_found_whether_looks_were_in_vain_or_not(
    sockets: tuple[trio.SocketStream, SocketTransport],
) -> None:
    theirs, ours = sockets
    target = bytearray(4)
    for more in (False, False, True, True, False, True):
        await theirs.send_all(bytes(4))
        assert await receive(ours, target) == 4
        if more:
            await theirs.send_all(bytes(4))
        assert ours.receive_now(memoryview(target)) == (4 if more else None)
    await theirs.send_all(bytes(4))
    await theirs.send_eof()
    assert [await receive(ours, target) for _ in range(3)] == [4, 0, 0]


async def test_what_can_be_is_sent_without_a_wait(sockets: tuple[trio.SocketStream, SocketTransport]) -> None:
    theirs, ours = sockets
    assert ours.send_now([b"ab"]) == 2
    assert ours.send_now([b"cd", bytearray(b"ef")]) == 4
    whole = [bytes([number]) * 1_000_000 for number in range(30)]
    left = list[Bytes](whole)
    while count := ours.send_now(left):
        drop(left, count)
    size = 30_000_000 - sum(map(len, left))
    assert 0 < size == ours.moved - 6
    assert b"".join(left) == b"".join(whole)[size:]
    assert await receive_exactly(theirs, 6 + size) == b"abcdef" + b"".join(whole)[:size]
    await reset(theirs)
    with pytest.raises(Disconnected, match="sending failed"):
        ours.send_now([b"a"])


async def test_a_peer_that_left_behind_unread_bytes_counts_as_there(
    sockets: tuple[trio.SocketStream, SocketTransport],
) -> None:
    theirs, ours = sockets
    await theirs.send_all(b"a")
    await theirs.send_eof()
    assert not ours.closed_by_peer()
    assert await receive(ours, bytearray(10)) == 1
    assert ours.closed_by_peer()


async def test_a_connection_with_much_to_receive_lets_others_run(
    sockets: tuple[trio.SocketStream, SocketTransport],
) -> None:
    theirs, ours = sockets
    turns = 0

    async def other() -> None:
        nonlocal turns
        while True:
            turns += 1
            await trio.lowlevel.checkpoint()

    await theirs.send_all(bytes(1000))
    async with trio.open_nursery() as nursery:
        nursery.start_soon(other)
        for _ in range(1000):
            assert await receive(ours, bytearray(1)) == 1
        nursery.cancel_scope.cancel()
    assert turns >= 100


# The server


class Running:
    """A server in this process, and its clients."""

    def __init__(self, toys: Toys) -> None:
        self.toys = toys
        self.listeners = listen("127.0.0.1", 0, 100)
        self.port: int = self.listeners[0].getsockname()[1]
        self.server = Server(toys.service, self.listeners)
        self.stopped = trio.Event()

    async def run(self, task_status: trio.TaskStatus[None]) -> None:
        await self.server.run(task_status.started)
        self.stopped.set()

    async def connect(self) -> trio.SocketStream:
        return await trio.open_tcp_stream("127.0.0.1", self.port)


@asynccontextmanager
async def running(settings: list[str] | None = None, limits: Limits = LIMITS) -> AsyncIterator[Running]:
    server = Running(Toys(limits, settings or []))
    async with trio.open_nursery() as nursery:
        await nursery.start(server.run)
        yield server
        server.server.stop_now()
    assert server.toys.service.broker.counters.connections_open == 0
    assert server.toys.service.budget.taken == 0
    assert all(reservation.closed for reservation in server.toys.log.reservations)


async def test_clients_are_served_side_by_side() -> None:
    async with running() as server:
        one, two = await server.connect(), await server.connect()
        await one.send_all(request(SLOW, b"one"))
        await two.send_all(request(PRODUCE, b"two") + request(PRODUCE, bytes(15_000)))
        assert await receive_answer(two) == b"two"
        assert await receive_answer(two) == bytes(15_000)
        server.toys.go.set()
        assert await receive_answer(one) == b"one"
        assert server.toys.requests[0].client_host == "127.0.0.1"
        await one.aclose()
        await two.aclose()


async def test_the_socket_sends_small_answers_at_once() -> None:
    async with running() as server:
        client = await server.connect()
        await client.send_all(request(ECHO, b"a"))
        await receive_answer(client)
        (connection,) = server.server._connections
        sock = connection.transport._socket  # type: ignore[attr-defined]
        assert sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
        await client.aclose()


@pytest.mark.parametrize("bad", [b"\0\0\0\0", b"\x7f\xff\xff\xff", b"GET / HTTP/1.1\r\n\r\n"])
async def test_what_breaks_the_protocol_costs_one_connection_and_one_line(
    bad: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    async with running() as server:
        good, worse = await server.connect(), await server.connect()
        await worse.send_all(request(ECHO, b"a") + bad)
        assert await receive_answer(worse) == b"a"
        assert await worse.receive_some() == b""
        await good.send_all(request(ECHO, b"b"))
        assert await receive_answer(good) == b"b"
        assert server.toys.service.broker.counters.connections_violated == 1
        name = "{}:{}".format(*worse.socket.getsockname())
        (line,) = caplog.messages
        assert line.startswith(f"{name}: connection closed: ")
        await good.aclose()
        await worse.aclose()


async def test_a_client_that_vanishes_is_not_worth_a_line(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    async with running() as server:
        client = await server.connect()
        await client.send_all(request(PRODUCE, bytes(9000))[:5000])
        await wait_all_tasks_blocked(0.01)
        await client.aclose()
        await wait_all_tasks_blocked(0.01)
    assert caplog.records == []


async def test_a_fault_of_ours_ends_the_server() -> None:
    server = Running(Toys())
    with pytest.RaisesGroup(ZeroDivisionError, flatten_subgroups=True):
        async with trio.open_nursery() as nursery:
            await nursery.start(server.run)
            client = await server.connect()
            await client.send_all(request(BROKEN))
            assert await client.receive_some() == b""
    await client.aclose()


async def test_more_connections_than_allowed_are_refused() -> None:
    async with running(["max.connections=2"]) as server:
        clients = [await server.connect() for _ in range(2)]
        for client in clients:
            await client.send_all(request(ECHO, b"a"))
            await receive_answer(client)
        refused = await server.connect()
        assert await refused.receive_some() == b""
        await clients.pop().aclose()
        await wait_all_tasks_blocked(0.01)
        clients += [await server.connect(), refused]
        await clients[1].send_all(request(ECHO, b"again"))
        assert await receive_answer(clients[1]) == b"again"
        assert server.toys.service.broker.counters.connections_refused == 1
        for client in clients:
            await client.aclose()


async def test_connections_are_watched(autojump_clock: MockClock, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    async with running(["connections.max.idle.ms=60000"]) as server:
        idle, slow = await server.connect(), await server.connect()
        start = trio.current_time()
        await slow.send_all(request(ECHO, b"a")[:-1])
        assert await slow.receive_some() == b""
        assert 30 <= trio.current_time() - start <= 33
        assert await idle.receive_some() == b""
        assert 60 <= trio.current_time() - start <= 63
        assert server.toys.service.broker.counters.connections_overdue == 2
        assert ["the rest of a request" in line.message for line in caplog.records] == [True]
        await idle.aclose()
        await slow.aclose()


async def test_a_client_that_never_reads_is_cut_off(autojump_clock: MockClock) -> None:
    limits = Limits(send_stall_s_max=20, answers_size_max=2000)
    async with running(limits=limits) as server:
        client = await server.connect()
        with pytest.raises(trio.BrokenResourceError):
            while True:  # until both directions are full, and then until the server gives up
                await client.send_all(request(ECHO, bytes(10_000)))
        assert trio.current_time() >= 20
        await client.aclose()


async def test_the_log_is_kept_and_the_timers_run(autojump_clock: MockClock) -> None:
    async with running(["log.retention.check.interval.ms=5000"]) as server:
        called: list[float] = []
        server.toys.broker.timers.call_at(trio.current_time() + 7, lambda: called.append(trio.current_time()))
        start = trio.current_time()
        left = iter([True, True])
        server.toys.log.more = lambda: next(left, False)
        await trio.sleep(16.5)
        maintained = server.toys.log.maintained
        assert maintained[:3] == [-1] * 3, "until there is nothing more to do"
        assert [at for at, time_ms in enumerate(maintained[2:], 1) if time_ms == 1_000] == [5, 10, 15]
        assert [time - start for time in called] == [7]


async def test_a_full_log_is_told_once_and_when_it_is_over(
    autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    async with running() as server:
        told = []
        await trio.sleep(0.5)  # between two looks
        for refused in (0, 3, 9, 9, 9, 10, 10):
            server.toys.log.refused = refused
            await trio.sleep(1)
            told.append([line.message.partition(":")[0] for line in caplog.records])
            caplog.clear()
        full, room = ["the log is full"], ["the log has room again, or nobody asks for it any more"]
        assert told == [[], full, [], room, [], full, room]


# Stopping


async def test_idle_clients_do_not_keep_the_server() -> None:
    async with running() as server:
        clients = [await server.connect() for _ in range(3)]
        await clients[0].send_all(request(ECHO, b"a"))
        await receive_answer(clients[0])
        await wait_all_tasks_blocked(0.01)
        server.server.stop()
        with trio.fail_after(60):
            await server.stopped.wait()
        for client in clients:
            assert await client.receive_some() == b""
            await client.aclose()
        with pytest.raises(OSError):  # noqa: PT011 (trio gives its own message)
            await server.connect()


async def test_requests_in_hand_finish_before_the_server_stops(autojump_clock: MockClock) -> None:
    async with running() as server:
        client, body = await server.connect(), request(PRODUCE, bytes(9000))
        await client.send_all(request(SLOW, b"in hand"))
        other = await server.connect()
        await other.send_all(body[:5000])
        await wait_all_tasks_blocked(0.01)
        server.server.stop()
        await wait_all_tasks_blocked(0.01)
        assert not server.stopped.is_set()
        await client.send_all(request(ECHO, b"too late"))
        await other.send_all(body[5000:])
        assert await receive_answer(other) == bytes(9000)
        server.toys.go.set()
        assert await receive_answer(client) == b"in hand"
        assert await client.receive_some() == b""
        await client.aclose()
        await other.aclose()
        with trio.fail_after(LIMITS.linger_s_max):
            await server.stopped.wait()


async def test_a_request_that_does_not_finish_is_cut_off_at_the_deadline(autojump_clock: MockClock) -> None:
    async with running() as server:
        client = await server.connect()
        await client.send_all(request(SLOW))
        await wait_all_tasks_blocked(0.01)
        server.server.stop()
        start = trio.current_time()
        await server.stopped.wait()
        assert trio.current_time() - start == pytest.approx(LIMITS.drain_s_max)
        assert await client.receive_some() == b""
        await client.aclose()


async def test_a_client_that_does_not_close_keeps_the_server_for_a_moment_only(autojump_clock: MockClock) -> None:
    async with running() as server:
        client = await server.connect()
        await client.send_all(request(SLOW, b"last"))
        await wait_all_tasks_blocked(0.01)
        server.server.stop()
        await wait_all_tasks_blocked(0.01)
        server.toys.go.set()
        start = trio.current_time()
        assert await receive_answer(client) == b"last"
        await server.stopped.wait()
        assert trio.current_time() - start == pytest.approx(LIMITS.linger_s_max)
        await client.aclose()


# Listening


def test_a_busy_port_is_an_error_and_leaves_nothing_open() -> None:
    first = listen("127.0.0.1", 0, 10)
    port = first[0].getsockname()[1]
    with pytest.raises(OSError, match="in use"):
        listen("127.0.0.1", port, 10)
    first[0].close()
    second = listen("127.0.0.1", port, 10)  # at once, although the port was just in use
    second[0].close()


def test_every_address_of_a_host_gets_the_same_port(monkeypatch: pytest.MonkeyPatch) -> None:
    addresses = [
        (socket.AF_INET, socket.SOCK_STREAM, 6, "", ("127.0.0.1", 0)),
        (socket.AF_INET, socket.SOCK_STREAM, 6, "", ("192.0.2.1", 0)),  # a documentation address: never ours
        (socket.AF_INET, socket.SOCK_STREAM, 6, "", ("127.0.0.2", 0)),
    ]
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: addresses)
    sockets = listen("host", 0, 10)
    names = [sock.getsockname() for sock in sockets]
    for sock in sockets:
        sock.close()
    assert [name[0] for name in names] == ["127.0.0.1", "127.0.0.2"]
    assert names[0][1] == names[1][1]
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: addresses[1:2])
    with pytest.raises(OSError, match="assign"):
        listen("host", 0, 10)
