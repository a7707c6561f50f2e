"""One small request at a time: microseconds per Produce of a 100-byte record and per Fetch of it, on one connection.

The peer in the same run is the machine's limit for a round trip: a thread-free echo process that answers each request
with as many bytes as the gateway does.
"""

import socket
import struct
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager

from kafka.protocol.admin import CreateTopicsRequest
from kafka.protocol.consumer import FetchRequest
from kafka.protocol.producer import ProduceRequest
from kafka.record.memory_records import MemoryRecordsBuilder

from compat_tests.bench import stats
from totalog.gateway.testing import broker

ROUNDS = 5
REQUESTS = 2000
TOPIC = "small"
ECHO = """
import socket, struct, sys
listener = socket.create_server(("127.0.0.1", 0))
print(listener.getsockname()[1], flush=True)
peer, _ = listener.accept()
peer.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
while True:
    request = peer.recv(65536)
    if not request:
        break
    (size,) = struct.unpack_from(">i", request, 4)
    peer.sendall(struct.pack(">i", size - 4) + bytes(size - 4))
"""


def run() -> tuple[list[stats.Summary], dict[str, list[float]]]:
    """Rows in microseconds, interleaved: echo, produce, fetch, echo, ..."""
    series: dict[str, list[float]] = {"echo": [], "produce acks=1": [], "fetch": []}
    with broker() as kafka, _echo() as echo, socket.create_connection((kafka.host, kafka.port)) as gateway:
        gateway.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        _ask(gateway, _create_topic())
        produce, fetch = _produce(), _fetch()
        answer_size = len(_ask(gateway, produce))
        nothing = struct.pack(">ii", 0, answer_size) + bytes(len(produce) - 8)
        for _ in range(ROUNDS):
            series["echo"] += stats.measure(lambda: _ask(echo, nothing), iterations=REQUESTS)
            series["produce acks=1"] += stats.measure(lambda: _ask(gateway, produce), iterations=REQUESTS)
            series["fetch"] += stats.measure(lambda: _ask(gateway, fetch), iterations=REQUESTS)
    rows = [stats.summarize(name, values, unit="us") for name, values in series.items()]
    base = rows[0].median
    rows += [stats.summarize(f"{row.name} / echo (medians)", [row.median / base], unit="ratio") for row in rows[1:3]]
    return rows, series


def _ask(connection: socket.socket, request: bytes) -> bytes:
    connection.sendall(request)
    answer = connection.recv(65536)
    while len(answer) < 4 or len(answer) < 4 + struct.unpack_from(">i", answer)[0]:
        more = connection.recv(65536)
        if not more:
            raise ConnectionError("the broker closed the connection")
        answer += more
    return answer


@contextmanager
def _echo() -> Iterator[socket.socket]:
    with subprocess.Popen([sys.executable, "-c", ECHO], stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        with socket.create_connection(("127.0.0.1", int(process.stdout.readline()))) as connection:
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            yield connection


def _framed(request: object, correlation_id: int = 1) -> bytes:
    request.with_header(correlation_id=correlation_id, client_id="bench")  # type: ignore[attr-defined]
    return bytes(request.encode(header=True, framed=True))  # type: ignore[attr-defined]


def _create_topic() -> bytes:
    topic = CreateTopicsRequest.CreatableTopic(
        version=4, name=TOPIC, num_partitions=1, replication_factor=1, assignments=[], configs=[]
    )
    return _framed(CreateTopicsRequest(version=4, topics=[topic], timeout_ms=5000, validate_only=False))


def _records() -> bytes:
    builder = MemoryRecordsBuilder(magic=2, compression_type=0, batch_size=0)
    builder.append(timestamp=1, key=None, value=bytes(100))
    builder.close()
    return bytes(builder.buffer())


def _produce() -> bytes:
    partition = ProduceRequest.TopicProduceData.PartitionProduceData(version=8, index=0, records=_records())
    topic = ProduceRequest.TopicProduceData(version=8, name=TOPIC, partition_data=[partition])
    return _framed(ProduceRequest(version=8, transactional_id=None, acks=1, timeout_ms=5000, topic_data=[topic]))


def _fetch() -> bytes:
    partition = FetchRequest.FetchTopic.FetchPartition(
        version=11, partition=0, current_leader_epoch=-1, fetch_offset=0, log_start_offset=-1, partition_max_bytes=100
    )
    topic = FetchRequest.FetchTopic(version=11, topic=TOPIC, partitions=[partition])
    return _framed(
        FetchRequest(
            version=11,
            replica_id=-1,
            max_wait_ms=500,
            min_bytes=1,
            max_bytes=100,
            isolation_level=0,
            session_id=0,
            session_epoch=-1,
            topics=[topic],
            forgotten_topics_data=[],
            rack_id="",
        )
    )
