"""Every error that the broker can answer is answered here: for each module that names errors, a case asks for all of
them. A line of the module that names an error and does not run, or a code that no answer brings, fails the test of the
module; so does a module that names errors and has no case.
"""

import ast
import importlib
import random
import re
import struct
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from inspect import isawaitable
from pathlib import Path
from types import FrameType
from typing import Any
from uuid import UUID, uuid4

import pytest
import trio
from trio.testing import MockClock

from totalog.engine import EngineError, LimitReached, Log, OutOfMemory, Read, TopicExists, UnknownTopic
from totalog.gateway import apis, waiting
from totalog.gateway import broker as broker_module
from totalog.gateway.apis import alter_configs as alterations
from totalog.gateway.apis import create_topics as creations
from totalog.gateway.apis import named
from totalog.gateway.apis import offset_commit as commits
from totalog.gateway.apis import produce_opened as opening
from totalog.gateway.broker import AppendFailed, Broker
from totalog.gateway.connection import Connection
from totalog.gateway.coordinators import groups as coordinator
from totalog.gateway.coordinators import offsets
from totalog.gateway.coordinators.offset_records import Commit
from totalog.gateway.lane import finish
from totalog.gateway.limits import Limits
from totalog.gateway.outbox import Owed
from totalog.gateway.start import service
from totalog.gateway.tests import batches
from totalog.gateway.tests.group_world import World
from totalog.gateway.tests.harness import (
    NOW_MS,
    REGION_SIZE,
    build,
    encode_request,
    make_broker,
    make_request,
    parse_request,
)
from totalog.gateway.tests.peers import Script
from totalog.gateway.tests.replicas import ReplicaLog
from totalog.gateway.topics import TopicHandle
from totalog.gateway.wire import codec, compression
from totalog.gateway.wire._batch import lib
from totalog.gateway.wire.errors import ErrorCode

GATEWAY = Path(apis.__file__).parent.parent
INTERNAL = "__totalog_state"
GZIP = 1


# What is in the sources


class Names(ast.NodeVisitor):
    """The errors that functions of a module name, by line."""

    def __init__(self) -> None:
        self.lines: dict[int, set[str]] = {}
        self.all: set[str] = set()
        """Without those that are only compared with."""
        self._depth = self._compared = 0

    def visit_FunctionDef(self, node: ast.AST) -> None:
        self._depth += 1
        self.generic_visit(node)
        self._depth -= 1

    visit_AsyncFunctionDef = visit_FunctionDef

    def visit_Compare(self, node: ast.Compare) -> None:
        self._compared += 1
        self.generic_visit(node)
        self._compared -= 1

    def visit_Attribute(self, node: ast.Attribute) -> None:
        if isinstance(node.value, ast.Name) and node.value.id == "ErrorCode" and node.attr != "NONE":
            if not self._compared:
                self.all.add(node.attr)
            if self._depth:
                self.lines.setdefault(node.lineno, set()).add(node.attr)
        self.generic_visit(node)


def names_of(path: Path) -> Names:
    names = Names()
    names.visit(ast.parse(path.read_text()))
    return names


def named_modules() -> dict[str, Names]:
    """The modules that name errors in functions, by their names below totalog.gateway."""
    found = {}
    for path in sorted(GATEWAY.rglob("*.py")):
        inner = path.relative_to(GATEWAY)
        if inner.parts[0] not in ("tests", "wire", "bench"):
            names = names_of(path)
            if names.lines:
                found[".".join(inner.with_suffix("").parts)] = names
    return found


NAMED = named_modules()


class Trace:
    """The lines of one file that run meanwhile."""

    def __init__(self, path: str) -> None:
        self._path = path
        self.lines: set[int] = set()

    def __enter__(self) -> "Trace":
        self._before = sys.gettrace()
        sys.settrace(self._called)
        return self

    def __exit__(self, *_: object) -> None:
        sys.settrace(self._before)

    def _called(self, frame: FrameType, event: str, argument: object) -> Any:
        return self._ran if frame.f_code.co_filename == self._path else None

    def _ran(self, frame: FrameType, event: str, argument: object) -> Any:
        self.lines.add(frame.f_lineno)
        return self._ran


