"""What the log makes of its replicas' words: what may be released, what is visible, what leaves memory for the disk.

The replicas are played by hand (`driver.replicate`); the real ones have tests of their own.
"""

from collections.abc import Iterator

import pytest

from totalog.engine import VIEW, Log
from totalog.engine.tests import driver


@pytest.fixture
def log() -> Iterator[Log]:
    with Log.create(size=driver.SIZE_SMALL) as log:
        yield log


def test_a_topic_says_how_it_is_kept(log: Log) -> None:
    plain = log.create_topic("plain", id=driver.topic_id(0), partitions=1)
    assert (plain.memory, plain.visible_when_ordered, plain.replication) == (False, False, 1)
    kept = log.create_topic("kept", id=driver.topic_id(1), partitions=1, memory=True, replication=3, internal=True)
    assert log.find_topic("kept") == kept
    assert (kept.memory, kept.visible_when_ordered, kept.replication, kept.internal) == (True, False, 3, True)
    altered = log.alter_topic(plain, visible_when_ordered=True, replication=15)
    assert log.find_topic("plain") == altered
    assert (altered.visible_when_ordered, altered.replication) == (True, 15)
    assert log.alter_topic(altered, visible_when_ordered=False).replication == 15
    assert log.find_topic("kept") == kept


def test_without_data_directories_what_is_ordered_is_replicated(log: Log) -> None:
    topic = log.create_topic("a", id=driver.topic_id(0), partitions=1, replication=3)
    answer = driver.append_one(log, driver.Batch(topic, 0, b"a"))
    assert not log.durable
    assert (log.replicas(), log.replica_descriptor) == ((), None)
    assert log.replicated() == log.replicated(3) == log.frontiers().replicated == answer.global_position + 1
    for level in (0, 1, 2):
        assert log.acknowledged(answer.global_position, level, 3)
    assert not log.acknowledged(answer.global_position + 1, 2)
    assert log.bounds(topic, 0).next_offset == log.bounds(topic, VIEW).end_offset == 1
    driver.replicate(log, 2, 1)
    assert log.frontiers().replicated == 2
