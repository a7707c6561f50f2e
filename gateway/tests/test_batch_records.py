"""The walk of uncompressed records, and the bounds of timestamps."""

from __future__ import annotations

from typing import Final

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from totalog.gateway.tests.batches import (
    CODECS,
    HEADER_SIZE,
    INT32_MAX,
    INT64_MAX,
    NOW_MS,
    RecordIn,
    any_records,
    build,
    changed,
    check,
    field,
    sealed,
    zigzag,
)
from totalog.gateway.wire._batch import lib

GOOD: Final = build()
HOUR_MS: Final = 3_600_000


# Records


def record(
    *,
    attributes: bytes = b"\0",
    timestamp_delta: bytes = b"\0",
    offset_delta: bytes = b"\0",
    key: bytes = b"\x01",
    value: bytes = b"\x02v",
    headers: bytes = b"\0",
    tail: bytes = b"",
    size: bytes | None = None,
) -> bytes:
    body = attributes + timestamp_delta + offset_delta + key + value + headers + tail
    return (zigzag(len(body)) if size is None else size) + body


def batch_of(*records: bytes, base_timestamp: int = NOW_MS, count: int | None = None) -> bytes:
    count = len(records) if count is None else count
    empty = changed(GOOD, record_count=count, last_offset_delta=count - 1, base_timestamp=base_timestamp)
    return sealed(empty[:HEADER_SIZE] + b"".join(records))


ENDLESS: Final = b"\x80" * 5 + b"\x01"
LONGEST: Final = b"\xff" * 4 + b"\x0f"  # -2^31 in the most bytes that a varint may have


@pytest.mark.parametrize(
    "data",
    [
        record(),
        record(attributes=b"\xff"),
        record(offset_delta=zigzag(77)),  # not looked at where records are not compressed
        record(offset_delta=LONGEST),
        record(key=LONGEST),  # any negative length is null
        record(value=LONGEST),
        record(key=b"\x80\x00"),  # length 0 in two bytes
        record(key=b"\x80\x80\x80\x80\x00"),
        record(key=b"\x80\x80\x80\x80\x70"),  # bits beyond 32 are dropped
        record(timestamp_delta=b"\x80" * 9 + b"\x7e"),
        record(key=zigzag(64) + b"k" * 64, value=zigzag(8192) + b"v" * 8192),
        record(headers=zigzag(2) + b"\x00\x01" + b"\x02k\x02v"),
        record(headers=zigzag(1) + b"\x02k" + LONGEST),
        record(headers=zigzag(100) + b"\x00\x01" * 100),
    ],
)
def test_a_record_that_adds_up(data: bytes) -> None:
    assert check(batch_of(data)).status == lib.STATUS_OK
    assert check(batch_of(record(), data, record())).status == lib.STATUS_OK


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\x00",
        record(size=zigzag(-1)),
        record(size=zigzag(6)),  # one byte less than there are
        record(size=zigzag(8)),
        record(size=zigzag(INT32_MAX)),
        record(size=zigzag(-(1 << 31))),
        record(size=ENDLESS),
        record(timestamp_delta=b"\x80" * 10 + b"\x01"),
        record(offset_delta=ENDLESS),
        record(key=ENDLESS),
        record(value=zigzag(INT32_MAX)),
        record(value=zigzag(3) + b"v"),
        record(value=ENDLESS),
        record(headers=zigzag(-1)),
        record(headers=zigzag(1)),
        record(headers=zigzag(INT32_MAX)),
        record(headers=ENDLESS),
        record(headers=zigzag(1) + b"\x01\x02v"),  # null header key
        record(headers=zigzag(1) + LONGEST + b"\x02v"),
        record(headers=zigzag(1) + b"\x02k"),
        record(headers=zigzag(1) + b"\x02k" + zigzag(9) + b"v"),
        record(tail=b"\0"),  # spare bytes in the record
        record() + b"\0",  # and behind it
        record() + record(),
    ],
)
def test_a_record_that_does_not_add_up(data: bytes) -> None:
    assert check(batch_of(data, count=1)).status == lib.STATUS_INVALID_RECORD
    assert check(batch_of(record(), data, count=2)).status == lib.STATUS_INVALID_RECORD


