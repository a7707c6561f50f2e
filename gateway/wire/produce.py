"""Produce in and out, versions 3 to 13, without copying records.

`parse` turns a request body into a flat list of partitions that say where their records lie in the frame; `encode`
makes the whole answer frame. Where a request names many partitions, `parse_in_steps` checks it, they are read from the
frame one by one, and `AnswerWriter` makes the answer as they are done. All follow Kafka's message definitions
ProduceRequest.json and ProduceResponse.json; the library's codec is the oracle in the tests.

Version notes: 5 adds log_start_offset to the answer, 8 record_errors and error_message (KIP-467), 9 is flexible
(KIP-482), 10 may name the current leader in tagged fields (KIP-951; never needed here), 13 has topic ids instead of
names (KIP-516). record_errors names the records that a topic does not take (`Rejection`); where the bytes of a batch
are wrong it is empty, as from Kafka.
"""

import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Final, NamedTuple, TypeAlias

from totalog.gateway.limits import WHOLE_ELEMENTS_MAX
from totalog.gateway.wire.cursor import NAME_LENGTH, Cursor, Turn, encode_varint
from totalog.gateway.wire.errors import ProtocolViolation

if TYPE_CHECKING:
    from totalog.gateway.lane import Steps
    from totalog.gateway.wire.elements import Array

ZSTD_VERSION: Final = 7
"""The first in which batches may be compressed with zstd (KIP-110)."""
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
"""Topics, and partitions, of one request: as many as a region holds. A frame of 100 MiB could name ten million."""

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
_NO_TAGS = b"\x00"
_FLEXIBLE_TAIL = b"\x00\x00\x00\x00\x00"  # throttle time 0, no tagged fields


@dataclass(slots=True, eq=False)
class ProduceRequest:
    """`partitions` stand in the order of the request; those of one topic follow each other."""

    transactional_id: str | None
    acks: int
    timeout_ms: int
    partitions: list[PartitionRecords]


@dataclass(slots=True, eq=False)
class LargeProduceRequest:
    """A request whose topics are read from its frame each time they are gone through. Of a topic its partitions have to
    be gone through before the next topic is."""

    transactional_id: str | None
    acks: int
    timeout_ms: int
    topics: "Array[tuple[TopicKey, Array[tuple[int, int, int]]]]"
    """Each partition is (its number, position of the records, their size), as in `PartitionRecords`."""
    answered: int
    """Topics that have partitions: the others are not in the answer."""


def parse(version: int, frame: memoryview, position: int) -> ProduceRequest | None:
    """Reads the body that begins at `position` of `frame`. Bytes behind it are ignored, as Kafka does. None: it names
    many partitions, or what no producer does, for `parse_in_steps`; nothing is said about whether it is sound."""
    cursor = Cursor(frame, position)
    partitions: list[PartitionRecords] = []
    if version >= FLEXIBLE_VERSION:
        transactional_id = cursor.compact_nullable_string()
        acks, timeout_ms = cursor.unpack(_ACKS_TIMEOUT)
        topic_key = cursor.uuid if version >= TOPIC_ID_VERSION else cursor.compact_string
        topic_count = cursor.compact_array_count(_FLEXIBLE_TOPIC_SIZE_MIN)
        left = WHOLE_ELEMENTS_MAX - topic_count
        if left < 0:
            return None
        for _ in range(topic_count):
            topic = topic_key()
            count = cursor.compact_array_count(_FLEXIBLE_PARTITION_SIZE_MIN)
            left -= count
            if left < 0 or count == 0 or len(topic) >= NAME_LENGTH:
                return None
            for _ in range(count):
                partition = cursor.int32()
                records_at, records_size = cursor.compact_nullable_bytes()
                partitions.append((topic, partition, records_at, records_size))
                cursor.skip_tagged_fields()
            cursor.skip_tagged_fields()
        cursor.skip_tagged_fields()
    else:
        transactional_id = cursor.nullable_string()
        acks, timeout_ms = cursor.unpack(_ACKS_TIMEOUT)
        topic_count = cursor.array_count(_TOPIC_SIZE_MIN)
        left = WHOLE_ELEMENTS_MAX - topic_count
        if left < 0:
            return None
        for _ in range(topic_count):
            topic = cursor.string()
            count = cursor.array_count(_PARTITION_SIZE_MIN)
            left -= count
            if left < 0 or count == 0 or len(topic) >= NAME_LENGTH:
                return None
            for _ in range(count):
                partition = cursor.int32()
                records_at, records_size = cursor.nullable_bytes()
                partitions.append((topic, partition, records_at, records_size))
    return ProduceRequest(transactional_id, acks, timeout_ms, partitions)


def parse_in_steps(version: int, frame: memoryview, position: int) -> "Steps[LargeProduceRequest]":
    """The same of any request. The frame must not change as long as what is returned is in use."""
    from totalog.gateway.wire.elements import Elements

    cursor, flexible = Cursor(frame, position), version >= FLEXIBLE_VERSION
    transactional_id = cursor.compact_nullable_string() if flexible else cursor.nullable_string()
    acks, timeout_ms = cursor.unpack(_ACKS_TIMEOUT)
    count = cursor.compact_array_count(_FLEXIBLE_TOPIC_SIZE_MIN) if flexible else cursor.array_count(_TOPIC_SIZE_MIN)
    topics = partial(_each_topic, version, frame, cursor.position, _limited(count))
    answered = partition_count = 0
    turn = Turn()
    for topic, partitions in topics(cursor):
        answered += len(partitions) > 0
        partition_count += _limited(len(partitions), partition_count)
        turn.name(topic)
        for _ in partitions:
            if turn.over(1):
                yield
        if turn.over():
            yield
    if flexible:
        cursor.skip_tagged_fields()
    return LargeProduceRequest(transactional_id, acks, timeout_ms, Elements(count, topics), answered)


