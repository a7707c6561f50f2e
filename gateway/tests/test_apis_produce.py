"""Produce on a real log: what is stored, what is answered, and what ends the connection."""

import struct
import uuid
import warnings
from collections.abc import Iterator, Sequence
from typing import Any

import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from totalog.engine import VIEW, AppendGroup, Log, Topic
from totalog.gateway.apis import produce
from totalog.gateway.apis.api import Request
from totalog.gateway.broker import Broker
from totalog.gateway.tests.harness import NOW_MS, build, encode_request, make_broker
from totalog.gateway.tests.peers import holders
from totalog.gateway.wire import codec
from totalog.gateway.wire._batch import ffi
from totalog.gateway.wire.batch import check
from totalog.gateway.wire.cursor import Cursor
from totalog.gateway.wire.errors import ErrorCode, ProtocolViolation

with warnings.catch_warnings():
    warnings.simplefilter("ignore", DeprecationWarning)  # of importlib, when the library reads its schemas
    from totalog.gateway.tests import batches

VERSIONS = range(3, 14)
REGION_SIZE = 128 << 20

Topics = Sequence[tuple[str, Sequence[tuple[int, bytes | None]]]]


def batch(count: int = 1, size: int = 100, **options: Any) -> bytes:
    """A record batch of `count` records with values of `size` bytes."""
    return batches.build([(NOW_MS, None, bytes([n % 251]) * size, []) for n in range(count)], **options)


@pytest.fixture
def broker() -> Iterator[Broker]:
    log = Log.create(None, size=REGION_SIZE)
    broker = make_broker(log)
    broker.topics.create("orders", partitions=4)
    broker.topics.create("prices", partitions=2)
    yield broker
    log.close()


def topic(broker: Broker, name: str) -> Topic:
    found = broker.topics.find(name)
    assert found is not None
    return found.topic


def request(
    broker: Broker, version: int, topics: Topics, *, acks: int = 1, transactional_id: str | None = None
) -> Request:
    """A request as it comes from a connection. Topics go by name here, on the wire by id where the version says so."""
    data = []
    for name, partitions in topics:
        handle = broker.topics.find(name)
        key = (
            {"topic_id": uuid.UUID(bytes=handle.id) if handle else uuid.UUID(int=1)}
            if version >= 13
            else {"name": name}
        )
        data.append(key | {"partition_data": [{"index": index, "records": records} for index, records in partitions]})
    fields = {"transactional_id": transactional_id, "acks": acks, "timeout_ms": 1000, "topic_data": data}
    return parsed(memoryview(encode_request(build(codec.ProduceRequest, version, fields))))


def parsed(frame: memoryview) -> Request:
    key, version, correlation_id = struct.unpack_from(">hhi", frame)
    cursor = Cursor(frame, 8)
    client_id = cursor.nullable_string()
    if version >= 9:
        cursor.skip_tagged_fields()
    return Request(key, version, correlation_id, client_id, frame, cursor.position, "192.0.2.1")


def decoded(version: int, frame: Any) -> list[Any]:
    """The partition answers in a frame, each as (partition, error code, base offset, log start offset, message)."""
    assert struct.unpack_from(">i", frame)[0] == len(frame) - 4
    answer = codec.ProduceResponse.decode(bytes(frame[4:]), version=version, header=True)
    return [
        (part.index, part.error_code, part.base_offset, part.log_start_offset, part.error_message)
        for response in answer.responses
        for part in response.partition_responses
    ]


def ask(broker: Broker, version: int, topics: Topics, **options: Any) -> list[Any]:
    (frame,) = produce.handle_group(broker, [request(broker, version, topics, **options)])
    return decoded(version, frame)


def error(broker: Broker, version: int, name: str, records: bytes | None, *, partition: int = 0, **options: Any) -> int:
    ((index, code, base_offset, log_start_offset, _),) = ask(
        broker, version, [(name, [(partition, records)])], **options
    )
    assert index == partition
    if code:
        assert (base_offset, log_start_offset) == (-1, -1)
    return int(code)


