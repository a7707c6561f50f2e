"""Peers that no stock client is: raw sockets that lie, stall, break off and never read. After each, the broker lives,
serves a good client at once, and holds no more memory than before.

What is free is asked with DescribeLogDirs (KIP-827), so only the broker's own answers count.
"""

import random
import socket
import struct
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from compat_tests.conftest import StartBroker

if TYPE_CHECKING:
    from totalog.gateway.testing import RunningBroker

pytestmark = pytest.mark.totalog_only

MIB = 1 << 20
API_VERSIONS, DESCRIBE_LOG_DIRS, INIT_PRODUCER_ID, PRODUCE = 18, 35, 22, 0
ABORTED = 10_000
HALVES = 300
"""Of the aborted requests, those that really send half of their MiB: loopback would take too long for all."""
TIME_MAX_S = 60.0
MEMORY_GROWTH_MAX = 200 * MIB


def frame(key: int, version: int, body: bytes, *, flexible: bool = False, size: int | None = None) -> bytes:
    """A request. `size`: what its size word says, if it is to lie."""
    rest = struct.pack(">hhih", key, version, 7, 1) + b"h" + (b"\0" if flexible else b"") + body
    return struct.pack(">i", len(rest) if size is None else size) + rest


PRODUCE_START = frame(PRODUCE, 9, b"\0" + struct.pack(">hi", 1, 1000) + b"\x02\x02t", flexible=True, size=MIB)
ASK_VERSIONS = frame(API_VERSIONS, 0, b"")
ASK_ROOM = frame(DESCRIBE_LOG_DIRS, 4, b"\x01\0", flexible=True)


class Peer:
    """One connection, with nothing between the test and its bytes."""

    def __init__(self, broker: "RunningBroker", receive_buffer: int | None = None) -> None:
        self.socket = socket.socket()
        if receive_buffer is not None:
            self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        self.socket.settimeout(TIME_MAX_S)
        self.socket.connect((broker.host, broker.port))

    def send(self, data: bytes) -> None:
        self.socket.sendall(data)

    def answer(self) -> bytes:
        """The next answer, without its size word."""
        (size,) = struct.unpack(">i", self._exactly(4))
        return self._exactly(size)

    def _exactly(self, size: int) -> bytes:
        received = b""
        while len(received) < size:
            part = self.socket.recv(size - len(received))
            assert part, f"the connection ended after {received[:40]!r}"
            received += part
        return received

    def is_closed(self) -> bool:
        """Waits for the broker to close. What it answers before that is read and dropped."""
        try:
            while self.socket.recv(65536):
                pass
        except ConnectionResetError:
            pass
        return True

    def usable(self) -> int:
        """Bytes of the log that are free."""
        self.send(ASK_ROOM)
        (size,) = struct.unpack_from(">q", self.answer()[-10:])
        return int(size)

    def reset(self) -> None:
        """Ends the connection with RST."""
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.socket.close()

    def close(self) -> None:
        """Ends it with FIN."""
        self.socket.close()


def memory(broker: "RunningBroker") -> int:
    """Bytes of ordinary memory that the broker's process holds."""
    for line in Path(f"/proc/{broker.pid}/status").read_text().splitlines():
        if line.startswith("RssAnon:"):
            return int(line.split()[1]) * 1024
    raise AssertionError("the kernel does not tell RssAnon")


def until(holds: Callable[[], bool], what: str) -> None:
    """Asks again until it holds; each question is a round trip, so that nothing has to sleep."""
    deadline = time.monotonic() + TIME_MAX_S
    while not holds():
        assert time.monotonic() < deadline, f"{what}: not within {TIME_MAX_S:.0f} s"


@contextmanager
def unharmed(broker: "RunningBroker") -> Iterator[Peer]:
    """A good client from before to after: what is free comes back, the process lives and has not grown."""
    good = Peer(broker)
    before, memory_before = good.usable(), memory(broker)
    yield good
    until(lambda: good.usable() == before, "the blocks are back")
    fresh = Peer(broker)
    fresh.send(ASK_VERSIONS)
    assert struct.unpack_from(">ih", fresh.answer()) == (7, 0)
    assert broker.process.poll() is None
    assert memory(broker) - memory_before < MEMORY_GROWTH_MAX
    fresh.close()
    good.close()


@pytest.fixture
def broker(start_broker: StartBroker) -> "RunningBroker":
    return start_broker(memory="512m")


