"""Fetch, the short way: a request of one partition that is like an earlier one, but for correlation id and offset.

A connection asks `repeat_of` about a request that `fetch.py` has answered, and then hands what it receives to `answer`
first. Whatever is not plainly of the same kind, finds no records, or is refused, is left for `fetch.py`; what is
answered here is answered as there.
"""

import struct
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from totalog.gateway.apis import fetch
from totalog.gateway.apis.api import Run
from totalog.gateway.wire import fetch as wire

if TYPE_CHECKING:
    from totalog.engine import Reservation, Topic
    from totalog.gateway.apis.api import Request
    from totalog.gateway.broker import Broker

REQUEST_SIZE_MAX: Final = 1024
"""Bytes of a request that is remembered."""

SIZE_WORD: Final = 4
CORRELATION_ID_AT: Final = 8
"""Behind size word, API key and version."""
CORRELATION_ID_END: Final = 12
OFFSET_SIZE: Final = 8

_correlation_id = struct.Struct(">i").unpack_from
_offset = struct.Struct(">q").unpack_from


@dataclass(slots=True, eq=False)
class Repeat:
    """A kind of request that a connection sends again and again, as the topics are now."""

    size: int
    """Bytes of a request, its size word included."""
    offset_at: int
    """Where the fetch offset stands."""
    front: bytes
    """What stands before the correlation id,"""
    middle: bytes
    """between it and the offset,"""
    tail: bytes
    """and behind the offset."""
    version: int
    topics_version: int
    topic: "Topic"
    partition: int
    read_partition: int
    """The number under which the log reads it."""
    leader_epoch: int
    """That is asked for, or -1."""
    size_max: int
    """Bytes of records."""
    aborted_null: bool
    head: bytes
    """Of its answers: what stands before the partition."""
    overhead: int
    """Bytes of its answers around the records, at most."""


def repeat_of(broker: "Broker", request: "Request") -> Repeat | None:
    """The kind of a request that was answered at once just now; None where it is not one that can be repeated the
    short way."""
    if len(request.frame) > REQUEST_SIZE_MAX:
        return None
    message = wire.parse(request.version, request.frame, request.body_at)
    if message is None or len(message.topics) != 1 or message.partition_count != 1:
        return None
    ((topic, ((partition, leader_epoch, _, most),)),) = message.topics
    handle = fetch.find(broker, topic)
    if handle is None or not 0 <= partition < handle.partitions:
        return None
    if message.min_bytes > 1 or message.session_epoch not in fetch.FULL_FETCH_EPOCHS:
        return None
    frame = struct.pack(">i", len(request.frame)) + request.frame
    offset_at = SIZE_WORD + message.offset_at
    return Repeat(
        len(frame),
        offset_at,
        frame[:CORRELATION_ID_AT],
        frame[CORRELATION_ID_END:offset_at],
        frame[offset_at + OFFSET_SIZE :],
        request.version,
        broker.log.topics_version,
        handle.topic,
        partition,
        handle.read_partition(partition),
        leader_epoch,
        min(max(most, 1), fetch.size_max_of(broker, message)),
        message.isolation_level == fetch.READ_UNCOMMITTED,
        wire.head_of_one(request.version, topic),
        message.overhead,
    )


def begins(repeat: Repeat, frame: memoryview) -> bool:
    """Whether the start of a large request may be that of one of the kind: none of it is large."""
    return False


def answer(broker: "Broker", repeat: Repeat, held: memoryview, reservation: "Reservation | None" = None) -> Run | None:
    """Answers the request at the start of `held`, if it is complete and of the kind, and there are records for it."""
    size, at = repeat.size, repeat.offset_at
    frame = bytes(held[:size])
    if (
        frame[at + OFFSET_SIZE :] != repeat.tail
        or frame[CORRELATION_ID_END:at] != repeat.middle
        or frame[:CORRELATION_ID_AT] != repeat.front
        or repeat.topics_version != broker.log.topics_version
    ):
        return None
    reader, log = broker.reader, broker.log
    size_max = fetch.pressed(broker, repeat.size_max)
    buffer = reader.take(repeat.overhead, size_max)
    writer = wire.AnswerWriter(repeat.version, buffer)
    writer.resume(repeat.head, _correlation_id(frame, CORRELATION_ID_AT)[0])
    records_at = writer.records_at(size_max)
    room = buffer.size - repeat.overhead
    offset, target = _offset(frame, at)[0], buffer.address + records_at
    read = reader.read(repeat.topic, repeat.read_partition, offset, target, size_max, room, True)
    known = repeat.leader_epoch in (wire.NO_LEADER_EPOCH, read.leader_epoch)
    if not (read.size and known) or fetch.cramped(read, size_max, room):
        log.give_back(read.pins)
        reader.pool.give(buffer)
        return None
    reader.put(writer, repeat.partition, records_at, read, repeat.aborted_null)
    writer.end_topic()
    return Run(1, size, reader.finish(writer, read.copied, read.pins))
