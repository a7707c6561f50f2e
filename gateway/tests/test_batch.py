"""The check and the stamp of record batches. Every check runs between two pages that fault (`batches.check`)."""

from __future__ import annotations

import ctypes
import struct
from collections.abc import Callable
from typing import Any, Final

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from totalog.gateway.tests.batches import (
    CODECS,
    FENCE,
    FIELDS,
    HEADER_SIZE,
    INT32_MAX,
    NOW_MS,
    ONE_OF_EACH,
    SIZE_MAX,
    DefaultRecordBatch,
    RecordIn,
    any_records,
    build,
    changed,
    check,
    damaged_batches,
    field,
    sealed,
)
from totalog.gateway.wire import batch
from totalog.gateway.wire._batch import ffi, lib
from totalog.gateway.wire.errors import ErrorCode

GOOD: Final = build()
HOUR_MS: Final = 3_600_000


# Good batches


@pytest.mark.parametrize("codec", CODECS)
def test_a_good_batch_fills_its_element(codec: str) -> None:
    data = build(codec=CODECS[codec], producer_id=1 << 40, producer_epoch=3, base_sequence=9)
    append = check(data)
    assert append.status == lib.STATUS_OK
    oracle = DefaultRecordBatch(data)
    assert oracle.validate_crc()
    assert append.size == len(data)
    assert (append.segment, append.topic_slot, append.topic_generation, append.partition) == (7, 11, 13, 17)
    assert append.record_count == len(ONE_OF_EACH)
    assert append.last_offset_delta == oracle.last_offset_delta == len(ONE_OF_EACH) - 1
    assert (append.producer_id, append.producer_epoch, append.base_sequence) == (1 << 40, 3, 9)
    assert append.max_timestamp == oracle.max_timestamp == NOW_MS + 5
    assert append.flags == CODECS[codec]
    assert (append.base_offset, append.total_order, append.global_position, append.log_start_offset) == (-1,) * 4


@pytest.mark.parametrize("codec", CODECS)
def test_a_batch_of_many_records(codec: str) -> None:
    records: list[RecordIn] = [(NOW_MS + index, b"%d" % index, bytes(index % 300), []) for index in range(3000)]
    append = check(build(records, codec=CODECS[codec]))
    assert (append.status, append.record_count, append.max_timestamp) == (lib.STATUS_OK, 3000, NOW_MS + 2999)


def test_only_the_own_element_is_written() -> None:
    group = ffi.new("struct append[3]")
    ffi.memmove(group, b"\xaa" * 384, 384)
    address = int(ffi.cast("uintptr_t", group))
    assert batch.check(address, 1, FENCE.before_end(GOOD), len(GOOD), SIZE_MAX, 0, 1, 1, 0, 0) == lib.STATUS_OK
    assert bytes(ffi.buffer(group))[:128] == bytes(ffi.buffer(group))[256:] == b"\xaa" * 128
    assert (group[1].status, group[1].size) == (lib.STATUS_OK, len(GOOD))


# Header fields: another value, under a right CRC. Apache Kafka 4.3.1 was seen to answer alike, unless a line says more.

