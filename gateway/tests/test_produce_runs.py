"""Runs of Produce requests are answered byte by byte as the general path answers them, however they arrive."""

import struct
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import replace
from typing import Any

import pytest
import trio
from hypothesis import given, settings
from hypothesis import strategies as st
from trio.testing import MockClock

from totalog.engine import Log, OutOfMemory, Reservation
from totalog.gateway import start
from totalog.gateway.apis import produce, produce_runs
from totalog.gateway.apis.api import Run
from totalog.gateway.broker import Broker
from totalog.gateway.connection import Connection
from totalog.gateway.limits import Limits
from totalog.gateway.outbox import Disconnected, Owed
from totalog.gateway.tests import batches
from totalog.gateway.tests.harness import NOW_MS, build, encode_request, make_broker, parse_request
from totalog.gateway.tests.peers import Script
from totalog.gateway.tests.replicas import ReplicaLog
from totalog.gateway.wire import codec
from totalog.gateway.wire._batch import ffi
from totalog.gateway.wire.errors import ErrorCode, ProtocolViolation
from totalog.gateway.wire.frame import PRODUCE

TOPIC = "orders"
PARTITIONS = 3
SMALL = 64 * 1024 * 1024


def frame(
    version: int, partition: int, records: bytes | None, correlation_id: int, *, acks: int = 1, topic: Any = TOPIC
) -> bytes:
    key = {"topic_id": topic} if version >= 13 else {"name": topic}
    data = [key | {"partition_data": [{"index": partition, "records": records}]}]
    fields = {"transactional_id": None, "acks": acks, "timeout_ms": 1000, "topic_data": data}
    made = bytearray(encode_request(build(codec.ProduceRequest, version, fields)))
    struct.pack_into(">i", made, 4, correlation_id)
    return struct.pack(">i", len(made)) + made


def batch(number: int, **options: Any) -> bytes:
    return batches.build([(NOW_MS, None, b"%d" % number * (1 + number % 7), [])], **options)


def broken(number: int) -> bytes:
    made = bytearray(batch(number))
    made[-1] ^= 1
    return bytes(made)


class World:
    """A broker, and what a client of it got."""

    def __init__(self) -> None:
        self.log = Log.create(None, size=SMALL)
        self.broker = make_broker(self.log)
        self.broker.topics.create(TOPIC, partitions=PARTITIONS)
        self.broker.topics.create("other", partitions=1)
        self.runs: list[int] = []

    def repeat_of(self, broker: Broker, request: Any) -> Any:
        return produce_runs.repeat_of(broker, request)

    def begins(self, repeat: Any, frame: memoryview) -> bool:
        return produce_runs.begins(repeat, frame)

    def answer(
        self, broker: Broker, repeat: Any, held: memoryview, reservation: Reservation | None = None
    ) -> Run | None:
        run = produce_runs.answer(broker, repeat, held, reservation)
        if run is not None:
            self.runs.append(run[0])
        return run

    def serve(self, pieces: Sequence[bytes], *, short_way: bool) -> tuple[bytes, str]:
        """What the client got, and how the connection ended."""
        service = replace(start.service(self.broker, Limits()), runs={PRODUCE: self} if short_way else {})
        transport = Script(pieces)

        async def serve() -> str:
            try:
                await Connection(service, transport).run()
            except (ProtocolViolation, Disconnected) as fault:
                return str(fault)
            return ""

        end = trio.run(serve, clock=MockClock(autojump_threshold=0))
        assert service.budget.taken == 0
        return transport.got, end

    def stored(self, name: str = TOPIC) -> list[bytes]:
        """What each partition holds."""
        handle = self.broker.topics.find(name)
        assert handle is not None
        target = bytearray(4 << 20)
        address = int(ffi.cast("uintptr_t", ffi.from_buffer(target)))
        found = []
        for partition in range(handle.partitions):
            read = self.log.read(handle.topic, partition, 0, address, len(target), batches=self.log.read_batches(100))
            assert read.next_offset == self.log.bounds(handle.topic, partition).next_offset
            found.append(bytes(target[: read.size]))
        return found


def compare(pieces: Sequence[bytes]) -> list[int]:
    """How many requests each run had."""
    short, general = World(), World()
    try:
        assert short.serve(pieces, short_way=True) == general.serve(pieces, short_way=False)
        assert short.stored() == general.stored()
    finally:
        short.log.close()
        general.log.close()
    return short.runs


