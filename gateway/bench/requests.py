"""Requests of the benches, encoded once, so that a load costs its sender as little as it can.

Each is a whole frame, size word included, with the same correlation id; a sender repeats it as it stands.
"""

import socket
import struct
from collections.abc import Mapping, Sequence
from typing import Any

from totalog.gateway.wire import codec
from totalog.gateway.wire.records import build_batch

CREATE_TOPICS_VERSION, PRODUCE_VERSION, FETCH_VERSION = 4, 8, 11
METADATA_VERSION, DELETE_TOPICS_VERSION, DESCRIBE_CONFIGS_VERSION = 4, 1, 1
BROKER_RESOURCE = 4
CLIENT_ID = "bench"
CORRELATION_ID = 1
HEAD = struct.Struct(">ii")
"""Of an answer: its size and correlation id."""
NOT_KAFKA = "the answer is not one of the Kafka protocol"
RECORD_OVERHEAD_MIN = 7
"""Bytes that a record takes besides its value, at least."""
ERROR_AT = 22
"""Where the error code of a Produce answer stands behind the topic's name: size word, correlation id, two counts, the
name's length and the partition take these bytes."""


def create_topic(name: str, partitions: int = 1, configs: Mapping[str, str] | None = None) -> bytes:
    settings = [
        codec.CreateTopicsRequest.CreatableTopic.CreatableTopicConfig(
            version=CREATE_TOPICS_VERSION, name=key, value=value
        )
        for key, value in (configs or {}).items()
    ]
    topic = codec.CreateTopicsRequest.CreatableTopic(
        version=CREATE_TOPICS_VERSION,
        name=name,
        num_partitions=partitions,
        replication_factor=1,
        assignments=[],
        configs=settings,
    )
    request = codec.CreateTopicsRequest(
        version=CREATE_TOPICS_VERSION, topics=[topic], timeout_ms=30_000, validate_only=False
    )
    return _framed(request)


def batch(size: int, record_size: int) -> bytes:
    """One uncompressed record batch with values of `record_size` bytes, as many as fit into `size` bytes, at least
    one."""
    value = bytes(record_size)
    count = max(1, size // (record_size + RECORD_OVERHEAD_MIN))
    while True:
        made = build_batch([(None, value)] * count, 1)
        if len(made) <= size or count == 1:
            return made
        count -= max(1, (len(made) - size) // (record_size + 2 * RECORD_OVERHEAD_MIN))


def produce(topic: str, records: bytes, *, acks: int, partition: int = 0, client_id: str = CLIENT_ID) -> bytes:
    """The batch is the end of the frame."""
    target = codec.ProduceRequest.TopicProduceData.PartitionProduceData(
        version=PRODUCE_VERSION, index=partition, records=records
    )
    data = codec.ProduceRequest.TopicProduceData(version=PRODUCE_VERSION, name=topic, partition_data=[target])
    return _framed(
        codec.ProduceRequest(
            version=PRODUCE_VERSION, transactional_id=None, acks=acks, timeout_ms=30_000, topic_data=[data]
        ),
        client_id,
    )


def fetch(topic: str, *, offset: int, size_max: int, partition: int = 0) -> bytes:
    source = codec.FetchRequest.FetchTopic.FetchPartition(
        version=FETCH_VERSION,
        partition=partition,
        current_leader_epoch=-1,
        fetch_offset=offset,
        log_start_offset=-1,
        partition_max_bytes=size_max,
    )
    data = codec.FetchRequest.FetchTopic(version=FETCH_VERSION, topic=topic, partitions=[source])
    return _framed(
        codec.FetchRequest(
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
    """Sends one request and receives its whole answer. Raises OSError, also where it is no answer to that."""
    connection.sendall(request)
    answer = bytearray()
    end = HEAD.size
    while len(answer) < end:
        more = connection.recv(1 << 20)
        if not more:
            raise ConnectionError("the broker closed the connection")
        answer += more
        if end == HEAD.size <= len(answer):
            size, correlation_id = HEAD.unpack_from(answer)
            if correlation_id != CORRELATION_ID or size < 4:
                raise ConnectionError(NOT_KAFKA)
            end = 4 + size
    return bytes(answer)


def metadata(topic: str) -> bytes:
    asked = codec.MetadataRequest.MetadataRequestTopic(version=METADATA_VERSION, name=topic)
    return _framed(codec.MetadataRequest(version=METADATA_VERSION, topics=[asked], allow_auto_topic_creation=False))


def delete_topic(name: str) -> bytes:
    return _framed(codec.DeleteTopicsRequest(version=DELETE_TOPICS_VERSION, topic_names=[name], timeout_ms=30_000))


def describe_broker(node_id: int, names: Sequence[str]) -> bytes:
    """For the settings of a broker that have these names."""
    version = DESCRIBE_CONFIGS_VERSION
    resource = codec.DescribeConfigsRequest.DescribeConfigsResource(
        version=version, resource_type=BROKER_RESOURCE, resource_name=str(node_id), configuration_keys=list(names)
    )
    return _framed(codec.DescribeConfigsRequest(version=version, resources=[resource], include_synonyms=False))


def decoded(response: str, version: int, answer: bytes) -> Any:
    """The library's message for a whole answer. Raises ConnectionError where it does not parse."""
    try:
        return getattr(codec, response).decode(answer[4:], version=version, header=True)
    except (struct.error, IndexError, ValueError, AssertionError):
        raise ConnectionError(NOT_KAFKA) from None


def _framed(request: object, client_id: str = CLIENT_ID) -> bytes:
    request.with_header(correlation_id=CORRELATION_ID, client_id=client_id)  # type: ignore[attr-defined]
    return bytes(request.encode(header=True, framed=True))  # type: ignore[attr-defined]