def stored(broker: Broker, name: str, partition: int) -> bytes:
    """Everything that a partition holds, as it was produced (base offsets and leader epochs are not stamped)."""
    log = broker.log
    target = bytearray(1 << 20)
    address = int(ffi.cast("uintptr_t", ffi.from_buffer(target)))
    bounds = log.bounds(topic(broker, name), partition)
    if bounds.log_start_offset == bounds.next_offset:
        return b""
    read = log.read(
        topic(broker, name), partition, bounds.log_start_offset, address, len(target), batches=log.read_batches(1000)
    )
    return bytes(target[: read.size])


def ends(broker: Broker, name: str) -> list[int]:
    found = topic(broker, name)
    return [broker.log.bounds(found, partition).next_offset for partition in range(found.partitions)]


@pytest.mark.parametrize("version", VERSIONS)
def test_a_batch_is_stored_and_answered(broker: Broker, version: int) -> None:
    first, second = batch(3), batch(2)
    start = 0 if version >= 5 else -1
    assert ask(broker, version, [("orders", [(1, first)])]) == [(1, 0, 0, start, None)]
    assert ask(broker, version, [("orders", [(1, second)])]) == [(1, 0, 3, start, None)]
    assert stored(broker, "orders", 1) == first + second
    assert ends(broker, "orders") == [0, 5, 0, 0]


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("acks", [1, -1])
def test_topics_and_partitions_are_answered_in_the_order_asked(broker: Broker, version: int, acks: int) -> None:
    answers = ask(
        broker,
        version,
        [("prices", [(1, batch(1)), (0, batch(2))]), ("orders", [(3, batch(3)), (9, batch(1)), (0, batch(4))])],
        acks=acks,
    )
    assert [(index, code) for index, code, *_ in answers] == [(1, 0), (0, 0), (3, 0), (9, 3), (0, 0)]
    assert ends(broker, "prices") == [2, 1]
    assert ends(broker, "orders") == [4, 0, 0, 3]
    assert broker.log.bounds(topic(broker, "orders"), VIEW).next_offset == 7


def test_a_group_is_answered_in_order_by_one_append(broker: Broker, monkeypatch: pytest.MonkeyPatch) -> None:
    appended: list[int] = []
    append = broker.log.append

    def counted(group: AppendGroup, count: int) -> None:
        appended.append(count)
        append(group, count)

    monkeypatch.setattr(broker.log, "append", counted)
    requests = [request(broker, 3 + n % 11, [("orders", [(n % 2, batch(1 + n))])]) for n in range(8)]
    frames = list(produce.handle_group(broker, requests))
    answers = [decoded(asked.version, frame) for asked, frame in zip(requests, frames, strict=True)]
    assert [(index, code, base) for ((index, code, base, *_),) in answers] == [
        (0, 0, 0),
        (1, 0, 0),
        (0, 0, 1),
        (1, 0, 2),
        (0, 0, 4),
        (1, 0, 6),
        (0, 0, 9),
        (1, 0, 12),
    ]
    assert appended == [8]
    told = [struct.unpack_from(">i", frame, 4)[0] for frame in frames if isinstance(frame, bytes)]
    assert told == [r.correlation_id for r in requests]


def test_a_group_larger_than_an_append_takes_several(broker: Broker) -> None:
    appender = produce.Appender(broker, batches_max=3)
    requests = [
        request(broker, 9, [("orders", [(0, batch(1)), (1, batch(2))]), ("prices", [(0, batch(1)), (7, batch(1))])])
        for _ in range(4)
    ]
    answers = [decoded(9, frame) for frame in appender.append(broker, requests)]
    assert [[(index, code, base) for index, code, base, *_ in answer] for answer in answers] == [
        [(0, 0, n), (1, 0, 2 * n), (0, 0, n), (7, 3, -1)] for n in range(4)
    ]


