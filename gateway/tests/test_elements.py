"""Requests of many elements: read from the frame, answered row by row, and else the same as if they were small."""

import tracemalloc
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from inspect import isawaitable
from struct import pack
from typing import Any

import pytest
import trio
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from trio.testing import MockClock

from totalog.engine import Log
from totalog.gateway import apis
from totalog.gateway.apis.api import Api, Request
from totalog.gateway.apis.named import NAMES_MAX
from totalog.gateway.broker import Broker
from totalog.gateway.lane import step
from totalog.gateway.limits import ELEMENTS_COUNT_MAX, WHOLE_ELEMENTS_MAX
from totalog.gateway.outbox import Owed
from totalog.gateway.tests.fuzz.targets import plain
from totalog.gateway.tests.harness import ask, build, dispatch, make_broker, make_request
from totalog.gateway.tests.test_codec import SMALL, bodies, filled
from totalog.gateway.wire import codec, encode
from totalog.gateway.wire.answer import Answer
from totalog.gateway.wire.cursor import encode_varint
from totalog.gateway.wire.errors import ErrorCode, ProtocolViolation

MIB = 1 << 20
DECODED = [api for api in apis.TABLE.values() if not api.raw or api.name == "DescribeConfigs"]
VERSIONS = [(api, version) for api in DECODED for version in range(api.min_version, api.max_version + 1)]