FIELD_VALUES: Final = [
    ("base offset", 1, lib.STATUS_INVALID_RECORD),
    ("base offset", -1, lib.STATUS_INVALID_RECORD),
    ("base offset", 1 << 62, lib.STATUS_INVALID_RECORD),
    ("length", -1, lib.STATUS_CORRUPT),
    ("length", 0, lib.STATUS_CORRUPT),
    ("length", 13, lib.STATUS_CORRUPT),
    ("length", 14, lib.STATUS_CORRUPT),  # Kafka fails without a code: its header ends behind the batch
    ("length", 48, lib.STATUS_CORRUPT),
    ("length", 49, lib.STATUS_CORRUPT),  # the CRC covers other bytes
    ("length", len(GOOD) - 12 + 1, lib.STATUS_INVALID_RECORD),  # cut off
    ("length", INT32_MAX, lib.STATUS_INVALID_RECORD),  # Kafka fails without a code
    ("leader epoch", 0, lib.STATUS_OK),
    ("leader epoch", INT32_MAX, lib.STATUS_OK),
    ("magic", -1, lib.STATUS_CORRUPT),
    ("magic", 0, lib.STATUS_UNSUPPORTED_FORMAT),
    ("magic", 1, lib.STATUS_UNSUPPORTED_FORMAT),
    ("magic", 3, lib.STATUS_CORRUPT),
    ("attributes", 5, lib.STATUS_UNSUPPORTED_CODEC),  # Kafka fails without a code
    ("attributes", 6, lib.STATUS_UNSUPPORTED_CODEC),
    ("attributes", 7, lib.STATUS_UNSUPPORTED_CODEC),
    ("attributes", 0x08, lib.STATUS_BAD_TIMESTAMP),  # Kafka makes it CreateTime, except on LogAppendTime topics
    ("attributes", 0x10, lib.STATUS_OK),  # transactional: whether that is right hangs on the request
    ("attributes", 0x20, lib.STATUS_INVALID_RECORD),  # control
    ("attributes", 0x30, lib.STATUS_INVALID_RECORD),
    ("attributes", 0x40, lib.STATUS_OK),  # delete horizon
    ("attributes", 0xFF80, lib.STATUS_OK),  # bits without a meaning
    ("last offset delta", -1, lib.STATUS_INVALID_RECORD),
    ("last offset delta", 0, lib.STATUS_INVALID_RECORD),
    ("last offset delta", 4, lib.STATUS_INVALID_RECORD),
    ("last offset delta", INT32_MAX, lib.STATUS_INVALID_RECORD),
    ("base timestamp", -1, lib.STATUS_OK),
    ("base timestamp", (1 << 63) - 1, lib.STATUS_OK),  # timestamps wrap; without a bound each of them passes
    ("max timestamp", -1, lib.STATUS_OK),
    ("max timestamp", (1 << 63) - 1, lib.STATUS_OK),  # the records' own timestamps count
    ("producer id", 0, lib.STATUS_INVALID_RECORD),  # with a negative sequence
    ("producer id", (1 << 63) - 1, lib.STATUS_INVALID_RECORD),
    ("producer id", -2, lib.STATUS_OK),  # every negative id is none
    ("producer epoch", -5, lib.STATUS_OK),
    ("base sequence", -2, lib.STATUS_OK),  # without a producer id it has no meaning
    ("base sequence", 0, lib.STATUS_OK),
    ("record count", -1, lib.STATUS_INVALID_RECORD),
    ("record count", 0, lib.STATUS_INVALID_RECORD),
    ("record count", 3, lib.STATUS_INVALID_RECORD),
    ("record count", 5, lib.STATUS_INVALID_RECORD),
    ("record count", INT32_MAX, lib.STATUS_INVALID_RECORD),
]


@pytest.mark.parametrize(("name", "value", "status"), FIELD_VALUES)
def test_a_changed_header_field(name: str, value: int, status: int) -> None:
    assert check(changed(GOOD, **{name.replace(" ", "_"): value})).status == status


def test_every_header_field_is_in_the_table() -> None:
    assert {name for name, _, _ in FIELD_VALUES} | {"crc"} == set(FIELDS)


