"""Creating, growing, deleting and recreating topics, and what is refused."""

from collections.abc import Iterator
from functools import partial
from itertools import permutations

import pytest

from compat_tests.clients import CONFLUENT, KINDS
from compat_tests.clients.face import (
    Client,
    ClientError,
    Code,
    ConsumerSettings,
    Delivery,
    Place,
    ProducerSettings,
    Record,
)
from compat_tests.clients.process import Clients
from compat_tests.conftest import MakeTopic, unique, wait_for_leaders
from compat_tests.steps import places_of, poll_until, write

WIDE = 1_000


def offsets(deliveries: list[Delivery]) -> list[int]:
    return [delivery.offset for delivery in deliveries]


@pytest.mark.case("topics made, altered, grown, deleted, made again")
def test_a_topic_has_what_it_was_created_with(client: Client, admin: Client) -> None:
    topic = unique("created")
    client.create_topic(topic, 3, {"retention.ms": "3600000", "max.message.bytes": "12345"})
    wait_for_leaders(client, topic, 3)
    described = client.describe_topic(topic)
    assert (described.name, described.partitions, described.internal) == (topic, 3, False)
    assert topic in client.topics()
    config = client.topic_config(topic)
    assert (config["retention.ms"], config["max.message.bytes"]) == ("3600000", "12345")
    admin.delete_topic(topic)


@pytest.mark.parametrize(
    ("name", "code"),
    [("with space", 17), ("sla/sh", 17), (".", 17), ("..", 17), ("x" * 250, 17), ("\u00fcmlaut", 17)],
    ids=["space", "slash", "dot", "dots", "250-characters", "umlaut"],
)
def test_names_that_no_topic_may_have(client: Client, name: str, code: int) -> None:
    with pytest.raises(ClientError) as refused:
        client.create_topic(name)
    assert refused.value.code == code


def test_the_longest_name(client: Client, make_topic: MakeTopic) -> None:
    topic = make_topic(1, name=unique("long").ljust(249, "x"))
    assert offsets(write(client, topic, [Record(b"value")])) == [0]
    assert [record.value for record in client.read_topic(topic, 1)] == [b"value"]


def test_a_topic_is_created_once(client: Client, topic: str) -> None:
    with pytest.raises(ClientError) as refused:
        client.create_topic(topic)
    assert refused.value.code == Code.TOPIC_ALREADY_EXISTS


@pytest.mark.parametrize(
    ("name", "value"), [("no.such.setting", "1"), ("retention.ms", "soon"), ("cleanup.policy", "burn")]
)
def test_settings_that_no_topic_has(client: Client, name: str, value: str) -> None:
    topic = unique("refused")
    with pytest.raises(ClientError) as refused:
        client.create_topic(topic, 1, {name: value})
    assert refused.value.code == Code.INVALID_CONFIG
    assert topic not in client.topics()


def test_a_trial_creates_nothing(client: Client, topic: str) -> None:
    trial = unique("trial")
    client.create_topic(trial, 4, validate_only=True)
    assert trial not in client.topics()
    with pytest.raises(ClientError) as refused:
        client.create_topic(topic, validate_only=True)
    assert refused.value.code == Code.TOPIC_ALREADY_EXISTS


@pytest.mark.case("topics made, altered, grown, deleted, made again")
def test_partitions_are_added_behind_those_that_are_there(client: Client, make_topic: MakeTopic) -> None:
    topic = make_topic(2)
    assert offsets(write(client, topic, [Record(b"old", partition=at % 2) for at in range(10)])) == [
        at // 2 for at in range(10)
    ]
    client.create_partitions(topic, 5)
    wait_for_leaders(client, topic, 5)
    assert offsets(write(client, topic, [Record(b"new", partition=at) for at in range(5)])) == [5, 5, 0, 0, 0]
    read = client.read_topic(topic, 5)
    assert sorted((record.partition, record.offset) for record in read) == [
        *((0, offset) for offset in range(6)),
        *((1, offset) for offset in range(6)),
        *((partition, 0) for partition in (2, 3, 4)),
    ]


