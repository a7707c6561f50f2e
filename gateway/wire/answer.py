"""Large answers, and the buffers in which they are built.

An answer that carries records is put together in one buffer of a pool: the log copies batches straight to their place
in it, and the socket sends it from there. Whoever sends an answer calls `release` once the bytes have left, or when
they never will; from then on the buffer belongs to the next answer.
"""

from typing import Final

from totalog.gateway.wire._batch import ffi

BUFFER_SIZE_MIN: Final = 64 * 1024
"""Bytes of the smallest buffer; the others are a power of two and this, since what is asked for is often a power of two
of records and a little around them."""

POOL_SIZE_MAX: Final = 32 * 1024 * 1024
"""Bytes that a pool keeps for later, all buffers together; what comes back beyond goes to the allocator."""


class Buffer:
    """Writable bytes at a fixed address, for as long as the buffer lives."""

    __slots__ = ("_memory", "address", "pool", "size", "view")

    def __init__(self, size: int, pool: "BufferPool | None" = None) -> None:
        self.size = size
        self.pool = pool
        self._memory = ffi.from_buffer(bytearray(size))  # keeps the bytearray alive, and from moving
        self.view = memoryview(ffi.buffer(self._memory))
        self.address = int(ffi.cast("uintptr_t", self._memory))


class BufferPool:
    """Keeps released buffers by size, so that memory is warm and nothing is allocated for an ordinary answer."""

    def __init__(self, size_max: int = POOL_SIZE_MAX) -> None:
        self.size_max = size_max
        self.size_kept = 0
        self._kept: dict[int, list[Buffer]] = {}

    def take(self, size: int) -> Buffer:
        """A buffer of at least `size` bytes, with whatever its last user left in it."""
        size = size_class(size)
        kept = self._kept.get(size)
        if not kept:
            return Buffer(size, self)
        self.size_kept -= size
        return kept.pop()

    def give(self, buffer: Buffer) -> None:
        assert buffer.pool is self
        if self.size_kept + buffer.size <= self.size_max:
            self.size_kept += buffer.size
            self._kept.setdefault(buffer.size, []).append(buffer)


def size_class(size: int) -> int:
    """Bytes of the buffer that serves a need of `size` bytes."""
    if size <= BUFFER_SIZE_MIN:
        return BUFFER_SIZE_MIN
    return BUFFER_SIZE_MIN + (1 << (max(size - BUFFER_SIZE_MIN, BUFFER_SIZE_MIN) - 1).bit_length())


class Answer:
    """One complete frame, its size word included, as parts to send one after the other."""

    __slots__ = ("_buffer", "parts")

    def __init__(self, parts: list[memoryview], buffer: Buffer | None = None) -> None:
        self.parts = parts
        self._buffer = buffer

    @property
    def size(self) -> int:
        """Bytes of all parts."""
        return sum(len(part) for part in self.parts)

    @property
    def held(self) -> int:
        """Bytes of memory that it holds until it is released."""
        return self.size if self._buffer is None else self._buffer.size

    def release(self) -> None:
        """Gives the buffer back; the parts are gone with it. A second call does nothing."""
        buffer, self._buffer = self._buffer, None
        self.parts = []
        if buffer is not None and buffer.pool is not None:
            buffer.pool.give(buffer)
