"""From the bytes of a connection to its requests: bytes in, events out, no socket and no waiting.

Invariants
- The receive buffer never grows: a frame that does not fit into it is a `LargeBody`, for which the connection finds
  memory; so is every Produce frame of `large_body_size_min` bytes that is not complete yet, and any other of
  `other_body_size_min`, complete or not: what is made of it waits its turn.
- A connection that waits has no buffer: `rest` gives it to those that do not, unless much of a request has come.
- A frame's size is checked when its first four bytes are there, and against the limit of its API two bytes later,
  before anything is kept or allocated for it.
- `Request.frame` points into the buffer. It is good until the next `space()` or `rest()`, so a handler copies what it
  keeps.

Call `space()` and fill the start of what it gives, tell `received(count)`, then call `next()` until it says None. After
a `LargeBody`, the rest of that frame is received elsewhere, and `parse_whole` makes the request of it.
"""

import struct
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, NamedTuple

from totalog.gateway.limits import Limits
from totalog.gateway.wire.cursor import Cursor
from totalog.gateway.wire.errors import ProtocolViolation

if TYPE_CHECKING:
    from totalog.engine import Reservation

PRODUCE: Final = 0
FETCH: Final = 1

WINDOW_SIZE_MIN: Final = 64 * 1024
"""Bytes that are received at once at first. It is doubled whenever so many have come, up to the whole buffer; the start
of a large frame begins it anew, since what of it comes into the buffer has to be copied once more."""

BUFFERS_KEPT_MAX: Final = 32

NO_BYTES: Final = memoryview(bytearray())

_size_word = struct.Struct(">i").unpack_from
_pack_size = struct.Struct(">i").pack_into
_api_key = struct.Struct(">h").unpack_from
_header = struct.Struct(">hhi").unpack_from

SIZE_WORD: Final = 4
HEADER_SIZE_MIN: Final = 10
"""Bytes of API key, version, correlation id and the length of a client id (request header version 1)."""
CLIENT_ID_AT: Final = 8
TLS_HANDSHAKE: Final = b"\x16\x03"
HTTP_METHODS: Final = (b"GET ", b"HEAD", b"POST", b"PUT ", b"OPTI", b"PRI ")
"""Their first four bytes."""


class Format(NamedTuple):
    """What has to be known of an API before its requests can be told apart."""

    flexible_from: int
    """First version whose request header ends in tagged fields (KIP-482, request header version 2)."""
    size_max: int
    """Bytes of a frame, without its size word."""
    copies: bool = False
    """A request's frame is not looked at any more once its answer is waited for."""
    lets_go: bool = False
    """Whoever answers such a request has let go of its frame, and of what was made of it, before it waits."""


@dataclass(slots=True, eq=False)
class Request:
    """One request of a client, its header parsed and its body not. Nobody changes it after the connection made it.

    It is not a frozen dataclass because one is made for each Produce, and freezing costs a microsecond each time.
    """

    key: int
    version: int
    correlation_id: int
    client_id: str | None
    frame: memoryview
    """The whole frame without the size word."""
    body_at: int
    """Where the body starts in `frame`, past the header and its tagged fields."""
    client_host: str
    reservation: "Reservation | None" = None
    """Where `frame` lies in the region, if it was received straight into it."""

    @property
    def body(self) -> memoryview:
        return self.frame[self.body_at :]


class LargeBody(NamedTuple):
    """The start of a frame that should be received elsewhere."""

    key: int
    size: int
    """Bytes of the whole frame, without its size word."""
    received: memoryview
    """The first bytes of the frame, as far as they have come; good until the next `space()`."""

    @property
    def whole_size(self) -> int:
        """Bytes of the frame with its size word."""
        return SIZE_WORD + self.size

    def begin(self, frame: memoryview) -> int:
        """Write the size word, and what has come, to the start of `frame`: how many bytes."""
        end = SIZE_WORD + len(self.received)
        _pack_size(frame, 0, self.size)
        frame[SIZE_WORD:end] = self.received
        return end


class ReceiveBuffers:
    """Buffers that no connection needs now."""

    def __init__(self, size: int) -> None:
        self.size = size
        """Of each."""
        self._kept: list[memoryview] = []

    def take(self) -> memoryview:
        return self._kept.pop() if self._kept else memoryview(bytearray(self.size))

    def give(self, buffer: memoryview) -> None:
        if len(self._kept) < BUFFERS_KEPT_MAX:
            self._kept.append(buffer)