def _each_topic(
    version: int, frame: memoryview, position: int, topic_count: int, cursor: Cursor | None = None
) -> "Iterator[tuple[TopicKey, Array[tuple[int, int, int]]]]":
    from totalog.gateway.wire.elements import Elements

    cursor, flexible = cursor or Cursor(frame, position), version >= FLEXIBLE_VERSION
    for _ in range(topic_count):
        topic: TopicKey
        if flexible:
            topic = cursor.uuid() if version >= TOPIC_ID_VERSION else cursor.compact_string()
            count = cursor.compact_array_count(_FLEXIBLE_PARTITION_SIZE_MIN)
        else:
            topic = cursor.string()
            count = cursor.array_count(_PARTITION_SIZE_MIN)
        yield topic, Elements(count, partial(_each_partition, cursor, flexible, count))
        if flexible:
            cursor.skip_tagged_fields()


def _each_partition(cursor: Cursor, flexible: bool, count: int) -> Iterator[tuple[int, int, int]]:
    for _ in range(count):
        partition = cursor.int32()
        if flexible:
            extent = cursor.compact_nullable_bytes()
            cursor.skip_tagged_fields()
        else:
            extent = cursor.nullable_bytes()
        yield partition, *extent


def _limited(count: int, count_before: int = 0) -> int:
    if count_before + count > PARTITIONS_MAX:
        raise ProtocolViolation(f"{count_before + count} topics or partitions in one Produce, limit {PARTITIONS_MAX}")
    return count


def encode(version: int, correlation_id: int, answers: Sequence[PartitionAnswer]) -> bytes:
    """The complete frame. Answers of one topic must follow each other; the throttle time is 0."""
    topics = _by_topic(answers)
    parts = [b""]
    if version >= FLEXIBLE_VERSION:
        parts.append(encode_varint(len(topics) + 1))
        for of_topic in topics:
            parts.append(_flexible_topic_head(of_topic[0][0], len(of_topic)))
            _add_flexible_rows(parts, of_topic)
            parts.append(_NO_TAGS)
        parts.append(_FLEXIBLE_TAIL)
        parts[0] = _FLEXIBLE_HEAD.pack(5 + sum(map(len, parts)), correlation_id, 0)
    else:
        for of_topic in topics:
            parts.append(_topic_head(of_topic[0][0], len(of_topic)))
            _add_rows(parts, version, of_topic)
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


def _topic_head(name: TopicKey, count: int) -> bytes:
    assert isinstance(name, str)
    encoded = name.encode()
    return _SIZE.pack(len(encoded)) + encoded + _COUNT.pack(count)


def _add_rows(parts: list[bytes], version: int, answers: Sequence[PartitionAnswer]) -> None:
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


def _flexible_topic_head(topic: TopicKey, count: int) -> bytes:
    if isinstance(topic, bytes):
        return topic + encode_varint(count + 1)
    encoded = topic.encode()
    return encode_varint(len(encoded) + 1) + encoded + encode_varint(count + 1)


def _add_flexible_rows(parts: list[bytes], answers: Sequence[PartitionAnswer]) -> None:
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
            parts += (encode_varint(len(encoded) + 1), encoded, _NO_TAGS)


class AnswerWriter:
    """Makes one answer front to back, in one buffer: `topic`, then a `row` for each of its partitions, then the next
    topic; `finish` at the end. It is the frame that `encode` makes of all rows together."""

    def __init__(self, version: int, correlation_id: int, topic_count: int) -> None:
        self._version = version
        self._flexible = version >= FLEXIBLE_VERSION
        if self._flexible:
            self.frame = bytearray(_FLEXIBLE_HEAD.pack(0, correlation_id, 0) + encode_varint(topic_count + 1))
        else:
            self.frame = bytearray(_HEAD.pack(0, correlation_id, topic_count))
        self._rows_left = 0

    def topic(self, topic: TopicKey, partition_count: int) -> None:
        assert not self._rows_left
        self._rows_left = partition_count
        self.frame += (_flexible_topic_head if self._flexible else _topic_head)(topic, partition_count)

    def row(self, answer: PartitionAnswer) -> tuple[int, int]:
        """Where it begins and ends in the frame."""
        begin = len(self.frame)
        self.frame += row(self._version, answer)
        end = len(self.frame)
        self._rows_left -= 1
        if self._flexible and not self._rows_left:
            self.frame += _NO_TAGS
        return begin, end

    def finish(self) -> bytearray:
        assert not self._rows_left
        self.frame += _FLEXIBLE_TAIL if self._flexible else _THROTTLE.pack(0)
        sized(self.frame)
        return self.frame


def row(version: int, answer: PartitionAnswer) -> bytes:
    """One partition of an answer."""
    parts: list[bytes] = []
    if version >= FLEXIBLE_VERSION:
        _add_flexible_rows(parts, (answer,))
    else:
        _add_rows(parts, version, (answer,))
    return b"".join(parts)


def sized(frame: bytearray) -> None:
    """Writes the size word of a frame that is complete besides."""
    _COUNT.pack_into(frame, 0, len(frame) - _COUNT.size)
