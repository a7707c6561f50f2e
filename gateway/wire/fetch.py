"""Fetch in and out, versions 4 to 18, records copied once.

`parse` reads a request body as a whole; where it is large, `parse_in_steps` checks it, and what it names is read from
the frame each time it is gone through, so that it is never there as objects all at once. `AnswerWriter` puts the answer
frame together in one buffer, into which the log copies records straight to their place. All follow Kafka's message
definitions FetchRequest.json and FetchResponse.json; the library's codec is the oracle in the tests.

Version notes: 5 adds log_start_offset, 7 sessions (KIP-227), 9 the current leader epoch (KIP-320), 11 the rack and a
preferred replica (KIP-392), 12 is flexible (KIP-482), 13 has topic ids instead of names (KIP-516), 15 moves the
replica id into a tagged field (KIP-903), 17 and 18 add tagged fields for followers (KIP-853, KIP-1166). What only
followers send is skipped. The tagged fields of the answer (diverging epoch, current leader, snapshot, endpoints) are
never needed here.
"""

import struct
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Final, TypeAlias

from totalog.gateway.limits import STEP_COUNT_MAX, WHOLE_ELEMENTS_MAX, WHOLE_SIZE_MAX
from totalog.gateway.wire.answer import Buffer
from totalog.gateway.wire.cursor import Cursor, Turn, encode_varint
from totalog.gateway.wire.errors import ProtocolViolation

if TYPE_CHECKING:
    from totalog.gateway.lane import Steps
    from totalog.gateway.wire.elements import Array

VERSIONS: Final = range(4, 19)
SESSION_VERSION: Final = 7
RACK_VERSION: Final = 11
FLEXIBLE_VERSION: Final = 12
TOPIC_ID_VERSION: Final = 13
REPLICA_STATE_VERSION: Final = 15

TOPICS_MAX: Final = 65_536
"""Of one request, and as many that it forgets: as many as a region holds partitions."""

NO_SESSION_EPOCH: Final = -1
NO_LEADER_EPOCH: Final = -1

TopicKey: TypeAlias = str | bytes
"""A topic's name up to version 12, its id (16 bytes) from version 13."""

PartitionFetch: TypeAlias = tuple[int, int, int, int]
"""(partition, current leader epoch or -1, fetch offset, most bytes)"""

# The least bytes that one topic or partition takes on the wire: what counts are checked against.
_TOPIC_SIZE_MIN = 6
_FLEXIBLE_TOPIC_SIZE_MIN = 3
_FORGOTTEN_PARTITION_SIZE = 4

_LIMITS_4 = struct.Struct(">iiiib")  # replica id, max wait ms, min bytes, max bytes, isolation level
_LIMITS_7 = struct.Struct(">iiiibii")  # the same, session id, session epoch
_LIMITS_15 = struct.Struct(">iiibii")  # the same without the replica id
_PARTITION_4 = struct.Struct(">iqi")  # partition, fetch offset, most bytes
_PARTITION_5 = struct.Struct(">iqqi")  # partition, fetch offset, log start offset, most bytes
_PARTITION_9 = struct.Struct(">iiqqi")  # partition, leader epoch, fetch offset, log start offset, most bytes
_PARTITION_12 = struct.Struct(">iiqiqi")  # ..., fetch offset, last fetched epoch, log start offset, most bytes
_PARTITION_TAGS_12 = struct.Struct(">iiqiqiB")  # the same, and how many tagged fields follow, if less than 128
_OFFSET_AT_4, _OFFSET_AT_9 = 4, 8  # in a partition

