"""Reading from where one wants: seek, first and end offsets, offsets for times, long polls, small fetch limits."""

from collections.abc import Sequence
from dataclasses import replace

import pytest

from compat_tests.clients import CONFLUENT, KINDS
from compat_tests.clients.face import Client, ClientError, ConsumerSettings, Place, ProducerSettings, Received, Record
from compat_tests.conftest import MakeTopic, Spawn
from compat_tests.proxy import FETCH, Proxy
from compat_tests.steps import numbered, places_of, write

LONGER_THAN_A_READ_MS = 120_000
READ_MS = 60_000
IN_ORDER = ProducerSettings(idempotence=True)


@pytest.mark.case("seek, first and end offsets, offsets for times")
def test_seek_goes_back_and_forth(client: Client, topic: str) -> None:
    write(client, topic, numbered(200, 2))
    one, other = Place(topic, 0), Place(topic, 1)
    consumer = client.open_consumer(ConsumerSettings())
    client.assign(consumer, {one: 0})
    assert [record.offset for record in client.read(consumer, 100)] == list(range(100))
    assert client.position(consumer, one) == 100
    for start in (50, 99, 0, 37):
        client.seek(consumer, one, start)
        read = client.read(consumer, 100 - start)
        assert [record.offset for record in read] == list(range(start, 100))
        assert [record.value for record in read] == [b"%d" % (2 * offset) for offset in range(start, 100)]
    client.assign(consumer, {one: 98, other: 97})
    assert sorted((record.partition, record.offset) for record in client.read(consumer, 5)) == [
        (0, 98),
        (0, 99),
        (1, 97),
        (1, 98),
        (1, 99),
    ]
    client.close_consumer(consumer)


@pytest.mark.case("seek, first and end offsets, offsets for times")
def test_first_and_end_offsets(client: Client, topic: str) -> None:
    one, other = Place(topic, 0), Place(topic, 1)
    consumer = client.open_consumer(ConsumerSettings())
    assert client.bounds(consumer, [one, other]) == {one: (0, 0), other: (0, 0)}
    write(client, topic, [Record(b"", partition=0)] * 7 + [Record(b"", partition=1)] * 3)
    assert client.bounds(consumer, [one, other]) == {one: (0, 7), other: (0, 3)}
    write(client, topic, [Record(b"", partition=1)])
    assert client.bounds(consumer, [one, other]) == {one: (0, 7), other: (0, 4)}
    client.close_consumer(consumer)


@pytest.mark.case("seek, first and end offsets, offsets for times")
@pytest.mark.parametrize("codec", ["none", "gzip", "snappy", "lz4", "zstd"])
def test_offsets_for_times(client: Client, readers: dict[str, Client], topic: str, codec: str) -> None:
    """Several records in a batch and several batches: the first record of at least that time, wherever it is in its
    batch.
    """
    times = [1_000, 2_000, 3_000, 3_000, 5_000, 4_000, 6_000, 9_000]
    for batch in range(3):
        later = [Record(b"x" * 50, partition=0, timestamp_ms=time + 10_000 * batch) for time in times]
        write(client, topic, later, ProducerSettings(compression=codec, linger_ms=50))
    wanted = {
        0: 0,
        1_000: 0,
        1_001: 1,
        3_000: 2,
        3_001: 4,
        5_500: 6,
        9_000: 7,
        9_001: 8,
        13_500: 12,
        29_000: 23,
        29_001: None,
    }
    place = Place(topic, 0)
    for reader in readers.values():
        consumer = reader.open_consumer(ConsumerSettings())
        for time, offset in wanted.items():
            assert reader.offsets_for_times(consumer, {place: time}) == {place: offset}, time
        assert reader.offsets_for_times(consumer, {place: 5_500, Place(topic, 1): 5_500}) == {
            place: 6,
            Place(topic, 1): None,
        }
        reader.close_consumer(consumer)


