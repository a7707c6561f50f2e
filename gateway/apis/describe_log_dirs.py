"""DescribeLogDirs (key 35), versions 1-5.

Behaviour
- The region is one directory; it lists the topics that are in memory only, on a broker without data directories all of
  them. Each data directory is one, with all other topics, since each holds all of them, and with the space of its file
  system. One that is not written any more is KAFKA_STORAGE_ERROR and lists nothing, as an offline directory in Kafka:
  so `totalog healthcheck`, and everyone who watches brokers by this request, learns of it.
- The size of a partition is the payload that it keeps.
- Null asks for all topics; topics and partitions that there are not are left out, as in Kafka, and so are total-order
  views, which store nothing of their own.

Version notes: 2: compact lengths, tagged fields. 3: top-level error. 4: total and usable bytes (KIP-827). 5: cordoned
directories (KIP-1066); there are none.
"""

import os
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from totalog.gateway.apis.api import Api, Request
from totalog.gateway.lane import Steps
from totalog.gateway.wire import codec
from totalog.gateway.wire.errors import ErrorCode

if TYPE_CHECKING:
    from totalog.engine import Replica
    from totalog.gateway.broker import Broker
    from totalog.gateway.topics import TopicHandle
    from totalog.gateway.wire.rows import Rows


PARTITIONS_A_STEP = 512


def handle(broker: "Broker", request: Request, message: Any) -> Steps[Any]:
    version, memory = request.version, broker.log.memory()
    topics, in_memory = (codec.rows(codec.DescribeLogDirsResponse, version) for _ in range(2))
    count = 0
    for name, asked in _asked(broker, message):
        topic = broker.topics.find(name)
        count += 1
        if topic is None or topic.is_view:
            if count % PARTITIONS_A_STEP == 0:
                yield
            continue
        told, rows = bytearray(topic.partitions), codec.rows(codec.DescribeLogDirsResponse, version)
        for partition in range(topic.partitions) if asked is None else asked:
            count += 1
            if count % PARTITIONS_A_STEP == 0:
                yield
                topic = broker.topics.find(name)
                if topic is None:
                    break
            if 0 <= partition < min(topic.partitions, len(told)) and not told[partition]:
                told[partition] = 1
                rows.append(_row(broker, version, topic, partition))
        if topic is None:
            continue  # it is gone meanwhile
        (in_memory if topic.topic.memory or not broker.replication.durable else topics).append(
            codec.DescribeLogDirsResponse.DescribeLogDirsResult.DescribeLogDirsTopic(
                version=version, name=name, partitions=rows
            )
        )
    result = codec.DescribeLogDirsResponse.DescribeLogDirsResult(
        version=version,
        error_code=ErrorCode.NONE,
        log_dir=str(broker.log.region.path or "memory"),
        topics=in_memory,
    )
    if version >= 4:
        result.total_bytes = memory.blocks_total * memory.block_size
        result.usable_bytes = memory.blocks_free * memory.block_size
    results = codec.rows(codec.DescribeLogDirsResponse, version)
    results.append(result)
    for replica in broker.log.replicas():
        results.append(_directory(version, replica, topics))
    return codec.DescribeLogDirsResponse(version=version, error_code=ErrorCode.NONE, results=results)


def _directory(version: int, replica: "Replica", topics: "Rows") -> Any:
    fenced = replica.failure is not None
    result = codec.DescribeLogDirsResponse.DescribeLogDirsResult(
        version=version,
        error_code=ErrorCode.KAFKA_STORAGE_ERROR if fenced else ErrorCode.NONE,
        log_dir=str(replica.path),
        topics=[] if fenced else topics.copy(),
    )
    if version >= 4 and not fenced:
        try:
            space = os.statvfs(replica.path)
        except OSError:
            return result
        result.total_bytes, result.usable_bytes = space.f_blocks * space.f_frsize, space.f_bavail * space.f_frsize
    return result


def _asked(broker: "Broker", message: Any) -> Iterator[tuple[str, Any]]:
    """Topics, and the partitions of each; None: all of them."""
    if message.topics is None:
        yield from [(topic.name, None) for topic in broker.topics.all()]
    else:
        yield from ((topic.topic, topic.partitions) for topic in message.topics)


def _row(broker: "Broker", version: int, topic: "TopicHandle", partition: int) -> Any:
    return codec.DescribeLogDirsResponse.DescribeLogDirsResult.DescribeLogDirsTopic.DescribeLogDirsPartition(
        version=version,
        partition_index=partition,
        partition_size=broker.log.size_bytes(topic.topic, partition),
        offset_lag=0,
        is_future_key=False,
    )


API = Api(35, "DescribeLogDirs", 1, 5, 2, handle, steps=True)
