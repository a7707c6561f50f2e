"""The codec and its guard: what the library can do, and what must not reach it."""

import functools
import struct
from concurrent.futures import ThreadPoolExecutor
from typing import Any
from uuid import UUID

import pytest

from totalog.gateway import apis
from totalog.gateway.lane import finish
from totalog.gateway.limits import TAGGED_FIELDS_COUNT_MAX
from totalog.gateway.tests.harness import CORRELATION_ID, build
from totalog.gateway.wire import codec, guard
from totalog.gateway.wire.errors import ProtocolViolation

DECODED = [api for api in apis.TABLE.values() if not api.raw]
VERSIONS = [(api, version) for api in DECODED for version in range(api.min_version, api.max_version + 1)]
EACH = pytest.mark.parametrize(("api", "version"), VERSIONS, ids=lambda value: getattr(value, "name", value))


def filled(struct_field: Any, version: int, count: int = 2, *, nulls: bool = False) -> dict[str, Any]:
    """Values for every field of a message that its version has; null where that is allowed and asked for."""
    values: dict[str, Any] = {}
    for field in struct_field._fields:
        if not field.for_version_q(version):
            continue
        if nulls and field.nullable_for_version_q(version):
            values[field.name] = None
        elif field.is_struct_array():
            values[field.name] = [filled(field.array_of, version, min(count, 2), nulls=nulls)] * count
        elif field.is_array():
            values[field.name] = [_scalar(field.array_of)] * count
        else:
            values[field.name] = _scalar(field)
    return values


def _scalar(field: Any) -> Any:
    samples = {"string": "text", "bytes": b"bytes", "records": b"records", "bool": True, "uuid": UUID(int=77)}
    samples["bitfield"] = {3, 8}
    return samples.get(field.type_str, 7)


SHAPES: tuple[dict[str, Any] | None, ...] = (None, {}, {"nulls": True}, {"count": 0}, {"count": 150})
"""What `filled` is told of a request; None: no field is set."""
SMALL = 4
"""How many of them, the first ones, are small."""


def bodies(api: Any, version: int, shapes: int = len(SHAPES)) -> list[bytes]:
    """Encoded requests of the first so many shapes."""
    return [_body(api, version, shape) for shape in range(shapes)]


@functools.cache
def _body(api: Any, version: int, shape: int) -> bytes:
    message_class, options = getattr(codec, f"{api.name}Request"), SHAPES[shape]
    values = {} if options is None else filled(message_class._struct, version, **options)
    return bytes(build(message_class, version, values).encode())


@EACH
def test_sound_requests_pass_the_guard_whole(api: Any, version: int) -> None:
    for body in bodies(api, version):
        codec.decode(api.key, version, memoryview(body))
        assert finish(codec._guards[api.key, version](memoryview(body))).size == len(body)


@EACH
def test_every_cut_off_request_is_refused(api: Any, version: int) -> None:
    body = bodies(api, version)[1]
    for size in range(len(body)):
        with pytest.raises(ProtocolViolation):
            codec.decode(api.key, version, memoryview(body)[:size])


@EACH
def test_trailing_bytes_are_ignored(api: Any, version: int) -> None:
    body = bodies(api, version)[1]
    assert codec.decode(api.key, version, memoryview(body + b"\x01\x00\x00")) == codec.decode(
        api.key, version, memoryview(body)
    )


@EACH
def test_flexible_versions_are_the_librarys(api: Any, version: int) -> None:
    message_class = getattr(codec, f"{api.name}Request")
    assert api.key == message_class.API_KEY
    assert message_class.flexible_version_q(version) == (version >= api.flexible_from)


def test_every_served_version_is_one_that_the_library_knows() -> None:
    for api in apis.TABLE.values():
        low, high = getattr(codec, f"{api.name}Request").valid_versions
        assert low <= api.min_version <= api.max_version <= high, api.name


