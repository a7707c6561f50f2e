"""The records inside a batch: built for internal topics, and opened where an answer hangs on one record.

Nothing on the way of a produce or a fetch comes here: a look-up by time opens one batch, an internal topic is folded at
start. Batches come from the log, so the CRC and the header were checked when they were stored; what lies inside a
compressed one mostly was not, and is treated as hostile. Decompression is bounded, and a batch that cannot be opened
raises CorruptBatch, which is a CORRUPT_MESSAGE to a client.

Source: Kafka's "Record Batch" and "Record" pages; KIP-98, KIP-110 (zstd).
"""

from __future__ import annotations

import struct
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Final, NamedTuple

from totalog.gateway.wire import compression
from totalog.gateway.wire._batch import ffi, lib
from totalog.gateway.wire.batch import BATCH_OVERHEAD, CODEC_BITS, crc32c

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    Bytes = bytes | bytearray | memoryview

__all__ = [
    "CorruptBatch",
    "Record",
    "build_batch",
    "find_offset_by_timestamp",
    "max_timestamp_record",
    "read_records",
]

_HEADER: Final = struct.Struct(">qiibIhiqqqhii")
_ATTRIBUTES_AT: Final = 21
_CRC_AT: Final = 17
_APPEND_TIME_BIT: Final = 0x08
_TIMESTAMP_MIN: Final = -(1 << 63)
_MASK_32: Final = (1 << 32) - 1
_MASK_64: Final = (1 << 64) - 1


class CorruptBatch(Exception):
    """The batch's records cannot be opened: they are damaged, or larger than `compression.OPENED_SIZE_MAX`."""


class Record(NamedTuple):
    """One record: its offset is the batch's base offset plus `offset_delta`; the timestamp is in milliseconds."""

    offset_delta: int
    timestamp: int
    key: bytes | None
    value: bytes | None


class _Header(NamedTuple):
    base_offset: int
    length: int
    leader_epoch: int
    magic: int
    crc: int
    attributes: int
    last_offset_delta: int
    base_timestamp: int
    max_timestamp: int
    producer_id: int
    producer_epoch: int
    base_sequence: int
    record_count: int


def find_offset_by_timestamp(batch: Bytes, timestamp: int) -> tuple[int, int] | None:
    """The first record of `batch` at or after `timestamp` (milliseconds since 1970), as (offset delta, timestamp)."""
    with _opened(batch) as (header, records):
        append_time = header.attributes & _APPEND_TIME_BIT != 0
        if append_time and header.max_timestamp < timestamp:
            return None
        place = ffi.new("struct record_place *")
        wanted = _TIMESTAMP_MIN if append_time else timestamp
        found = lib.batch_find_timestamp(
            compression.address_of(records), len(records), header.record_count, header.base_timestamp, wanted, place
        )
        if found < 0:
            raise CorruptBatch("a record's bytes do not add up")
        if found == 0:
            return None
        return place.offset_delta, header.max_timestamp if append_time else place.timestamp


def max_timestamp_record(batch: Bytes) -> tuple[int, int]:
    """The first record of `batch` with its largest timestamp, as (offset delta, timestamp in milliseconds)."""
    with _opened(batch) as (header, records):
        if header.attributes & _APPEND_TIME_BIT:  # all records carry the batch's time, so the first one is it
            place = _walk(header, records, first_only=True)
            return place.offset_delta, header.max_timestamp
        place = _walk(header, records)
        return place.offset_delta, place.timestamp


def read_records(batch: Bytes) -> list[Record]:
    """All records of `batch`, without their headers."""
    with _opened(batch) as (header, records):
        _walk(header, records)  # from here on every length is known to fit
        append_time = header.max_timestamp if header.attributes & _APPEND_TIME_BIT else None
        found = []
        position = 0
        for _ in range(header.record_count):
            size, position = _read_varint(records, position)
            end = position + size
            timestamp_delta, position = _read_varint(records, position + 1, _MASK_64)
            offset_delta, position = _read_varint(records, position)
            key, position = _read_bytes(records, position)
            value, _ = _read_bytes(records, position)
            timestamp = _wrapped(header.base_timestamp + timestamp_delta) if append_time is None else append_time
            found.append(Record(offset_delta, timestamp, key, value))
            position = end
        return found


