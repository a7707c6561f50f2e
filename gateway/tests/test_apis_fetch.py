"""Fetch on a real log: what is sent, how much of it, and when."""

import struct
import uuid
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from totalog.engine import VIEW, Log
from totalog.engine._core import lib
from totalog.gateway import waiting
from totalog.gateway.apis import fetch, produce
from totalog.gateway.apis.api import Request
from totalog.gateway.broker import Broker
from totalog.gateway.limits import STEP_COUNT_MAX
from totalog.gateway.tests.harness import NOW_MS, build, encode_request, make_broker, turns_until
from totalog.gateway.wire import codec
from totalog.gateway.wire.answer import Answer
from totalog.gateway.wire.cursor import Cursor
from totalog.gateway.wire.errors import ErrorCode, ProtocolViolation

with warnings.catch_warnings():
    warnings.simplefilter("ignore", DeprecationWarning)  # of importlib, when the library reads its schemas
    from totalog.gateway.tests import batches

VERSIONS = range(4, 19)
REGION_SIZE = 128 << 20
MIB = 1 << 20


def batch(count: int = 1, size: int = 100, fill: int = 0) -> bytes:
    """A record batch of `count` records with values of `size` bytes."""
    return batches.build([(NOW_MS, None, bytes([(fill + n) % 251]) * size, []) for n in range(count)])


@pytest.fixture
def broker() -> Iterator[Broker]:
    log = Log.create(None, size=REGION_SIZE)
    broker = make_broker(log)
    broker.topics.create("orders", partitions=4)
    broker.topics.create("prices", partitions=2)
    yield broker
    log.close()


def parsed(frame: memoryview, flexible_from: int) -> Request:
    key, version, correlation_id = struct.unpack_from(">hhi", frame)
    cursor = Cursor(frame, 8)
    client_id = cursor.nullable_string()
    if version >= flexible_from:
        cursor.skip_tagged_fields()
    return Request(key, version, correlation_id, client_id, frame, cursor.position, "192.0.2.1")


def put(broker: Broker, name: str, partition: int, *records: bytes) -> None:
    """Produces batches, one request each, as one group."""
    requests = []
    for data in records:
        topic = {"name": name, "partition_data": [{"index": partition, "records": data}]}
        fields = {"transactional_id": None, "acks": 0, "timeout_ms": 1000, "topic_data": [topic]}
        frame = memoryview(encode_request(build(codec.ProduceRequest, 9, fields)))
        requests.append(parsed(frame, 9))
    assert list(produce.handle_group(broker, requests)) == [None] * len(records)


@dataclass
class Asked:
    """A partition that a request names."""

    partition: int
    offset: int = 0
    most: int = MIB
    leader_epoch: int = -1


@dataclass
class Got:
    partition: int
    error: int
    high_watermark: int
    log_start_offset: int
    records: bytes
    aborted: Any = None


def request(broker: Broker, version: int, topics: Sequence[tuple[str, Sequence[Asked]]], **fields: Any) -> Request:
    """Topics go by name here, on the wire by id where the version says so."""
    encoded = []
    for name, partitions in topics:
        handle = broker.topics.find(name)
        key = (
            {"topic_id": uuid.UUID(bytes=handle.id) if handle else uuid.UUID(int=1)}
            if version >= 13
            else {"topic": name}
        )
        encoded.append(
            key
            | {
                "partitions": [
                    {
                        "partition": asked.partition,
                        "current_leader_epoch": asked.leader_epoch,
                        "fetch_offset": asked.offset,
                        "partition_max_bytes": asked.most,
                    }
                    for asked in partitions
                ]
            }
        )
    fields = {"max_wait_ms": 500, "min_bytes": 1, "max_bytes": 50 * MIB, "isolation_level": 0} | fields
    message = build(codec.FetchRequest, version, fields | {"topics": encoded})
    return parsed(memoryview(encode_request(message)), 12)


def decoded(asked: Request, answer: Answer) -> Any:
    """The answer message. The library writes the same bytes for it, so nothing in the frame is left unread."""
    frame = b"".join(answer.parts)
    assert struct.unpack_from(">i", frame)[0] == len(frame) - 4 == answer.size - 4
    message = codec.FetchResponse.decode(frame[4:], version=asked.version, header=True)
    assert message.header.correlation_id == asked.correlation_id
    assert message.encode(header=True, framed=True) == frame
    return message