@pytest.mark.parametrize("version", VERSIONS)
def test_acks_0_is_stored_and_not_answered(broker: Broker, version: int) -> None:
    requests = [
        request(broker, version, [("orders", [(0, batch(2))])], acks=0),
        request(broker, version, [("orders", [(0, batch(1))])], acks=1),
    ]
    first, second = produce.handle_group(broker, requests)
    assert first is None
    assert decoded(version, second)[0][:3] == (0, 0, 2)


@pytest.mark.parametrize("bad", [("nowhere", 0), ("orders", 4)])
def test_an_error_with_acks_0_ends_the_connection_behind_the_answers_before_it(
    broker: Broker, bad: tuple[str, int]
) -> None:
    name, partition = bad
    requests = [
        request(broker, 9, [("orders", [(0, batch(1))])]),
        request(broker, 9, [("orders", [(1, batch(1))]), (name, [(partition, batch(1))])], acks=0),
        request(broker, 9, [("orders", [(2, batch(1))])]),
    ]
    answers = produce.handle_group(broker, requests)
    assert decoded(9, next(answers)) == [(0, 0, 0, 0, None)]
    with pytest.raises(ProtocolViolation, match=f"acks=0 to {name}-{partition}"):
        next(answers)
    assert ends(broker, "orders") == [1, 1, 0, 0]


def test_an_error_that_only_the_log_sees_ends_the_connection_with_acks_0(broker: Broker) -> None:
    gap = batch(1, producer_id=7, producer_epoch=0, base_sequence=5)
    assert error(broker, 9, "orders", batch(1, producer_id=7, producer_epoch=0, base_sequence=0)) == 0
    answers = produce.handle_group(broker, [request(broker, 9, [("orders", [(0, gap)])], acks=0)])
    with pytest.raises(ProtocolViolation, match="error 45"):
        next(answers)
    assert ends(broker, "orders") == [1, 0, 0, 0]


def test_a_request_that_does_not_parse_ends_the_connection_behind_the_answers_before_it(broker: Broker) -> None:
    good = request(broker, 9, [("orders", [(0, batch(1))])])
    cut = request(broker, 9, [("orders", [(1, batch(1))])])
    cut.frame = cut.frame[:-40]
    answers = produce.handle_group(broker, [good, cut, request(broker, 9, [("orders", [(2, batch(1))])])])
    assert decoded(9, next(answers)) == [(0, 0, 0, 0, None)]
    with pytest.raises(ProtocolViolation) as caught:
        next(answers)
    holding = holders(caught.value)
    assert holding == []
    assert ends(broker, "orders") == [1, 0, 0, 0]


@pytest.mark.parametrize("acks", [2, -2, 32767])
def test_other_acks_are_refused(broker: Broker, acks: int) -> None:
    assert error(broker, 9, "orders", batch(), acks=acks) == ErrorCode.INVALID_REQUIRED_ACKS
    assert error(broker, 9, "nowhere", batch(), acks=acks) == ErrorCode.UNKNOWN_TOPIC_OR_PARTITION
    assert ends(broker, "orders") == [0, 0, 0, 0]


@pytest.mark.parametrize("version", VERSIONS)
def test_what_cannot_be_stored_is_named_and_the_rest_is_stored(broker: Broker, version: int) -> None:
    good = batch(2)
    answers = ask(
        broker,
        version,
        [
            ("orders", [(4, good), (-1, good), (0, None), (1, b""), (2, good), (3, good[:-1] + b"\xff")]),
            ("nowhere", [(0, good)]),
        ],
    )
    unknown = ErrorCode.UNKNOWN_TOPIC_ID if version >= 13 else ErrorCode.UNKNOWN_TOPIC_OR_PARTITION
    expected = [3, 3, ErrorCode.INVALID_RECORD, ErrorCode.INVALID_RECORD, 0, ErrorCode.CORRUPT_MESSAGE, unknown]
    assert [code for _, code, *_ in answers] == expected
    assert [base for _, _, base, *_ in answers] == [-1, -1, -1, -1, 0, -1, -1]
    assert ends(broker, "orders") == [0, 0, 2, 0]