@pytest.mark.parametrize("version", range(3, 13))
@pytest.mark.parametrize("acks", [1, -1])
def test_what_is_alike_is_answered_together(version: int, acks: int) -> None:
    frames = [frame(version, number % PARTITIONS, batch(number), number, acks=acks) for number in range(40)]
    assert compare([frames[0], b"".join(frames[1:])]) == [39]


@pytest.mark.parametrize("version", [3, 8, 12])
def test_what_the_log_refuses_is_answered_in_its_place(version: int) -> None:
    """A gap in a producer's sequence, in the middle of a run, with good batches behind it."""

    def of(sequence: int) -> bytes:
        return batch(sequence, producer_id=7, producer_epoch=0, base_sequence=sequence)

    sequences = [0, 1, 2, 9, 10, 3, 2, 4]
    frames = [frame(version, 0, of(sequence), number) for number, sequence in enumerate(sequences)]
    assert compare([frames[0], b"".join(frames[1:])]) == [7]


def test_a_deleted_topic_ends_the_kind() -> None:
    world = World()
    request = frame(8, 0, batch(0), 1)
    repeat = produce_runs.repeat_of(world.broker, parse_request(request[4:]))
    assert repeat is not None
    assert produce_runs.answer(world.broker, repeat, memoryview(bytearray(request))) is not None
    handle = world.broker.topics.find(TOPIC)
    assert handle is not None
    world.log.delete_topic(handle.topic)
    assert produce_runs.answer(world.broker, repeat, memoryview(bytearray(request))) is None
    world.log.close()


@settings(deadline=None, max_examples=40)
@given(data=st.data())
def test_any_mixture_is_answered_as_by_the_general_path(data: st.DataObject) -> None:
    versions = data.draw(st.lists(st.sampled_from([3, 8, 9, 12]), min_size=1, max_size=2))
    stream = b""
    for number in range(data.draw(st.integers(1, 25))):
        version, acks = data.draw(st.sampled_from(versions)), data.draw(st.sampled_from([1, 1, 1, 1, 1, -1, 0, 2]))
        partition = data.draw(st.sampled_from([0, 0, 1, 2, 3, -1]))
        records = data.draw(st.sampled_from([batch, batch, batch, batch, broken]))(number)
        topic = data.draw(st.sampled_from([TOPIC, TOPIC, TOPIC, TOPIC, "none"]))
        stream += frame(version, partition, records, number, acks=acks, topic=topic)
    cuts = sorted(data.draw(st.lists(st.integers(0, len(stream)), max_size=6)))
    pieces = [stream[begin:end] for begin, end in zip([0, *cuts], [*cuts, len(stream)], strict=True)]
    compare([piece for piece in pieces if piece])


LARGE = Limits().large_body_size_min


def large(number: int, size: int = LARGE) -> bytes:
    return batches.build([(NOW_MS, None, bytes([number]) * size, [])])


@pytest.mark.parametrize("version", [3, 8, 12])
@pytest.mark.parametrize("acks", [1, -1])
def test_large_requests_that_have_come_are_answered_together(version: int, acks: int) -> None:
    """The second tells that the sizes are about the same, too. Some begin in what was received with others."""
    frames = [frame(version, n % PARTITIONS, large(n, LARGE + 50 * ((n + 1) % 3)), n, acks=acks) for n in range(9)]
    assert compare([b"".join(frames)]) == [1, 7]
    cut = len(frames[0]) + len(frames[1]) + 70
    assert compare([frames[0], b"".join(frames)[len(frames[0]) : cut], b"".join(frames)[cut:]]) == [1, 1, 6]


def test_large_requests_that_are_more_than_a_run_may_have() -> None:
    frames = [frame(8, 0, large(n, 1_000_000), n) for n in range(8)]
    assert compare([b"".join(frames)]) == [4, 3]


def test_no_large_request_waits_for_bytes_of_the_next() -> None:
    """All that has come is a part of the one behind it, and no more ever comes."""
    frames = [frame(8, 0, large(n), n) for n in range(4)]
    world = World()
    got, end = world.serve([b"".join(frames)[:-1]], short_way=True)
    assert end == "it left in the middle of a request"
    assert world.runs == [1, 1]
    assert len(got) == 3 * (4 + struct.unpack_from(">i", got)[0])
    world.log.close()


