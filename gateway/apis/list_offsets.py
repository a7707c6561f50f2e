"""ListOffsets (key 2), versions 1-11.

Behaviour
- -1 latest: the next offset, which is the high watermark and the end of what can be read. Where records of it are
  ordered and not durable yet, what is ordered when the request comes is waited for, so that records that were
  acknowledged with acks=1 before count. It takes one write to disk at most; when no data directory can be written the
  answer is what can be read; when it takes too long, REQUEST_TIMED_OUT. -2 and -4 earliest (there is
  no tiered storage, so the earliest local offset is the earliest). -3: offset and timestamp of the record with the
  largest timestamp. -5 and -6 ask about tiered storage: offset -1.
- A timestamp: the first record whose timestamp is at least that, found by opening the one batch that the index names;
  offset -1 and timestamp -1 when there is none.
- Views answer like topics: their offsets are the total order.
- Special timestamps that are unknown, or newer than the version of the request, are UNSUPPORTED_VERSION for that
  partition. A partition named twice is INVALID_REQUEST, once. A leader epoch newer than the log's is
  UNKNOWN_LEADER_EPOCH, an older one FENCED_LEADER_EPOCH.
- A look-up by timestamp may have to decompress a batch, so other requests get their turn after each. What has left
  memory is looked up and read in a thread; KAFKA_STORAGE_ERROR where no directory can be read.

Version notes
- 2: isolation level; the last stable offset is the latest one, since there are no transactions.
- 4: leader epoch (KIP-320). 6: compact lengths, tagged fields. 7: -3 (KIP-734). 8: -4 (KIP-405). 9: -5 (KIP-1005).
- 10: a time-out for remote look-ups (KIP-1075), not needed here. 11: -6 (KIP-1023).

Not implemented: version 0, which Kafka gave up too.
"""

import logging
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

from totalog.engine import BatchAt, EngineError, UnknownTopic
from totalog.gateway import waiting
from totalog.gateway.apis.api import Api, Request
from totalog.gateway.replication import PROMISE_S_MAX
from totalog.gateway.topics import TopicHandle
from totalog.gateway.wire import codec
from totalog.gateway.wire._batch import lib
from totalog.gateway.wire.answer import Buffer
from totalog.gateway.wire.errors import ErrorCode, of_leader_epoch

if TYPE_CHECKING:
    from totalog.engine import Log
    from totalog.gateway.broker import Broker

log = logging.getLogger("totalog")

STATUS_ON_DISK: int = lib.STATUS_ON_DISK
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

PARTITIONS_A_TURN = 256

ANSWERED = 3
"""In place of how often a partition is named."""


class Found(NamedTuple):
    """An answer for one partition."""

    offset: int = -1
    timestamp: int = -1
    leader_epoch: int = -1
    code: ErrorCode = ErrorCode.NONE


async def handle(broker: "Broker", request: Request, message: Any) -> Any:
    version = request.version
    response = codec.ListOffsetsResponse
    ordered, deadline = broker.log.frontiers().ordered, waiting.now() + PROMISE_S_MAX
    named = await _named(broker, message)
    topics, count = codec.rows(response, version), 0
    for topic in message.topics:
        handle, times = broker.topics.find(topic.name), named.get(topic.name, bytearray())
        partitions = codec.rows(response, version)
        for asked in topic.partitions:
            if 0 <= asked.partition_index < len(times) and times[asked.partition_index] > 1:
                if times[asked.partition_index] == ANSWERED:
                    continue
                times[asked.partition_index] = ANSWERED
                found = Found(code=ErrorCode.INVALID_REQUEST)
            else:
                if asked.timestamp == LATEST and not await _caught_up(broker, handle, asked, ordered, deadline):
                    found = Found(code=ErrorCode.REQUEST_TIMED_OUT)
                else:
                    found = await _find(broker, version, handle, asked)
                count += 1
                if asked.timestamp >= 0 or asked.timestamp == MAX_TIMESTAMP or count % PARTITIONS_A_TURN == 0:
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
        count += 1
        if count % PARTITIONS_A_TURN == 0:
            await waiting.yield_once()
        topics.append(response.ListOffsetsTopicResponse(version=version, name=topic.name, partitions=partitions))
    return response(version=version, throttle_time_ms=0, topics=topics)


async def _named(broker: "Broker", message: Any) -> dict[str, bytearray]:
    """How often each partition stands in the request: once, or more than that. Of those that there are."""
    named: dict[str, bytearray] = {}
    count = 0
    for topic in message.topics:
        handle = broker.topics.find(topic.name)
        for asked in topic.partitions if handle is not None else ():
            assert handle is not None
            if handle.has_partition(asked.partition_index):
                times = named.setdefault(handle.name, bytearray(handle.partitions))
                times[asked.partition_index] = 2 if times[asked.partition_index] else 1
            count += 1
            if count % PARTITIONS_A_TURN == 0:
                await waiting.yield_once()
                handle = broker.topics.find(topic.name)
                if handle is None:
                    break
        count += 1
        if count % PARTITIONS_A_TURN == 0:
            await waiting.yield_once()
    return named


