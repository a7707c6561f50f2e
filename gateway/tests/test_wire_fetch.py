"""Fetch in and out, for every version, against the library's codec."""

import struct
import uuid
import warnings
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from totalog.gateway.lane import finish, step
from totalog.gateway.limits import STEP_COUNT_MAX, WHOLE_ELEMENTS_MAX, WHOLE_SIZE_MAX
from totalog.gateway.tests.harness import both_ways
from totalog.gateway.wire import fetch
from totalog.gateway.wire.answer import BUFFER_SIZE_MIN, Answer, BufferPool, size_class
from totalog.gateway.wire.cursor import encode_varint
from totalog.gateway.wire.errors import ProtocolViolation

with warnings.catch_warnings():
    warnings.simplefilter("ignore", DeprecationWarning)  # of importlib, when the library reads its schemas
    from kafka.protocol.consumer import FetchRequest, FetchResponse

VERSIONS = range(4, 19)
IDS = [uuid.UUID(int=n * 0x1234567890ABCDEF1234567) for n in range(1, 4)]
NAMES = ["orders", "é.total-order", "n" * 249]

Topic = FetchRequest.FetchTopic
Partition = Topic.FetchPartition
Forgotten = FetchRequest.ForgottenTopic
TopicAnswer = FetchResponse.FetchableTopicResponse
PartitionAnswer = TopicAnswer.PartitionData

Shape = list[list[tuple[int, int, int, int]]]
"""Of each topic: (partition, current leader epoch, fetch offset, most bytes)."""

SHAPES: dict[str, Shape] = {
    "one partition": [[(0, -1, 42, 1 << 20)]],
    "several topics": [[(3, 7, 2**63 - 1, 1), (1, 0, 0, -1)], [(2**31 - 1, 2**31 - 1, -1, 2**31 - 1)], [(-1, 5, 9, 0)]],
    "nothing": [],
    "a topic without partitions": [[], [(0, 1, 2, 3)]],
}


def key(version: int, index: int) -> Any:
    index %= len(NAMES)
    return IDS[index].bytes if version >= 13 else NAMES[index]


def named(version: int, topic: str | bytes) -> dict[str, Any]:
    return {"topic_id": uuid.UUID(bytes=topic)} if isinstance(topic, bytes) else {"topic": topic}


def body_of(
    version: int, shape: Shape, *, session: tuple[int, int] = (0, -1), follower: bool = False, forgotten: int = 1
) -> bytes:
    """A request as the library writes it; `follower` sets what only replicas send, where there are tagged fields."""
    extra: dict[str, Any] = {}
    if follower and version >= 17:
        extra["replica_directory_id"] = IDS[2]
    if follower and version >= 18:
        extra["high_watermark"] = 5
    topics = [
        Topic(
            version=version,
            partitions=[
                Partition(
                    version=version,
                    partition=partition,
                    current_leader_epoch=leader_epoch,
                    fetch_offset=offset,
                    last_fetched_epoch=3,
                    log_start_offset=4,
                    partition_max_bytes=most,
                    **extra,
                )
                for partition, leader_epoch, offset, most in partitions
            ],
            **named(version, key(version, number)),
        )
        for number, partitions in enumerate(shape)
    ]
    fields: dict[str, Any] = {}
    if version >= 7:
        forget = Forgotten(version=version, partitions=[1, 2, 3], **named(version, key(version, 1)))
        fields |= {
            "session_id": session[0],
            "session_epoch": session[1],
            "forgotten_topics_data": [forget] * forgotten,
        }
    if follower and version >= 12:
        fields["cluster_id"] = "cluster"
    if follower and version >= 15:
        fields["replica_state"] = FetchRequest.ReplicaState(version=version, replica_id=2, replica_epoch=9)
    request = FetchRequest(
        version=version,
        max_wait_ms=500,
        min_bytes=-7,
        max_bytes=50 << 20,
        isolation_level=1,
        topics=topics,
        rack_id="rack-é",
        **fields,
    )
    return bytes(request.encode())


