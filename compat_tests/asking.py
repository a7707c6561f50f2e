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


def fetch(
    topic: str,
    *partitions: int,
    offset: int = 0,
    wait_ms: int = 0,
    least: int = 1,
    most: int = 1 << 20,
    part_most: int = 1 << 20,
) -> dict[str, Any]:
    """Of partition 0, unless others are named."""
    part = {"current_leader_epoch": -1, "fetch_offset": offset, "partition_max_bytes": part_most}
    parts = [{"partition": at, **part} for at in partitions or (0,)]
    waits = {"max_wait_ms": wait_ms, "min_bytes": least, "max_bytes": most, "session_id": 0, "session_epoch": -1}
    return {**waits, "topics": [{"topic": topic, "partitions": parts}]}


def found(answer: Any) -> dict[int, tuple[int, bytes]]:
    """Error code and records by partition."""
    (topic,) = answer.responses
    return {part.partition_index: (part.error_code, bytes(part.records or b"")) for part in topic.partitions}


def wait_until_ready(address: str, topic: str, partitions: int = 1) -> None:
    """Until every partition can be used: with Apache Kafka a moment later than each has its leader."""
    asked = fetch(topic, *range(partitions), least=0)
    with Asker(address) as asker:
        while any(code for code, _ in found(asker.ask("Fetch", 12, **asked)).values()):
            pass