class FrameReader:
    """The receiving side of one connection."""

    def __init__(
        self, formats: Mapping[int, Format], limits: Limits, client_host: str, buffers: ReceiveBuffers | None = None
    ) -> None:
        self._formats = formats
        self._size_max = max(format.size_max for format in formats.values())
        self._large_size_min = limits.large_body_size_min
        self._other_size_min = limits.other_body_size_min
        self._client_host = client_host
        self._buffers = buffers or ReceiveBuffers(limits.receive_buffer_size)
        self._buffer = NO_BYTES
        """Empty while the reader rests; what it holds then lies in `_set_aside`."""
        self._set_aside = b""
        self._start = 0
        self._end = 0
        self._window = WINDOW_SIZE_MIN

    # Methods, not properties: those cost a call of C and one of Python.

    def unfinished(self) -> bool:
        """True when some bytes have come that no event covers yet."""
        return self._start < self._end

    def held(self) -> memoryview:
        """The bytes that no event covers yet; good until the next `space()`."""
        start, end = self._start, self._end
        return (self._buffer or self._wake())[start:end] if start < end else NO_BYTES

    @property
    def large_ahead(self) -> int:
        """Bytes of the frame at the front of `held`, its size word included, where `next` would make a large Produce
        request of it; else 0."""
        held = self._end - self._start
        if held < SIZE_WORD + 2:
            return 0
        self._wake()
        size: int = _size_word(self._buffer, self._start)[0]
        if _api_key(self._buffer, self._start + SIZE_WORD)[0] != PRODUCE or size > self._formats[PRODUCE].size_max:
            return 0
        return SIZE_WORD + size if size >= self._large_size_min and SIZE_WORD + size > held else 0

    def skip(self, size: int) -> None:
        """The first so many bytes of `held`, whole frames, have been read elsewhere."""
        self._start += size
        assert self._start <= self._end

    def space(self) -> memoryview:
        """Where the next bytes go: never empty. What earlier events pointed at is overwritten."""
        buffer, start, end = self._buffer or self._wake(), self._start, self._end
        if start:
            left = end - start
            if left:
                buffer[:left] = buffer[start:end]
            self._start, self._end = 0, left
            return buffer[left : left + self._window]
        return buffer[end : end + self._window]

    def rest(self) -> None:
        """Give the buffer back until `space` or `next` is called, and hold a copy of what is in it. What earlier events
        pointed at is lost."""
        buffer, start, end = self._buffer, self._start, self._end
        if buffer:
            if start < end:
                self._set_aside = bytes(buffer[start:end])
            self._start, self._end = 0, end - start
            self._buffer = NO_BYTES
            self._buffers.give(buffer)

    def _wake(self) -> memoryview:
        if not self._buffer:
            self._buffer = self._buffers.take()
            if self._end:
                self._buffer[: self._end] = self._set_aside
                self._set_aside = b""
        return self._buffer

    def received(self, count: int) -> None:
        """`count` bytes have been written to the start of `space()`."""
        self._end += count
        assert self._end <= len(self._buffer)
        if count == self._window:
            self._window *= 2

    def next(self) -> Request | LargeBody | None:
        """The next event; None: more bytes are needed. Raises ProtocolViolation."""
        start = self._start
        held = self._end - start
        if held < SIZE_WORD:
            return None
        self._wake()
        size: int = _size_word(self._buffer, start)[0]
        if not HEADER_SIZE_MIN <= size <= self._size_max:
            allowed = f"allowed are {HEADER_SIZE_MIN} to {self._size_max}"
            raise ProtocolViolation(f"frame size {size}, {allowed}{_other_protocol(size)}")
        if held < SIZE_WORD + 2:
            return None
        key: int = _api_key(self._buffer, start + SIZE_WORD)[0]
        format = self._format(key)
        if size > format.size_max:
            raise ProtocolViolation(f"frame of {size} bytes for API key {key}, allowed are {format.size_max}")
        past = start + SIZE_WORD + size
        own_memory = key != PRODUCE and size >= self._other_size_min
        if past <= self._end and not own_memory:
            self._start = past
            return self.parse(self._buffer[start + SIZE_WORD : past])
        if own_memory or (key == PRODUCE and size >= self._large_size_min) or SIZE_WORD + size > len(self._buffer):
            self._start = min(past, self._end)
            self._window = WINDOW_SIZE_MIN
            return LargeBody(key, size, self._buffer[start + SIZE_WORD : self._start])
        return None

    def _format(self, key: int) -> Format:
        try:
            return self._formats[key]
        except KeyError:
            raise ProtocolViolation(f"API key {key} is not served") from None

    def parse_whole(self, held: memoryview) -> Request:
        """The request in the frame that begins `held`, with its size word. Raises ProtocolViolation."""
        return self.parse(held[SIZE_WORD : SIZE_WORD + _size_word(held)[0]])

    def parse(self, frame: memoryview) -> Request:
        """The request in a complete frame (without its size word). Raises ProtocolViolation."""
        if len(frame) < HEADER_SIZE_MIN:
            raise ProtocolViolation(f"frame of {len(frame)} bytes, a header has at least {HEADER_SIZE_MIN}")
        key, version, correlation_id = _header(frame)
        cursor = Cursor(frame, CLIENT_ID_AT)
        client_id = cursor.nullable_string()
        if version >= self._format(key).flexible_from:
            cursor.skip_tagged_fields()
        return Request(key, version, correlation_id, client_id, frame, cursor.position, self._client_host)


def _other_protocol(size: int) -> str:
    """What a client speaks whose first bytes were taken for a size, as far as they tell."""
    first = size.to_bytes(SIZE_WORD, "big", signed=True)
    if first[:2] == TLS_HANDSHAKE:
        return ": the client speaks TLS, which is not served"
    return ": the client speaks HTTP" if first in HTTP_METHODS else ""
