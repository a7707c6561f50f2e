"""Consumers of a broker with data directories: what they see, when they are woken, and what comes from disk."""

import threading
from random import Random
from typing import Any

import pytest
import trio
from trio.testing import MockClock

from totalog.engine import EngineError
from totalog.gateway.coordinators.offset_records import Commit
from totalog.gateway.coordinators.offsets import TOPIC, OffsetStore
from totalog.gateway.tests import batches
from totalog.gateway.tests.durable_world import Client, World, batch, world
from totalog.gateway.tests.harness import NOW_MS
from totalog.gateway.waiting import now
from totalog.gateway.wire.errors import ErrorCode

NONE = ErrorCode.NONE


async def fetched(client: Client) -> tuple[int, int, bytes]:
    """Error code, high watermark and records in the next answer, which is one to Fetch."""
    answer = await client.answer()
    client.connection.transport.sends.clear()  # type: ignore[attr-defined]
    [[part]] = [topic.partitions for topic in answer.responses]
    return part.error_code, part.high_watermark, bytes(part.records or b"")


async def listed(client: Client) -> tuple[int, int]:
    """Error code and offset in the next answer, which is one to ListOffsets."""
    answer = await client.answer()
    [[part]] = [topic.partitions for topic in answer.topics]
    return part.error_code, part.offset


async def append(w: World, topic: str, *parts: bytes, partition: int = 0) -> None:
    client = w.connect()
    for records in parts:
        await client.produce((topic, partition, records), acks=1)
        assert (await client.produced())[0][0] == NONE


# What is visible


async def test_what_is_not_durable_is_not_there(autojump_clock: MockClock) -> None:
    async with world() as w:
        w.create("orders")
        client = w.connect()
        start = w.log.frontiers().ordered
        await append(w, "orders", batch(2), batch(3))
        await client.fetch("orders", 0)
        assert await fetched(client) == (NONE, 0, b"")
        await w.store(position=start + 1)
        await client.fetch("orders", 0)
        code, high_watermark, records = await fetched(client)
        assert (code, high_watermark, len(records)) == (NONE, 2, len(batch(2)))
        await client.fetch("orders", 5)
        assert (await fetched(client))[0] == ErrorCode.OFFSET_OUT_OF_RANGE
        await w.store()
        await client.fetch("orders", 2)
        assert (await fetched(client))[:2] == (NONE, 5)


async def test_long_polls_are_woken_when_the_frontier_moves(autojump_clock: MockClock) -> None:
    async with world(2) as w:
        w.create("orders", replication=2)
        w.create("other")
        client, other = w.connect(), w.connect()
        start = now()
        await client.fetch("orders", 0, wait_ms=10_000)
        await other.fetch("other", 0, wait_ms=10_000)
        await append(w, "orders", batch(2))
        assert not await client.answered()
        await w.store(0)
        assert not await client.answered()
        await w.store(1)
        assert (await fetched(client))[:2] == (NONE, 2)
        assert now() == start
        assert (await fetched(other))[:2] == (NONE, 0)  # nobody rang for it
        assert now() - start == pytest.approx(10)


async def test_long_polls_of_views(autojump_clock: MockClock) -> None:
    async with world() as w:
        w.create("orders", 2)
        client, start = w.connect(), now()
        await client.fetch("orders.total-order", 0, wait_ms=10_000)
        await append(w, "orders", batch(2), partition=1)
        assert not await client.answered()
        await w.store()
        assert (await fetched(client))[:2] == (NONE, 2)
        assert now() == start


@pytest.mark.parametrize("setting", [{"totalog__visibility": "ordered"}, {"totalog__storage": "memory"}])
async def test_topics_that_show_what_is_ordered(setting: dict[str, Any], autojump_clock: MockClock) -> None:
    async with world() as w:
        w.create("orders", **setting)
        client, start = w.connect(), now()
        await client.fetch("orders", 0, wait_ms=10_000)
        await append(w, "orders", batch(2))
        assert (await fetched(client))[:2] == (NONE, 2)
        await client.list_offset("orders")
        assert await listed(client) == (NONE, 2)
        assert now() == start


async def test_visible_when_ordered_is_acknowledged_when_durable(autojump_clock: MockClock) -> None:
    async with world() as w:
        w.create("orders", totalog__visibility="ordered")
        client = w.connect()
        await client.produce(("orders", 0, batch(1)))
        assert not await client.answered()
        await w.store()
        assert await client.produced() == [(NONE, 0)]


