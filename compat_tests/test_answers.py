"""What a broker says to requests that no stock client sends, API by API: a table, asked field by field. Expected are
the error codes that Apache Kafka 4.3.1 answers, in the order of the answer; where this broker differs on purpose,
`known_gaps` says why. Record batches have a table of their own: `test_validation`."""

import re
import uuid
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import pytest

from compat_tests.asking import Asker
from compat_tests.clients import CONFLUENT
from compat_tests.conftest import unique, wait_for_leaders
from compat_tests.raw import Peer

NONE, OUT_OF_RANGE, UNKNOWN_TOPIC, INVALID_TOPIC, METADATA_TOO_LARGE = 0, 1, 3, 17, 12
ILLEGAL_GENERATION, INCONSISTENT_PROTOCOL, INVALID_GROUP, UNKNOWN_MEMBER, SESSION_TIMEOUT = 22, 23, 24, 25, 26
UNSUPPORTED_VERSION, EXISTS, PARTITIONS, REPLICATION, ASSIGNMENT, CONFIG = 35, 36, 37, 38, 39, 40
INVALID_REQUEST, NON_EMPTY, UNKNOWN_GROUP, SESSION_ID, FENCED_EPOCH, UNKNOWN_EPOCH = 42, 68, 69, 70, 74, 75
MEMBER_ID, FENCED_INSTANCE, UNKNOWN_TOPIC_ID, MISMATCHED_ENDPOINT, UNSUPPORTED_ENDPOINT = 79, 82, 100, 114, 115
NO_AUTHORIZER = 54
LEADS_ALREADY, NOT_MOVING, SUBSCRIBED, NO_RESOURCE, RESOURCE_TWICE = 84, 85, 86, 91, 92
UNKNOWN = -1
"""UNKNOWN_SERVER_ERROR: Kafka met an exception that it did not foresee."""
NOT_YET = frozenset((14, 15, 16))
"""A fresh Apache Kafka first makes its topics for coordinators, and loads them."""

TOPIC, BROKER, CLIENT_METRICS, GROUP = 2, 4, 16, 32
NO_ISOLATION: dict[str, Any] = {"isolation_level": 5}
SET, DELETE, APPEND = range(3)


class World(NamedTuple):
    topic: str
    """Of two partitions; nothing is in it."""
    topic_id: uuid.UUID
    group: str
    """Of one member, which is stable."""
    member: str
    static: str
    """A group of one static member, "i"."""
    fenced: str
    """The id of its predecessor."""

    @property
    def no(self) -> str:
        """A name that nothing has, each time another."""
        return unique("nothing")


class Case(NamedTuple):
    name: str
    version: int
    fields: Callable[[World], dict[str, Any]]
    codes: list[int]


def metadata(*topics: dict[str, Any]) -> dict[str, Any]:
    return {"topics": list(topics), "allow_auto_topic_creation": False}


def named(name: str | None = None, topic_id: uuid.UUID | None = None) -> dict[str, Any]:
    return {"name": name, "topic_id": topic_id}


def created(name: str, partitions: int = 1, replication: int = 1, **more: Any) -> dict[str, Any]:
    topic = {"name": name, "num_partitions": partitions, "replication_factor": replication}
    return topic | {"assignments": [], "configs": []} | more


def creation(*topics: dict[str, Any], validate_only: bool = True) -> dict[str, Any]:
    return {"timeout_ms": 5000, "validate_only": validate_only, "topics": list(topics)}


def assigned(*brokers: int, at: int = 0) -> dict[str, Any]:
    return {"partition_index": at, "broker_ids": list(brokers)}


def config(name: str, value: str | None, operation: int = SET) -> dict[str, Any]:
    return {"name": name, "value": value, "config_operation": operation}


def altered(name: str, *configs: dict[str, Any], kind: int = TOPIC) -> dict[str, Any]:
    resource = {"resource_type": kind, "resource_name": name, "configs": list(configs)}
    return {"validate_only": True, "resources": [resource]}


def plain(name: str, *configs: dict[str, Any], kind: int = TOPIC) -> dict[str, Any]:
    """Of AlterConfigs, whose settings have no operation."""
    return altered(name, *({"name": each["name"], "value": each["value"]} for each in configs), kind=kind)


def described(kind: int, name: str) -> dict[str, Any]:
    return {"resources": [{"resource_type": kind, "resource_name": name, "configuration_keys": None}]}


def partitions(topic: str, *counts: int, assignments: Any = None) -> dict[str, Any]:
    topics = [{"name": topic, "count": count, "assignments": assignments} for count in counts]
    return {"timeout_ms": 5000, "validate_only": True, "topics": topics}


def deleted(*topics: dict[str, Any]) -> dict[str, Any]:
    return {"timeout_ms": 5000, "topics": list(topics)}


def records(topic: str, partition: int, offset: int) -> dict[str, Any]:
    parts = [{"partition_index": partition, "offset": offset}]
    return {"timeout_ms": 5000, "topics": [{"name": topic, "partitions": parts}]}


def times(topic: str, *timestamps: int, partition: int = 0, epoch: int = -1) -> dict[str, Any]:
    parts = [{"partition_index": partition, "timestamp": at, "current_leader_epoch": epoch} for at in timestamps]
    return {"replica_id": -1, "topics": [{"name": topic, "partitions": parts}]}


def old_times(topic: str, *timestamps: int) -> dict[str, Any]:
    parts = [{"partition_index": 0, "timestamp": at} for at in timestamps]
    return {"replica_id": -1, "topics": [{"name": topic, "partitions": parts}]}