def partitions(message: Any) -> list[Got]:
    found = []
    for topic in message.responses:
        for part in topic.partitions:
            assert part.last_stable_offset == part.high_watermark
            assert part.preferred_read_replica == -1
            assert part.records is not None
            found.append(
                Got(
                    part.partition_index,
                    part.error_code,
                    part.high_watermark,
                    part.log_start_offset,
                    bytes(part.records),
                    part.aborted_transactions,
                )
            )
    return found


async def handled(broker: Broker, asked: Request) -> Answer:
    """Whether it could be answered at once or not."""
    answer = fetch.handle(broker, asked)
    return answer if isinstance(answer, Answer) else await answer


async def ask(broker: Broker, version: int, topics: Sequence[tuple[str, Sequence[Asked]]], **fields: Any) -> list[Got]:
    asked = request(broker, version, topics, **fields)
    answer = await handled(broker, asked)
    message = decoded(asked, answer)
    answer.release()
    if version >= 7:
        assert (message.error_code, message.session_id) == (0, 0)
    return partitions(message)


def stamped(data: bytes, base_offset: int, leader_epoch: int = 0) -> bytes:
    """The batch as a consumer gets it: base offset and leader epoch are the broker's, the rest is the producer's."""
    return struct.pack(">q", base_offset) + data[8:12] + struct.pack(">i", leader_epoch) + data[16:]


@pytest.mark.parametrize("version", VERSIONS)
async def test_batches_come_back_with_their_offsets(broker: Broker, version: int) -> None:
    sent = [batch(3, fill=1), batch(1, 20_000, fill=2), batch(2, fill=3)]
    put(broker, "orders", 1, *sent)
    start = 0 if version >= 5 else -1
    expected = [stamped(sent[0], 0), stamped(sent[1], 3), stamped(sent[2], 4)]
    for offset, first in [(0, 0), (2, 0), (3, 1), (4, 2), (5, 2)]:
        (got,) = await ask(broker, version, [("orders", [Asked(1, offset)])])
        assert got == Got(1, 0, 6, start, b"".join(expected[first:]))


@pytest.mark.parametrize("version", VERSIONS)
async def test_a_view_is_one_partition_in_total_order(broker: Broker, version: int) -> None:
    sent = [(2, batch(2, fill=1)), (0, batch(1, fill=2)), (2, batch(3, fill=3)), (1, batch(1, fill=4))]
    for partition, data in sent:
        put(broker, "orders", partition, data)
    put(broker, "prices", 0, batch(9))
    start = 0 if version >= 5 else -1
    expected = [stamped(data, order) for (_, data), order in zip(sent, [0, 2, 3, 6], strict=True)]
    (got,) = await ask(broker, version, [("orders.total-order", [Asked(0)])])
    assert got == Got(0, 0, 7, start, b"".join(expected))
    (got, other) = await ask(broker, version, [("orders.total-order", [Asked(0, 5), Asked(1)])])
    assert got == Got(0, 0, 7, start, b"".join(expected[2:]))
    assert (other.partition, other.error) == (1, ErrorCode.UNKNOWN_TOPIC_OR_PARTITION)


@pytest.mark.parametrize("version", VERSIONS)
async def test_topics_and_partitions_are_answered_in_the_order_asked(broker: Broker, version: int) -> None:
    for name, partition in [("orders", 0), ("orders", 3), ("prices", 1)]:
        put(broker, name, partition, batch(1 + partition, fill=partition))
    got = await ask(
        broker,
        version,
        [("prices", [Asked(1), Asked(0)]), ("orders", [Asked(3), Asked(1), Asked(0), Asked(3, 2)])],
    )
    assert [(part.partition, part.high_watermark) for part in got] == [(1, 2), (0, 0), (3, 4), (1, 0), (0, 1), (3, 4)]
    assert [part.records for part in got] == [
        stamped(batch(2, fill=1), 0),
        b"",
        stamped(batch(4, fill=3), 0),
        b"",
        stamped(batch(1, fill=0), 0),
        stamped(batch(4, fill=3), 0),
    ]


# How much


