"""The total-order view: topic `orders` read as `orders.total-order`, one partition whose offset is the total order."""

import pytest

from compat_tests import checker
from compat_tests.checker import Seen, Told
from compat_tests.clients import KINDS
from compat_tests.clients.face import Client, ClientError, Code, ConsumerSettings, Place, ProducerSettings, Record
from compat_tests.conftest import MakeTopic, Spawn, unique
from compat_tests.proxy import FETCH, Proxy
from compat_tests.steps import VIEW_SUFFIX, numbered, places_of, write
from compat_tests.test_consume import LONGER_THAN_A_READ_MS, READ_MS

pytestmark = pytest.mark.totalog_only

WRITERS = (*KINDS, KINDS[0])


def view_of(topic: str) -> Place:
    return Place(topic + VIEW_SUFFIX, 0)


def write_at_once(
    spawn: Spawn, topic: str, partitions: int, per_producer: int, one_by_one: bool, settings: ProducerSettings
) -> Told:
    """A producer of each kind, and one more, write to all partitions at the same time; what they were told."""
    pending = []
    for number, kind in enumerate(WRITERS):
        process = spawn(kind)
        producer = process.client.open_producer(settings)
        records = [
            Record(checker.value_of(number, at), partition=(at * 7 + number) % partitions) for at in range(per_producer)
        ]
        pending.append(process.later("send", producer, topic, records, one_by_one))
    deliveries = [delivery for future in pending for delivery in future.result()]
    assert {delivery.code for delivery in deliveries} == {0}
    return checker.told(range(len(deliveries)), deliveries)


def anomalies(told: Told, partitions: Seen, views: list[Seen], per_producer: int) -> list[str]:
    """Everything that the view promises, of one run; the first view is compared with all others."""
    view, *others = views
    return [
        *checker.dense(partitions),
        *checker.complete(partitions, len(told.identity)),
        *checker.acknowledged(partitions, told),
        *checker.producer_order(partitions, per_producer),
        *checker.dense(view),
        *checker.view_holds_partitions(view, partitions),
        *checker.real_time(view, told),
        *(anomaly for other in others for anomaly in checker.agree(view, other)),
    ]


@pytest.mark.case("the total order, the same for all readers")
@pytest.mark.parametrize("acks", ["1", "all"])
@pytest.mark.parametrize("one_by_one", [True, False], ids=["one-by-one", "pipelined"])
def test_one_order_for_every_reader(
    spawn: Spawn, readers: dict[str, Client], make_topic: MakeTopic, acks: str, one_by_one: bool
) -> None:
    """Dense, the same for all readers, each partition's order within it, and never against real time: what was
    acknowledged before something else was sent comes first."""
    topic, per_producer = make_topic(4), 300 if one_by_one else 3_000
    told = write_at_once(spawn, topic, 4, per_producer, one_by_one, ProducerSettings(acks=acks))
    views = [checker.received(reader.read_topic(topic + VIEW_SUFFIX, 1), per_producer) for reader in readers.values()]
    for reader in readers.values():
        partitions = checker.received(reader.read_topic(topic, 4), per_producer)
        again = checker.received(reader.read_topic(topic + VIEW_SUFFIX, 1), per_producer)
        assert anomalies(told, partitions, [again, *views], per_producer) == []


@pytest.mark.case("the total order, the same for all readers")
def test_a_reader_that_follows_sees_the_order_that_a_later_one_sees(
    spawn: Spawn, readers: dict[str, Client], make_topic: MakeTopic
) -> None:
    """All read while four producers write; nothing moves once it was read."""
    topic, per_producer = make_topic(4), 2_000
    following = []
    for kind in KINDS:
        process = spawn(kind)
        consumer = process.client.open_consumer(ConsumerSettings())
        process.client.assign(consumer, {view_of(topic): 0})
        following.append(process.later("read", consumer, len(WRITERS) * per_producer, 60_000))
    told = write_at_once(spawn, topic, 4, per_producer, False, ProducerSettings(acks="1", linger_ms=5))
    views = [checker.received(future.result(), per_producer) for future in following]
    views += [checker.received(reader.read_topic(topic + VIEW_SUFFIX, 1), per_producer) for reader in readers.values()]
    partitions = checker.received(readers[KINDS[0]].read_topic(topic, 4), per_producer)
    assert anomalies(told, partitions, views, per_producer) == []


def test_the_view_is_described_by_name_and_never_listed(client: Client, topic: str) -> None:
    described = client.describe_topic(topic + VIEW_SUFFIX)
    assert (described.partitions, described.internal) == (1, False)
    names = client.topics()
    assert topic in names
    assert [name for name in names if name.endswith(VIEW_SUFFIX)] == []
    assert client.topic_config(topic + VIEW_SUFFIX)["retention.bytes"] == client.topic_config(topic)["retention.bytes"]


