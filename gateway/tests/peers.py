"""What tests of connections and of the server share: a client's frames, a transport of memory, a service of toys."""

import struct
import traceback
from collections.abc import Awaitable, Callable, Iterator, Sequence
from dataclasses import dataclass, field
from types import SimpleNamespace

import trio

from totalog.engine import EngineError, OutOfMemory
from totalog.gateway.apis.api import Dispatched, Request
from totalog.gateway.complaints import Complaints
from totalog.gateway.config import Config
from totalog.gateway.connection import Bytes, Disconnected, Keep, Service
from totalog.gateway.limits import Limits
from totalog.gateway.metrics import Counters
from totalog.gateway.timers import Timers
from totalog.gateway.unsent import Unsent
from totalog.gateway.waiting import Budget
from totalog.gateway.wire.frame import Format, ReceiveBuffers

PRODUCE, SLOW, ECHO, BROKEN = 0, 1, 3, 18
"""API keys of the toys: echo at once, echo when told, echo at once, and a fault of ours."""

FORMATS = {key: Format(flexible_from=99, size_max=20_000) for key in (PRODUCE, SLOW, ECHO, BROKEN)}
LIMITS = Limits(
    receive_buffer_size=4096,
    large_body_size_min=1024,
    group_count_max=16,
    answers_size_max=2000,
    inflight_size_max=10_000,
    frame_time_s_max=30,
    send_stall_s_max=20,
    transfer_rate_min=100,
    drain_s_max=10,
)
RECEIVED_MAX = 5000
"""Bytes that a transport of memory receives at once."""
HEADER_SIZE = 14
"""Bytes in front of a request's body, the size word included."""


def request(key: int, body: bytes = b"") -> bytes:
    """A frame of the client; its answer is `answer(body)`."""
    return struct.pack(">ihhih", HEADER_SIZE - 4 + len(body), key, 0, 0, -1) + body


def answer(body: bytes) -> bytes:
    return struct.pack(">i", len(body)) + body


@dataclass
class FakeReservation:
    size: int
    closed: int = 0
    memory: bytearray = field(default_factory=bytearray)

    def __post_init__(self) -> None:
        self.memory = bytearray(self.size)

    @property
    def buffer(self) -> memoryview:
        return memoryview(self.memory)

    def close(self) -> None:
        self.closed += 1


class FakeLog:
    """Reserves as long as it has room, and counts its upkeep."""

    replica_descriptor = None

    def __init__(self) -> None:
        self.room = 1 << 30
        self.refusal: EngineError = OutOfMemory("no room")
        self.reservations: list[FakeReservation] = []
        self.maintained: list[int] = []
        self.refused = 0
        self.more: Callable[[], bool] = lambda: False

    def reserve(self, size: int) -> FakeReservation:
        if size > self.room:
            raise self.refusal
        self.reservations.append(FakeReservation(size))
        return self.reservations[-1]

    def counters(self) -> dict[str, int]:
        return {"out_of_memory": self.refused}

    def maintain(self, now_ms: int) -> bool:
        self.maintained.append(now_ms)
        return self.more()


class Toys:
    """Answers with what it was sent. A body that starts with `-` has no answer; SLOW waits for `go`."""

    def __init__(self, limits: Limits = LIMITS, settings: Sequence[str] = ()) -> None:
        self.log = FakeLog()
        config = Config.parse(settings)
        clock = SimpleNamespace(wall_ms=lambda: 1_000)
        unsent = Unsent(limits.inflight_size_max)
        self.broker = SimpleNamespace(
            log=self.log,
            config=config,
            clock=clock,
            timers=Timers(),
            unsent=unsent,
            complaints=Complaints(),
            counters=Counters(),
        )
        self.groups: list[list[bytes]] = []
        self.requests: list[Request] = []
        self.go = trio.Event()
        self.service = Service(
            broker=self.broker,  # type: ignore[arg-type]
            dispatch=self.dispatch,
            produce=self.produce,
            formats=FORMATS,
            limits=limits,
            idle_s_max=config.integer("connections.max.idle.ms") / 1000,
            budget=Budget(limits.inflight_size_max),
            budget_others=Budget(limits.inflight_others_size_max),
            buffers=ReceiveBuffers(limits.receive_buffer_size),
        )

    def produce(self, broker: object, requests: Sequence[Request]) -> Iterator[Bytes | None]:
        assert broker is self.broker
        bodies = [bytes(one.body) for one in requests]
        self.groups.append(bodies)
        self.requests += requests
        return (None if body.startswith(b"-") else answer(body) for body in bodies)

    def dispatch(self, broker: object, one: Request) -> "Dispatched | Awaitable[Dispatched]":
        assert broker is self.broker
        if one.key == BROKEN:
            raise ZeroDivisionError
        self.requests.append(one)
        echo = answer(bytes(one.body))
        return self.slow(echo) if one.key == SLOW else echo

    async def slow(self, echo: bytes) -> bytes:
        await self.go.wait()
        return echo