@pytest.mark.parametrize(
    "other",
    [
        frame(8, 1, broken(1), 77),
        frame(8, 0, large(3)[:-1] + b"!", 77),
        frame(8, PARTITIONS, large(3), 77),
        frame(8, 0, large(3), 77, acks=2),
        frame(8, 0, large(3), 77, acks=0),
        frame(8, 0, large(3), 77, topic="none"),
        frame(8, 0, large(3), 77, topic="other"),
        frame(8, 0, large(3), 77)[:-1] + b"!",
        frame(7, 0, large(3), 77),
        frame(8, 0, large(3, 3 * LARGE), 77),
        frame(8, 0, large(3)[:-9], 77),
        frame(8, 0, large(3) + large(4)[:50], 77),
        frame(8, 0, batch(3), 77),
        frame(8, 0, None, 77),
        struct.pack(">i", 1 << 28) + frame(8, 0, large(3), 77)[4:],
        struct.pack(">i", -1) + frame(8, 0, large(3), 77)[4:],
    ],
)
def test_whatever_stands_between_large_requests_that_are_alike(other: bytes) -> None:
    frames = [frame(8, n % PARTITIONS, large(n), n) for n in range(5)]
    compare([b"".join([*frames[:4], other, *frames[2:4], frames[4]])])
    compare([b"".join([*frames[:2], other, *frames[2:4], other])])


def test_a_topic_that_is_made_anew_between_two_large_requests_has_its_own_memory() -> None:
    """The second lies in the reservation of the first: it is copied, since a segment belongs to one topic."""
    world = World()
    frames = [frame(8, 0, large(n), n) for n in range(2)]
    with world.log.reserve(len(frames[0]) + len(frames[1])) as reservation:
        at = 0
        for each in frames:
            reservation.buffer[at : at + len(each)] = each
            request = parse_request(each[4:])
            request.frame = reservation.buffer[at + 4 : at + len(each)]
            request.reservation = reservation
            assert list(produce.handle_group(world.broker, [request]))
            kept = world.stored()
            handle = world.broker.topics.find(TOPIC)
            assert handle is not None
            world.broker.topics.delete(handle)
            world.broker.topics.create(TOPIC, partitions=PARTITIONS)
            at += len(each)
        assert kept[0] == large(1)
        assert world.log.counters()["out_of_memory"] == 0
    assert world.stored() == [b""] * PARTITIONS
    world.log.close()


def test_a_region_without_room_for_a_run_takes_one_by_one() -> None:
    """What is free lies in pieces."""
    world = World()
    frames = [frame(8, 0, large(n, 1_000_000), n) for n in range(6)]
    held, piece = [], 20 * world.log.memory().block_size
    with suppress(OutOfMemory):
        while True:
            held.append(world.log.reserve(piece))
    for reservation in held[::2]:
        reservation.close()
    _, end = world.serve([b"".join(frames)], short_way=True)
    assert (world.runs, end) == ([1] * 5, "")
    assert world.stored()[0] == b"".join(large(n, 1_000_000) for n in range(4)), "as much as is read at once"
    for reservation in held:
        reservation.close()
    world.log.close()


@settings(deadline=None, max_examples=25)
@given(data=st.data())
def test_any_mixture_of_large_requests_is_answered_as_by_the_general_path(data: st.DataObject) -> None:
    stream = b""
    for number in range(data.draw(st.integers(1, 12))):
        version, acks = data.draw(st.sampled_from([8, 8, 8, 12])), data.draw(st.sampled_from([1, 1, 1, 1, -1, 0]))
        records = large(number, data.draw(st.sampled_from([LARGE, LARGE, LARGE + 9, LARGE + 300, 3 * LARGE, 20])))
        if data.draw(st.integers(0, 9)) == 9:
            records = records[:-1] + b"!"
        topic = data.draw(st.sampled_from([TOPIC, TOPIC, TOPIC, TOPIC, TOPIC, "none"]))
        stream += frame(version, data.draw(st.sampled_from([0, 0, 1, 3])), records, number, acks=acks, topic=topic)
    cuts = sorted(data.draw(st.lists(st.integers(0, len(stream)), max_size=6)))
    pieces = [stream[begin:end] for begin, end in zip([0, *cuts], [*cuts, len(stream)], strict=True)]
    compare([piece for piece in pieces if piece])


def test_a_client_that_never_repeats_itself_is_not_looked_at_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    looked: list[int] = []
    monkeypatch.setattr(World, "repeat_of", lambda self, broker, request: looked.append(1))
    world = World()
    pieces = [frame(8, 0, batch(number), number) for number in range(200)]
    world.serve(pieces, short_way=True)
    assert len(looked) == 8 + 200 // 64
    world.log.close()