def test_produce_requests_aborted_half_way_leave_the_free_blocks_as_they_were(broker: "RunningBroker") -> None:
    half, little = PRODUCE_START + bytes(MIB // 2 - len(PRODUCE_START)), PRODUCE_START + bytes(4096)
    with unharmed(broker) as good:
        before = good.usable()
        open_ones = [Peer(broker) for _ in range(32)]
        for peer in open_ones:
            peer.send(little)
        until(lambda: good.usable() <= before - 32 * MIB, "32 requests hold a MiB each")
        for number in range(ABORTED):
            peer = open_ones[number % 32]
            peer.reset() if number % 2 else peer.close()
            peer = open_ones[number % 32] = Peer(broker)
            peer.send(half if number % (ABORTED // HALVES) == 0 else little)
        for peer in open_ones:
            peer.close()


@pytest.mark.parametrize(
    "data",
    [
        b"GET / HTTP/1.1\r\nHost: broker\r\n\r\n",
        bytes(4),
        b"\xff" * 4,
        b"\x7f\xff\xff\xff",
        b"\x80\0\0\0",
        struct.pack(">i", 101 * MIB),
        frame(API_VERSIONS, 0, b"", size=3),
        frame(API_VERSIONS, 0, b"", size=MIB),
        frame(1000, 0, b""),
        frame(-1, 0, b""),
        frame(PRODUCE, 99, b""),
        frame(3, 9, b"\xff" * 1000, flexible=True),
    ],
    ids=lambda data: data[:12].hex(),
)
def test_what_is_no_request_ends_its_own_connection(shared_broker: "RunningBroker", data: bytes) -> None:
    with unharmed(shared_broker):
        peer = Peer(shared_broker)
        peer.send(data)
        assert peer.is_closed()
        peer.close()


def test_garbage_ends_its_own_connection(shared_broker: "RunningBroker") -> None:
    seed = random.randrange(1 << 32)
    print(f"seed {seed}")
    numbers = random.Random(seed)
    with unharmed(shared_broker):
        for _ in range(300):
            peer = Peer(shared_broker)
            key, version = numbers.randrange(70), numbers.randrange(20)
            body = numbers.randbytes(numbers.randrange(200))
            peer.send(frame(key, version, body, flexible=numbers.random() < 0.5))
            peer.reset() if numbers.random() < 0.5 else peer.close()


def test_a_request_may_come_byte_by_byte_and_after_the_last_one_comes_the_answer(
    shared_broker: "RunningBroker",
) -> None:
    with unharmed(shared_broker):
        peer = Peer(shared_broker)
        peer.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for at in range(len(ASK_VERSIONS)):
            peer.send(ASK_VERSIONS[at : at + 1])
        assert struct.unpack_from(">ih", peer.answer()) == (7, 0)
        peer.socket.shutdown(socket.SHUT_WR)  # a half-close is an end
        assert peer.is_closed()
        peer.close()


def test_six_hundred_requests_in_flight_are_answered_in_their_order(shared_broker: "RunningBroker") -> None:
    with unharmed(shared_broker):
        peer = Peer(shared_broker)
        peer.send(b"".join(struct.pack(">ihhih", 10, API_VERSIONS, 0, number, -1) for number in range(600)))
        assert [struct.unpack_from(">i", peer.answer())[0] for _ in range(600)] == list(range(600))
        peer.close()


def test_peers_that_never_read_keep_nobody_waiting(shared_broker: "RunningBroker") -> None:
    with unharmed(shared_broker) as good, ExitStack() as held:
        for _ in range(50):
            peer = Peer(shared_broker, receive_buffer=4096)
            held.callback(peer.reset)
            peer.socket.settimeout(0.0)
            try:
                while True:  # until the broker takes no more of it, since nobody takes its answers
                    peer.send(ASK_VERSIONS * 1000)
            except BlockingIOError:
                pass
        assert good.usable() > 0


def test_connections_beyond_the_limit_are_refused_and_the_others_stay(start_broker: StartBroker) -> None:
    broker = start_broker(settings={"max.connections": 20})
    with ExitStack() as held:

        def connect() -> Peer:
            peer = Peer(broker)
            held.callback(peer.close)
            return peer

        def served(peer: Peer) -> bool:
            try:
                peer.send(ASK_VERSIONS)
                return peer.socket.recv(65536) != b""
            except ConnectionError:
                return False

        peers = [connect() for _ in range(20)]
        assert all(served(peer) for peer in peers)
        assert connect().is_closed()
        assert all(served(peer) for peer in peers)
        peers[0].close()
        until(lambda: served(connect()), "one leaves, another comes in")


@pytest.fixture(scope="module")
def shared_broker() -> Iterator["RunningBroker"]:
    from totalog.gateway.testing import broker

    with broker(memory="256m") as running:
        peer = Peer(running)  # what a broker keeps from the first producer id on; random bytes are a request for one
        peer.send(frame(INIT_PRODUCER_ID, 0, struct.pack(">hi", -1, 0)))
        peer.answer()
        peer.close()
        yield running