def fetched(topic: Any, *, session: int = 0, session_epoch: int = -1, **part: Any) -> dict[str, Any]:
    asked = {"partition": 0, "current_leader_epoch": -1, "fetch_offset": 0, "partition_max_bytes": 1000} | part
    key = "topic" if isinstance(topic, str) else "topic_id"
    return {
        "max_wait_ms": 0, "min_bytes": 0, "max_bytes": 1000, "session_id": session, "session_epoch": session_epoch,
        "topics": [{key: topic, "partitions": [asked]}],
    }  # fmt: skip


def epoch_end(topic: str, partition: int = 0, current: int = -1, epoch: int = 0) -> dict[str, Any]:
    part = {"partition": partition, "current_leader_epoch": current, "leader_epoch": epoch}
    return {"replica_id": -1, "topics": [{"topic": topic, "partitions": [part]}]}


def joining(group: str, member: str = "", session_ms: int = 10_000, **more: Any) -> dict[str, Any]:
    fields = {"group_id": group, "session_timeout_ms": session_ms, "rebalance_timeout_ms": 10_000, "member_id": member}
    return fields | {"protocol_type": "consumer", "protocols": [{"name": "range", "metadata": b"m"}]} | more


def syncing(group: str, member: str, generation: int = 1, **more: Any) -> dict[str, Any]:
    fields = {"group_id": group, "member_id": member, "generation_id": generation, "assignments": []}
    return fields | {"protocol_type": "consumer", "protocol_name": "range"} | more


def beating(group: str, member: str, generation: int = 1, **more: Any) -> dict[str, Any]:
    return {"group_id": group, "member_id": member, "generation_id": generation} | more


def leaving(group: str, *members: tuple[str, str | None]) -> dict[str, Any]:
    return {"group_id": group, "members": [{"member_id": at, "group_instance_id": name} for at, name in members]}


def committing(group: str, topic: Any, partition: int = 0, text: str = "", **more: Any) -> dict[str, Any]:
    key = "name" if isinstance(topic, str) else "topic_id"
    parts = [{"partition_index": partition, "committed_offset": 1, "committed_metadata": text}]
    who = {"group_id": group, "generation_id_or_member_epoch": -1, "member_id": ""}
    return who | {"topics": [{key: topic, "partitions": parts}]} | more


def committed(group: str, topic: Any) -> dict[str, Any]:
    key = "name" if isinstance(topic, str) else "topic_id"
    return {"groups": [{"group_id": group, "topics": [{key: topic, "partition_indexes": [0]}]}]}


def ending(group: str, topic: str, partition: int = 0) -> dict[str, Any]:
    return {"group_id": group, "topics": [{"name": topic, "partitions": [{"partition_index": partition}]}]}


def electing(topic: str, partition: int = 0, kind: int = 0) -> dict[str, Any]:
    asked = [{"topic": topic, "partitions": [partition]}]
    return {"election_type": kind, "topic_partitions": asked, "timeout_ms": 5000}


def moving(topic: str, replicas: list[int] | None, partition: int = 0) -> dict[str, Any]:
    parts = [{"partition_index": partition, "replicas": replicas}]
    return {"timeout_ms": 5000, "topics": [{"name": topic, "partitions": parts}]}


def ruled(kind: int = TOPIC) -> dict[str, Any]:
    rule = {"resource_type": kind, "resource_name": "t", "resource_pattern_type": 3, "principal": "User:me"}
    return rule | {"host": "*", "operation": 3, "permission_type": 3}


def sought(kind: int = 1) -> dict[str, Any]:
    wanted = {"resource_type_filter": kind, "resource_name_filter": None, "pattern_type_filter": 1}
    return wanted | {"principal_filter": None, "host_filter": None, "operation": 1, "permission_type": 1}


def quotas(*kinds: str, match: int = 2, name: str | None = None) -> dict[str, Any]:
    asked = [{"entity_type": kind, "match_type": match, "match": name} for kind in kinds]
    return {"components": asked, "strict": False}


GENERATION: dict[str, Any] = {"generation_id_or_member_epoch": 1}