async def _caught_up(broker: "Broker", handle: TopicHandle | None, asked: Any, ordered: int, deadline: float) -> bool:
    """Wait until what was ordered when the request came can be read, if there is any in the partition. False: not in
    time."""
    if handle is None or not handle.has_partition(asked.partition_index):
        return True
    try:
        bounds = broker.log.bounds(handle.topic, handle.read_partition(asked.partition_index))
    except UnknownTopic:
        return True
    if bounds.next_offset == bounds.end_offset:
        return True
    return await broker.replication.caught_up(ordered, broker.replication.visible_level(handle.topic), deadline)


async def _find(broker: "Broker", version: int, handle: TopicHandle | None, asked: Any) -> Found:
    if asked.timestamp < 0 and version < FIRST_VERSIONS.get(asked.timestamp, version + 1):
        return Found(code=ErrorCode.UNSUPPORTED_VERSION)
    if handle is None or not handle.has_partition(asked.partition_index):
        return Found(code=ErrorCode.UNKNOWN_TOPIC_OR_PARTITION)
    try:
        return await _find_in(broker, handle, asked)
    except UnknownTopic:  # deleted while others had their turn
        return Found(code=ErrorCode.UNKNOWN_TOPIC_OR_PARTITION)
    except EngineError as fault:
        log.error("%s-%d cannot be looked up: %s", handle.name, asked.partition_index, fault)
        return Found(code=ErrorCode.KAFKA_STORAGE_ERROR)


async def _find_in(broker: "Broker", handle: TopicHandle, asked: Any) -> Found:
    partition = handle.read_partition(asked.partition_index)
    bounds = broker.log.bounds(handle.topic, partition)
    refusal = of_leader_epoch(asked.current_leader_epoch, bounds.leader_epoch)
    if refusal is not ErrorCode.NONE:
        return Found(code=refusal)
    if asked.timestamp == LATEST:
        return Found(bounds.next_offset, leader_epoch=bounds.leader_epoch)
    if asked.timestamp in (EARLIEST, EARLIEST_LOCAL):
        return Found(bounds.log_start_offset, leader_epoch=bounds.leader_epoch)
    if asked.timestamp in (LATEST_TIERED, EARLIEST_PENDING_UPLOAD):
        return Found()
    return await _look_up(broker, handle, partition, asked.timestamp)


async def _look_up(broker: "Broker", handle: TopicHandle, partition: int, timestamp: int) -> Found:
    """The record with the largest timestamp, or the first that is not older than `timestamp`."""
    at = await _batch_at(broker.log, handle, partition, timestamp)
    if at is None:
        return Found()
    # Compressed records were never opened before: a header may claim more than they hold, and they may be damaged. The
    # batch's first offset is then the best answer there is; an error would only make clients ask again.
    batch = await _read(broker.log, handle, partition, at)
    delta, record_timestamp = _record(batch, timestamp) or (0, at.max_timestamp)
    return Found(at.base_offset + delta, record_timestamp, at.leader_epoch)


async def _batch_at(engine: "Log", handle: TopicHandle, partition: int, timestamp: int) -> BatchAt | None:
    """The batch with that record. The archive holds what is older, and some of what is in memory too."""
    topic, archived = handle.topic, None
    if engine.archived(topic, partition):
        if timestamp == MAX_TIMESTAMP:
            archived = await waiting.in_thread(partial(engine.archive_find_max_timestamp, topic, partition))
        else:
            archived = await waiting.in_thread(partial(engine.archive_find_timestamp, topic, partition, timestamp))
        if archived is not None and archived.base_offset >= engine.bounds(topic, partition).next_offset:
            archived = None
    if timestamp != MAX_TIMESTAMP:
        return archived or engine.find_timestamp(topic, partition, timestamp)
    newest = engine.find_max_timestamp(topic, partition)
    if archived is None or (newest is not None and newest.max_timestamp > archived.max_timestamp):
        return newest
    return archived


def _record(batch: memoryview, timestamp: int) -> tuple[int, int] | None:
    """Offset delta and timestamp of the record of this batch that is looked for."""
    from totalog.gateway.wire import records

    try:
        if timestamp == MAX_TIMESTAMP:
            return records.max_timestamp_record(batch)
        return records.find_offset_by_timestamp(batch, timestamp)
    except records.CorruptBatch:
        return None


async def _read(engine: "Log", handle: TopicHandle, partition: int, at: BatchAt) -> memoryview:
    """A copy of one batch; nothing of it when it went since it was found."""
    buffer, batches = Buffer(at.size), engine.read_batches(1)
    read = engine.read(handle.topic, partition, at.base_offset, buffer.address, at.size, batches=batches)
    if read.status == STATUS_ON_DISK:
        call = partial(engine.archive_read, handle.topic, partition, at.base_offset, buffer.address, at.size)
        read = await waiting.in_thread(partial(call, batches=batches))
    return buffer.view[: read.size]


API = Api(2, "ListOffsets", 1, 11, 6, handle)
