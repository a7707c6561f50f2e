"""Produce requests of many partitions: handled in steps, and else as if they were small."""

import struct
from collections.abc import Iterator
from typing import Any

import pytest
import trio
from trio.testing import MockClock

from totalog.engine import Log
from totalog.gateway.apis import produce, produce_steps
from totalog.gateway.apis.api import Request
from totalog.gateway.broker import Broker
from totalog.gateway.limits import STEP_COUNT_MAX
from totalog.gateway.outbox import Owed
from totalog.gateway.tests.durable_world import world
from totalog.gateway.tests.harness import build, dispatch, encode_request, make_broker, turns_until
from totalog.gateway.tests.test_apis_produce import Topics, batch, decoded, request, stored
from totalog.gateway.wire import codec, cursor
from totalog.gateway.wire import produce as wire
from totalog.gateway.wire.errors import ErrorCode, ProtocolViolation

PARTITIONS = 1000


def new_broker() -> Broker:
    broker = make_broker(Log.create(None, size=64 << 20))
    broker.topics.create("orders", partitions=4)
    broker.topics.create("prices", partitions=2)
    broker.topics.create("wide", partitions=PARTITIONS)
    return broker


@pytest.fixture
def broker() -> Iterator[Broker]:
    broker = new_broker()
    yield broker
    broker.log.close()