_HEAD_4 = struct.Struct(">iiii")  # frame size, correlation id, throttle ms, count of topics
_HEAD_7 = struct.Struct(">iiihii")  # ..., throttle ms, error code, session id, count of topics
_HEAD_12 = struct.Struct(">iibihi")  # ..., no tagged fields, throttle ms, error code, session id
_SIZE = struct.Struct(">h")
_COUNT = struct.Struct(">i")
_HEAD_NUMBERS = struct.Struct(">ii")  # frame size, correlation id
_ANSWER_4 = struct.Struct(">ihqqii")  # partition, error, high watermark, last stable offset, aborted, records size
_ANSWER_5 = struct.Struct(">ihqqqii")  # ..., last stable offset, log start offset, aborted, records size
_ANSWER_11 = struct.Struct(">ihqqqiii")  # ..., aborted, preferred replica, records size
_ANSWER_12 = struct.Struct(">ihqqqbi")  # ..., aborted, preferred replica; the size follows as a varint

HEAD_SIZE_MAX: Final = 32
TOPIC_SIZE_MAX: Final = 16
"""Bytes around the partitions of a topic, besides its name or id."""
_NUMBERS_AT = 6  # of high watermark, last stable offset, and log start offset, in a partition
_NO_RECORDS_12 = 2
"""Bytes behind _ANSWER_12 in a partition without records."""
_TAGS_12 = b"\x00\x00\x00"
"""No tagged fields of partition, topic and answer."""
_RECORDS_AROUND_12 = 6
"""Bytes behind _ANSWER_12 in a partition: the size of the records as a varint, at most, and no tagged fields."""


@dataclass(slots=True, eq=False)
class FetchRequest:
    """`topics` and the partitions in them stand in the order of the request: it says who is served first (KIP-74). Of a
    topic its partitions have to be gone through before the next topic is."""

    max_wait_ms: int
    min_bytes: int
    max_bytes: int
    isolation_level: int
    session_id: int
    session_epoch: int
    topics: "Array[tuple[TopicKey, Array[PartitionFetch]]]"
    partition_count: int
    overhead: int
    """Bytes of the answer around the records, at most."""
    offset_at: int
    """Where in the frame the fetch offset of the last topic's first partition stands, if there is one."""


class _Format:
    """What differs between versions."""

    def __init__(self, version: int) -> None:
        self.head = _head_15 if version >= REPLICA_STATE_VERSION else _head_7 if version >= SESSION_VERSION else _head_4
        self.sessions = version >= SESSION_VERSION
        self.racks = version >= RACK_VERSION
        self.flexible = version >= FLEXIBLE_VERSION
        self.read: Callable[[Cursor, int], list[PartitionFetch]]
        """Reads so many partitions."""
        if self.flexible:
            self.key = Cursor.uuid if version >= TOPIC_ID_VERSION else Cursor.compact_string
            self.count, self.string = Cursor.compact_array_count, Cursor.compact_string
            self.topic_size_min, self.partition_size_min = _FLEXIBLE_TOPIC_SIZE_MIN, _PARTITION_TAGS_12.size
            self.read, self.offset_at = _flexible_partitions, _OFFSET_AT_9
            answer_size = _ANSWER_12.size + _RECORDS_AROUND_12
        else:
            self.key = self.string = Cursor.string
            self.count, self.topic_size_min = Cursor.array_count, _TOPIC_SIZE_MIN
            layout = _PARTITION_9 if version >= 9 else _PARTITION_5 if version >= 5 else _PARTITION_4
            self.partition_size_min = layout.size
            self.read = _partitions_9 if version >= 9 else partial(_partitions, layout)
            self.offset_at = _OFFSET_AT_9 if version >= 9 else _OFFSET_AT_4
            answer = _ANSWER_11 if version >= RACK_VERSION else _ANSWER_5 if version >= 5 else _ANSWER_4
            answer_size = answer.size
        self.growth = answer_size - self.partition_size_min
        """Bytes that a partition takes more in the answer than in the request, at most. What stands around partitions
        takes no more."""

    def topic_count(self, cursor: Cursor) -> int:
        count = self.count(cursor, self.topic_size_min)
        if count > TOPICS_MAX:
            raise ProtocolViolation(f"{count} topics in one Fetch, limit {TOPICS_MAX}")
        return count


