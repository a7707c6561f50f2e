"""Topics as handlers see them, on a real log."""

from collections.abc import Callable
from pathlib import Path

import pytest

from totalog.engine import VIEW, Log, Topic
from totalog.gateway import view
from totalog.gateway.broker import Broker
from totalog.gateway.config import Config
from totalog.gateway.tests.harness import REGION_SIZE, make_broker
from totalog.gateway.topics import (
    RESERVED_PARTITIONS,
    RESERVED_TOPICS,
    Refused,
    TopicHandle,
    Topics,
    pack_settings,
    unpack_settings,
)
from totalog.gateway.wire.errors import ErrorCode


@pytest.fixture
def topics(broker: Broker) -> Topics:
    return broker.topics


def found(topics: Topics, name: str) -> TopicHandle:
    handle = topics.find(name)
    assert handle is not None
    return handle


def refused(call: Callable[[], object]) -> Refused:
    with pytest.raises(Refused) as caught:
        call()
    return caught.value


def test_a_topic_is_found_by_name_and_by_id(topics: Topics) -> None:
    created = topics.create("orders", partitions=3)
    assert topics.find("orders") == topics.find_id(created.id) == created
    assert (created.partitions, created.is_view) == (3, False)
    assert [created.read_partition(partition) for partition in range(3)] == [0, 1, 2]
    assert [created.has_partition(partition) for partition in (-1, 0, 2, 3)] == [False, True, True, False]


def test_a_view_is_found_but_not_listed(topics: Topics) -> None:
    created = topics.create("orders", partitions=3)
    handle = found(topics, "orders.total-order")
    assert topics.find_id(view.view_id(created.id)) == handle
    assert (handle.partitions, handle.is_view, handle.topic) == (1, True, created.topic)
    assert handle.read_partition(0) == VIEW
    assert [handle.name for handle in topics.all()] == ["orders"]


@pytest.mark.parametrize("name", ["orders", "n" * 238])
def test_topics_without_a_view(topics: Topics, name: str) -> None:
    topics.create(name, partitions=1, config={"totalog.order.level": "0"} if name == "orders" else {})
    assert topics.find(view.view_name(name)) is None


@pytest.mark.parametrize(
    "name",
    [
        "",
        ".",
        "..",
        "with space",
        "ümlaut",
        "a/b",
        "n" * 250,
        "orders.total-order",
        "__consumer_offsets",
        "__totalog_x",
    ],
)
def test_bad_names_are_refused(topics: Topics, name: str) -> None:
    assert refused(lambda: topics.create(name, partitions=1)).code is ErrorCode.INVALID_TOPIC_EXCEPTION
    assert topics.all() == []


def test_names_with_leading_underscores_are_good_names(topics: Topics) -> None:
    topics.create("__strange", partitions=1)
    topics.create("_schemas", partitions=1)
    assert not any(handle.topic.internal for handle in topics.all())


def test_internal_topics(topics: Topics) -> None:
    created = topics.create("__consumer_offsets", partitions=1, internal=True)
    assert created.topic.internal
    assert topics.find("__consumer_offsets.total-order") is None
    assert (created.topic.retention_bytes, created.topic.retention_ms) == (-1, -1)


def test_names_that_differ_in_dot_and_underscore_collide(topics: Topics) -> None:
    topics.create("a.b", partitions=1)
    refusal = refused(lambda: topics.create("a_b", partitions=1))
    assert refusal.code is ErrorCode.INVALID_TOPIC_EXCEPTION
    assert "a.b" in refusal.message
    topics.delete(found(topics, "a.b"))
    topics.create("a_b", partitions=1)


def test_a_topic_exists_once(topics: Topics) -> None:
    topics.create("orders", partitions=1)
    assert refused(lambda: topics.create("orders", partitions=1)).code is ErrorCode.TOPIC_ALREADY_EXISTS


def test_deleting_takes_the_view_along(topics: Topics) -> None:
    created = topics.create("orders", partitions=1)
    topics.delete(created)
    assert topics.find("orders") is topics.find("orders.total-order") is None
    assert topics.find_id(created.id) is topics.find_id(view.view_id(created.id)) is None
    assert refused(lambda: topics.delete(created)).code is ErrorCode.UNKNOWN_TOPIC_OR_PARTITION
    assert topics.create("orders", partitions=1).id != created.id


def test_adding_partitions(topics: Topics) -> None:
    created = topics.create("orders", partitions=1)
    assert topics.add_partitions(created, 4).partitions == 4
    assert found(topics, "orders").partitions == 4
    assert found(topics, "orders.total-order").topic.partitions == 4
    assert found(topics, "orders").id == created.id


def test_what_others_change_is_seen(broker: Broker) -> None:
    """Another broker on the same region has its own copy of the table."""
    other = Topics(broker.log, Config(), broker.replication)
    broker.topics.create("orders", partitions=1)
    assert other.find("orders") is not None
    other.create("lines", partitions=1)
    broker.topics.create("after", partitions=1)
    assert {handle.name for handle in broker.topics.all()} == {"orders", "lines", "after"}
    other.delete(found(other, "orders"))
    assert broker.topics.find("orders") is None


