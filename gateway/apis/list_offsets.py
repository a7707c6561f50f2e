"""ListOffsets (key 2), versions 1-11.

Behaviour
- -1 latest: the next offset, which is the high watermark and the end of what can be read. -2 and -4 earliest (there is
  no tiered storage, so the earliest local offset is the earliest). -3: offset and timestamp of the record with the
  largest timestamp. -5 and -6 ask about tiered storage: offset -1.
- A timestamp: the first record whose timestamp is at least that, found by opening the one batch that the index names;
  offset -1 and timestamp -1 when there is none.
- Views answer like topics: their offsets are the total order.
- Special timestamps that are unknown, or newer than the version of the request, are UNSUPPORTED_VERSION for that
  partition. A partition named twice is INVALID_REQUEST each time. A leader epoch newer than the log's is
  UNKNOWN_LEADER_EPOCH, an older one FENCED_LEADER_EPOCH.
- A look-up by timestamp may have to decompress a batch, so other requests get their turn after each.

Version notes
- 2: isolation level; the last stable offset is the latest one, since there are no transactions.
- 4: leader epoch (KIP-320). 6: compact lengths, tagged fields. 7: -3 (KIP-734). 8: -4 (KIP-405). 9: -5 (KIP-1005).
- 10: a time-out for remote look-ups (KIP-1075), not needed here. 11: -6 (KIP-1023).

Not implemented: version 0, which Kafka gave up too.
"""

from collections import Counter
from typing import TYPE_CHECKING, Any, NamedTuple

from totalog.engine import BatchAt, UnknownTopic
from totalog.gateway import waiting
from totalog.gateway.apis.api import Api, Request
from totalog.gateway.topics import TopicHandle
from totalog.gateway.wire import codec, records
from totalog.gateway.wire.answer import Buffer
from totalog.gateway.wire.errors import ErrorCode

if TYPE_CHECKING:
    from totalog.gateway.broker import Broker

LATEST, EARLIEST, MAX_TIMESTAMP, EARLIEST_LOCAL, LATEST_TIERED, EARLIEST_PENDING_UPLOAD = -1, -2, -3, -4, -5, -6
FIRST_VERSIONS = {
    LATEST: 1,
    EARLIEST: 1,
    MAX_TIMESTAMP: 7,
    EARLIEST_LOCAL: 8,
    LATEST_TIERED: 9,
    EARLIEST_PENDING_UPLOAD: 11,
}
"""Versions that brought the special timestamps."""


class Found(NamedTuple):
    """An answer for one partition."""

    offset: int = -1
    timestamp: int = -1
    leader_epoch: int = -1
    code: ErrorCode = ErrorCode.NONE


async def handle(broker: "Broker", request: Request, message: Any) -> Any:
    version = request.version
    response = codec.ListOffsetsResponse
    named = Counter((topic.name, asked.partition_index) for topic in message.topics for asked in topic.partitions)
    topics = []
    for topic in message.topics:
        handle = broker.topics.find(topic.name)
        partitions = []
        for asked in topic.partitions:
            if named[topic.name, asked.partition_index] > 1:
                found = Found(code=ErrorCode.INVALID_REQUEST)
            else:
                found = _find(broker, version, handle, asked)
                if asked.timestamp >= 0 or asked.timestamp == MAX_TIMESTAMP:
                    await waiting.yield_once()
            partitions.append(
                response.ListOffsetsTopicResponse.ListOffsetsPartitionResponse(
                    version=version,
                    partition_index=asked.partition_index,
                    error_code=found.code,
                    timestamp=found.timestamp,
                    offset=found.offset,
                    leader_epoch=found.leader_epoch,
                )
            )
        topics.append(response.ListOffsetsTopicResponse(version=version, name=topic.name, partitions=partitions))
    return response(version=version, throttle_time_ms=0, topics=topics)


def _find(broker: "Broker", version: int, handle: TopicHandle | None, asked: Any) -> Found:
    if handle is None or not handle.has_partition(asked.partition_index):
        return Found(code=ErrorCode.UNKNOWN_TOPIC_OR_PARTITION)
    try:
        return _find_in(broker, version, handle, asked)
    except UnknownTopic:  # deleted while others had their turn
        return Found(code=ErrorCode.UNKNOWN_TOPIC_OR_PARTITION)


def _find_in(broker: "Broker", version: int, handle: TopicHandle, asked: Any) -> Found:
    if asked.timestamp < 0 and version < FIRST_VERSIONS.get(asked.timestamp, version + 1):
        return Found(code=ErrorCode.UNSUPPORTED_VERSION)
    partition = handle.read_partition(asked.partition_index)
    bounds = broker.log.bounds(handle.topic, partition)
    if 0 <= asked.current_leader_epoch != bounds.leader_epoch:
        newer = asked.current_leader_epoch > bounds.leader_epoch
        return Found(code=ErrorCode.UNKNOWN_LEADER_EPOCH if newer else ErrorCode.FENCED_LEADER_EPOCH)
    if asked.timestamp == LATEST:
        return Found(bounds.next_offset, leader_epoch=bounds.leader_epoch)
    if asked.timestamp in (EARLIEST, EARLIEST_LOCAL):
        return Found(bounds.log_start_offset, leader_epoch=bounds.leader_epoch)
    if asked.timestamp in (LATEST_TIERED, EARLIEST_PENDING_UPLOAD):
        return Found()
    return _look_up(broker, handle, partition, asked.timestamp)


def _look_up(broker: "Broker", handle: TopicHandle, partition: int, timestamp: int) -> Found:
    """The record with the largest timestamp, or the first that is not older than `timestamp`."""
    if timestamp == MAX_TIMESTAMP:
        at = broker.log.find_max_timestamp(handle.topic, partition)
    else:
        at = broker.log.find_timestamp(handle.topic, partition, timestamp)
    if at is None:
        return Found()
    # Compressed records were never opened before: a header may claim more than they hold, and they may be damaged. The
    # batch's first offset is then the best answer there is; an error would only make clients ask again.
    delta, record_timestamp = _record(_read(broker, handle, partition, at), timestamp) or (0, at.max_timestamp)
    return Found(at.base_offset + delta, record_timestamp, at.leader_epoch)


def _record(batch: memoryview, timestamp: int) -> tuple[int, int] | None:
    """Offset delta and timestamp of the record of this batch that is looked for."""
    try:
        if timestamp == MAX_TIMESTAMP:
            return records.max_timestamp_record(batch)
        return records.find_offset_by_timestamp(batch, timestamp)
    except records.CorruptBatch:
        return None


def _read(broker: "Broker", handle: TopicHandle, partition: int, at: BatchAt) -> memoryview:
    """A copy of one batch. Nothing can have taken it since it was found: the two calls are one step of the event
    loop."""
    buffer, batches = Buffer(at.size), broker.log.read_batches(1)
    read = broker.log.read(handle.topic, partition, at.base_offset, buffer.address, at.size, batches=batches)
    return buffer.view[: read.size]


API = Api(2, "ListOffsets", 1, 11, 6, handle)