async def test_a_partition_sends_whole_batches_up_to_its_maximum(broker: Broker) -> None:
    sent = [batch(1, 1000, fill=n) for n in range(5)]
    size = len(sent[0])
    put(broker, "orders", 0, *sent)
    for most, count in [(3 * size - 1, 2), (3 * size, 3), (5 * size, 5), (50 * size, 5)]:
        (got,) = await ask(broker, 11, [("orders", [Asked(0, most=most)])])
        assert len(got.records) == count * size
        (got,) = await ask(broker, 12, [("orders", [Asked(0)])], max_bytes=most)
        assert len(got.records) == count * size


@pytest.mark.parametrize("version", [4, 11, 12, 18])
@pytest.mark.parametrize("most", [1, 0, -1, 5000])
@pytest.mark.parametrize("limit", ["partition", "answer"])
async def test_the_first_batch_is_sent_whole_whatever_its_size(
    broker: Broker, version: int, most: int, limit: str
) -> None:
    large, small = batch(1, 300_000), batch(1, 50)
    put(broker, "orders", 1, large, small)
    put(broker, "orders", 2, batch(1, 10_000))
    asked = [Asked(part, most=most if limit == "partition" else MIB) for part in (0, 1, 2)]
    got = await ask(broker, version, [("orders", asked)], max_bytes=most if limit == "answer" else MIB)
    assert [part.records for part in got] == [b"", stamped(large, 0), b""]
    assert [part.high_watermark for part in got] == [0, 2, 1]


async def test_a_large_first_batch_leaves_the_rest_of_the_room_to_others(broker: Broker) -> None:
    large, small = batch(1, 300_000), batch(1, 50)
    put(broker, "orders", 0, large, small)
    put(broker, "orders", 1, small, large)
    put(broker, "orders", 2, small)
    asked = [Asked(0, most=100), Asked(1, most=100_000), Asked(2)]
    got = await ask(broker, 12, [("orders", asked)], max_bytes=MIB)
    assert [part.records for part in got] == [stamped(large, 0), stamped(small, 0), stamped(small, 0)]