def test_partitions_are_never_taken_away(client: Client, make_topic: MakeTopic) -> None:
    topic = make_topic(3)
    for count in (2, 3):
        with pytest.raises(ClientError) as refused:
            client.create_partitions(topic, count)
        assert refused.value.code == Code.INVALID_PARTITIONS
    with pytest.raises(ClientError) as unknown:
        client.create_partitions(unique("unknown"), 4)
    assert unknown.value.code == Code.UNKNOWN_TOPIC_OR_PARTITION


@pytest.mark.case("topics made, altered, grown, deleted, made again")
def test_a_deleted_topic_is_gone(client: Client, admin: Client, make_topic: MakeTopic) -> None:
    topic = make_topic(2)
    write(client, topic, [Record(b"gone")])
    client.delete_topic(topic)
    assert topic not in client.topics()
    for call in (client.describe_topic, client.delete_topic):
        with pytest.raises(ClientError) as unknown:
            call(topic)
        assert unknown.value.code == Code.UNKNOWN_TOPIC_OR_PARTITION


@pytest.mark.case("topics made, altered, grown, deleted, made again")
def test_a_recreated_topic_begins_anew(client: Client, readers: dict[str, Client], make_topic: MakeTopic) -> None:
    """Same name, other partitions: none of the old records, offsets from 0, and committed offsets are not those of
    the old one.
    """
    topic = make_topic(3)
    write(client, topic, [Record(b"old", partition=at % 3) for at in range(300)])
    for generation in range(3):
        client.delete_topic(topic)
        partitions = 2 + generation
        client.create_topic(topic, partitions)
        wait_for_leaders(client, topic, partitions)
        places = places_of(topic, partitions)
        consumer = client.open_consumer(ConsumerSettings())
        assert client.bounds(consumer, places) == dict.fromkeys(places, (0, 0))
        client.close_consumer(consumer)
        value = b"generation %d" % generation
        deliveries = write(client, topic, [Record(value, partition=at % partitions) for at in range(10 * partitions)])
        assert sorted(offsets(deliveries)) == sorted(list(range(10)) * partitions)
        for reader in readers.values():
            assert {record.value for record in reader.read_topic(topic, partitions)} == {value}


@pytest.mark.parametrize("writer_kind", KINDS)
def test_a_producer_that_stays_open_writes_to_the_recreated_topic(
    readers: dict[str, Client], admin: Client, make_topic: MakeTopic, writer_kind: str
) -> None:
    writer, topic = readers[writer_kind], make_topic(1)
    producer = writer.open_producer(ProducerSettings())
    assert offsets(writer.send(producer, topic, [Record(b"old")] * 3, one_by_one=True)) == [
        0,
        1,
        2,
    ]
    admin.delete_topic(topic)
    admin.create_topic(topic, 1)
    wait_for_leaders(admin, topic, 1)
    assert offsets(writer.send(producer, topic, [Record(b"new")] * 2, one_by_one=True)) == [
        0,
        1,
    ]
    writer.close_producer(producer)
    assert [record.value for record in admin.read_topic(topic, 1)] == [b"new", b"new"]


@pytest.mark.case("topics made, altered, grown, deleted, made again")
def test_settings_of_a_topic_are_changed(client: Client, topic: str) -> None:
    """Apache Kafka shows them a moment after it has answered."""
    wanted = {"retention.ms": "1234567", "max.message.bytes": "54321"}
    client.alter_topic(topic, wanted)
    poll_until(lambda: wanted.items() <= client.topic_config(topic).items())


@pytest.mark.case("records deleted")
def test_records_are_deleted_up_to_an_offset(client: Client, topic: str) -> None:
    place = Place(topic, 1)
    write(client, topic, [Record(b"%d" % number, partition=1) for number in range(20)])
    client.delete_records({place: 12})
    consumer = client.open_consumer(ConsumerSettings())
    assert client.bounds(consumer, [place]) == {place: (12, 20)}
    client.close_consumer(consumer)
    assert [record.offset for record in client.read_topic(topic, 2)] == list(range(12, 20))