async def test_a_lost_directory_hides_nothing_that_was_seen_and_shows_nothing_more(autojump_clock: MockClock) -> None:
    async with world() as w:
        w.create("orders")
        client = w.connect()
        await append(w, "orders", batch(2))
        await w.store()
        await append(w, "orders", batch(2))
        await w.fail()
        await client.fetch("orders", 0)
        assert (await fetched(client))[:2] == (NONE, 2)
        await w.fail(failure=None)
        await w.store()
        await client.fetch("orders", 0)
        assert (await fetched(client))[:2] == (NONE, 4)


async def test_every_record_is_seen_by_who_polls_whatever_the_order_of_moves(autojump_clock: MockClock) -> None:
    """Nobody waits a whole poll for something that is there: with time standing still, each poll must be woken."""
    seed = 4242
    print(f"seed {seed}")
    random = Random(seed)
    async with world(2) as w:
        names = {"one": 1, "two": 2}
        for name, replication in names.items():
            w.create(name, replication=replication)
        seen = dict.fromkeys(names, 0)
        start = now()

        async def consume(client: Client, name: str) -> None:
            while True:
                await client.fetch(name, seen[name], wait_ms=30_000)
                seen[name] = (await fetched(client))[1]

        async with trio.open_nursery() as nursery:
            for name in names:
                nursery.start_soon(consume, w.connect(), name)
            durable = [w.log.frontiers().ordered] * 2
            for _ in range(300):
                if random.random() < 0.6:
                    client = w.connect()
                    parts = [(name, 0, batch(1)) for name in names if random.random() < 0.6]
                    if parts:
                        await client.produce(*parts, acks=1)
                else:
                    directory = random.randrange(2)
                    durable[directory] = random.randint(durable[directory], w.log.frontiers().ordered)
                    await w.store(directory, durable[directory])
                    for name in names:
                        handle = w.broker.topics.find(name)
                        assert handle is not None
                        assert seen[name] == w.log.bounds(handle.topic, 0).next_offset
            nursery.cancel_scope.cancel()
        assert now() - start < 30


# ListOffsets


async def test_latest_waits_for_what_was_ordered_before_it(autojump_clock: MockClock) -> None:
    async with world() as w:
        w.create("orders")
        client = w.connect()
        await append(w, "orders", batch(2))
        asked_at = w.log.frontiers().ordered
        await client.list_offset("orders")
        await append(w, "orders", batch(3))
        assert not await client.answered()
        await w.store(position=asked_at)
        assert await listed(client) == (NONE, 2)


async def test_latest_does_not_wait_for_other_partitions(autojump_clock: MockClock) -> None:
    async with world() as w:
        w.create("orders", 2)
        client, start = w.connect(), now()
        await append(w, "orders", batch(2), partition=1)
        await client.list_offset("orders", partition=0)
        assert await listed(client) == (NONE, 0)
        await client.list_offset("orders", -2, partition=1)
        assert await listed(client) == (NONE, 0)
        assert now() == start


async def test_latest_is_what_can_be_read_when_no_directory_is_left(autojump_clock: MockClock) -> None:
    async with world() as w:
        w.create("orders")
        client = w.connect()
        await append(w, "orders", batch(2))
        await w.store()
        await append(w, "orders", batch(2))
        await client.list_offset("orders")
        assert not await client.answered()
        await w.fail()
        assert await listed(client) == (NONE, 2)
        await client.list_offset("orders")
        assert await listed(client) == (NONE, 2)


async def test_latest_gives_up_in_time(autojump_clock: MockClock) -> None:
    async with world() as w:
        w.create("orders")
        client, start = w.connect(), now()
        await append(w, "orders", batch(2))
        await client.list_offset("orders")
        assert await listed(client) == (ErrorCode.REQUEST_TIMED_OUT, -1)
        assert now() - start == pytest.approx(20)


# From disk


async def evicted(w: World, name: str = "orders", count: int = 4) -> list[bytes]:
    """A topic of batches of two records, the older half of which has left memory."""
    w.create(name)
    sent = [batches.build([(NOW_MS + 10 * n + k, None, b"%d" % n, []) for k in range(2)]) for n in range(count)]
    await append(w, name, *sent)
    await w.store()
    handle = w.broker.topics.find(name)
    assert handle is not None
    w.log.evict(handle.topic, 0, count)
    return sent