async def test_the_maximum_of_all_partitions_holds(broker: Broker) -> None:
    data = batch(1, 1000)
    for partition in range(4):
        put(broker, "orders", partition, data, data)
    asked = [Asked(partition) for partition in (3, 1, 0, 2)]
    got = await ask(broker, 12, [("orders", asked)], max_bytes=3 * len(data) + 5)
    assert [len(part.records) // len(data) for part in got] == [2, 1, 0, 0]
    assert [part.high_watermark for part in got] == [2, 2, 2, 2]


async def test_the_broker_has_maxima_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    with Log.create(None, size=REGION_SIZE) as log:
        broker = make_broker(log, {"fetch.max.bytes": "5000"})
        broker.topics.create("orders", partitions=1)
        data = batch(1, 1000)
        put(broker, "orders", 0, *[data] * 6)
        (got,) = await ask(broker, 12, [("orders", [Asked(0)])], min_bytes=MIB)
        assert len(got.records) == 4 * len(data)
        monkeypatch.setattr(fetch, "ANSWER_SIZE_MAX", 2 * len(data))
        (got,) = await ask(broker, 12, [("orders", [Asked(0)])], min_bytes=MIB)
        assert len(got.records) == 2 * len(data)


async def test_many_small_batches_are_sent_in_one_answer(broker: Broker) -> None:
    sent = [batch(1, n % 7) for n in range(2000)]
    for first in range(0, 2000, 500):
        put(broker, "orders", 2, *sent[first : first + 500])
    (got,) = await ask(broker, 16, [("orders", [Asked(2)])])
    assert got.records == b"".join(stamped(data, n) for n, data in enumerate(sent))


# Errors


@pytest.mark.parametrize("version", VERSIONS)
async def test_errors_are_per_partition_and_answered_at_once(
    broker: Broker, version: int, autojump_clock: trio.abc.Clock
) -> None:
    put(broker, "orders", 0, batch(3))
    unknown = ErrorCode.UNKNOWN_TOPIC_ID if version >= 13 else ErrorCode.UNKNOWN_TOPIC_OR_PARTITION
    cases: list[tuple[str, Asked, ErrorCode, list[Any] | None]] = [
        ("orders", Asked(0, 4), ErrorCode.OFFSET_OUT_OF_RANGE, None),
        ("orders", Asked(0, -1), ErrorCode.OFFSET_OUT_OF_RANGE, None),
        ("orders", Asked(0, 2**63 - 1), ErrorCode.OFFSET_OUT_OF_RANGE, None),
        ("orders", Asked(4, 0), ErrorCode.UNKNOWN_TOPIC_OR_PARTITION, []),
        ("orders", Asked(-1, 0), ErrorCode.UNKNOWN_TOPIC_OR_PARTITION, []),
        ("nowhere", Asked(0, 0), unknown, []),
        ("nowhere.total-order", Asked(0, 0), unknown, []),
    ]
    if version >= 9:
        cases.append(("orders", Asked(0, 0, leader_epoch=9), ErrorCode.UNKNOWN_LEADER_EPOCH, None))
    for name, asked, code, aborted in cases:
        bad, good = await ask(
            broker, version, [(name, [asked]), ("prices", [Asked(0)])], max_wait_ms=60_000, min_bytes=1000
        )
        assert bad == Got(asked.partition, code, -1, -1, b"", aborted)
        assert good == Got(0, 0, 0, 0 if version >= 5 else -1, b"")
    assert trio.current_time() == 0


async def test_the_leader_epoch_is_checked_only_where_it_is_given(
    broker: Broker, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The epoch grows when a successor takes over, which no test here can make happen: the log is told to say so."""
    put(broker, "orders", 0, batch(1))
    bounds = broker.log.bounds
    monkeypatch.setattr(
        broker.log, "bounds", lambda topic, partition: bounds(topic, partition)._replace(leader_epoch=5)
    )
    expected = {-1: 0, 4: ErrorCode.FENCED_LEADER_EPOCH, 5: 0, 6: ErrorCode.UNKNOWN_LEADER_EPOCH}
    for leader_epoch, code in expected.items():
        (got,) = await ask(broker, 12, [("orders", [Asked(0, leader_epoch=leader_epoch)])])
        assert got.error == code
        assert bool(got.records) == (code == 0)
        assert (await ask(broker, 8, [("orders", [Asked(0, leader_epoch=leader_epoch)])]))[0].error == 0


async def test_what_retention_took_is_out_of_range(broker: Broker) -> None:
    data = batch(2)
    put(broker, "orders", 0, data, data, data)
    topic = broker.topics.find("orders")
    assert topic is not None
    broker.log.trim(topic.topic, -1, 2)
    (below,) = await ask(broker, 12, [("orders", [Asked(0, 1)])])
    assert below.error == ErrorCode.OFFSET_OUT_OF_RANGE
    for name in ("orders", "orders.total-order"):
        (got,) = await ask(broker, 12, [(name, [Asked(0, 2)])])
        assert got == Got(0, 0, 6, 2, stamped(data, 2) + stamped(data, 4))


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("isolation_level", [0, 1])
async def test_the_list_of_aborted_transactions_is_null_where_it_was_not_asked_for(
    broker: Broker, version: int, isolation_level: int
) -> None:
    put(broker, "orders", 0, batch(1))
    got = await ask(broker, version, [("orders", [Asked(0), Asked(1), Asked(0, 9)])], isolation_level=isolation_level)
    asked_for: list[Any] | None = [] if isolation_level else None
    assert [part.aborted for part in got] == [asked_for, asked_for, None]


@pytest.mark.parametrize("version", range(7, 19))
async def test_there_are_no_sessions(broker: Broker, version: int, autojump_clock: trio.abc.Clock) -> None:
    put(broker, "orders", 0, batch(1))
    topics = [("orders", [Asked(0), Asked(1)])]
    for session in [(0, -1), (0, 0), (77, 0), (77, -1)]:
        got = await ask(broker, version, topics, session_id=session[0], session_epoch=session[1])
        assert [part.high_watermark for part in got] == [1, 0]
    for session in [(0, 5), (77, 1), (77, 2**31 - 1), (77, -2)]:
        asked = request(broker, version, topics, session_id=session[0], session_epoch=session[1], min_bytes=1000)
        answer = await handled(broker, asked)
        message = decoded(asked, answer)
        assert (message.error_code, message.session_id, message.responses) == (70, 0, [])
    assert trio.current_time() == 0


async def test_a_request_that_does_not_parse_is_a_violation(broker: Broker) -> None:
    asked = request(broker, 12, [("orders", [Asked(0)])])
    asked.frame = asked.frame[:-5]
    with pytest.raises(ProtocolViolation):
        await handled(broker, asked)


# When


@pytest.mark.parametrize("version", VERSIONS)
async def test_without_records_the_answer_waits_its_time_and_is_empty(
    broker: Broker, version: int, autojump_clock: trio.abc.Clock
) -> None:
    got = await ask(broker, version, [("orders", [Asked(0), Asked(2)]), ("prices.total-order", [Asked(0)])])
    start = 0 if version >= 5 else -1
    assert got == [Got(0, 0, 0, start, b""), Got(2, 0, 0, start, b""), Got(0, 0, 0, start, b"")]
    assert trio.current_time() == pytest.approx(0.5)


@pytest.mark.parametrize("fields", [{"max_wait_ms": 0}, {"max_wait_ms": -1}, {"min_bytes": 0}, {"min_bytes": -5}])
async def test_nothing_is_waited_for(broker: Broker, fields: dict[str, int], autojump_clock: trio.abc.Clock) -> None:
    (got,) = await ask(broker, 12, [("orders", [Asked(0)])], **fields)
    assert got.records == b""
    assert trio.current_time() == 0


async def test_no_partitions_are_answered_at_once(broker: Broker, autojump_clock: trio.abc.Clock) -> None:
    assert await ask(broker, 12, []) == []
    assert await ask(broker, 12, [("orders", [])]) == []
    assert trio.current_time() == 0


async def test_many_topics_are_not_gone_through_in_one_go(broker: Broker) -> None:
    """Also where no partitions of them are asked for."""
    put(broker, "orders", 0, data := batch(1))
    for number, at_once in ((fetch.AT_ONCE_MAX - 1, True), (fetch.AT_ONCE_MAX, False)):
        asked = request(broker, 12, [("orders", [Asked(0)])] + [("nothing", [])] * number)
        answer = fetch.handle(broker, asked)
        assert isinstance(answer, Answer) is at_once
        (got,) = partitions(decoded(asked, answer if isinstance(answer, Answer) else await answer))
        assert got.records == stamped(data, 0)


async def test_a_wait_has_a_limit(broker: Broker, autojump_clock: trio.abc.Clock) -> None:
    await ask(broker, 12, [("orders", [Asked(0)])], max_wait_ms=2**31 - 1)
    assert trio.current_time() == pytest.approx(fetch.WAIT_S_MAX)


async def after(seconds: float, broker: Broker, name: str, partition: int, data: bytes) -> None:
    await trio.sleep(seconds)
    put(broker, name, partition, data)


@pytest.mark.parametrize("name", ["orders", "orders.total-order"])
async def test_an_append_ends_the_wait(broker: Broker, name: str, autojump_clock: trio.abc.Clock) -> None:
    data = batch(1)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(after, 1, broker, "prices", 0, data)
        nursery.start_soon(after, 2, broker, "orders", 0, data)
        (got,) = await ask(broker, 12, [(name, [Asked(0)])], max_wait_ms=5000)
        assert trio.current_time() == pytest.approx(2)
    assert got == Got(0, 0, 1, 0, stamped(data, 0))


async def test_the_wait_goes_on_until_there_is_enough(broker: Broker, autojump_clock: trio.abc.Clock) -> None:
    data = batch(1, 1000)
    put(broker, "orders", 0, data)
    async with trio.open_nursery() as nursery:
        for number, partition in enumerate([0, 1, 3, 1, 0]):
            nursery.start_soon(after, number + 1, broker, "orders", partition, data)
        asked = [Asked(0), Asked(1)]
        got = await ask(broker, 12, [("orders", asked)], max_wait_ms=60_000, min_bytes=4 * len(data))
        assert trio.current_time() == pytest.approx(4)
    assert [part.records for part in got] == [stamped(data, 0) + stamped(data, 1)] * 2


async def test_what_is_there_when_the_time_is_over_is_sent(broker: Broker, autojump_clock: trio.abc.Clock) -> None:
    data = batch(1)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(after, 0.3, broker, "orders", 0, data)
        (got,) = await ask(broker, 12, [("orders", [Asked(0)])], min_bytes=10_000)
        assert trio.current_time() == pytest.approx(0.5)
    assert got.records == stamped(data, 0)


async def test_more_than_may_be_sent_is_not_waited_for(broker: Broker, autojump_clock: trio.abc.Clock) -> None:
    put(broker, "orders", 0, batch(1, 1000))
    put(broker, "orders", 1, batch(1, 1000))
    for asked, fields in [
        ([Asked(0)], {"max_bytes": 500}),
        ([Asked(0, most=500)], {}),
        ([Asked(0, most=500), Asked(1, most=300)], {}),
    ]:
        got = await ask(broker, 12, [("orders", asked)], min_bytes=1 << 30, **fields)
        assert got[0].records
        assert trio.current_time() == 0
    await ask(broker, 12, [("orders", [Asked(0, most=500), Asked(2, most=300)])], min_bytes=600)
    assert trio.current_time() == pytest.approx(0.5)


@pytest.mark.parametrize("version", [12, 13])
async def test_the_end_of_a_topic_ends_the_wait(broker: Broker, version: int, autojump_clock: trio.abc.Clock) -> None:
    handle = broker.topics.find("orders")
    assert handle is not None

    async def delete() -> None:
        await trio.sleep(2)
        broker.topics.delete(handle)
        broker.appended.ring(handle.topic.slot)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(delete)
        topics = [("orders.total-order", [Asked(0)]), ("prices", [Asked(0)])]
        view, other = await ask(broker, version, topics, max_wait_ms=5000)
        assert trio.current_time() == pytest.approx(2)
    unknown = ErrorCode.UNKNOWN_TOPIC_ID if version >= 13 else ErrorCode.UNKNOWN_TOPIC_OR_PARTITION
    assert (view.error, other.error) == (unknown, 0)


async def test_a_stopping_gateway_answers_with_what_there_is(broker: Broker, autojump_clock: trio.abc.Clock) -> None:
    put(broker, "orders", 0, batch(1))

    async def stop() -> None:
        await trio.sleep(0.1)
        waiting.stop_waiting()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(stop)
        (got,) = await ask(broker, 12, [("orders", [Asked(0)])], min_bytes=MIB // 2)
        assert trio.current_time() == pytest.approx(0.1)
    assert got.records
    (got,) = await ask(broker, 12, [("orders", [Asked(0)])], min_bytes=MIB // 2)
    assert trio.current_time() == pytest.approx(0.1)


async def test_a_cancelled_wait_leaves_nothing_behind(broker: Broker, autojump_clock: trio.abc.Clock) -> None:
    async with trio.open_nursery() as nursery:
        nursery.start_soon(ask, broker, 12, [("orders", [Asked(0)])])
        await wait_all_tasks_blocked()
        assert broker.appended.waiting() == 1
        nursery.cancel_scope.cancel()
    assert broker.appended.waiting() == 0


# Buffers


async def test_a_buffer_serves_the_next_answer_once_it_was_released(broker: Broker) -> None:
    put(broker, "orders", 0, batch(1, fill=1))
    put(broker, "orders", 1, batch(1, fill=2))

    async def answer(partition: int) -> tuple[Request, Answer]:
        asked = request(broker, 12, [("orders", [Asked(partition)])])
        return asked, await handled(broker, asked)

    first_asked, first = await answer(0)
    second_asked, second = await answer(1)
    assert partitions(decoded(first_asked, first))[0].records == stamped(batch(1, fill=1), 0)
    assert partitions(decoded(second_asked, second))[0].records == stamped(batch(1, fill=2), 0)
    memory = first.parts[0].obj
    first.release()
    _, third = await answer(1)
    assert third.parts[0].obj is memory
    assert second.parts[0].obj is not memory


def pins_free(broker: Broker) -> int:
    """How many segments can be pinned besides those that are: each read that lends takes one at least."""
    core, pins = broker.log._core, []
    while (pin := lib.core_pin(core, 1)) >= 0:
        pins.append(pin)
    for pin in pins:
        lib.core_unpin(core, pin)
    return len(pins)


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("name", ["orders", "orders.total-order"])
async def test_large_batches_are_sent_from_where_they_lie(broker: Broker, version: int, name: str) -> None:
    """Among small ones, and in several partitions; what is lent goes back when the answer is released."""
    sizes = [(100, 20_000, 30, 40_000), (20_000, 20_000), (50, 60)]
    sent = [[batch(1, size, fill) for fill, size in enumerate(part, 10 * n)] for n, part in enumerate(sizes)]
    for partition, data in enumerate(sent):
        put(broker, "orders", partition, *data)
    expected = [b"".join(stamped(data, offset) for offset, data in enumerate(part)) for part in sent]
    if name != "orders":
        everything = [data for part in sent for data in part]
        expected = [b"".join(stamped(data, order) for order, data in enumerate(everything))]
    asked = request(broker, version, [(name, [Asked(partition) for partition in range(len(expected))])])
    free = pins_free(broker)
    answer = fetch.handle(broker, asked)
    assert isinstance(answer, Answer)
    assert answer.lent
    assert pins_free(broker) < free
    assert answer.held > answer.size > sum(map(sum, sizes))
    assert [part.records for part in partitions(decoded(asked, answer))] == expected
    answer.release()
    answer.release()
    assert pins_free(broker) == free


async def test_what_is_lent_is_kept_before_it_is_overwritten(broker: Broker) -> None:
    handle = broker.topics.find("orders")
    assert handle is not None
    sent = [batch(1, 100_000, fill) for fill in range(2)]
    put(broker, "orders", 0, *sent)
    free = pins_free(broker)
    asked = request(broker, 12, [("orders", [Asked(0)])])
    answers = [await handled(broker, asked) for _ in range(2)]
    answers[0].keep()
    assert not answers[0].lent
    assert answers[0].held == answers[1].held
    for _ in range(2):  # what only waits for its readers would be used first
        broker.log.trim(handle.topic, VIEW, broker.log.bounds(handle.topic, VIEW).next_offset)
        while broker.log.maintain(0):
            pass
        put(broker, "orders", 0, *(batch(1, 100_000, fill) for fill in range(7, 11)))
    for answer in answers:
        (got,) = partitions(decoded(asked, answer))
        assert got.records == stamped(sent[0], 0) + stamped(sent[1], 1)
        answer.release()
    assert pins_free(broker) == free


async def test_where_nothing_can_be_lent_it_is_copied(broker: Broker) -> None:
    sent = [batch(1, 200_000, fill) for fill in range(3)]
    put(broker, "orders", 0, *sent)
    core, pins = broker.log._core, []
    while (pin := lib.core_pin(core, 1)) >= 0:
        pins.append(pin)
    for version in (11, 12):
        (got,) = await ask(broker, version, [("orders", [Asked(0)])])
        assert got.records == b"".join(stamped(data, offset) for offset, data in enumerate(sent))
    for pin in pins:
        lib.core_unpin(core, pin)


async def test_small_batches_of_more_than_the_room_there_was(broker: Broker) -> None:
    """A buffer that turns out to be too small is given up for a larger one, and nothing is lost of what stood in it."""
    sent = [batch(1, 8_000, fill) for fill in range(30)]
    put(broker, "orders", 0, batch(1, 5))
    put(broker, "orders", 1, *sent)
    for _ in range(2):
        got = await ask(broker, 12, [("orders", [Asked(0), Asked(1), Asked(0)])])
        whole = b"".join(stamped(data, offset) for offset, data in enumerate(sent))
        assert [part.records for part in got] == [stamped(batch(1, 5), 0), whole, stamped(batch(1, 5), 0)]
        (small,) = await ask(broker, 12, [("orders", [Asked(0)])])
        assert small.records == stamped(batch(1, 5), 0)


async def test_each_broker_reads_its_own_log(broker: Broker) -> None:
    put(broker, "orders", 0, batch(1))
    with Log.create(None, size=REGION_SIZE) as log:
        other = make_broker(log)
        other.topics.create("orders", partitions=1)
        for _ in range(2):
            assert (await ask(broker, 12, [("orders", [Asked(0)])]))[0].high_watermark == 1
            assert (await ask(other, 12, [("orders", [Asked(0)])], max_wait_ms=0))[0].high_watermark == 0


async def test_answers_are_small_while_many_have_not_been_taken(broker: Broker) -> None:
    put(broker, "orders", 0, *[batch(1, 10_000, fill) for fill in range(20)])
    asked = request(broker, 11, [("orders", [Asked(0)])])
    assert (await handled(broker, asked)).size > 200_000
    broker.unsent.add(broker.unsent.size_max // 2)
    answer = await handled(broker, asked)
    assert 20_000 < answer.size <= answer.held <= 2 * fetch.ANSWER_SIZE_PRESSED


async def test_no_answer_is_made_while_too_many_have_not_been_taken(broker: Broker, nursery: trio.Nursery) -> None:
    put(broker, "orders", 0, batch())
    broker.unsent.add(broker.unsent.size_max)
    answers = []

    async def wait() -> None:
        answers.extend(await ask(broker, 11, [("orders", [Asked(0)])]))

    nursery.start_soon(wait)
    await wait_all_tasks_blocked()
    assert answers == []
    put(broker, "orders", 0, batch())
    broker.unsent.remove(broker.unsent.size_max)
    await wait_all_tasks_blocked()
    (got,) = answers
    assert got.high_watermark == 2  # what has come meanwhile is in it


def many(broker: Broker, count: int, offset: int = 0) -> Sequence[tuple[str, Sequence[Asked]]]:
    if broker.topics.find("wide") is None:
        broker.topics.create("wide", partitions=count)
    return [("wide", [Asked(partition, offset) for partition in range(count)])]


@pytest.mark.parametrize("of", ["partitions", "topics"])
async def test_a_large_fetch_lets_others_have_their_turn(broker: Broker, nursery: trio.Nursery, of: str) -> None:
    count, done = 8 * STEP_COUNT_MAX, trio.Event()
    topics = many(broker, count) if of == "partitions" else [("nothing", [])] * count + [("orders", [Asked(0)])]
    put(broker, "wide" if of == "partitions" else "orders", count - 1 if of == "partitions" else 0, batch(2))

    async def run() -> None:
        got = await ask(broker, 12, topics)
        assert [part.high_watermark for part in got] == ([0] * (count - 1) if of == "partitions" else []) + [2]
        done.set()

    nursery.start_soon(run)
    assert await turns_until(done) >= 3 * 7, "to read all of them, to look at them, and to answer"


@pytest.mark.parametrize("partition", [0, -1])
async def test_what_comes_while_many_partitions_are_looked_at_is_not_missed(
    broker: Broker, nursery: trio.Nursery, autojump_clock: trio.testing.MockClock, partition: int
) -> None:
    count, got = 4 * STEP_COUNT_MAX, []
    topics = many(broker, count)

    async def run() -> None:
        got.extend(await ask(broker, 12, topics, max_wait_ms=50_000))

    nursery.start_soon(run)
    for _ in range(2):  # the first step is done, and others are not
        await trio.lowlevel.checkpoint()
    put(broker, "wide", partition % count, batch(2))
    with trio.fail_after(1):
        while not got:
            await trio.sleep(0.01)
    assert got[partition].high_watermark == 2


async def test_a_topic_that_goes_while_many_partitions_are_looked_at(broker: Broker, nursery: trio.Nursery) -> None:
    count, got = 4 * STEP_COUNT_MAX, []
    topics = many(broker, count)
    handle = broker.topics.find("wide")
    assert handle is not None

    async def run() -> None:
        got.extend(await ask(broker, 12, topics))

    nursery.start_soon(run)
    for _ in range(2):
        await trio.lowlevel.checkpoint()
    broker.topics.delete(handle)
    await wait_all_tasks_blocked()
    assert {part.error for part in got[-STEP_COUNT_MAX:]} == {ErrorCode.UNKNOWN_TOPIC_OR_PARTITION}


async def test_long_polls_hold_a_bounded_number_of_partitions(broker: Broker, nursery: trio.Nursery) -> None:
    """Beyond it they are answered at once, with what there is."""
    answered = []

    async def run() -> None:
        answered.append(await ask(broker, 12, [("orders", [Asked(0)])], max_wait_ms=50_000))

    nursery.start_soon(run)
    await wait_all_tasks_blocked()
    assert (answered, broker.reader.polled) == ([], 1)
    broker.reader.polled += fetch.POLLED_MAX
    nursery.start_soon(run)
    await wait_all_tasks_blocked()
    assert [[part.high_watermark for part in got] for got in answered] == [[0]]
    put(broker, "orders", 0, batch())
    await wait_all_tasks_blocked()
    assert broker.reader.polled == fetch.POLLED_MAX
    assert len(answered) == 2
