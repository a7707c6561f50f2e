"""Forced retries: the proxy loses the answer of a Produce request that the broker has stored, or the request, and the
client sends again. An idempotent producer's records are then in the log once, at the offsets that the client is told.
"""

import pytest

from compat_tests import checker
from compat_tests.clients import KINDS
from compat_tests.clients.face import Client, ProducerSettings, Record
from compat_tests.conftest import MakeTopic, Spawn
from compat_tests.proxy import Proxy

IDEMPOTENT = ProducerSettings(acks="all", idempotence=True)
COUNT = 2_000


def records(partitions: int, count: int = COUNT) -> list[Record]:
    return [Record(checker.value_of(0, at, bytes(200)), partition=at % partitions) for at in range(count)]


@pytest.mark.case("idempotent producers, forced retries")
@pytest.mark.parametrize("lost", [{2}, {1, 3}, {2, 3, 4}], ids=str)
@pytest.mark.parametrize("what", ["answers", "requests"])
def test_retries_of_an_idempotent_producer_store_nothing_twice(
    proxy: Proxy, client: Client, topic: str, what: str, lost: set[int]
) -> None:
    setattr(proxy, f"lose_{what}", frozenset(lost))
    producer = client.open_producer(IDEMPOTENT, bootstrap=proxy.address)
    sent = records(2)
    deliveries = client.send(producer, topic, sent)
    client.close_producer(producer)
    assert 0 < proxy.lost_count <= len(lost)  # what was in flight behind a loss is lost with it, and not counted
    assert [delivery.code for delivery in deliveries] == [0] * COUNT
    read = checker.received(client.read_topic(topic, 2), COUNT)
    assert checker.dense(read) == []
    assert checker.complete(read, COUNT) == []
    assert checker.acknowledged(read, checker.told(range(COUNT), deliveries)) == []
    assert checker.producer_order(read, COUNT) == []


@pytest.mark.case("idempotent producers, forced retries")
def test_a_duplicate_is_answered_with_the_first_offset(proxy: Proxy, client: Client, make_topic: MakeTopic) -> None:
    """One batch at a time, so that it is known which one is sent twice; others have written after it when it comes
    again.
    """
    topic = make_topic(1)
    producer = client.open_producer(IDEMPOTENT, bootstrap=proxy.address)
    first = client.send(producer, topic, [Record(b"first")])
    proxy.lose_answers = frozenset({2})
    second = client.send(producer, topic, [Record(b"second")])
    third = client.send(producer, topic, [Record(b"third")])
    client.close_producer(producer)
    assert (proxy.lost_count, proxy.produce_count) == (1, 4)
    assert [delivery.offset for delivery in first + second + third] == [0, 1, 2]
    assert [record.value for record in client.read_topic(topic, 1)] == [b"first", b"second", b"third"]


def test_without_idempotence_the_same_fault_does_store_a_batch_twice(
    proxy: Proxy, client: Client, make_topic: MakeTopic
) -> None:
    """The proof that the proxy forces what it is meant to force."""
    topic = make_topic(1)
    proxy.lose_answers = frozenset({1})
    producer = client.open_producer(ProducerSettings(acks="1"), bootstrap=proxy.address)
    (delivery,) = client.send(producer, topic, [Record(b"again")])
    client.close_producer(producer)
    assert (delivery.code, delivery.offset) == (0, 1)
    assert [record.value for record in client.read_topic(topic, 1)] == [b"again", b"again"]


def test_idempotent_producers_at_once_keep_apart(
    proxy: Proxy, spawn: Spawn, admin: Client, make_topic: MakeTopic
) -> None:
    """Producers share the partitions and the faults; producer ids must not be mixed up."""
    topic, per_producer = make_topic(3), 1_000
    proxy.lose_answers = frozenset({3, 8, 12})
    pending = []
    for number, kind in enumerate((*KINDS, KINDS[0])):
        process = spawn(kind)
        producer = process.client.open_producer(IDEMPOTENT, bootstrap=proxy.address)
        sent = [Record(checker.value_of(number, at, bytes(100)), partition=at % 3) for at in range(per_producer)]
        pending.append(process.later("send", producer, topic, sent))
    deliveries = [delivery for future in pending for delivery in future.result()]
    assert {delivery.code for delivery in deliveries} == {0}
    assert 0 < proxy.lost_count <= 3
    read = checker.received(admin.read_topic(topic, 3), per_producer)
    assert checker.dense(read) == []
    assert checker.complete(read, len(deliveries)) == []
    assert checker.acknowledged(read, checker.told(range(len(deliveries)), deliveries)) == []
    assert checker.producer_order(read, per_producer) == []