@pytest.mark.parametrize("codec", CODECS)
def test_each_bit_under_the_crc_counts(codec: str) -> None:
    data = bytearray(build([(NOW_MS, b"key", b"value", [("header", b"x")])], codec=CODECS[codec]))
    for bit in range(17 * 8, len(data) * 8):
        data[bit // 8] ^= 1 << bit % 8
        assert check(bytes(data)).status == lib.STATUS_CORRUPT, bit
        data[bit // 8] ^= 1 << bit % 8


@pytest.mark.parametrize(
    ("values", "status"),
    [
        ({"record_count": 3, "last_offset_delta": 2}, lib.STATUS_INVALID_RECORD),  # a record too many is there
        ({"record_count": 5, "last_offset_delta": 4}, lib.STATUS_INVALID_RECORD),  # one is missing
        ({"record_count": 0, "last_offset_delta": -1}, lib.STATUS_INVALID_RECORD),
        ({"record_count": -(1 << 31), "last_offset_delta": INT32_MAX}, lib.STATUS_INVALID_RECORD),
        ({"record_count": INT32_MAX, "last_offset_delta": INT32_MAX - 1}, lib.STATUS_INVALID_RECORD),
        ({"producer_id": 5, "base_sequence": 0}, lib.STATUS_OK),
        ({"producer_id": 5, "base_sequence": INT32_MAX}, lib.STATUS_OK),
        ({"producer_id": 5, "base_sequence": -1}, lib.STATUS_INVALID_RECORD),
    ],
)
def test_changed_header_fields_together(values: dict[str, int], status: int) -> None:
    assert check(changed(GOOD, **values)).status == status


@pytest.mark.parametrize("codec", CODECS.values(), ids=CODECS)
@pytest.mark.parametrize("record_count", [0, -1, -INT32_MAX - 1])
def test_a_batch_of_no_records(codec: int, record_count: int) -> None:
    last_offset_delta = record_count - 1 if record_count > -INT32_MAX else INT32_MAX
    values = {"record_count": record_count, "last_offset_delta": last_offset_delta, "attributes": codec}
    assert check(sealed(changed(GOOD, **values)[:HEADER_SIZE])).status == lib.STATUS_INVALID_RECORD
    assert check(changed(build(codec=codec), **values)).status == lib.STATUS_INVALID_RECORD


def test_a_negative_producer_id_is_handed_on_as_none() -> None:
    assert check(changed(GOOD, producer_id=-(1 << 63))).producer_id == -1


# Two faults: which one is answered


@pytest.mark.parametrize(
    ("data", "status"),
    [
        (changed(GOOD, magic=3, base_offset=1), lib.STATUS_CORRUPT),
        (changed(GOOD, magic=1) * 2, lib.STATUS_UNSUPPORTED_FORMAT),
        (changed(GOOD, base_offset=1) + GOOD[:20] + b"\xff" * 9, lib.STATUS_INVALID_RECORD),
        (changed(GOOD, False, crc=0) * 2, lib.STATUS_INVALID_RECORD),  # two batches before the CRC
        (changed(GOOD, False, crc=0, base_offset=1), lib.STATUS_INVALID_RECORD),  # base offset before the CRC
        (changed(GOOD, False, attributes=0x27), lib.STATUS_CORRUPT),
        (changed(GOOD, attributes=0x27), lib.STATUS_UNSUPPORTED_CODEC),
        (changed(GOOD, attributes=0x28), lib.STATUS_INVALID_RECORD),
    ],
)
def test_the_first_fault_is_answered(data: bytes, status: int) -> None:
    assert check(data).status == status


@pytest.mark.parametrize(
    ("values", "seal", "status"),
    [
        ({}, True, lib.STATUS_TOO_LARGE),
        ({"crc": 0}, False, lib.STATUS_TOO_LARGE),
        ({"record_count": 9}, True, lib.STATUS_TOO_LARGE),
        ({"attributes": 7}, True, lib.STATUS_TOO_LARGE),
        ({"base_offset": 1}, True, lib.STATUS_INVALID_RECORD),
        ({"magic": 3}, True, lib.STATUS_CORRUPT),
        ({"magic": 0}, True, lib.STATUS_UNSUPPORTED_FORMAT),
    ],
)
def test_a_batch_that_is_too_large_and_has_another_fault(values: dict[str, int], seal: bool, status: int) -> None:
    assert check(changed(GOOD, seal, **values), size_max=len(GOOD) - 1).status == status


def test_the_largest_batch_passes_and_one_byte_more_does_not() -> None:
    overhead = len(build([(NOW_MS, None, bytes(1_000_000), [])])) - 1_000_000
    for size, status in ((SIZE_MAX, lib.STATUS_OK), (SIZE_MAX + 1, lib.STATUS_TOO_LARGE)):
        data = build([(NOW_MS, None, bytes(size - overhead), [])])
        assert len(data) == size
        assert check(data).status == status


# What lies behind the batch, and batches that end early


@pytest.mark.parametrize(
    ("tail", "status"),
    [
        (b"\0", lib.STATUS_OK),
        (bytes(11), lib.STATUS_OK),
        (bytes(12), lib.STATUS_CORRUPT),  # a batch of length 0
        (bytes(100), lib.STATUS_CORRUPT),
        (bytes(8) + struct.pack(">i", 14), lib.STATUS_OK),
        (bytes(8) + struct.pack(">i", -1), lib.STATUS_CORRUPT),
        (bytes(8) + struct.pack(">i", 100) + bytes(4) + b"\x03", lib.STATUS_CORRUPT),
        (bytes(8) + struct.pack(">i", INT32_MAX) + bytes(4) + b"\x02", lib.STATUS_OK),  # Kafka fails without a code
        (GOOD, lib.STATUS_INVALID_RECORD),
        (changed(GOOD, magic=1), lib.STATUS_INVALID_RECORD),
        (GOOD[:-1], lib.STATUS_OK),
        (GOOD + GOOD, lib.STATUS_INVALID_RECORD),
    ],
)
def test_a_tail(tail: bytes, status: int) -> None:
    append = check(GOOD + tail)
    assert append.status == status
    if status == lib.STATUS_OK:
        assert append.size == len(GOOD)  # the tail is not stored


@pytest.mark.parametrize("codec", CODECS)
def test_a_batch_cut_off_at_each_byte(codec: str) -> None:
    data = build(codec=CODECS[codec])
    for size in range(len(data)):
        assert check(data[:size]).status == lib.STATUS_INVALID_RECORD, size


def test_a_batch_that_ends_at_each_byte_and_says_so() -> None:
    for size in range(12, len(GOOD)):
        expected = lib.STATUS_CORRUPT if size < HEADER_SIZE else lib.STATUS_INVALID_RECORD
        assert check(sealed(GOOD[:size])).status == expected, size


def test_no_bytes_at_all() -> None:
    append = check(b"")
    assert (append.status, append.size) == (lib.STATUS_INVALID_RECORD, 0)


# Anything at all


@settings(deadline=None)
@given(st.binary(max_size=300))
def test_any_bytes_are_answered(data: bytes) -> None:
    assert check(data).status in ANSWERS


@settings(deadline=None, max_examples=300)
@given(damaged_batches())
def test_a_damaged_batch_is_answered(data: bytes) -> None:
    append = check(data, timestamp_max=NOW_MS + HOUR_MS)
    assert append.status in ANSWERS
    assert append.size <= len(data)
    if append.status == lib.STATUS_OK:
        assert DefaultRecordBatch(data[: append.size]).validate_crc()
        assert 0 < append.record_count == append.last_offset_delta + 1
        assert append.max_timestamp <= NOW_MS + HOUR_MS


@settings(deadline=None)
@given(any_records, st.sampled_from(list(CODECS.values())))
def test_whatever_the_oracle_builds_passes(records: list[RecordIn], codec: int) -> None:
    append = check(build(records, codec=codec))
    assert append.status == lib.STATUS_OK
    assert append.record_count == len(records)
    assert append.max_timestamp == max(timestamp for timestamp, *_ in records)


# Stamp


def stamp_run(batches: list[bytes], stamps: list[tuple[int, int]]) -> bytes:
    run = b"".join(batches)
    group = ffi.new("struct read_batch[]", len(batches))
    for index, (data, (base_offset, leader_epoch)) in enumerate(zip(batches, stamps, strict=True)):
        group[index].base_offset = base_offset
        group[index].size = len(data)
        group[index].leader_epoch = leader_epoch
    address = FENCE.before_end(run)
    assert batch.stamp(address, int(ffi.cast("uintptr_t", group)), len(batches), ffi.NULL, 0) == 0
    return ctypes.string_at(address, len(run))


def test_a_run_is_stamped_and_nothing_else_is_touched() -> None:
    batches = [build([(NOW_MS, b"k", bytes(size), [])] * count) for size, count in ((0, 1), (77, 3), (5000, 2))]
    stamps = [(0, 0), (1 << 40, 3), ((1 << 63) - 1, INT32_MAX)]
    run = stamp_run(batches, stamps)
    position = 0
    for data, (base_offset, leader_epoch) in zip(batches, stamps, strict=True):
        stamped = run[position : position + len(data)]
        assert DefaultRecordBatch(stamped).validate_crc()
        assert (field(stamped, "base offset"), field(stamped, "leader epoch")) == (base_offset, leader_epoch)
        assert stamped == struct.pack(">q", base_offset) + data[8:12] + struct.pack(">i", leader_epoch) + data[16:]
        position += len(data)


def test_a_run_of_no_batches_is_left_alone() -> None:
    assert stamp_run([], []) == b""
    address = FENCE.before_end(GOOD)
    assert batch.stamp(address, 0, 0, ffi.NULL, 0) == 0
    assert ctypes.string_at(address, len(GOOD)) == GOOD


@pytest.mark.parametrize("read", [list, lambda oracle: [record.offset for record in oracle]])
def test_stamped_offsets_are_what_a_client_reads(read: Callable[[Any], list[Any]]) -> None:
    stamped = stamp_run([GOOD], [(500, 1)])
    offsets = [getattr(item, "offset", item) for item in read(DefaultRecordBatch(stamped))]
    assert offsets == [500, 501, 502, 503]


# Codes

CODES: Final = {
    "OK": 0,
    "DUPLICATE": 0,
    "UNKNOWN_TOPIC": 3,
    "OUT_OF_MEMORY": 56,
    "OUT_OF_ORDER_SEQUENCE": 45,
    "INVALID_PRODUCER_EPOCH": 47,
    "TOPIC_EXISTS": 36,
    "LIMIT_REACHED": 44,
    "CORRUPT": 2,
    "INVALID_RECORD": 87,
    "TOO_LARGE": 10,
    "UNSUPPORTED_FORMAT": 87,
    "OFFSET_OUT_OF_RANGE": 1,
    "UNSUPPORTED_CODEC": 76,
    "BAD_TIMESTAMP": 32,
    "INVALID_ARGUMENT": 42,
}
STATUSES: Final = [name.removeprefix("STATUS_") for name in dir(lib) if name.startswith("STATUS_")]
ANSWERS: Final = {
    getattr(lib, f"STATUS_{name}")
    for name in (
        "OK",
        "CORRUPT",
        "INVALID_RECORD",
        "TOO_LARGE",
        "UNSUPPORTED_FORMAT",
        "UNSUPPORTED_CODEC",
        "BAD_TIMESTAMP",
    )
}


@pytest.mark.parametrize("name", sorted(set(STATUSES) - {"PENDING", "ON_DISK", "ARCHIVE_FAILED"}))
def test_each_status_has_its_code(name: str) -> None:
    code = batch.error_code(getattr(lib, f"STATUS_{name}"))
    assert isinstance(code, ErrorCode)
    assert code == CODES[name]


def test_what_is_no_answer_has_no_code() -> None:
    for status in (lib.STATUS_PENDING, lib.STATUS_ON_DISK, lib.STATUS_ARCHIVE_FAILED, -1, 1000):
        with pytest.raises(KeyError):
            batch.error_code(status)


def test_memory_full_may_be_tried_again() -> None:
    assert batch.error_code(lib.STATUS_OUT_OF_MEMORY).retriable
