"""The machine's limit for a broker in Python: a trio server that does nothing but what none can leave out.

It receives into warm shared memory, checks the CRC of each batch, and answers from a template; or sends records that
lie there ready. It knows the sizes of its one load beforehand, keeps nothing, and orders nothing.

    python -m compat_tests.bench.bare '{"answer": "<hex>", "request_size": 1100, "batch_at": 95, ...}'
"""

import json
import mmap
import os
import socket
import struct
import sys
from dataclasses import asdict, dataclass
from functools import partial
from typing import Self

import crc32c
import trio

CHECKED_FROM = 21
"""A batch's CRC covers everything behind it."""
CRC_AT = 17
WARM_SIZE = 64 << 20
"""Bytes of memory that are used again and again."""
FRESH_SIZE = 8 << 30
"""Bytes of address space for memory that is used once."""


@dataclass(frozen=True)
class Load:
    """What one connection is asked, again and again."""

    answer: str
    """Hexadecimal: what each request is answered, or what stands before the records."""
    request_size: int
    """Bytes of a request, size word included."""
    batch_at: int
    """Where its batch begins; 0: there is none to check."""
    records_size: int = 0
    """Bytes of records behind the answer."""
    held_size: int = 0
    """Bytes of records that there are: answers send them in turn, as those of a broker do when all is read."""
    fresh: bool = False
    """Receive into memory that was never used before."""
    by_reference: bool = False
    """Have the kernel send the records' pages themselves, as Apache Kafka does with those of its files, not a copy. No
    broker may do so with memory that it will use again: who has not read yet would read what lies there by then."""

    def to_json(self) -> str:
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> Self:
        return cls(**json.loads(text))


class Memory:
    """Shared memory as a broker has it, handed out from the front."""

    def __init__(self, fresh: bool) -> None:
        self.descriptor = os.memfd_create("bare")
        size = FRESH_SIZE if fresh else WARM_SIZE
        os.ftruncate(self.descriptor, size)
        self.mapped = mmap.mmap(self.descriptor, size)
        if not fresh:
            self.mapped.write(bytes(size))
        self.view = memoryview(self.mapped)
        self._sent = 0

    def turn(self, size: int, held_size: int) -> int:
        """Where the next `size` of the first `held_size` bytes begin."""
        at = self._sent if self._sent + size <= held_size else 0
        self._sent = at + size
        return at

    def room(self, used: int, wanted: int, kept_from: int) -> tuple[int, int]:
        """(where to go on, where what is kept begins now): back to the front, with what is kept, at the end."""
        if used + wanted <= len(self.view):
            return used, kept_from
        kept = used - kept_from
        self.view[:kept] = bytes(self.view[kept_from:used])
        return kept, 0


async def _serve(load: Load, records: Memory, stream: socket.socket) -> None:
    stream.setblocking(False)
    stream.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    memory = Memory(load.fresh)
    answer, size = bytes.fromhex(load.answer), load.request_size
    wanted = max(65536, 2 * size)
    used = first = 0
    with stream:
        while True:
            used, first = memory.room(used, wanted, first)
            count = await _receive(stream, memory.view[used : used + wanted])
            if count == 0:
                return
            used += count
            complete = (used - first) // size
            for at in range(first, first + complete * size, size):
                _check(load, memory.view[at : at + size])
            first += complete * size
            if complete:
                await _answer(stream, load, records, answer * complete if load.records_size == 0 else answer)


async def _receive(stream: socket.socket, target: memoryview) -> int:
    while True:
        try:
            return stream.recv_into(target)
        except BlockingIOError:
            await trio.lowlevel.wait_readable(stream)


def _check(load: Load, request: memoryview) -> None:
    if load.batch_at:
        (expected,) = struct.unpack_from(">I", request, load.batch_at + CRC_AT)
        if crc32c.crc32c(request[load.batch_at + CHECKED_FROM :]) != expected:
            raise ValueError("a batch arrived damaged")


async def _answer(stream: socket.socket, load: Load, records: Memory, answer: bytes) -> None:
    at = records.turn(load.records_size, load.held_size)
    end = at + load.records_size
    left = [memoryview(answer), records.view[end if load.by_reference else at : end]]
    while left:
        try:
            count = stream.sendmsg(left)
        except BlockingIOError:
            await trio.lowlevel.wait_writable(stream)
            continue
        while left and count >= len(left[0]):
            count -= len(left.pop(0))
        if left:
            left[0] = left[0][count:]
    while load.by_reference and at < end:
        try:
            at += os.sendfile(stream.fileno(), records.descriptor, at, end - at)
        except BlockingIOError:
            await trio.lowlevel.wait_writable(stream)


async def _run(load: Load) -> None:
    records = Memory(fresh=False)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.setblocking(False)
        print(listener.getsockname()[1], flush=True)
        async with trio.open_nursery() as connections:
            while True:
                await trio.lowlevel.wait_readable(listener)
                stream, _ = listener.accept()
                connections.start_soon(_serve, load, records, stream)


if __name__ == "__main__":
    trio.run(partial(_run, Load.from_json(sys.argv[1])))