def test_a_record_cut_off_at_each_byte() -> None:
    whole = record(key=zigzag(3) + b"key", headers=zigzag(1) + b"\x02k\x02v", timestamp_delta=zigzag(1000, 64))
    for size in range(len(whole)):
        assert check(batch_of(whole[:size], count=1)).status == lib.STATUS_INVALID_RECORD, size
        inner = whole[1 : 1 + size]
        assert check(batch_of(zigzag(size) + inner, count=1)).status == (
            lib.STATUS_OK if size == len(whole) - 1 else lib.STATUS_INVALID_RECORD
        ), size


# Timestamps


@pytest.mark.parametrize(
    ("timestamps", "header_value", "status"),
    [
        ([NOW_MS + HOUR_MS], None, lib.STATUS_OK),
        ([NOW_MS + HOUR_MS + 1], None, lib.STATUS_BAD_TIMESTAMP),
        ([NOW_MS, NOW_MS + HOUR_MS + 1, NOW_MS], None, lib.STATUS_BAD_TIMESTAMP),
        ([NOW_MS], NOW_MS + 2 * HOUR_MS, lib.STATUS_OK),  # only the header says so
        ([0], None, lib.STATUS_OK),
    ],
)
def test_a_timestamp_ahead_of_the_clock(timestamps: list[int], header_value: int | None, status: int) -> None:
    data = build([(timestamp, b"k", b"v", []) for timestamp in timestamps])
    if header_value is not None:
        data = changed(data, max_timestamp=header_value)
    append = check(data, timestamp_max=NOW_MS + HOUR_MS)
    assert append.status == status
    assert append.max_timestamp == max(timestamps)
    assert check(data).status == lib.STATUS_OK


@pytest.mark.parametrize("codec", [name for name in CODECS if name != "none"])
def test_the_header_speaks_for_compressed_records(codec: str) -> None:
    data = build([(NOW_MS + HOUR_MS, b"k", b"v", [])], codec=CODECS[codec])
    assert check(data, timestamp_max=NOW_MS + HOUR_MS).status == lib.STATUS_OK
    assert check(data, timestamp_max=NOW_MS + HOUR_MS - 1).status == lib.STATUS_BAD_TIMESTAMP


def test_no_timestamp_and_times_before_1970_pass_and_what_overflows_does_not() -> None:
    def status(base_timestamp: int, delta: int = 0) -> tuple[int, int]:
        data = batch_of(record(timestamp_delta=zigzag(delta, 64)), base_timestamp=base_timestamp)
        append = check(data, timestamp_max=NOW_MS)
        return append.status, append.max_timestamp

    assert status(-1) == (lib.STATUS_OK, -1)
    assert status(-5) == (lib.STATUS_OK, -1)
    assert status(5, -10) == (lib.STATUS_OK, -1)
    assert status(NOW_MS - INT64_MAX) == (lib.STATUS_OK, -1)
    assert status(NOW_MS - INT64_MAX - 1)[0] == lib.STATUS_BAD_TIMESTAMP
    assert status(INT64_MAX, 1)[0] == lib.STATUS_BAD_TIMESTAMP  # wraps to the smallest one


def test_wrong_bytes_are_answered_before_wrong_timestamps() -> None:
    late = zigzag(2 * HOUR_MS, 64)
    assert check(batch_of(record(timestamp_delta=late)), timestamp_max=NOW_MS).status == lib.STATUS_BAD_TIMESTAMP
    data = batch_of(record(timestamp_delta=late), record(tail=b"\0"))
    assert check(data, timestamp_max=NOW_MS).status == lib.STATUS_INVALID_RECORD


# Anything at all, against a second walk