# Asking


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


# The cases, one for each module

Case = Callable[[Asked], None]
CASES: dict[str, Case] = {}


def case(module: str) -> Callable[[Case], Case]:
    def add(function: Case) -> Case:
        CASES[module] = function
        return function

    return add


def config(name: str, configs: dict[str, str | None] | None = None, kind: int = 2) -> dict[str, Any]:
    return {
        "resource_type": kind,
        "resource_name": name,
        "configs": [{"name": name, "value": value} for name, value in (configs or {}).items()],
    }


@case("apis.alter_configs")
def alter_configs(ask: Asked) -> None:
    twice = config("orders", {"retention.ms": "1"})
    twice["configs"] *= 2
    ask.broker.topics.create("prices", partitions=1)
    resources = [
        twice,
        *[config("prices")] * 2,
        config("0", kind=4),
        config("nowhere"),
        config("orders.total-order"),
        config(INTERNAL),
    ]
    ask("AlterConfigs", 1, validate_only=False, resources=resources)
    bads: list[dict[str, str | None]] = [
        {"retention.ms": None},
        {"no.such": "1"},
        {"retention.ms": "many"},
        {"totalog.storage": "memory"},
    ]
    for bad in bads:
        ask("AlterConfigs", 1, validate_only=False, resources=[config("orders", bad)])
    with ask.few(alterations, "CONFIGS_MAX"):
        many = config("orders", {"retention.ms": "1", "retention.bytes": "1"})
        ask("AlterConfigs", 1, validate_only=False, resources=[many])


@case("apis.incremental_alter_configs")
def incremental_alter_configs(ask: Asked) -> None:
    asked = config("orders", {"retention.ms": "1"})
    asked["configs"][0]["config_operation"] = 9
    ask("IncrementalAlterConfigs", 1, validate_only=False, resources=[asked])


@case("apis.api_versions")
def api_versions(ask: Asked) -> None:
    ask.take("ApiVersionsResponse", 0, ask.dispatched(make_request(18, 9, b"")))
    refused = ask.dispatched(
        parse_request(encode_request(build(codec.ApiVersionsRequest, 3, {"client_software_name": ""})))
    )
    # The library reads the layout of version 0 whenever there is an error.
    ask.codes.add(int.from_bytes(refused[8:10], "big"))


@case("apis.create_partitions")
def create_partitions(ask: Asked) -> None:
    def ask_for(*topics: tuple[str, int], assignments: Any = None) -> None:
        asked = [{"name": name, "count": count, "assignments": assignments} for name, count in topics]
        ask("CreatePartitions", 1, topics=asked, timeout_ms=100, validate_only=False)

    ask_for(("nowhere", 4), ("orders.total-order", 4), (INTERNAL, 4), ("orders", 3))
    ask_for(("orders", 4), ("orders", 5))
    ask_for(("orders", 5), assignments=[{"broker_ids": [0]}])


@case("apis.create_topics")
def create_topics(ask: Asked) -> None:
    twice = {"name": "a", "num_partitions": 1, "replication_factor": 1, "assignments": [], "configs": []}
    ask("CreateTopics", 5, topics=[twice, twice], timeout_ms=100, validate_only=False)
    here, elsewhere = {"partition_index": 0, "broker_ids": [0]}, {"partition_index": 0, "broker_ids": [7]}
    ask.create("a", assignments=[here])
    apart = {**here, "partition_index": 5}
    for assignments in ([apart], [elsewhere]):
        ask.create("a", num_partitions=-1, replication_factor=-1, assignments=assignments)
    ask.create("a", num_partitions=0)
    ask.create("a", replication_factor=0)
    for name, value in (("retention.ms", None), ("no.such", "1"), ("totalog.order.level", "3")):
        ask.create("a", configs=[{"name": name, "value": value}])
    with ask.few(creations, "CONFIGS_MAX"):
        ask.create("a", configs=[{"name": "retention.ms", "value": "1"}] * 2)
    ask.make(totalog_replication_strict="true")
    ask.create("a", replication_factor=3)