_Head: TypeAlias = tuple[int, int, int, int, int, int]
"""max wait, min and max bytes, isolation level, session id and epoch."""


def _head_4(cursor: Cursor) -> _Head:
    _, wait, least, most, isolation = cursor.unpack(_LIMITS_4)
    return wait, least, most, isolation, 0, NO_SESSION_EPOCH


def _head_7(cursor: Cursor) -> _Head:
    _, wait, least, most, isolation, session_id, session_epoch = cursor.unpack(_LIMITS_7)
    return wait, least, most, isolation, session_id, session_epoch


def _head_15(cursor: Cursor) -> _Head:
    wait, least, most, isolation, session_id, session_epoch = cursor.unpack(_LIMITS_15)
    return wait, least, most, isolation, session_id, session_epoch


def _flexible_partitions(cursor: Cursor, count: int) -> list[PartitionFetch]:
    if count == 1:
        partition, epoch, offset, _, _, most = cursor.unpack(_PARTITION_12)
        cursor.skip_tagged_fields()
        return [(partition, epoch, offset, most)]
    start = cursor.position
    end = start + count * _PARTITION_TAGS_12.size
    rows = _PARTITION_TAGS_12.iter_unpack(cursor.buffer[start:end])
    found = [(partition, epoch, offset, most) for partition, epoch, offset, _, _, most, tags in rows if not tags]
    if len(found) == count:
        cursor.position = end
        return found
    found = []
    for _ in range(count):
        partition, epoch, offset, _, _, most = cursor.unpack(_PARTITION_12)
        found.append((partition, epoch, offset, most))
        cursor.skip_tagged_fields()
    return found


def _partitions_9(cursor: Cursor, count: int) -> list[PartitionFetch]:
    if count == 1:
        partition, epoch, offset, _, most = cursor.unpack(_PARTITION_9)
        return [(partition, epoch, offset, most)]
    start = cursor.skip(count * _PARTITION_9.size)
    rows = _PARTITION_9.iter_unpack(cursor.buffer[start : cursor.position])
    return [(partition, epoch, offset, most) for partition, epoch, offset, _, most in rows]


def _partitions(layout: struct.Struct, cursor: Cursor, count: int) -> list[PartitionFetch]:
    start = cursor.skip(count * layout.size)
    rows = layout.iter_unpack(cursor.buffer[start : cursor.position])
    return [(partition, NO_LEADER_EPOCH, offset, most) for partition, offset, *_, most in rows]


_FORMATS: Final = {version: _Format(version) for version in VERSIONS}


def parse(version: int, frame: memoryview, position: int) -> FetchRequest | None:
    """Reads the body that begins at `position` of `frame`. Bytes behind it are ignored, as Kafka does. None: it is
    large, for `parse_in_steps`; nothing is said about whether it is sound."""
    if len(frame) > WHOLE_SIZE_MAX:
        return None
    cursor, format = Cursor(frame, position), _FORMATS[version]
    wait, least, most, isolation, session_id, session_epoch = format.head(cursor)
    read_count, read_key, read, flexible = format.count, format.key, format.read, format.flexible
    start, offset_at, partition_count = cursor.position, 0, 0
    topic_count = read_count(cursor, format.topic_size_min)
    left = WHOLE_ELEMENTS_MAX - topic_count
    if left < 0:
        return None
    topics: list[tuple[TopicKey, list[PartitionFetch]]] = []
    for _ in range(topic_count):
        key = read_key(cursor)
        count = read_count(cursor, format.partition_size_min)
        partition_count += count
        if partition_count > left:
            return None
        offset_at = cursor.position + format.offset_at
        topics.append((key, read(cursor, count)))
        if flexible:
            cursor.skip_tagged_fields()
    overhead = HEAD_SIZE_MAX + cursor.position - start + partition_count * format.growth
    if format.sessions:
        forgotten_count = read_count(cursor, format.topic_size_min)
        if forgotten_count > left - partition_count:
            return None
        for _ in range(forgotten_count):
            _skip_forgotten(cursor, format)
    if format.racks:
        format.string(cursor)
        if flexible:
            cursor.skip_tagged_fields()
    return FetchRequest(
        wait, least, most, isolation, session_id, session_epoch, topics, partition_count, overhead, offset_at
    )