CASES: dict[str, Case] = {
    # Metadata
    "metadata, unknown name": Case("Metadata", 12, lambda w: metadata(named(w.no)), [UNKNOWN_TOPIC]),
    "metadata, unknown id": Case("Metadata", 12, lambda w: metadata(named(None, uuid.uuid4())), [UNKNOWN_TOPIC_ID]),
    "metadata, by id": Case("Metadata", 12, lambda w: metadata(named(None, w.topic_id)), [NONE, NONE, NONE]),
    "metadata, by id and another name": Case(
        "Metadata", 12, lambda w: metadata(named(w.no, w.topic_id)), [NONE, NONE, NONE]
    ),
    "metadata, by id before 12": Case("Metadata", 11, lambda w: metadata(named("", w.topic_id)), [INVALID_REQUEST]),
    "metadata, by id before 12, and a name": Case(
        "Metadata", 11, lambda w: metadata(named(w.topic), named("", w.topic_id)), [INVALID_REQUEST] * 2
    ),
    "metadata, neither": Case("Metadata", 12, lambda w: metadata(named()), [UNKNOWN]),
    "metadata, bad name": Case("Metadata", 12, lambda w: metadata(named("bad name")), [INVALID_TOPIC]),
    "metadata, empty name": Case("Metadata", 12, lambda w: metadata(named("")), [INVALID_TOPIC]),
    "metadata, twice": Case("Metadata", 9, lambda w: metadata({"name": w.topic}, {"name": w.topic}), [NONE] * 3),
    "metadata, top-level code": Case("Metadata", 13, lambda w: metadata(named(w.no)), [UNKNOWN_TOPIC, NONE]),
    "metadata, none": Case("Metadata", 12, lambda w: metadata(), []),
    # Topics
    "create, exists": Case("CreateTopics", 7, lambda w: creation(created(w.topic)), [EXISTS]),
    "create, twice": Case("CreateTopics", 7, lambda w: creation(*[created(w.no)] * 2), [INVALID_REQUEST]),
    "create, bad name": Case("CreateTopics", 7, lambda w: creation(created("bad name")), [INVALID_TOPIC]),
    "create, no partitions": Case("CreateTopics", 7, lambda w: creation(created(w.no, 0)), [PARTITIONS]),
    "create, replication 0": Case("CreateTopics", 7, lambda w: creation(created(w.no, 1, 0)), [REPLICATION]),
    "create, replication 9": Case("CreateTopics", 7, lambda w: creation(created(w.no, 1, 9)), [REPLICATION]),
    "create, counts and assignments": Case(
        "CreateTopics", 7, lambda w: creation(created(w.no, assignments=[assigned(0)])), [INVALID_REQUEST]
    ),
    "create, assigned to nobody there": Case(
        "CreateTopics", 7, lambda w: creation(created(w.no, -1, -1, assignments=[assigned(77)])), [ASSIGNMENT]
    ),
    "create, assignments with a gap": Case(
        "CreateTopics", 7, lambda w: creation(created(w.no, -1, -1, assignments=[assigned(0, at=1)])), [ASSIGNMENT]
    ),
    "create, unknown setting": Case(
        "CreateTopics", 7, lambda w: creation(created(w.no, configs=[{"name": "x", "value": "1"}])), [CONFIG]
    ),
    "create, setting null": Case(
        "CreateTopics",
        7,
        lambda w: creation(created(w.no, configs=[{"name": "retention.ms", "value": None}])),
        [CONFIG],
    ),
    "create, bad setting": Case(
        "CreateTopics", 7, lambda w: creation(created(w.no, configs=[{"name": "retention.ms", "value": "x"}])), [CONFIG]
    ),
    "partitions, unknown": Case("CreatePartitions", 3, lambda w: partitions(w.no, 9), [UNKNOWN_TOPIC]),
    "partitions, as many": Case("CreatePartitions", 3, lambda w: partitions(w.topic, 2), [PARTITIONS]),
    "partitions, fewer": Case("CreatePartitions", 3, lambda w: partitions(w.topic, 1), [PARTITIONS]),
    "partitions, twice": Case("CreatePartitions", 3, lambda w: partitions(w.topic, 3, 4), [INVALID_REQUEST]),
    "partitions, assigned too few": Case(
        "CreatePartitions", 3, lambda w: partitions(w.topic, 4, assignments=[{"broker_ids": [0]}]), [ASSIGNMENT]
    ),
    "partitions, assigned to nobody there": Case(
        "CreatePartitions", 3, lambda w: partitions(w.topic, 3, assignments=[{"broker_ids": [77]}]), [ASSIGNMENT]
    ),
    "delete, unknown name": Case("DeleteTopics", 6, lambda w: deleted(named(w.no)), [UNKNOWN_TOPIC]),
    "delete, unknown id": Case("DeleteTopics", 6, lambda w: deleted(named(None, uuid.uuid4())), [UNKNOWN_TOPIC_ID]),
    "delete, name and id": Case("DeleteTopics", 6, lambda w: deleted(named(w.topic, w.topic_id)), [INVALID_REQUEST]),
    "delete, neither": Case("DeleteTopics", 6, lambda w: deleted(named()), [INVALID_REQUEST]),
    "delete, twice": Case("DeleteTopics", 6, lambda w: deleted(named(w.topic), named(w.topic)), [INVALID_REQUEST]),
    "records, unknown topic": Case("DeleteRecords", 2, lambda w: records(w.no, 0, 0), [UNKNOWN_TOPIC]),
    "records, unknown partition": Case("DeleteRecords", 2, lambda w: records(w.topic, 9, 0), [UNKNOWN_TOPIC]),
    "records, beyond the end": Case("DeleteRecords", 2, lambda w: records(w.topic, 0, 5), [OUT_OF_RANGE]),
    "records, -5": Case("DeleteRecords", 2, lambda w: records(w.topic, 0, -5), [OUT_OF_RANGE]),
    "records, up to the end": Case("DeleteRecords", 2, lambda w: records(w.topic, 0, -1), [NONE]),
    # Settings
    "configs, unknown topic": Case("DescribeConfigs", 4, lambda w: described(TOPIC, w.no), [UNKNOWN_TOPIC]),
    "configs, bad name": Case("DescribeConfigs", 4, lambda w: described(TOPIC, "bad name"), [INVALID_TOPIC]),
    "configs, unknown broker": Case("DescribeConfigs", 4, lambda w: described(BROKER, "77"), [INVALID_REQUEST]),
    "configs, of client metrics": Case("DescribeConfigs", 4, lambda w: described(CLIENT_METRICS, "x"), [NONE]),
    "configs, of a group": Case("DescribeConfigs", 4, lambda w: described(GROUP, w.group), [NONE]),
    "configs, of no group": Case("DescribeConfigs", 4, lambda w: described(GROUP, ""), [INVALID_REQUEST]),
    "configs, unknown type": Case("DescribeConfigs", 4, lambda w: described(77, "x"), [INVALID_REQUEST]),
    "alter, unknown topic": Case(
        "IncrementalAlterConfigs", 1, lambda w: altered(w.no, config("retention.ms", "1")), [UNKNOWN_TOPIC]
    ),
    "alter, unknown setting": Case(
        "IncrementalAlterConfigs", 1, lambda w: altered(w.topic, config("x", "1")), [CONFIG]
    ),
    "alter, bad value": Case(
        "IncrementalAlterConfigs", 1, lambda w: altered(w.topic, config("retention.ms", "x")), [CONFIG]
    ),
    "alter, empty value": Case(
        "IncrementalAlterConfigs", 1, lambda w: altered(w.topic, config("retention.ms", "")), [CONFIG]
    ),
    "alter, null": Case(
        "IncrementalAlterConfigs", 1, lambda w: altered(w.topic, config("retention.ms", None)), [INVALID_REQUEST]
    ),
    "alter, twice": Case(
        "IncrementalAlterConfigs", 1, lambda w: altered(w.topic, *[config("retention.ms", "1")] * 2), [INVALID_REQUEST]
    ),
    "alter, append to a number": Case(
        "IncrementalAlterConfigs", 1, lambda w: altered(w.topic, config("retention.ms", "1", APPEND)), [CONFIG]
    ),
    "alter, delete what is unknown": Case(
        "IncrementalAlterConfigs", 1, lambda w: altered(w.topic, config("x", None, DELETE)), [NONE]
    ),
    "alter, unknown operation": Case(
        "IncrementalAlterConfigs", 1, lambda w: altered(w.topic, config("retention.ms", "1", 9)), [UNKNOWN]
    ),
    "alter, unknown type": Case(
        "IncrementalAlterConfigs", 1, lambda w: altered("x", config("y", "1"), kind=77), [INVALID_REQUEST]
    ),
    "alter, nothing of all brokers": Case("IncrementalAlterConfigs", 1, lambda w: altered("", kind=BROKER), [NONE]),
    "alter, delete of all brokers": Case(
        "IncrementalAlterConfigs", 1, lambda w: altered("", config("x", None, DELETE), kind=BROKER), [NONE]
    ),
    "alter, delete of all brokers twice": Case(
        "IncrementalAlterConfigs",
        1,
        lambda w: altered("", *[config("x", None, DELETE)] * 2, kind=BROKER),
        [INVALID_REQUEST],
    ),
    "alter, unknown broker": Case(
        "IncrementalAlterConfigs", 1, lambda w: altered("77", config("x", None, DELETE), kind=BROKER), [INVALID_REQUEST]
    ),
    "set all, unknown topic": Case(
        "AlterConfigs", 2, lambda w: plain(w.no, config("retention.ms", "1")), [UNKNOWN_TOPIC]
    ),
    "set all, unknown setting": Case("AlterConfigs", 2, lambda w: plain(w.topic, config("x", "1")), [CONFIG]),
    "set all, null": Case("AlterConfigs", 2, lambda w: plain(w.topic, config("retention.ms", None)), [INVALID_REQUEST]),
    "set all, twice": Case(
        "AlterConfigs", 2, lambda w: plain(w.topic, *[config("retention.ms", "1")] * 2), [INVALID_REQUEST]
    ),
    # Reading
    "times, unknown topic": Case("ListOffsets", 7, lambda w: times(w.no, -1), [UNKNOWN_TOPIC]),
    "times, unknown partition": Case("ListOffsets", 7, lambda w: times(w.topic, -1, partition=9), [UNKNOWN_TOPIC]),
    "times, negative partition": Case("ListOffsets", 7, lambda w: times(w.topic, -1, partition=-1), [UNKNOWN_TOPIC]),
    "times, twice": Case("ListOffsets", 7, lambda w: times(w.topic, -1, -1), [INVALID_REQUEST]),
    "times, newer epoch": Case("ListOffsets", 7, lambda w: times(w.topic, -1, epoch=5), [UNKNOWN_EPOCH]),
    "times, an epoch that was never": Case("ListOffsets", 7, lambda w: times(w.topic, -1, epoch=-2), [FENCED_EPOCH]),
    "times, unknown special, unknown topic": Case("ListOffsets", 10, lambda w: times(w.no, -7), [UNSUPPORTED_VERSION]),
    "times, unknown isolation level": Case("ListOffsets", 7, lambda w: times(w.topic, -1) | NO_ISOLATION, [UNKNOWN]),
    "times, this epoch": Case("ListOffsets", 7, lambda w: times(w.topic, -1, epoch=0), [NONE]),
    "fetch, unknown topic": Case("Fetch", 12, lambda w: fetched(w.no), [NONE, UNKNOWN_TOPIC]),
    "fetch, unknown id": Case("Fetch", 13, lambda w: fetched(uuid.uuid4()), [NONE, UNKNOWN_TOPIC_ID]),
    "fetch, unknown partition": Case("Fetch", 12, lambda w: fetched(w.topic, partition=9), [NONE, UNKNOWN_TOPIC]),
    "fetch, beyond the end": Case("Fetch", 12, lambda w: fetched(w.topic, fetch_offset=9), [NONE, OUT_OF_RANGE]),
    "fetch, negative offset": Case("Fetch", 12, lambda w: fetched(w.topic, fetch_offset=-1), [NONE, OUT_OF_RANGE]),
    "fetch, newer epoch": Case("Fetch", 12, lambda w: fetched(w.topic, current_leader_epoch=5), [NONE, UNKNOWN_EPOCH]),
    "fetch, unknown isolation level": Case("Fetch", 12, lambda w: fetched(w.topic) | NO_ISOLATION, [UNKNOWN] * 2),
    "fetch, unknown session": Case("Fetch", 12, lambda w: fetched(w.topic, session=7, session_epoch=3), [SESSION_ID]),
    "fetch, no session at 5": Case("Fetch", 12, lambda w: fetched(w.topic, session_epoch=5), [SESSION_ID]),
    "epoch, unknown topic": Case("OffsetForLeaderEpoch", 4, lambda w: epoch_end(w.no), [UNKNOWN_TOPIC]),
    "epoch, unknown partition": Case("OffsetForLeaderEpoch", 4, lambda w: epoch_end(w.topic, 9), [UNKNOWN_TOPIC]),
    "epoch, newer than the leader's": Case(
        "OffsetForLeaderEpoch", 4, lambda w: epoch_end(w.topic, current=5), [UNKNOWN_EPOCH]
    ),
    "epoch, the leader's, that was never": Case(
        "OffsetForLeaderEpoch", 4, lambda w: epoch_end(w.topic, current=-2), [FENCED_EPOCH]
    ),
    "epoch, not there yet": Case("OffsetForLeaderEpoch", 4, lambda w: epoch_end(w.topic, epoch=5), [NONE]),
    # Groups
    "join, empty id": Case("JoinGroup", 9, lambda w: joining(""), [INVALID_GROUP]),
    "join, short session": Case("JoinGroup", 9, lambda w: joining(w.no, session_ms=10), [SESSION_TIMEOUT]),
    "join, long session": Case("JoinGroup", 9, lambda w: joining(w.no, session_ms=10**8), [SESSION_TIMEOUT]),
    "join, no protocols": Case("JoinGroup", 9, lambda w: joining(w.no, protocols=[]), [INCONSISTENT_PROTOCOL]),
    "join, no type": Case("JoinGroup", 9, lambda w: joining(w.no, protocol_type=""), [INCONSISTENT_PROTOCOL]),
    "join, other type": Case(
        "JoinGroup", 9, lambda w: joining(w.group, protocol_type="connect"), [INCONSISTENT_PROTOCOL]
    ),
    "join, other protocol": Case(
        "JoinGroup", 9, lambda w: joining(w.group, protocols=[{"name": "x", "metadata": b""}]), [INCONSISTENT_PROTOCOL]
    ),
    "join, unknown member": Case("JoinGroup", 9, lambda w: joining(w.group, "m"), [UNKNOWN_MEMBER]),
    "join, member of no group": Case("JoinGroup", 9, lambda w: joining(w.no, "m"), [UNKNOWN_MEMBER]),
    "join, fenced": Case(
        "JoinGroup", 9, lambda w: joining(w.static, w.fenced, group_instance_id="i"), [FENCED_INSTANCE]
    ),
    "join, other instance": Case(
        "JoinGroup", 9, lambda w: joining(w.static, w.fenced, group_instance_id="j"), [UNKNOWN_MEMBER]
    ),
    "sync, empty id": Case("SyncGroup", 5, lambda w: syncing("", "m"), [INVALID_GROUP]),
    "sync, unknown group": Case("SyncGroup", 5, lambda w: syncing(w.no, "m"), [UNKNOWN_MEMBER]),
    "sync, unknown member": Case("SyncGroup", 5, lambda w: syncing(w.group, "m"), [UNKNOWN_MEMBER]),
    "sync, other generation": Case("SyncGroup", 5, lambda w: syncing(w.group, w.member, 7), [ILLEGAL_GENERATION]),
    "sync, other protocol": Case(
        "SyncGroup", 5, lambda w: syncing(w.group, w.member, protocol_name="x"), [INCONSISTENT_PROTOCOL]
    ),
    "sync, other type": Case(
        "SyncGroup", 5, lambda w: syncing(w.group, w.member, protocol_type="x"), [INCONSISTENT_PROTOCOL]
    ),
    "sync, no protocol": Case(
        "SyncGroup", 5, lambda w: syncing(w.group, w.member, protocol_name=None), [INCONSISTENT_PROTOCOL]
    ),
    "sync, again": Case("SyncGroup", 5, lambda w: syncing(w.group, w.member), [NONE]),
    "sync, fenced": Case(
        "SyncGroup", 5, lambda w: syncing(w.static, w.fenced, group_instance_id="i"), [FENCED_INSTANCE]
    ),
    "heartbeat, empty id": Case("Heartbeat", 4, lambda w: beating("", "m"), [INVALID_GROUP]),
    "heartbeat, unknown group": Case("Heartbeat", 4, lambda w: beating(w.no, "m"), [UNKNOWN_MEMBER]),
    "heartbeat, unknown member": Case("Heartbeat", 4, lambda w: beating(w.group, "m"), [UNKNOWN_MEMBER]),
    "heartbeat, other generation": Case("Heartbeat", 4, lambda w: beating(w.group, w.member, 7), [ILLEGAL_GENERATION]),
    "heartbeat": Case("Heartbeat", 4, lambda w: beating(w.group, w.member), [NONE]),
    "heartbeat, fenced": Case(
        "Heartbeat", 4, lambda w: beating(w.static, w.fenced, group_instance_id="i"), [FENCED_INSTANCE]
    ),
    "heartbeat, fenced by id alone": Case("Heartbeat", 4, lambda w: beating(w.static, w.fenced), [UNKNOWN_MEMBER]),
    "heartbeat, other instance": Case(
        "Heartbeat", 4, lambda w: beating(w.static, w.fenced, group_instance_id="j"), [UNKNOWN_MEMBER]
    ),
    "leave, empty id": Case("LeaveGroup", 5, lambda w: leaving("", ("m", None)), [INVALID_GROUP]),
    "leave, unknown group": Case("LeaveGroup", 5, lambda w: leaving(w.no, ("m", None)), [NONE, UNKNOWN_MEMBER]),
    "leave, unknown members": Case(
        "LeaveGroup", 5, lambda w: leaving(w.group, ("m", None), ("", None), ("", "j")), [NONE] + [UNKNOWN_MEMBER] * 3
    ),
    "leave, fenced": Case("LeaveGroup", 5, lambda w: leaving(w.static, (w.fenced, "i")), [NONE, FENCED_INSTANCE]),
    "leave, old, unknown group": Case(
        "LeaveGroup", 2, lambda w: {"group_id": w.no, "member_id": "m"}, [UNKNOWN_MEMBER]
    ),
    # Offsets of groups
    "commit, unknown topic": Case("OffsetCommit", 9, lambda w: committing(w.no, w.no), [UNKNOWN_TOPIC]),
    "commit, unknown partition": Case("OffsetCommit", 9, lambda w: committing(w.no, w.topic, 9), [UNKNOWN_TOPIC]),
    "commit, unknown id": Case("OffsetCommit", 10, lambda w: committing(w.no, uuid.uuid4()), [UNKNOWN_TOPIC_ID]),
    "commit, long text": Case(
        "OffsetCommit", 9, lambda w: committing(w.no, w.topic, text="x" * 5000), [METADATA_TOO_LARGE]
    ),
    "commit, no member of a group with members": Case(
        "OffsetCommit", 9, lambda w: committing(w.group, w.topic), [UNKNOWN_MEMBER]
    ),
    "commit, unknown member": Case(
        "OffsetCommit", 9, lambda w: committing(w.group, w.topic, member_id="m", **GENERATION), [UNKNOWN_MEMBER]
    ),
    "commit, other generation": Case(
        "OffsetCommit",
        9,
        lambda w: committing(w.group, w.topic, member_id=w.member, generation_id_or_member_epoch=7),
        [ILLEGAL_GENERATION],
    ),
    "commit, generation of no group": Case(
        "OffsetCommit", 9, lambda w: committing(w.no, w.topic, member_id="m", **GENERATION), [UNKNOWN_GROUP]
    ),
    "commit, generation of no group, old": Case(
        "OffsetCommit", 8, lambda w: committing(w.no, w.topic, member_id="m", **GENERATION), [ILLEGAL_GENERATION]
    ),
    "commit, fenced": Case(
        "OffsetCommit",
        9,
        lambda w: committing(w.static, w.topic, member_id=w.fenced, group_instance_id="i", **GENERATION),
        [FENCED_INSTANCE],
    ),
    "commit": Case("OffsetCommit", 9, lambda w: committing(w.group, w.topic, member_id=w.member, **GENERATION), [NONE]),
    "committed, unknown topic": Case("OffsetFetch", 9, lambda w: committed(w.group, w.no), [NONE, NONE]),
    "committed, unknown group": Case("OffsetFetch", 9, lambda w: committed(w.no, w.topic), [NONE, NONE]),
    "committed, unknown id": Case(
        "OffsetFetch", 10, lambda w: committed(w.group, uuid.uuid4()), [UNKNOWN_TOPIC_ID, NONE]
    ),
    "describe group, unknown": Case("DescribeGroups", 6, lambda w: {"groups": [w.no]}, [UNKNOWN_GROUP]),
    "describe group, unknown, old": Case("DescribeGroups", 5, lambda w: {"groups": [w.no]}, [NONE]),
    "describe group, twice": Case("DescribeGroups", 5, lambda w: {"groups": [w.group, w.group]}, [NONE, NONE]),
    "delete group, unknown": Case("DeleteGroups", 2, lambda w: {"groups_names": [w.no]}, [UNKNOWN_GROUP]),
    "delete group, with members": Case("DeleteGroups", 2, lambda w: {"groups_names": [w.group]}, [NON_EMPTY]),
    "end commits, empty id": Case("OffsetDelete", 0, lambda w: ending("", w.topic), [INVALID_GROUP]),
    "end commits, unknown group": Case("OffsetDelete", 0, lambda w: ending(w.no, w.topic), [UNKNOWN_GROUP]),
    "end commits, unknown topic": Case("OffsetDelete", 0, lambda w: ending(w.group, w.no), [NONE, UNKNOWN_TOPIC]),
    "end commits, unknown partition": Case(
        "OffsetDelete", 0, lambda w: ending(w.group, w.topic, 9), [NONE, UNKNOWN_TOPIC]
    ),
    "end commits, a subscription that does not parse": Case(
        "OffsetDelete", 0, lambda w: ending(w.group, w.topic), [NONE, SUBSCRIBED]
    ),
    # Leaders and replicas
    "elect, not needed": Case("ElectLeaders", 2, lambda w: electing(w.topic), [NONE, LEADS_ALREADY]),
    "elect, unclean": Case("ElectLeaders", 2, lambda w: electing(w.topic, kind=1), [NONE, LEADS_ALREADY]),
    "elect, unknown type": Case(
        "ElectLeaders", 2, lambda w: electing(w.topic, kind=7), [INVALID_REQUEST, INVALID_REQUEST]
    ),
    "elect, unknown topic": Case("ElectLeaders", 2, lambda w: electing(w.no), [NONE, UNKNOWN_TOPIC]),
    "elect, unknown partition": Case("ElectLeaders", 2, lambda w: electing(w.topic, 9), [NONE, UNKNOWN_TOPIC]),
    "move, nothing moves": Case("AlterPartitionReassignments", 1, lambda w: moving(w.topic, None), [NONE, NOT_MOVING]),
    "move, to nobody there": Case(
        "AlterPartitionReassignments", 1, lambda w: moving(w.topic, [77]), [NONE, ASSIGNMENT]
    ),
    "move, to nobody": Case("AlterPartitionReassignments", 1, lambda w: moving(w.topic, []), [NONE, ASSIGNMENT]),
    "move, unknown topic": Case("AlterPartitionReassignments", 1, lambda w: moving(w.no, None), [NONE, UNKNOWN_TOPIC]),
    "moves, unknown topic": Case(
        "ListPartitionReassignments",
        0,
        lambda w: {"timeout_ms": 5000, "topics": [{"name": w.no, "partition_indexes": [0]}]},
        [NONE],
    ),
    # Others
    "config resources, unknown type": Case(
        "ListConfigResources", 1, lambda w: {"resource_types": [TOPIC, 77]}, [UNSUPPORTED_VERSION]
    ),
    "quotas": Case("DescribeClientQuotas", 1, lambda w: quotas("user", "client-id"), [NONE]),
    "quotas, of no type": Case("DescribeClientQuotas", 1, lambda w: quotas(""), [INVALID_REQUEST]),
    "quotas, unknown type": Case("DescribeClientQuotas", 1, lambda w: quotas("x"), [UNSUPPORTED_VERSION]),
    "quotas, a type twice": Case("DescribeClientQuotas", 1, lambda w: quotas("user", "user"), [INVALID_REQUEST]),
    "quotas, ip and user": Case("DescribeClientQuotas", 1, lambda w: quotas("ip", "user"), [INVALID_REQUEST]),
    "quotas, no name": Case("DescribeClientQuotas", 1, lambda w: quotas("user", match=0), [INVALID_REQUEST]),
    "quotas, a name too much": Case("DescribeClientQuotas", 1, lambda w: quotas("user", name="x"), [INVALID_REQUEST]),
    "quotas, unknown match": Case("DescribeClientQuotas", 1, lambda w: quotas("user", match=9), [INVALID_REQUEST]),
    "rules": Case("DescribeAcls", 3, lambda w: sought(), [NO_AUTHORIZER]),
    "rules, two made": Case("CreateAcls", 3, lambda w: {"creations": [ruled()] * 2}, [NO_AUTHORIZER] * 2),
    "rules, two ended": Case("DeleteAcls", 3, lambda w: {"filters": [sought()] * 2}, [NO_AUTHORIZER] * 2),
    "credentials, all": Case("DescribeUserScramCredentials", 0, lambda w: {"users": None}, [NONE]),
    "credentials, of nobody there": Case(
        "DescribeUserScramCredentials", 0, lambda w: {"users": [{"name": "nobody"}]}, [NONE, NO_RESOURCE]
    ),
    "credentials, twice": Case(
        "DescribeUserScramCredentials", 0, lambda w: {"users": [{"name": "nobody"}] * 2}, [NONE, RESOURCE_TWICE]
    ),
    "coordinator, unknown type": Case(
        "FindCoordinator", 6, lambda w: {"key_type": 9, "coordinator_keys": ["k"]}, [INVALID_REQUEST]
    ),
    "coordinator, bad share key": Case(
        "FindCoordinator", 6, lambda w: {"key_type": 2, "coordinator_keys": ["k"]}, [INVALID_REQUEST]
    ),
    "coordinator of a transaction": Case(
        "FindCoordinator", 6, lambda w: {"key_type": 1, "coordinator_keys": ["t"]}, [NONE]
    ),
    "producer id, id without epoch": Case("InitProducerId", 4, lambda w: producer_id(None, 5, -1), [INVALID_REQUEST]),
    "producer id, epoch without id": Case("InitProducerId", 4, lambda w: producer_id(None, -1, 5), [INVALID_REQUEST]),
    "producer id, empty transactional id": Case(
        "InitProducerId", 4, lambda w: producer_id("", -1, -1), [INVALID_REQUEST]
    ),
    "producer id, given": Case("InitProducerId", 4, lambda w: producer_id(None, 5, 5), [NONE]),
    "cluster, controllers": Case("DescribeCluster", 2, lambda w: {"endpoint_type": 2}, [MISMATCHED_ENDPOINT]),
    "cluster, unknown endpoints": Case("DescribeCluster", 2, lambda w: {"endpoint_type": 9}, [UNSUPPORTED_ENDPOINT]),
}