class Java:
    """Reads as Kafka's ByteBuffer and ByteUtils do: numbers wrap, bits beyond the type are dropped."""

    def __init__(self, data: bytes) -> None:
        self.data = data
        self.position = 0

    def byte(self) -> int:
        self.position += 1
        return self.data[self.position - 1]  # IndexError at the end

    def number(self, bits: int) -> int:
        raw = 0
        for shift in range(0, bits, 7):
            byte = self.byte()
            raw |= (byte & 0x7F) << shift
            if byte < 0x80:
                raw %= 1 << bits
                return raw // 2 if raw % 2 == 0 else -(raw // 2) - 1
        raise ValueError("the number has no end")

    def skip(self, size: int) -> None:
        if size > len(self.data) - self.position:
            raise ValueError("longer than the buffer")
        self.position += max(size, 0)


def walk(records: bytes, count: int, base_timestamp: int) -> list[int]:
    """The timestamps of all records; ValueError or IndexError when Kafka would not read them."""
    java = Java(records)
    timestamps = []
    for _ in range(count):
        size = java.number(32)
        start = java.position
        java.byte()
        timestamp = base_timestamp + java.number(64)
        timestamps.append((timestamp + (1 << 63)) % (1 << 64) - (1 << 63))
        java.number(32)
        java.skip(java.number(32))
        java.skip(java.number(32))
        header_count = java.number(32)
        if not 0 <= header_count <= len(records) - java.position:
            raise ValueError("header count")
        for _ in range(header_count):
            key_size = java.number(32)
            if key_size < 0:
                raise ValueError("null header key")
            java.skip(key_size)
            java.skip(java.number(32))
        if java.position - start != size:
            raise ValueError("size")
    if java.position != len(records):
        raise ValueError("spare bytes")
    return timestamps


numbers = st.one_of(
    st.sampled_from([-2, -1, 0, 1, 2, 3, 63, 64, -64, -65, INT32_MAX, -INT32_MAX - 1, INT64_MAX, -INT64_MAX - 1]).map(
        lambda value: zigzag(value, 64)
    ),
    st.binary(min_size=1, max_size=11).map(lambda data: bytes(byte | 0x80 for byte in data[:-1]) + data[-1:]),
)
sized = st.binary(max_size=70).map(lambda data: zigzag(len(data)) + data) | st.just(b"\x01") | numbers
header_lists = st.lists(st.tuples(sized, sized).map(b"".join), max_size=3).map(
    lambda headers: zigzag(len(headers)) + b"".join(headers)
)


@st.composite
def records_in_disorder(draw: st.DrawFn) -> tuple[bytes, int]:
    """Bytes that are nearly records, and their count."""
    records = []
    for _ in range(draw(st.integers(1, 4))):
        body = draw(st.tuples(st.just(b"\0"), numbers, numbers, sized, sized, header_lists | numbers).map(b"".join))
        fits = draw(st.integers(0, 9)) > 0
        records.append((zigzag(len(body)) if fits else draw(numbers)) + body)
    data = bytearray(b"".join(records))
    for _ in range(draw(st.sampled_from([0, 0, 0, 1, 2]))):
        data[draw(st.integers(0, len(data) - 1))] = draw(st.integers(0, 255))
    return bytes(data), len(records)


@settings(deadline=None, max_examples=300)
@given(records_in_disorder(), st.sampled_from([NOW_MS, 0, -1, INT64_MAX, -INT64_MAX - 1]))
def test_the_walk_agrees_with_another_one(records: tuple[bytes, int], base_timestamp: int) -> None:
    data, count = records
    append = check(batch_of(data, count=count, base_timestamp=base_timestamp), timestamp_max=NOW_MS)
    try:
        timestamps = walk(data, count, base_timestamp)
    except (ValueError, IndexError):
        assert append.status == lib.STATUS_INVALID_RECORD
        return
    fits = all(NOW_MS - INT64_MAX <= timestamp <= NOW_MS for timestamp in timestamps)
    assert append.status == (lib.STATUS_OK if fits else lib.STATUS_BAD_TIMESTAMP)
    assert append.max_timestamp == max(-1, *timestamps)


@settings(deadline=None)
@given(any_records)
def test_the_other_walk_reads_what_a_producer_builds(records: list[RecordIn]) -> None:
    data = build(records)
    timestamps = walk(data[HEADER_SIZE:], len(records), field(data, "base timestamp"))
    assert timestamps == [timestamp for timestamp, *_ in records]
