"""The cursor: every value it gives lies inside the buffer, and everything else is a ProtocolViolation."""

import struct
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from totalog.gateway.limits import TAGGED_FIELDS_COUNT_MAX
from totalog.gateway.wire.cursor import Cursor, encode_varint
from totalog.gateway.wire.errors import ProtocolViolation

Read = Callable[[Cursor], Any]

LAYOUT = struct.Struct(">hqb")
UUID = bytes(range(16))

# What is read, from which bytes, and what comes out: a value, or a function of the position where the bytes begin.
READS: list[tuple[str, Read, bytes, Any]] = [
    ("int8", Cursor.int8, b"\xfe", -2),
    ("int16", Cursor.int16, b"\xff\xfe", -2),
    ("int32", Cursor.int32, b"\x00\x01\x00\x02", 65538),
    ("int64", Cursor.int64, b"\xff" * 8, -1),
    ("layout", lambda cursor: cursor.unpack(LAYOUT), LAYOUT.pack(-3, 1 << 40, 5), (-3, 1 << 40, 5)),
    ("uuid", Cursor.uuid, UUID, UUID),
    ("varint", Cursor.varint, b"\xff\xff\xff\xff\x0f", 0xFFFF_FFFF),
    ("string", Cursor.string, b"\x00\x03a\xc3\xa9", "aé"),
    ("empty string", Cursor.string, b"\x00\x00", ""),
    ("compact string", Cursor.compact_string, b"\x04a\xc3\xa9", "aé"),
    ("long compact string", Cursor.compact_string, b"\xc9\x01" + b"x" * 200, "x" * 200),
    ("null string", Cursor.nullable_string, b"\xff\xff", None),
    ("nullable string", Cursor.nullable_string, b"\x00\x01z", "z"),
    ("compact null string", Cursor.compact_nullable_string, b"\x00", None),
    ("compact nullable string", Cursor.compact_nullable_string, b"\x02z", "z"),
    ("bytes", Cursor.nullable_bytes, b"\x00\x00\x00\x02ab", lambda before: (before + 4, 2)),
    ("null bytes", Cursor.nullable_bytes, b"\xff\xff\xff\xff", lambda before: (before + 4, -1)),
    ("compact bytes", Cursor.compact_nullable_bytes, b"\x03ab", lambda before: (before + 1, 2)),
    ("empty compact bytes", Cursor.compact_nullable_bytes, b"\x01", lambda before: (before + 1, 0)),
    ("compact null bytes", Cursor.compact_nullable_bytes, b"\x00", lambda before: (before + 1, -1)),
    ("tagged fields", Cursor.skip_tagged_fields, b"\x02\x00\x01x\xff\x01\x02yz", None),
    ("no tagged fields", Cursor.skip_tagged_fields, b"\x00", None),
    ("null array", lambda cursor: cursor.nullable_array_count(4), b"\xff\xff\xff\xff", None),
    ("compact null array", lambda cursor: cursor.compact_nullable_array_count(4), b"\x00", None),
    ("skip", lambda cursor: cursor.skip(3), b"abc", lambda before: before),
]


@pytest.mark.parametrize(("read", "encoded", "value"), [row[1:] for row in READS], ids=[row[0] for row in READS])
@pytest.mark.parametrize("before", [0, 7])
def test_a_read_gives_the_value_and_stops_behind_it(read: Read, encoded: bytes, value: Any, before: int) -> None:
    cursor = Cursor(memoryview(b"\x7f" * before + encoded + b"\x7f" * 9), before)
    found = read(cursor)
    assert found == (value(before) if callable(value) else value)
    assert cursor.position == before + len(encoded)
    assert cursor.left == 9


@pytest.mark.parametrize(("read", "encoded"), [row[1:3] for row in READS], ids=[row[0] for row in READS])
def test_every_truncation_is_refused(read: Read, encoded: bytes) -> None:
    whole = encoded + b"\x7f" * 64  # what lies behind must not be read either
    for size in range(len(encoded)):
        with pytest.raises(ProtocolViolation):
            read(Cursor(memoryview(whole)[:size]))