def test_many_topics(client: Client, make_topic: MakeTopic) -> None:
    topics = [make_topic(1) for _ in range(40)]
    assert set(topics) <= set(client.topics())
    producer = client.open_producer(ProducerSettings())
    for number, topic in enumerate(topics):
        assert [delivery.code for delivery in client.send(producer, topic, [Record(b"%d" % number)])] == [0]
    client.close_producer(producer)
    consumer = client.open_consumer(ConsumerSettings())
    client.assign(consumer, {Place(topic, 0): 0 for topic in topics})
    read = {record.topic: record.value for record in client.read(consumer, len(topics))}
    client.close_consumer(consumer)
    assert read == {topic: b"%d" % number for number, topic in enumerate(topics)}


def has_bounds(client: Client, consumer: int, place: Place) -> bool:
    """Apache Kafka names a leader before that knows that it is one."""
    try:
        return bool(client.bounds(consumer, [place]))
    except ClientError as error:
        if error.code not in (Code.UNKNOWN_TOPIC_OR_PARTITION, Code.NOT_LEADER_OR_FOLLOWER):
            raise
        return False


@pytest.fixture(scope="module")
def wide_topic(shared_clients: Clients) -> Iterator[str]:
    """A topic of 1,000 partitions for all clients one after the other: another broker takes its time to make one."""
    name, admin = unique("wide"), shared_clients[CONFLUENT]
    admin.create_topic(name, WIDE)
    wait_for_leaders(admin, name, WIDE)
    consumer = admin.open_consumer(ConsumerSettings())
    for place in places_of(name, WIDE):
        poll_until(partial(has_bounds, admin, consumer, place))
    admin.close_consumer(consumer)
    yield name
    admin.delete_topic(name)


@pytest.mark.case("1,000 partitions, most of them empty")
def test_a_topic_of_1_000_partitions_most_of_them_empty(client: Client, wide_topic: str) -> None:
    places = places_of(wide_topic, WIDE)
    consumer = client.open_consumer(ConsumerSettings())
    before = client.bounds(consumer, places)
    value = unique("value").encode()
    written = range(0, WIDE, 7)
    deliveries = write(client, wide_topic, [Record(value, partition=at) for at in written])
    assert offsets(deliveries) == [before[places[at]][1] for at in written]
    after = client.bounds(consumer, places)
    assert after == {place: (0, before[place][1] + (place.partition % 7 == 0)) for place in places}
    assert sum(end for _, end in after.values()) % len(written) == 0
    client.assign(consumer, {place: end for place, (_, end) in before.items()})
    read = client.read(consumer, len(written))
    assert sorted((record.partition, record.value) for record in read) == [(at, value) for at in written]
    client.close_consumer(consumer)


@pytest.mark.case("1,000 partitions, most of them empty")
def test_empty_partitions(client: Client, make_topic: MakeTopic) -> None:
    """First and end offsets stay at 0, and a reader that waits there gets what comes to another partition."""
    topic = make_topic(4)
    places = places_of(topic, 4)
    consumer = client.open_consumer(ConsumerSettings(fetch_wait_ms=50))
    assert client.bounds(consumer, places) == dict.fromkeys(places, (0, 0))
    client.assign(consumer, dict.fromkeys(places, 0))
    assert client.poll(consumer, 100) == []
    write(client, topic, [Record(b"one", partition=2)])
    assert [(record.partition, record.value) for record in client.read(consumer, 1)] == [(2, b"one")]
    assert client.poll(consumer, 100) == []
    assert client.bounds(consumer, places) == {place: (0, int(place.partition == 2)) for place in places}
    client.close_consumer(consumer)


@pytest.mark.totalog_only
def test_a_topic_is_there_for_everyone_when_its_creation_is_answered(readers: dict[str, Client]) -> None:
    """Apache Kafka may need another moment; here the next request of any client sees the topic, and after a deletion
    does not.
    """
    for _ in range(3):
        for creator, other in permutations(readers.values(), 2):
            topic = unique("at-once")
            creator.create_topic(topic, 3)
            assert min(other.describe_topic(topic).leaders) >= 0
            assert topic in other.topics()
            creator.delete_topic(topic)
            assert topic not in other.topics()