def plain(request: fetch.FetchRequest) -> tuple[Any, ...]:
    """All that a request says; its topics are gone through."""
    topics = [(topic, list(partitions)) for topic, partitions in request.topics]
    assert len(topics) == len(request.topics)
    assert sum(len(partitions) for _, partitions in topics) == request.partition_count
    limits = request.max_wait_ms, request.min_bytes, request.max_bytes, request.isolation_level
    return *limits, request.session_id, request.session_epoch, topics, request.overhead


def parse(version: int, frame: memoryview, position: int) -> fetch.FetchRequest:
    """As a whole where that is done, and in steps: both say the same."""
    whole, read = both_ways(fetch.parse, fetch.parse_in_steps, version, frame, position)
    if whole is not None:
        assert plain(read) == plain(whole)
    assert plain(read) == plain(read), "it can be read again"
    return read if whole is None else whole


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
@pytest.mark.parametrize("follower", [False, True], ids=["consumer", "follower"])
def test_parse_reads_what_the_library_wrote(version: int, shape: Shape, follower: bool) -> None:
    session = (77, 12)
    body = body_of(version, shape, session=session, follower=follower)
    request = parse(version, memoryview(b"header" + body + b"trailing"), 6)
    assert (request.max_wait_ms, request.min_bytes, request.max_bytes) == (500, -7, 50 << 20)
    assert request.isolation_level == 1
    assert (request.session_id, request.session_epoch) == (session if version >= 7 else (0, -1))
    expected = [
        (
            key(version, number),
            [
                (partition, leader_epoch if version >= 9 else -1, offset, most)
                for partition, leader_epoch, offset, most in partitions
            ],
        )
        for number, partitions in enumerate(shape)
    ]
    assert plain(request)[6] == expected


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
@pytest.mark.parametrize("follower", [False, True], ids=["consumer", "follower"])
def test_every_truncation_is_refused(version: int, shape: Shape, follower: bool) -> None:
    body = memoryview(body_of(version, shape, follower=follower))
    for size in range(len(body)):
        with pytest.raises(ProtocolViolation):
            parse(version, body[:size], 0)


@given(st.sampled_from(VERSIONS), st.booleans(), st.integers(0, 2000), st.binary(min_size=1, max_size=9))
def test_a_damaged_body_parses_or_is_refused(version: int, follower: bool, at: int, damage: bytes) -> None:
    body = bytearray(body_of(version, SHAPES["several topics"], follower=follower))
    at %= len(body)
    body[at : at + len(damage)] = damage
    try:
        request = parse(version, memoryview(body), 0)
    except ProtocolViolation:
        return
    assert sum(len(partitions) for _, partitions in request.topics) <= len(body)


@pytest.mark.parametrize("version", [4, 7, 12, 13, 15])
def test_more_topics_than_there_can_be_are_refused(version: int) -> None:
    """The number is looked at before they are read."""
    limits = struct.pack(">iiib", 500, 1, 1, 0)
    head = (b"" if version >= 15 else bytes(4)) + limits + (bytes(8) if version >= 7 else b"")
    for count in (fetch.TOPICS_MAX, fetch.TOPICS_MAX + 1):
        if version >= 12:
            topic = (bytes(16) if version >= 13 else b"\x01") + b"\x01\x00"
            body = head + encode_varint(count + 1) + topic * count + b"\x01\x01\x00"
        else:
            body = head + struct.pack(">i", count) + bytes(6) * count + bytes(4) + bytes(2)
        if count <= fetch.TOPICS_MAX:
            assert len(parse(version, memoryview(body), 0).topics) == count
        else:
            with pytest.raises(ProtocolViolation, match="limit 65536"):
                finish(fetch.parse_in_steps(version, memoryview(body), 0))