def test_a_client_that_goes_round_two_topics_is_not_looked_at_each_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """Half of its requests are like the last one that was learned, and go the short way."""
    looked: list[int] = []

    def repeat_of(self: World, broker: Broker, request: Any) -> Any:
        looked.append(1)
        return produce_runs.repeat_of(broker, request)

    monkeypatch.setattr(World, "repeat_of", repeat_of)
    world = World()
    topics = (TOPIC, "other")
    pieces = [frame(8, 0, batch(number), number, topic=topics[number % 2]) for number in range(200)]
    world.serve(pieces, short_way=True)
    assert len(looked) < 20
    assert sum(world.runs) > 90
    world.log.close()


@pytest.fixture
def durable() -> Iterator[tuple[ReplicaLog, Broker]]:
    log = ReplicaLog.make()
    broker = make_broker(log)
    broker.topics.create(TOPIC, partitions=PARTITIONS)
    log.store()
    broker.replication.moved()
    yield log, broker
    log.close()


def owed(broker: Broker, frames: Sequence[bytes]) -> Owed:
    repeat = produce_runs.repeat_of(broker, parse_request(frames[0][4:]))
    assert repeat is not None
    run = produce_runs.answer(broker, repeat, memoryview(bytearray(b"".join(frames))))
    assert run is not None
    count, size, answer = run
    assert (count, size) == (len(frames), sum(map(len, frames)))
    assert isinstance(answer, Owed)
    return answer


async def test_acks_all_waits_until_the_whole_run_is_durable(durable: tuple[ReplicaLog, Broker]) -> None:
    log, broker = durable
    frames = [frame(8, number % PARTITIONS, batch(number), number, acks=-1) for number in range(5)]
    answer = owed(broker, frames)
    assert not answer.ready
    log.store(position=log.frontiers().ordered - 1)
    broker.replication.moved()
    assert not answer.ready
    log.store()
    broker.replication.moved()
    assert answer.ready
    await answer.wait()
    general = produce.handle_group(broker, [parse_request(each[4:]) for each in frames])
    after = b"".join(bytes(each.answer()) if isinstance(each, Owed) else bytes(each or b"") for each in general)
    sent = bytes(answer.answer())
    assert len(sent) == len(after)
    assert [sent[at : at + 8] for at in range(0, len(sent), len(sent) // 5)] == [
        after[at : at + 8] for at in range(0, len(after), len(after) // 5)
    ]


async def test_a_run_that_does_not_become_durable_in_time_says_so(
    durable: tuple[ReplicaLog, Broker], autojump_clock: MockClock
) -> None:
    _, broker = durable
    answer = owed(broker, [frame(8, 0, batch(number), number, acks=-1) for number in range(3)])
    await answer.wait()
    sent, errors = bytes(answer.answer()), []  # type: ignore[arg-type]
    while sent:
        (size,) = struct.unpack_from(">i", sent)
        decoded = codec.ProduceResponse.decode(sent[4 : 4 + size], version=8, header=True)
        errors.append(decoded.responses[0].partition_responses[0].error_code)
        sent = sent[4 + size :]
    assert errors == [ErrorCode.REQUEST_TIMED_OUT] * 3


def test_too_few_directories_leave_acks_all_to_the_general_path(durable: tuple[ReplicaLog, Broker]) -> None:
    log, broker = durable
    request = frame(8, 0, batch(0), 1, acks=-1)
    repeat = produce_runs.repeat_of(broker, parse_request(request[4:]))
    assert repeat is not None
    log.fail()
    broker.replication.moved()
    assert produce_runs.answer(broker, repeat, memoryview(bytearray(request))) is None


async def test_what_a_run_stored_is_shown_once_it_is_durable(
    durable: tuple[ReplicaLog, Broker], autojump_clock: MockClock
) -> None:
    log, broker = durable
    handle = broker.topics.find(TOPIC)
    assert handle is not None
    request = frame(8, 0, batch(0), 1)
    repeat = produce_runs.repeat_of(broker, parse_request(request[4:]))
    assert repeat is not None
    assert produce_runs.answer(broker, repeat, memoryview(bytearray(request))) is not None
    async with trio.open_nursery() as nursery:

        async def wait() -> None:
            assert await broker.appended.wait([handle.topic.slot], 5.0)

        nursery.start_soon(wait)
        await trio.testing.wait_all_tasks_blocked()
        log.store()
        broker.replication.moved()
