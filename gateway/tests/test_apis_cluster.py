"""What tools ask of the cluster: its brokers, directories, leaders and replicas, and what it could be set to."""

from pathlib import Path
from typing import Any

import pytest

from totalog.engine import Log
from totalog.gateway.broker import Broker
from totalog.gateway.tests.harness import NOW_MS, REGION_SIZE, ask, make_broker
from totalog.gateway.wire import records
from totalog.gateway.wire.errors import ErrorCode


@pytest.mark.parametrize("version", range(3))
def test_the_cluster_is_one_broker(broker: Broker, version: int) -> None:
    answer = ask(broker, "DescribeCluster", version, include_cluster_authorized_operations=True)
    assert (answer.error_code, answer.error_message, answer.controller_id) == (0, None, 0)
    assert answer.cluster_id == broker.cluster_id
    assert [(told.broker_id, told.host, told.port, told.rack) for told in answer.brokers] == [
        (0, "broker.test", 9092, None)
    ]
    assert answer.authorized_operations == {5, 7, 8, 9, 10, 11, 12}
    assert ask(broker, "DescribeCluster", version).authorized_operations is None


@pytest.mark.parametrize("version", [1, 2])
@pytest.mark.parametrize(
    ("endpoint_type", "code"),
    [(1, ErrorCode.NONE), (2, ErrorCode.MISMATCHED_ENDPOINT_TYPE), (3, ErrorCode.UNSUPPORTED_ENDPOINT_TYPE)],
)
def test_endpoint_types(broker: Broker, version: int, endpoint_type: int, code: ErrorCode) -> None:
    answer = ask(broker, "DescribeCluster", version, endpoint_type=endpoint_type)
    assert answer.error_code == code
    assert len(answer.brokers) == (1 if code is ErrorCode.NONE else 0)


def log_dir(broker: Broker, version: int, topics: Any) -> Any:
    answer = ask(broker, "DescribeLogDirs", version, topics=topics)
    assert answer.error_code == 0
    [result] = answer.results
    assert result.error_code == 0
    return result


def sizes(result: Any) -> dict[tuple[str, int], int]:
    return {
        (topic.name, partition.partition_index): partition.partition_size
        for topic in result.topics
        for partition in topic.partitions
    }


@pytest.mark.parametrize("version", range(1, 6))
def test_sizes_of_partitions(broker: Broker, version: int) -> None:
    orders = broker.topics.create("orders", partitions=2)
    broker.topics.create("other", partitions=1)
    batch = records.build_batch([(b"key", b"value" * 100)], NOW_MS)
    broker.append_internal(orders, 1, batch)
    result = log_dir(broker, version, None)
    assert sizes(result) == {("orders", 0): 0, ("orders", 1): len(batch), ("other", 0): 0}
    assert not any(part.is_future_key or part.offset_lag for topic in result.topics for part in topic.partitions)
    if version >= 4:
        assert result.total_bytes > result.usable_bytes > 0
    asked = [
        {"topic": "orders", "partitions": [1, 1, 9]},
        {"topic": "nothing", "partitions": [0]},
        {"topic": "orders.total-order", "partitions": [0]},
    ]
    assert sizes(log_dir(broker, version, asked)) == {("orders", 1): len(batch)}


def test_the_directory_is_the_region(broker: Broker, tmp_path: Path) -> None:
    assert log_dir(broker, 5, None).log_dir == "memory"
    with Log.create(tmp_path / "region", size=REGION_SIZE) as log:
        assert log_dir(make_broker(log), 5, None).log_dir == str(tmp_path / "region")


@pytest.mark.parametrize("version", range(3))
def test_leaders_stay(broker: Broker, version: int) -> None:
    broker.topics.create("orders", partitions=2)
    asked = [{"topic": "orders", "partitions": [1, 9]}, {"topic": "unknown", "partitions": [0]}]
    answer = ask(broker, "ElectLeaders", version, topic_partitions=asked)
    told = {
        (result.topic, each.partition_id): each.error_code
        for result in answer.replica_election_results
        for each in result.partition_result
    }
    unknown = ErrorCode.UNKNOWN_TOPIC_OR_PARTITION
    assert told == {("orders", 1): ErrorCode.ELECTION_NOT_NEEDED, ("orders", 9): unknown, ("unknown", 0): unknown}
    everything = ask(broker, "ElectLeaders", version, topic_partitions=None)
    assert everything.replica_election_results == []
    if version >= 1:
        assert answer.error_code == everything.error_code == ErrorCode.NONE
        refused = ask(broker, "ElectLeaders", version, election_type=7, topic_partitions=asked[:1])
        [result] = refused.replica_election_results
        assert {refused.error_code, *(each.error_code for each in result.partition_result)} == {
            ErrorCode.INVALID_REQUEST
        }