def test_an_offset_outside_the_log_follows_the_reset_rule(client: Client, topic: str) -> None:
    write(client, topic, numbered(10, 1))
    consumer = client.open_consumer(ConsumerSettings(reset="earliest"))
    client.assign(consumer, {Place(topic, 0): 1_000})
    assert [record.offset for record in client.read(consumer, 10)] == list(range(10))
    client.close_consumer(consumer)
    strict = client.open_consumer(ConsumerSettings(reset="none"))
    client.assign(strict, {Place(topic, 0): 1_000})
    with pytest.raises(ClientError):
        client.read(strict, 1)
    client.close_consumer(strict)


def test_the_reset_rule_latest_begins_behind_what_is_there(client: Client, topic: str) -> None:
    write(client, topic, [Record(b"old", partition=0)])
    consumer = client.open_consumer(ConsumerSettings(reset="latest"))
    place = Place(topic, 0)
    client.assign(consumer, {place: client.bounds(consumer, [place])[place][1]})
    write(client, topic, [Record(b"new", partition=0)])
    assert [record.value for record in client.read(consumer, 1)] == [b"new"]
    client.close_consumer(consumer)


@pytest.mark.case("long polls")
@pytest.mark.parametrize("kind_of_reader", KINDS)
def test_a_waiting_fetch_is_answered_by_the_next_record(
    proxy: Proxy, spawn: Spawn, admin: Client, topic: str, kind_of_reader: str
) -> None:
    """The fetch may wait longer than the read does: only the record can answer it."""
    reader = spawn(kind_of_reader)
    waiting = ConsumerSettings(fetch_wait_ms=LONGER_THAN_A_READ_MS)
    consumer = reader.client.open_consumer(waiting, bootstrap=proxy.address)
    reader.client.assign(consumer, {Place(topic, 0): 0, Place(topic, 1): 0})
    pending = reader.later("read", consumer, 1, READ_MS)
    assert proxy.wait_until(lambda seen: seen.pending.get(FETCH, 0) > 0)
    write(admin, topic, [Record(b"awaited", partition=1)])
    assert [record.value for record in pending.result()] == [b"awaited"]


@pytest.mark.case("long polls")
@pytest.mark.parametrize("kind_of_reader", KINDS)
def test_a_fetch_waits_for_its_minimum_of_bytes(
    proxy: Proxy, spawn: Spawn, admin: Client, topic: str, kind_of_reader: str
) -> None:
    reader = spawn(kind_of_reader)
    waiting = ConsumerSettings(fetch_wait_ms=LONGER_THAN_A_READ_MS, fetch_min_bytes=10_000)
    consumer = reader.client.open_consumer(waiting, bootstrap=proxy.address)
    reader.client.assign(consumer, {Place(topic, 0): 0})
    pending = reader.later("poll", consumer, READ_MS)
    assert proxy.wait_until(lambda seen: seen.pending.get(FETCH, 0) > 0)
    write(admin, topic, [Record(b"too small", partition=0)])
    with proxy.changed:
        assert proxy.pending[FETCH] > 0
    write(admin, topic, [Record(bytes(20_000), partition=0)])
    assert [len(record.value or b"") for record in pending.result()] == [9, 20_000]


