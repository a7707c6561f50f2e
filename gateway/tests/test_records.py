"""Opening one batch: look-ups by time, all records, and the batches that are built for internal topics."""

from __future__ import annotations

import contextlib
import gc
import struct
import subprocess
import sys
from pathlib import Path
from typing import Final

import cramjam
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from totalog.gateway.tests.batches import (
    CODECS,
    FENCE,
    HEADER_SIZE,
    INT64_MAX,
    NOW_MS,
    ONE_OF_EACH,
    DefaultRecordBatch,
    RecordIn,
    any_records,
    build,
    changed,
    check,
    compressed,
    damaged_batches,
    nullable,
    sealed,
    zigzag,
)
from totalog.gateway.wire import compression, records
from totalog.gateway.wire._batch import ffi, lib
from totalog.gateway.wire.records import CorruptBatch, Record

ALL_CODECS: Final = pytest.mark.parametrize("codec", CODECS.values(), ids=CODECS)
SNAPPY_MAGIC: Final = b"\x82SNAPPY\x00\x00\x00\x00\x01\x00\x00\x00\x01"


def snappy_stream(data: bytes, block_size: int = 50) -> bytes:
    """What snappy-java writes: a header, then blocks, each behind its length."""
    blocks = [bytes(cramjam.snappy.compress_raw(data[at : at + block_size])) for at in range(0, len(data), block_size)]
    return SNAPPY_MAGIC + b"".join(struct.pack(">i", len(block)) + block for block in blocks)


def with_records(data: bytes, stored: bytes, codec: int) -> bytes:
    """The batch's header over other bytes, said to be compressed with `codec`."""
    return sealed(changed(data, attributes=codec)[:HEADER_SIZE] + stored)


# Reading


@ALL_CODECS
def test_records_are_those_that_went_in(codec: int) -> None:
    expected = [Record(index, timestamp, key, value) for index, (timestamp, key, value, _) in enumerate(ONE_OF_EACH)]
    assert records.read_records(build(codec=codec)) == expected
    assert records.read_records(memoryview(bytearray(build(codec=codec)))) == expected


@settings(deadline=None)
@given(any_records, st.sampled_from(list(CODECS.values())))
def test_records_are_those_that_the_oracle_reads(sent: list[RecordIn], codec: int) -> None:
    plain = build(sent)
    oracle = [Record(record.offset, record.timestamp, record.key, record.value) for record in DefaultRecordBatch(plain)]
    assert records.read_records(compressed(plain, codec)) == oracle


def test_snappy_as_java_writes_it() -> None:
    plain = build()
    for block_size in (1, 50, 10_000):
        data = with_records(plain, snappy_stream(plain[HEADER_SIZE:], block_size), CODECS["snappy"])
        assert records.read_records(data) == records.read_records(plain)


def test_bytes_behind_the_batch_are_not_looked_at() -> None:
    assert records.read_records(build() + b"\xff" * 100) == records.read_records(build())


def test_numbers_wrap_as_in_java() -> None:
    body = b"\0" + zigzag(1, 64) + b"\x80\x80\x80\x80\x70" + b"\x01" + b"\xff\xff\xff\xff\x0f" + b"\0"
    one = build([(0, None, None, [])])
    data = sealed(changed(one, base_timestamp=INT64_MAX)[:HEADER_SIZE] + zigzag(len(body)) + body)
    assert check(data).status == lib.STATUS_OK
    assert records.read_records(data) == [Record(0, -INT64_MAX - 1, None, None)]
    assert records.max_timestamp_record(data) == (0, -INT64_MAX - 1)


# Building


def test_a_built_batch_passes_the_check_and_the_oracle_reads_it() -> None:
    pairs = [(b"key", b"value"), (None, b""), (b"", None), (b"k" * 64, b"v" * 100_000), (None, None)]
    data = records.build_batch(pairs, NOW_MS)
    append = check(data, timestamp_max=NOW_MS)
    assert (append.status, append.size, append.record_count) == (lib.STATUS_OK, len(data), len(pairs))
    assert (append.max_timestamp, append.producer_id, append.flags) == (NOW_MS, -1, 0)
    oracle = DefaultRecordBatch(data)
    assert oracle.validate_crc()
    assert [(record.key, record.value) for record in oracle] == pairs
    assert data == changed(build([(NOW_MS, key, value, []) for key, value in pairs]), leader_epoch=-1)


@settings(deadline=None)
@given(st.lists(st.tuples(nullable, nullable), min_size=1, max_size=200), st.integers(0, 1 << 50))
def test_what_is_built_is_read_back(pairs: list[tuple[bytes | None, bytes | None]], timestamp: int) -> None:
    data = records.build_batch(pairs, timestamp)
    assert data == changed(build([(timestamp, key, value, []) for key, value in pairs]), leader_epoch=-1)
    assert records.read_records(data) == [Record(index, timestamp, *pair) for index, pair in enumerate(pairs)]


def test_a_batch_of_nothing_is_not_built() -> None:
    with pytest.raises(AssertionError):
        records.build_batch([], NOW_MS)