def parse_in_steps(version: int, frame: memoryview, position: int) -> "Steps[FetchRequest]":
    """The same of a large request. The frame must not change as long as what is returned is in use."""
    from totalog.gateway.wire.elements import Elements

    cursor, format = Cursor(frame, position), _FORMATS[version]
    head = format.head(cursor)
    start, partition_count, turn = cursor.position, 0, Turn()
    topic_count = format.topic_count(cursor)
    topics = partial(_each_topic, frame, cursor.position, format, topic_count)
    for key, partitions in topics(cursor):
        turn.name(key)
        partition_count += len(partitions)
        for _ in partitions:
            if turn.over(1):
                yield
        if turn.over():
            yield
    overhead = HEAD_SIZE_MAX + cursor.position - start + partition_count * format.growth
    if format.sessions:
        for number in range(format.topic_count(cursor)):
            _skip_forgotten(cursor, format)
            if not number % STEP_COUNT_MAX:
                yield
    if format.racks:
        format.string(cursor)
    if format.flexible:
        cursor.skip_tagged_fields()
    return FetchRequest(*head, Elements(topic_count, topics), partition_count, overhead, 0)


def _each_topic(
    frame: memoryview, position: int, format: _Format, topic_count: int, cursor: Cursor | None = None
) -> "Iterator[tuple[TopicKey, Array[PartitionFetch]]]":
    from totalog.gateway.wire.elements import Elements

    cursor = cursor or Cursor(frame, position)
    for _ in range(topic_count):
        key = format.key(cursor)
        count = format.count(cursor, format.partition_size_min)
        yield key, Elements(count, partial(_each_partition, cursor, format, count))
        if format.flexible:
            cursor.skip_tagged_fields()


def _each_partition(cursor: Cursor, format: _Format, count: int) -> Iterator[PartitionFetch]:
    for at in range(0, count, STEP_COUNT_MAX):
        yield from format.read(cursor, min(count - at, STEP_COUNT_MAX))


def _skip_forgotten(cursor: Cursor, format: _Format) -> None:
    """A topic that a session should forget. There are no sessions, but a list that is cut off is still a violation."""
    format.key(cursor)
    cursor.skip(format.count(cursor, _FORGOTTEN_PARTITION_SIZE) * _FORGOTTEN_PARTITION_SIZE)
    if format.flexible:
        cursor.skip_tagged_fields()


