"""Large answers, and the buffers in which they are built.

An answer that carries records is put together in one buffer of a pool: the log copies batches straight to their place
in it, and the socket sends it from there. Whoever sends an answer calls `release` once the bytes have left, or when
they never will; from then on the buffer belongs to the next answer.
"""

from collections.abc import Callable
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

    def release(self) -> None:
        """It belongs to the next answer now, or to nobody."""
        if self.pool is not None:
            self.pool.give(self)


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
    """One complete frame, its size word included, as parts to send one after the other.

    Parts may be lent: they lie in the log, which keeps them there until `give_back` is called: by `release`, or by
    `keep`, with which whoever finds that the answer has to wait copies them.
    """

    __slots__ = ("_buffer", "_give_back", "held", "parts", "size")

    def __init__(
        self,
        parts: list[memoryview],
        buffer: Buffer | None = None,
        lent_size: int = 0,
        give_back: Callable[[], object] | None = None,
    ) -> None:
        self.parts = parts
        self.size = sum(map(len, parts))
        """Bytes of all parts."""
        self.held = self.size if buffer is None else buffer.size + lent_size
        """Bytes of memory that it holds until it is released, or will hold when it is kept."""
        self._buffer = buffer
        self._give_back = give_back

    @property
    def lent(self) -> bool:
        return self._give_back is not None

    def keep(self) -> None:
        """Copies what is lent, with what stands around it, and gives both back."""
        if self._give_back is not None:
            kept = [memoryview(b"".join(self.parts))]
            self.release()
            self.parts = kept

    def release(self) -> None:
        """Gives back the buffer, and what is lent; the parts are gone with them. A second call does nothing."""
        self.parts = []
        give_back, self._give_back = self._give_back, None
        if give_back is not None:
            give_back()
        buffer, self._buffer = self._buffer, None
        if buffer is not None:
            buffer.release()
