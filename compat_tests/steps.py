"""Steps that many tests take."""

import time
from collections.abc import Callable, Sequence

from compat_tests.clients.face import Client, Delivery, Place, ProducerSettings, Record

TIME_MAX_S = 60.0
VIEW_SUFFIX = ".total-order"


def poll_until(true: Callable[[], bool]) -> None:
    """Asks again and again; each question is a request to the broker, which does the waiting."""
    deadline = time.monotonic() + TIME_MAX_S
    while not true():
        assert time.monotonic() < deadline


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
    """All partitions of a topic; a view has one."""
    return [Place(topic, partition) for partition in range(1 if topic.endswith(VIEW_SUFFIX) else partitions)]