@case("apis.delete_groups")
def delete_groups(ask: Asked) -> None:
    ask.make_unreadable()
    ask("DeleteGroups", 2, groups_names=["g"])
    ask.log.disk_fault = None
    answer = ask("DeleteGroups", 2, groups_names=["g"])
    assert answer.results[0].error_code == ErrorCode.COORDINATOR_NOT_AVAILABLE, "it is not stored in time"
    with ask.few():
        ask("DeleteGroups", 2, groups_names=["g", "h"])


@case("apis.delete_records")
def delete_records(ask: Asked) -> None:
    def delete(topic: str, offset: int = 0) -> None:
        parts = [{"partition_index": 0, "offset": offset}]
        ask("DeleteRecords", 1, topics=[{"name": topic, "partitions": parts}], timeout_ms=100)

    ask.broker.topics.create("compacted", partitions=1, config={"cleanup.policy": "compact"})
    for topic, offset in (("nowhere", 0), (INTERNAL, 0), ("orders.total-order", 0), ("compacted", 0), ("orders", 9)):
        delete(topic, offset)
    ask.failing("bounds", GONE)
    delete("orders")


@case("apis.delete_topics")
def delete_topics(ask: Asked) -> None:
    def delete(*topics: tuple[str | None, Any]) -> None:
        asked = [{"name": name, "topic_id": topic_id} for name, topic_id in topics]
        ask("DeleteTopics", 6, topics=asked, timeout_ms=100)

    delete(("orders", uuid4()), ("nowhere", None), (None, uuid4()), ("orders.total-order", None), (INTERNAL, None))
    delete(("orders", None), ("orders", None))
    ask.make(delete_topic_enable="false")
    for version in (2, 3):
        ask("DeleteTopics", version, topic_names=["orders"], timeout_ms=100)


@case("apis.describe_cluster")
def describe_cluster(ask: Asked) -> None:
    for endpoint_type in (2, 9):
        ask("DescribeCluster", 1, endpoint_type=endpoint_type)


@case("apis.describe_configs")
def describe_configs(ask: Asked) -> None:
    resources = [
        {"resource_type": kind, "resource_name": name, "configuration_keys": None}
        for kind, name in ((2, "nowhere"), (4, "7"), (8, "x"))
    ]
    ask("DescribeConfigs", 1, resources=resources, include_synonyms=False)


@case("apis.describe_groups")
def describe_groups(ask: Asked) -> None:
    ask("DescribeGroups", 6, groups=["nobody"])
    with ask.few():
        ask("DescribeGroups", 6, groups=["g", "h"])
    ask.make_unreadable()
    ask("DescribeGroups", 6, groups=["g"])


@case("apis.describe_log_dirs")
def describe_log_dirs(ask: Asked) -> None:
    ask.make(directories=1)
    ask.fail()
    ask("DescribeLogDirs", 4, topics=None)


@case("apis.fetch")
def fetch(ask: Asked) -> None:
    ask.fetch("orders", session_epoch=5)


@case("apis.fetch_answers")
def fetch_answers(ask: Asked) -> None:
    ask.fetch("nowhere")
    ask.fetch(uuid4(), version=13)
    ask.fetch("orders", partition=9)
    ask.fetch("orders", fetch_offset=9)
    ask.produce(good())
    read = ask.broker.log.read
    for status, code in (
        (lib.STATUS_UNKNOWN_TOPIC, ErrorCode.UNKNOWN_TOPIC_OR_PARTITION),
        (lib.STATUS_OFFSET_OUT_OF_RANGE, ErrorCode.OFFSET_OUT_OF_RANGE),
    ):
        lost = Read(status, 0, 0, 0, -1, -1)
        ask.patch.setattr(ask.broker.log, "read", lambda *_, lost=lost, **__: lost)
        (part,) = ask.fetch("orders").responses[0].partitions
        assert (part.error_code, part.high_watermark) == (code, -1), "what was deleted between the look and the copy"
    ask.patch.setattr(ask.broker.log, "read", read)
    ask.at_epoch_5()
    for epoch in (4, 6):
        ask.fetch("orders", current_leader_epoch=epoch)
    evicted(ask)
    ask.fetch("orders")


