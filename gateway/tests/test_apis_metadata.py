"""Metadata: written by hand, compared with the library; which topics are told, and which are created."""

import uuid
from typing import Any

import pytest

from totalog.engine import Log
from totalog.gateway.broker import STATE_TOPIC, Broker
from totalog.gateway.tests.harness import REGION_SIZE, ask, make_broker
from totalog.gateway.wire.errors import ErrorCode

VERSIONS = range(14)
TOPIC_BITS, VIEW_BITS, CLUSTER_BITS = {3, 4, 5, 6, 7, 8, 10, 11}, {3, 8, 10}, {5, 7, 8, 9, 10, 11, 12}


def named(*names: str) -> list[dict[str, Any]]:
    return [{"name": name} for name in names]


def by_name(answer: Any) -> dict[str, Any]:
    return {topic.name: topic for topic in answer.topics}


def with_id(handle_id: bytes) -> list[dict[str, Any]]:
    return [{"topic_id": uuid.UUID(bytes=handle_id), "name": None}]


@pytest.fixture
def orders(broker: Broker) -> Broker:
    broker.topics.create("orders", partitions=3)
    broker.topics.create("plain", partitions=2, config={"totalog.order.level": "0"})
    return broker


@pytest.mark.parametrize("version", VERSIONS)
def test_every_field_of_a_topic(orders: Broker, version: int) -> None:
    answer = ask(
        orders,
        "Metadata",
        version,
        topics=named("orders"),
        **({"include_topic_authorized_operations": True} if version >= 8 else {}),
        **({"include_cluster_authorized_operations": True} if 8 <= version <= 10 else {}),
    )
    assert [(b.node_id, b.host, b.port, b.rack) for b in answer.brokers] == [(0, "broker.test", 9092, None)]
    assert answer.controller_id == (0 if version >= 1 else -1)
    assert answer.cluster_id == (orders.cluster_id if version >= 2 else None)
    assert answer.authorized_operations == (CLUSTER_BITS if 8 <= version <= 10 else None)
    [topic] = answer.topics
    handle = orders.topics.find("orders")
    assert handle is not None
    assert (topic.error_code, topic.name, topic.is_internal) == (0, "orders", False)
    assert topic.topic_id == (uuid.UUID(bytes=handle.id) if version >= 10 else None)
    assert topic.authorized_operations == (TOPIC_BITS if version >= 8 else None)
    leader_epoch = orders.log.bounds(handle.topic, 0).leader_epoch
    for index, partition in enumerate(topic.partitions):
        assert (partition.error_code, partition.partition_index, partition.leader_id) == (0, index, 0)
        assert partition.leader_epoch == (leader_epoch if version >= 7 else -1)
        assert (partition.replica_nodes, partition.isr_nodes, partition.offline_replicas) == ([0], [0], [])
    assert len(topic.partitions) == 3


@pytest.mark.parametrize("version", VERSIONS)
def test_all_topics(orders: Broker, version: int) -> None:
    orders.topics.create("__consumer_offsets", partitions=1, internal=True)
    answer = ask(orders, "Metadata", version, topics=None)
    topics = by_name(answer)
    assert set(topics) == {"orders", "plain", "__consumer_offsets"}
    if version >= 1:
        assert [topics[name].is_internal for name in ("orders", "__consumer_offsets")] == [False, True]


def test_topics_of_our_own_are_hidden(broker: Broker) -> None:
    assert broker.topics.find(STATE_TOPIC) is not None
    assert ask(broker, "Metadata", 13, topics=None).topics == []
    [topic] = ask(broker, "Metadata", 13, topics=named(STATE_TOPIC)).topics
    assert topic.error_code == ErrorCode.UNKNOWN_TOPIC_OR_PARTITION


@pytest.mark.parametrize("version", VERSIONS[1:])
def test_no_topics(orders: Broker, version: int) -> None:
    answer = ask(orders, "Metadata", version, topics=[])
    assert answer.topics == []
    assert len(answer.brokers) == 1


@pytest.mark.parametrize("version", VERSIONS)
def test_a_view_is_answered_when_asked_for(orders: Broker, version: int) -> None:
    fields = {"include_topic_authorized_operations": True} if version >= 8 else {}
    topics = by_name(
        ask(orders, "Metadata", version, topics=named("orders.total-order", "plain.total-order"), **fields)
    )
    assert len(topics["orders.total-order"].partitions) == 1
    assert topics["orders.total-order"].authorized_operations == (VIEW_BITS if version >= 8 else None)
    assert topics["plain.total-order"].error_code == ErrorCode.UNKNOWN_TOPIC_OR_PARTITION
    assert orders.topics.find("plain.total-order") is None


