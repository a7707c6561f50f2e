"""A client on a connection to a broker with data directories, all in one event loop; replicas move when a test says."""

import struct
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any

import trio
from trio.testing import memory_stream_pair, wait_all_tasks_blocked

from totalog.gateway.broker import Broker
from totalog.gateway.connection import Connection, Disconnected, Service
from totalog.gateway.limits import Limits
from totalog.gateway.start import service
from totalog.gateway.tests import batches
from totalog.gateway.tests.harness import NOW_MS, build, encode_request
from totalog.gateway.tests.peers import MemoryTransport, receive_exactly
from totalog.gateway.tests.replicas import ReplicaLog, durable_broker
from totalog.gateway.wire import codec


def batch(count: int = 1, size: int = 100, **options: Any) -> bytes:
    return batches.build([(NOW_MS, None, bytes([n % 251]) * size, []) for n in range(count)], **options)


class Client:
    """Sends requests and reads answers, each as it likes."""

    def __init__(self, service: Service) -> None:
        self.stream, ours = memory_stream_pair()
        self.connection = Connection(service, MemoryTransport(ours))
        self._asked: list[tuple[str, int]] = []
        self.gone = False

    async def run(self) -> None:
        try:
            await self.connection.run()
        except Disconnected:
            self.gone = True
        await self.connection.transport._stream.aclose()  # type: ignore[attr-defined]

    def asked(self, name: str, version: int) -> None:
        """A request of the kind was sent, whose answer comes next."""
        self._asked.append((name, version))

    async def send(self, name: str, version: int, **fields: Any) -> None:
        message = build(getattr(codec, f"{name}Request"), version, fields)
        frame = encode_request(message)
        self.asked(name, version)
        await self.stream.send_all(struct.pack(">i", len(frame)) + frame)
        await wait_all_tasks_blocked()

    async def produce(self, *parts: tuple[str, int, bytes], acks: int = -1, timeout_ms: int = 30_000) -> None:
        """Each part: topic, partition, batch."""
        topics: dict[str, list[dict[str, Any]]] = {}
        for topic, partition, records in parts:
            topics.setdefault(topic, []).append({"index": partition, "records": records})
        await self.send(
            "Produce",
            9,
            transactional_id=None,
            acks=acks,
            timeout_ms=timeout_ms,
            topic_data=[{"name": name, "partition_data": data} for name, data in topics.items()],
        )

    async def fetch(
        self, topic: str, offset: int, *, wait_ms: int = 0, partition: int = 0, most: int = 1 << 20
    ) -> None:
        part = {
            "partition": partition,
            "current_leader_epoch": -1,
            "fetch_offset": offset,
            "log_start_offset": -1,
            "partition_max_bytes": most,
        }
        await self.send(
            "Fetch",
            11,
            replica_id=-1,
            max_wait_ms=wait_ms,
            min_bytes=1,
            max_bytes=most,
            isolation_level=0,
            session_id=0,
            session_epoch=-1,
            topics=[{"topic": topic, "partitions": [part]}],
            forgotten_topics_data=[],
            rack_id="",
        )

    async def list_offset(self, topic: str, timestamp: int = -1, partition: int = 0) -> None:
        part = {"partition_index": partition, "current_leader_epoch": -1, "timestamp": timestamp}
        topics = [{"name": topic, "partitions": [part]}]
        await self.send("ListOffsets", 7, replica_id=-1, isolation_level=0, topics=topics)

    async def answer(self) -> Any:
        """The next answer, once it comes."""
        name, version = self._asked.pop(0)
        (size,) = struct.unpack(">i", await receive_exactly(self.stream, 4))
        frame = await receive_exactly(self.stream, size)
        return getattr(codec, f"{name}Response").decode(frame, version=version, header=True)

    async def answered(self) -> bool:
        """Whether an answer is there."""
        await wait_all_tasks_blocked()
        sends = self.connection.transport.sends  # type: ignore[attr-defined]
        told, sends[:] = bool(sends), []
        return told

    async def produced(self) -> list[tuple[int, int]]:
        """Error code and base offset of each partition in the next answer, which is one to Produce."""
        answer = await self.answer()
        self.connection.transport.sends.clear()  # type: ignore[attr-defined]
        return [(part.error_code, part.base_offset) for topic in answer.responses for part in topic.partition_responses]


class World:
    def __init__(self, broker: Broker, log: ReplicaLog, nursery: trio.Nursery) -> None:
        self.broker, self.log = broker, log
        self.service = service(broker, Limits())
        self._nursery = nursery

    def connect(self) -> Client:
        client = Client(self.service)
        self._nursery.start_soon(client.run)
        return client

    async def store(self, directory: int = 0, position: int | None = None) -> None:
        self.log.store(directory, position)
        await self.moved()

    async def fail(self, directory: int = 0, failure: str | None = "Input/output error") -> None:
        self.log.fail(directory, failure)
        await self.moved()

    async def moved(self) -> None:
        self.broker.replication.moved()
        await wait_all_tasks_blocked()

    def create(self, name: str, partitions: int = 1, replication: int = 1, **config: Any) -> None:
        """A topic, stored already."""
        own = {key.replace("__", "."): str(value) for key, value in config.items()}
        self.broker.topics.create(name, partitions=partitions, replication=replication, config=own)
        for directory, replica in enumerate(self.log.replicas()):
            if replica.failure is None:
                self.log.store(directory)
        self.broker.replication.moved()


@asynccontextmanager
async def world(directories: int = 1, settings: Mapping[str, str] | None = None) -> AsyncIterator[World]:
    broker, log = durable_broker(directories, settings)
    try:
        async with trio.open_nursery() as nursery:
            yield World(broker, log, nursery)
            assert broker.replication.waiting() == 0, "somebody still waits for a frontier"
            nursery.cancel_scope.cancel()
        assert broker.unsent.size == 0
    finally:
        log.close()
