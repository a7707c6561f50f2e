"""acks=all: when the answer leaves, in which order, and what it says when the data directories do not get on."""

from random import Random
from typing import Any

import pytest
from trio.testing import MockClock, wait_all_tasks_blocked

from totalog.gateway.tests.durable_world import batch, world
from totalog.gateway.waiting import now
from totalog.gateway.wire import produce
from totalog.gateway.wire.errors import ErrorCode

NONE, TIMED_OUT = ErrorCode.NONE, ErrorCode.REQUEST_TIMED_OUT
TOO_FEW, TOO_FEW_AFTER = ErrorCode.NOT_ENOUGH_REPLICAS, ErrorCode.NOT_ENOUGH_REPLICAS_AFTER_APPEND


@pytest.fixture(autouse=True, params=["whole", "in steps"])
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Small requests are handled whole, and here as if they were large, too."""
    if request.param == "in steps":
        monkeypatch.setattr(produce, "WHOLE_ELEMENTS_MAX", -1)


async def test_the_answer_leaves_when_the_batch_is_durable(autojump_clock: MockClock) -> None:
    async with world() as w:
        w.create("orders")
        client = w.connect()
        await client.produce(("orders", 0, batch(3)))
        assert not await client.answered()
        await w.store()
        assert await client.produced() == [(NONE, 0)]


async def test_acks_1_is_answered_at_once(autojump_clock: MockClock) -> None:
    async with world() as w:
        w.create("orders")
        client = w.connect()
        await client.produce(("orders", 0, batch(3)), acks=1)
        assert await client.produced() == [(NONE, 0)]


async def test_requests_in_flight_are_ordered_meanwhile_and_share_one_move(autojump_clock: MockClock) -> None:
    async with world() as w:
        w.create("orders", 2)
        one, two = w.connect(), w.connect()
        before = w.log.frontiers().ordered
        for n in range(5):
            await one.produce(("orders", n % 2, batch(1)))
            await two.produce(("orders", n % 2, batch(1)), acks=1 if n % 2 else -1)
        assert w.log.frontiers().ordered == before + 10
        assert not await one.answered()
        assert w.broker.replication.waiting() == 2  # connections, not requests
        await w.store()
        assert [await one.produced() for _ in range(5)] == [[(NONE, 2 * (n // 2))] for n in range(5)]
        assert [await two.produced() for _ in range(5)] == [[(NONE, 2 * (n // 2) + 1)] for n in range(5)]


async def test_acks_1_behind_acks_all_keeps_the_order_of_answers(autojump_clock: MockClock) -> None:
    async with world() as w:
        w.create("orders")
        client = w.connect()
        await client.produce(("orders", 0, batch(1)))
        await client.produce(("orders", 0, batch(1)), acks=1)
        assert not await client.answered()
        await w.store()
        assert [await client.produced(), await client.produced()] == [[(NONE, 0)], [(NONE, 1)]]


async def test_a_frontier_in_the_middle_lets_the_first_answers_go(autojump_clock: MockClock) -> None:
    async with world() as w:
        w.create("orders")
        client = w.connect()
        start = w.log.frontiers().ordered
        for _ in range(3):
            await client.produce(("orders", 0, batch(1)))
        await w.store(position=start + 2)
        assert [await client.produced(), await client.produced()] == [[(NONE, 0)], [(NONE, 1)]]
        assert not await client.answered()
        await w.store()
        assert await client.produced() == [(NONE, 2)]


async def test_a_duplicate_waits_for_its_original(autojump_clock: MockClock) -> None:
    async with world() as w:
        w.create("orders")
        one, again = w.connect(), w.connect()
        sent = batch(2, producer_id=7, producer_epoch=0, base_sequence=0)
        await one.produce(("orders", 0, sent), acks=1)
        assert await one.produced() == [(NONE, 0)]
        original = w.log.frontiers().ordered
        await one.produce(("orders", 0, batch(1)), acks=1)
        await one.produced()
        await again.produce(("orders", 0, sent))
        assert not await again.answered()
        await w.store(position=original)
        assert await again.produced() == [(NONE, 0)]
        await again.produce(("orders", 0, sent))  # long durable
        assert await again.produced() == [(NONE, 0)]


async def test_time_runs_out(autojump_clock: MockClock) -> None:
    async with world() as w:
        w.create("orders")
        client, start = w.connect(), now()
        await client.produce(("orders", 0, batch(1)), timeout_ms=5000)
        await client.produce(("orders", 0, batch(1)), timeout_ms=100_000)
        answer = await client.answer()
        assert now() - start == pytest.approx(5)
        [[part]] = [topic.partition_responses for topic in answer.responses]
        assert (part.error_code, part.base_offset) == (TIMED_OUT, -1)
        assert "5000 ms" in part.error_message
        await w.store()
        assert await client.produced() == [(NONE, 1)]


async def test_only_what_is_not_durable_in_time_is_an_error(autojump_clock: MockClock) -> None:
    async with world() as w:
        w.create("orders", 3)
        client, start = w.connect(), w.log.frontiers().ordered
        await client.produce(("orders", 0, batch(1)), ("orders", 1, batch(1)), ("orders", 2, batch(1)), timeout_ms=1000)
        await w.store(position=start + 1)
        assert await client.produced() == [(NONE, 0), (TIMED_OUT, -1), (TIMED_OUT, -1)]


async def test_without_a_directory_acks_all_is_refused_and_acks_1_served(autojump_clock: MockClock) -> None:
    async with world() as w:
        w.create("orders")
        client = w.connect()
        await w.fail()
        before = w.log.frontiers().ordered
        await client.produce(("orders", 0, batch(1)))
        assert await client.produced() == [(TOO_FEW, -1)]
        assert w.log.frontiers().ordered == before
        await client.produce(("orders", 0, batch(1)), acks=1)
        assert await client.produced() == [(NONE, 0)]
        await client.produce(("orders", 0, batch(1)), acks=0)
        assert w.log.frontiers().ordered == before + 2
        await w.fail(failure=None)
        await client.produce(("orders", 0, batch(1)))
        await w.store()
        assert await client.produced() == [(NONE, 2)]


async def test_a_directory_that_fails_meanwhile(autojump_clock: MockClock) -> None:
    async with world() as w:
        w.create("orders")
        client, start = w.connect(), now()
        await client.produce(("orders", 0, batch(1)))
        await client.produce(("orders", 0, batch(1)))
        await w.fail()
        assert [await client.produced(), await client.produced()] == [[(TOO_FEW_AFTER, -1)]] * 2
        assert now() == start


async def test_replication_factor_2_waits_for_both_and_goes_on_with_one(autojump_clock: MockClock) -> None:
    async with world(2) as w:
        w.create("orders", replication=2)
        w.create("single")
        client, other = w.connect(), w.connect()
        await client.produce(("orders", 0, batch(1)))
        await other.produce(("single", 0, batch(1)))
        await w.store(1)
        assert await other.produced() == [(NONE, 0)]
        assert not await client.answered()
        await w.store(0)
        assert await client.produced() == [(NONE, 0)]
        await client.produce(("orders", 0, batch(1)))
        await w.store(1)
        assert not await client.answered()
        await w.fail(0)  # what is left is all there is to wait for
        assert await client.produced() == [(NONE, 1)]
        await client.produce(("orders", 0, batch(1)))
        await w.store(1)
        assert await client.produced() == [(NONE, 2)]


@pytest.mark.parametrize("where", ["topic", "broker"])
async def test_min_insync_replicas(where: str, autojump_clock: MockClock) -> None:
    settings = {"min.insync.replicas": "2"} if where == "broker" else {}
    own: dict[str, Any] = {"min__insync__replicas": 2} if where == "topic" else {}
    async with world(2, settings) as w:
        w.create("orders", replication=1, **own)
        client = w.connect()
        await client.produce(("orders", 0, batch(1)))
        await w.store(0)
        assert not await client.answered()  # two are asked for, and two are waited for
        await w.store(1)
        assert await client.produced() == [(NONE, 0)]
        await client.produce(("orders", 0, batch(1)))
        await w.store(0)
        await w.fail(1)
        assert await client.produced() == [(NONE, 1)]  # all that are alive
        before = w.log.frontiers().ordered
        await client.produce(("orders", 0, batch(1)))
        assert await client.produced() == [(TOO_FEW, -1)]
        assert w.log.frontiers().ordered == before


async def test_topics_in_one_request_are_answered_each_by_its_own_rule(autojump_clock: MockClock) -> None:
    async with world(2) as w:
        w.create("strict", min__insync__replicas="2")
        w.create("plain")
        w.create("volatile", totalog__storage="memory")
        client = w.connect()
        await w.fail(1)
        await client.produce(
            ("strict", 0, batch(1)), ("plain", 0, batch(1)), ("plain", 4, batch(1)), ("volatile", 0, batch(1))
        )
        assert not await client.answered()
        await w.store(0)
        assert await client.produced() == [
            (TOO_FEW, -1),
            (NONE, 0),
            (ErrorCode.UNKNOWN_TOPIC_OR_PARTITION, -1),
            (NONE, 0),
        ]


async def test_topics_in_memory_wait_for_nothing(autojump_clock: MockClock) -> None:
    async with world() as w:
        w.create("volatile", totalog__storage="memory", min__insync__replicas="3")
        client = w.connect()
        await w.fail()
        await client.produce(("volatile", 0, batch(1)))
        assert await client.produced() == [(NONE, 0)]
        await client.fetch("volatile", 0)
        answer = await client.answer()
        assert answer.responses[0].partitions[0].high_watermark == 1
        assert answer.responses[0].partitions[0].records


async def test_stopping_waits_for_what_is_owed(autojump_clock: MockClock) -> None:
    async with world() as w:
        w.create("orders")
        client = w.connect()
        await client.produce(("orders", 0, batch(1)))
        w.service.stopping = True
        client.connection.stop()
        await wait_all_tasks_blocked()
        await w.store()
        assert await client.produced() == [(NONE, 0)]
        assert await client.stream.receive_some(1) == b""


async def test_a_client_that_goes_leaves_nobody_waiting(autojump_clock: MockClock) -> None:
    async with world() as w:
        w.create("orders")
        client = w.connect()
        await client.produce(("orders", 0, batch(1)))
        assert w.broker.replication.waiting() == 1
        await client.stream.send_eof()
        await wait_all_tasks_blocked()
        assert w.broker.replication.waiting() == 1  # half closed: it may still read
        await w.store()
        assert await client.produced() == [(NONE, 0)]
        gone = w.connect()
        await gone.produce(("orders", 0, batch(1)))
        await gone.stream.aclose()
        await w.store()
        assert w.broker.replication.waiting() == 0


async def test_large_bodies_are_owed_too(autojump_clock: MockClock) -> None:
    async with world() as w:
        w.create("orders")
        client = w.connect()
        await client.produce(("orders", 0, batch(1, 200_000)))
        assert not await client.answered()
        assert w.service.budget.taken > 200_000
        await w.store()
        assert await client.produced() == [(NONE, 0)]
        assert w.service.budget.taken == 0


async def test_the_correlation_id_and_the_topic_come_back(autojump_clock: MockClock) -> None:
    async with world() as w:
        w.create("orders")
        client = w.connect()
        await client.produce(("orders", 0, batch(1)))
        await w.store()
        answer = await client.answer()
        assert [topic.name for topic in answer.responses] == ["orders"]
        assert answer.header.correlation_id


async def test_thousands_of_requests_of_many_clients_in_any_order_of_moves(autojump_clock: MockClock) -> None:
    seed = 711
    print(f"seed {seed}")
    random = Random(seed)
    async with world(3) as w:
        for name, replication in (("one", 1), ("two", 2), ("three", 3)):
            w.create(name, 2, replication)
        clients = [w.connect() for _ in range(8)]
        owed = [0] * len(clients)
        durable = [w.log.frontiers().ordered] * 3
        for _ in range(400):
            index = random.randrange(len(clients))
            if random.random() < 0.7:
                topic = random.choice(["one", "two", "three"])
                await clients[index].produce((topic, random.randrange(2), batch(1)), acks=random.choice([-1, -1, 1]))
                owed[index] += 1
            else:
                directory = random.randrange(3)
                durable[directory] = random.randint(durable[directory], w.log.frontiers().ordered)
                await w.store(directory, durable[directory])
        for directory in range(3):
            await w.store(directory)
        for client, count in zip(clients, owed, strict=True):
            for _ in range(count):
                [(code, offset)] = await client.produced()
                assert code == NONE
                assert offset >= 0
        assert w.service.budget.taken == 0