@pytest.mark.parametrize("kind_of_member", KINDS)
def test_a_pattern_does_not_take_in_views(
    spawn: Spawn, admin: Client, make_topic: MakeTopic, kind_of_member: str
) -> None:
    prefix = unique("pattern")
    topic = make_topic(1, name=f"{prefix}.orders")
    write(admin, topic, numbered(10, 1))
    client = spawn(kind_of_member).client
    consumer = client.open_consumer(ConsumerSettings(group=unique("group")))
    client.subscribe(consumer, pattern=f"{prefix}.*")
    assert {record.topic for record in client.read(consumer, 10)} == {topic}
    assert client.assignment(consumer) == [Place(topic, 0)]
    client.close_consumer(consumer)


@pytest.mark.case("seek and offsets in the total order")
def test_bounds_seek_and_position(client: Client, topic: str) -> None:
    view = view_of(topic)
    consumer = client.open_consumer(ConsumerSettings())
    assert client.bounds(consumer, [view]) == {view: (0, 0)}
    producer = client.open_producer(ProducerSettings())
    client.send(producer, topic, numbered(50, 2), one_by_one=True)
    client.close_producer(producer)
    assert client.bounds(consumer, [view]) == {view: (0, 50)}
    client.assign(consumer, {view: 0})
    assert [record.value for record in client.read(consumer, 50)] == [b"%d" % number for number in range(50)]
    assert client.position(consumer, view) == 50
    for start in (25, 49, 0):
        client.seek(consumer, view, start)
        read = client.read(consumer, 50 - start)
        assert [(record.offset, record.value) for record in read] == [(at, b"%d" % at) for at in range(start, 50)]
    client.close_consumer(consumer)


@pytest.mark.case("seek and offsets in the total order")
@pytest.mark.parametrize("codec", ["none", "zstd"])
def test_offsets_for_times(client: Client, readers: dict[str, Client], topic: str, codec: str) -> None:
    """As in a partition: the first record of the view of at least that time, also within a batch of many."""
    for batch, partition in enumerate((0, 1, 1, 0, 1)):
        times = [at + 1_000 * batch for at in (1_000, 1_400, 1_200, 2_500)]
        records = [Record(b"x" * 30, partition=partition, timestamp_ms=time) for time in times]
        write(client, topic, records, ProducerSettings(compression=codec, linger_ms=50))
    view = view_of(topic)
    stamps = [record.timestamp_ms for record in client.read_topic(view.topic, 1)]
    assert len(stamps) == 20
    for reader in readers.values():
        consumer = reader.open_consumer(ConsumerSettings())
        for time in (0, 1_000, 1_001, 1_300, 2_450, 2_500, 3_333, 5_100, 6_500, 6_501):
            expected = next((offset for offset, stamp in enumerate(stamps) if stamp >= time), None)
            assert reader.offsets_for_times(consumer, {view: time}) == {view: expected}, time
        reader.close_consumer(consumer)


@pytest.mark.case("commits and resume")
def test_a_group_reads_the_view_commits_and_resumes(readers: dict[str, Client], topic: str) -> None:
    view, group = view_of(topic), unique("group")
    client = readers[KINDS[0]]
    write(client, topic, numbered(150, 2))
    order = [record.value for record in client.read_topic(view.topic, 1)]
    for number, reader in enumerate((*readers.values(), *readers.values())):
        consumer = reader.open_consumer(ConsumerSettings(group=group))
        assert reader.committed(consumer, [view]) == {view: 25 * number if number else None}
        reader.subscribe(consumer, [view.topic])
        read = reader.read(consumer, 25)
        assert [record.offset for record in read[:25]] == list(range(25 * number, 25 * number + 25))
        assert [record.value for record in read] == order[25 * number : 25 * number + len(read)]
        reader.commit(consumer, {view: 25 * number + 25})
        reader.close_consumer(consumer)


def test_a_topic_and_its_view_in_one_subscription(client: Client, topic: str) -> None:
    write(client, topic, numbered(60, 2))
    consumer = client.open_consumer(ConsumerSettings(group=unique("group")))
    client.subscribe(consumer, [topic, topic + VIEW_SUFFIX])
    read = client.read(consumer, 120)
    assert client.assignment(consumer) == sorted([*places_of(topic, 2), view_of(topic)])
    for name in (topic, topic + VIEW_SUFFIX):
        assert sorted(int(record.value or b"-1") for record in read if record.topic == name) == list(range(60))
    client.close_consumer(consumer)


def test_what_is_refused(client: Client, topic: str) -> None:
    view = topic + VIEW_SUFFIX
    write(client, topic, numbered(10, 2))
    producer = client.open_producer(ProducerSettings())
    told = client.send(producer, view, [Record(b"refused", partition=0)])
    client.close_producer(producer)
    assert [delivery.code for delivery in told] == [Code.INVALID_TOPIC]
    for name in (view, unique("new") + VIEW_SUFFIX):
        with pytest.raises(ClientError) as refused:
            client.create_topic(name)
        assert refused.value.code == Code.INVALID_TOPIC
    with pytest.raises(ClientError) as not_deleted:
        client.delete_topic(view)
    with pytest.raises(ClientError) as not_grown:
        client.create_partitions(view, 3)
    assert (not_deleted.value.code, not_grown.value.code) == (Code.INVALID_TOPIC, Code.INVALID_TOPIC)
    assert "total-order view" in not_grown.value.text  # librdkafka's version of DeleteTopics has no room for a text
    assert len(client.read_topic(view, 1)) == 10
    assert client.describe_topic(view).partitions == 1


