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
from totalog.gateway.apis.fetch_answers import READ_UNCOMMITTED, cramped
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


@dataclass(slots=True, eq=False)
class Repeat:
    """A kind of request that a connection sends again and again. Once its topic is deleted, no read under the topic's
    generation finds anything, so that what the name stands for then is looked up by `fetch.py`."""

    size: int
    """Bytes of a request, its size word included."""
    layout: struct.Struct
    """Of a request: what stands before the correlation id, that, what stands between it and the fetch offset, that, and
    what stands behind."""
    front: bytes
    middle: bytes
    tail: bytes
    topic: "Topic"
    read_partition: int
    """The number under which the log reads it."""
    leader_epoch: int
    """That is asked for, or -1."""
    size_max: int
    """Bytes of records."""
    form: wire.AnswerForm
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
    handle = broker.topics.find_key(topic)
    if handle is None or not 0 <= partition < handle.partitions:
        return None
    if message.min_bytes > 1 or message.session_epoch not in fetch.FULL_FETCH_EPOCHS:
        return None
    frame = struct.pack(">i", len(request.frame)) + request.frame
    middle_size = SIZE_WORD + message.offset_at - CORRELATION_ID_END
    tail_size = len(frame) - CORRELATION_ID_END - middle_size - OFFSET_SIZE
    layout = struct.Struct(f">{CORRELATION_ID_AT}si{middle_size}sq{tail_size}s")
    front, _, middle, _, tail = layout.unpack(frame)
    return Repeat(
        len(frame),
        layout,
        front,
        middle,
        tail,
        handle.topic,
        handle.read_partition(partition),
        leader_epoch,
        min(max(most, 1), fetch.size_max_of(broker, message)),
        wire.AnswerForm(request.version, topic, partition, aborted_null=message.isolation_level == READ_UNCOMMITTED),
        message.overhead,
    )


def begins(repeat: Repeat, frame: memoryview) -> bool:
    """Whether the start of a large request may be that of one of the kind: none of it is large."""
    return False


def answer(broker: "Broker", repeat: Repeat, held: memoryview, reservation: "Reservation | None" = None) -> Run | None:
    """Answers the request at the start of `held`, if it is complete and of the kind, and there are records for it."""
    if len(held) < repeat.size:
        return None
    front, correlation_id, middle, offset, tail = repeat.layout.unpack_from(held)
    if tail != repeat.tail or middle != repeat.middle or front != repeat.front:
        return None
    reader, log = broker.reader, broker.log
    size_max = fetch.pressed(broker, repeat.size_max)
    buffer = reader.take(repeat.overhead, size_max)
    form, room = repeat.form, buffer.size - repeat.overhead
    at = form.records_at(size_max)
    read = reader.read(repeat.topic, repeat.read_partition, offset, buffer.address + at, size_max, room, True)
    known = repeat.leader_epoch in (wire.NO_LEADER_EPOCH, read.leader_epoch)
    if not (read.size and known) or cramped(read, size_max, room):
        log.give_back(read.pins)
        reader.pool.give(buffer)
        return None
    parts = form.write(
        buffer.view,
        correlation_id,
        read.next_offset,
        read.log_start_offset,
        at,
        read.size,
        reader.stamp(buffer.address + at, read),
        read.size - read.copied,
    )
    return 1, repeat.size, reader.finish(parts, buffer, read.size - read.copied, read.copied, read.pins)
