"""CreateTopics, DeleteTopics and CreatePartitions: rules, refusals, and that a change is there when the answer is."""

import uuid
from typing import Any

import pytest

from totalog.engine import Log
from totalog.gateway.broker import Broker
from totalog.gateway.settings import TOPIC
from totalog.gateway.tests.harness import REGION_SIZE, ask, make_broker
from totalog.gateway.topics import TopicHandle
from totalog.gateway.wire.errors import ErrorCode

CREATE, DELETE, WIDEN = range(2, 8), range(1, 7), range(4)
SPEC = {"num_partitions": -1, "replication_factor": -1}


def create(
    broker: Broker, version: int = 7, *, validate_only: bool = False, name: str = "orders", **fields: Any
) -> Any:
    """The result of one topic."""
    topic = {**SPEC, "name": name, **fields}
    [result] = ask(broker, "CreateTopics", version, topics=[topic], validate_only=validate_only).topics
    assert result.name == name
    return result


def delete(broker: Broker, version: int, *names: str) -> list[Any]:
    if version >= 6:
        fields: dict[str, Any] = {"topics": [{"name": name} for name in names]}
    else:
        fields = {"topic_names": list(names)}
    return list(ask(broker, "DeleteTopics", version, **fields).responses)


def widen(broker: Broker, count: int, *, version: int = 3, validate_only: bool = False, **fields: Any) -> Any:
    topic = {"name": "orders", "count": count, "assignments": None, **fields}
    [result] = ask(broker, "CreatePartitions", version, topics=[topic], validate_only=validate_only).results
    return result


def found(broker: Broker, name: str) -> TopicHandle:
    handle = broker.topics.find(name)
    assert handle is not None
    return handle


@pytest.mark.parametrize("version", CREATE)
def test_a_topic_is_there_when_the_answer_is(broker: Broker, version: int) -> None:
    configs = [{"name": "retention.ms", "value": "1234"}]
    result = create(broker, version, num_partitions=5, replication_factor=1, configs=configs)
    assert (result.error_code, result.error_message) == (0, None)
    handle = found(broker, "orders")
    assert (handle.partitions, handle.config, handle.topic.retention_ms) == (5, {"retention.ms": "1234"}, 1234)
    if version >= 5:
        assert (result.num_partitions, result.replication_factor) == (5, 1)
        told = {config.name: (config.value, config.config_source) for config in result.configs}
        assert set(told) == set(TOPIC)
        assert told["retention.ms"] == ("1234", 1)
        assert told["retention.bytes"] == ("-1", 5)
    if version >= 7:
        assert result.topic_id == uuid.UUID(bytes=handle.id)


def test_the_brokers_defaults() -> None:
    with Log.create(size=REGION_SIZE) as log:
        broker = make_broker(log, {"num.partitions": "6", "log.retention.bytes": "99"})
        result = create(broker)
        told = {config.name: (config.value, config.config_source) for config in result.configs}
        assert (result.num_partitions, result.replication_factor) == (6, 1)
        assert told["retention.bytes"] == ("99", 4)
        assert found(broker, "orders").topic.retention_bytes == 99


def test_the_replication_factor_is_capped(broker: Broker) -> None:
    result = create(broker, replication_factor=3)
    assert (result.error_code, result.replication_factor) == (0, 1)


@pytest.mark.parametrize("version", CREATE)
@pytest.mark.parametrize(
    ("fields", "code", "word"),
    [
        ({"num_partitions": 0}, ErrorCode.INVALID_PARTITIONS, "not 0"),
        ({"num_partitions": -2}, ErrorCode.INVALID_PARTITIONS, "not -2"),
        ({"replication_factor": 0}, ErrorCode.INVALID_REPLICATION_FACTOR, "not 0"),
        ({"replication_factor": -7}, ErrorCode.INVALID_REPLICATION_FACTOR, "not -7"),
        ({"name": "a b"}, ErrorCode.INVALID_TOPIC_EXCEPTION, "a b"),
        ({"name": "x.total-order"}, ErrorCode.INVALID_TOPIC_EXCEPTION, "total-order views"),
        ({"name": "__consumer_offsets"}, ErrorCode.INVALID_TOPIC_EXCEPTION, "internal"),
        ({"num_partitions": 100_000}, ErrorCode.POLICY_VIOLATION, "partitions"),
        ({"configs": [{"name": "no.such", "value": "1"}]}, ErrorCode.INVALID_CONFIG, "no.such"),
        ({"configs": [{"name": "retention.ms", "value": "soon"}]}, ErrorCode.INVALID_CONFIG, "retention.ms"),
        ({"configs": [{"name": "retention.ms", "value": None}]}, ErrorCode.INVALID_CONFIG, "retention.ms"),
        ({"configs": [{"name": "totalog.order.level", "value": "3"}]}, ErrorCode.INVALID_CONFIG, "0, 5"),
    ],
)
def test_what_is_refused(broker: Broker, version: int, fields: Any, code: ErrorCode, word: str) -> None:
    result = create(broker, version, **fields)
    assert result.error_code == code
    assert word in result.error_message
    assert broker.topics.all() == []


