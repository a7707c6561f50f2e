"""What producers write is what everyone reads: acknowledgements, compression, headers, nulls, sizes, many requests in
flight.
"""

import random
from collections.abc import Sequence
from itertools import product

import pytest

from compat_tests import checker
from compat_tests.clients import CONFLUENT, KAFKA_PYTHON, KINDS
from compat_tests.clients.face import Client, Code, ConsumerSettings, Place, ProducerSettings, Received, Record
from compat_tests.conftest import MakeTopic, Spawn, unique
from compat_tests.proxy import Proxy

CODECS = ("none", "gzip", "snappy", "lz4", "zstd")
SIZES = {"1 byte": 1, "100 KiB": 100 << 10, "1 MiB": 1 << 20, "10 MiB": 10 << 20}
BATCH_MAX = (10 << 20) + (64 << 10)


def values_by_partition(records: list[Received], partitions: int) -> list[list[bytes | None]]:
    return [[record.value for record in records if record.partition == at] for at in range(partitions)]


@pytest.mark.case("acks 0, 1 and all")
@pytest.mark.parametrize("acks", ["0", "1", "all"])
def test_each_kind_of_acknowledgement(client: Client, topic: str, acks: str) -> None:
    records = [Record(b"%d" % number, partition=number % 2) for number in range(1_000)]
    producer = client.open_producer(ProducerSettings(acks=acks))
    told = client.send(producer, topic, records)
    assert [delivery.code for delivery in told] == [0] * 1_000
    if acks != "0":  # with 0 the clients are told no offset and make one up, or do not
        assert [(delivery.partition, delivery.offset) for delivery in told] == [
            (at % 2, at // 2) for at in range(1_000)
        ]
    consumer = client.open_consumer(ConsumerSettings())
    client.assign(consumer, {Place(topic, 0): 0, Place(topic, 1): 0})
    read = client.read(consumer, 1_000)
    client.close_consumer(consumer)
    client.close_producer(producer)
    assert values_by_partition(read, 2) == [[record.value for record in records[at::2]] for at in range(2)]


@pytest.mark.case("gzip, snappy, lz4, zstd")
@pytest.mark.parametrize("codec", CODECS)
def test_compression(client: Client, readers: dict[str, Client], topic: str, codec: str) -> None:
    records = [Record(b"%06d " % number * 40, key=b"%d" % (number % 7), partition=number % 2) for number in range(600)]
    producer = client.open_producer(ProducerSettings(compression=codec, linger_ms=20))
    told = client.send(producer, topic, records)
    client.close_producer(producer)
    assert [delivery.code for delivery in told] == [0] * 600
    for reader in readers.values():
        read = reader.read_topic(topic, 2)
        assert sorted(record.offset for record in read if record.partition == 1) == list(range(300))
        assert {(record.key, record.value) for record in read} == {(record.key, record.value) for record in records}
        assert values_by_partition(read, 2) == [[record.value for record in records[at::2]] for at in range(2)]


@pytest.mark.case("keys, headers, nulls, timestamps")
def test_headers_keys_values_and_timestamps_arrive_as_they_were_sent(
    client: Client, readers: dict[str, Client], topic: str
) -> None:
    records = [
        Record(b"plain", partition=0, timestamp_ms=1_000),
        Record(b"", key=b"", partition=0, timestamp_ms=2_000),
        Record(None, key=b"a tombstone", partition=0, timestamp_ms=3_000),
        Record(b"no key", headers=(("one", b"1"),), partition=0, timestamp_ms=4_000),
        Record(
            b"many",
            key=b"k",
            headers=tuple((f"h{at}", bytes([at]) * at) for at in range(100)),
            partition=0,
            timestamp_ms=5_000,
        ),
        Record(b"twice", headers=(("same", b"first"), ("same", b"second")), partition=0, timestamp_ms=6_000),
        Record(
            b"\x00\xff binary",
            key=b"\xfe\x00",
            headers=(("h\u00e9ader", b"\x00\x01"),),
            partition=0,
            timestamp_ms=7_000,
        ),
        Record(b"an empty header", headers=(("empty", b""),), partition=0, timestamp_ms=8_000),
    ]
    producer = client.open_producer(ProducerSettings())
    assert [delivery.offset for delivery in client.send(producer, topic, records)] == list(range(len(records)))
    client.close_producer(producer)
    for reader in readers.values():
        assert [
            Record(at.value, at.key, at.headers, at.partition, at.timestamp_ms) for at in reader.read_topic(topic, 2)
        ] == records


@pytest.mark.case("records without key and value")
@pytest.mark.needs("null_record")
def test_a_record_of_nulls_alone(client: Client, readers: dict[str, Client], topic: str) -> None:
    """Who does not write them must read them."""
    producer = client.open_producer(ProducerSettings())
    records = [Record(None, partition=0), Record(None, None, (("null", None),), partition=0)]
    assert [delivery.code for delivery in client.send(producer, topic, records)] == [0, 0]
    client.close_producer(producer)
    for reader in readers.values():
        read = reader.read_topic(topic, 2)
        assert [(record.key, record.value, record.headers) for record in read] == [
            (None, None, ()),
            (None, None, (("null", None),)),
        ]


def test_records_of_one_byte_and_of_900_kb(client: Client, readers: dict[str, Client], topic: str) -> None:
    noise = random.Random(900_000)
    sizes = [1, 900_000, 1, 1, 32_767, 32_768, 32_769, 65_536, 500_000, 900_000, 0, 1]
    records = [Record(noise.randbytes(size), partition=0) for size in sizes]
    producer = client.open_producer(ProducerSettings())
    assert [delivery.offset for delivery in client.send(producer, topic, records)] == list(range(len(sizes)))
    client.close_producer(producer)
    for reader in readers.values():
        assert [record.value for record in reader.read_topic(topic, 2)] == [record.value for record in records]


@pytest.mark.case("batches of 1 byte to 10 MiB")
@pytest.mark.parametrize("size", SIZES.values(), ids=SIZES)
def test_batches_of_one_byte_to_10_mib(
    client: Client, readers: dict[str, Client], make_topic: MakeTopic, ways: Sequence[str], size: int
) -> None:
    """One record that is a batch, and then records of 10 kB that fill one. Everyone reads them within its own limits
    of a fetch, which are smaller than the largest.
    """
    topic, noise = make_topic(1, max_message_bytes=BATCH_MAX), random.Random(size)
    producer = client.open_producer(ProducerSettings(batch_size=BATCH_MAX, request_max_bytes=BATCH_MAX, linger_ms=100))
    records = [Record(noise.randbytes(size), partition=0)]
    assert [delivery.offset for delivery in client.send(producer, topic, records)] == [0]
    records += [Record(noise.randbytes(min(size, 10_000)), partition=0) for _ in range(max(1, size // 10_240))]
    assert [delivery.offset for delivery in client.send(producer, topic, records[1:])] == list(range(1, len(records)))
    client.close_producer(producer)
    for reader, suffix in product(readers.values(), ways):
        read = reader.read_topic(topic + suffix, 1)
        assert [record.value for record in read] == [record.value for record in records]


@pytest.mark.case("records over a topic's limit")
def test_a_record_over_the_limit_of_its_topic_is_refused_and_not_stored(client: Client, make_topic: MakeTopic) -> None:
    topic = make_topic(1, max_message_bytes=10_000)
    producer = client.open_producer(ProducerSettings())
    records = [Record(b"small"), Record(b"x" * 20_000), Record(b"small again")]
    told = client.send(producer, topic, records, one_by_one=True)
    client.close_producer(producer)
    assert [(delivery.code, delivery.offset) for delivery in told] == [(0, 0), (Code.MESSAGE_TOO_LARGE, -1), (0, 1)]
    assert [record.value for record in client.read_topic(topic, 1)] == [b"small", b"small again"]


def test_a_topic_that_is_not_there_is_created_for_a_producer(client: Client, admin: Client) -> None:
    topic = unique("auto")
    producer = client.open_producer(ProducerSettings())
    told = client.send(producer, topic, [Record(b"first"), Record(b"second")], one_by_one=True)
    client.close_producer(producer)
    assert [delivery.code for delivery in told] == [0, 0]
    partitions = client.describe_topic(topic).partitions
    assert sorted(record.value or b"" for record in client.read_topic(topic, partitions)) == [b"first", b"second"]
    admin.delete_topic(topic)


def test_more_than_500_requests_in_flight(proxy: Proxy, readers: dict[str, Client], topic: str) -> None:
    """The answers are held back until librdkafka has 500 requests on its way; each is still answered in its turn."""
    proxy.hold_answers_until = 500
    writer = readers[CONFLUENT]
    producer = writer.open_producer(ProducerSettings(acks="1", batch_records_max=1), bootstrap=proxy.address)
    records = [Record(b"%d" % number, partition=0) for number in range(20_000)]
    told = writer.send(producer, topic, records)
    writer.close_producer(producer)
    assert proxy.in_flight_max >= 500
    assert proxy.produce_count == 20_000
    assert [(delivery.code, delivery.offset) for delivery in told] == [(0, at) for at in range(20_000)]
    assert [record.value for record in readers[KAFKA_PYTHON].read_topic(topic, 2)] == [
        record.value for record in records
    ]


def test_producers_of_all_kinds_at_once(spawn: Spawn, readers: dict[str, Client], make_topic: MakeTopic) -> None:
    topic, per_producer = make_topic(4), 5_000
    writers = [spawn(kind) for kind in (*KINDS, KINDS[0])]
    pending = []
    for number, writer in enumerate(writers):
        settings = ProducerSettings(acks="all" if number % 2 else "1", idempotence=number == 1, linger_ms=2)
        records = [Record(checker.value_of(number, at), partition=at * 7 % 4) for at in range(per_producer)]
        pending.append(writer.later("send", writer.client.open_producer(settings), topic, records))
    told = [delivery for future in pending for delivery in future.result()]
    assert {delivery.code for delivery in told} == {0}
    promised = checker.told(range(len(told)), told)
    for reader in readers.values():
        read = checker.received(reader.read_topic(topic, 4), per_producer)
        assert checker.dense(read) == []
        assert checker.complete(read, len(told)) == []
        assert checker.acknowledged(read, promised) == []
        assert checker.producer_order(read, per_producer) == []