def evicted(ask: Asked) -> None:
    """Another broker, whose one record is on a disk that gives nothing."""
    broker = ask.make(directories=1)
    ask.produce(good())
    ask.store()
    handle = broker.topics.find("orders")
    assert handle is not None
    ask.log.evict(handle.topic, 0, 1)
    ask.log.disk_fault = EngineError("input/output error")


@case("apis.find_coordinator")
def find_coordinator(ask: Asked) -> None:
    for key_type in (1, 2, 9):
        ask("FindCoordinator", 4, key_type=key_type, coordinator_keys=["k"])


@case("apis.init_producer_id")
def init_producer_id(ask: Asked) -> None:
    for transactional_id in ("", "t"):
        ask("InitProducerId", 4, transactional_id=transactional_id, transaction_timeout_ms=0)


@case("apis.leave_group")
def leave_group(ask: Asked) -> None:
    ask("LeaveGroup", 5, group_id="", members=[])


@case("apis.list_groups")
def list_groups(ask: Asked) -> None:
    ask.make_unreadable()
    ask("ListGroups", 5)


@case("apis.list_offsets")
def list_offsets(ask: Asked) -> None:
    ask.list_offsets(-1, topic="nowhere")
    ask.list_offsets(-9)
    parts = [{"partition_index": 0, "current_leader_epoch": -1, "timestamp": -1}] * 2
    ask("ListOffsets", 7, topics=[{"name": "orders", "partitions": parts}])
    again = ask.failing("bounds", GONE)
    for timestamp in (-1, -2):
        ask.list_offsets(timestamp)
    again()
    ask.at_epoch_5()
    for epoch in (4, 6):
        ask.list_offsets(-1, epoch=epoch)
    ask.make(directories=1)
    ask.produce(good())
    ask.list_offsets(-1)
    evicted(ask)
    ask.list_offsets(0)


@case("apis.metadata")
def metadata(ask: Asked) -> None:
    def look(version: int = 12, may_create: bool = False, **topic: Any) -> Any:
        named = {"topic_id": None, "name": None} | topic
        return ask("Metadata", version, topics=[named], allow_auto_topic_creation=may_create).topics[0].error_code

    look(topic_id=uuid4())
    look(name="nowhere.total-order")
    look(name="nowhere")
    with ask.few():
        ask("Metadata", 9, topics=[{"name": "a"}, {"name": "b"}])
    find_id, handle = ask.broker.topics.find_id, ask.broker.topics.find("orders")
    assert handle is not None
    found: Iterator[TopicHandle | None] = iter((None, handle, None))
    ask.patch.setattr(ask.broker.topics, "find_id", lambda _: next(found))
    assert look(name="orders") == ErrorCode.UNKNOWN_TOPIC_OR_PARTITION, "deleted before its entry was complete"
    assert look(topic_id=uuid4()) == ErrorCode.UNKNOWN_TOPIC_ID
    ask.patch.setattr(ask.broker.topics, "find_id", find_id)
    ask.make(directories=1)
    assert look(name="new", may_create=True) == ErrorCode.LEADER_NOT_AVAILABLE, "it is not stored in time"
    ask.fail()
    assert look(name="newer", may_create=True) == ErrorCode.LEADER_NOT_AVAILABLE


@case("apis.named")
def names(ask: Asked) -> None:
    asked = [{"name": name, "count": 4, "assignments": None} for name in ("orders", "orders", "prices")]
    twice = ask("CreatePartitions", 1, topics=asked, timeout_ms=100, validate_only=False).results[0].error_message
    with ask.few():
        many = ask("CreatePartitions", 1, topics=asked, timeout_ms=100, validate_only=False).results
    assert twice == "topic orders stands twice in the request"
    assert [row.error_message for row in many] == ["more than 1 are named"] * 3


