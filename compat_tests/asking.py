"""Any request of the Kafka protocol, field by field, for what no stock client would send. The messages are those of
kafka-python, made of Kafka's own definitions; nothing of ours is used, so that any broker can be asked."""

import struct
import warnings
from collections.abc import Mapping
from importlib import import_module
from typing import Any

from compat_tests.raw import Peer

CORRELATION_ID = 11
CLIENT_ID = "asking"


def _load() -> dict[str, Any]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # the library reads its schemas in an old way
        for name in ("consumer", "producer", "metadata", "admin"):
            import_module(f"kafka.protocol.{name}")
    messages = import_module("kafka.protocol.api_message").ApiMessage.__subclasses__()
    return {message.__name__: message for message in messages if message._class_version is None}


MESSAGES = _load()


def build(message: Any, version: int, fields: Mapping[str, Any]) -> Any:
    """A message from plain values, its structs from dictionaries."""
    known = message._struct.fields
    values = {
        name: [build(known[name].data_class, version, item) for item in value]
        if value is not None and known[name].is_struct_array()
        else value
        for name, value in fields.items()
    }
    return message(version=version, **values)


def request(name: str, version: int, **fields: Any) -> bytes:
    """A complete frame."""
    message = build(MESSAGES[f"{name}Request"], version, fields)
    message.with_header(CORRELATION_ID, CLIENT_ID)
    return bytes(message.encode(header=True, framed=True))


class Asker:
    """One connection."""

    def __init__(self, address: str) -> None:
        self.peer = Peer(address)

    def __enter__(self) -> "Asker":
        return self

    def __exit__(self, *_: object) -> None:
        self.peer.close()

    def send(self, name: str, version: int, **fields: Any) -> None:
        self.peer.send(request(name, version, **fields))

    def answer(self, name: str, version: int) -> Any:
        """None: the connection was closed."""
        frame = self.peer.answer()
        if frame is None:
            return None
        assert struct.unpack_from(">i", frame) == (CORRELATION_ID,)
        return MESSAGES[f"{name}Response"].decode(frame, version=version, header=True)

    def ask(self, name: str, version: int, **fields: Any) -> Any:
        """The answer to a request; None: the connection was closed."""
        self.send(name, version, **fields)
        return self.answer(name, version)