@pytest.fixture
def from_the_frame(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every request is read as a large one is."""
    monkeypatch.setattr(codec, "WHOLE_ELEMENTS_MAX", -1)


@contextmanager
def wide_broker() -> Iterator[Broker]:
    """It has one topic, of 2,000 partitions, whose name is 0."""
    with Log.create(size=64 << 20) as log:
        broker = make_broker(log)
        broker.topics.create("0", partitions=2000)
        yield broker


@pytest.fixture(scope="module")
def shared() -> Iterator[Broker]:
    with wide_broker() as broker:
        yield broker


@pytest.fixture(scope="module")
def wide() -> Iterator[Broker]:
    """One that only Produce and Fetch are asked of."""
    with wide_broker() as broker:
        yield broker


@pytest.mark.parametrize(("api", "version"), VERSIONS, ids=lambda value: getattr(value, "name", value))
def test_what_is_read_from_the_frame_is_what_the_library_reads(
    monkeypatch: pytest.MonkeyPatch, api: Api, version: int
) -> None:
    for body in bodies(api, version):
        whole = codec.decode(api.key, version, memoryview(body))
        with monkeypatch.context() as changed:
            changed.setattr(codec, "WHOLE_ELEMENTS_MAX", -1)
            read = codec.decode(api.key, version, memoryview(body + b"trailing"))
        assert plain(read) == plain(whole)
        assert plain(read) == plain(whole), "it can be read again"
        assert type(read) is type(whole)


def unknown_tags(number: int) -> bytes:
    """A DeleteRecords 2 of topics with a tagged field each."""
    topic = b"\x02a\x02" + bytes(12) + b"\x01\x07\x03abc" + b"\x01\x81\x01\x00"
    return bytes([number + 1]) + topic * number + bytes(4) + b"\x00"


@pytest.mark.usefixtures("from_the_frame")
def test_a_count_of_tagged_fields_in_more_bytes_than_it_needs() -> None:
    body = b"\x02\x02a\x01" + b"\x81\x80\x00\x07\x03abc" + bytes(4) + b"\x80\x00"
    assert plain(codec.decode(21, 2, memoryview(body)))["topics"] == [{"name": "a", "partitions": []}]


@pytest.mark.usefixtures("from_the_frame")
def test_unknown_tagged_fields_are_passed_over() -> None:
    message = codec.decode(21, 2, memoryview(unknown_tags(5)))
    assert plain(message)["topics"] == [{"name": "a", "partitions": [{"partition_index": 0, "offset": 0}]}] * 5


@pytest.mark.usefixtures("from_the_frame")
@pytest.mark.parametrize("api", DECODED, ids=lambda api: api.name)
@given(data=st.data())
@settings(
    max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)
def test_nothing_breaks_the_reader_that_passed_the_guard(api: Api, data: st.DataObject) -> None:
    version = data.draw(st.integers(api.min_version, api.max_version))
    body = bytearray(data.draw(st.sampled_from(bodies(api, version, SMALL))))
    for _ in range(data.draw(st.integers(1, 3))):
        at = data.draw(st.integers(0, max(0, len(body) - 1)))
        body[at : at + 1] = data.draw(st.binary(max_size=3))
    try:
        message = codec.decode(api.key, version, memoryview(body))
    except ProtocolViolation:
        return
    plain(message)


@pytest.mark.parametrize(
    ("name", "version", "body"),
    [("DeleteGroups", 2, b"\x03\x02a\x02\xff\x00"), ("DeleteGroups", 0, b"\0\0\0\2\0\1a\0\1\xff")],
)
@pytest.mark.usefixtures("from_the_frame")
def test_a_string_that_is_no_text_is_found_before_anything_is_done(name: str, version: int, body: bytes) -> None:
    with pytest.raises(ProtocolViolation, match="does not parse"):
        codec.decode(getattr(codec, f"{name}Request").API_KEY, version, memoryview(body))


# Answers


@pytest.mark.parametrize(("api", "version"), VERSIONS, ids=lambda value: getattr(value, "name", value))
def test_rows_are_encoded_as_the_library_encodes_them(api: Api, version: int) -> None:
    response = getattr(codec, f"{api.name}Response")
    whole = build(response, version, filled(response._struct, version, count=3))
    frame = codec.encode(whole, 5)
    assert codec.encode(in_rows(whole, response, version), 5) == frame
    assert codec.encode(codec.decode_answer(api.key, version, frame), 5) == frame


def in_rows(item: Any, response: Any, version: int) -> Any:
    """The same message with `Rows` for every array of structs in it."""
    for field in item._struct.untagged_fields(version):
        elements = getattr(item, field.name)
        if field.is_struct_array() and elements is not None:
            rows = codec.rows(response, version)
            for element in elements:
                rows.append(in_rows(element, response, version))
            assert len(rows) == len(elements)
            setattr(item, field.name, rows)
    return item


# The densest requests


def array_paths(struct: Any, version: int) -> Iterator[list[str]]:
    for field in struct.untagged_fields(version):
        if field.is_array():
            yield [field.name]
            if field.is_struct_array():
                yield from ([field.name, *path] for path in array_paths(field.array_of, version))


def dense(struct: Any, version: int, path: list[str], count: int, number: int = 0) -> dict[str, Any]:
    """Values for the smallest message with `count` elements in one array, which differ as far as their type allows."""
    values: dict[str, Any] = {}
    for field in struct.untagged_fields(version):
        if field.is_array():
            values[field.name] = []
            if path and field.name == path[0]:
                inner, rest = field.array_of, path[1:]
                if not field.is_struct_array():
                    values[field.name] = [scalar(inner.type_str, at) for at in range(count)]
                elif rest:
                    values[field.name] = [dense(inner, version, rest, count)]
                else:
                    values[field.name] = [dense(inner, version, [], 0, at) for at in range(count)]
        elif field.type_str == "string":
            values[field.name] = f"{number:x}"
        elif field.name == "allow_auto_topic_creation":
            values[field.name] = False
        elif field.name in ("partition_index", "partition"):
            values[field.name] = number
    return values


def scalar(type: str, number: int) -> str | int:
    """One of a thousand, as far as the type has so many."""
    if type == "string":
        return f"{number:x}"
    return number % 128 if type == "int8" else number


def dense_cases() -> Iterator[Any]:
    for api in apis.TABLE.values():
        version = api.max_version
        if api.name in ("Produce", "Fetch"):
            continue  # see below: many more of their elements go into a frame
        for path in array_paths(getattr(codec, f"{api.name}Request")._struct, version):
            yield pytest.param(api, version, path, id=f"{api.name}-{'.'.join(path)}")


COUNT = 1_000
"""Elements: as many as show what each of them takes. Tracing memory makes all that is done ten times as slow."""


@pytest.mark.parametrize(("api", "version", "path"), list(dense_cases()))
def test_the_densest_request_takes_a_few_times_its_size(
    shared: Broker, api: Api, version: int, path: list[str]
) -> None:
    """Four times the frame, and a MiB: with the answer. A tree of objects took up to 77 times the frame. What the MiB
    is for grows with the number of names, which are remembered, so that an eighth of NAMES_MAX may take a quarter."""
    check_peak(shared, api, version, path, COUNT, MIB // 4)


def test_the_most_names_take_no_more(shared: Broker) -> None:
    """Of DeleteTopics, which remembers them twice."""
    check_peak(shared, apis.TABLE[20], 6, ["topics"], NAMES_MAX, MIB)


def check_peak(broker: Broker, api: Api, version: int, path: list[str], count: int, room: int) -> None:
    message = getattr(codec, f"{api.name}Request")
    body = bytes(build(message, version, dense(message._struct, version, path, count)).encode())
    small = bytes(build(message, version, dense(message._struct, version, path, WHOLE_ELEMENTS_MAX + 1)).encode())
    dispatch(broker, make_request(api.key, version, small))  # what is made once: decoders, encoders
    peak, _ = peak_of(broker, make_request(api.key, version, body))
    assert peak <= 4 * len(body) + room, f"{peak / len(body):.1f} times {len(body)} bytes"


@pytest.mark.parametrize(
    ("name", "version", "asked"),
    [
        ("Metadata", 12, {"topics": [{"topic_id": None, "name": "0"}]}),
        ("OffsetFetch", 7, {"group_id": "g", "topics": [{"name": "0", "partition_indexes": range(8000)}]}),
        ("Metadata", 4, {"topics": [{"name": f"{at}"} for at in range(8000)], "allow_auto_topic_creation": False}),
    ],
    ids=["Metadata-partitions", "OffsetFetch", "Metadata-topics"],
)
def test_what_is_answered_is_there_once(broker: Broker, name: str, version: int, asked: dict[str, Any]) -> None:
    """Beside the request: an answer may be of any size, as what is asked for may be large."""
    broker.topics.create("0", partitions=8000)
    message = build(getattr(codec, f"{name}Request"), version, asked)
    request = make_request(message.API_KEY, version, bytes(message.encode()))
    dispatch(broker, request)
    peak, answer_size = peak_of(broker, request)
    names_size = 150 * len(message.topics) if name == "Metadata" else 0
    room = names_size + 64 * 1024
    assert peak <= 2 * len(request.frame) + 1.25 * answer_size + room, f"{peak / answer_size:.1f} times"


def peak_of(broker: Broker, request: Request) -> tuple[int, int]:
    """The most memory that was in use at once while the request was answered, its frame included; and the answer's
    size. Both in bytes."""

    async def dispatched(body: bytes, request: Request) -> tuple[int, int]:
        tracemalloc.start()
        try:
            request = replace(request, frame=memoryview(bytearray(body)))
            answer = apis.dispatch(broker, request)
            del request  # as a connection does
            if isawaitable(answer):
                answer = await answer
            peak = tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()
        assert not isinstance(answer, Owed | None)
        return peak, answer.size if isinstance(answer, Answer) else len(answer)

    return trio.run(dispatched, bytes(request.frame), request, clock=MockClock(autojump_threshold=0))


PARTITIONS = 8_000
"""Of a Fetch or Produce, and topics: as objects they take twice what the bound lets them."""

LONG_NAME = ("a" * 32_000 + "\U0001f600").encode()
"""Takes four times its bytes as text."""


def topics_of(topic: bytes, of: str, version: int, compact: bool, ids: bool, partition: bytes) -> bytes:
    """The array of topics of a Fetch or Produce: many that name no partitions, one that names many, or some whose names
    are long. `topic`: one that is there, by its name or id. `partition`: one partition of it, behind its number."""

    def one(key: bytes, partitions: Sequence[bytes] = ()) -> bytes:
        size = b"" if ids else encode_varint(len(key) + 1) if compact else pack(">h", len(key))
        return size + key + encode.count(len(partitions), compact) + b"".join(partitions) + encode.tags(compact)

    if of == "partitions":
        topics = [one(topic, [pack(">i", number % 2000) + partition for number in range(PARTITIONS)])]
    elif of == "names" and not ids:
        topics = [one(LONG_NAME, [pack(">i", 0) + partition])] * 60
    else:
        topics = [one(b"%016d" % number if ids else b"%d" % number) for number in range(PARTITIONS)]
    return encode.count(len(topics), compact) + b"".join(topics)


def fetch_of(broker: Broker, version: int, of: str) -> bytes:
    """The body of a large Fetch."""
    handle = broker.topics.find("0")
    assert handle is not None
    compact, ids = version >= 12, version >= 13
    partition = pack(">qi", 0, 1) if version < 5 else pack(">qqi", 0, 0, 1)
    if version >= 9:
        partition = pack(">iq", -1, 0) + (pack(">i", -1) if compact else b"") + pack(">qi", 0, 1) + encode.tags(compact)
    topics = topics_of(handle.id if ids else b"0", of, version, compact, ids, partition)
    none = encode.count(0, compact)
    head = (b"" if version >= 15 else pack(">i", -1)) + pack(">iiib", 0, 0, MIB, 0)
    if version < 7:
        return head + topics
    head += pack(">ii", 0, -1) + (none + topics if of == "forgotten" else topics + none)
    return head + (encode.string("", compact) if version >= 11 else b"") + encode.tags(compact)


@pytest.mark.parametrize(
    ("version", "of"),
    [
        *((version, of) for version in (4, 12, 13) for of in ("topics", "partitions")),
        *((4, "names"), (12, "names"), (11, "forgotten"), (18, "forgotten")),
    ],
)
def test_the_densest_fetch_takes_four_times_its_size(wide: Broker, version: int, of: str) -> None:
    """And a MiB: also with its answer, which has no records."""
    body = fetch_of(wide, version, of)
    peak, answer_size = peak_of(wide, make_request(1, version, body))
    assert answer_size < 4 * len(body)
    assert peak <= 4 * len(body) + MIB, f"{peak / len(body):.1f} times {len(body)} bytes"


def produce_of(broker: Broker, version: int, of: str) -> bytes:
    """The body of a large Produce, whose records are null."""
    handle = broker.topics.find("0")
    assert handle is not None
    compact, ids = version >= 9, version >= 13
    partition = encode.count(-1, compact) + encode.tags(compact)
    topics = topics_of(handle.id if ids else b"0", of, version, compact, ids, partition)
    return encode.string(None, compact) + pack(">hi", 1, 1000) + topics + encode.tags(compact)


@pytest.mark.parametrize("version", [3, 8, 9, 13])
@pytest.mark.parametrize("of", ["topics", "partitions", "names"])
def test_the_densest_produce_takes_four_times_its_size(wide: Broker, version: int, of: str) -> None:
    """And a MiB, and its answer, of which each row may be eight times what asked for it."""
    if of == "names" and version == 13:
        return
    body = produce_of(wide, version, of)
    peak, answer_size = peak_of(wide, make_request(0, version, body))
    assert peak <= 4 * len(body) + MIB + answer_size, f"{peak / len(body):.1f} times {len(body)} bytes"


@pytest.mark.parametrize("name", ["Metadata", "CreateTopics", "DeleteTopics", "DescribeConfigs", "DeleteGroups"])
def test_of_more_names_than_a_region_has_each_is_refused(broker: Broker, name: str) -> None:
    names = [f"{number:x}" for number in range(NAMES_MAX + 1)]
    fields: dict[str, tuple[int, dict[str, Any], str]] = {
        "Metadata": (9, {"topics": [{"name": text} for text in names]}, "topics"),
        "CreateTopics": (5, {"topics": [{"name": text, "num_partitions": 1} for text in names]}, "topics"),
        "DeleteTopics": (5, {"topic_names": names}, "responses"),
        "DescribeConfigs": (
            4,
            {"resources": [{"resource_type": 2, "resource_name": text} for text in names]},
            "results",
        ),
        "DeleteGroups": (2, {"groups_names": names}, "results"),
    }
    version, asked, array = fields[name]
    rows = getattr(ask(broker, name, version, **asked), array)
    assert [row.error_code for row in rows] == [ErrorCode.INVALID_REQUEST] * len(names)
    assert broker.topics.all() == []


# Steps


@pytest.mark.parametrize(
    ("name", "version", "path"),
    [
        ("OffsetCommit", 8, ["topics", "partitions"]),
        ("OffsetFetch", 6, ["topics", "partition_indexes"]),
        ("DeleteRecords", 2, ["topics"]),
        ("CreateTopics", 5, ["topics", "assignments"]),
        ("DescribeConfigs", 4, ["resources", "configuration_keys"]),
        ("FindCoordinator", 4, ["coordinator_keys"]),
        ("Metadata", 12, ["topics"]),
    ],
)
def test_decoding_and_answering_go_in_steps(
    shared: Broker, monkeypatch: pytest.MonkeyPatch, name: str, version: int, path: list[str]
) -> None:
    """No step reads more elements than a step may: counted where each of them is read."""
    count = 4000
    message, api = getattr(codec, f"{name}Request"), next(api for api in apis.TABLE.values() if api.name == name)
    body = bytes(build(message, version, dense(message._struct, version, path, count)).encode())
    steps, number = apis._steps(shared, make_request(api.key, version, body), api), 1
    while not step(steps):
        number += 1
    assert number >= count / ELEMENTS_A_STEP_MAX


ELEMENTS_A_STEP_MAX = 1200


def test_the_elements_of_a_whole_message_are_limited() -> None:
    body = bytes(build(codec.DeleteGroupsRequest, 2, {"groups_names": ["a"] * (ELEMENTS_COUNT_MAX + 1)}).encode())
    with pytest.raises(ProtocolViolation, match=f"more than {ELEMENTS_COUNT_MAX} array elements"):
        codec.decode(42, 2, memoryview(body))
