"""The one type that checks every read of bytes that came from a client.

A cursor walks forward over a buffer and never backward, so its position is never negative: that matters, because
`struct.unpack_from` with a negative offset reads from the end, and a slice that is too short is silent. Every read
either returns a whole value and moves past it, or raises `ProtocolViolation`, after which the message is given up.

Counts are checked against the bytes that are left before the caller loops or allocates, a varint ends within five
bytes, and a list of tagged fields has at most `TAGGED_FIELDS_COUNT_MAX` entries.
"""

import struct
from typing import Any, Final, NoReturn

from totalog.gateway.limits import STEP_COUNT_MAX, STRING_SIZE_MAX, TAGGED_FIELDS_COUNT_MAX, VARINT_SIZE_MAX
from totalog.gateway.wire.errors import ProtocolViolation

VARINT_MAX: Final = 0xFFFF_FFFF

NAME_LENGTH: Final = 256
"""Characters of a name that take about as long to read as a topic does besides; no topic has a name of so many."""

_SHORT_VARINTS: Final = tuple(bytes((value,)) for value in range(0x80))

_int8 = struct.Struct(">b").unpack_from
_int16 = struct.Struct(">h").unpack_from
_int32 = struct.Struct(">i").unpack_from
_int64 = struct.Struct(">q").unpack_from


