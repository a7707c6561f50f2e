"""Producers with an id: what is stored, what is a duplicate, what is refused. Asked batch by batch, as Apache Kafka
4.3.1 answers; and fetched again, with the limits and waits of one request."""

import itertools
import time
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import pytest

from compat_tests.asking import Asker
from compat_tests.conftest import MakeTopic
from compat_tests.raw import batch, produce, record

NONE, OUT_OF_RANGE, UNKNOWN_TOPIC, OUT_OF_ORDER, OLD_EPOCH = 0, 1, 3, 45, 47
LAST = 2**31 - 1
NOW_MS = int(time.time() * 1000)
WAIT_MS = 60_000
"""Longer than a test waits for an answer: one that is waited for to the end fails."""
PRODUCER_IDS = itertools.count(5_000_000)


class Sent(NamedTuple):
    sequence: int
    code: int = NONE
    offset: int = -1
    """Of the first record; where it is a duplicate, that of the original."""
    records: int = 1
    epoch: int = 0


def row(first: int, end: int) -> list[Sent]:
    return [Sent(at, NONE, at - first) for at in range(first, end)]


CASES: dict[str, Sequence[Sent]] = {
    "one after the other": row(0, 7),
    "a duplicate": [*row(0, 2), Sent(1, NONE, 1), Sent(2, NONE, 2)],
    "a duplicate of the fifth last": [*row(0, 6), Sent(1, NONE, 1), Sent(6, NONE, 6)],
    "a duplicate that is too old": [*row(0, 6), Sent(0, OUT_OF_ORDER), Sent(6, NONE, 6)],
    "a gap": [*row(0, 2), Sent(3, OUT_OF_ORDER), Sent(2, NONE, 2)],
    "a gap at the end of what there is": [Sent(LAST, NONE, 0), Sent(1, OUT_OF_ORDER), Sent(0, NONE, 1)],
    "partly a duplicate": [Sent(0, NONE, 0, 2), Sent(1, OUT_OF_ORDER, records=2), Sent(2, NONE, 2)],
    "a part of a duplicate": [Sent(0, NONE, 0, 3), Sent(0, OUT_OF_ORDER, records=2), Sent(0, NONE, 0, 3)],
    "the first is a later one": row(5, 8),
    "the last number there is": [Sent(LAST - 1, NONE, 0), Sent(LAST, NONE, 1), Sent(0, NONE, 2)],
    "over the last number": [Sent(LAST, NONE, 0, 3), Sent(2, NONE, 3)],
    "an older epoch": [Sent(0, NONE, 0, epoch=3), Sent(1, OLD_EPOCH, epoch=2), Sent(1, NONE, 1, epoch=3)],
    "a newer epoch": [*row(0, 2), Sent(0, NONE, 2, epoch=1), Sent(2, OLD_EPOCH), Sent(1, NONE, 3, epoch=1)],
    "a newer epoch, not from its start": [*row(0, 2), Sent(2, OUT_OF_ORDER, epoch=1), Sent(2, NONE, 2)],
    "a much newer epoch": [*row(0, 1), Sent(0, NONE, 1, epoch=9)],
}


@pytest.mark.parametrize("case", CASES)
def test_sequences(address: str, ready_topic: Callable[[int], str], case: str) -> None:
    topic, producer_id = ready_topic(1), next(PRODUCER_IDS)
    for sent in CASES[case]:
        fields = {"producer_id": producer_id, "producer_epoch": sent.epoch, "base_sequence": sent.sequence}
        data = batch([record(at) for at in range(sent.records)], now_ms=NOW_MS, **fields)
        answers = produce(address, topic, [(0, data)])
        assert answers is not None
        assert (answers[0].code, answers[0].base_offset) == (sent.code, sent.offset), sent


# Fetch


def fetch(
    topic: str,
    *partitions: int,
    offset: int = 0,
    wait_ms: int = 0,
    least: int = 1,
    most: int = 1 << 20,
    part_most: int = 1 << 20,
) -> dict[str, Any]:
    """Of partition 0, unless others are named."""
    part = {"current_leader_epoch": -1, "fetch_offset": offset, "partition_max_bytes": part_most}
    parts = [{"partition": at, **part} for at in partitions or (0,)]
    waits = {"max_wait_ms": wait_ms, "min_bytes": least, "max_bytes": most, "session_id": 0, "session_epoch": -1}
    return {**waits, "topics": [{"topic": topic, "partitions": parts}]}


def found(answer: Any) -> dict[int, tuple[int, bytes]]:
    """Error code and records by partition."""
    (topic,) = answer.responses
    return {part.partition_index: (part.error_code, bytes(part.records or b"")) for part in topic.partitions}


def offsets(records: bytes) -> list[int]:
    """Base offsets of the whole batches."""
    bases = []
    while len(records) >= 12 and len(records) >= 12 + int.from_bytes(records[8:12], "big"):
        bases.append(int.from_bytes(records[:8], "big"))
        records = records[12 + int.from_bytes(records[8:12], "big") :]
    return bases


@pytest.fixture
def ready_topic(address: str, make_topic: MakeTopic) -> Callable[[int], str]:
    """Makes a topic whose partitions can be written: Apache Kafka needs a moment more than until it has leaders."""

    def make(partitions: int = 1) -> str:
        topic = make_topic(partitions)
        with Asker(address) as asker:
            asked = fetch(topic, *range(partitions), least=0)
            while any(code for code, _ in found(asker.ask("Fetch", 12, **asked)).values()):
                pass
        return topic

    return make


@pytest.fixture
def filled(address: str, ready_topic: Callable[[int], str]) -> str:
    """In each of two partitions three batches of three records."""
    topic = ready_topic(2)
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


def test_a_long_poll_ends_when_data_comes(address: str, ready_topic: Callable[[int], str]) -> None:
    topic = ready_topic(1)
    with Asker(address) as asker:
        asker.send("Fetch", 12, **fetch(topic, wait_ms=WAIT_MS))
        assert produce(address, topic, [(0, batch([record()], now_ms=NOW_MS))]) is not None
        code, records = found(asker.answer("Fetch", 12))[0]
        assert (code, offsets(records)) == (NONE, [0])


def test_a_long_poll_ends_when_the_topic_does(address: str, ready_topic: Callable[[int], str]) -> None:
    topic = ready_topic(1)
    with Asker(address) as asker, Asker(address) as admin:
        asker.send("Fetch", 12, **fetch(topic, wait_ms=WAIT_MS))
        admin.ask("DeleteTopics", 5, topic_names=[topic], timeout_ms=5000)
        assert found(asker.answer("Fetch", 12))[0] == (UNKNOWN_TOPIC, b"")


def test_an_error_is_told_at_once(address: str, filled: str) -> None:
    asked = fetch(filled, 0, 1, offset=9, wait_ms=WAIT_MS)
    asked["topics"][0]["partitions"][1]["fetch_offset"] = 10
    with Asker(address) as asker:
        assert found(asker.ask("Fetch", 12, **asked)) == {0: (NONE, b""), 1: (OUT_OF_RANGE, b"")}
        nowhere = fetch(filled, 7, wait_ms=WAIT_MS)
        assert found(asker.ask("Fetch", 12, **nowhere)) == {7: (UNKNOWN_TOPIC, b"")}


def test_what_is_there_and_is_not_enough_comes_when_the_time_is_over(address: str, filled: str) -> None:
    with Asker(address) as asker:
        code, records = found(asker.ask("Fetch", 12, **fetch(filled, least=1 << 20, wait_ms=100)))[0]
        assert (code, offsets(records)) == (NONE, [0, 3, 6])
