"""Clients that mean harm, by the hundred, and a good one that wants its work done all the same: for a test, which
counts that it is done, and for the bench, which tells how long it takes.

The good client writes one record, reads it back and looks at its offset, over and over. The harm is passive (stalled
requests, answers that nobody takes) or done between two rounds of the good client, so that one thread is enough.
"""

import socket
import struct
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import cache
from pathlib import Path

from compat_tests.raw import PRODUCE, Peer, batch, frame, produce_request, record

METADATA, FETCH = 3, 1
TOPIC = "load"
LARGE_SIZE = 500_000
LARGE_COUNT = 60
STALLED, NEVER_READING, COMING_AND_GOING = 400, 340, 2000


def name_of(topic: str) -> bytes:
    return struct.pack(">h", len(topic)) + topic.encode()


def create_request(topic: str) -> bytes:
    """Metadata version 4, which makes the topic."""
    return frame(METADATA, 4, struct.pack(">i", 1) + name_of(topic) + b"\1")


def fetch_request(topic: str, partition: int, offset: int, size_max: int) -> bytes:
    """Fetch version 4 of one partition, with a wait of up to a second for one byte."""
    limits = struct.pack(">iiiib", -1, 1000, 1, size_max, 0)
    asked = struct.pack(">iiqi", 1, partition, offset, size_max)
    return frame(FETCH, 4, limits + struct.pack(">i", 1) + name_of(topic) + asked)


@cache
def large_batch() -> bytes:
    return batch([record(value=bytes(LARGE_SIZE))], now_ms=int(time.time() * 1000))


class Good:
    """A client that does everything right, on one connection."""

    def __init__(self, address: str, topic: str = TOPIC, look: Callable[[], None] = lambda: None) -> None:
        """`look` is called after each round."""
        self.topic = topic
        self._look = look
        self.times_s: list[float] = []
        """Of each round."""
        self._peer = Peer(address)
        self._ask(create_request(topic))
        self._next = self._write(batch([record()], now_ms=self._now_ms())) + 1

    def _now_ms(self) -> int:
        return int(time.time() * 1000)

    def _ask(self, request: bytes) -> bytes:
        self._peer.send(request)
        answer = self._peer.answer()
        assert answer is not None, "the good client lost its connection"
        return answer

    def _write(self, records: bytes, topic: str | None = None) -> int:
        """The offset."""
        answer = self._ask(produce_request(topic or self.topic, [(0, records)]))
        code, offset = struct.unpack_from(">hq", answer, 18 + len(topic or self.topic))
        assert code == 0, code
        return int(offset)

    def fill(self, topic: str) -> None:
        """Writes large records to a topic, which is made where it is not there."""
        self._ask(create_request(topic))
        for _ in range(LARGE_COUNT):
            self._write(large_batch(), topic)

    def round(self) -> None:
        """Write one record, and read it back."""
        started = time.monotonic()
        offset = self._write(batch([record(value=b"%d" % self._next)], now_ms=self._now_ms()))
        assert offset == self._next, "offsets are dense"
        answer = self._ask(fetch_request(self.topic, 0, offset, 1000))
        at = 16 + len(name_of(self.topic))
        partition, code, high_watermark = struct.unpack_from(">ihq", answer, at)
        assert (partition, code, high_watermark) == (0, 0, offset + 1)
        assert answer.endswith(b"%d\0" % self._next), "the record that was written"
        self._next += 1
        self.times_s.append(time.monotonic() - started)
        self._look()

    def close(self) -> None:
        self._peer.close()


def connect(address: str, receive_buffer: int | None = None) -> socket.socket:
    host, _, port = address.rpartition(":")
    peer = socket.socket()
    if receive_buffer is not None:
        peer.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
    peer.settimeout(60.0)
    peer.connect((host, int(port)))
    return peer


def reset(peer: socket.socket) -> None:
    peer.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    peer.close()


Harm = Callable[[str, Good, int], None]
"""harm(address, good, rounds): the good client does its rounds meanwhile."""


@contextmanager
def opened(address: str, count: int, first: Callable[[int], bytes]) -> Iterator[None]:
    """So many connections that read nothing, each with its first bytes sent."""
    with ExitStack() as held:
        for number in range(count):
            peer = connect(address, receive_buffer=4096)
            held.callback(reset, peer)
            peer.sendall(first(number))
        yield


def calm(address: str, good: Good, rounds: int) -> None:
    for _ in range(rounds):
        good.round()


def stalled_in_a_frame(address: str, good: Good, rounds: int) -> None:
    """Half of them in a small request, a quarter in one of 200 KB, a quarter in a Produce request of a megabyte."""
    small = produce_request(TOPIC, [(0, b"x" * 5000)])[:3000]
    other = struct.pack(">ihhih", 200_000, METADATA, 4, 7, -1) + struct.pack(">i", 50_000)
    large = struct.pack(">ihhih", 1_000_000, PRODUCE, 7, 7, -1) + b"\xff\xff" + bytes(5000)
    with opened(address, STALLED, lambda number: (small, other, small, large)[number % 4]):
        calm(address, good, rounds)


def never_reading(address: str, good: Good, rounds: int) -> None:
    good.fill("large")
    fetch = fetch_request("large", 0, 0, 50 << 20)
    with opened(address, NEVER_READING, lambda _: fetch * 3):
        calm(address, good, rounds)


def coming_and_going(address: str, good: Good, rounds: int) -> None:
    """In the middle of a request, of an answer, or of nothing."""
    fetch = fetch_request(TOPIC, 0, 0, 50 << 20)
    every = max(1, COMING_AND_GOING // rounds)
    for number in range(COMING_AND_GOING):
        peer = connect(address)
        peer.sendall((b"", fetch, fetch[:20], fetch * 20, b"\xff" * 50)[number % 5])
        reset(peer) if number % 2 else peer.close()
        if number % every == 0:
            good.round()


def retention_under_readers(address: str, good: Good, rounds: int) -> None:
    """Readers hold answers of a topic whose records go: its log start passes them again and again."""
    good.fill("large")
    fetch = fetch_request("large", 0, 0, 50 << 20)
    with opened(address, 40, lambda _: fetch * 3):
        for number in range(rounds):
            good.round()
            if number % (rounds // 10) == 0:
                good.fill("large")


HARMS: dict[str, Harm] = {
    f"{STALLED} stalled in a frame": stalled_in_a_frame,
    f"{NEVER_READING} that never read what they fetch": never_reading,
    f"{COMING_AND_GOING} that come and go": coming_and_going,
    "40 readers under retention": retention_under_readers,
}

SETTINGS = {"log.retention.bytes": 64 << 20, "log.retention.check.interval.ms": 100}
"""Of the broker: the topic of large records is written several times over."""


def memory(pid: int) -> int:
    """Bytes of ordinary memory of a process."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("RssAnon:"):
            return int(line.split()[1]) * 1024
    raise AssertionError("the kernel does not tell RssAnon")