@pytest.mark.parametrize(
    ("read", "encoded"),
    [
        (Cursor.string, b"\xff\xffabc"),
        (Cursor.string, b"\x80\x00abc"),
        (Cursor.string, b"\x00\x01\xff"),
        (Cursor.compact_string, b"\x00abc"),
        (Cursor.compact_string, b"\x02\xc3"),
        (Cursor.compact_string, b"\xff\xff\xff\xff\x0fabc"),
        (Cursor.nullable_bytes, b"\x7f\xff\xff\xffabc"),
        (Cursor.compact_nullable_bytes, b"\xff\xff\xff\xff\x0fabc"),
        (Cursor.varint, b"\x80\x80\x80\x80\x80\x00"),
        (Cursor.varint, b"\xff\xff\xff\xff\x1f"),
        (Cursor.varint, b"\xff" * 100_000),
        (Cursor.skip_tagged_fields, b"\x01\x00\x7f"),
        (Cursor.skip_tagged_fields, bytes([TAGGED_FIELDS_COUNT_MAX + 1]) + b"\x00\x00" * 64),
        (lambda cursor: cursor.array_count(1), b"\xff\xff\xff\xff"),
        (lambda cursor: cursor.array_count(1), b"\xff\xff\xff\xfb"),
        (lambda cursor: cursor.compact_array_count(1), b"\x00"),
        (lambda cursor: cursor.skip(-1), b"abc"),
    ],
)
def test_what_no_message_may_hold_is_refused(read: Read, encoded: bytes) -> None:
    with pytest.raises(ProtocolViolation):
        read(Cursor(memoryview(encoded)))


def test_as_many_tagged_fields_as_allowed_are_skipped() -> None:
    fields = bytes([TAGGED_FIELDS_COUNT_MAX]) + b"\x05\x01x" * TAGGED_FIELDS_COUNT_MAX
    cursor = Cursor(memoryview(fields))
    cursor.skip_tagged_fields()
    assert cursor.left == 0


@pytest.mark.parametrize("item_size_min", [1, 3, 18])
@pytest.mark.parametrize("left", [0, 1, 17, 18, 54])
def test_a_count_is_what_the_bytes_left_can_hold(item_size_min: int, left: int) -> None:
    count_max = left // item_size_min
    for count in (count_max, count_max + 1):
        forms: list[tuple[Read, bytes]] = [
            (lambda cursor: cursor.array_count(item_size_min), struct.pack(">i", count)),
            (lambda cursor: cursor.nullable_array_count(item_size_min), struct.pack(">i", count)),
            (lambda cursor: cursor.compact_array_count(item_size_min), encode_varint(count + 1)),
            (lambda cursor: cursor.compact_nullable_array_count(item_size_min), encode_varint(count + 1)),
        ]
        for read, encoded in forms:
            cursor = Cursor(memoryview(encoded + bytes(left)))
            if count == count_max:
                assert read(cursor) == count
                assert cursor.left == left
            else:
                with pytest.raises(ProtocolViolation):
                    read(cursor)


@pytest.mark.parametrize("position", [-1, 4])
def test_a_cursor_cannot_begin_outside(position: int) -> None:
    with pytest.raises(ProtocolViolation):
        Cursor(memoryview(b"abc"), position)


@given(st.integers(0, 0xFFFF_FFFF))
@example(0x7F)
@example(0x80)
@example(0x3FFF)
@example(0x4000)
@example(0x1FFFFF)
@example(0x200000)
def test_a_varint_comes_back(value: int) -> None:
    encoded = encode_varint(value)
    cursor = Cursor(memoryview(encoded + b"\xff"))
    assert cursor.varint() == value
    assert cursor.left == 1
    assert len(encoded) == max(1, (value.bit_length() + 6) // 7)


@given(st.binary(max_size=64), st.lists(st.sampled_from([row[1] for row in READS]), max_size=12))
def test_no_bytes_make_it_leave_the_buffer(data: bytes, reads: list[Read]) -> None:
    cursor = Cursor(memoryview(data))
    try:
        for read in reads:
            read(cursor)
            assert 0 <= cursor.position <= len(data)
    except ProtocolViolation:
        assert 0 <= cursor.position <= len(data)
