"""DeleteRecords (key 21), versions 0-2.

Behaviour
- Moves a partition's log start up to an offset; -1 is the high watermark. The answer carries the log start that there
  is now. An offset below it changes nothing and is no error; one beyond the end is OFFSET_OUT_OF_RANGE. It is stored
  before the answer leaves.
- In the topic's total-order view, batches that lie below their partition's log start are skipped. The view itself and
  internal topics are INVALID_TOPIC_EXCEPTION, a topic whose cleanup.policy does not delete POLICY_VIOLATION.
- What lies inside a batch stays readable: memory is given back by whole batches.
- A partition that is named twice is answered twice, as by Kafka.

Version notes: 2: compact lengths, tagged fields.

Not implemented: the time-out where there are no data directories, since nothing waits.
"""

from typing import TYPE_CHECKING, Any

from totalog.engine import OffsetOutOfRange, UnknownTopic
from totalog.gateway.apis.api import Api, Request
from totalog.gateway.lane import Steps
from totalog.gateway.topics import Refused, TopicHandle
from totalog.gateway.wire import codec
from totalog.gateway.wire.errors import ErrorCode

if TYPE_CHECKING:
    from totalog.gateway.broker import Broker

PARTITIONS_A_STEP = 64
HIGH_WATERMARK = -1
NO_WATERMARK = -1


def handle(broker: "Broker", request: Request, message: Any) -> Steps[Any]:
    version, response = request.version, codec.DeleteRecordsResponse.DeleteRecordsTopicResult
    topics, count = codec.rows(codec.DeleteRecordsResponse, version), 0
    for topic in message.topics:
        partitions = codec.rows(codec.DeleteRecordsResponse, version)
        for asked in topic.partitions:
            code, low_watermark = _delete(broker, topic.name, asked.partition_index, asked.offset)
            partitions.append(
                response.DeleteRecordsPartitionResult(
                    version=version,
                    partition_index=asked.partition_index,
                    low_watermark=low_watermark,
                    error_code=code,
                )
            )
            count += 1
            if count % PARTITIONS_A_STEP == 0:
                yield
        count += 1
        if count % PARTITIONS_A_STEP == 0:
            yield
        topics.append(response(version=version, name=topic.name, partitions=partitions))
    return codec.DeleteRecordsResponse(version=version, throttle_time_ms=0, topics=topics)


def _delete(broker: "Broker", name: str, partition: int, offset: int) -> tuple[ErrorCode, int]:
    """The error code, and the log start."""
    topic = broker.topics.find(name)
    if topic is None or not topic.has_partition(partition):
        return ErrorCode.UNKNOWN_TOPIC_OR_PARTITION, NO_WATERMARK
    if topic.is_view or topic.topic.internal:
        return ErrorCode.INVALID_TOPIC_EXCEPTION, NO_WATERMARK
    policy = broker.config.topic_value("cleanup.policy", topic.config)
    assert isinstance(policy, tuple)
    if "delete" not in policy:
        return ErrorCode.POLICY_VIOLATION, NO_WATERMARK
    try:
        return ErrorCode.NONE, _trim(broker, topic, partition, offset)
    except Refused as refused:
        return refused.code, NO_WATERMARK
    except OffsetOutOfRange:
        return ErrorCode.OFFSET_OUT_OF_RANGE, NO_WATERMARK
    except UnknownTopic:
        return ErrorCode.UNKNOWN_TOPIC_OR_PARTITION, NO_WATERMARK


def _trim(broker: "Broker", topic: TopicHandle, partition: int, offset: int) -> int:
    bounds = broker.log.bounds(topic.topic, partition)
    target = bounds.next_offset if offset == HIGH_WATERMARK else offset
    if not 0 <= target <= bounds.next_offset:
        raise OffsetOutOfRange(f"offset {offset} of {topic.name}-{partition}, whose end is {bounds.next_offset}")
    if target > bounds.log_start_offset:
        broker.topics.trim(topic, partition, target)
        broker.appended.ring(topic.topic.slot)  # who waits below it learns that nothing comes there any more
    return broker.log.bounds(topic.topic, partition).log_start_offset


def not_stored(version: int, answer: Any, code: ErrorCode) -> Any:
    """The answer where it is not certain that the records stay deleted."""
    for topic in answer.topics:
        for partition in topic.partitions:
            if partition.error_code == ErrorCode.NONE:
                partition.error_code, partition.low_watermark = code, NO_WATERMARK
    return answer


API = Api(21, "DeleteRecords", 0, 2, 2, handle, steps=True, not_stored=not_stored)
