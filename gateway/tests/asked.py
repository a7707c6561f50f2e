"""A broker that is asked by a test that collects every error code it is answered."""

import re
import struct
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from inspect import isawaitable
from typing import Any

import pytest
import trio
from trio.testing import MockClock

from totalog.engine import EngineError, Log, UnknownTopic
from totalog.gateway import apis
from totalog.gateway import broker as broker_module
from totalog.gateway.apis import named
from totalog.gateway.broker import Broker
from totalog.gateway.connection import Connection
from totalog.gateway.coordinators import offsets
from totalog.gateway.coordinators.offset_records import Commit
from totalog.gateway.limits import Limits
from totalog.gateway.outbox import Owed
from totalog.gateway.start import service
from totalog.gateway.tests import batches
from totalog.gateway.tests.harness import NOW_MS, REGION_SIZE, build, encode_request, make_broker, parse_request
from totalog.gateway.tests.peers import Script
from totalog.gateway.tests.replicas import ReplicaLog
from totalog.gateway.wire import codec


class Asked:
    """What a case asks, and every error code in what it is answered."""

    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        self.patch = patch
        self.codes: set[int] = set()
        self._logs: list[Log] = []
        self.broker = self.make()

    def make(self, *, directories: int = 0, **settings: str) -> Broker:
        """Another broker, which is asked from here on, with one topic of three partitions."""
        log: Log = ReplicaLog.make(directories) if directories else Log.create(size=REGION_SIZE)
        self._logs.append(log)
        self.broker = make_broker(log, {name.replace("_", "."): value for name, value in settings.items()})
        self.broker.topics.create("orders", partitions=3)
        self.store()
        return self.broker

    def make_unreadable(self) -> None:
        """Another broker, for which what groups have committed is on a disk that gives nothing."""
        before, log = self.make(directories=1), self.log
        handle = before.topics.find("orders")
        assert handle is not None
        before.offsets.commit("g", [(handle, 0, Commit(5, -1, "", NOW_MS))])
        self.store()
        internal = before.topics.find(offsets.TOPIC)
        assert internal is not None
        log.evict(internal.topic, 0, 1)
        log.disk_fault = EngineError("input/output error")
        self.broker = make_broker(log)
        self.patch.setattr(broker_module, "READ_AGAIN_S", 0.0)  # each request has a clock of its own

    @property
    def log(self) -> ReplicaLog:
        assert isinstance(self.broker.log, ReplicaLog)
        return self.broker.log

    def store(self) -> None:
        """All that is ordered is stored."""
        if isinstance(self.broker.log, ReplicaLog):
            self.log.store()
            self.broker.replication.moved()

    def fail(self) -> None:
        """No data directory is left."""
        self.log.fail()
        self.broker.replication.moved()

    def close(self) -> None:
        for log in self._logs:
            log.close()

    def __call__(self, name: str, version: int, **fields: Any) -> Any:
        """The decoded answer; one that is owed is waited for."""
        request = parse_request(encode_request(build(getattr(codec, f"{name}Request"), version, fields)))
        return self.take(f"{name}Response", version, self.dispatched(request))

    def take(self, response: str, version: int, frame: Any) -> Any:
        answer = getattr(codec, response).decode(bytes(frame[4:]), version=version, header=True)
        self.codes |= {int(code) for code in re.findall(r"error_code=(-?\d+)", repr(answer))}
        return answer

    def dispatched(self, request: Any) -> Any:
        async def run() -> Any:
            answer: Any = apis.dispatch(self.broker, request)
            if isawaitable(answer):
                answer = await answer
            if isinstance(answer, Owed):
                await answer.wait()
                answer = answer.answer()
            return answer if isinstance(answer, bytes | bytearray) else b"".join(answer.parts)

        return trio.run(run, clock=MockClock(autojump_threshold=0))

    # Requests that several cases need

    def produce(self, *batch: bytes | None, topic: Any = "orders", version: int = 9, acks: int = 1, **more: Any) -> Any:
        named = {"topic_id": topic} if version >= 13 else {"name": topic}
        parts = [{"index": index, "records": records} for index, records in enumerate(batch)]
        topic_data = [{**named, "partition_data": parts}]
        fields = {"transactional_id": None, "acks": acks, "timeout_ms": 100, "topic_data": topic_data}
        return self("Produce", version, **fields | more)

    def produce_opened(self, batch: bytes, topic: str = "orders") -> None:
        """By a connection: what it opens, it opens before the handler."""
        topic_data = [{"name": topic, "partition_data": [{"index": 0, "records": batch}]}]
        fields = {"transactional_id": None, "acks": 1, "timeout_ms": 100, "topic_data": topic_data}
        request = encode_request(build(codec.ProduceRequest, 9, fields))
        transport = Script([struct.pack(">i", len(request)) + request])
        trio.run(Connection(service(self.broker, Limits()), transport).run, clock=MockClock(autojump_threshold=0))
        self.take("ProduceResponse", 9, transport.got)

    def fetch(self, topic: Any, version: int = 12, session_epoch: int = -1, **part: Any) -> Any:
        named = {"topic_id": topic} if version >= 13 else {"topic": topic}
        asked = {"partition": 0, "current_leader_epoch": -1, "fetch_offset": 0, "partition_max_bytes": 1000} | part
        waits = {"max_wait_ms": 0, "min_bytes": 0, "max_bytes": 1000, "session_epoch": session_epoch}
        return self("Fetch", version, topics=[{**named, "partitions": [asked]}], **waits)

    def list_offsets(self, *timestamps: int, version: int = 7, topic: str = "orders", epoch: int = -1) -> Any:
        parts = [
            {"partition_index": index, "current_leader_epoch": epoch, "timestamp": timestamp}
            for index, timestamp in enumerate(timestamps)
        ]
        return self("ListOffsets", version, topics=[{"name": topic, "partitions": parts}])

    def epoch_end(self, topic: str = "orders", current: int = -1, epoch: int = 0) -> Any:
        part = {"partition": 0, "current_leader_epoch": current, "leader_epoch": epoch}
        return self("OffsetForLeaderEpoch", 4, topics=[{"topic": topic, "partitions": [part]}])

    def commit(
        self, *, version: int = 9, topic: Any = "orders", partition: int = 0, text: str = "", **more: Any
    ) -> Any:
        named = {"topic_id": topic} if version >= 10 else {"name": topic}
        parts = [{"partition_index": partition, "committed_offset": 1, "committed_metadata": text}]
        who = {"group_id": "g", "generation_id_or_member_epoch": -1, "member_id": ""} | more
        return self("OffsetCommit", version, topics=[{**named, "partitions": parts}], **who)

    def create(self, name: str, **fields: Any) -> Any:
        topic = {"name": name, "num_partitions": 1, "replication_factor": 1, "assignments": [], "configs": []} | fields
        return self("CreateTopics", 5, topics=[topic], timeout_ms=100, validate_only=False)

    def at_epoch_5(self) -> None:
        """The epoch grows when a successor takes over: the log is told to say so."""
        bounds = self.broker.log.bounds

        def later(topic: Any, partition: int) -> Any:
            return bounds(topic, partition)._replace(leader_epoch=5)

        self.patch.setattr(self.broker.log, "bounds", later)

    @contextmanager
    def few(self, module: Any = named, name: str = "NAMES_MAX") -> Iterator[None]:
        """A request may have one name, or one of something else, meanwhile."""
        with self.patch.context() as limited:
            limited.setattr(module, name, 1)
            yield

    def failing(self, method: str, fault: Exception) -> Callable[[], None]:
        """A method of the log raises `fault` until what is returned is called."""

        def raises(*_: Any, **__: Any) -> Any:
            raise fault

        before = getattr(self.broker.log, method)
        self.patch.setattr(self.broker.log, method, raises)
        return lambda: self.patch.setattr(self.broker.log, method, before)


GONE = UnknownTopic("deleted meanwhile")


def good(**options: Any) -> bytes:
    return batches.build([(NOW_MS, b"k", b"v", [])], **options)
