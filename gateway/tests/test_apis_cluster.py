"""DescribeCluster and DescribeLogDirs."""

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
