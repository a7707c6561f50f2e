"""What the gateway relies on in a log with data directories: of the one with real files, and of the one by hand."""

import os
import select
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from totalog.engine import Log
from totalog.engine.durable import open_log
from totalog.gateway.broker import Broker
from totalog.gateway.tests.harness import NOW_MS, make_broker
from totalog.gateway.tests.replicas import ReplicaLog
from totalog.gateway.wire import records

DIRECTORIES = 2
WAIT_S_MAX = 60.0

Settle = Callable[[Log], None]
"""Everything that is ordered becomes durable everywhere."""


def by_hand(log: Log) -> None:
    assert isinstance(log, ReplicaLog)
    for directory in range(DIRECTORIES):
        log.store(directory)


def by_itself(log: Log) -> None:
    deadline = time.monotonic() + WAIT_S_MAX
    ordered, descriptor = log.frontiers().ordered, log.replica_descriptor
    assert descriptor is not None
    assert not os.get_blocking(descriptor)
    while log.replicated(DIRECTORIES) < ordered:
        assert time.monotonic() < deadline
        assert select.select([descriptor], [], [], WAIT_S_MAX)[0], "it moved, and the descriptor did not tell"
        drain(log)


def drain(log: Log) -> None:
    assert log.replica_descriptor is not None
    try:
        os.eventfd_read(log.replica_descriptor)
    except BlockingIOError:
        return


@pytest.fixture(params=["by hand", "on disk"])
def world(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[tuple[Log, Settle]]:
    if request.param == "by hand":
        with ReplicaLog.make(DIRECTORIES) as log:
            yield log, by_hand
    else:
        paths = [tmp_path / f"data{index}" for index in range(DIRECTORIES)]
        with open_log(paths, size=64 << 20, region=tmp_path / "region") as durable:
            yield durable, by_itself


def append(broker: Broker, name: str, count: int = 1) -> None:
    handle = broker.topics.find(name) or broker.topics.create(name, partitions=1, replication=DIRECTORIES)
    for _ in range(count):
        broker.append_internal(handle, 0, records.build_batch([(b"key", b"value")], NOW_MS))


def test_directories(world: tuple[Log, Settle]) -> None:
    log, _ = world
    assert log.durable
    assert log.directories == DIRECTORIES == len(log.replicas())
    assert len({replica.path for replica in log.replicas()}) == DIRECTORIES
    assert [replica.failure for replica in log.replicas()] == [None] * DIRECTORIES


def test_levels_lie_in_order_and_never_go_back(world: tuple[Log, Settle]) -> None:
    log, settle = world
    broker = make_broker(log)
    before = [0] * DIRECTORIES
    for _ in range(20):
        append(broker, "orders", 5)
        levels = [log.replicated(level) for level in range(1, DIRECTORIES + 1)]
        assert log.frontiers().ordered >= levels[0] >= levels[1]
        assert all(now >= then for now, then in zip(levels, before, strict=True))
        before = levels
    settle(log)
    ordered = log.frontiers().ordered
    assert [log.replicated(level) for level in range(1, DIRECTORIES + 1)] == [ordered] * DIRECTORIES
    assert log.acknowledged(ordered - 1, 2, DIRECTORIES)
    assert not log.acknowledged(ordered, 2)
    assert [replica.replicated for replica in log.replicas()] == [ordered] * DIRECTORIES


def test_what_is_durable_is_visible_and_nothing_else(world: tuple[Log, Settle]) -> None:
    log, settle = world
    broker = make_broker(log)
    append(broker, "orders", 3)
    handle = broker.topics.find("orders")
    assert handle is not None
    settle(log)
    assert log.bounds(handle.topic, 0).next_offset == log.bounds(handle.topic, 0).end_offset == 3
    append(broker, "orders", 2)
    start = log.frontiers().ordered - 2
    before, bounds, after = log.replicated(DIRECTORIES), log.bounds(handle.topic, 0), log.replicated(DIRECTORIES)
    assert bounds.end_offset == 5
    assert 3 + max(before - start, 0) <= bounds.next_offset <= 3 + max(after - start, 0)
    settle(log)
    assert log.bounds(handle.topic, 0).next_offset == 5


def test_plain_logs_promise_what_is_ordered() -> None:
    with Log.create(size=64 << 20) as log:
        assert (log.durable, log.directories, log.replicas(), log.replica_descriptor) == (False, 0, (), None)
        assert log.replicated() == log.frontiers().ordered
