"""What takes bytes from strangers. A target returns, whatever it is given: the errors that are defined for bad input
are caught here, and every other exception is a finding.
"""

import struct
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import cache
from typing import Any

from totalog.engine import Log
from totalog.gateway import apis
from totalog.gateway.apis.api import Api
from totalog.gateway.broker import Broker
from totalog.gateway.limits import Limits
from totalog.gateway.tests import batches
from totalog.gateway.tests.harness import NOW_MS, dispatch, encode_request, make_broker, make_request
from totalog.gateway.tests.harness import build as build_message
from totalog.gateway.tests.test_codec import bodies
from totalog.gateway.waiting import Stopped
from totalog.gateway.wire import batch, codec, records
from totalog.gateway.wire._batch import ffi, lib
from totalog.gateway.wire.errors import ProtocolViolation
from totalog.gateway.wire.frame import Format, FrameReader, LargeBody

LIMITS = Limits(receive_buffer_size=4096, large_body_size_min=1024)
FORMATS = {api.key: Format(api.flexible_from, 64 * 1024) for api in apis.TABLE.values()}
REGION_SIZE = 64 << 20
COMPARED_SIZE_MAX = 2048
"""Bytes of a message that is compared as a whole with what the library makes of it."""
TOPICS_COUNT_MAX = 50
"""Topics after which the broker that answers is made anew."""


@dataclass(frozen=True)
class Target:
    run: Callable[[bytes], None]
    seeds: Callable[[], Iterator[bytes]]
    """Sound input of different kinds, to begin with."""


# Frames and headers


def run_frames(data: bytes) -> None:
    """A connection's bytes in pieces: the first byte says how large they are."""
    step = data[0] * 16 + 1 if data else 1
    reader, at = FrameReader(FORMATS, LIMITS, "192.0.2.1"), 1
    with suppress(ProtocolViolation):
        while at < len(data):
            space = reader.space()
            piece = data[at : at + min(step, len(space))]
            space[: len(piece)] = piece
            reader.received(len(piece))
            at += len(piece)
            while (event := reader.next()) is not None:
                if isinstance(event, LargeBody):
                    assert len(event.received) <= event.size
                    rest = data[at : at + event.size - len(event.received)]
                    at += len(rest)
                    if len(event.received) + len(rest) < event.size:
                        return
                    reader.parse(memoryview(bytes(event.received) + rest))
            reader.rest()


def frame_seeds() -> Iterator[bytes]:
    for step in (0, 1, 255):
        for api in apis.TABLE.values():
            message = getattr(codec, f"{api.name}Request")(version=api.max_version)
            frame = encode_request(message)
            yield bytes([step]) + struct.pack(">i", len(frame)) + frame


# Requests


def _api_of(data: bytes) -> tuple[Api, int, bytes]:
    """The first two bytes choose API and version."""
    listed = [apis.TABLE[key] for key in sorted(apis.TABLE)]
    api = listed[data[0] % len(listed)]
    return api, api.min_version + data[1] % (api.max_version - api.min_version + 1), data[2:]


def run_codec(data: bytes) -> None:
    if len(data) < 2:
        return
    api, version, body = _api_of(data)
    if api.raw:
        return
    with suppress(ProtocolViolation):
        whole = codec.decode(api.key, version, memoryview(body))
        with _read_from_the_frame():
            read = codec.decode(api.key, version, memoryview(body))
        if len(body) < COMPARED_SIZE_MAX:
            assert plain(read) == plain(whole)
        else:
            visit(read)


@contextmanager
def _read_from_the_frame() -> Iterator[None]:
    """As messages of many elements are."""
    before, codec.WHOLE_ELEMENTS_MAX = codec.WHOLE_ELEMENTS_MAX, -1
    try:
        yield
    finally:
        codec.WHOLE_ELEMENTS_MAX = before


def plain(message: Any) -> Any:
    """All that is in a message, whatever its arrays are."""
    if hasattr(message, "_struct"):
        names = [field.name for field in message._struct.untagged_fields(message._version)]
        return {name: plain(getattr(message, name)) for name in names}
    if message is None or isinstance(message, str | bytes | bool | int) or not hasattr(message, "__iter__"):
        return message
    return [plain(element) for element in message]