@case("apis.offset_commit")
def offset_commit(ask: Asked) -> None:
    ask.commit(topic="nowhere")
    ask.commit(version=10, topic=uuid4())
    ask.commit(text="x" * 5000)
    for version in (8, 9):
        ask.commit(version=version, group_id="nobody", member_id="m", generation_id_or_member_epoch=1)
    ask.patch.setattr(commits, "TEXT_SIZE_MAX", 1)
    ask.commit()
    ask.patch.undo()
    ask.patch.setattr(offsets, "COMMITS_SIZE_MAX", 1)
    ask.commit()
    ask.patch.undo()
    ask.make(directories=1)
    ask.commit()
    ask.fail()
    ask.commit()
    ask.make_unreadable()
    ask.commit(member_id="m", generation_id_or_member_epoch=1)


@case("apis.offset_fetch")
def offset_fetch(ask: Asked) -> None:
    unknown = [{"topic_id": uuid4(), "partition_indexes": [0]}]
    ask("OffsetFetch", 10, groups=[{"group_id": "g", "topics": unknown}])
    with ask.few():
        ask("OffsetFetch", 9, groups=[{"group_id": "g", "topics": None}, {"group_id": "h", "topics": None}])
    ask.make_unreadable()
    ask("OffsetFetch", 9, groups=[{"group_id": "g", "topics": None}])
    ask("OffsetFetch", 7, group_id="g", topics=None)
    answer = ask("OffsetFetch", 1, group_id="g", topics=[{"name": "orders", "partition_indexes": [0, 1]}])
    codes = [partition.error_code for partition in answer.topics[0].partitions]
    assert codes == [ErrorCode.COORDINATOR_NOT_AVAILABLE] * 2


@case("apis.offset_for_leader_epoch")
def offset_for_leader_epoch(ask: Asked) -> None:
    ask.epoch_end("nowhere")
    again = ask.failing("bounds", GONE)
    ask.epoch_end()
    again()
    ask.at_epoch_5()
    for current in (4, 6):
        ask.epoch_end(current=current)
    evicted(ask)
    ask.at_epoch_5()
    ask.epoch_end(epoch=3)
    ask.log.disk_fault = None
    assert ask.epoch_end(epoch=3).topics[0].partitions[0].end_offset == 1


@case("apis.produce")
def produce(ask: Asked) -> None:
    create = ask.broker.topics.create
    create("dated", partitions=1, config={"message.timestamp.before.max.ms": "1000"})
    create("keyed", partitions=1, config={"cleanup.policy": "compact"})
    create("stamped", partitions=1, config={"message.timestamp.type": "LogAppendTime"})
    for topic in ("nowhere", "orders.total-order", INTERNAL):
        ask.produce(good(), topic=topic)
    ask.produce(good(), topic=uuid4(), version=13)
    ask.produce(None)
    ask.produce(good(), acks=2)
    ask.produce(good(), transactional_id="t")
    ask.produce(batches.changed(good(), attributes=0x10))
    ask.produce(batches.build([(NOW_MS, b"k", b"v", [])], codec=4), version=5)
    old = batches.build([(NOW_MS - 5000, b"k", b"v", [])])
    ask.produce(old, topic="dated")
    ask.produce(batches.build([(NOW_MS + 7_200_000, b"k", b"v", [])]))
    ask.produce(batches.changed(good(), attributes=0x08))
    ask.produce(batches.changed(good(), attributes=0x08), topic="stamped")
    ask.produce(batches.build([(NOW_MS, None, b"v", [])]), topic="keyed")
    for version, name in ((9, "late"), (13, "later")):
        handle = create(name, partitions=1)
        append = ask.broker.log.append

        def delete_first(group: Any, count: int, handle: TopicHandle = handle, append: Any = append) -> None:
            ask.broker.topics.delete(handle)
            append(group, count)

        ask.patch.setattr(ask.broker.log, "append", delete_first)
        ask.produce(good(), topic=UUID(bytes=handle.id) if version >= 13 else name, version=version)
        ask.patch.setattr(ask.broker.log, "append", append)
    ask.make(directories=1)
    assert ask.produce(good(), acks=-1).responses[0].partition_responses[0].error_code == ErrorCode.REQUEST_TIMED_OUT
    ask.fail()
    ask.produce(good(), acks=-1)


