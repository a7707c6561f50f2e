"""Produce in and out, for every version, against the library's codec."""

import struct
import uuid
import warnings
from itertools import groupby
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from totalog.gateway.lane import finish, step
from totalog.gateway.limits import STEP_COUNT_MAX, WHOLE_ELEMENTS_MAX
from totalog.gateway.tests.harness import both_ways
from totalog.gateway.wire import produce
from totalog.gateway.wire.cursor import NAME_LENGTH, encode_varint
from totalog.gateway.wire.errors import ProtocolViolation

with warnings.catch_warnings():
    warnings.simplefilter("ignore", DeprecationWarning)  # of importlib, when the library reads its schemas
    from kafka.protocol.producer import ProduceRequest, ProduceResponse

VERSIONS = range(3, 14)
IDS = [uuid.UUID(int=n * 0x1234567890ABCDEF1234567) for n in range(1, 4)]
NAMES = ["orders", "é.total-order", "n" * 249]

TopicData = ProduceRequest.TopicProduceData
PartitionData = TopicData.PartitionProduceData
TopicAnswer = ProduceResponse.TopicProduceResponse
PartitionAnswer = TopicAnswer.PartitionProduceResponse

Shape = list[list[tuple[int, bytes | None]]]
"""Of each topic, its partitions and their records."""

SHAPES: dict[str, Shape] = {
    "one partition": [[(0, b"records")]],
    "several topics": [[(3, b"a"), (1, b"")], [(2**31 - 1, b"b" * 300)], [(0, b"c" * 20_000), (-1, b"d"), (5, b"e")]],
    "null records": [[(0, None), (1, b"x")]],
    "nothing": [],
    "a topic without partitions": [[], [(0, b"x")]],
}


def key(version: int, index: int) -> Any:
    index %= len(NAMES)
    return IDS[index].bytes if version >= 13 else NAMES[index]


def named(version: int, topic: str | bytes) -> dict[str, Any]:
    return {"topic_id": uuid.UUID(bytes=topic)} if isinstance(topic, bytes) else {"name": topic}


def body_of(version: int, shape: Shape, *, transactional_id: str | None, acks: int, timeout_ms: int) -> bytes:
    topics = [
        TopicData(
            version=version,
            partition_data=[PartitionData(version=version, index=index, records=records) for index, records in parts],
            **named(version, key(version, number)),
        )
        for number, parts in enumerate(shape)
    ]
    request = ProduceRequest(
        version=version, transactional_id=transactional_id, acks=acks, timeout_ms=timeout_ms, topic_data=topics
    )
    return bytes(request.encode())


def parse(version: int, frame: memoryview, position: int) -> produce.ProduceRequest:
    """As a whole where that is done, and in steps: both say the same."""
    whole, found = both_ways(produce.parse, produce.parse_in_steps, version, frame, position)
    head = found.transactional_id, found.acks, found.timeout_ms
    read = [[(topic, *part) for topic, parts in found.topics for part in parts] for _ in range(2)]
    assert read[0] == read[1], "it can be read again"
    counts = [len(list(parts)) for _, parts in found.topics]
    assert (len(counts), len(list(filter(None, counts)))) == (len(found.topics), found.answered)
    if whole is not None:
        assert (whole.transactional_id, whole.acks, whole.timeout_ms, whole.partitions) == (*head, read[0])
    return produce.ProduceRequest(*head, read[0])


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
@pytest.mark.parametrize(("transactional_id", "acks"), [(None, 1), ("txn-é", -1), ("", 0)])
def test_parse_reads_what_the_library_wrote(
    version: int, shape: Shape, transactional_id: str | None, acks: int
) -> None:
    body = body_of(version, shape, transactional_id=transactional_id, acks=acks, timeout_ms=30_000)
    frame = memoryview(b"header" + body + b"trailing")
    request = parse(version, frame, 6)
    assert (request.transactional_id, request.acks, request.timeout_ms) == (transactional_id, acks, 30_000)
    found = [
        (topic, partition, None if size < 0 else bytes(frame[at : at + size]))
        for topic, partition, at, size in request.partitions
    ]
    expected = [
        (key(version, number), partition, records)
        for number, partitions in enumerate(shape)
        for partition, records in partitions
    ]
    assert found == expected


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
def test_every_truncation_is_refused(version: int, shape: Shape) -> None:
    body = memoryview(body_of(version, shape, transactional_id="t", acks=1, timeout_ms=1))
    sizes = range(len(body)) if len(body) < 1000 else [*range(500), *range(500, len(body), 997), len(body) - 1]
    for size in sizes:
        with pytest.raises(ProtocolViolation):
            parse(version, body[:size], 0)


@given(st.sampled_from(VERSIONS), st.integers(0, 2000), st.binary(min_size=1, max_size=9))
def test_a_damaged_body_is_refused_or_lies_inside_the_frame(version: int, at: int, damage: bytes) -> None:
    body = bytearray(body_of(version, SHAPES["several topics"][:2], transactional_id=None, acks=1, timeout_ms=1))
    at %= len(body)
    body[at : at + len(damage)] = damage
    try:
        request = parse(version, memoryview(body), 0)
    except ProtocolViolation:
        return
    for _, _, records_at, size in request.partitions:
        assert size == -1 or 0 <= records_at <= records_at + size <= len(body)


