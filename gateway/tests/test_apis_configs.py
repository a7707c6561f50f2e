"""DescribeConfigs: what is told, where it comes from, and of whom."""

from collections.abc import Iterator
from dataclasses import fields
from typing import Any

import pytest

from totalog.engine import Log
from totalog.gateway.broker import Broker
from totalog.gateway.metrics import Counters
from totalog.gateway.settings import BROKER, TOPIC
from totalog.gateway.tests.harness import REGION_SIZE, ask, make_broker
from totalog.gateway.wire.errors import ErrorCode

VERSIONS = range(1, 5)
TOPIC_RESOURCE, BROKER_RESOURCE = 2, 4


@pytest.fixture
def broker() -> Iterator[Broker]:
    with Log.create(size=REGION_SIZE) as log:
        broker = make_broker(log, {"log.retention.bytes": "500", "num.partitions": "4"})
        broker.topics.create("orders", partitions=1, config={"retention.bytes": "100", "segment.bytes": "200"})
        yield broker


def describe(
    broker: Broker,
    resource_type: int,
    name: str,
    *,
    version: int = 4,
    keys: list[str] | None = None,
    synonyms: bool = False,
    documentation: bool = False,
) -> Any:
    resource = {"resource_type": resource_type, "resource_name": name, "configuration_keys": keys}
    fields = {"include_documentation": documentation} if version >= 3 else {}
    answer = ask(broker, "DescribeConfigs", version, resources=[resource], include_synonyms=synonyms, **fields)
    [result] = answer.results
    assert (result.resource_type, result.resource_name) == (resource_type, name)
    return result


def by_name(result: Any) -> dict[str, Any]:
    assert result.error_code == 0
    return {config.name: config for config in result.configs}


@pytest.mark.parametrize("version", VERSIONS)
def test_all_settings_of_a_topic(broker: Broker, version: int) -> None:
    told = by_name(describe(broker, TOPIC_RESOURCE, "orders", version=version))
    assert set(told) == set(TOPIC)
    assert (told["retention.bytes"].value, told["retention.bytes"].config_source) == ("100", 1)
    assert (told["segment.bytes"].value, told["segment.bytes"].config_source) == ("200", 1)
    assert (told["retention.ms"].value, told["retention.ms"].config_source) == ("604800000", 5)
    assert (told["cleanup.policy"].value, told["preallocate"].value) == ("delete", "false")
    assert not any(config.is_sensitive or config.synonyms for config in told.values())
    fixed = {"totalog.order.level", "totalog.storage", "totalog.visibility"}
    assert {name for name, config in told.items() if config.read_only} == fixed


@pytest.mark.parametrize("version", VERSIONS)
def test_all_settings_of_the_broker(broker: Broker, version: int) -> None:
    told = by_name(describe(broker, BROKER_RESOURCE, "0", version=version))
    assert set(told) == set(BROKER)
    assert (told["num.partitions"].value, told["num.partitions"].config_source) == ("4", 4)
    assert (told["log.retention.bytes"].value, told["log.retention.bytes"].config_source) == ("500", 4)
    assert (told["message.max.bytes"].value, told["message.max.bytes"].config_source) == ("1048588", 5)
    assert told["log.retention.ms"].value == "604800000"
    assert all(config.read_only for config in told.values())


def test_synonyms_stand_in_the_order_in_which_they_count(broker: Broker) -> None:
    told = by_name(describe(broker, TOPIC_RESOURCE, "orders", synonyms=True))

    def synonyms(name: str) -> list[tuple[str, str, int]]:
        return [(synonym.name, synonym.value, synonym.source) for synonym in told[name].synonyms]

    assert synonyms("retention.bytes") == [
        ("retention.bytes", "100", 1),
        ("log.retention.bytes", "500", 4),
        ("log.retention.bytes", "-1", 5),
    ]
    assert synonyms("segment.bytes") == [("segment.bytes", "200", 1), ("segment.bytes", "1073741824", 5)]
    assert synonyms("max.message.bytes") == [("message.max.bytes", "1048588", 5)]


