"""Record batches for tests: built by kafka-python, compressed, damaged, and laid where a stray read faults."""

from __future__ import annotations

import ctypes
import mmap
import struct
import warnings
from collections.abc import Sequence
from typing import Any, Final

import cramjam
from crc32c import crc32c
from hypothesis import strategies as st

from totalog.gateway.wire import batch
from totalog.gateway.wire._batch import ffi

with warnings.catch_warnings():
    warnings.simplefilter("ignore", DeprecationWarning)  # of importlib, when the library reads its schemas
    from kafka.record.default_records import DefaultRecordBatch, DefaultRecordBatchBuilder

__all__ = [
    "CODECS",
    "FENCE",
    "FIELDS",
    "HEADER_SIZE",
    "INT32_MAX",
    "INT64_MAX",
    "NOW_MS",
    "ONE_OF_EACH",
    "SIZE_MAX",
    "DefaultRecordBatch",
    "RecordIn",
    "any_records",
    "build",
    "changed",
    "check",
    "compressed",
    "damaged_batches",
    "field",
    "nullable",
    "sealed",
    "zigzag",
]

CODECS: Final = {"none": 0, "gzip": 1, "snappy": 2, "lz4": 3, "zstd": 4}
HEADER_SIZE: Final = 61
SIZE_MAX: Final = 1_048_588
NOW_MS: Final = 1_700_000_000_000
INT32_MAX: Final = (1 << 31) - 1
INT64_MAX: Final = (1 << 63) - 1

FIELDS: Final = {
    "base offset": (0, ">q"),
    "length": (8, ">i"),
    "leader epoch": (12, ">i"),
    "magic": (16, ">b"),
    "crc": (17, ">I"),
    "attributes": (21, ">H"),
    "last offset delta": (23, ">i"),
    "base timestamp": (27, ">q"),
    "max timestamp": (35, ">q"),
    "producer id": (43, ">q"),
    "producer epoch": (51, ">h"),
    "base sequence": (53, ">i"),
    "record count": (57, ">i"),
}

RecordIn = tuple[int, bytes | None, bytes | None, list[tuple[str, bytes | None]]]
"""Timestamp, key, value, headers."""

ONE_OF_EACH: Final[list[RecordIn]] = [
    (NOW_MS, b"key", b"value", []),
    (NOW_MS + 5, None, b"v" * 200, [("trace", b"\x01\x02"), ("empty", b""), ("null", None)]),
    (NOW_MS - 7, b"", None, []),
    (NOW_MS + 5, b"k" * 70, b"", [("", b"x" * 64)]),
]


def build(
    records: Sequence[RecordIn] = ONE_OF_EACH,
    *,
    codec: int = 0,
    producer_id: int = -1,
    producer_epoch: int = -1,
    base_sequence: int = -1,
) -> bytes:
    """A batch as kafka-python's producer builds it, compressed here (its own codecs ask for further libraries)."""
    builder = DefaultRecordBatchBuilder(
        magic=2,
        compression_type=0,
        is_transactional=False,
        producer_id=producer_id,
        producer_epoch=producer_epoch,
        base_sequence=base_sequence,
        batch_size=1 << 30,
    )
    for offset, (timestamp, key, value, headers) in enumerate(records):
        builder.append(offset, timestamp, key, value, headers)
    return compressed(bytes(builder.build()), codec)


def compressed(plain: bytes, codec: int) -> bytes:
    """The batch with its records compressed; the record count and all other fields stay."""
    records = plain[HEADER_SIZE:]
    match codec:
        case 0:
            return plain
        case 1:
            records = bytes(cramjam.gzip.compress(records))
        case 2:
            records = bytes(cramjam.snappy.compress_raw(records))
        case 3:
            records = bytes(cramjam.lz4.compress(records))
        case 4:
            records = bytes(cramjam.zstd.compress(records))
    (attributes,) = struct.unpack_from(">H", plain, 21)
    return sealed(plain[:21] + struct.pack(">H", attributes & ~7 | codec) + plain[23:HEADER_SIZE] + records)


def sealed(data: bytes) -> bytes:
    """With the length and the CRC that these bytes should have."""
    data = data[:8] + struct.pack(">i", len(data) - 12) + data[12:]
    return data[:17] + struct.pack(">I", crc32c(data[21:])) + data[21:]