@pytest.mark.parametrize("version", [3, 9, 13])
def test_more_partitions_than_a_region_holds_are_refused_before_they_are_read(version: int) -> None:
    """65,536 empty partitions pass, one more does not: each costs eight bytes of the client."""
    partition = struct.pack(">i", 0) + (b"\x00\x00" if version >= 9 else b"\xff\xff\xff\xff")
    for count in (produce.PARTITIONS_MAX, produce.PARTITIONS_MAX + 1):
        if version >= 9:
            topic = bytes(16) if version >= 13 else b"\x02t"
            body = (
                b"\x00\x00\x01\x00\x00\x00\x00\x02" + topic + encode_varint(count + 1) + partition * count + b"\x00\x00"
            )
        else:
            body = b"\xff\xff\x00\x01" + bytes(4) + struct.pack(">ihci", 1, 1, b"t", count) + partition * count
        if count <= produce.PARTITIONS_MAX:
            assert len(parse(version, memoryview(body), 0).partitions) == count
        else:
            with pytest.raises(ProtocolViolation, match="limit 65536"):
                finish(produce.parse_in_steps(version, memoryview(body), 0))


@pytest.mark.parametrize("version", [3, 9, 13])
def test_more_topics_than_a_region_holds_are_refused(version: int) -> None:
    count = produce.PARTITIONS_MAX + 1
    if version >= 9:
        topic = (bytes(16) if version >= 13 else b"\x01") + b"\x01\x00"
        body = b"\x00\x00\x01\x00\x00\x00\x00" + encode_varint(count + 1) + topic * count + b"\x00"
    else:
        body = b"\xff\xff\x00\x01" + bytes(4) + struct.pack(">i", count) + bytes(6) * count
    with pytest.raises(ProtocolViolation, match="limit 65536"):
        finish(produce.parse_in_steps(version, memoryview(body), 0))


@pytest.mark.parametrize("version", VERSIONS)
def test_what_names_much_is_not_read_as_a_whole(version: int) -> None:
    def whole(shape: Shape) -> bool:
        body = body_of(version, shape, transactional_id=None, acks=1, timeout_ms=1)
        return produce.parse(version, memoryview(body), 0) is not None

    assert whole([[(number, b"")] for number in range(WHOLE_ELEMENTS_MAX // 2)])
    assert not whole([[(number, b"")] for number in range(WHOLE_ELEMENTS_MAX // 2 + 1)])
    assert whole([[(number, b"") for number in range(WHOLE_ELEMENTS_MAX - 1)]])
    assert not whole([[(number, b"") for number in range(WHOLE_ELEMENTS_MAX)]])
    assert whole([[(0, bytes(1 << 20))]]), "its records are not read"
    assert not whole([[(0, b"")], []]), "a topic without partitions"


@pytest.mark.parametrize("version", [3, 9])
def test_long_names_are_not_read_as_a_whole(version: int) -> None:
    name = "n" * NAME_LENGTH
    data = TopicData(version=version, name=name, partition_data=[PartitionData(version=version, index=0, records=b"")])
    body = ProduceRequest(version=version, transactional_id=None, acks=1, timeout_ms=1, topic_data=[data]).encode()
    assert produce.parse(version, memoryview(bytes(body)), 0) is None
    assert parse(version, memoryview(bytes(body)), 0).partitions[0][0] == name


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("of", ["topics", "partitions"])
def test_a_step_reads_so_many_and_not_more(version: int, of: str) -> None:
    count = 4 * STEP_COUNT_MAX
    shape: Shape = [[(number, b"") for number in range(count)]] if of == "partitions" else [[]] * count
    body = body_of(version, shape, transactional_id=None, acks=1, timeout_ms=1)
    steps, number = produce.parse_in_steps(version, memoryview(body), 0), 1
    while not step(steps):
        number += 1
    assert number >= count / STEP_COUNT_MAX


ANSWERS: dict[str, list[tuple[int, int, int, int, int, int, str | None]]] = {
    "one partition": [(0, 0, 0, 12345678901, -1, 7, None)],
    "several topics": [
        (0, 5, 0, 0, -1, 0, None),
        (0, 6, 3, -1, -1, -1, "no such partition: é"),
        (1, 0, 87, -1, 1700000000000, -1, ""),
        (2, -5, 10, -1, -1, -1, "m" * 500),
        (2, 2**31 - 1, -1, 2**63 - 1, 0, 2**63 - 1, None),
    ],
    "nothing": [],
    "many partitions": [(0, partition, 0, partition, -1, 0, None) for partition in range(200)],
}


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("rows", ANSWERS.values(), ids=ANSWERS)
@pytest.mark.parametrize("correlation_id", [0, 2**31 - 1, -2])
def test_encode_writes_what_the_library_writes(version: int, rows: list[Any], correlation_id: int) -> None:
    answers: list[produce.PartitionAnswer] = [(key(version, row[0]), *row[1:]) for row in rows]
    topics = [
        TopicAnswer(
            version=version,
            partition_responses=[
                PartitionAnswer(
                    version=version,
                    index=partition,
                    error_code=error_code,
                    base_offset=base_offset,
                    log_append_time_ms=append_time,
                    log_start_offset=log_start_offset,
                    record_errors=[],
                    error_message=message,
                )
                for _, partition, error_code, base_offset, append_time, log_start_offset, message in of_topic
            ],
            **named(version, topic),
        )
        for topic, of_topic in groupby(answers, key=lambda answer: answer[0])
    ]
    oracle = ProduceResponse(version=version, responses=topics, throttle_time_ms=0)
    oracle.with_header(correlation_id)
    frame = bytes(oracle.encode(header=True, framed=True))
    assert produce.encode(version, correlation_id, answers) == frame
    writer = produce.AnswerWriter(version, correlation_id, len(topics))
    for topic, of_topic in groupby(answers, key=lambda answer: answer[0]):
        rows_of = list(of_topic)
        writer.topic(topic, len(rows_of))
        for row in rows_of:
            begin, end = writer.row(row)
            assert writer.frame[begin:end] == produce.row(version, row)
    assert writer.finish() == frame