def producer_id(transactional_id: str | None, given: int, epoch: int) -> dict[str, Any]:
    fields = {"transactional_id": transactional_id, "transaction_timeout_ms": 1000}
    return fields | {"producer_id": given, "producer_epoch": epoch}


def codes_of(answer: Any) -> list[int]:
    return [int(code) for code in re.findall(r"\berror_code=(-?\d+)", repr(answer))]


@pytest.fixture(scope="module")
def world(address: str, shared_clients: Any) -> Iterator[World]:
    admin, topic = shared_clients[CONFLUENT], unique("answers")
    admin.create_topic(topic, 2, {})
    wait_for_leaders(admin, topic, 2)
    with Asker(address) as asker:
        (found,) = asker.ask("Metadata", 12, **metadata(named(topic))).topics
        members = {}
        for group, instance in ((unique("plain"), None), (unique("static"), "i")):
            joined = join_fully(asker, group, instance)
            given = [{"member_id": joined.member_id, "assignment": b"all"}]
            synced = asker.ask(
                "SyncGroup", 5, **syncing(group, joined.member_id, assignments=given, group_instance_id=instance)
            )
            assert (joined.generation_id, synced.error_code) == (1, NONE)
            members[group] = joined.member_id
        plain_group, static = members
        asker.ask("JoinGroup", 9, **joining(static, group_instance_id="i", session_ms=300_000))
        yield World(topic, found.topic_id, plain_group, members[plain_group], static, members[static])
    admin.delete_topic(topic)


