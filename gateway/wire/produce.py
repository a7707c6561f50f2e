"""Produce in and out, versions 3 to 13, without copying records.

`parse` turns a request body into a flat list of partitions that say where their records lie in the frame; `encode`
makes the whole answer frame. Both follow Kafka's message definitions ProduceRequest.json and ProduceResponse.json; the
library's codec is the oracle in the tests.

Version notes: 5 adds log_start_offset to the answer, 8 record_errors and error_message (KIP-467), 9 is flexible
(KIP-482), 10 may name the current leader in tagged fields (KIP-951; never needed here), 13 has topic ids instead of
names (KIP-516). record_errors names the records that a topic does not take (`Rejection`); where the bytes of a batch
are wrong it is empty, as from Kafka.
"""

import struct
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, NamedTuple, TypeAlias

from totalog.gateway.wire.cursor import Cursor, encode_varint
from totalog.gateway.wire.errors import ProtocolViolation

FLEXIBLE_VERSION: Final = 9
TOPIC_ID_VERSION: Final = 13
LOG_START_OFFSET_VERSION: Final = 5
RECORD_ERRORS_VERSION: Final = 8

TopicKey: TypeAlias = str | bytes
"""A topic's name up to version 12, its id (16 bytes) from version 13."""

PartitionRecords: TypeAlias = tuple[TopicKey, int, int, int]
"""(topic, partition, position of the records in the frame, their size in bytes; -1: null)"""


class Rejection(NamedTuple):
    """Why records are refused, and the numbers of those, counted in their batch."""

    message: str
    records: tuple[int, ...]


PartitionAnswer: TypeAlias = tuple[TopicKey, int, int, int, int, int, str | Rejection | None]
"""(topic, partition, error code, base offset, log append time in ms or -1, log start offset, error message)"""

PARTITIONS_MAX: Final = 65_536
"""Topics, and partitions, of one request: as many as a region holds. A frame of 100 MiB could name ten million, and
each costs a hundred bytes of memory here."""

# The least bytes that one topic or partition takes on the wire: what counts are checked against.
_TOPIC_SIZE_MIN = 6
_PARTITION_SIZE_MIN = 8
_FLEXIBLE_TOPIC_SIZE_MIN = 3
_FLEXIBLE_PARTITION_SIZE_MIN = 6

_ACKS_TIMEOUT = struct.Struct(">hi")
_HEAD = struct.Struct(">iii")  # frame size, correlation id, count of topics
_FLEXIBLE_HEAD = struct.Struct(">iib")  # frame size, correlation id, no tagged fields
_COUNT = struct.Struct(">i")
_SIZE = struct.Struct(">h")
_THROTTLE = struct.Struct(">i")
_PARTITION_3 = struct.Struct(">ihqq")
_PARTITION_5 = struct.Struct(">ihqqq")
_PARTITION_8 = struct.Struct(">ihqqqi")
_PARTITION_9 = struct.Struct(">ihqqq")
_RECORD_ERROR_8 = struct.Struct(">ih")  # number of a record, no message of its own
_RECORD_ERROR_9 = struct.Struct(">ibb")  # the same, no tagged fields
_NO_MESSAGE = b"\xff\xff"
_FLEXIBLE_NO_MESSAGE = b"\x00\x00"  # a null string, no tagged fields
_FLEXIBLE_TAIL = b"\x00\x00\x00\x00\x00"  # throttle time 0, no tagged fields


@dataclass(slots=True, eq=False)
class ProduceRequest:
    """`partitions` stand in the order of the request; those of one topic follow each other."""

    transactional_id: str | None
    acks: int
    timeout_ms: int
    partitions: list[PartitionRecords]


def parse(version: int, frame: memoryview, position: int) -> ProduceRequest:
    """Reads the body that begins at `position` of `frame`. Bytes behind it are ignored, as Kafka does."""
    cursor = Cursor(frame, position)
    partitions: list[PartitionRecords] = []
    if version >= FLEXIBLE_VERSION:
        transactional_id = cursor.compact_nullable_string()
        acks, timeout_ms = cursor.unpack(_ACKS_TIMEOUT)
        topic_key = cursor.uuid if version >= TOPIC_ID_VERSION else cursor.compact_string
        for _ in range(_limited(cursor.compact_array_count(_FLEXIBLE_TOPIC_SIZE_MIN))):
            topic = topic_key()
            count = cursor.compact_array_count(_FLEXIBLE_PARTITION_SIZE_MIN)
            for _ in range(_limited(count, len(partitions))):
                partition = cursor.int32()
                records_at, records_size = cursor.compact_nullable_bytes()
                partitions.append((topic, partition, records_at, records_size))
                cursor.skip_tagged_fields()
            cursor.skip_tagged_fields()
        cursor.skip_tagged_fields()
    else:
        transactional_id = cursor.nullable_string()
        acks, timeout_ms = cursor.unpack(_ACKS_TIMEOUT)
        for _ in range(_limited(cursor.array_count(_TOPIC_SIZE_MIN))):
            topic = cursor.string()
            for _ in range(_limited(cursor.array_count(_PARTITION_SIZE_MIN), len(partitions))):
                partition = cursor.int32()
                records_at, records_size = cursor.nullable_bytes()
                partitions.append((topic, partition, records_at, records_size))
    return ProduceRequest(transactional_id, acks, timeout_ms, partitions)