def build_batch(records: Sequence[tuple[bytes | None, bytes | None]], timestamp_ms: int) -> bytes:
    """An uncompressed batch of (key, value) records that all carry `timestamp_ms`; offsets count from 0."""
    assert records, "a batch holds at least one record"
    body = bytearray()
    for offset_delta, (key, value) in enumerate(records):
        record = b"".join((b"\0\0", _varint(offset_delta), _sized(key), _sized(value), b"\0"))
        body += _varint(len(record))
        body += record
    count = len(records)
    header = _Header(
        base_offset=0,
        length=BATCH_OVERHEAD - 12 + len(body),
        leader_epoch=-1,
        magic=2,
        crc=0,
        attributes=0,
        last_offset_delta=count - 1,
        base_timestamp=timestamp_ms,
        max_timestamp=timestamp_ms,
        producer_id=-1,
        producer_epoch=-1,
        base_sequence=-1,
        record_count=count,
    )
    batch = bytearray(_HEADER.pack(*header))
    batch += body
    struct.pack_into(">I", batch, _CRC_AT, crc32c(memoryview(batch)[_ATTRIBUTES_AT:]))
    return bytes(batch)


@contextmanager
def _opened(batch: Bytes) -> Iterator[tuple[_Header, memoryview]]:
    """The header, and the records as they were before compression. The view ends with the context."""
    if len(batch) < BATCH_OVERHEAD:
        raise CorruptBatch("the batch is shorter than its header")
    header = _Header(*_HEADER.unpack_from(batch))
    size = header.length + 12
    if header.magic != 2 or not BATCH_OVERHEAD <= size <= len(batch):
        raise CorruptBatch("the batch's header does not describe its bytes")
    with memoryview(batch) as whole, whole[BATCH_OVERHEAD:size] as stored:
        codec = header.attributes & CODEC_BITS
        if codec == 0:
            yield header, stored
            return
        with _decompressed(codec, stored) as records:
            yield header, records


@contextmanager
def _decompressed(codec: int, stored: memoryview) -> Iterator[memoryview]:
    with ExitStack() as held:
        try:
            records = held.enter_context(compression.opened(codec, stored))
        except compression.Damaged as fault:
            raise CorruptBatch(f"the records cannot be decompressed: {fault}") from fault
        except compression.TooLarge:
            raise CorruptBatch(f"the records take more than {compression.OPENED_SIZE_MAX} bytes decompressed") from None
        yield records


class _Place(NamedTuple):
    offset_delta: int
    timestamp: int


def _walk(header: _Header, records: memoryview, *, first_only: bool = False) -> _Place:
    """Checks the bytes of all records (or of the first); gives the place of the first with the largest timestamp."""
    place = ffi.new("struct record_place *")
    count = min(header.record_count, 1) if first_only else header.record_count
    found = lib.batch_find_max_timestamp(
        compression.address_of(records), len(records), count, header.base_timestamp, place
    )
    if found <= 0:
        raise CorruptBatch("a record's bytes do not add up" if found < 0 else "the batch holds no record")
    return _Place(place.offset_delta, place.timestamp)


def _read_varint(data: memoryview, position: int, mask: int = _MASK_32) -> tuple[int, int]:
    """A signed varint (or varlong, by its mask) and the position behind it. Bits beyond the mask are dropped."""
    raw = shift = 0
    while True:
        byte = data[position]
        position += 1
        raw |= (byte & 0x7F) << shift
        if byte < 0x80:
            raw &= mask
            return raw >> 1 ^ -(raw & 1), position
        shift += 7


def _read_bytes(data: memoryview, position: int) -> tuple[bytes | None, int]:
    size, position = _read_varint(data, position)
    if size < 0:
        return None, position
    return bytes(data[position : position + size]), position + size


def _wrapped(value: int) -> int:
    """The sum as 64 bits keep it."""
    return (value - _TIMESTAMP_MIN & _MASK_64) + _TIMESTAMP_MIN


def _varint(value: int) -> bytes:
    raw = value << 1 ^ value >> 63
    encoded = bytearray()
    while raw > 0x7F:
        encoded.append(raw & 0x7F | 0x80)
        raw >>= 7
    encoded.append(raw)
    return bytes(encoded)


def _sized(data: bytes | None) -> bytes:
    return b"\x01" if data is None else _varint(len(data)) + data
