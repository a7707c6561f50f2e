"""Requests of the benches, encoded once, so that a load costs its sender as little as it can.

Each is a whole frame, size word included, with correlation id 1; a sender repeats it as it stands.
"""

import socket
import struct
from collections.abc import Mapping

from kafka.protocol.admin import CreateTopicsRequest
from kafka.protocol.consumer import FetchRequest
from kafka.protocol.producer import ProduceRequest
from kafka.record.memory_records import MemoryRecordsBuilder

CREATE_TOPICS_VERSION, PRODUCE_VERSION, FETCH_VERSION = 4, 8, 11
RECORDS_SIZE_MAX = 1 << 30
ERROR_AT = 22
"""Where the error code of a Produce answer stands behind the topic's name: size word, correlation id, two counts, the
name's length and the partition take these bytes."""


def create_topic(name: str, partitions: int = 1, configs: Mapping[str, str] | None = None) -> bytes:
    settings = [
        CreateTopicsRequest.CreatableTopic.CreatableTopicConfig(version=CREATE_TOPICS_VERSION, name=key, value=value)
        for key, value in (configs or {}).items()
    ]
    topic = CreateTopicsRequest.CreatableTopic(
        version=CREATE_TOPICS_VERSION,
        name=name,
        num_partitions=partitions,
        replication_factor=1,
        assignments=[],
        configs=settings,
    )
    request = CreateTopicsRequest(version=CREATE_TOPICS_VERSION, topics=[topic], timeout_ms=30_000, validate_only=False)
    return _framed(request)


def batch(size: int, record_size: int) -> bytes:
    """One uncompressed record batch with values of `record_size` bytes, as many as fit into `size` bytes, at least
    one."""
    builder = MemoryRecordsBuilder(magic=2, compression_type=0, batch_size=RECORDS_SIZE_MAX)
    while True:
        builder.append(timestamp=1, key=None, value=bytes(record_size))
        if builder.size_in_bytes() + record_size + 32 > size:
            builder.close()
            return bytes(builder.buffer())


def produce(topic: str, records: bytes, *, acks: int, partition: int = 0) -> bytes:
    """The batch is the end of the frame."""
    target = ProduceRequest.TopicProduceData.PartitionProduceData(
        version=PRODUCE_VERSION, index=partition, records=records
    )
    data = ProduceRequest.TopicProduceData(version=PRODUCE_VERSION, name=topic, partition_data=[target])
    return _framed(
        ProduceRequest(version=PRODUCE_VERSION, transactional_id=None, acks=acks, timeout_ms=30_000, topic_data=[data])
    )


def fetch(topic: str, *, offset: int, size_max: int, partition: int = 0) -> bytes:
    source = FetchRequest.FetchTopic.FetchPartition(
        version=FETCH_VERSION,
        partition=partition,
        current_leader_epoch=-1,
        fetch_offset=offset,
        log_start_offset=-1,
        partition_max_bytes=size_max,
    )
    data = FetchRequest.FetchTopic(version=FETCH_VERSION, topic=topic, partitions=[source])
    return _framed(
        FetchRequest(
            version=FETCH_VERSION,
            replica_id=-1,
            max_wait_ms=500,
            min_bytes=1,
            max_bytes=size_max,
            isolation_level=0,
            session_id=0,
            session_epoch=-1,
            topics=[data],
            forgotten_topics_data=[],
            rack_id="",
        )
    )


def produce_error(topic: str, answer: bytes | bytearray | memoryview) -> int:
    """The error code in a Produce answer that was made for one topic and partition."""
    return int(struct.unpack_from(">h", answer, ERROR_AT + len(topic.encode()))[0])


def produce_offset(topic: str, answer: bytes | bytearray | memoryview) -> int:
    """The base offset in such an answer, behind the error code."""
    return int(struct.unpack_from(">q", answer, ERROR_AT + len(topic.encode()) + 2)[0])


def ask(connection: socket.socket, request: bytes) -> bytes:
    """Sends one request and receives its whole answer."""
    connection.sendall(request)
    answer = bytearray()
    while len(answer) < 4 or len(answer) < 4 + struct.unpack_from(">i", answer)[0]:
        more = connection.recv(1 << 20)
        if not more:
            raise ConnectionError("the broker closed the connection")
        answer += more
    return bytes(answer)


def _framed(request: object) -> bytes:
    request.with_header(correlation_id=1, client_id="bench")  # type: ignore[attr-defined]
    return bytes(request.encode(header=True, framed=True))  # type: ignore[attr-defined]