@pytest.mark.parametrize("version", VERSIONS)
def test_views_and_internal_topics_are_not_produced_to(broker: Broker, version: int) -> None:
    internal = broker.state_topic
    end = broker.log.bounds(internal.topic, 0).next_offset
    answers = ask(broker, version, [("orders.total-order", [(0, batch())]), (internal.name, [(0, batch())])])
    assert [code for _, code, *_ in answers] == [17, 17]
    if version >= 8:
        assert "total-order view of topic orders" in answers[0][4]
        assert "internal" in answers[1][4]
    assert ends(broker, "orders") == [0, 0, 0, 0]
    assert broker.log.bounds(internal.topic, 0).next_offset == end


@pytest.mark.parametrize("version", VERSIONS)
def test_transactions_are_refused(broker: Broker, version: int) -> None:
    transactional = batches.changed(batch(producer_id=1, producer_epoch=0, base_sequence=0), attributes=0x10)
    assert error(broker, version, "orders", batch(), transactional_id="t") == ErrorCode.UNSUPPORTED_VERSION
    assert error(broker, version, "orders", transactional, transactional_id="t") == ErrorCode.UNSUPPORTED_VERSION
    assert error(broker, version, "orders", transactional) == ErrorCode.TRANSACTIONAL_ID_AUTHORIZATION_FAILED
    assert ends(broker, "orders") == [0, 0, 0, 0]


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("codec_name", batches.CODECS)
def test_every_codec_is_stored_as_it_came_but_zstd_only_from_version_7(
    broker: Broker, version: int, codec_name: str
) -> None:
    compressed = batch(5, codec=batches.CODECS[codec_name])
    refused = codec_name == "zstd" and version < 7
    expected = ErrorCode.UNSUPPORTED_COMPRESSION_TYPE if refused else ErrorCode.NONE
    assert error(broker, version, "orders", compressed) == expected
    assert stored(broker, "orders", 0) == (b"" if refused else compressed)


def test_limits_of_a_topic_hold(broker: Broker) -> None:
    broker.topics.create(
        "small", partitions=1, config={"max.message.bytes": "500", "message.timestamp.after.max.ms": "10"}
    )
    fits = batch(1, 500 - len(batch(1, 0)) - 2)
    assert len(fits) <= 500
    assert error(broker, 9, "small", fits) == 0
    assert error(broker, 9, "small", batch(1, 500)) == ErrorCode.MESSAGE_TOO_LARGE
    assert error(broker, 9, "orders", batch(1, 500)) == 0
    for ahead, code in [(10, ErrorCode.NONE), (11, ErrorCode.INVALID_TIMESTAMP)]:
        assert error(broker, 9, "small", batches.build([(NOW_MS + ahead, None, b"v", [])])) == code


def test_a_repeated_batch_is_answered_like_the_original(broker: Broker) -> None:
    sent = [batch(2, producer_id=9, producer_epoch=0, base_sequence=2 * n) for n in range(3)]
    for n, records in enumerate(sent):
        assert ask(broker, 9, [("orders", [(1, records)])]) == [(1, 0, 2 * n, 0, None)]
    for n, records in enumerate(sent):
        assert ask(broker, 9, [("orders", [(1, records)])], acks=-1) == [(1, 0, 2 * n, 0, None)]
    assert ends(broker, "orders") == [0, 6, 0, 0]
    gap = batch(1, producer_id=9, producer_epoch=0, base_sequence=10)
    assert error(broker, 9, "orders", gap, partition=1) == ErrorCode.OUT_OF_ORDER_SEQUENCE_NUMBER
    newer = batch(1, producer_id=9, producer_epoch=1, base_sequence=0)
    assert error(broker, 9, "orders", newer, partition=1) == 0
    assert error(broker, 9, "orders", sent[2], partition=1) == ErrorCode.INVALID_PRODUCER_EPOCH