def sized(count: int, partitions: int) -> list[Record]:
    """Small and large batches in turn, over the partitions; the first bytes of a value are its number."""
    sizes = (100_000, 4, 900_000, 100, 4, 300_000)
    return [
        Record(b"%04d" % at + bytes(sizes[at % len(sizes)] - 4), partition=at // len(sizes) % partitions)
        for at in range(count)
    ]


def in_order(read: Sequence[Received], sent: Sequence[Record], topic: str, partitions: int) -> bool:
    """All that was sent came, and offsets and partitions' orders are as they must be; in a view there is one order."""
    values = {record.value for record in sent}
    assert len(read) == len(sent)
    assert {record.value for record in read} == values
    for place in places_of(topic, partitions):
        assert [record.offset for record in read if record.partition == place.partition] == list(
            range(sum(record.partition == place.partition for record in read))
        )
    for partition in range(partitions):
        order = [record.value for record in sent if record.partition == partition]
        assert [record.value for record in read if record.value in set(order)] == order
    return True


@pytest.mark.case("batches larger than the limits of a fetch")
@pytest.mark.parametrize(("fetch_max", "partition_max"), [(1_000, 1), (1_000, 1_000_000), (1_000_000, 5_000)])
def test_batches_larger_than_the_limits_of_a_fetch_still_come(
    client: Client, topic: str, ways: Sequence[str], fetch_max: int, partition_max: int
) -> None:
    """The first batch comes whole whatever the limits say, so that a consumer never gets stuck."""
    records = sized(24, 2)
    write(client, topic, records, IN_ORDER)
    small = ConsumerSettings(fetch_max_bytes=fetch_max, partition_fetch_max_bytes=partition_max)
    for name in (topic + suffix for suffix in ways):
        consumer = client.open_consumer(small)
        client.assign(consumer, dict.fromkeys(places_of(name, 2), 0))
        assert in_order(client.read(consumer, len(records)), records, name, 2)
        client.close_consumer(consumer)


@pytest.mark.case("large fetches through a small receive buffer")
@pytest.mark.needs("receive_buffer")
def test_large_fetches_through_a_small_receive_buffer(client: Client, topic: str, ways: Sequence[str]) -> None:
    records = sized(60, 2)
    write(client, topic, records, IN_ORDER)
    for name in (topic + suffix for suffix in ways):
        consumer = client.open_consumer(ConsumerSettings(receive_buffer_bytes=16_384, fetch_max_bytes=50_000_000))
        client.assign(consumer, dict.fromkeys(places_of(name, 2), 0))
        assert in_order(client.read(consumer, len(records)), records, name, 2)
        client.close_consumer(consumer)


@pytest.mark.case("slow readers that pause")
def test_slow_readers_with_small_windows_miss_nothing(
    client: Client, spawn: Spawn, topic: str, ways: Sequence[str]
) -> None:
    """They read little at a time and pause again and again, while a producer goes on."""
    records = [Record(b"%04d" % at + bytes(1_000), partition=at % 2) for at in range(1_000)]
    small = ConsumerSettings(fetch_wait_ms=50, fetch_max_bytes=20_000, partition_fetch_max_bytes=10_000)
    readers = {topic + suffix: client.open_consumer(small) for suffix in ways}
    for name, consumer in readers.items():
        client.assign(consumer, dict.fromkeys(places_of(name, 2), 0))
    read: dict[str, list[Received]] = {name: [] for name in readers}
    writer = spawn(CONFLUENT)
    producer = writer.client.open_producer(replace(IN_ORDER, batch_size=5_000))
    pending = writer.later("send", producer, topic, records)
    while any(len(own) < len(records) for own in read.values()):
        for name, consumer in readers.items():
            more = client.read(consumer, min(200, len(records) - len(read[name])))
            assert more or len(read[name]) == len(records)
            read[name] += more
            client.pause(consumer, places_of(name, 2))
            assert client.poll(consumer, 20) == []
            client.resume(consumer, places_of(name, 2))
    assert {delivery.code for delivery in pending.result()} == {0}
    for name, consumer in readers.items():
        assert in_order(read[name], records, name, 2)
        client.close_consumer(consumer)


def test_many_partitions_in_one_fetch(client: Client, make_topic: MakeTopic) -> None:
    topic = make_topic(100)
    write(client, topic, numbered(300, 100))
    read = client.read_topic(topic, 100)
    assert sorted((record.partition, record.offset) for record in read) == [
        (at, offset) for at in range(100) for offset in range(3)
    ]
    assert {record.value for record in read} == {b"%d" % number for number in range(300)}


def test_records_that_arrive_while_a_consumer_reads(client: Client, admin: Client, topic: str) -> None:
    consumer = client.open_consumer(ConsumerSettings())
    client.assign(consumer, {Place(topic, 0): 0})
    values = []
    for round_number in range(20):
        write(admin, topic, [Record(b"%d" % round_number, partition=0)])
        values += [record.value for record in client.read(consumer, 1)]
    assert values == [b"%d" % round_number for round_number in range(20)]
    client.close_consumer(consumer)