class AnswerWriter:
    """Writes one answer frame into a buffer, front to back: the head, each topic with its partitions, then `finish`.

    Where the records of a partition begin depends on their size, which is known only after they were read, because its
    varint stands in front of them. So `records_at` says where they begin if their size is as guessed, and `partition`
    moves them by a few bytes if it was another. Records of 16 KiB or more are never moved where the guess is a maximum
    below 2 MiB, since both sizes then take three bytes.
    """

    __slots__ = ("_flexible", "_lent", "_version", "buffer", "lent_size", "position")

    def __init__(self, version: int, buffer: Buffer) -> None:
        self.buffer = buffer
        self.position = 0
        self._lent: list[tuple[int, memoryview]] = []
        """(position before which it belongs, its bytes)"""
        self.lent_size = 0
        """Bytes of records that lie elsewhere."""
        self._version = version
        self._flexible = version >= FLEXIBLE_VERSION

    def head(self, correlation_id: int, error_code: int, topic_count: int) -> None:
        """The answer's start: no throttling, session id 0. The frame's size follows at the end."""
        view = self.buffer.view
        if self._flexible:
            _HEAD_12.pack_into(view, 0, 0, correlation_id, 0, 0, error_code, 0)
            self.position = _HEAD_12.size
            self._put(encode_varint(topic_count + 1))
        elif self._version >= SESSION_VERSION:
            _HEAD_7.pack_into(view, 0, 0, correlation_id, 0, error_code, 0, topic_count)
            self.position = _HEAD_7.size
        else:
            _HEAD_4.pack_into(view, 0, 0, correlation_id, 0, topic_count)
            self.position = _HEAD_4.size

    def topic(self, topic: TopicKey, partition_count: int) -> None:
        if isinstance(topic, bytes):
            self._put(topic + encode_varint(partition_count + 1))
        elif self._flexible:
            name = topic.encode()
            self._put(encode_varint(len(name) + 1) + name + encode_varint(partition_count + 1))
        else:
            name = topic.encode()
            self._put(_SIZE.pack(len(name)) + name + _COUNT.pack(partition_count))

    def end_topic(self) -> None:
        if self._flexible:
            self._put(b"\x00")

    def records_at(self, size_guessed: int) -> int:
        """Where in the buffer the records of the next partition begin if they take `size_guessed` bytes."""
        if self._flexible:
            return self.position + _ANSWER_12.size + len(encode_varint(size_guessed + 1))
        if self._version >= RACK_VERSION:
            return self.position + _ANSWER_11.size
        return self.position + (_ANSWER_5.size if self._version >= 5 else _ANSWER_4.size)

    def partition(
        self,
        partition: int,
        error_code: int,
        high_watermark: int,
        log_start_offset: int,
        *,
        aborted_null: bool = False,
        records_at: int = 0,
        records_size: int = 0,
        lent: Sequence[tuple[int, memoryview]] = (),
    ) -> None:
        """One partition, around `records_size` bytes of records that lie at `records_at`, but for those that are lent:
        (how many of the others stand before it, its bytes) of each piece, in order.

        The last stable offset is the high watermark: there are no transactions yet, so the list of aborted ones is
        empty, or null. Without a preferred replica.
        """
        view = self.buffer.view
        at = self.position
        size = records_size - self._lend(lent) if lent else records_size
        stable = high_watermark
        aborted = -1 if aborted_null else 0
        if self._flexible:
            _ANSWER_12.pack_into(
                view, at, partition, error_code, high_watermark, stable, log_start_offset, aborted + 1, -1
            )
            self._flexible_records(at + _ANSWER_12.size, records_at, records_size, size, lent)
            return
        if self._version >= RACK_VERSION:
            _ANSWER_11.pack_into(
                view, at, partition, error_code, high_watermark, stable, log_start_offset, aborted, -1, records_size
            )
            at += _ANSWER_11.size
        elif self._version >= 5:
            _ANSWER_5.pack_into(
                view, at, partition, error_code, high_watermark, stable, log_start_offset, aborted, records_size
            )
            at += _ANSWER_5.size
        else:
            _ANSWER_4.pack_into(view, at, partition, error_code, high_watermark, stable, aborted, records_size)
            at += _ANSWER_4.size
        assert not size or at == records_at
        self._lent += [(at + before, piece) for before, piece in lent]
        self.position = at + size

    def _flexible_records(
        self, at: int, records_at: int, records_size: int, size: int, lent: Sequence[tuple[int, memoryview]]
    ) -> None:
        """The size of all records at `at`, `size` bytes of them behind it, and no tagged fields."""
        view = self.buffer.view
        word = encode_varint(records_size + 1)
        start = at + len(word)
        end = start + size
        if size and start != records_at:
            view[start:end] = view[records_at : records_at + size]
        view[at:start] = word
        view[end] = 0
        self._lent += [(start + before, piece) for before, piece in lent]
        self.position = end + 1

    def _lend(self, lent: Sequence[tuple[int, memoryview]]) -> int:
        size = sum(len(piece) for _, piece in lent)
        self.lent_size += size
        return size

    def finish(self) -> list[memoryview]:
        """The frame, complete, in parts: what is lent stands between pieces of the buffer."""
        if self._flexible:
            self._put(b"\x00")
        view = self.buffer.view
        _COUNT.pack_into(view, 0, self.position + self.lent_size - 4)
        return _in_parts(view, self.position, self._lent)

    def move(self, buffer: Buffer) -> None:
        """Goes on in a larger buffer; what was written comes along."""
        buffer.view[: self.position] = self.buffer.view[: self.position]
        self.buffer = buffer

    def _put(self, part: bytes) -> None:
        end = self.position + len(part)
        self.buffer.view[self.position : end] = part
        self.position = end


