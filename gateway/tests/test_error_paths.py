"""Every error that the broker can answer is answered here: for each module that names errors, a case asks for all of
them. A line of the module that names an error and does not run, or a code that no answer brings, fails the test of the
module; so does a module that names errors and has no case.
"""

import ast
import importlib
import random
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FrameType
from typing import Any
from uuid import UUID, uuid4

import pytest

from totalog.engine import EngineError, LimitReached, OutOfMemory, Read, TopicExists
from totalog.gateway import apis, waiting
from totalog.gateway.apis import alter_configs as alterations
from totalog.gateway.apis import create_topics as creations
from totalog.gateway.apis import offset_commit as commits
from totalog.gateway.apis import produce_opened as opening
from totalog.gateway.broker import AppendFailed
from totalog.gateway.coordinators import groups as coordinator
from totalog.gateway.coordinators import offsets
from totalog.gateway.lane import finish
from totalog.gateway.tests import batches
from totalog.gateway.tests.asked import GONE, Asked, good
from totalog.gateway.tests.group_world import World
from totalog.gateway.tests.harness import NOW_MS, build, encode_request, make_request, parse_request
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
        config("nowhere"),
        config("orders.total-order"),
        config(INTERNAL),
    ]
    ask("AlterConfigs", 1, validate_only=False, resources=resources)
    fixed = [config("0", {"retention.ms": "1"}, kind=4), config("g", kind=32)]
    answer = ask("AlterConfigs", 1, validate_only=False, resources=fixed)
    assert [result.error_code for result in answer.responses] == [ErrorCode.INVALID_REQUEST] * 2
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


@case("apis.alter_partition_reassignments")
def alter_partition_reassignments(ask: Asked) -> None:
    parts = [{"partition_index": index, "replicas": replicas} for index, replicas in ((0, [7]), (1, None), (9, [0]))]
    topics = [{"name": "orders", "partitions": parts}, {"name": "nowhere", "partitions": parts[:1]}]
    ask("AlterPartitionReassignments", 1, topics=topics, timeout_ms=100)


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


@case("apis.describe_acls")
def describe_acls(ask: Asked) -> None:
    any_rule = {"resource_type_filter": 1, "operation": 1, "permission_type": 1}
    rule = {"resource_type": 2, "resource_name": "orders", "principal": "User:me", "host": "*"}
    described = ask("DescribeAcls", 3, **any_rule)
    created = ask("CreateAcls", 3, creations=[{**rule, "operation": 3, "permission_type": 3}])
    deleted = ask("DeleteAcls", 3, filters=[any_rule])
    rows = (described, *created.results, *deleted.filter_results)
    assert [row.error_code for row in rows] == [ErrorCode.SECURITY_DISABLED] * 3


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


@case("apis.describe_client_quotas")
def describe_client_quotas(ask: Asked) -> None:
    def look(*components: tuple[str, int, str | None]) -> str:
        asked = [{"entity_type": entity, "match_type": kind, "match": match} for entity, kind, match in components]
        answer = ask("DescribeClientQuotas", 1, components=asked, strict=False)
        assert answer.entries is None
        return str(answer.error_message)

    matched, default, everyone = ("user", 0, "me"), ("user", 1, None), ("user", 2, None)
    assert look(("", 2, None)) == "an entity type is empty"
    assert look(("topic", 2, None)) == "there is no entity type topic"
    assert look(matched, default) == "entity type user stands twice in the request"
    assert look(("user", 3, None)) == "there is no match type 3"
    for bad in (("user", 0, None), ("user", 1, "me"), ("user", 2, "me")):
        assert look(bad) == "a name is matched exactly, and nothing else has a name"
    assert look(everyone, ("ip", 2, None)) == "an ip has no user and no client id"


@case("apis.describe_cluster")
def describe_cluster(ask: Asked) -> None:
    for endpoint_type in (2, 9):
        ask("DescribeCluster", 1, endpoint_type=endpoint_type)