def scatter(data: bytes, target: memoryview, beyond: memoryview | None) -> int:
    """Write what there is room for; how many bytes."""
    count = min(len(data), len(target))
    target[:count] = data[:count]
    if beyond is None:
        return count
    more = min(len(data) - count, len(beyond))
    beyond[:more] = data[count : count + more]
    return count + more


class MemoryTransport:
    """`connection.Transport` over a trio stream, such as one end of a memory stream pair."""

    def __init__(self, stream: trio.abc.HalfCloseableStream) -> None:
        self.peer, self.host = "client:1", "client"
        self.moved = 0
        self.sends: list[list[bytes]] = []
        self.gone = False
        self._stream = stream
        self._scope = trio.CancelScope()
        self._ended = False
        self._come: bytes | None = None
        """That a wait found; empty: nothing more comes."""

    def receive_now(self, target: memoryview, beyond: memoryview | None = None) -> int | None:
        if self._come is None:
            return None
        count = scatter(self._come, target, beyond)
        self._come = self._come[count:] or (b"" if count == 0 else None)
        self.moved += count
        return count

    def send_now(self, parts: list[Bytes]) -> int:
        return 0

    async def wait_to_receive(self) -> None:
        self._come = b""
        with trio.CancelScope() as self._scope:
            if self._ended:
                self._scope.cancel()
            try:
                self._come = bytes(await self._stream.receive_some(RECEIVED_MAX))
            except trio.BrokenResourceError:
                raise Disconnected("broken") from None

    def waiting(self) -> int:
        return 0

    async def send(self, parts: Sequence[Bytes], keep: Keep | None = None) -> None:
        self.sends.append([bytes(part) for part in parts])
        for part in parts:
            try:
                await self._stream.send_all(bytes(part))
            except trio.BrokenResourceError:
                raise Disconnected("broken") from None
            self.moved += len(part)

    def end_receiving(self) -> None:
        self._ended = True
        self._scope.cancel()

    def closed_by_peer(self) -> bool:
        return self.gone


class Script:
    """`connection.Transport` that hands out what the client sent, in these pieces, and keeps what it gets."""

    peer, host = "client:1", "client"

    def __init__(self, pieces: Sequence[bytes]) -> None:
        self.moved = 0
        self.got = b""
        self._pieces = list(pieces)
        self._waits = self._waited = False

    def receive_now(self, target: memoryview, beyond: memoryview | None = None) -> int | None:
        """Each receive is waited for."""
        self._waited = not self._waited
        if self._waited:
            return None
        if not self._pieces:
            return 0
        piece = self._pieces.pop(0)
        count = scatter(piece, target, beyond)
        if count < len(piece):
            self._pieces.insert(0, piece[count:])
        return count

    async def wait_to_receive(self) -> None: ...

    def send_now(self, parts: list[Bytes]) -> int:
        """Every other send is spared a wait."""
        self._waits = not self._waits
        if self._waits:
            return 0
        whole = b"".join(bytes(part) for part in parts)
        self.got += whole
        return len(whole)

    def waiting(self) -> int:
        return sum(map(len, self._pieces))

    async def send(self, parts: Sequence[Bytes], keep: Keep | None = None) -> None:
        self.got += b"".join(bytes(part) for part in parts)

    def end_receiving(self) -> None:
        self._pieces = []

    def closed_by_peer(self) -> bool:
        return False


async def receive_exactly(stream: trio.abc.ReceiveStream, size: int) -> bytes:
    received = b""
    while len(received) < size:
        part = await stream.receive_some(size - len(received))
        assert part, f"the stream ended after {received!r}"
        received += part
    return received


async def receive_answer(stream: trio.abc.ReceiveStream) -> bytes:
    """The body of the next answer."""
    (size,) = struct.unpack(">i", await receive_exactly(stream, 4))
    return await receive_exactly(stream, size)


def holders(fault: BaseException) -> list[str]:
    """The functions that `fault` passed through and whose frames hold it still: such a cycle keeps all that they hold,
    until Python's collector finds it."""
    frames = [frame for frame, _ in traceback.walk_tb(fault.__traceback__)]
    return [frame.f_code.co_name for frame in frames if any(value is fault for value in frame.f_locals.values())]