async def test_what_left_memory_is_read_from_disk(autojump_clock: MockClock) -> None:
    async with world() as w:
        sent = await evicted(w)
        client = w.connect()
        for offset in (0, 2, 3):
            await client.fetch("orders", offset)
            code, high_watermark, records = await fetched(client)
            assert (code, high_watermark) == (NONE, 8)
            assert records[8:] == b"".join(sent[offset // 2 :])[8:] or len(records) == sum(
                map(len, sent[offset // 2 :])
            )
        assert w.log.disk_reads == [0, 2, 3]
        await client.fetch("orders", 4)
        assert (await fetched(client))[:2] == (NONE, 8)
        assert w.log.disk_reads == [0, 2, 3]


async def test_a_first_batch_from_disk_that_is_larger_than_asked_for(autojump_clock: MockClock) -> None:
    async with world() as w:
        sent = await evicted(w)
        client = w.connect()
        await client.fetch("orders", 0, most=10)
        code, high_watermark, records = await fetched(client)
        assert (code, high_watermark, len(records)) == (NONE, 8, len(sent[0]))


async def test_nobody_waits_for_another_ones_disk() -> None:
    async with world() as w:
        await evicted(w)
        w.create("quick")
        go, read = threading.Event(), w.log.archive_read

        def slow(*arguments: Any, **options: Any) -> Any:
            assert go.wait(60)
            return read(*arguments, **options)

        w.log.archive_read = slow  # type: ignore[method-assign]
        try:
            client, other = w.connect(), w.connect()
            await client.fetch("orders", 0)
            await other.produce(("quick", 0, batch(1)), acks=1)
            assert await other.produced() == [(NONE, 0)]
            assert not await client.answered()
        finally:
            go.set()
        assert (await fetched(client))[:2] == (NONE, 8)


async def test_a_disk_that_cannot_be_read(autojump_clock: MockClock) -> None:
    async with world() as w:
        await evicted(w)
        w.log.disk_fault = EngineError("journal damaged")
        client = w.connect()
        await client.fetch("orders", 0)
        assert await fetched(client) == (ErrorCode.KAFKA_STORAGE_ERROR, -1, b"")
        await client.fetch("orders", 4)
        assert (await fetched(client))[:2] == (NONE, 8)


async def test_times_are_looked_up_on_disk(autojump_clock: MockClock) -> None:
    async with world() as w:
        await evicted(w)
        client = w.connect()
        for timestamp, offset in ((0, 0), (NOW_MS + 11, 3), (NOW_MS + 20, 4), (NOW_MS + 31, 7), (NOW_MS + 32, -1)):
            await client.list_offset("orders", timestamp)
            assert await listed(client) == (NONE, offset)
        assert w.log.disk_reads == [0, 2]
        await client.list_offset("orders", -3)
        assert await listed(client) == (NONE, 7)


async def test_the_largest_time_may_be_on_disk(autojump_clock: MockClock) -> None:
    async with world() as w:
        w.create("orders")
        newest = batches.build([(NOW_MS + 1000, None, b"", [])])
        await append(w, "orders", newest, batch(1), batch(1))
        await w.store()
        handle = w.broker.topics.find("orders")
        assert handle is not None
        w.log.evict(handle.topic, 0, 1)
        client = w.connect()
        await client.list_offset("orders", -3)
        assert await listed(client) == (NONE, 0)


def commits_of(store: OffsetStore) -> dict[int, int]:
    return {partition: commit.offset for partition, commit in store.fetch_all("group").get("orders", {}).items()}


async def test_the_offsets_of_groups_are_folded_from_disk_too(autojump_clock: MockClock) -> None:
    async with world() as w:
        w.create("orders", 8)
        handle = w.broker.topics.find("orders")
        assert handle is not None
        for partition in range(8):
            commit = Commit(partition * 10, -1, "", NOW_MS)
            w.broker.offsets.commit("group", [(handle, partition, commit)])
        internal = w.broker.topics.find(TOPIC)
        assert internal is not None
        await w.store()
        w.log.evict(internal.topic, 0, 5)
        again = OffsetStore(w.broker)
        assert commits_of(again) == {partition: partition * 10 for partition in range(8)}
        assert w.log.disk_reads


async def test_commits_that_are_ordered_and_not_durable_are_folded_after_an_attach(autojump_clock: MockClock) -> None:
    async with world() as w:
        w.create("orders")
        handle = w.broker.topics.find("orders")
        assert handle is not None
        w.broker.offsets.commit("group", [(handle, 0, Commit(5, -1, "", NOW_MS))])
        assert commits_of(OffsetStore(w.broker)) == {0: 5}
