"""When the log's memory is full: producers hear a retriable error and nothing is overwritten; what retention or a
deletion frees is used again."""

import time
from collections.abc import Iterator
from dataclasses import replace

import pytest

from compat_tests.clients import AIOKAFKA, KAFKA_PYTHON, KINDS
from compat_tests.clients.face import Client, Code, ConsumerSettings, Place, ProducerSettings, Record
from compat_tests.clients.process import ClientProcess, Clients
from compat_tests.conftest import StartBroker, unique
from compat_tests.steps import places_of, poll_until, write

pytestmark = pytest.mark.totalog_only

MEMORY_MIB = 64
RECORD_SIZE = 500_000
GIVES_UP = {AIOKAFKA: ProducerSettings(delivery_timeout_ms=6_000)}
"""aiokafka cannot be told not to try again: it tells what it was refused for when the time for a delivery is over."""
UNTIL_FULL = MEMORY_MIB * 2**20 // RECORD_SIZE  # more than fits, since part of the memory is the index of the rest


class Small:
    """A broker of its own with little memory, and a client of each kind."""

    def __init__(self, address: str) -> None:
        self.clients = Clients(address)
        self.admin = self.clients[KAFKA_PYTHON]

    def process(self, kind: str) -> ClientProcess:
        return self.clients.process(kind)

    def close(self) -> None:
        self.clients.close()


@pytest.fixture
def small(start_broker: StartBroker) -> Iterator[Small]:
    running = start_broker(memory=f"{MEMORY_MIB}m", settings={"log.retention.check.interval.ms": 200})
    small = Small(running.address)
    yield small
    small.close()


def value(number: int) -> bytes:
    return b"%08d" % number + bytes(RECORD_SIZE - 8)


def fill(client: Client, topic: str, settings: ProducerSettings | None = None) -> int:
    """Writes until the broker refuses, without retries where the client can; how many records it took."""
    producer = client.open_producer(replace(settings or ProducerSettings(), acks="1", retries=0))
    for taken in range(UNTIL_FULL):
        (told,) = client.send(producer, topic, [Record(value(taken), partition=0)])
        if told.code:
            break
        assert told.offset == taken
    client.close_producer(producer)
    assert told.code == Code.KAFKA_STORAGE_ERROR
    return taken


@pytest.mark.parametrize("kind", KINDS)
def test_a_full_log_refuses_and_keeps_what_it_has(small: Small, kind: str) -> None:
    client, topic = small.clients[kind], unique("full")
    client.create_topic(topic, 1)
    taken = fill(client, topic, GIVES_UP.get(kind))
    assert taken * RECORD_SIZE > 16 * 2**20
    reader = small.clients[KINDS[KINDS.index(kind) - 1]]
    read = reader.read_topic(topic, 1)
    assert [record.offset for record in read] == list(range(taken))
    assert [int((record.value or b"")[:8]) for record in read] == list(range(taken))


def test_the_error_is_one_after_which_clients_try_again(small: Small) -> None:
    client, topic = small.clients[KAFKA_PYTHON], unique("full")
    client.create_topic(topic, 1)
    producer = client.open_producer(ProducerSettings(acks="1", retries=0))
    told = client.send(producer, topic, [Record(value(0), partition=0)] * UNTIL_FULL)
    client.close_producer(producer)
    refused = [delivery for delivery in told if delivery.code]
    assert refused
    assert all(delivery.retriable for delivery in refused)


@pytest.mark.parametrize("kind", KINDS)
def test_a_producer_that_waits_goes_on_when_a_topic_is_deleted(small: Small, kind: str) -> None:
    full, topic = unique("full"), unique("waits")
    small.admin.create_topic(full, 1)
    small.admin.create_topic(topic, 1)
    fill(small.admin, full)
    writer = small.process(kind)
    other = small.clients[next(other for other in KINDS if other != kind)]
    producer = writer.client.open_producer(ProducerSettings(acks="all", idempotence=True))
    waiting = writer.later("send", producer, topic, [Record(value(number), partition=0) for number in range(20)])
    assert not waiting.done()
    other.delete_topic(full)
    told = waiting.result()
    assert [(delivery.code, delivery.offset) for delivery in told] == [(0, offset) for offset in range(20)]
    assert [int((record.value or b"")[:8]) for record in other.read_topic(topic, 1)] == list(range(20))


@pytest.mark.parametrize("kind", KINDS)
def test_retention_by_size_keeps_a_topic_writable_for_ever(small: Small, kind: str) -> None:
    """Twice the memory goes through; a dense suffix stays, in the partitions and in the view."""
    client, topic = small.clients[kind], unique("ring")
    client.create_topic(topic, 2, {"retention.bytes": str(4 * 2**20)})
    count = 2 * UNTIL_FULL
    records = [Record(value(number), partition=number % 2) for number in range(count)]
    told = write(client, topic, records, ProducerSettings(idempotence=True))  # what is refused is not overtaken
    assert [delivery.offset for delivery in told] == [number // 2 for number in range(count)]
    consumer = client.open_consumer(ConsumerSettings())
    ends = {Place(topic, 0): (count + 1) // 2, Place(topic, 1): count // 2, Place(f"{topic}.total-order", 0): count}
    kept = {}
    for place, end in ends.items():
        first, last = client.bounds(consumer, [place])[place]
        assert 0 < first <= last == end
        client.assign(consumer, {place: first})
        read = client.read(consumer, last - first)
        assert [record.offset for record in read] == list(range(first, last))
        kept[place] = [int((record.value or b"")[:8]) for record in read]
        if place.topic == topic:
            assert kept[place] == [2 * offset + place.partition for offset in range(first, last)]
    client.close_consumer(consumer)
    *partitions, view = kept.values()
    assert view
    assert sorted(view) == sorted(number for numbers in partitions for number in numbers)


def test_retention_by_time_frees_a_full_log(small: Small) -> None:
    """Records that are old when they are written: retention may take them at once, so a writer that waits goes on."""
    client, topic = small.admin, unique("old")
    client.create_topic(topic, 1, {"retention.ms": "60000"})
    long_ago_ms = int(time.time() * 1_000) - 3_600_000
    records = [Record(value(number), partition=0, timestamp_ms=long_ago_ms) for number in range(UNTIL_FULL)]
    told = write(client, topic, records, ProducerSettings(idempotence=True))
    assert [delivery.offset for delivery in told] == list(range(UNTIL_FULL))
    consumer, place = client.open_consumer(ConsumerSettings()), Place(topic, 0)
    poll_until(lambda: client.bounds(consumer, [place])[place] == (UNTIL_FULL, UNTIL_FULL))
    write(client, topic, [Record(b"new", partition=0)])
    assert [(record.offset, record.value) for record in client.read_topic(topic, 1)] == [(UNTIL_FULL, b"new")]


def test_deleted_topics_give_all_their_memory_back(small: Small) -> None:
    """Many times the memory in topics that come and go."""
    client = small.clients[KAFKA_PYTHON]
    for round_number in range(12):
        topic = unique("round")
        client.create_topic(topic, 4)
        count = 16 * 2**20 // RECORD_SIZE
        write(client, topic, [Record(value(number), partition=number % 4) for number in range(count)])
        consumer = client.open_consumer(ConsumerSettings())
        ends = [end for _, end in client.bounds(consumer, places_of(topic, 4)).values()]
        client.close_consumer(consumer)
        assert sum(ends) == count, round_number
        client.delete_topic(topic)