@pytest.mark.parametrize("version", [12, 13])
def test_topics_by_id(orders: Broker, version: int) -> None:
    handle = orders.topics.find("orders")
    seen_through = orders.topics.find("orders.total-order")
    assert handle is not None
    assert seen_through is not None
    wanted = with_id(handle.id) + with_id(seen_through.id) + with_id(b"\x01" * 16)
    known, seen, unknown = ask(orders, "Metadata", version, topics=wanted).topics
    assert (known.name, known.error_code, len(known.partitions)) == ("orders", 0, 3)
    assert (seen.name, seen.error_code, len(seen.partitions)) == ("orders.total-order", 0, 1)
    assert (unknown.error_code, unknown.topic_id) == (ErrorCode.UNKNOWN_TOPIC_ID, uuid.UUID(bytes=b"\x01" * 16))
    assert unknown.name is None


@pytest.mark.parametrize("version", [10, 11])
def test_an_id_is_no_question_before_version_12(orders: Broker, version: int) -> None:
    handle = orders.topics.find("orders")
    assert handle is not None
    refused, known, new = ask(orders, "Metadata", version, topics=with_id(handle.id) + named("orders", "new")).topics
    assert (refused.error_code, refused.name, refused.topic_id.bytes) == (ErrorCode.INVALID_REQUEST, "", handle.id)
    assert [topic.error_code for topic in (known, new)] == [ErrorCode.INVALID_REQUEST] * 2
    assert orders.topics.find("new") is None


def test_with_name_and_id_the_id_counts(orders: Broker) -> None:
    handle = orders.topics.find("orders")
    assert handle is not None
    [topic] = ask(orders, "Metadata", 13, topics=[{"name": "plain", "topic_id": uuid.UUID(bytes=handle.id)}]).topics
    assert topic.name == "orders"


@pytest.mark.parametrize("version", VERSIONS)
def test_an_unknown_topic_is_created_and_answered_at_once(broker: Broker, version: int) -> None:
    [topic] = ask(broker, "Metadata", version, topics=named("fresh")).topics
    assert (topic.error_code, len(topic.partitions)) == (0, 1)
    assert broker.topics.find("fresh") is not None


@pytest.mark.parametrize("version", VERSIONS[4:])
def test_the_client_may_forbid_creation(broker: Broker, version: int) -> None:
    [topic] = ask(broker, "Metadata", version, topics=named("fresh"), allow_auto_topic_creation=False).topics
    assert (topic.name, topic.error_code) == ("fresh", ErrorCode.UNKNOWN_TOPIC_OR_PARTITION)
    assert broker.topics.find("fresh") is None


def test_the_broker_may_forbid_creation_and_say_how_wide() -> None:
    with Log.create(size=REGION_SIZE) as log:
        broker = make_broker(log, {"auto.create.topics.enable": "false"})
        [topic] = ask(broker, "Metadata", 13, topics=named("fresh")).topics
        assert topic.error_code == ErrorCode.UNKNOWN_TOPIC_OR_PARTITION
        [topic] = ask(make_broker(log, {"num.partitions": "7"}), "Metadata", 13, topics=named("fresh")).topics
        assert len(topic.partitions) == 7


@pytest.mark.parametrize("allowed", [True, False])
@pytest.mark.parametrize("name", ["", "a b", "..", "n" * 250])
def test_bad_names(broker: Broker, name: str, allowed: bool) -> None:
    [topic] = ask(broker, "Metadata", 13, topics=named(name), allow_auto_topic_creation=allowed).topics
    assert (topic.name, topic.error_code) == (name, ErrorCode.INVALID_TOPIC_EXCEPTION)


@pytest.mark.parametrize("name", ["__consumer_offsets", "nothing.total-order"])
def test_what_is_not_there_yet_is_unknown_and_not_created(broker: Broker, name: str) -> None:
    [topic] = ask(broker, "Metadata", 13, topics=named(name)).topics
    assert topic.error_code == ErrorCode.UNKNOWN_TOPIC_OR_PARTITION
    assert broker.topics.find(name) is None


def test_a_topic_asked_for_twice_is_told_once(orders: Broker) -> None:
    assert len(ask(orders, "Metadata", 13, topics=named("orders", "plain", "orders")).topics) == 2


def test_a_topic_asked_for_by_its_id_under_many_names_is_told_once(orders: Broker) -> None:
    handle = orders.topics.find("orders")
    assert handle is not None
    wanted = [{"topic_id": uuid.UUID(bytes=handle.id), "name": f"name-{number}"} for number in range(5)]
    assert len(ask(orders, "Metadata", 13, topics=wanted).topics) == 1


def test_a_name_that_collides_is_not_created(broker: Broker) -> None:
    broker.topics.create("a.b", partitions=1)
    [topic] = ask(broker, "Metadata", 13, topics=named("a_b")).topics
    assert topic.error_code == ErrorCode.INVALID_TOPIC_EXCEPTION