def visit(message: Any) -> None:
    """Reads all that is in a message, one thing after the other."""
    if hasattr(message, "_struct"):
        for field in message._struct.untagged_fields(message._version):
            visit(getattr(message, field.name))
    elif hasattr(message, "__iter__") and not isinstance(message, str | bytes):
        for element in message:
            visit(element)


def run_requests(data: bytes) -> None:
    if len(data) < 2:
        return
    api, version, body = _api_of(data)
    with suppress(ProtocolViolation, Stopped):
        dispatch(_broker(), make_request(api.key, version, body))


_brokers: list[Broker] = []


def _broker() -> Broker:
    """The one that answers, with some topics, and not too many that earlier input made."""
    if _brokers and len(_brokers[0].topics.all()) <= TOPICS_COUNT_MAX:
        return _brokers[0]
    if _brokers:
        _brokers.pop().log.close()
    broker = make_broker(Log.create(size=REGION_SIZE), {"num.partitions": "2"})
    for name in ("text", "orders"):
        broker.topics.create(name, partitions=3)
    _brokers.append(broker)
    return broker


def request_seeds() -> Iterator[bytes]:
    for index, key in enumerate(sorted(apis.TABLE)):
        api = apis.TABLE[key]
        for version in {api.min_version, api.flexible_from, api.max_version}:
            if api.serves(version):
                for body in bodies(api, version, 3):
                    yield bytes([index, version - api.min_version]) + body
    yield from _produce_seeds()


def _produce_seeds() -> Iterator[bytes]:
    index, api = sorted(apis.TABLE).index(0), apis.TABLE[0]
    for version, data in ((3, batches.build()), (9, batches.build(codec=1)), (12, batches.build() * 2)):
        partitions = [{"index": number, "records": data} for number in (0, 7)]
        topics = [{"name": "orders", "partition_data": partitions}]
        fields = {"acks": 1, "timeout_ms": 1000, "topic_data": topics, "transactional_id": None}
        message = build_message(codec.ProduceRequest, version, fields)
        yield bytes([index, version - api.min_version]) + bytes(message.encode())


# Record batches


def run_batches(data: bytes) -> None:
    """The C check, and what is done with a batch that passes it."""
    element = _group()[0]
    address = int(ffi.cast("uintptr_t", _group()))
    held = bytearray(data)
    source = int(ffi.cast("uintptr_t", ffi.from_buffer(held)))
    size_max = 1 << 20
    status = batch.check(address, 0, source, len(held), size_max, 0, 1, 1, 0, NOW_MS)
    assert status == element.status
    batch.error_code(status)
    assert bytes(held) == data, "a check changes nothing"
    if status not in (lib.STATUS_OK, lib.STATUS_BAD_TIMESTAMP):
        return
    assert 61 <= element.size <= len(data)
    count, numbers = batch.faults(address, 0, 0, NOW_MS, True)
    assert len(numbers) <= count <= element.record_count
    if status == lib.STATUS_OK:
        if element.flags & 7 == 0:
            assert len(records.read_records(held[: element.size])) == element.record_count
        batch.stamp_append_time(address, 0, NOW_MS)
        run_records(bytes(held[: element.size]))


@cache
def _group() -> Any:
    return ffi.new("struct append[1]")


def run_records(data: bytes) -> None:
    """Opening a batch whose header is sound, as a look-up by time does."""
    if len(data) < 61:
        return
    for open_batch in (
        records.read_records,
        records.max_timestamp_record,
        lambda held: records.find_offset_by_timestamp(held, NOW_MS),
    ):
        with suppress(records.CorruptBatch):
            open_batch(data)


def batch_seeds() -> Iterator[bytes]:
    lists: tuple[list[Any], ...] = (
        [(NOW_MS, b"key", b"value", [("h", b"x"), ("n", None)])],
        [(NOW_MS + number, None, b"v" * number, []) for number in range(20)],
    )
    for listed in lists:
        for codec_number in range(5):
            yield batches.build(listed, codec=codec_number)


TARGETS = {
    "frames": Target(run_frames, frame_seeds),
    "codec": Target(run_codec, request_seeds),
    "requests": Target(run_requests, request_seeds),
    "batches": Target(run_batches, batch_seeds),
    "records": Target(run_records, batch_seeds),
}
