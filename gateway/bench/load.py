"""A load generator: keeps requests in flight on some connections and counts what comes back.

It sends frames that were encoded beforehand, as many at once as there is room for, and looks at no more of an answer
than its size (and, of a Produce, its error code): so that what is measured is the other side.
"""

import select
import socket
import struct
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import cycle

from totalog.gateway.bench import requests
from totalog.gateway.wire.errors import ErrorCode

RECEIVE_SIZE = 1 << 20
STALL_S_MAX = 30.0


class LoadFailed(RuntimeError):
    """The other side answered with an error, went silent, or closed."""


@dataclass(frozen=True, slots=True)
class Work:
    """What each connection does."""

    frames: Sequence[bytes]
    """Sent in turn."""
    depth: int = 1
    """Requests in flight on one connection."""
    connections: int = 1
    topic: str | None = None
    """Of Produce requests: then every answer's error code is looked at."""


@dataclass(frozen=True, slots=True)
class Done:
    """What came back in `seconds`."""

    answers: int
    received: int
    """Bytes of answers."""
    seconds: float


@dataclass(slots=True)
class _Peer:
    connection: socket.socket
    unsent: memoryview = field(default_factory=lambda: memoryview(b""))
    in_flight: int = 0
    answers: int = 0
    received: int = 0
    missing: int = 0
    """Bytes of the answer that is just coming."""
    head: bytes = b""
    """Of an answer of which not enough has come to tell its size."""


class Generator:
    """Connections to one address, ready to work."""

    def __init__(self, host: str, port: int, work: Work) -> None:
        self.work = work
        self._frames = cycle(work.frames)
        self._buffer = bytearray(RECEIVE_SIZE)
        self._view = memoryview(self._buffer)
        self._poll = select.epoll()
        self._peers: dict[int, _Peer] = {}
        for _ in range(work.connections):
            connection = socket.create_connection((host, port))
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            connection.setblocking(False)
            self._peers[connection.fileno()] = _Peer(connection)
            self._poll.register(connection.fileno(), select.EPOLLIN)

    def close(self) -> None:
        self._poll.close()
        for peer in self._peers.values():
            peer.connection.close()

    def run(self, seconds: float) -> Done:
        """Works for so long, then waits for the answers that are still on their way. Raises LoadFailed."""
        for peer in self._peers.values():
            peer.answers = peer.received = 0
        began = time.perf_counter()
        end = began + seconds
        for peer in self._peers.values():
            self._send(peer)
        while any(peer.in_flight for peer in self._peers.values()):
            events = self._poll.poll(STALL_S_MAX)
            if not events:
                raise LoadFailed(f"no answer came for {STALL_S_MAX:.0f} s")
            more = time.perf_counter() < end
            for descriptor, _ in events:
                peer = self._peers[descriptor]
                self._receive(peer)
                if more or peer.unsent:
                    self._send(peer, more)
        taken = time.perf_counter() - began
        peers = self._peers.values()
        return Done(sum(peer.answers for peer in peers), sum(peer.received for peer in peers), taken)

    def _send(self, peer: _Peer, more: bool = True) -> None:
        if more and peer.in_flight < self.work.depth:
            room = self.work.depth - peer.in_flight
            peer.in_flight = self.work.depth
            frames = [next(self._frames) for _ in range(room)]
            peer.unsent = memoryview(b"".join([peer.unsent, *frames]) if peer.unsent or room > 1 else frames[0])
        while peer.unsent:
            try:
                peer.unsent = peer.unsent[peer.connection.send(peer.unsent) :]
            except BlockingIOError:
                break
        self._poll.modify(peer.connection.fileno(), select.EPOLLIN | (select.EPOLLOUT if peer.unsent else 0))

    def _receive(self, peer: _Peer) -> None:
        try:
            count = peer.connection.recv_into(self._buffer)
        except BlockingIOError:
            return
        if count == 0:
            raise LoadFailed("the other side closed the connection")
        peer.received += count
        at = min(peer.missing, count)
        peer.missing -= at
        self._finish(peer, at)
        data: memoryview | bytes = self._view
        if peer.head:
            data, count, at, peer.head = peer.head + self._buffer[:count], count + len(peer.head), 0, b""
        while at < count:
            at = self._take(peer, data, at, count)

    def _take(self, peer: _Peer, data: memoryview | bytes, at: int, count: int) -> int:
        """One answer, or its beginning; where the next one begins."""
        if count - at < 4:
            peer.head = bytes(data[at:count])
            return count
        size = int(struct.unpack_from(">i", data, at)[0]) + 4
        if self.work.topic is not None:
            if count - at < size:
                peer.head = bytes(data[at:count])
                return count
            error = requests.produce_error(self.work.topic, data[at : at + size])
            if error:
                known = ErrorCode(error).name if error in ErrorCode._value2member_map_ else ""
                raise LoadFailed(f"a Produce request was answered with error {error} {known}")
        peer.missing = max(0, size - (count - at))
        self._finish(peer, size)
        return min(at + size, count)

    def _finish(self, peer: _Peer, size: int) -> None:
        if size and not peer.missing:
            peer.answers += 1
            peer.in_flight -= 1
