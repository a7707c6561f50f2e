"""The walk of uncompressed records, and the bounds of timestamps."""

from __future__ import annotations

from typing import Final

import pytest

from totalog.gateway.tests.batches import (
    CODECS,
    HEADER_SIZE,
    INT32_MAX,
    INT64_MAX,
    NOW_MS,
    build,
    changed,
    check,
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