# Look-ups by time


def at_times(*timestamps: int, codec: int = 0) -> bytes:
    return build([(timestamp, b"k", b"v", [("h", b"x")]) for timestamp in timestamps], codec=codec)


@ALL_CODECS
def test_the_first_record_at_or_after_a_time(codec: int) -> None:
    data = at_times(100, 50, 200, 150, 200, codec=codec)
    for wanted, found in [
        (-1, (0, 100)),
        (100, (0, 100)),
        (101, (2, 200)),
        (150, (2, 200)),
        (200, (2, 200)),
        (201, None),
        (INT64_MAX, None),
    ]:
        assert records.find_offset_by_timestamp(data, wanted) == found, wanted
    assert records.max_timestamp_record(data) == (2, 200)


@settings(deadline=None)
@given(
    st.lists(st.integers(0, 20) | st.integers(0, 1 << 50), min_size=1, max_size=20),
    st.integers(-1, 21) | st.integers(0, 1 << 50),
    st.sampled_from(list(CODECS.values())),
)
def test_look_ups_agree_with_a_search_of_the_list(timestamps: list[int], wanted: int, codec: int) -> None:
    data = at_times(*timestamps, codec=codec)
    found = next(((index, time) for index, time in enumerate(timestamps) if time >= wanted), None)
    assert records.find_offset_by_timestamp(data, wanted) == found
    largest = max(timestamps)
    assert records.max_timestamp_record(data) == (timestamps.index(largest), largest)


@ALL_CODECS
def test_with_log_append_time_all_records_have_the_batchs_time(codec: int) -> None:
    data = changed(at_times(100, 50, 200, codec=codec), attributes=0x08 | codec, max_timestamp=777)
    assert records.find_offset_by_timestamp(data, 300) == (0, 777)
    assert records.find_offset_by_timestamp(data, 777) == (0, 777)
    assert records.find_offset_by_timestamp(data, 778) is None
    assert records.max_timestamp_record(data) == (0, 777)
    assert [record.timestamp for record in records.read_records(data)] == [777] * 3


def test_times_before_1970() -> None:
    data = changed(at_times(100, 50, 200), base_timestamp=-1000)
    assert records.find_offset_by_timestamp(data, -1000) == (0, -1000)
    assert records.find_offset_by_timestamp(data, -999) == (2, -900)
    assert records.max_timestamp_record(data) == (2, -900)


# Damaged and hostile batches


def open_all_ways(data: bytes) -> None:
    """Opens `data` by each function; what may come out besides an answer is CorruptBatch, and nothing stays open."""
    for look in (
        records.read_records,
        records.max_timestamp_record,
        lambda data: records.find_offset_by_timestamp(data, NOW_MS),
    ):
        buffer = bytearray(data)
        with contextlib.suppress(CorruptBatch):
            look(buffer)
        buffer.append(0)  # BufferError, had a view been left behind


@ALL_CODECS
def test_a_batch_cut_off_at_each_byte_is_refused(codec: int) -> None:
    data = build(codec=codec)
    for size in range(len(data)):
        with pytest.raises(CorruptBatch):
            records.read_records(data[:size])
        with pytest.raises(CorruptBatch):
            records.max_timestamp_record(data[:size])


@ALL_CODECS
def test_records_cut_off_at_each_byte_are_refused(codec: int) -> None:
    data = build([(NOW_MS, b"k%d" % index, b"v" * index, []) for index in range(20)], codec=codec)
    spare = {CODECS["lz4"]: 4, CODECS["gzip"]: 8}.get(
        codec, 0
    )  # an end mark and sums: without them all records are there
    for size in range(HEADER_SIZE, len(data) - spare):
        with pytest.raises(CorruptBatch):
            records.read_records(sealed(data[:size]))
        with pytest.raises(CorruptBatch):
            records.find_offset_by_timestamp(sealed(data[:size]), INT64_MAX)


def test_a_search_stays_inside_of_its_bytes() -> None:
    whole = build()[HEADER_SIZE:]
    place = ffi.new("struct record_place *")
    for size in range(len(whole)):
        for lay in (FENCE.from_start, FENCE.before_end):
            address = lay(whole[:size])
            assert lib.batch_find_timestamp(address, size, len(ONE_OF_EACH), 0, INT64_MAX, place) == -1
            assert lib.batch_find_max_timestamp(address, size, len(ONE_OF_EACH), 0, place) == -1


@settings(deadline=None, max_examples=500)
@given(damaged_batches())
def test_a_damaged_batch_opens_or_is_refused(data: bytes) -> None:
    open_all_ways(data)


@settings(deadline=None, max_examples=300)
@given(st.binary(max_size=200), st.integers(0, 7), st.integers(-2, 50))
def test_any_bytes_behind_a_header_open_or_are_refused(stored: bytes, codec: int, record_count: int) -> None:
    open_all_ways(sealed(changed(GOOD, attributes=codec, record_count=record_count)[:HEADER_SIZE] + stored))