def test_a_topic_that_was_made_anew_is_another_topic(broker: Broker) -> None:
    old = broker.topics.find("orders")
    assert old is not None
    assert error(broker, 13, "orders", batch(3)) == 0
    to_the_old = request(broker, 13, [("orders", [(0, batch(1))])])
    broker.topics.delete(old)
    assert error(broker, 9, "orders", batch(1)) == ErrorCode.UNKNOWN_TOPIC_OR_PARTITION
    broker.topics.create("orders", partitions=1)
    assert ask(broker, 9, [("orders", [(0, batch(1)), (1, batch(1))])]) == [(0, 0, 0, 0, None), (1, 3, -1, -1, None)]
    (frame,) = produce.handle_group(broker, [to_the_old])
    assert decoded(13, frame)[0][1] == ErrorCode.UNKNOWN_TOPIC_ID
    assert ends(broker, "orders") == [1]


@pytest.mark.parametrize("version", [12, 13])
def test_a_topic_may_go_while_its_batches_are_on_their_way(
    broker: Broker, version: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    handle = broker.topics.find("orders")
    assert handle is not None
    append = broker.log.append

    def delete_and_append(group: AppendGroup, count: int) -> None:
        broker.topics.delete(handle)
        append(group, count)

    monkeypatch.setattr(broker.log, "append", delete_and_append)
    answers = ask(broker, version, [("orders", [(0, batch(1))]), ("prices", [(0, batch(1))])])
    unknown = ErrorCode.UNKNOWN_TOPIC_ID if version >= 13 else ErrorCode.UNKNOWN_TOPIC_OR_PARTITION
    assert answers == [(0, unknown, -1, -1, None), (0, 0, 0, 0, None)]


def test_added_partitions_are_produced_to(broker: Broker) -> None:
    assert error(broker, 9, "prices", batch(1), partition=2) == ErrorCode.UNKNOWN_TOPIC_OR_PARTITION
    prices = broker.topics.find("prices")
    assert prices is not None
    broker.topics.add_partitions(prices, 3)
    assert error(broker, 9, "prices", batch(1), partition=2) == 0


def in_reservation(broker: Broker, asked: Request) -> Request:
    """The same request, received straight into the region."""
    reservation = broker.log.reserve(len(asked.frame))
    reservation.buffer[: len(asked.frame)] = asked.frame
    received = parsed(reservation.buffer[: len(asked.frame)])
    received.reservation = reservation
    return received


def watch_segments(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The segment of each batch that is checked from now on."""
    segments = []

    def watched_check(*arguments: int) -> int:
        segments.append(arguments[5])
        return check(*arguments)

    monkeypatch.setattr(produce, "check", watched_check)
    return segments


def used_blocks(broker: Broker) -> int:
    memory = broker.log.memory()
    return int(memory.blocks_total - memory.blocks_free)


def test_a_body_of_one_topic_stays_where_it_was_received(broker: Broker, monkeypatch: pytest.MonkeyPatch) -> None:
    first, second = batch(3, 20_000), batch(2, 20_000)
    received = in_reservation(broker, request(broker, 9, [("orders", [(0, first), (2, second), (9, first)])]))
    segments = watch_segments(monkeypatch)
    (frame,) = produce.handle_group(broker, [received])
    assert decoded(9, frame) == [(0, 0, 0, 0, None), (2, 0, 0, 0, None), (9, 3, -1, -1, None)]
    assert received.reservation is not None
    assert segments == [received.reservation.segment] * 2
    received.reservation.close()
    assert stored(broker, "orders", 0) == first
    assert stored(broker, "orders", 2) == second


def test_of_a_body_of_several_topics_those_behind_the_first_are_copied(
    broker: Broker, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second = batch(3, 20_000), batch(2, 20_000)
    segments = watch_segments(monkeypatch)
    asked = request(broker, 13, [("orders", [(0, first)]), ("prices", [(1, second)]), ("orders", [(1, second)])])
    received = in_reservation(broker, asked)
    (frame,) = produce.handle_group(broker, [received])
    assert decoded(13, frame) == [(0, 0, 0, 0, None), (1, 0, 0, 0, None), (1, 0, 0, 0, None)]
    assert received.reservation is not None
    assert segments == [received.reservation.segment, 0, received.reservation.segment]
    received.reservation.close()
    assert stored(broker, "orders", 0) == first
    assert stored(broker, "prices", 1) == second


@pytest.mark.parametrize("cut", [0, 50])
def test_nothing_is_left_of_a_body_that_cannot_be_stored(broker: Broker, cut: int) -> None:
    """Warmed up first, so that what the log keeps for a topic anyway is there."""
    assert error(broker, 9, "orders", batch(1)) == 0
    used = used_blocks(broker)
    for _ in range(20):
        received = in_reservation(broker, request(broker, 9, [("orders", [(0, batch(1, 200_000)[:-1] + b"\xff")])]))
        received.frame = received.frame[: len(received.frame) - cut]
        answers = produce.handle_group(broker, [received])
        if cut:
            with pytest.raises(ProtocolViolation):
                next(answers)
        else:
            assert decoded(9, next(answers))[0][1] == ErrorCode.CORRUPT_MESSAGE
        assert received.reservation is not None
        received.reservation.close()
    assert used_blocks(broker) == used


def test_a_full_log_says_so_and_keeps_what_it_has(broker: Broker) -> None:
    filling = [batch(1, 500_000) for _ in range(REGION_SIZE // 500_000 + 1)]
    codes = [error(broker, 9, "orders", records) for records in filling]
    count = codes.index(ErrorCode.KAFKA_STORAGE_ERROR)
    assert codes == [0] * count + [ErrorCode.KAFKA_STORAGE_ERROR] * (len(codes) - count)
    assert count > 20
    assert ends(broker, "orders") == [count, 0, 0, 0]
    assert stored(broker, "orders", 0)[: len(filling[0])] == filling[0]


async def test_those_who_wait_for_a_topic_are_woken(broker: Broker, autojump_clock: trio.abc.Clock) -> None:
    woken: dict[str, bool] = {}

    async def wait(name: str) -> None:
        woken[name] = await broker.appended.wait([topic(broker, name).slot], 60)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(wait, "orders")
        nursery.start_soon(wait, "prices")
        await wait_all_tasks_blocked()
        assert error(broker, 9, "orders", batch(1)[:-1] + b"\xff") == ErrorCode.CORRUPT_MESSAGE
        await wait_all_tasks_blocked()
        assert woken == {}
        assert error(broker, 9, "orders", batch(1)) == 0
        await wait_all_tasks_blocked()
        assert woken == {"orders": True}
    assert woken == {"orders": True, "prices": False}


def test_each_broker_has_its_own_appender(broker: Broker) -> None:
    log = Log.create(None, size=REGION_SIZE)
    other = make_broker(log)
    other.topics.create("orders", partitions=1)
    for _ in range(2):
        assert error(broker, 9, "orders", batch(1), partition=3) == 0
        assert error(other, 9, "orders", batch(1), partition=3) == ErrorCode.UNKNOWN_TOPIC_OR_PARTITION
    log.close()


def test_one_request_is_served_alone_too(broker: Broker) -> None:
    frame = produce.handle(broker, request(broker, 9, [("orders", [(0, batch(1))])]))
    assert decoded(9, frame) == [(0, 0, 0, 0, None)]
    assert produce.handle(broker, request(broker, 9, [("orders", [(0, batch(1))])], acks=0)) is None
