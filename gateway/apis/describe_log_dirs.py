"""DescribeLogDirs (key 35), versions 1-5.

Behaviour
- One directory: the region. The size of a partition is the payload that it keeps; total and usable bytes are the
  region's.
- Null asks for all topics; topics and partitions that there are not are left out, as in Kafka, and so are total-order
  views, which store nothing of their own.

Version notes: 2: compact lengths, tagged fields. 3: top-level error. 4: total and usable bytes (KIP-827). 5: cordoned
directories (KIP-1066); there are none.
"""

from typing import TYPE_CHECKING, Any

from totalog.gateway.apis.api import Api, Request
from totalog.gateway.topics import TopicHandle
from totalog.gateway.wire import codec
from totalog.gateway.wire.errors import ErrorCode

if TYPE_CHECKING:
    from totalog.gateway.broker import Broker


def handle(broker: "Broker", request: Request, message: Any) -> Any:
    version, memory = request.version, broker.log.memory()
    result = codec.DescribeLogDirsResponse.DescribeLogDirsResult(
        version=version,
        error_code=ErrorCode.NONE,
        log_dir=str(broker.log.region.path or "memory"),
        topics=[_topic(broker, version, topic, partitions) for topic, partitions in _asked(broker, message)],
    )
    if version >= 4:
        result.total_bytes = memory.blocks_total * memory.block_size
        result.usable_bytes = memory.blocks_free * memory.block_size
    return codec.DescribeLogDirsResponse(version=version, error_code=ErrorCode.NONE, results=[result])


def _asked(broker: "Broker", message: Any) -> list[tuple[TopicHandle, list[int]]]:
    if message.topics is None:
        return [(topic, list(range(topic.partitions))) for topic in broker.topics.all()]
    asked = [(broker.topics.find(topic.topic), topic.partitions) for topic in message.topics]
    return [
        (topic, [partition for partition in dict.fromkeys(partitions) if topic.has_partition(partition)])
        for topic, partitions in asked
        if topic is not None and not topic.is_view
    ]


def _topic(broker: "Broker", version: int, topic: TopicHandle, partitions: list[int]) -> Any:
    answer = codec.DescribeLogDirsResponse.DescribeLogDirsResult.DescribeLogDirsTopic
    return answer(
        version=version,
        name=topic.name,
        partitions=[
            answer.DescribeLogDirsPartition(
                version=version,
                partition_index=partition,
                partition_size=broker.log.size_bytes(topic.topic, partition),
                offset_lag=0,
                is_future_key=False,
            )
            for partition in partitions
        ],
    )


API = Api(35, "DescribeLogDirs", 1, 5, 2, handle)
