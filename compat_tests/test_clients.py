"""What a client is said to lack it does lack: the face says so, and does nothing else instead."""

from collections.abc import Callable

import pytest

from compat_tests.clients import LACKS
from compat_tests.clients.face import Client, ClientError, Code, ConsumerSettings, ProducerSettings, Record
from compat_tests.clients.process import Clients
from compat_tests.conftest import unique


def write_null(client: Client) -> None:
    producer = client.open_producer(ProducerSettings())
    try:
        client.send(producer, unique("never"), [Record(None)])
    finally:
        client.close_producer(producer)


NEEDS: dict[str, Callable[[Client], object]] = {
    "config_errors": lambda client: client.topic_config(unique("unknown")),
    "delete_group": lambda client: client.delete_group(unique("unknown")),
    "group_protocol": lambda client: client.open_consumer(ConsumerSettings(unique("group"), group_protocol="consumer")),
    "log_sizes": lambda client: client.log_sizes(),
    "null_record": write_null,
    "receive_buffer": lambda client: client.open_consumer(ConsumerSettings(receive_buffer_bytes=65_536)),
}


@pytest.mark.parametrize(("kind", "ability"), [(kind, ability) for kind, own in LACKS.items() for ability in own])
def test_the_face_says_what_its_client_lacks(shared_clients: Clients, kind: str, ability: str) -> None:
    with pytest.raises(ClientError, match=LACKS[kind][ability]) as lacking:
        NEEDS[ability](shared_clients[kind])
    assert lacking.value.code == Code.CLIENT_LACKS