def join_fully(asker: Asker, group: str, instance: str | None) -> Any:
    """Of Apache Kafka the first one may have to wait until it has made its topic for groups."""
    member = ""
    while True:
        fields = joining(group, member, group_instance_id=instance, session_ms=300_000)
        asker.ask("FindCoordinator", 6, key_type=0, coordinator_keys=[group])
        joined = asker.ask("JoinGroup", 9, **fields)
        if joined.error_code == NONE:
            return joined
        member = joined.member_id
        assert joined.error_code in (*NOT_YET, MEMBER_ID)


@pytest.mark.parametrize("case", CASES)
def test_an_answer(address: str, world: World, case: str) -> None:
    name, version, fields, codes = CASES[case]
    found = list(NOT_YET)
    with Asker(address) as asker:
        while NOT_YET.intersection(found):
            answer = asker.ask(name, version, **fields(world))
            assert answer is not None, "the connection was closed"
            found = codes_of(answer)
    assert found == codes


SPECIAL = {-1: 1, -2: 1, -3: 7, -4: 8, -5: 9, -6: 11, -7: 99, 0: 1}
"""Timestamps that are none, and the versions from which on they are known."""


@pytest.mark.parametrize("version", range(1, 12))
def test_special_timestamps(address: str, world: World, version: int) -> None:
    make = times if version >= 4 else old_times
    with Asker(address) as asker:
        for timestamp, first in SPECIAL.items():
            (topic,) = asker.ask("ListOffsets", version, **make(world.topic, timestamp)).topics
            (found,) = topic.partitions
            bound = timestamp in (-1, -2, -4) and version >= first
            code = NONE if version >= first else UNSUPPORTED_VERSION
            assert (found.error_code, found.offset, found.timestamp) == (code, 0 if bound else -1, -1), timestamp