@pytest.mark.parametrize("version", [3, 4])
def test_types_and_documentation(broker: Broker, version: int) -> None:
    told = by_name(describe(broker, TOPIC_RESOURCE, "orders", version=version, documentation=True))
    for name, config in told.items():
        assert (config.config_type, config.documentation) == (TOPIC[name].type.value, TOPIC[name].doc)
    silent = by_name(describe(broker, TOPIC_RESOURCE, "orders", version=version))
    assert {config.documentation for config in silent.values()} == {None}


def test_some_settings(broker: Broker) -> None:
    keys = ["retention.ms", "cleanup.policy", "no.such"]
    assert set(by_name(describe(broker, TOPIC_RESOURCE, "orders", keys=keys))) == {"retention.ms", "cleanup.policy"}
    assert set(by_name(describe(broker, TOPIC_RESOURCE, "orders", keys=[]))) == set(TOPIC)


@pytest.mark.parametrize("version", VERSIONS)
def test_what_the_broker_counts_is_told_to_who_asks_by_name(broker: Broker, version: int) -> None:
    def counters() -> dict[str, int]:
        told = by_name(
            describe(broker, BROKER_RESOURCE, "0", version=version, keys=["totalog.counters", "num.partitions"])
        )
        assert set(told) == {"totalog.counters", "num.partitions"}
        assert told["totalog.counters"].read_only
        pairs = (pair.split("=") for pair in told["totalog.counters"].value.split(","))
        return {name: int(value) for name, value in pairs}

    before = counters()
    assert set(before) == {*broker.log.counters(), *(field.name for field in fields(Counters))}
    broker.counters.connections_refused += 7
    assert counters()["connections_refused"] == before["connections_refused"] + 7
    assert before["sequencer_passes"] == broker.log.counters()["sequencer_passes"] > 0
    broker.topics.create(f"more-{version}", partitions=1, config={})
    assert counters()["sequencer_passes"] > before["sequencer_passes"]
    assert by_name(describe(broker, BROKER_RESOURCE, "", version=version, keys=["totalog.counters"])) == {}
    assert by_name(describe(broker, TOPIC_RESOURCE, "orders", version=version, keys=["totalog.counters"])) == {}


def test_a_view_tells_its_topics_settings(broker: Broker) -> None:
    told = by_name(describe(broker, TOPIC_RESOURCE, "orders.total-order"))
    assert told["retention.bytes"].value == "100"
    assert all(config.read_only for config in told.values())


def test_there_are_no_cluster_wide_dynamic_settings(broker: Broker) -> None:
    assert by_name(describe(broker, BROKER_RESOURCE, "")) == {}


@pytest.mark.parametrize(
    ("resource_type", "name", "code"),
    [
        (TOPIC_RESOURCE, "nothing", ErrorCode.UNKNOWN_TOPIC_OR_PARTITION),
        (TOPIC_RESOURCE, "nothing.total-order", ErrorCode.UNKNOWN_TOPIC_OR_PARTITION),
        (TOPIC_RESOURCE, "", ErrorCode.INVALID_TOPIC_EXCEPTION),
        (TOPIC_RESOURCE, "a b", ErrorCode.INVALID_TOPIC_EXCEPTION),
        (BROKER_RESOURCE, "7", ErrorCode.INVALID_REQUEST),
        (8, "0", ErrorCode.INVALID_REQUEST),
        (32, "", ErrorCode.INVALID_REQUEST),
        (16, "", ErrorCode.INVALID_REQUEST),
        (99, "what", ErrorCode.INVALID_REQUEST),
    ],
)
def test_what_has_no_settings_here(broker: Broker, resource_type: int, name: str, code: ErrorCode) -> None:
    result = describe(broker, resource_type, name)
    assert result.error_code == code
    assert result.error_message
    assert result.configs == []


@pytest.mark.parametrize("resource_type", [16, 32])
def test_groups_and_metrics_have_no_settings(broker: Broker, resource_type: int) -> None:
    assert by_name(describe(broker, resource_type, "group")) == {}


def test_a_resource_named_twice_is_told_once(broker: Broker) -> None:
    resource = {"resource_type": TOPIC_RESOURCE, "resource_name": "orders", "configuration_keys": None}
    assert len(ask(broker, "DescribeConfigs", 4, resources=[resource] * 3).results) == 1
