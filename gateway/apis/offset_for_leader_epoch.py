"""OffsetForLeaderEpoch (key 23), versions 2-4.

Behaviour
- Tells where a leader epoch ended, so that a consumer sees whether what it has read is still there (KIP-320): the
  largest epoch up to the one that is asked for, and the offset at which a later one begins; of the current epoch, the
  high watermark. An epoch that there was not yet is -1, -1 without an error, as from Kafka.
- Views are answered too: their epoch is the log's, their offsets are the total order.
- UNKNOWN_TOPIC_OR_PARTITION; a current leader epoch that is too old FENCED_LEADER_EPOCH, too new UNKNOWN_LEADER_EPOCH.
- Epochs rise only when a log was cut, so nearly every answer is made without a look at a batch. The others search by
  halves, a batch at a time.

Version notes: 3: the replica's id. 4: compact lengths, tagged fields.

Not implemented: versions 0 and 1, which Kafka gave up too; answering replicas, which there are none of.
"""

import logging
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

from totalog.engine import EngineError, UnknownTopic
from totalog.gateway import waiting
from totalog.gateway.apis.api import Api, Request
from totalog.gateway.topics import TopicHandle
from totalog.gateway.wire import codec
from totalog.gateway.wire._batch import lib
from totalog.gateway.wire.answer import Buffer
from totalog.gateway.wire.errors import ErrorCode, of_leader_epoch

if TYPE_CHECKING:
    from totalog.gateway.broker import Broker

STATUS_OK: int = lib.STATUS_OK
STATUS_ON_DISK: int = lib.STATUS_ON_DISK
PARTITIONS_A_TURN = 256
UNDEFINED = -1

log = logging.getLogger("totalog")


class End(NamedTuple):
    leader_epoch: int = UNDEFINED
    offset: int = UNDEFINED
    code: ErrorCode = ErrorCode.NONE


async def handle(broker: "Broker", request: Request, message: Any) -> Any:
    version, response = request.version, codec.OffsetForLeaderEpochResponse
    topics, count = codec.rows(response, version), 0
    for topic in message.topics:
        partitions = codec.rows(response, version)
        for asked in topic.partitions:
            end = await _find(broker, topic.topic, asked)
            partitions.append(
                response.OffsetForLeaderTopicResult.EpochEndOffset(
                    version=version,
                    error_code=end.code,
                    partition=asked.partition,
                    leader_epoch=end.leader_epoch,
                    end_offset=end.offset,
                )
            )
            count += 1
            if count % PARTITIONS_A_TURN == 0:
                await waiting.yield_once()
        count += 1
        if count % PARTITIONS_A_TURN == 0:
            await waiting.yield_once()
        topics.append(response.OffsetForLeaderTopicResult(version=version, topic=topic.topic, partitions=partitions))
    return response(version=version, throttle_time_ms=0, topics=topics)


async def _find(broker: "Broker", name: str, asked: Any) -> End:
    topic = broker.topics.find(name)
    if topic is None or not topic.has_partition(asked.partition):
        return End(code=ErrorCode.UNKNOWN_TOPIC_OR_PARTITION)
    try:
        return await _find_in(broker, topic, asked)
    except UnknownTopic:  # deleted while others had their turn
        return End(code=ErrorCode.UNKNOWN_TOPIC_OR_PARTITION)
    except EngineError as fault:
        log.error("%s-%d cannot be looked up: %s", name, asked.partition, fault)
        return End(code=ErrorCode.KAFKA_STORAGE_ERROR)


async def _find_in(broker: "Broker", topic: TopicHandle, asked: Any) -> End:
    read_partition = topic.read_partition(asked.partition)
    bounds = broker.log.bounds(topic.topic, read_partition)
    refusal = of_leader_epoch(asked.current_leader_epoch, bounds.leader_epoch)
    if refusal is not ErrorCode.NONE:
        return End(code=refusal)
    if not 0 <= asked.leader_epoch <= bounds.leader_epoch:
        return End()
    if asked.leader_epoch == bounds.leader_epoch:
        return End(bounds.leader_epoch, bounds.next_offset)
    search = Search(broker, topic, read_partition)
    return await search.end_of(asked.leader_epoch, bounds.log_start_offset, bounds.next_offset)


class Search:
    """Looks for the first batch of a later epoch."""

    def __init__(self, broker: "Broker", topic: TopicHandle, read_partition: int) -> None:
        self._log = broker.log
        self._topic = topic.topic
        self._partition = read_partition
        self._batches = broker.log.read_batches(1)
        self._buffer = Buffer(64 * 1024)

    async def end_of(self, leader_epoch: int, start: int, end: int) -> End:
        """Among the offsets from `start` to `end`. Epochs never fall from one batch to the next."""
        floor = leader_epoch
        while start < end:
            middle = (start + end) // 2
            found = await self._epoch_at(middle)
            if found is None or found > leader_epoch:  # None: its batch is gone meanwhile
                end = middle
            else:
                start, floor = middle + 1, found
            await waiting.yield_once()
        return End(floor, end)

    async def _epoch_at(self, offset: int) -> int | None:
        """The epoch of the batch that holds an offset."""
        while True:
            place = (self._topic, self._partition, offset, self._buffer.address, self._buffer.size)
            read = self._log.read(*place, batches=self._batches)
            if read.status == STATUS_ON_DISK:
                read = await waiting.in_thread(partial(self._log.archive_read, *place, batches=self._batches))
            if read.status != STATUS_OK:
                return None
            if not read.size_needed:
                return int(self._batches[0].leader_epoch) if read.count else None
            self._buffer = Buffer(read.size_needed)


API = Api(23, "OffsetForLeaderEpoch", 2, 4, 4, handle)
