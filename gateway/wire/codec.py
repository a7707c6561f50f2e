"""Kafka messages in and out: the one place that knows `kafka.protocol` of kafka-python, which is generated from Kafka's
own message definitions.

The library is imported at the first use, since it loads a whole Kafka client (about 150 ms); `warm` does that in a
thread once the port is open. Message classes are attributes of this module: `codec.MetadataResponse`,
`codec.MetadataResponse.MetadataResponseTopic`. Give `version=` to each of them, nested ones too.

Two threads may use this module while `warm` runs. The library compiles an encoder or decoder when a version is first
used and does not expect two threads there, so a first use holds a lock.

Things to know about the messages:
- `authorized_operations` is a set of bits, None meaning "not asked for";
- a UUID of zeroes is None in both directions, others are uuid.UUID;
- a field outside the version reads as its default;
- the answer to ApiVersions has a version 0 header whatever its body is (the library does that by itself);
- the arrays of a request can be iterated over, and have a length; where there is much in them, they are no lists, but
  read from the frame each time (`elements`). An answer that may be long has `rows` for its arrays.
"""

import struct
import threading
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from totalog.gateway import limits
from totalog.gateway.lane import finish
from totalog.gateway.limits import ELEMENTS_COUNT_MAX, WHOLE_SIZE_MAX
from totalog.gateway.wire.errors import ProtocolViolation
from totalog.gateway.wire.rows import Rows, frame_of

if TYPE_CHECKING:
    from collections.abc import Generator

    from totalog.gateway.wire.elements import Read
    from totalog.gateway.wire.guard import Guard

WHOLE_ELEMENTS_MAX = limits.WHOLE_ELEMENTS_MAX

_MODULES = ("consumer", "producer", "metadata", "admin")
_CONSUMER_PROTOCOL = ("ConsumerProtocolSubscription", "ConsumerProtocolAssignment")

_lock = threading.RLock()
_requests: dict[int, Any] = {}
_responses: dict[int, Any] = {}
_guards: "dict[tuple[int, int], Guard]" = {}
_readers: "dict[tuple[int, int], Read]" = {}
_encodable: set[tuple[int, int]] = set()


def __getattr__(name: str) -> Any:
    """A message class of the library by its name; it stays here as an attribute."""
    if not name.endswith(("Request", "Response", *_CONSUMER_PROTOCOL)):
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    with _lock:
        _load()
        if name not in globals():
            raise AttributeError(f"kafka.protocol has no message {name!r}")
        return globals()[name]


def _load() -> None:
    """Imports the library and fills the class tables. The package's own registry holds answers only."""
    if _requests:
        return
    from importlib import import_module

    from kafka.protocol.api_message import ApiMessage

    for name in _MODULES:
        import_module(f"kafka.protocol.{name}")
    group = import_module("kafka.protocol.consumer.metadata")
    for name in _CONSUMER_PROTOCOL:
        globals()[name] = getattr(group, name)
    for message in ApiMessage.__subclasses__():
        if message._class_version is None:  # versioned twins are subclasses too
            globals()[message.__name__] = message
            (_requests if message.is_request() else _responses)[message.API_KEY] = message


def decode(key: int, version: int, body: memoryview, elements_max: int = ELEMENTS_COUNT_MAX) -> Any:
    """The request message in `body`, at once; see `decode_in_steps`."""
    return finish(decode_in_steps(key, version, body, elements_max))


def decode_in_steps(
    key: int, version: int, body: memoryview, elements_max: int = ELEMENTS_COUNT_MAX
) -> "Generator[None, None, Any]":
    """The request message in `body` (past the header). Raises ProtocolViolation. The version must be one that
    is served: the library reads versions below Kafka's minimum wrongly and without complaint."""
    guard = _guards.get((key, version)) or _prepare(key, version)
    checked = yield from guard(body, elements_max)
    if checked.elements > WHOLE_ELEMENTS_MAX or checked.size > WHOLE_SIZE_MAX:
        read = _readers.get((key, version)) or _prepare_reader(key, version)
        message, at, _ = read(body, 0, 0, checked.ends)
        assert at == checked.size, "guard and reader disagree"
        return message
    try:
        return _requests[key].decode(body, version=version)
    except (struct.error, IndexError, ValueError, AssertionError) as error:
        raise ProtocolViolation(f"{_requests[key].__name__} version {version} does not parse: {error}") from error


def rows(response: Any, version: int) -> Rows:
    """An array of the answer `response`, to begin with empty, whose elements are encoded as they are added."""
    return Rows(response.flexible_version_q(version))


def decode_answer(key: int, version: int, frame: bytes | bytearray | memoryview) -> Any:
    """The message of an answer that was encoded here."""
    return _responses[key].decode(bytes(frame[4:]), version=version, header=True)


def encode(answer: Any, correlation_id: int) -> bytearray:
    """The complete frame of an answer message, size word and header included."""
    key = (answer.API_KEY, answer.API_VERSION)
    if key not in _encodable:
        with _lock:
            frame = _encode(answer, correlation_id)
            _encodable.add(key)
        return frame
    return _encode(answer, correlation_id)


def _encode(answer: Any, correlation_id: int) -> bytearray:
    found = frame_of(answer, correlation_id)
    if found is not None:
        return found
    answer.with_header(correlation_id)
    frame: bytearray = answer.encode(header=True, framed=True)
    return frame


def _prepare_reader(key: int, version: int) -> "Read":
    from totalog.gateway.wire.elements import reader_of

    with _lock:
        request = _requests[key]
        read = _readers[(key, version)] = reader_of(
            request._struct, version, request.flexible_version_q(version), request[None]
        )
        return read


def _prepare(key: int, version: int) -> "Guard":
    """Makes the guard and the library's decoder of one API and version."""
    from totalog.gateway.wire.guard import guard_of

    with _lock:
        _load()
        request = _requests[key]
        flexible = request.flexible_version_q(version)
        request._struct.compiled_decode_from(version, compact=flexible, tagged=flexible, data_class=request[None])
        guard = _guards[(key, version)] = guard_of(request._struct, version, flexible)
        return guard


def warm(versions: Iterable[tuple[int, int]]) -> None:
    """Imports the library and compiles decoder and encoder of each (API key, version): 2-3 ms each. For a thread."""
    with _lock:
        _load()
    for key, version in versions:
        if (key, version) not in _guards:
            _prepare(key, version)
        with _lock:
            answer = _responses[key]
            flexible = answer.flexible_version_q(version)
            answer._struct.compiled_encode_into(version, compact=flexible, tagged=flexible)
            _encodable.add((key, version))
