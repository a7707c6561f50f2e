"""Arrays of an answer that are encoded as they grow: an answer of many rows is there once, as the bytes that are sent.

A row is a data class of the library, encoded the moment it is added, and may hold `Rows` itself. `frame_of` makes the
answer around them. Rows become part of one thing, and are gone then: what they held is not copied.
"""

from collections.abc import Callable
from struct import pack_into
from typing import Any, Final, Self

from totalog.gateway.wire.encode import count

ROOM: Final = 256
"""Bytes that most rows take at most; a buffer grows where one takes more."""


class Buffer:
    """What the library's encoders write into."""

    __slots__ = ("buf", "pos")

    def __init__(self) -> None:
        self.buf = bytearray(ROOM)
        self.pos = 0

    def ensure(self, needed: int) -> None:
        """Room for so many bytes behind `pos`; `buf` may be another one then."""
        if self.pos + needed > len(self.buf):
            self.buf = self.buf[: self.pos] + bytes(max(len(self.buf), needed))

    def take(self) -> bytearray:
        """What was written, to be written no more."""
        written, self.pos = self.buf[: self.pos], 0
        return written


class Rows:
    __slots__ = ("_count", "_encode", "_flexible", "_inner", "_out", "_struct", "data")

    def __init__(self, flexible: bool) -> None:
        self.data = bytearray()
        self._flexible = flexible
        self._count = 0
        self._out = Buffer()
        self._struct: Any = None
        self._encode: Callable[[Any, Buffer], None]
        self._inner: list[str] = []
        """Fields of a row that may hold rows."""

    def __len__(self) -> int:
        return self._count

    def append(self, row: Any) -> None:
        if self._struct is not row._struct:
            self._learn(row)
        if self._inner and any(type(getattr(row, name)) is Rows for name in self._inner):
            whole = _around(row, self._flexible, self._out)
            if self.data:
                self.data += whole
            else:
                self.data = whole
        else:
            self._encode(row, self._out)
            self.data += self._out.take()
        self._count += 1

    def _learn(self, row: Any) -> None:
        self._struct, struct = row._struct, _struct_of(row)
        self._encode = struct.compiled_encode_into(row._version, compact=self._flexible, tagged=self._flexible)
        self._inner = [field.name for field in struct.untagged_fields(row._version) if field.is_struct_array()]

    def copy(self) -> Self:
        """The same rows, to stand at a second place."""
        twin = type(self)(self._flexible)
        twin.data, twin._count = self.data[:], self._count
        return twin


def _struct_of(item: Any) -> Any:
    """How it is encoded; data classes of rows name the array that they stand in."""
    return item._struct.array_of if item._struct.is_array() else item._struct


def frame_of(answer: Any, correlation_id: int) -> bytearray | None:
    """The complete frame of an answer; None where it holds no `Rows`."""
    version = answer.API_VERSION
    if not any(type(getattr(answer, field.name)) is Rows for field in answer._struct.untagged_fields(version)):
        return None
    flexible = answer.flexible_version_q(version)
    answer.with_header(correlation_id)
    out = Buffer()
    out.pos = 4
    answer.encode_header_into(out, flexible=flexible)
    frame = _around(answer, flexible, out)
    pack_into(">i", frame, 0, len(frame) - 4)
    return frame


def _around(item: Any, flexible: bool, out: Buffer) -> bytearray:
    """Encodes an item that holds rows, behind what `out` has. The first rows stay where they are, the rest comes before
    and behind them."""
    version, struct, whole = item._version, _struct_of(item), None
    for field in struct.untagged_fields(version):
        value = getattr(item, field.name)
        if type(value) is not Rows:
            field.encode_into(value, out, version=version, compact=flexible, tagged=flexible)
            continue
        head = out.take() + count(len(value), flexible)
        if whole is None:
            whole = value.data
            whole[:0] = head
        else:
            whole += head
            whole += value.data
        del value.data
    assert whole is not None, "it holds no rows"
    if flexible:
        struct.tagged_fields(version).encode_into(item, out, version=version)
    whole += out.take()
    return whole
