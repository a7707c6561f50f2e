"""Fetch, the short way: whatever a client sends, it gets the answers that the general way gives."""

import struct
import uuid
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

import pytest
import trio
from hypothesis import given, settings
from hypothesis import strategies as st
from trio.testing import MockClock

from totalog.engine import VIEW, Log, Reservation
from totalog.gateway import start
from totalog.gateway.apis import fetch_repeats, produce
from totalog.gateway.apis.api import Run
from totalog.gateway.broker import Broker
from totalog.gateway.connection import Connection
from totalog.gateway.limits import Limits
from totalog.gateway.tests import batches
from totalog.gateway.tests.harness import NOW_MS, build, encode_request, make_broker, parse_request
from totalog.gateway.tests.peers import Script
from totalog.gateway.wire import codec
from totalog.gateway.wire.answer import Answer
from totalog.gateway.wire.frame import FETCH

TOPIC, VIEW_NAME = "orders", "orders.total-order"
PARTITIONS = 2
SIZES = (10, 300, 40_000, 10, 20_000, 200_000, 5)
"""Of the records in each partition, one to a batch: some are lent, some copied."""
MIB = 1 << 20


def framed(request: bytes, correlation_id: int) -> bytes:
    made = bytearray(request)
    struct.pack_into(">i", made, 4, correlation_id)
    return struct.pack(">i", len(made)) + made


def batch(size: int, fill: int) -> bytes:
    return batches.build([(NOW_MS, None, bytes([fill]) * size, [])])


class World:
    """A broker with records, and what took the short way."""

    def __init__(self) -> None:
        self.log = Log.create(None, size=64 * MIB)
        self.broker = make_broker(self.log)
        self.broker.topics.create(TOPIC, partitions=PARTITIONS)
        self.short = 0
        for fill, size in enumerate(SIZES):
            for partition in range(PARTITIONS):
                self.put(partition, batch(size, 10 * fill + partition))

    def put(self, partition: int, records: bytes) -> None:
        data = [{"name": TOPIC, "partition_data": [{"index": partition, "records": records}]}]
        fields = {"transactional_id": None, "acks": 0, "timeout_ms": 1000, "topic_data": data}
        request = parse_request(encode_request(build(codec.ProduceRequest, 9, fields)))
        assert list(produce.handle_group(self.broker, [request])) == [None]

    def fetch(self, version: int, offset: int, correlation_id: int, name: str = TOPIC, **fields: Any) -> bytes:
        """A request of one partition; `fields` replace those of the partition, or of the request."""
        handle = self.broker.topics.find(name)
        assert handle is not None
        part = {"partition": 0, "current_leader_epoch": -1, "fetch_offset": offset, "partition_max_bytes": MIB}
        part = {field: fields.pop(field, value) for field, value in part.items()}
        key = {"topic_id": uuid.UUID(bytes=handle.id)} if version >= 13 else {"topic": name}
        limits = {"max_wait_ms": 0, "min_bytes": 1, "max_bytes": 50 * MIB, "isolation_level": 0} | fields
        topics = [key | {"partitions": [part]}]
        return framed(encode_request(build(codec.FetchRequest, version, limits | {"topics": topics})), correlation_id)

    def repeat_of(self, broker: Broker, request: Any) -> Any:
        return fetch_repeats.repeat_of(broker, request)

    def begins(self, repeat: Any, frame: memoryview) -> bool:
        return fetch_repeats.begins(repeat, frame)

    def answer(
        self, broker: Broker, repeat: Any, held: memoryview, reservation: Reservation | None = None
    ) -> Run | None:
        run = fetch_repeats.answer(broker, repeat, held, reservation)
        self.short += run is not None
        return run

    def serve(self, pieces: Sequence[bytes], *, short_way: bool) -> bytes:
        service = replace(start.service(self.broker, Limits()), runs={FETCH: self} if short_way else {})
        transport = Script(pieces)
        trio.run(Connection(service, transport).run, clock=MockClock(autojump_threshold=0))
        assert self.broker.unsent.size == 0
        return transport.got

    def compare(self, pieces: Sequence[bytes]) -> int:
        """How many took the short way."""
        self.short = 0
        assert self.serve(pieces, short_way=True) == self.serve(pieces, short_way=False)
        return self.short


@pytest.fixture(scope="module")
def world() -> Iterator[World]:
    world = World()
    yield world
    world.log.close()


@pytest.mark.parametrize("version", range(4, 19))
@pytest.mark.parametrize(("name", "end"), [(TOPIC, len(SIZES)), (VIEW_NAME, PARTITIONS * len(SIZES))])
def test_what_is_alike_is_answered_the_short_way(world: World, version: int, name: str, end: int) -> None:
    """One at a time, and all at once; from each offset, those at and behind the end included."""
    frames = [world.fetch(version, offset, 7 * offset, name) for offset in range(end + 2)]
    assert world.compare(frames) == end - 1
    assert world.compare([b"".join(frames)]) == end - 1
    assert world.compare([frames[0], frames[1][:20], frames[1][20:] + frames[2][:11], frames[2][11:]]) == 2