@pytest.mark.parametrize("version", range(2))
def test_partitions_stay_where_they_are(broker: Broker, version: int) -> None:
    broker.topics.create("orders", partitions=5)
    replicas = [[0], [1], [0, 1], [], None]
    parts = [{"partition_index": at, "replicas": each} for at, each in enumerate([*replicas, [0]])]
    topics = [{"name": "orders", "partitions": parts}, {"name": "unknown", "partitions": parts[:1]}]
    fields = {"allow_replication_factor_change": False} if version >= 1 else {}
    answer = ask(broker, "AlterPartitionReassignments", version, topics=topics, timeout_ms=1000, **fields)
    assert answer.error_code == ErrorCode.NONE
    wrong, unknown = ErrorCode.INVALID_REPLICA_ASSIGNMENT, ErrorCode.UNKNOWN_TOPIC_OR_PARTITION
    assert [(topic.name, [each.error_code for each in topic.partitions]) for topic in answer.responses] == [
        ("orders", [ErrorCode.NONE, wrong, wrong, wrong, ErrorCode.NO_REASSIGNMENT_IN_PROGRESS, unknown]),
        ("unknown", [unknown]),
    ]
    if version >= 1:
        assert answer.allow_replication_factor_change is False
    moving = ask(broker, "ListPartitionReassignments", 0, topics=None, timeout_ms=1000)
    assert (moving.error_code, moving.topics) == (ErrorCode.NONE, [])


def test_what_has_settings(broker: Broker) -> None:
    broker.topics.create("orders", partitions=1)
    broker.topics.create("payments", partitions=1)

    def listed(*types: int) -> list[tuple[int, str]]:
        answer = ask(broker, "ListConfigResources", 1, resource_types=list(types))
        assert answer.error_code == ErrorCode.NONE
        return sorted((each.resource_type, each.resource_name) for each in answer.config_resources)

    assert listed(2) == listed(2, 2, 16, 32) == [(2, "orders"), (2, "payments")]
    assert listed(4) == [(4, "0")]
    assert listed() == listed(2, 4, 8, 16, 32) == [(2, "orders"), (2, "payments"), (4, "0")]
    refused = ask(broker, "ListConfigResources", 1, resource_types=[2, 7])
    assert (refused.error_code, refused.config_resources) == (ErrorCode.UNSUPPORTED_VERSION, [])
    of_clients = ask(broker, "ListConfigResources", 0)
    assert (of_clients.error_code, of_clients.config_resources) == (ErrorCode.NONE, [])


def component(kind: str, match_type: int, match: str | None = None) -> dict[str, Any]:
    return {"entity_type": kind, "match_type": match_type, "match": match}


@pytest.mark.parametrize("version", range(2))
def test_there_are_no_quotas(broker: Broker, version: int) -> None:
    for components in ([], [component("user", 0, "me"), component("client-id", 1)], [component("ip", 2)]):
        answer = ask(broker, "DescribeClientQuotas", version, components=components, strict=True)
        assert (answer.error_code, answer.entries) == (ErrorCode.NONE, [])
    for components, code in (
        ([component("users", 2)], ErrorCode.UNSUPPORTED_VERSION),
        ([component("", 2)], ErrorCode.INVALID_REQUEST),
        ([component("user", 2)] * 2, ErrorCode.INVALID_REQUEST),
        ([component("ip", 2), component("user", 2)], ErrorCode.INVALID_REQUEST),
        ([component("user", 0)], ErrorCode.INVALID_REQUEST),
        ([component("user", 1, "me")], ErrorCode.INVALID_REQUEST),
        ([component("user", 3)], ErrorCode.INVALID_REQUEST),
    ):
        answer = ask(broker, "DescribeClientQuotas", version, components=components, strict=False)
        assert (answer.error_code, answer.entries) == (code, None)
        assert answer.error_message


def test_nobody_has_credentials(broker: Broker) -> None:
    for everybody in (None, list[Any]()):
        answer = ask(broker, "DescribeUserScramCredentials", 0, users=everybody)
        assert (answer.error_code, answer.results) == (ErrorCode.NONE, [])
    answer = ask(broker, "DescribeUserScramCredentials", 0, users=[{"name": name} for name in ("a", "b", "a")])
    assert [(each.user, each.error_code) for each in answer.results] == [
        ("a", ErrorCode.DUPLICATE_RESOURCE),
        ("b", ErrorCode.RESOURCE_NOT_FOUND),
    ]


def test_without_an_authorizer_there_are_no_rules(broker: Broker) -> None:
    rule = {"resource_type": 2, "resource_name": "orders", "principal": "User:me", "host": "*"}
    rule |= {"operation": 3, "permission_type": 3}
    sought = {"resource_type_filter": 1, "operation": 1, "permission_type": 1}
    for version in range(1, 4):
        told = ask(broker, "DescribeAcls", version, **sought)
        assert (told.error_code, told.resources) == (ErrorCode.SECURITY_DISABLED, [])
        made = ask(broker, "CreateAcls", version, creations=[rule] * 2)
        assert [each.error_code for each in made.results] == [ErrorCode.SECURITY_DISABLED] * 2
        ended = ask(broker, "DeleteAcls", version, filters=[sought] * 3)
        assert [(each.error_code, each.matching_acls) for each in ended.filter_results] == [
            (ErrorCode.SECURITY_DISABLED, [])
        ] * 3