def test_existing_and_colliding_names(broker: Broker) -> None:
    create(broker, name="a.b")
    assert create(broker, name="a.b").error_code == ErrorCode.TOPIC_ALREADY_EXISTS
    assert create(broker, name="a_b").error_code == ErrorCode.INVALID_TOPIC_EXCEPTION
    assert create(broker, name="a.b", validate_only=True).error_code == ErrorCode.TOPIC_ALREADY_EXISTS


def test_a_name_twice_is_refused_and_told_once(broker: Broker) -> None:
    topics = [{**SPEC, "name": name} for name in ("twice", "once", "twice")]
    answer = ask(broker, "CreateTopics", 7, topics=topics)
    assert {topic.name: topic.error_code for topic in answer.topics} == {
        "twice": ErrorCode.INVALID_REQUEST,
        "once": ErrorCode.NONE,
    }
    assert [handle.name for handle in broker.topics.all()] == ["once"]


def test_validate_only_makes_nothing(broker: Broker) -> None:
    result = create(broker, validate_only=True, num_partitions=3)
    assert (result.error_code, result.num_partitions) == (0, 3)
    assert broker.topics.all() == []
    assert create(broker, validate_only=True, num_partitions=0).error_code == ErrorCode.INVALID_PARTITIONS


def assigned(*replicas: list[int], first: int = 0) -> list[dict[str, Any]]:
    return [{"partition_index": first + index, "broker_ids": ids} for index, ids in enumerate(replicas)]


@pytest.mark.parametrize(
    ("fields", "code"),
    [
        ({"assignments": assigned([0], [0])}, ErrorCode.NONE),
        ({"assignments": assigned([0], [0], first=1)}, ErrorCode.INVALID_REPLICA_ASSIGNMENT),
        ({"assignments": assigned([0]) * 2}, ErrorCode.INVALID_REPLICA_ASSIGNMENT),
        ({"assignments": assigned([1])}, ErrorCode.INVALID_REPLICA_ASSIGNMENT),
        ({"assignments": assigned([0, 0])}, ErrorCode.INVALID_REPLICA_ASSIGNMENT),
        ({"assignments": assigned([])}, ErrorCode.INVALID_REPLICA_ASSIGNMENT),
        ({"assignments": assigned([0]), "num_partitions": 1}, ErrorCode.INVALID_REQUEST),
        ({"assignments": assigned([0]), "replication_factor": 1}, ErrorCode.INVALID_REQUEST),
    ],
)
def test_manual_assignments(broker: Broker, fields: Any, code: ErrorCode) -> None:
    assert create(broker, **fields).error_code == code
    assert [handle.partitions for handle in broker.topics.all()] == ([2] if code is ErrorCode.NONE else [])


def test_order_level_0_has_no_view(broker: Broker) -> None:
    create(broker, configs=[{"name": "totalog.order.level", "value": "0"}])
    assert found(broker, "orders").topic.order_level == 0
    assert broker.topics.find("orders.total-order") is None


@pytest.mark.parametrize("version", DELETE)
def test_a_topic_is_gone_when_the_answer_is_there(broker: Broker, version: int) -> None:
    broker.topics.create("orders", partitions=2)
    gone, unknown = delete(broker, version, "orders", "nothing")
    assert (gone.name, gone.error_code) == ("orders", 0)
    assert (unknown.name, unknown.error_code) == ("nothing", ErrorCode.UNKNOWN_TOPIC_OR_PARTITION)
    assert broker.topics.find("orders") is None
    assert create(broker).error_code == 0


def test_a_deletion_wakes_who_waits_for_records(broker: Broker, monkeypatch: pytest.MonkeyPatch) -> None:
    handle = broker.topics.create("orders", partitions=2)
    rung: list[object] = []
    monkeypatch.setattr(broker.appended, "ring", rung.append)
    delete(broker, 6, "orders", "nothing")
    assert rung == [handle.topic.slot]


def test_deleting_by_id(broker: Broker) -> None:
    handle = broker.topics.create("orders", partitions=2)
    ids = [uuid.UUID(bytes=handle.id), uuid.UUID(int=5)]
    gone, unknown = ask(broker, "DeleteTopics", 6, topics=[{"topic_id": topic_id} for topic_id in ids]).responses
    assert (gone.name, gone.topic_id, gone.error_code) == ("orders", ids[0], 0)
    assert (unknown.name, unknown.topic_id, unknown.error_code) == (None, ids[1], ErrorCode.UNKNOWN_TOPIC_ID)


