"""Fetch, field by field: limits, offsets inside of a batch, errors, and what ends a long poll; as Apache Kafka 4.3.1
does it."""

import time

import pytest

from compat_tests.asking import Asker, fetch, found, wait_until_ready
from compat_tests.conftest import MakeTopic
from compat_tests.raw import batch, produce, record

NONE, OUT_OF_RANGE, UNKNOWN_TOPIC = 0, 1, 3
NOW_MS = int(time.time() * 1000)
WAIT_MS = 120_000
"""Longer than a test waits for an answer: one that is waited for to the end fails."""


def offsets(records: bytes) -> list[int]:
    """Base offsets of the whole batches."""
    bases = []
    while len(records) >= 12 and len(records) >= 12 + int.from_bytes(records[8:12], "big"):
        bases.append(int.from_bytes(records[:8], "big"))
        records = records[12 + int.from_bytes(records[8:12], "big") :]
    return bases


@pytest.fixture
def empty(address: str, make_topic: MakeTopic) -> str:
    topic = make_topic(1)
    wait_until_ready(address, topic)
    return topic


@pytest.fixture
def filled(address: str, make_topic: MakeTopic) -> str:
    """In each of two partitions three batches of three records."""
    topic = make_topic(2)
    wait_until_ready(address, topic, 2)
    for _ in range(3):
        data = batch([record(at) for at in range(3)], now_ms=NOW_MS)
        assert produce(address, topic, [(0, data), (1, data)]) is not None
    return topic


def test_an_offset_inside_of_a_batch_brings_the_batch(address: str, filled: str) -> None:
    with Asker(address) as asker:
        for offset, bases in ((0, [0, 3, 6]), (2, [0, 3, 6]), (3, [3, 6]), (8, [6]), (9, [])):
            code, records = found(asker.ask("Fetch", 12, **fetch(filled, offset=offset)))[0]
            assert (code, offsets(records)) == (NONE, bases)


def test_the_first_batch_comes_whole_whatever_the_limits(address: str, filled: str) -> None:
    with Asker(address) as asker:
        size = len(found(asker.ask("Fetch", 12, **fetch(filled)))[0][1]) // 3
        for limits in ({"most": 1}, {"part_most": 1}, {"most": 1, "part_most": 1}):
            first, second = found(asker.ask("Fetch", 12, **fetch(filled, 0, 1, **limits))).values()
            assert (offsets(first[1]), offsets(second[1])) in (([0], []), ([], [0])), limits
        parts = found(asker.ask("Fetch", 12, **fetch(filled, 0, 1, part_most=2 * size)))
        assert [offsets(records) for _, records in parts.values()] == [[0, 3], [0, 3]]


def test_a_long_poll_ends_when_data_comes(address: str, empty: str) -> None:
    with Asker(address) as asker:
        asker.send("Fetch", 12, **fetch(empty, wait_ms=WAIT_MS))
        assert produce(address, empty, [(0, batch([record()], now_ms=NOW_MS))]) is not None
        code, records = found(asker.answer("Fetch", 12))[0]
        assert (code, offsets(records)) == (NONE, [0])


def test_a_long_poll_ends_when_the_topic_does(address: str, empty: str) -> None:
    with Asker(address) as asker, Asker(address) as admin:
        asker.send("Fetch", 12, **fetch(empty, wait_ms=WAIT_MS))
        admin.ask("DeleteTopics", 5, topic_names=[empty], timeout_ms=5000)
        assert found(asker.answer("Fetch", 12))[0] == (UNKNOWN_TOPIC, b"")


def test_an_error_is_told_at_once(address: str, filled: str) -> None:
    asked = fetch(filled, 0, 1, offset=9, wait_ms=WAIT_MS)
    asked["topics"][0]["partitions"][1]["fetch_offset"] = 10
    with Asker(address) as asker:
        assert found(asker.ask("Fetch", 12, **asked)) == {0: (NONE, b""), 1: (OUT_OF_RANGE, b"")}
        nowhere = fetch(filled, 7, wait_ms=WAIT_MS)
        assert found(asker.ask("Fetch", 12, **nowhere)) == {7: (UNKNOWN_TOPIC, b"")}


def test_an_unknown_partition_is_told_with_what_comes_to_the_others(address: str, filled: str) -> None:
    with Asker(address) as asker, Asker(address) as other:
        asker.send("Fetch", 12, **fetch(filled, 0, 7, offset=9, wait_ms=WAIT_MS))
        other.ask("ApiVersions", 2)
        assert produce(address, filled, [(0, batch([record()], now_ms=NOW_MS))]) is not None
        parts = found(asker.answer("Fetch", 12))
    assert parts[7] == (UNKNOWN_TOPIC, b"")
    assert offsets(parts[0][1]) == [9]


def test_what_is_there_and_is_not_enough_comes_when_the_time_is_over(address: str, filled: str) -> None:
    with Asker(address) as asker:
        code, records = found(asker.ask("Fetch", 12, **fetch(filled, least=1 << 20, wait_ms=100)))[0]
        assert (code, offsets(records)) == (NONE, [0, 3, 6])