@case("apis.produce_opened")
def produce_opened(ask: Asked) -> None:
    broker = ask.make(totalog_compression_validate="true")
    keyed = broker.topics.create("keyed", partitions=1, config={"cleanup.policy": "compact"})
    broker.topics.create("dated", partitions=1, config={"message.timestamp.before.max.ms": "1000"})

    async def at_once(function: Callable[[], Any]) -> Any:
        return function()

    async def altered_first(function: Callable[[], Any]) -> Any:
        broker.topics.alter(keyed, {"cleanup.policy": "delete"})
        return function()

    ask.patch.setattr(waiting, "in_opening_thread", at_once)
    noise = random.Random(1).randbytes(opening.AT_ONCE_STORED_SIZE_MAX + 1)
    ask.produce_opened(zipped(good(), b"no gzip"))
    ask.produce_opened(zipped(good(), noise))
    ask.produce_opened(zipped(good()[:-1]))
    ask.produce_opened(zipped(batches.build([(NOW_MS, None, b"v", [])])), topic="keyed")
    ask.produce_opened(zipped(batches.build([(NOW_MS - 5000, b"k", b"v", [])])), topic="dated")
    two = bytearray(batches.build([(NOW_MS, b"k", b"v", [])] * 2))
    second = batches.HEADER_SIZE + 1 + two[batches.HEADER_SIZE] // 2
    two[second + 3] = 4  # its offset delta: 2
    ask.produce_opened(zipped(bytes(two)))
    large = zipped(batches.build([(NOW_MS, b"k", bytes(opening.AT_ONCE_OPENED_SIZE_MAX), [])]))
    with ask.patch.context() as limited:
        limited.setattr(compression, "OPENED_SIZE_MAX", opening.AT_ONCE_OPENED_SIZE_MAX)
        ask.produce_opened(large)
    ask.patch.setattr(waiting, "in_opening_thread", altered_first)
    ask.produce_opened(large, topic="keyed")


def zipped(plain: bytes, stored: bytes | None = None) -> bytes:
    """The batch compressed with gzip, or as if it had been compressed to these bytes."""
    made = batches.compressed(plain, GZIP)
    return made if stored is None else batches.sealed(made[: batches.HEADER_SIZE] + stored)


@case("apis.sync_group")
def sync_group(ask: Asked) -> None:
    ask("SyncGroup", 5, group_id="g", member_id="m", generation_id=1, protocol_type=None, assignments=[])


@case("broker")
def broker(ask: Asked) -> None:
    ask.make(directories=1)
    ask.fail()
    ask("InitProducerId", 4, transactional_id=None, transaction_timeout_ms=0)


@case("replication")
def replication(ask: Asked) -> None:
    broker = ask.make(directories=1)
    ask.produce(good(), acks=-1)
    ask.list_offsets(-1)
    stored = broker.replication.stored

    async def fails(*arguments: Any) -> ErrorCode:
        ask.log.fail()
        broker.replication.moved()
        return await stored(*arguments)

    ask.patch.setattr(broker.replication, "stored", fails)
    ask.produce(good(), acks=-1)


@case("topics")
def topics(ask: Asked) -> None:
    for name in ("with space", "a.total-order", "__consumer_offsets", "orders"):
        ask.create(name)
    ask.create("or.ders")
    ask.create("or_ders")
    faults: list[Exception] = [TopicExists("a"), GONE, LimitReached("topics", 1), OutOfMemory("no room")]
    for fault in faults:
        again = ask.failing("create_topic", fault)
        ask.create("a")
        again()
    ask.patch.setattr(type(ask.broker.log), "topics_max", 1)
    ask.create("a")
    ask.patch.undo()
    ask.make(directories=1)
    ask.fail()
    ask.create("a")


