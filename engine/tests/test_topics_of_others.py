"""Topic operations of several brokers: each of them knows all topics, whoever made them."""

import threading
from contextlib import ExitStack
from pathlib import Path

from totalog.engine import Log
from totalog.engine.shared import SharedLog
from totalog.engine.tests.processes import until


def create(log: SharedLog, name: str) -> None:
    log.create_topic(name, id=name.encode() * 16, partitions=1)


def test_two_brokers_make_topics_in_one_pass(tmp_path: Path) -> None:
    path = tmp_path / "region"
    Log.create(path, size=32 << 20).close()
    with ExitStack() as stack:
        sequencer, *brokers = (stack.enter_context(SharedLog.join(path)) for _ in range(3))
        sequencer.take_over()
        for log in brokers:
            assert list(log.topics()) == []
        threads = [threading.Thread(target=create, args=each) for each in zip(brokers, "ab", strict=True)]
        for thread in threads:
            thread.start()
        until(lambda: all(log.frontiers().written for log in brokers))
        assert sequencer.sequence(0) == 2
        for thread in threads:
            thread.join()
        for log in brokers:
            assert sorted(topic.name for topic in log.topics()) == ["a", "b"]