def _limited(count: int, count_before: int = 0) -> int:
    if count_before + count > PARTITIONS_MAX:
        raise ProtocolViolation(f"{count_before + count} topics or partitions in one Produce, limit {PARTITIONS_MAX}")
    return count


def encode(version: int, correlation_id: int, answers: Sequence[PartitionAnswer]) -> bytes:
    """The complete frame. Answers of one topic must follow each other; the throttle time is 0."""
    topics = _by_topic(answers)
    if version >= FLEXIBLE_VERSION:
        parts = [b"", encode_varint(len(topics) + 1)]
        for of_topic in topics:
            parts += _flexible_topic(version, of_topic)
        parts.append(_FLEXIBLE_TAIL)
        parts[0] = _FLEXIBLE_HEAD.pack(5 + sum(map(len, parts)), correlation_id, 0)
    else:
        parts = [b""]
        for of_topic in topics:
            parts += _topic(version, of_topic)
        parts.append(_THROTTLE.pack(0))
        parts[0] = _HEAD.pack(8 + sum(map(len, parts)), correlation_id, len(topics))
    return b"".join(parts)


def _by_topic(answers: Sequence[PartitionAnswer]) -> list[list[PartitionAnswer]]:
    """Runs of answers of the same topic."""
    if len(answers) == 1:
        return [[answers[0]]]
    topics: list[list[PartitionAnswer]] = []
    topic: TopicKey | None = None
    for answer in answers:
        if answer[0] != topic:
            topic = answer[0]
            topics.append([])
        topics[-1].append(answer)
    return topics


def _topic(version: int, answers: list[PartitionAnswer]) -> list[bytes]:
    name = answers[0][0]
    assert isinstance(name, str)
    encoded = name.encode()
    parts = [_SIZE.pack(len(encoded)), encoded, _COUNT.pack(len(answers))]
    for _, partition, error_code, base_offset, append_time, log_start_offset, message in answers:
        if version >= RECORD_ERRORS_VERSION:
            records: tuple[int, ...] = ()
            if isinstance(message, Rejection):
                message, records = message
            head = (partition, error_code, base_offset, append_time, log_start_offset, len(records))
            parts.append(_PARTITION_8.pack(*head))
            parts += [_RECORD_ERROR_8.pack(number, -1) for number in records]
            if message is None:
                parts.append(_NO_MESSAGE)
            else:
                encoded = message.encode()
                parts += (_SIZE.pack(len(encoded)), encoded)
        elif version >= LOG_START_OFFSET_VERSION:
            parts.append(_PARTITION_5.pack(partition, error_code, base_offset, append_time, log_start_offset))
        else:
            parts.append(_PARTITION_3.pack(partition, error_code, base_offset, append_time))
    return parts


def _flexible_topic(version: int, answers: list[PartitionAnswer]) -> list[bytes]:
    topic = answers[0][0]
    if version >= TOPIC_ID_VERSION:
        assert isinstance(topic, bytes)
        parts = [topic]
    else:
        assert isinstance(topic, str)
        encoded = topic.encode()
        parts = [encode_varint(len(encoded) + 1), encoded]
    parts.append(encode_varint(len(answers) + 1))
    for _, partition, error_code, base_offset, append_time, log_start_offset, message in answers:
        records: tuple[int, ...] = ()
        if isinstance(message, Rejection):
            message, records = message
        parts.append(_PARTITION_9.pack(partition, error_code, base_offset, append_time, log_start_offset))
        parts.append(encode_varint(len(records) + 1))
        parts += [_RECORD_ERROR_9.pack(number, 0, 0) for number in records]
        if message is None:
            parts.append(_FLEXIBLE_NO_MESSAGE)
        else:
            encoded = message.encode()
            parts += (encode_varint(len(encoded) + 1), encoded, b"\x00")
    parts.append(b"\x00")
    return parts