class AnswerForm:
    """Answers with records of one partition of one topic, as `AnswerWriter` writes them: they differ in a few numbers,
    and all that stands before the records is written at once."""

    def __init__(self, version: int, topic: TopicKey, partition: int, *, aborted_null: bool) -> None:
        writer = AnswerWriter(version, Buffer(HEAD_SIZE_MAX + TOPIC_SIZE_MAX + 4 * len(topic) + _ANSWER_12.size * 2))
        writer.head(0, 0, 1)
        writer.topic(topic, 1)
        numbers_at = writer.position + _NUMBERS_AT
        writer.partition(partition, 0, 0, 0, aborted_null=aborted_null)
        self._flexible = version >= FLEXIBLE_VERSION
        self._front_size = writer.position - (_NO_RECORDS_12 if self._flexible else _COUNT.size)
        self._numbers = 3 if version >= 5 else 2
        numbers_end = numbers_at + 8 * self._numbers
        self._first = bytes(writer.buffer.view[_HEAD_NUMBERS.size : numbers_at])
        self._second = bytes(writer.buffer.view[numbers_end : self._front_size])
        records = "" if self._flexible else "i"
        self._front = struct.Struct(f">ii{len(self._first)}s{self._numbers}q{len(self._second)}s{records}")

    def records_at(self, size_guessed: int) -> int:
        """Where in the buffer the records begin if they take `size_guessed` bytes."""
        return self._front_size + (len(encode_varint(size_guessed + 1)) if self._flexible else _COUNT.size)

    def write(
        self,
        view: memoryview,
        correlation_id: int,
        high_watermark: int,
        log_start_offset: int,
        records_at: int,
        records_size: int,
        lent: Sequence[tuple[int, memoryview]],
        lent_size: int,
    ) -> list[memoryview]:
        """The frame, in parts, around `records_size` bytes of records that lie in `view` at `records_at`, but for
        `lent_size` that are lent: (how many of the others stand before it, its bytes) of each piece, in order."""
        start, end = records_at, records_at + records_size - lent_size
        numbers = (high_watermark, high_watermark, log_start_offset)[: self._numbers]
        if self._flexible:
            word = encode_varint(records_size + 1)
            start = self._front_size + len(word)
            if start != records_at:
                end += start - records_at
                view[start:end] = view[records_at : records_at + end - start]
            view[self._front_size : start] = word
            view[end : end + len(_TAGS_12)] = _TAGS_12
            end += len(_TAGS_12)
            records: tuple[int, ...] = ()
        else:
            records = (records_size,)
        self._front.pack_into(
            view, 0, end + lent_size - _COUNT.size, correlation_id, self._first, *numbers, self._second, *records
        )
        return _in_parts(view, end, lent, start)


def _in_parts(view: memoryview, end: int, lent: Iterable[tuple[int, memoryview]], start: int = 0) -> list[memoryview]:
    """The first `end` bytes, with what is lent between them: (how many stand before it, behind `start`, its bytes)."""
    parts: list[memoryview] = []
    begin = 0
    for before, piece in lent:
        at = start + before
        parts += view[begin:at], piece
        begin = at
    parts.append(view[begin:end])
    return parts