def test_entries_of_a_deletion_that_are_not_sound(broker: Broker) -> None:
    handle = broker.topics.create("orders", partitions=2)
    topic_id = uuid.UUID(bytes=handle.id)
    for entries in (
        [{"name": "orders", "topic_id": topic_id}],
        [{"name": None}],
        [{"name": "orders"}, {"name": "orders"}],
        [{"name": "orders"}, {"topic_id": topic_id}],
    ):
        [result] = ask(broker, "DeleteTopics", 6, topics=entries).responses
        assert result.error_code == ErrorCode.INVALID_REQUEST, entries
    assert broker.topics.find("orders") is not None


@pytest.mark.parametrize("version", DELETE)
def test_views_and_internal_topics_stay(broker: Broker, version: int) -> None:
    broker.topics.create("orders", partitions=1)
    broker.topics.create("__consumer_offsets", partitions=1, internal=True)
    for result in delete(broker, version, "orders.total-order", "__consumer_offsets"):
        assert result.error_code == ErrorCode.INVALID_TOPIC_EXCEPTION
    assert len(broker.topics.all()) == 2


@pytest.mark.parametrize("version", DELETE)
def test_deletion_may_be_disabled(version: int) -> None:
    with Log.create(size=REGION_SIZE) as log:
        broker = make_broker(log, {"delete.topic.enable": "false"})
        broker.topics.create("orders", partitions=1)
        [result] = delete(broker, version, "orders")
        expected = ErrorCode.TOPIC_DELETION_DISABLED if version >= 3 else ErrorCode.INVALID_REQUEST
        assert result.error_code == expected
        assert broker.topics.find("orders") is not None


@pytest.mark.parametrize("version", WIDEN)
def test_partitions_are_there_when_the_answer_is(broker: Broker, version: int) -> None:
    broker.topics.create("orders", partitions=2)
    result = widen(broker, 5, version=version)
    assert (result.name, result.error_code, result.error_message) == ("orders", 0, None)
    assert found(broker, "orders").partitions == 5


@pytest.mark.parametrize(
    ("fields", "code"),
    [
        ({"count": 2}, ErrorCode.INVALID_PARTITIONS),
        ({"count": 1}, ErrorCode.INVALID_PARTITIONS),
        ({"count": -1}, ErrorCode.INVALID_PARTITIONS),
        ({"count": 100_000}, ErrorCode.POLICY_VIOLATION),
        ({"count": 3, "name": "nothing"}, ErrorCode.UNKNOWN_TOPIC_OR_PARTITION),
        ({"count": 3, "name": "orders.total-order"}, ErrorCode.INVALID_TOPIC_EXCEPTION),
        ({"count": 3, "name": "__consumer_offsets"}, ErrorCode.INVALID_TOPIC_EXCEPTION),
        ({"count": 4, "assignments": [{"broker_ids": [0]}]}, ErrorCode.INVALID_REPLICA_ASSIGNMENT),
        ({"count": 3, "assignments": [{"broker_ids": [4]}]}, ErrorCode.INVALID_REPLICA_ASSIGNMENT),
        ({"count": 3, "assignments": [{"broker_ids": [0]}]}, ErrorCode.NONE),
    ],
)
def test_which_partitions_are_refused(broker: Broker, fields: Any, code: ErrorCode) -> None:
    broker.topics.create("orders", partitions=2)
    broker.topics.create("__consumer_offsets", partitions=1, internal=True)
    result = widen(broker, **fields)
    assert result.error_code == code
    assert (result.error_message is None) == (code is ErrorCode.NONE)
    assert found(broker, "orders").partitions == (3 if code is ErrorCode.NONE else 2)


def test_widening_may_be_tried_out(broker: Broker) -> None:
    broker.topics.create("orders", partitions=2)
    assert widen(broker, 5, validate_only=True).error_code == 0
    assert widen(broker, 1, validate_only=True).error_code == ErrorCode.INVALID_PARTITIONS
    assert found(broker, "orders").partitions == 2


def test_a_topic_widened_twice_in_one_request_stays(broker: Broker) -> None:
    broker.topics.create("orders", partitions=2)
    topics = [{"name": "orders", "count": count, "assignments": None} for count in (3, 4)]
    [result] = ask(broker, "CreatePartitions", 3, topics=topics).results
    assert result.error_code == ErrorCode.INVALID_REQUEST
    assert found(broker, "orders").partitions == 2
