"""Producers with an id: what is stored, what is a duplicate, what is refused. Asked batch by batch; expected is what
Apache Kafka 4.3.1 answers."""

import itertools
import time
from collections.abc import Sequence
from typing import NamedTuple

import pytest

from compat_tests.asking import wait_until_ready
from compat_tests.conftest import MakeTopic
from compat_tests.raw import batch, produce, record

NONE, OUT_OF_ORDER, OLD_EPOCH = 0, 45, 47
LAST = 2**31 - 1
NOW_MS = int(time.time() * 1000)
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
def test_sequences(address: str, make_topic: MakeTopic, case: str) -> None:
    topic, producer_id = make_topic(1), next(PRODUCER_IDS)
    wait_until_ready(address, topic)
    for sent in CASES[case]:
        fields = {"producer_id": producer_id, "producer_epoch": sent.epoch, "base_sequence": sent.sequence}
        data = batch([record(at) for at in range(sent.records)], now_ms=NOW_MS, **fields)
        answers = produce(address, topic, [(0, data)])
        assert answers is not None
        assert (answers[0].code, answers[0].base_offset) == (sent.code, sent.offset), sent
