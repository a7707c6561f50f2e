"""Asks a broker as a client would, without a connection: requests are encoded and answers decoded by the library."""

import struct
import warnings
from collections.abc import Callable, Mapping
from inspect import isawaitable
from typing import Any, TypeVar

import pytest
import trio
from trio.testing import MockClock

from totalog.engine import Log
from totalog.gateway import apis
from totalog.gateway.apis.api import Request
from totalog.gateway.broker import Broker
from totalog.gateway.config import Config
from totalog.gateway.lane import Steps, finish
from totalog.gateway.wire import codec
from totalog.gateway.wire.cursor import Cursor
from totalog.gateway.wire.errors import ProtocolViolation

with warnings.catch_warnings():
    warnings.simplefilter(
        "ignore", DeprecationWarning
    )  # the library reads its schemas in a way that Python 3.11 frowns on
    codec.warm(())

CORRELATION_ID = 0x01020304
NOW_MS = 1_700_000_000_000
REGION_SIZE = 128 * 1024 * 1024


class FixedClock:
    def wall_ms(self) -> int:
        return NOW_MS


def make_broker(log: Log, settings: Mapping[str, str] | None = None) -> Broker:
    return Broker(log, Config(settings), clock=FixedClock(), host="broker.test", port=9092)


async def turns_until(done: trio.Event) -> int:
    """How many turns others had until then."""
    turns = 0
    while not done.is_set():
        await trio.lowlevel.checkpoint()
        turns += 1
    return turns


Whole = TypeVar("Whole")
Read = TypeVar("Read")


def both_ways(
    parse: Callable[[int, memoryview, int], Whole | None],
    parse_in_steps: Callable[[int, memoryview, int], Steps[Read]],
    version: int,
    frame: memoryview,
    position: int,
) -> tuple[Whole | None, Read]:
    """What a request says, read as a whole, where that is done, and in steps. What breaks the protocol does so in both
    ways."""
    try:
        whole = parse(version, frame, position)
    except ProtocolViolation:
        with pytest.raises(ProtocolViolation):
            finish(parse_in_steps(version, frame, position))
        raise
    return whole, finish(parse_in_steps(version, frame, position))


def make_request(key: int, version: int, body: bytes) -> Request:
    return Request(key, version, CORRELATION_ID, "tester", memoryview(body), 0, "192.0.2.1")


def encode_request(message: Any) -> bytes:
    """A whole frame without its size word, the header included."""
    message.with_header(CORRELATION_ID, "tester")
    return bytes(message.encode(header=True))


def parse_request(frame: bytes) -> Request:
    """Parses the header as a connection does."""
    key, version, correlation_id = struct.unpack_from(">hhi", frame)
    cursor = Cursor(memoryview(frame), 8)
    client_id = cursor.nullable_string()
    if version >= apis.TABLE[key].flexible_from:
        cursor.skip_tagged_fields()
    return Request(key, version, correlation_id, client_id, memoryview(frame), cursor.position, "192.0.2.1")


def dispatch(broker: Broker, request: Request) -> Any:
    """The frame of the answer, without its size word; None where there is none. A handler that waits takes no time."""

    async def dispatched() -> Any:
        answer = apis.dispatch(broker, request)
        return await answer if isawaitable(answer) else answer

    answer = trio.run(dispatched, clock=MockClock(autojump_threshold=0))
    if answer is None:
        return None
    frame = bytes(answer) if isinstance(answer, bytes | bytearray) else b"".join(answer.parts)
    assert struct.unpack_from(">i", frame)[0] == len(frame) - 4, "the size word is wrong"
    return frame[4:]


def exchange(broker: Broker, message: Any) -> Any:
    """The decoded answer to a request message that has its version."""
    frame = dispatch(broker, parse_request(encode_request(message)))
    response = getattr(codec, type(message).__name__.replace("Request", "Response"))
    answer = response.decode(frame, version=message.API_VERSION, header=True)
    assert answer.header.correlation_id == CORRELATION_ID
    return answer


def ask(broker: Broker, name: str, version: int, **fields: Any) -> Any:
    """The decoded answer to the request `name` with these fields; structs are given as dictionaries."""
    return exchange(broker, build(getattr(codec, f"{name}Request"), version, fields))


def build(message_class: Any, version: int, fields: Mapping[str, Any]) -> Any:
    """A message of the library from plain values, nested structs from dictionaries."""
    known = message_class._struct.fields
    return message_class(
        version=version, **{name: _value(known[name], version, value) for name, value in fields.items()}
    )


def _value(field: Any, version: int, value: Any) -> Any:
    if field.is_struct_array() and value is not None:
        return [build(field.data_class, version, item) for item in value]
    return value
