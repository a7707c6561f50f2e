"""Transactions of one producer: what is committed is read, what is aborted is not."""

import pytest

from compat_tests.clients.face import Client, ClientError, ConsumerSettings, Place, Record
from compat_tests.conftest import unique
from compat_tests.steps import write


def read_committed(client: Client, topic: str, count: int) -> list[bytes | None]:
    consumer = client.open_consumer(ConsumerSettings(read_committed=True))
    client.assign(consumer, {Place(topic, 0): 0})
    values = [record.value for record in client.read(consumer, count)]
    client.close_consumer(consumer)
    return values


@pytest.mark.case("transactions")
def test_a_committed_transaction_is_read(client: Client, topic: str) -> None:
    client.transact(unique("id"), topic, [Record(b"one", partition=0), Record(b"two", partition=0)], commit=True)
    assert read_committed(client, topic, 2) == [b"one", b"two"]


@pytest.mark.case("transactions")
def test_an_aborted_transaction_is_not_read(client: Client, topic: str) -> None:
    client.transact(unique("id"), topic, [Record(b"aborted", partition=0)], commit=False)
    write(client, topic, [Record(b"plain", partition=0)])
    assert read_committed(client, topic, 1) == [b"plain"]


@pytest.mark.totalog_only
def test_a_transactional_producer_is_told_at_once_that_there_are_none(client: Client, topic: str) -> None:
    with pytest.raises(ClientError) as refused:
        client.transact(unique("id"), topic, [Record(b"refused", partition=0)], commit=True)
    assert not refused.value.retriable
    assert client.read_topic(topic, 2) == []