def test_a_change_costs_what_changed(broker: Broker, monkeypatch: pytest.MonkeyPatch) -> None:
    """However many topics there are: nothing else is read again, when it is made and when the last of it is swept."""
    for number in range(40):
        broker.topics.create(f"t{number}", partitions=1)
    learned: list[str] = []
    learn = Topics._learn

    def counted(topics: Topics, topic: Topic) -> None:
        learned.append(topic.name)
        learn(topics, topic)

    monkeypatch.setattr(Topics, "_learn", counted)
    broker.topics.delete(found(broker.topics, "t7"))
    while broker.log.maintain(0):
        pass
    assert broker.topics.find("t7") is None
    broker.topics.create("t7", partitions=2)
    broker.topics.add_partitions(found(broker.topics, "t8"), 3)
    broker.topics.alter(found(broker.topics, "t9"), {"retention.ms": "1000"})
    broker.topics.trim(found(broker.topics, "t9"), 0, 0)
    assert len(broker.topics.all()) == 40
    assert learned == ["t7", "t8", "t9"]


def test_settings_come_back(topics: Topics, broker: Broker) -> None:
    config = {"retention.ms": "1000", "retention.bytes": "-1", "cleanup.policy": "delete"}
    created = topics.create("orders", partitions=1, config=config)
    assert (created.topic.retention_ms, created.topic.retention_bytes) == (1000, -1)
    again = Topics(broker.log, broker.config, broker.replication)
    assert found(again, "orders").config == found(again, "orders.total-order").config == config


@pytest.mark.parametrize("config", [{}, {"a": ""}, {"a": "1", "b": "x=y\nz", "ü": "ö"}])
def test_settings_survive_packing(config: dict[str, str]) -> None:
    assert unpack_settings(pack_settings(config)) == config


def test_the_brokers_retention_is_the_default() -> None:
    with Log.create(size=REGION_SIZE) as log:
        broker = make_broker(log, {"log.retention.ms": "5000", "log.retention.bytes": "77"})
        topic = broker.topics.create("orders", partitions=1).topic
        assert (topic.retention_ms, topic.retention_bytes) == (5000, 77)


def test_topics_survive_the_broker(tmp_path: Path) -> None:
    path = tmp_path / "region"
    with Log.create(path, size=REGION_SIZE) as log:
        created = make_broker(log).topics.create("orders", partitions=2, config={"retention.ms": "5"})
    with Log.attach(path) as log:
        assert make_broker(log).topics.find("orders") == created


def test_a_full_region_names_the_limit(broker: Broker) -> None:
    """The engine's own tests walk to the limit of topics; the limit of partitions is one call away."""
    broker.topics.create("wide", partitions=60_000)
    refusal = refused(lambda: broker.topics.create("more", partitions=60_000))
    assert refusal.code is ErrorCode.POLICY_VIOLATION
    assert "partitions" in refusal.message
    assert refused(lambda: broker.topics.add_partitions(found(broker.topics, "wide"), 70_000)).code is refusal.code
    assert broker.topics.find("more") is None


def test_who_fills_a_region_with_topics_leaves_room_for_internal_ones(broker: Broker) -> None:
    topics, log = broker.topics, broker.log
    most = log.topics_max - RESERVED_TOPICS
    for number in range(most):
        topics.create(f"t{number}", partitions=1)
    refusal = refused(lambda: topics.create("more", partitions=1))
    assert refusal.code is ErrorCode.POLICY_VIOLATION
    assert str(most) in refusal.message
    topics.add_partitions(found(topics, "t0"), 2)
    for number in range(RESERVED_TOPICS - 1):  # one is there since the start
        topics.create(f"__totalog_{number}", partitions=1, internal=True)
    topics.delete(found(topics, "t1"))
    topics.create("more", partitions=1)
    assert refused(lambda: topics.create("still-more", partitions=1)).code is ErrorCode.POLICY_VIOLATION


def test_who_fills_a_region_with_partitions_leaves_room_for_internal_topics(broker: Broker) -> None:
    topics, log = broker.topics, broker.log
    most = log.partitions_max - RESERVED_PARTITIONS
    topics.create("wide", partitions=most - 1)
    assert refused(lambda: topics.create("two", partitions=2)).code is ErrorCode.POLICY_VIOLATION
    topics.create("one", partitions=1)
    assert refused(lambda: topics.add_partitions(found(topics, "one"), 2)).code is ErrorCode.POLICY_VIOLATION
    topics.create("__consumer_offsets", partitions=1, internal=True)
    topics.delete(found(topics, "wide"))
    topics.add_partitions(found(topics, "one"), 100)


def test_new_ids_are_random_uuids(topics: Topics) -> None:
    ids = {topics.create(f"t{number}", partitions=1).id for number in range(20)}
    assert len(ids) == 20
    assert all(topic_id[6] >> 4 == 4 and topic_id[8] >> 6 == 2 for topic_id in ids)
