"""Settings of topics are changed while they are used."""

from collections.abc import Mapping
from typing import Any

import pytest

from totalog.gateway.broker import Broker
from totalog.gateway.tests.harness import ask
from totalog.gateway.wire.errors import ErrorCode

SET, DELETE, APPEND, SUBTRACT = range(4)
TOPIC, BROKER = 2, 4
OWN = {"retention.ms": "5000", "cleanup.policy": "compact,delete", "totalog.order.level": "0"}


@pytest.fixture(autouse=True)
def topic(broker: Broker) -> None:
    broker.topics.create("orders", partitions=2, config=OWN)


def own(broker: Broker) -> Mapping[str, str]:
    topic = broker.topics.find("orders")
    assert topic is not None
    return topic.config


def resource(configs: Any, name: str = "orders", kind: int = TOPIC) -> dict[str, Any]:
    return {"resource_type": kind, "resource_name": name, "configs": configs}


def change(broker: Broker, version: int, *resources: dict[str, Any], validate_only: bool = False) -> list[int]:
    answer = ask(broker, "IncrementalAlterConfigs", version, resources=list(resources), validate_only=validate_only)
    return [result.error_code for result in answer.responses]


def replace(broker: Broker, version: int, *resources: dict[str, Any], validate_only: bool = False) -> list[int]:
    answer = ask(broker, "AlterConfigs", version, resources=list(resources), validate_only=validate_only)
    return [result.error_code for result in answer.responses]


def op(name: str, operation: int, value: str | None = None) -> dict[str, Any]:
    return {"name": name, "config_operation": operation, "value": value}


def put(name: str, value: str | None) -> dict[str, Any]:
    return {"name": name, "value": value}


CHANGES: dict[str, tuple[list[dict[str, Any]], ErrorCode, dict[str, str | None]]] = {
    "set": ([op("retention.ms", SET, "7"), op("retention.bytes", SET, "9")], ErrorCode.NONE,
            {"retention.ms": "7", "retention.bytes": "9"}),
    "delete": ([op("retention.ms", DELETE)], ErrorCode.NONE, {"retention.ms": None}),
    "delete what is not set": ([op("retention.bytes", DELETE)], ErrorCode.NONE, {}),
    "delete what nobody knows": ([op("no.such", DELETE)], ErrorCode.NONE, {}),
    "subtract": ([op("cleanup.policy", SUBTRACT, "compact")], ErrorCode.NONE, {"cleanup.policy": "delete"}),
    "subtract the last": ([op("cleanup.policy", SUBTRACT, "compact,delete")], ErrorCode.NONE, {"cleanup.policy": ""}),
    "append what is there": ([op("cleanup.policy", APPEND, "delete")], ErrorCode.NONE, {}),
    "append to no list": ([op("retention.ms", APPEND, "1")], ErrorCode.INVALID_CONFIG, {}),
    "subtract from no list": ([op("retention.ms", SUBTRACT, "1")], ErrorCode.INVALID_CONFIG, {}),
    "append a bad entry": ([op("cleanup.policy", APPEND, "burn")], ErrorCode.INVALID_CONFIG, {}),
    "twice": ([op("retention.ms", SET, "1"), op("retention.ms", DELETE)], ErrorCode.INVALID_REQUEST, {}),
    "null": ([op("retention.ms", SET)], ErrorCode.INVALID_REQUEST, {}),
    "empty": ([op("retention.ms", SET, "")], ErrorCode.INVALID_CONFIG, {}),
    "unknown": ([op("no.such", SET, "1")], ErrorCode.INVALID_CONFIG, {}),
    "bad value": ([op("max.message.bytes", SET, "-1")], ErrorCode.INVALID_CONFIG, {}),
    "no operation": ([op("retention.ms", 4, "1")], ErrorCode.INVALID_REQUEST, {}),
    "one of two is bad": ([op("retention.bytes", SET, "9"), op("no.such", SET, "1")], ErrorCode.INVALID_CONFIG, {}),
    "only at creation": ([op("totalog.order.level", SET, "5")], ErrorCode.INVALID_CONFIG, {}),
    "back to the default, only at creation": ([op("totalog.order.level", DELETE)], ErrorCode.INVALID_CONFIG, {}),
    "what it is, only at creation": ([op("totalog.order.level", SET, "0")], ErrorCode.NONE, {}),
}  # fmt: skip


@pytest.mark.parametrize("version", [0, 1])
@pytest.mark.parametrize("case", CHANGES)
def test_single_settings(broker: Broker, version: int, case: str) -> None:
    configs, code, changed = CHANGES[case]
    assert change(broker, version, resource(configs), validate_only=True) == [code]
    assert own(broker) == OWN
    assert change(broker, version, resource(configs)) == [code]
    assert own(broker) == {name: value for name, value in {**OWN, **changed}.items() if value is not None}


