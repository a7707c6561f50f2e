"""Produce requests byte by byte, for what no stock client would send. Nothing of ours is used, so that any broker can
be asked."""

import socket
import struct
from collections.abc import Iterable
from dataclasses import dataclass

PRODUCE, VERSION = 0, 7
CORRELATION_ID = 7
TIME_MAX_S = 60.0

CRC_AT, CRC_FROM = 17, 21
FIELDS = {
    "base_offset": (">q", 0),
    "length": (">i", 8),
    "leader_epoch": (">i", 12),
    "magic": (">b", 16),
    "crc": (">I", CRC_AT),
    "attributes": (">H", CRC_FROM),
    "last_offset_delta": (">i", 23),
    "base_timestamp": (">q", 27),
    "max_timestamp": (">q", 35),
    "producer_id": (">q", 43),
    "producer_epoch": (">h", 51),
    "base_sequence": (">i", 53),
    "count": (">i", 57),
}
"""Of a record batch: format and place."""


def _crc_table() -> tuple[int, ...]:
    table = []
    for byte in range(256):
        for _ in range(8):
            byte = byte >> 1 ^ (0x82F63B78 if byte & 1 else 0)
        table.append(byte)
    return tuple(table)


_TABLE = _crc_table()


def crc32c(data: bytes) -> int:
    crc = 0xFFFFFFFF
    for byte in data:
        crc = _TABLE[(crc ^ byte) & 0xFF] ^ crc >> 8
    return crc ^ 0xFFFFFFFF


def varint(value: int, size: int = 0) -> bytes:
    """Zigzag; with `size`, in so many bytes though fewer would do."""
    raw = (value << 1 ^ value >> 63) & (1 << 64) - 1
    encoded = bytearray()
    while raw >= 0x80 or len(encoded) + 1 < size:
        encoded.append(raw & 0x7F | 0x80)
        raw >>= 7
    encoded.append(raw)
    return bytes(encoded)


def text(data: bytes | None) -> bytes:
    return varint(-1) if data is None else varint(len(data)) + data


def record(
    offset_delta: int = 0,
    timestamp_delta: int = 0,
    key: bytes | None = b"k",
    value: bytes | None = b"v",
    *,
    attributes: int = 0,
    size: bytes | None = None,
    inside: bytes | None = None,
    headers: bytes = b"\0",
    spare: bytes = b"",
) -> bytes:
    """`size` and `inside` replace the length, and what is between attributes and headers."""
    if inside is None:
        inside = varint(timestamp_delta) + varint(offset_delta) + text(key) + text(value)
    body = bytes([attributes]) + inside + headers + spare
    return (varint(len(body)) if size is None else size) + body


def batch(records: Iterable[bytes], /, *, now_ms: int, **fields: int) -> bytes:
    """The records, in a batch that agrees with them but for `fields`. The CRC is right unless it is among those, and
    the length too."""
    listed = list(records)
    return sealed(b"".join(listed), len(listed), now_ms, fields)


def sealed(contents: bytes, count: int, now_ms: int, fields: dict[str, int]) -> bytes:
    values = {
        "magic": 2,
        "last_offset_delta": count - 1,
        "base_timestamp": now_ms,
        "max_timestamp": now_ms,
        "producer_id": -1,
        "producer_epoch": -1,
        "base_sequence": -1,
        "count": count,
        "length": 49 + len(contents),
    } | fields
    data = bytearray(61) + contents
    for name, value in values.items():
        layout, at = FIELDS[name]
        struct.pack_into(layout, data, at, value)
    if "crc" not in fields:
        struct.pack_into(">I", data, CRC_AT, crc32c(bytes(data[CRC_FROM:])))
    return bytes(data)


@dataclass(frozen=True)
class Answer:
    """Of one partition."""

    partition: int
    code: int
    base_offset: int
    append_time_ms: int


class Peer:
    """One connection, on which nothing is between the test and its bytes."""

    def __init__(self, address: str) -> None:
        host, _, port = address.rpartition(":")
        self._socket = socket.create_connection((host.strip("[]"), int(port)), TIME_MAX_S)

    def send(self, data: bytes) -> None:
        self._socket.sendall(data)

    def answer(self) -> bytes | None:
        """The next answer without its size word; None: the connection was closed."""
        head = self._exactly(4)
        return None if head is None else self._exactly(*struct.unpack(">i", head))

    def _exactly(self, size: int) -> bytes | None:
        received = b""
        while len(received) < size:
            try:
                part = self._socket.recv(size - len(received))
            except ConnectionResetError:
                part = b""
            if not part:
                return None
            received += part
        return received

    def close(self) -> None:
        self._socket.close()


def frame(key: int, version: int, body: bytes) -> bytes:
    rest = struct.pack(">hhih", key, version, CORRELATION_ID, 1) + b"h" + body
    return struct.pack(">i", len(rest)) + rest


Partitions = list[tuple[int, bytes | None]]


def produce_request(topic: str, partitions: Partitions, acks: int = 1, version: int = VERSION) -> bytes:
    name = topic.encode()
    body = struct.pack(">hhii", -1, acks, 5000, 1) + struct.pack(">h", len(name)) + name
    body += struct.pack(">i", len(partitions))
    for partition, records in partitions:
        body += struct.pack(">ii", partition, -1 if records is None else len(records)) + (records or b"")
    return frame(PRODUCE, version, body)


def produce(
    address: str, topic: str, partitions: Partitions, acks: int = 1, version: int = VERSION
) -> dict[int, Answer] | None:
    """The answers by partition (their order is the broker's); None: the connection was closed."""
    peer = Peer(address)
    try:
        peer.send(produce_request(topic, partitions, acks, version))
        answer = peer.answer()
    finally:
        peer.close()
    return None if answer is None else _answers(answer, version)


def _answers(answer: bytes, version: int) -> dict[int, Answer]:
    """Of one topic, versions 3-7."""
    correlation_id, topics, size = struct.unpack_from(">iih", answer)
    assert (correlation_id, topics) == (CORRELATION_ID, 1)
    (count,) = struct.unpack_from(">i", answer, 10 + size)
    row = struct.Struct(">ihqqq" if version >= 5 else ">ihqq")
    rows = [row.unpack_from(answer, 14 + size + index * row.size) for index in range(count)]
    assert 14 + size + count * row.size + 4 == len(answer)
    return {found[0]: Answer(*found[:4]) for found in rows}