@case("apis.describe_configs")
def describe_configs(ask: Asked) -> None:
    resources = [
        {"resource_type": kind, "resource_name": name, "configuration_keys": None}
        for kind, name in ((2, "nowhere"), (4, "7"), (8, "x"), (16, ""), (32, ""))
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


@case("apis.describe_user_scram_credentials")
def describe_user_scram_credentials(ask: Asked) -> None:
    def look(*users: str) -> list[int]:
        answer = ask("DescribeUserScramCredentials", 0, users=[{"name": user} for user in users])
        return [result.error_code for result in answer.results]

    assert look("me", "you", "me") == [ErrorCode.DUPLICATE_RESOURCE, ErrorCode.RESOURCE_NOT_FOUND]
    with ask.few():
        assert look("me", "you") == [ErrorCode.INVALID_REQUEST] * 2


@case("apis.elect_leaders")
def elect_leaders(ask: Asked) -> None:
    def elect(election_type: int) -> list[int]:
        asked = [{"topic": "orders", "partitions": [0, 9]}, {"topic": "nowhere", "partitions": [0]}]
        answer = ask("ElectLeaders", 2, election_type=election_type, topic_partitions=asked, timeout_ms=100)
        parts = [part for topic in answer.replica_election_results for part in topic.partition_result]
        return [answer.error_code, *(part.error_code for part in parts)]

    unknown = ErrorCode.UNKNOWN_TOPIC_OR_PARTITION
    assert elect(0) == [ErrorCode.NONE, ErrorCode.ELECTION_NOT_NEEDED, unknown, unknown]
    assert elect(2) == [ErrorCode.INVALID_REQUEST] * 4, "of all, and of each"


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


@case("apis.list_config_resources")
def list_config_resources(ask: Asked) -> None:
    ask("ListConfigResources", 1, resource_types=[2, 7])


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


@case("apis.offset_delete")
def offset_delete(ask: Asked) -> None:
    def delete(*topics: str, group_id: str = "g", partition: int = 0) -> list[int]:
        asked = [{"name": topic, "partitions": [{"partition_index": partition}]} for topic in topics]
        answer = ask("OffsetDelete", 0, group_id=group_id, topics=asked)
        return [part.error_code for topic in answer.topics for part in topic.partitions] or [answer.error_code]

    def reads(topic: str) -> dict[str, Any]:
        """A member of `g`."""
        metadata = bytes(codec.ConsumerProtocolSubscription(version=3, topics=[topic]).encode())
        answer = ask(
            "JoinGroup",
            3,
            group_id="g",
            session_timeout_ms=10_000,
            rebalance_timeout_ms=10_000,
            member_id="",
            protocol_type="consumer",
            protocols=[{"name": "range", "metadata": metadata}],
        )
        return {"member_id": answer.member_id, "generation_id_or_member_epoch": answer.generation_id}

    assert delete("orders", group_id="") == [ErrorCode.INVALID_GROUP_ID]
    reads("orders")
    unknown = ErrorCode.UNKNOWN_TOPIC_OR_PARTITION
    assert delete("orders", "nowhere") == [ErrorCode.GROUP_SUBSCRIBED_TO_TOPIC, unknown]
    assert delete("orders", partition=9) == [unknown]
    ask.make_unreadable()
    assert delete("orders") == [ErrorCode.COORDINATOR_NOT_AVAILABLE], "no disk gives what is committed"
    ask.log.disk_fault = None
    assert delete("orders") == [ErrorCode.COORDINATOR_NOT_AVAILABLE], "it is not stored in time"


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
    world.join(group_id="connect", type="connect")
    deletable = [world.groups.check_delete_offsets(group_id) for group_id in ("nobody", "connect")]
    assert deletable == [ErrorCode.GROUP_ID_NOT_FOUND, ErrorCode.NON_EMPTY_GROUP]
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