def world_of(ask: Asked, **settings: str) -> World:
    """A world of groups, whose codes count as answered."""
    world = World({name.replace("_", "."): value for name, value in settings.items()})
    for name in ("join", "sync"):
        method = getattr(world.groups, name)

        def told(request: Any, reply: Any, method: Any = method) -> None:
            def answered(answer: Any) -> None:
                ask.codes.add(int(answer.code))
                reply(answer)

            method(request, answered)

        setattr(world.groups, name, told)
    return world


@case("coordinators.group")
def group(ask: Asked) -> None:
    world = world_of(ask)
    world.join(takes_member_id=True, group_id="other")
    (leader, follower), generation = world.stable(2)
    world.sync(leader, generation, type="other")
    world.sync(leader, generation, name="other")
    world.sync(leader, generation + 1)
    world.join(leader)
    world.join(leader)
    ask.codes |= {int(world.heartbeat(leader, generation)), int(world.commit(leader, generation - 1))}
    world.sync(leader, generation)
    world.join(follower)
    world.sync(follower, generation + 1)
    ask.codes.add(int(world.commit(follower, generation + 1)))
    world.sync(follower, generation + 1)
    world.join(protocols={"range": b"new"})
    waits = world.join(leader)
    world.leave(leader)
    assert waits.code is ErrorCode.UNKNOWN_MEMBER_ID
    world.join(instance_id="i")
    world.join(instance_id="i")
    world.advance(100)


@case("coordinators.groups")
def groups(ask: Asked) -> None:
    world = world_of(ask)
    world.join(group_id="")
    world.join(session_s=0.1)
    world.join("m")
    world.sync("m", 1, group_id="")
    world.sync("m", 1)
    limits = {"GROUP_SIZE_MAX": 1, "GROUPS_COUNT_MAX": 0}
    for name, value in limits.items():
        ask.patch.setattr(coordinator, name, value)
        world.join()
        ask.patch.undo()
    (member,), generation = world.stable(1)
    ask.patch.setattr(coordinator, "GROUP_SIZE_MAX", 1)
    world.sync(member, generation, {member: bytes(10)})
    ask.patch.undo()
    codes = {world.groups.heartbeat("", 1, "m", None), world.groups.heartbeat("nobody", 1, "m", None)}
    codes |= set(world.groups.leave("nobody", [("m", None)]))
    codes |= {world.groups.check_commit("nobody", 1, "m", None)}
    world.offsets.committed_ms["kept"] = 0
    codes |= {world.groups.check_commit("kept", 1, "m", None)}
    codes |= {finished(world.groups.delete("nobody")), finished(world.groups.delete("g"))}
    steps = world.groups.delete("kept")
    next(steps)
    world.join(group_id="kept")
    codes.add(finished(steps))
    world.offsets.committed_ms["full"] = 0
    world.offsets.failure = AppendFailed(ErrorCode.KAFKA_STORAGE_ERROR, offsets.TOPIC)
    codes.add(finished(world.groups.delete("full")))
    ask.codes |= set(map(int, codes))


def finished(steps: Any) -> ErrorCode:
    code: ErrorCode = finish(steps)
    return code


@case("coordinators.roster")
def roster(ask: Asked) -> None:
    world = world_of(ask, group_max_size="1")
    (member,), generation = world.stable(1, instance_id="i")
    world.sync("m", generation)
    world.sync(member, generation, instance_id="j")
    world.sync("m", generation, instance_id="i")
    world.join(protocols={})
    world.join(protocols={"other": b""})
    world.join()


# The tests


def test_every_module_that_names_errors_has_a_case() -> None:
    assert set(CASES) == set(NAMED)


@pytest.mark.parametrize("module", CASES)
def test_every_error_is_answered(module: str, monkeypatch: pytest.MonkeyPatch) -> None:
    file = importlib.import_module(f"totalog.gateway.{module}").__file__
    assert file is not None
    ask = Asked(monkeypatch)
    try:
        with Trace(file) as trace:
            CASES[module](ask)
    finally:
        ask.close()
    names = NAMED[module]
    silent = {line: codes for line, codes in names.lines.items() if line not in trace.lines}
    assert silent == {}, "lines that name errors and did not run"
    assert {ErrorCode[name] for name in names.all} - ask.codes == set(), "errors that were not answered"