class Cursor:
    """Reads Kafka's primitive types from `buffer`, beginning at `position` (bytes from the start of the buffer).

    The names are those of Kafka's protocol guide; `compact_` is the encoding of flexible versions (KIP-482).
    """

    __slots__ = ("buffer", "position", "size")

    def __init__(self, buffer: memoryview, position: int = 0) -> None:
        self.buffer = buffer
        self.size = len(buffer)
        if not 0 <= position <= self.size:
            raise ProtocolViolation(f"a message of {self.size} bytes cannot begin at byte {position}")
        self.position = position

    @property
    def left(self) -> int:
        """Bytes that have not been read yet."""
        return self.size - self.position

    def unpack(self, layout: struct.Struct) -> tuple[Any, ...]:
        """Reads a run of fields of fixed size at once; `layout` must be big-endian."""
        try:
            values = layout.unpack_from(self.buffer, self.position)
        except struct.error:
            self._cut_off(layout.size)
        self.position += layout.size
        return values

    def int8(self) -> int:
        try:
            value: int = _int8(self.buffer, self.position)[0]
        except struct.error:
            self._cut_off(1)
        self.position += 1
        return value

    def int16(self) -> int:
        try:
            value: int = _int16(self.buffer, self.position)[0]
        except struct.error:
            self._cut_off(2)
        self.position += 2
        return value

    def int32(self) -> int:
        try:
            value: int = _int32(self.buffer, self.position)[0]
        except struct.error:
            self._cut_off(4)
        self.position += 4
        return value

    def int64(self) -> int:
        try:
            value: int = _int64(self.buffer, self.position)[0]
        except struct.error:
            self._cut_off(8)
        self.position += 8
        return value

    def varint(self) -> int:
        """An unsigned varint of at most 32 bits in at most five bytes."""
        buffer = self.buffer
        position = self.position
        try:
            value: int = buffer[position]
            if value < 0x80:  # nearly all are this short, and most others take two bytes
                self.position = position + 1
                return value
            byte: int = buffer[position + 1]
            value = value & 0x7F | (byte & 0x7F) << 7
            if byte < 0x80:
                self.position = position + 2
                return value
            for size in range(2, VARINT_SIZE_MAX):
                byte = buffer[position + size]
                value |= (byte & 0x7F) << (7 * size)
                if byte < 0x80:
                    break
            else:
                raise ProtocolViolation(f"a varint does not end within {VARINT_SIZE_MAX} bytes")
        except IndexError:
            self._cut_off(1)
        if value > VARINT_MAX:
            raise ProtocolViolation(f"a varint of more than 32 bits: {value:#x}")
        self.position = position + size + 1
        return value

    def skip(self, size: int) -> int:
        """Moves past `size` bytes and returns the position where they begin."""
        start = self.position
        if not 0 <= size <= self.size - start:
            self._cut_off(size)
        self.position = start + size
        return start

    def uuid(self) -> bytes:
        """The 16 bytes of a uuid as they stand; all zero is Kafka's "none"."""
        start = self.skip(16)
        return bytes(self.buffer[start : start + 16])

    def string(self) -> str:
        size = self.int16()
        return self._text(size) if size >= 0 else self._null("string")

    def compact_string(self) -> str:
        size = self.varint()
        return self._text(size - 1) if size > 0 else self._null("string")

    def nullable_string(self) -> str | None:
        size = self.int16()
        return self._text(size) if size >= 0 else None

    def compact_nullable_string(self) -> str | None:
        size = self.varint()
        return self._text(size - 1) if size > 0 else None

    def nullable_bytes(self) -> tuple[int, int]:
        """(position, size in bytes) of a field of bytes or records, which is not copied; size -1 means null."""
        return self._extent(self.int32())  # any negative size is null, as Kafka reads it

    def compact_nullable_bytes(self) -> tuple[int, int]:
        """`nullable_bytes` in the encoding of flexible versions."""
        return self._extent(self.varint() - 1)

    def array_count(self, item_size_min: int) -> int:
        """The count of an array whose items take `item_size_min` bytes or more each; a null array is refused."""
        count = self.int32()
        if count < 0:
            self._null("array")
        if count * item_size_min > self.size - self.position:
            self._too_many(count)
        return count

    def compact_array_count(self, item_size_min: int) -> int:
        """`array_count` in the encoding of flexible versions."""
        count = self.varint() - 1
        if count < 0:
            self._null("array")
        if count * item_size_min > self.size - self.position:
            self._too_many(count)
        return count

    def nullable_array_count(self, item_size_min: int) -> int | None:
        start = self.position
        if self.int32() < 0:
            return None
        self.position = start
        return self.array_count(item_size_min)

    def compact_nullable_array_count(self, item_size_min: int) -> int | None:
        start = self.position
        if self.varint() == 0:
            return None
        self.position = start
        return self.compact_array_count(item_size_min)

    def skip_tagged_fields(self) -> None:
        """Moves past the tagged fields of a flexible version; their sizes are checked, their contents are not."""
        try:
            count: int = self.buffer[self.position]
        except IndexError:
            self._cut_off(1)
        if count == 0:  # nearly always, and there are many of these lists
            self.position += 1
            return
        count = self.varint()
        if count > TAGGED_FIELDS_COUNT_MAX:
            raise ProtocolViolation(f"{count} tagged fields, the most allowed is {TAGGED_FIELDS_COUNT_MAX}")
        for _ in range(count):
            self.varint()
            self.skip(self.varint())

    def _text(self, size: int) -> str:
        start = self.position
        end = start + size
        if end > self.size:
            self._cut_off(size)
        if size > STRING_SIZE_MAX:
            raise ProtocolViolation(f"a string of {size} bytes, the most allowed is {STRING_SIZE_MAX}")
        self.position = end
        try:
            return str(self.buffer[start:end], "utf-8")
        except UnicodeDecodeError:
            raise ProtocolViolation(f"the string at byte {start} is not UTF-8") from None

    def _extent(self, size: int) -> tuple[int, int]:
        start = self.position
        if size < 0:
            return start, -1
        if size > self.size - start:
            self._cut_off(size)
        self.position = start + size
        return start, size

    def _too_many(self, count: int) -> NoReturn:
        raise ProtocolViolation(f"an array of {count} items before byte {self.position} of {self.size}") from None

    def _null(self, what: str) -> NoReturn:
        raise ProtocolViolation(f"a null {what} where a value is required, before byte {self.position}")

    def _cut_off(self, size: int) -> NoReturn:
        raise ProtocolViolation(f"{size} bytes wanted at byte {self.position} of {self.size}") from None


class Turn:
    """What was gone through since others had their turn."""

    def __init__(self) -> None:
        self._count = 0

    def name(self, name: str | bytes) -> None:
        """A topic with this name, or id, was met. A long name takes its time, too, and counts for more."""
        self._count += 1 + len(name) // NAME_LENGTH

    def over(self, count: int = 0) -> bool:
        """Whether others get their turn now, behind so many more elements; if so, the next one begins."""
        self._count += count
        if self._count < STEP_COUNT_MAX:
            return False
        self._count = 0
        return True


def encode_varint(value: int) -> bytes:
    """The unsigned varint of `value` in its shortest form: the inverse of `Cursor.varint`."""
    if value < 0x80:
        return _SHORT_VARINTS[value]
    encoded = bytearray()
    while value >= 0x80:
        encoded.append(value & 0x7F | 0x80)
        value >>= 7
    encoded.append(value)
    return bytes(encoded)
