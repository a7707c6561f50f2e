"""What a broker is to its handlers: its identity, and records of its own."""

from pathlib import Path

import pytest

from totalog.engine import Log
from totalog.gateway.broker import AppendFailed, Broker, SystemClock
from totalog.gateway.config import Config
from totalog.gateway.producer_ids import BLOCK_COUNT
from totalog.gateway.tests.harness import NOW_MS, REGION_SIZE, FixedClock, make_broker
from totalog.gateway.wire import records
from totalog.gateway.wire.errors import ErrorCode


def test_the_advertised_address_counts(broker: Broker) -> None:
    assert (broker.host, broker.port) == ("broker.test", 9092)
    advertised = ("kafka.example", 19092)
    other = Broker(broker.log, Config(), clock=FixedClock(), host="0.0.0.0", port=1, advertised=advertised)
    assert (other.host, other.port, other.listener) == (*advertised, ("0.0.0.0", 1))


def test_the_cluster_id_is_that_of_the_region(tmp_path: Path) -> None:
    path = tmp_path / "region"
    with Log.create(path, size=REGION_SIZE) as log:
        first = make_broker(log).cluster_id
        assert make_broker(log).cluster_id == first
    with Log.attach(path) as log:
        assert make_broker(log).cluster_id == first
    with Log.create(size=REGION_SIZE) as log:
        assert make_broker(log).cluster_id != first
    assert len(first) == 22


def test_internal_appends_get_offsets_in_order(broker: Broker) -> None:
    topic = broker.topics.create("__totalog_test", partitions=2, internal=True)
    batch = records.build_batch([(b"k", b"v"), (b"k", None)], NOW_MS)
    assert [broker.append_internal(topic, partition, batch) for partition in (0, 0, 1, 0)] == [0, 2, 0, 4]
    assert broker.log.bounds(topic.topic, 0).next_offset == 6


def test_an_internal_append_rings(broker: Broker) -> None:
    rung: list[object] = []
    broker.appended.ring = rung.append  # type: ignore[assignment,method-assign]
    topic = broker.topics.create("__totalog_test", partitions=1, internal=True)
    broker.append_internal(topic, 0, records.build_batch([(b"k", b"v")], NOW_MS))
    assert rung == [topic.topic.slot]


def test_an_append_to_a_topic_that_is_gone_fails(broker: Broker) -> None:
    topic = broker.topics.create("__totalog_test", partitions=1, internal=True)
    broker.topics.delete(topic)
    with pytest.raises(AppendFailed) as failed:
        broker.append_internal(topic, 0, records.build_batch([(b"k", b"v")], NOW_MS))
    assert failed.value.code is ErrorCode.UNKNOWN_TOPIC_OR_PARTITION


def test_producer_ids_never_repeat(tmp_path: Path) -> None:
    """Over blocks, over brokers on one region, and over restarts."""
    path = tmp_path / "region"
    taken = []
    with Log.create(path, size=REGION_SIZE) as log:
        brokers = [make_broker(log), make_broker(log)]
        for _ in range(BLOCK_COUNT + 5):
            taken += [broker.producer_ids.take() for broker in brokers]
    with Log.attach(path) as log:
        broker = make_broker(log)
        taken += [broker.producer_ids.take() for _ in range(10)]
        bounds = broker.log.bounds(broker.state_topic.topic, 0)
        assert bounds.next_offset - bounds.log_start_offset == 1
    assert len(set(taken)) == len(taken)
    assert min(taken) == 0


def test_the_system_clock_counts_milliseconds() -> None:
    assert SystemClock().wall_ms() > NOW_MS