@pytest.mark.parametrize("version", [0, 1, 2])
def test_all_settings_at_once(broker: Broker, version: int) -> None:
    level = {"totalog.order.level": "0"}
    configs = [put("max.message.bytes", "77")]
    assert replace(broker, version, resource(configs), validate_only=True) == [ErrorCode.NONE]
    assert own(broker) == OWN
    assert replace(broker, version, resource(configs)) == [ErrorCode.NONE]
    assert own(broker) == {"max.message.bytes": "77", **level}
    for bad, code in [
        ([put("max.message.bytes", None)], ErrorCode.INVALID_REQUEST),
        ([put("max.message.bytes", "1"), put("max.message.bytes", "2")], ErrorCode.INVALID_REQUEST),
        ([put("max.message.bytes", "x")], ErrorCode.INVALID_CONFIG),
        ([put("totalog.order.level", "5")], ErrorCode.INVALID_CONFIG),
        ([put("no.such", "5")], ErrorCode.INVALID_CONFIG),
    ]:
        assert replace(broker, version, resource(bad)) == [code]
    assert own(broker) == {"max.message.bytes": "77", **level}
    assert replace(broker, version, resource([])) == [ErrorCode.NONE]
    assert own(broker) == level


@pytest.mark.parametrize("alter", [change, replace])
def test_resources_that_cannot_be_changed(broker: Broker, alter: Any) -> None:
    broker.topics.create("total", partitions=1)
    broker.topics.create("__consumer_offsets", partitions=1, internal=True)
    cases = [
        (resource([], "nobody"), ErrorCode.UNKNOWN_TOPIC_OR_PARTITION),
        (resource([], "no body"), ErrorCode.INVALID_TOPIC_EXCEPTION),
        (resource([], "total.total-order"), ErrorCode.INVALID_TOPIC_EXCEPTION),
        (resource([], "__consumer_offsets"), ErrorCode.INVALID_TOPIC_EXCEPTION),
        (resource([], "77", BROKER), ErrorCode.INVALID_REQUEST),
        (resource([], "orders", 9), ErrorCode.INVALID_REQUEST),
        (resource([], "orders"), ErrorCode.NONE),
    ]
    assert alter(broker, 1, *(asked for asked, _ in cases)) == [code for _, code in cases]
    assert alter(broker, 1, resource([]), resource([])) == [ErrorCode.INVALID_REQUEST]


@pytest.mark.parametrize("name", ["", "0"])
def test_a_broker_stays_without_dynamic_settings(broker: Broker, name: str) -> None:
    """Tools delete what limits reassignments when one is over, whether or not it was set."""
    gone = [op("leader.replication.throttled.rate", DELETE), op("num.partitions", DELETE)]
    assert change(broker, 1, resource(gone, name, BROKER)) == [ErrorCode.NONE]
    assert change(broker, 1, resource([], name, BROKER)) == [ErrorCode.NONE]
    assert replace(broker, 1, resource([], name, BROKER)) == [ErrorCode.NONE]
    refused = ErrorCode.INVALID_REQUEST
    assert change(broker, 1, resource([*gone, op("num.partitions", SET, "3")], name, BROKER)) == [refused]
    assert change(broker, 1, resource([gone[0], gone[0]], name, BROKER)) == [refused]
    assert replace(broker, 1, resource([put("num.partitions", "3")], name, BROKER)) == [refused]


def test_what_is_changed_counts_at_once(broker: Broker) -> None:
    configs = [op("retention.bytes", SET, "1234"), op("cleanup.policy", SET, "delete"), op("retention.ms", DELETE)]
    assert change(broker, 1, resource(configs)) == [ErrorCode.NONE]
    topic = broker.topics.find("orders")
    assert topic is not None
    assert (topic.topic.retention_bytes, topic.topic.retention_ms) == (1234, 604800000)
    assert (topic.topic.order_level, topic.partitions) == (0, 2)
    assert change(broker, 1, resource([op("cleanup.policy", SET, "compact")])) == [ErrorCode.NONE]
    topic = broker.topics.find("orders")
    assert topic is not None
    assert (topic.topic.retention_bytes, topic.topic.retention_ms) == (-1, -1)


def test_settings_beyond_what_a_region_holds_are_refused(broker: Broker) -> None:
    name = "leader.replication.throttled.replicas"
    assert change(broker, 1, resource([op(name, SET, ",".join(["0:1"] * 8000))])) == [ErrorCode.NONE]
    both = [op("follower.replication.throttled.replicas", SET, ",".join(["0:1"] * 2000))]
    assert change(broker, 1, resource(both)) == [ErrorCode.POLICY_VIOLATION]
    assert own(broker).keys() == {*OWN, name}