def test_a_view_without_its_topic_is_not_there(client: Client) -> None:
    name = unique("nowhere")
    with pytest.raises(ClientError) as unknown:
        client.describe_topic(name + VIEW_SUFFIX)
    assert unknown.value.code == Code.UNKNOWN_TOPIC_OR_PARTITION
    producer = client.open_producer(ProducerSettings(delivery_timeout_ms=1_000, request_timeout_ms=500))
    (delivery,) = client.send(producer, name + VIEW_SUFFIX, [Record(b"lost")])
    client.close_producer(producer)
    assert delivery.code != 0
    assert [topic for topic in client.topics() if topic.startswith(name)] == []


@pytest.mark.parametrize(("size", "has_view"), [(237, True), (238, False)])
def test_the_longest_name_that_has_a_view(client: Client, make_topic: MakeTopic, size: int, has_view: bool) -> None:
    topic = make_topic(1, name=unique("long").ljust(size, "x"))
    write(client, topic, numbered(3, 1))
    if has_view:
        assert len(client.read_topic(topic + VIEW_SUFFIX, 1)) == 3
    else:
        with pytest.raises(ClientError):
            client.describe_topic(topic + VIEW_SUFFIX)


def test_a_topic_without_total_order_has_no_view(client: Client, make_topic: MakeTopic) -> None:
    """Order level 0: order inside partitions only, as Kafka has it."""
    topic = make_topic(2, totalog_order_level=0)
    write(client, topic, numbered(20, 2))
    assert len(client.read_topic(topic, 2)) == 20
    with pytest.raises(ClientError) as unknown:
        client.describe_topic(topic + VIEW_SUFFIX)
    assert unknown.value.code == Code.UNKNOWN_TOPIC_OR_PARTITION


def test_the_view_of_a_deleted_and_recreated_topic(client: Client, make_topic: MakeTopic) -> None:
    topic = make_topic(3)
    write(client, topic, numbered(30, 3))
    client.delete_topic(topic)
    with pytest.raises(ClientError) as unknown:
        client.describe_topic(topic + VIEW_SUFFIX)
    assert unknown.value.code == Code.UNKNOWN_TOPIC_OR_PARTITION
    client.create_topic(topic, 2)
    write(client, topic, [Record(b"new", partition=at % 2) for at in range(8)])
    read = client.read_topic(topic + VIEW_SUFFIX, 1)
    assert [(record.offset, record.value) for record in read] == [(at, b"new") for at in range(8)]


def test_added_partitions_join_the_view(client: Client, make_topic: MakeTopic) -> None:
    topic = make_topic(1)
    write(client, topic, numbered(10, 1))
    client.create_partitions(topic, 3)
    write(client, topic, numbered(30, 3, start=10))
    read = client.read_topic(topic + VIEW_SUFFIX, 1)
    assert [record.offset for record in read] == list(range(40))
    assert [record.value for record in read[:10]] == [b"%d" % number for number in range(10)]
    assert sorted(int(record.value or b"-1") for record in read) == list(range(40))


@pytest.mark.case("gzip, snappy, lz4, zstd")
@pytest.mark.parametrize("codec", ["none", "gzip", "snappy", "lz4", "zstd"])
def test_headers_keys_and_compression_pass_through_the_view(readers: dict[str, Client], topic: str, codec: str) -> None:
    for client in readers.values():
        records = [
            Record(b"%d " % at * 50, b"key %d" % at, (("h", b"%d" % at),), at % 2, 1_000 + at) for at in range(100)
        ]
        write(client, topic, records, ProducerSettings(compression=codec, linger_ms=20))
    for client in readers.values():
        partitions = client.read_topic(topic, 2)
        view = client.read_topic(topic + VIEW_SUFFIX, 1)
        assert sorted(record[3:] for record in view) == sorted(record[3:] for record in partitions)
        assert [record.offset for record in view] == list(range(100 * len(readers)))


@pytest.mark.parametrize("kind_of_reader", KINDS)
def test_a_waiting_fetch_of_the_view_is_answered_by_any_partition(
    proxy: Proxy, spawn: Spawn, admin: Client, topic: str, kind_of_reader: str
) -> None:
    reader = spawn(kind_of_reader)
    consumer = reader.client.open_consumer(
        ConsumerSettings(fetch_wait_ms=LONGER_THAN_A_READ_MS), bootstrap=proxy.address
    )
    reader.client.assign(consumer, {view_of(topic): 0})
    for number in range(4):
        pending = reader.later("read", consumer, 1, READ_MS)
        assert proxy.wait_until(lambda seen: seen.pending.get(FETCH, 0) > 0)
        write(admin, topic, [Record(b"%d" % number, partition=number % 2)])
        assert [record.value for record in pending.result()] == [b"%d" % number]
