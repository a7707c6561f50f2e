"""A broker for your own tests: up in a fraction of a second, in a process of its own, gone afterwards.

pytest examples/in_pytest.py
"""

from collections.abc import Iterator
from itertools import islice

import pytest
from kafka import KafkaConsumer, KafkaProducer

from totalog.gateway.testing import broker


@pytest.fixture(scope="session")
def kafka_address() -> Iterator[str]:
    with broker(settings={"num.partitions": 4}) as running:
        yield running.address


def ship(kafka_address: str, order: str) -> None:
    """Stands for your own code."""
    with KafkaProducer(bootstrap_servers=kafka_address) as producer:
        producer.send("shipped", order.encode()).get(timeout=10)


def test_an_order_is_shipped(kafka_address: str) -> None:
    ship(kafka_address, "a book")
    with KafkaConsumer("shipped", bootstrap_servers=kafka_address, auto_offset_reset="earliest") as consumer:
        (record,) = islice(consumer, 1)
    assert record.value == b"a book"