def create_partitions(body: bytes) -> Any:
    """Version 3: topics (name, count, nullable assignments), time-out, validate only."""
    return codec.decode(37, 3, memoryview(body))


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        (b"\xff" * 100_000, "longer than 5 bytes"),
        (b"\xff\xff\xff\xff\x0f", "topics has the length 4294967294"),
        (b"\x02\x7fname56789", "declares more than its 11 bytes"),
        (b"\x02\x00" + b"\x00" * 12, "name has the length -1"),
        (b"\x00" + b"\x00" * 6, "topics has the length -1"),
        (b"\x02\x02n\x00\x00\x00\x01\xff\xff\xff\xff\x0f", "assignments has the length 4294967294"),
        (b"\x02\x02\xff\x00\x00\x00\x01\x00\x00" + b"\x00" * 6, "does not parse"),
    ],
)
def test_hostile_bodies_are_refused_at_once(body: bytes, reason: str) -> None:
    with pytest.raises(ProtocolViolation, match=reason):
        create_partitions(body)


def test_negative_lengths_other_than_null_are_refused() -> None:
    topic = struct.pack(">h1sii", 1, b"n", 1, -5)
    with pytest.raises(ProtocolViolation, match="assignments has the length -5"):
        codec.decode(37, 1, memoryview(struct.pack(">i", 1) + topic + b"\x00" * 5))


def tagged(count: int) -> bytes:
    """A CreatePartitions 3 of no topics, with unknown tagged fields of one byte each."""
    return (
        b"\x01" + struct.pack(">i?", 0, False) + bytes([count]) + b"".join(bytes([50 + n, 1, 0]) for n in range(count))
    )


def test_tagged_fields_have_a_limit() -> None:
    create_partitions(tagged(TAGGED_FIELDS_COUNT_MAX))
    with pytest.raises(ProtocolViolation, match="tagged fields"):
        create_partitions(tagged(TAGGED_FIELDS_COUNT_MAX + 1))


def test_the_limit_of_tagged_fields_counts_over_the_whole_message() -> None:
    topic = b"\x02n\x00\x00\x00\x01\x00" + b"\x01\x32\x01\x00"
    with pytest.raises(ProtocolViolation, match="tagged fields"):
        create_partitions(bytes([100]) + topic * 99 + struct.pack(">i?B", 0, False, 0))


def test_a_known_tagged_field_must_have_its_declared_size() -> None:
    message_class = codec.FetchRequest
    check = guard.guard_of(message_class._struct, 17, True)
    sound = bytes(build(message_class, 17, {"cluster_id": "here"}).encode())
    assert finish(check(memoryview(sound))).size == len(sound)
    at = sound.index(b"\x05here") - 1
    with pytest.raises(ProtocolViolation, match="tagged field 0"):
        finish(check(memoryview(sound[:at] + b"\x06" + sound[at + 1 :] + b"\x00")))


def test_encode_makes_a_complete_frame() -> None:
    answer = codec.CreatePartitionsResponse(version=3, throttle_time_ms=0, results=[])
    frame = codec.encode(answer, CORRELATION_ID)
    assert struct.unpack_from(">ii", frame) == (len(frame) - 4, CORRELATION_ID)
    assert codec.CreatePartitionsResponse.decode(frame[4:], version=3, header=True).results == []


def test_unknown_names_are_no_attributes() -> None:
    with pytest.raises(AttributeError):
        _ = codec.no_such_thing
    with pytest.raises(AttributeError):
        _ = codec.NoSuchRequest


def test_the_consumer_protocol_is_here_too() -> None:
    subscription = codec.ConsumerProtocolSubscription(version=0, topics=["orders"], user_data=None)
    assert codec.ConsumerProtocolSubscription.decode(bytes(subscription.encode())).topics == ["orders"]


def test_threads_may_use_the_codec_while_it_is_warmed() -> None:
    versions = [(api.key, version) for api, version in VERSIONS]

    def use() -> int:
        codec.warm(versions)
        return sum(1 for api, version in VERSIONS for body in bodies(api, version) if _decode(api, version, body))

    with ThreadPoolExecutor(4) as threads:
        users = [threads.submit(use) for _ in range(4)]
        assert [user.result() for user in users] == [5 * len(VERSIONS)] * 4


def _decode(api: Any, version: int, body: bytes) -> bool:
    return codec.decode(api.key, version, memoryview(body)) is not None