@pytest.mark.parametrize(
    "fields",
    [
        {"partition_max_bytes": 0},
        {"partition_max_bytes": 1000},
        {"max_bytes": 1},
        {"isolation_level": 1},
        {"current_leader_epoch": 0},
        {"partition": 1},
        {"session_epoch": 0},
    ],
)
def test_kinds_differ_by_what_they_ask_for(world: World, fields: dict[str, Any]) -> None:
    frames = [world.fetch(11, offset, offset, **fields) for offset in range(len(SIZES))]
    plain = [world.fetch(11, offset, 100 + offset) for offset in range(len(SIZES))]
    assert world.compare(frames + plain) == 2 * len(SIZES) - 2
    assert world.compare([each for pair in zip(frames, plain, strict=True) for each in pair]) > 0


@pytest.mark.parametrize(
    "fields", [{"current_leader_epoch": 1}, {"partition": PARTITIONS}, {"min_bytes": 2}, {"session_epoch": 3}]
)
def test_what_is_refused_or_has_to_wait_is_no_kind(world: World, fields: dict[str, Any]) -> None:
    assert world.compare([world.fetch(11, offset, offset, **fields) for offset in range(4)]) == 0


def test_small_batches_of_more_than_the_room_there_was(world: World) -> None:
    """The general way makes room, and the short way has it from then on."""
    world.broker.topics.create("small", partitions=1)
    topic = world.broker.topics.find("small")
    assert topic is not None
    data = [{"name": "small", "partition_data": [{"index": 0, "records": batch(8_000, 1)}]}]
    fields = {"transactional_id": None, "acks": 0, "timeout_ms": 1000, "topic_data": data}
    request = parse_request(encode_request(build(codec.ProduceRequest, 9, fields)))
    list(produce.handle_group(world.broker, [request] * 40))
    frames = [world.fetch(11, 0, 0)] + [world.fetch(11, offset, offset, "small") for offset in (39, 0, 0, 0)]
    world.broker.reader.copied = 0
    assert 0 < world.compare(frames) < 4


def test_a_topic_that_is_made_anew_is_another_kind() -> None:
    world = World()
    frame = world.fetch(11, 0, 1)
    repeat = fetch_repeats.repeat_of(world.broker, parse_request(frame[4:]))
    assert repeat is not None
    run = fetch_repeats.answer(world.broker, repeat, memoryview(frame))
    assert run is not None
    _, _, answer = run
    assert isinstance(answer, Answer)
    handle = world.broker.topics.find(TOPIC)
    assert handle is not None
    world.broker.topics.delete(handle)
    world.broker.topics.create(TOPIC, partitions=PARTITIONS)
    world.put(0, batch(50, 99))
    assert fetch_repeats.answer(world.broker, repeat, memoryview(frame)) is None
    world.log.close()


def test_a_log_start_that_moves_is_told() -> None:
    world = World()
    handle = world.broker.topics.find(TOPIC)
    assert handle is not None
    world.log.trim(handle.topic, VIEW, 5)
    frames = [world.fetch(11, offset, offset) for offset in range(len(SIZES))]
    assert world.compare([frames[-1], *frames]) == len(SIZES) - 3
    world.log.close()


@settings(deadline=None, max_examples=60)
@given(data=st.data())
def test_any_mixture_is_answered_as_by_the_general_way(world: World, data: st.DataObject) -> None:
    versions = data.draw(st.lists(st.sampled_from([4, 7, 11, 12, 13, 18]), min_size=1, max_size=2))
    frames = []
    for number in range(data.draw(st.integers(1, 12))):
        fields: dict[str, Any] = data.draw(
            st.fixed_dictionaries(
                {},
                optional={
                    "partition_max_bytes": st.sampled_from([0, 500, 30_000]),
                    "current_leader_epoch": st.integers(-1, 1),
                    "partition": st.integers(0, PARTITIONS),
                    "isolation_level": st.integers(0, 1),
                },
            )
        )
        version = data.draw(st.sampled_from(versions))
        if version < 9:
            fields.pop("current_leader_epoch", None)
        name = data.draw(st.sampled_from([TOPIC, VIEW_NAME]))
        frames.append(world.fetch(version, data.draw(st.integers(-1, 16)), number, name, **fields))
    whole = b"".join(frames)
    cuts = sorted(data.draw(st.lists(st.integers(0, len(whole)), max_size=4)))
    pieces = [whole[begin:end] for begin, end in zip([0, *cuts], [*cuts, len(whole)], strict=True) if begin < end]
    world.compare(pieces)