def changed(data: bytes, seal: bool = True, /, **values: int) -> bytes:
    """With other header fields (`record_count=3`); the CRC follows unless `seal` is false."""
    changed_data = bytearray(data)
    for name, value in values.items():
        position, form = FIELDS[name.replace("_", " ")]
        struct.pack_into(form, changed_data, position, value)
    if seal:
        struct.pack_into(">I", changed_data, 17, crc32c(bytes(changed_data[21:])))
    return bytes(changed_data)


def field(data: bytes, name: str) -> int:
    position, form = FIELDS[name]
    value: int = struct.unpack_from(form, data, position)[0]
    return value


def zigzag(value: int, bits: int = 32) -> bytes:
    raw = (value << 1 ^ value >> 63) & (1 << bits) - 1
    out = bytearray()
    while raw > 0x7F:
        out.append(raw & 0x7F | 0x80)
        raw >>= 7
    return bytes([*out, raw])


class Fence:
    """Memory between two pages that nobody may touch: one byte too far in either direction ends the process."""

    def __init__(self, size_max: int) -> None:
        page = mmap.PAGESIZE
        inner = (size_max + page - 1) // page * page
        libc = ctypes.CDLL(None, use_errno=True)
        libc.mmap.restype = ctypes.c_void_p
        libc.mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t, *[ctypes.c_int] * 3, ctypes.c_long]
        libc.mprotect.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]
        start = libc.mmap(None, inner + 2 * page, 0, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS, -1, 0)
        assert start not in (None, ctypes.c_void_p(-1).value)
        assert libc.mprotect(start + page, inner, mmap.PROT_READ | mmap.PROT_WRITE) == 0
        self.start: int = start + page
        self.end: int = self.start + inner

    def before_end(self, data: bytes) -> int:
        """Lays `data` so that the byte behind its last one faults; its address."""
        ctypes.memmove(self.end - len(data), data, len(data))
        return self.end - len(data)

    def from_start(self, data: bytes) -> int:
        """Lays `data` so that the byte before its first one faults; its address."""
        ctypes.memmove(self.start, data, len(data))
        return self.start


FENCE: Final = Fence(2 << 20)


def check(data: bytes, *, size_max: int = SIZE_MAX, timestamp_max: int = batch.TIMESTAMP_UNCHECKED) -> Any:
    """The filled `struct append` for `data`, which was checked at both fences, alike and without being written to."""
    group = ffi.new("struct append[1]")
    group_address = int(ffi.cast("uintptr_t", group))
    answers = []
    for lay in (FENCE.from_start, FENCE.before_end):
        address = lay(data)
        status = batch.check(group_address, 0, address, len(data), size_max, 7, 11, 13, 17, timestamp_max)
        assert ctypes.string_at(address, len(data)) == data
        assert group[0].status == status
        assert group[0].source == address
        group[0].source = 0
        answers.append(bytes(ffi.buffer(group)))
    assert answers[0] == answers[1]
    return group[0]


@st.composite
def damaged_batches(draw: st.DrawFn) -> bytes:
    """A good batch with some bytes replaced, removed or added, mostly under a CRC that fits."""
    data = bytearray(build(codec=draw(st.sampled_from([0, 0, 0, 1, 2, 3, 4]))))
    for _ in range(draw(st.integers(1, 4))):
        at = draw(st.integers(0, len(data) - 1))
        match draw(st.sampled_from(["replace", "replace", "remove", "add"])):
            case "replace":
                data[at] = draw(st.one_of(st.integers(0, 255), st.sampled_from([0, 1, 2, 127, 128, 255])))
            case "remove":
                del data[at : at + draw(st.integers(1, 20))]
                data += bytes(max(0, HEADER_SIZE - len(data)))
            case "add":
                data[at:at] = draw(st.binary(max_size=12))
    return sealed(bytes(data)) if draw(st.integers(0, 9)) else bytes(data)


nullable = st.none() | st.binary(max_size=80)
any_records = st.lists(
    st.tuples(
        st.integers(0, 1 << 45),
        nullable,
        nullable,
        st.lists(st.tuples(st.text(max_size=5), nullable), max_size=3),
    ),
    min_size=1,
    max_size=8,
)