def handle_in_small_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every request is handled as a large one, three topics or partitions at a time."""
    monkeypatch.setattr(wire, "WHOLE_ELEMENTS_MAX", -1)
    monkeypatch.setattr(cursor, "STEP_COUNT_MAX", 3)
    monkeypatch.setattr(produce_steps, "STEP_COUNT_MAX", 3)


TOPICS: Topics = [
    ("orders", [(0, batch(2)), (1, None), (9, batch()), (2, batch(1)[:-1] + b"\xff"), (3, batch(3)), (0, batch(1))]),
    ("nowhere", [(0, batch())]),
    ("orders.total-order", [(0, batch())]),
    ("prices", [(0, batch(5)), (1, batch(1))]),
]


def answer(broker: Broker, asked: Request) -> Any:
    body = dispatch(broker, asked)
    return None if body is None else struct.pack(">i", len(body)) + body


@pytest.mark.parametrize("version", [3, 5, 8, 9, 13])
@pytest.mark.parametrize("transactional_id", [None, "t"])
def test_the_answer_is_that_of_a_small_request(
    broker: Broker, version: int, transactional_id: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = decoded(version, answer(broker, request(broker, version, TOPICS, transactional_id=transactional_id)))
    handle_in_small_steps(monkeypatch)
    other = new_broker()
    frame = answer(other, request(other, version, TOPICS, transactional_id=transactional_id))
    assert decoded(version, frame) == expected
    assert [code for _, code, *_ in expected].count(ErrorCode.NONE) == (5 if transactional_id is None else 0)
    for name, partitions in (("orders", 4), ("prices", 2)):
        for partition in range(partitions):
            assert stored(other, name, partition) == stored(broker, name, partition)
    other.log.close()


def test_topics_without_partitions_are_left_out(broker: Broker) -> None:
    topics: Topics = [("orders", []), ("prices", [(1, batch(2))]), ("orders", []), ("orders", [(3, batch(1))])]
    assert wire.parse(9, (asked := request(broker, 9, topics)).frame, asked.body_at) is None
    assert decoded(9, answer(broker, asked)) == [(1, 0, 0, 0, None), (3, 0, 0, 0, None)]
    assert decoded(9, answer(broker, request(broker, 9, [("orders", [])]))) == []


@pytest.mark.parametrize("topics", [TOPICS, TOPICS[-1:]], ids=["errors", "none"])
def test_with_acks_0_an_error_ends_the_connection_behind_the_last_partition(
    broker: Broker, topics: Topics, monkeypatch: pytest.MonkeyPatch
) -> None:
    handle_in_small_steps(monkeypatch)
    asked = request(broker, 9, topics, acks=0)
    if topics is TOPICS:
        with pytest.raises(ProtocolViolation, match="orders-1"):
            answer(broker, asked)
        assert stored(broker, "orders", 0) == batch(2) + batch(1)
    else:
        assert answer(broker, asked) is None
    assert stored(broker, "prices", 1) == batch(1)


def test_what_does_not_parse_is_refused_before_anything_is_stored(
    broker: Broker, monkeypatch: pytest.MonkeyPatch
) -> None:
    handle_in_small_steps(monkeypatch)
    asked = request(broker, 9, TOPICS)
    asked.frame = asked.frame[:-1]
    with pytest.raises(ProtocolViolation):
        answer(broker, asked)
    assert stored(broker, "orders", 0) == b""


def wide(count: int, data: bytes | None) -> Topics:
    return [("wide", [(number % PARTITIONS, data) for number in range(count)])]


@pytest.mark.parametrize("of", ["refused", "stored", "topics"])
async def test_others_have_their_turn_meanwhile(broker: Broker, nursery: trio.Nursery, of: str) -> None:
    count, done = 8 * STEP_COUNT_MAX, trio.Event()
    some = wide(count, batch() if of == "stored" else None)
    asked = request(broker, 9, [("orders", [])] * count if of == "topics" else some)

    async def run() -> None:
        answering = produce.handle(broker, asked)
        assert not isinstance(answering, bytes | bytearray | Owed | None)
        assert len(decoded(9, await answering)) == (0 if of == "topics" else count)
        done.set()

    nursery.start_soon(run)
    assert await turns_until(done) >= 2 * 7, "to read all of them, and to order them"


def test_a_group_ends_where_it_names_much(broker: Broker) -> None:
    """What is left of it is asked again, behind those who wait for their turn; a large request is handled alone."""
    some = request(broker, 9, wide(400, None))
    large = request(broker, 9, wide(STEP_COUNT_MAX, None))
    assert len(list(produce.handle_group(broker, [some] * 9))) == produce.PARTITIONS_A_GROUP // 400 + 1
    assert len(list(produce.handle_group(broker, [some, large, some]))) == 1


async def test_batches_of_one_connection_keep_their_order(autojump_clock: MockClock) -> None:
    """Those before a large request, in it, and behind it, all received at once; and so do the answers."""
    async with world() as w:
        w.create("orders")
        w.create("wide", PARTITIONS)
        client = w.connect()
        frames = []
        for topics in ([("orders", [(0, batch(1))])], [*wide(600, batch()), ("orders", [(0, batch(2))])]):
            for topic_data in (topics, [("orders", [(0, batch(3))])]):
                frames.append(encode_request(build_produce(topic_data)))
                client.asked("Produce", 9)
        await client.stream.send_all(b"".join(struct.pack(">i", len(frame)) + frame for frame in frames))
        assert not await client.answered()
        await w.store()
        found = [(await client.produced())[-1] for _ in frames]
        assert found == [(0, 0), (0, 1), (0, 4), (0, 6)]


def build_produce(topics: Topics) -> Any:
    data = [
        {"name": name, "partition_data": [{"index": at, "records": records} for at, records in partitions]}
        for name, partitions in topics
    ]
    fields = {"transactional_id": None, "acks": -1, "timeout_ms": 30_000, "topic_data": data}
    return build(codec.ProduceRequest, 9, fields)


async def test_of_many_rows_those_that_are_not_durable_are_told(autojump_clock: MockClock) -> None:
    async with world() as w:
        w.create("wide", PARTITIONS)
        client, start = w.connect(), w.log.frontiers().ordered
        await client.produce(*(("wide", number, batch()) for number in range(1000)))
        assert not await client.answered()
        await w.store(position=start + 600)
        await w.fail()
        after = (ErrorCode.NOT_ENOUGH_REPLICAS_AFTER_APPEND, -1)
        assert await client.produced() == [(0, 0)] * 600 + [after] * 400