@settings(deadline=None, max_examples=300)
@given(st.binary(max_size=200), st.sampled_from([0, 1, 2, 3, 4]), st.integers(1, 20))
def test_any_bytes_that_were_compressed_open_or_are_refused(stored: bytes, codec: int, record_count: int) -> None:
    plain = sealed(changed(GOOD, record_count=record_count)[:HEADER_SIZE] + stored)
    data = compressed(plain, codec)
    open_all_ways(data)
    status = check(changed(plain, last_offset_delta=record_count - 1)).status
    if status == lib.STATUS_OK:
        assert len(records.read_records(data)) == record_count


GOOD: Final = build()


@pytest.mark.parametrize("codec", [5, 6, 7])
def test_an_unknown_codec_is_refused(codec: int) -> None:
    with pytest.raises(CorruptBatch, match=f"unknown codec \\({codec}\\)"):
        records.read_records(changed(GOOD, attributes=codec))


@pytest.mark.parametrize(
    "stored",
    [
        SNAPPY_MAGIC,
        SNAPPY_MAGIC[:9],
        SNAPPY_MAGIC + b"\0\0",
        SNAPPY_MAGIC + struct.pack(">i", -1) + b"x",
        SNAPPY_MAGIC + struct.pack(">i", 100) + b"x",
        SNAPPY_MAGIC + struct.pack(">i", 3) + b"xyz",
        snappy_stream(GOOD[HEADER_SIZE:])[:-1],
        b"",
        b"\xff\xff\xff\xff\x0f",
    ],
)
def test_a_broken_snappy_stream_is_refused(stored: bytes) -> None:
    with pytest.raises(CorruptBatch):
        records.read_records(with_records(GOOD, stored, CODECS["snappy"]))


@pytest.mark.parametrize("record_count", [0, -1, -(1 << 31), 5, (1 << 31) - 1])
def test_a_count_that_does_not_fit_is_refused(record_count: int) -> None:
    data = changed(GOOD, record_count=record_count)
    with pytest.raises(CorruptBatch):
        records.read_records(data)
    with pytest.raises(CorruptBatch):
        records.max_timestamp_record(data)


def bomb(codec: str, size: int) -> bytes:
    """A batch that opens to `size` bytes: one record of zeros."""
    body = b"\0\0\0\x01" + zigzag(size - 13) + bytes(size - 13) + b"\0"
    plain = with_records(build([(NOW_MS, None, None, [])]), zigzag(len(body)) + body, 0)
    if codec == "snappy stream":
        return with_records(plain, snappy_stream(plain[HEADER_SIZE:], 1 << 20), CODECS["snappy"])
    return compressed(plain, CODECS[codec])


@pytest.mark.parametrize("codec", ["gzip", "snappy", "snappy stream", "lz4", "zstd"])
def test_a_batch_may_open_to_the_limit_and_no_further(codec: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compression, "OPENED_SIZE_MAX", 3 << 20)
    assert records.max_timestamp_record(bomb(codec, 3 << 20)) == (0, NOW_MS)
    with pytest.raises(CorruptBatch, match="decompressed"):
        records.max_timestamp_record(bomb(codec, (3 << 20) + 1))


MEMORY_OF_A_BOMB: Final = """
import resource, sys
from totalog.gateway.wire import compression, records

def peak_and_resident():
    resident_pages = int(open("/proc/self/statm").read().split()[1])
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss >> 10, resident_pages * resource.getpagesize() >> 20

compression.OPENED_SIZE_MAX = 16 << 20
small_size = int(sys.argv[1])
data = sys.stdin.buffer.read()
records.read_records(data[:small_size])
print(*peak_and_resident())
try:
    records.read_records(data[small_size:])
except records.CorruptBatch:
    print(*peak_and_resident())
"""


@pytest.mark.parametrize("codec", ["gzip", "zstd"])
def test_a_bomb_costs_the_limit_and_gives_it_back(codec: str) -> None:
    small, large = build(codec=CODECS[codec]), bomb(codec, 128 << 20)
    assert len(large) < 1 << 20
    command = [sys.executable, "-c", MEMORY_OF_A_BOMB, str(len(small))]
    run = subprocess.run(command, input=small + large, capture_output=True, check=True)
    peak_before, resident_before, peak, resident = map(int, run.stdout.split())
    assert peak - peak_before < 16 + 10
    assert resident - resident_before < 10


def test_the_decompressor_is_imported_when_first_needed() -> None:
    code = (
        "import sys; from totalog.gateway.wire.records import build_batch, read_records;"
        "read_records(build_batch([(b'k', b'v')], 0));"
        "print([name for name in ('cramjam', 'kafka', 'numpy') if name in sys.modules])"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True, text=True)
    assert run.stdout == "[]\n"


def test_many_look_ups_leave_nothing_mapped() -> None:
    data = build(codec=CODECS["zstd"])

    def mappings() -> int:
        gc.collect()
        return len(Path("/proc/self/maps").read_text().splitlines())

    records.read_records(data)
    before = mappings()
    for _ in range(200):
        records.read_records(data)
    assert mappings() <= before + 5