@pytest.mark.parametrize("version", VERSIONS)
def test_what_is_large_is_not_read_as_a_whole(version: int) -> None:
    def whole(shape: Shape, *, head: int = 0) -> bool:
        body = body_of(version, shape, forgotten=0)
        return fetch.parse(version, memoryview(bytes(head) + body), head) is not None

    each: Shape = [[(number, -1, 0, 1)] for number in range(WHOLE_ELEMENTS_MAX // 2)]
    assert whole(each)
    assert not whole([*each, []])
    assert whole([[(number, -1, 0, 1) for number in range(WHOLE_ELEMENTS_MAX - 1)]])
    assert not whole([[(number, -1, 0, 1) for number in range(WHOLE_ELEMENTS_MAX)]])
    assert not whole([[(0, -1, 0, 1)]], head=WHOLE_SIZE_MAX), "few names may be long"


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("of", ["topics", "partitions", "forgotten"])
def test_a_step_reads_so_many_and_not_more(version: int, of: str) -> None:
    count = 4 * STEP_COUNT_MAX
    if of == "forgotten" and version < fetch.SESSION_VERSION:
        return
    shape: Shape = [[(number, 1, 0, 1) for number in range(count)]] if of == "partitions" else [[]] * count
    body = body_of(version, [] if of == "forgotten" else shape, forgotten=count if of == "forgotten" else 0)
    assert fetch.parse(version, memoryview(body), 0) is None
    steps, number = fetch.parse_in_steps(version, memoryview(body), 0), 1
    while not step(steps):
        number += 1
    assert number >= count / STEP_COUNT_MAX


Row = tuple[int, int, int, int, bool, bytes, int]
"""(partition, error code, high watermark, log start offset, aborted list null, records, guess of their size)"""

ANSWERS: dict[str, list[list[Row]]] = {
    "one partition": [[(0, 0, 12345678901, 7, True, b"r" * 100, 1 << 20)]],
    "exact guesses": [[(n, 0, n, 0, True, b"r" * size, size)] for n, size in enumerate([0, 126, 127])],
    "several topics": [
        [(0, 0, 5, 0, False, b"", 0), (1, 1, -1, -1, False, b"", 0), (2, 0, 9, 2, True, b"a" * 126, 1 << 20)],
        [(2**31 - 1, 0, 2**63 - 1, 2**63 - 1, True, b"b" * 127, 3_000_000), (-1, 3, -1, -1, False, b"", 9)],
        [(0, 0, 1, 0, True, b"c" * 20_000, 1 << 20), (1, 0, 1, 0, True, b"d" * 16_382, 1 << 30)],
    ],
    "nothing": [],
    "a topic without partitions": [[]],
    "many partitions": [[(n, 0, n, 0, False, bytes([n]) * (n % 3), 300) for n in range(200)]],
}


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("topics", ANSWERS.values(), ids=ANSWERS)
@pytest.mark.parametrize(("correlation_id", "error_code"), [(2**31 - 1, 0), (-2, 70)])
def test_the_writer_writes_what_the_library_writes(
    version: int, topics: list[list[Row]], correlation_id: int, error_code: int
) -> None:
    buffer = BufferPool().take(1 << 20)
    writer = fetch.AnswerWriter(version, buffer)
    writer.head(correlation_id, error_code, len(topics))
    for number, rows in enumerate(topics):
        writer.topic(key(version, number), len(rows))
        for partition, error, high_watermark, log_start_offset, null, records, guess in rows:
            at = writer.records_at(guess)
            buffer.view[at : at + len(records)] = records
            writer.partition(
                partition,
                error,
                high_watermark,
                log_start_offset,
                aborted_null=null,
                records_at=at,
                records_size=len(records),
            )
        writer.end_topic()
    frame = b"".join(writer.finish())

    assert frame == oracle(version, topics, correlation_id, error_code if version >= 7 else 0)
    asked = body_of(version, [[(row[0], -1, 0, 1) for row in rows] for rows in topics])
    records_size = sum(len(row[5]) for rows in topics for row in rows)
    assert len(frame) <= parse(version, memoryview(asked), 0).overhead + records_size


def oracle(version: int, topics: list[list[Row]], correlation_id: int, error_code: int) -> bytes:
    answer = FetchResponse(
        version=version,
        throttle_time_ms=0,
        error_code=error_code,
        session_id=0,
        responses=[
            TopicAnswer(
                version=version,
                partitions=[
                    PartitionAnswer(
                        version=version,
                        partition_index=partition,
                        error_code=error,
                        high_watermark=high_watermark,
                        last_stable_offset=high_watermark,
                        log_start_offset=log_start_offset,
                        aborted_transactions=None if null else [],
                        preferred_read_replica=-1,
                        records=records,
                    )
                    for partition, error, high_watermark, log_start_offset, null, records, _ in rows
                ],
                **named(version, key(version, number)),
            )
            for number, rows in enumerate(topics)
        ],
    )
    answer.with_header(correlation_id)
    return bytes(answer.encode(header=True, framed=True))


@pytest.mark.parametrize("version", [4, 12])
def test_a_writer_goes_on_in_a_larger_buffer(version: int) -> None:
    pool = BufferPool()
    writer = fetch.AnswerWriter(version, pool.take(1))
    writer.head(5, 0, 1)
    writer.topic("t", 2)
    writer.partition(0, 0, 3, 1)
    writer.move(pool.take(BUFFER_SIZE_MIN + 1))
    records = b"r" * BUFFER_SIZE_MIN
    at = writer.records_at(len(records))
    writer.buffer.view[at : at + len(records)] = records
    writer.partition(1, 0, 4, 1, records_at=at, records_size=len(records))
    writer.end_topic()
    answer = FetchResponse.decode(b"".join(writer.finish())[4:], version=version, header=True)
    partitions = answer.responses[0].partitions
    assert [(part.high_watermark, bytes(part.records)) for part in partitions] == [(3, b""), (4, records)]


def test_a_released_buffer_serves_the_next_answer() -> None:
    pool = BufferPool(size_max=BUFFER_SIZE_MIN * 3)
    first = pool.take(100)
    assert first.size == len(first.view) == BUFFER_SIZE_MIN
    answer = Answer([first.view[:5]], first)
    assert answer.size == 5
    assert pool.take(100) is not first
    answer.release()
    answer.release()
    assert answer.parts == []
    assert pool.take(BUFFER_SIZE_MIN) is first
    assert pool.take(BUFFER_SIZE_MIN) is not first


@given(st.integers(0, 1 << 26))
@example(BUFFER_SIZE_MIN)
@example(BUFFER_SIZE_MIN + 1)
@example(BUFFER_SIZE_MIN * 2)
@example(BUFFER_SIZE_MIN * 2 + 1)
@example((1 << 22) + BUFFER_SIZE_MIN)
@example((1 << 22) + BUFFER_SIZE_MIN + 1)
def test_a_buffer_has_the_room_asked_for_and_not_much_more(size: int) -> None:
    buffer_size = size_class(size)
    assert size <= buffer_size <= max(BUFFER_SIZE_MIN, 2 * size + BUFFER_SIZE_MIN)
    assert size_class(buffer_size) == buffer_size


def test_a_power_of_two_of_records_does_not_take_the_next_one() -> None:
    assert size_class((1 << 22) + 1000) == (1 << 22) + BUFFER_SIZE_MIN


def test_a_pool_keeps_no_more_than_it_may() -> None:
    pool = BufferPool(size_max=BUFFER_SIZE_MIN * 3)
    buffers = [pool.take(size) for size in (BUFFER_SIZE_MIN * 2, BUFFER_SIZE_MIN + 1, 1)]
    assert [buffer.size for buffer in buffers] == [BUFFER_SIZE_MIN * 2, BUFFER_SIZE_MIN * 2, BUFFER_SIZE_MIN]
    for buffer in buffers:
        pool.give(buffer)
    assert pool.size_kept == BUFFER_SIZE_MIN * 3
    assert pool.take(BUFFER_SIZE_MIN * 2) is buffers[0]
    assert pool.take(1) is buffers[2]
    assert pool.size_kept == 0
