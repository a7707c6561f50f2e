"""Steps that many tests take."""

from collections.abc import Sequence

from compat_tests.clients.face import Client, Delivery, Place, ProducerSettings, Record


def write(
    client: Client, topic: str, records: Sequence[Record], settings: ProducerSettings | None = None
) -> list[Delivery]:
    """Writes all with a producer of its own; every record is stored when this returns."""
    producer = client.open_producer(settings or ProducerSettings())
    deliveries = client.send(producer, topic, records)
    client.close_producer(producer)
    assert [delivery for delivery in deliveries if delivery.code] == []
    assert len(deliveries) == len(records)
    return deliveries


def numbered(count: int, partitions: int, start: int = 0) -> list[Record]:
    """Records whose values are numbers in text, over the partitions in turn."""
    return [Record(b"%d" % number, partition=number % partitions) for number in range(start, start + count)]


def places_of(topic: str, partitions: int) -> list[Place]:
    return [Place(topic, partition) for partition in range(partitions)]