@pytest.mark.parametrize("version", range(4, 19))
def test_an_empty_fetch_of_every_version(address: str, world: World, version: int) -> None:
    """One that waits for nothing, of one partition that there is and one that there is not."""
    by_id = version >= 13
    parts = [{"partition": at, "fetch_offset": 0, "partition_max_bytes": 1000} for at in (0, 9)]
    fields: dict[str, Any] = {"max_wait_ms": 0, "min_bytes": 1, "max_bytes": 1000}
    if version >= 7:
        fields |= {"session_id": 0, "session_epoch": -1}
    key = {"topic_id": world.topic_id} if by_id else {"topic": world.topic}
    with Asker(address) as asker:
        answer = asker.ask("Fetch", version, **fields, topics=[{**key, "partitions": parts}])
    (topic,) = answer.responses
    found = {part.partition_index: (part.error_code, part.high_watermark) for part in topic.partitions}
    assert found == {0: (NONE, 0), 9: (UNKNOWN_TOPIC, -1)}


@pytest.mark.parametrize("version", range(14))
def test_metadata_of_every_version(address: str, world: World, version: int) -> None:
    """All topics, none of them, and the one that is named; up to version 0 an empty list asks for all."""
    key: dict[str, Any] = {"topic_id": None} if version >= 10 else {}
    more = {"allow_auto_topic_creation": False} if version >= 4 else {}
    with Asker(address) as asker:
        everything = asker.ask("Metadata", version, topics=None if version else [], **more)
        assert world.topic in {topic.name for topic in everything.topics}
        if version:
            assert asker.ask("Metadata", version, topics=[], **more).topics == []
        (topic,) = asker.ask("Metadata", version, topics=[{"name": world.topic, **key}], **more).topics
    assert (topic.error_code, topic.name, len(topic.partitions)) == (NONE, world.topic, 2)
    if version >= 10:
        assert topic.topic_id == world.topic_id
    for part in topic.partitions:
        assert (part.error_code, len(part.replica_nodes), part.isr_nodes) == (NONE, 1, part.replica_nodes)
        assert part.leader_id == part.replica_nodes[0]


def test_unknown_apis_and_versions_end_the_connection(address: str) -> None:
    for key, version in ((-1, 0), (1000, 0), (0, 14), (0, 2), (1, 19), (1, 3), (3, 14), (3, -1)):
        peer = Peer(address)
        peer.send(b"\0\0\0\x0b" + key.to_bytes(2, "big", signed=True) + version.to_bytes(2, "big", signed=True))
        peer.send(bytes((0, 0, 0, 7, 0, 1)) + b"h")
        assert peer.answer() is None, (key, version)
        peer.close()


def test_an_unknown_version_of_api_versions_is_told_what_there_is(address: str) -> None:
    peer = Peer(address)
    peer.send(b"\0\0\0\x0c" + bytes((0, 18, 0, 99, 0, 0, 0, 7, 0, 1)) + b"h\0")
    assert peer.answer() == bytes.fromhex("00000007002300000001001200000004")
    peer.close()
