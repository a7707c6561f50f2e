"""Answers that promise something stored leave when it is: topics, groups' offsets, producer ids. And what is said when
it cannot be."""

from typing import Any

import pytest
import trio
from trio.testing import MockClock

from totalog.engine.errors import DirectoryError
from totalog.gateway import apis
from totalog.gateway.healthcheck import Unhealthy, check
from totalog.gateway.server import Server
from totalog.gateway.sockets import listen
from totalog.gateway.tests.durable_world import Client, World, batch, world
from totalog.gateway.waiting import now
from totalog.gateway.wire.errors import ErrorCode

NONE, TIMED_OUT = ErrorCode.NONE, ErrorCode.REQUEST_TIMED_OUT

NEW = {"num_partitions": 1, "replication_factor": 1, "assignments": [], "configs": []}


def new(name: str, **fields: Any) -> dict[str, Any]:
    return NEW | {"name": name} | fields


async def create(client: Client, *topics: dict[str, Any], timeout_ms: int = 30_000) -> None:
    await client.send("CreateTopics", 5, topics=list(topics), timeout_ms=timeout_ms, validate_only=False)


async def commit(client: Client, topic: str, offset: int = 5) -> None:
    part = {
        "partition_index": 0,
        "committed_offset": offset,
        "committed_leader_epoch": -1,
        "committed_metadata": "",
    }
    await client.send(
        "OffsetCommit",
        7,
        group_id="group",
        generation_id_or_member_epoch=-1,
        member_id="",
        group_instance_id=None,
        topics=[{"name": topic, "partitions": [part]}],
    )


REQUESTS: dict[str, tuple[int, dict[str, Any]]] = {
    "CreateTopics": (5, {"topics": [new("made")], "timeout_ms": 30_000, "validate_only": False}),
    "CreatePartitions": (
        1,
        {
            "topics": [{"name": "orders", "count": 3, "assignments": None}],
            "timeout_ms": 30_000,
            "validate_only": False,
        },
    ),
    "AlterConfigs": (
        1,
        {
            "resources": [
                {
                    "resource_type": 2,
                    "resource_name": "orders",
                    "configs": [{"name": "retention.ms", "value": "1000"}],
                }
            ],
            "validate_only": False,
        },
    ),
    "IncrementalAlterConfigs": (
        0,
        {
            "resources": [
                {
                    "resource_type": 2,
                    "resource_name": "orders",
                    "configs": [{"name": "retention.ms", "config_operation": 0, "value": "1000"}],
                }
            ],
            "validate_only": False,
        },
    ),
    "DeleteRecords": (
        1,
        {
            "topics": [{"name": "orders", "partitions": [{"partition_index": 0, "offset": 1}]}],
            "timeout_ms": 30_000,
        },
    ),
    "DeleteTopics": (5, {"topic_names": ["orders"], "timeout_ms": 30_000}),
    "DeleteGroups": (1, {"groups_names": ["group"]}),
    "OffsetDelete": (
        0,
        {"group_id": "group", "topics": [{"name": "orders", "partitions": [{"partition_index": 0}]}]},
    ),
    "InitProducerId": (
        4,
        {"transactional_id": None, "transaction_timeout_ms": 0, "producer_id": -1, "producer_epoch": -1},
    ),
    "Metadata": (
        8,
        {
            "topics": [{"name": "new"}],
            "allow_auto_topic_creation": True,
            "include_cluster_authorized_operations": False,
            "include_topic_authorized_operations": False,
        },
    ),
    "OffsetCommit": (
        7,
        {
            "group_id": "group",
            "generation_id_or_member_epoch": -1,
            "member_id": "",
            "group_instance_id": None,
            "topics": [
                {
                    "name": "orders",
                    "partitions": [
                        {
                            "partition_index": 0,
                            "committed_offset": 7,
                            "committed_leader_epoch": -1,
                            "committed_metadata": "",
                        }
                    ],
                }
            ],
        },
    ),
}
"""One that stores something, of every API that may."""

LATE = {
    "OffsetCommit": ErrorCode.COORDINATOR_NOT_AVAILABLE,
    "DeleteGroups": ErrorCode.COORDINATOR_NOT_AVAILABLE,
    "OffsetDelete": ErrorCode.COORDINATOR_NOT_AVAILABLE,
    "Metadata": ErrorCode.LEADER_NOT_AVAILABLE,
}
"""What clients of these are told in place of REQUEST_TIMED_OUT and NOT_ENOUGH_REPLICAS."""


def codes(name: str, answer: Any) -> list[int]:
    match name:
        case "CreateTopics" | "Metadata":
            return [topic.error_code for topic in answer.topics]
        case "CreatePartitions" | "DeleteGroups":
            return [result.error_code for result in answer.results]
        case "DeleteTopics" | "AlterConfigs" | "IncrementalAlterConfigs":
            return [result.error_code for result in answer.responses]
        case "OffsetCommit" | "DeleteRecords":
            return [part.error_code for topic in answer.topics for part in topic.partitions]
        case _:
            return [answer.error_code]


def test_every_api_that_promises_is_here() -> None:
    assert set(REQUESTS) == {api.name for api in apis.TABLE.values() if api.not_stored is not None}


async def prepared(w: World) -> Client:
    w.create("orders")
    client = w.connect()
    await client.produce(("orders", 0, batch(1)))
    await w.store()
    assert await client.produced() == [(NONE, 0)]
    await commit(client, "orders")
    await w.store()
    assert codes("OffsetCommit", await client.answer()) == [NONE]
    client.connection.transport.sends.clear()  # type: ignore[attr-defined]
    return client


@pytest.mark.parametrize("name", REQUESTS)
async def test_the_answer_waits_until_it_is_true(name: str, autojump_clock: MockClock) -> None:
    async with world() as w:
        client = await prepared(w)
        version, fields = REQUESTS[name]
        ordered = w.log.frontiers().ordered
        await client.send(name, version, **fields)
        assert w.log.frontiers().ordered > ordered
        assert not await client.answered()
        await client.produce(("nothing", 0, batch(1)))  # who is behind it is served meanwhile
        await w.store()
        assert codes(name, await client.answer()) == [NONE]
        assert (await client.produced())[0][0] == ErrorCode.UNKNOWN_TOPIC_OR_PARTITION


@pytest.mark.parametrize("name", REQUESTS)
async def test_what_is_not_stored_in_time_is_not_certain(name: str, autojump_clock: MockClock) -> None:
    async with world() as w:
        client = await prepared(w)
        version, fields = REQUESTS[name]
        start = now()
        await client.send(name, version, **fields)
        assert codes(name, await client.answer()) == [LATE.get(name, TIMED_OUT)]
        assert now() - start == pytest.approx(30 if "timeout_ms" in fields else 20)


@pytest.mark.parametrize("name", REQUESTS)
async def test_a_directory_that_fails_meanwhile(name: str, autojump_clock: MockClock) -> None:
    async with world() as w:
        client = await prepared(w)
        version, fields = REQUESTS[name]
        start = now()
        await client.send(name, version, **fields)
        await w.fail()
        expected = LATE.get(name, ErrorCode.NOT_ENOUGH_REPLICAS_AFTER_APPEND)
        assert codes(name, await client.answer()) == [expected]
        assert expected.retriable
        assert now() == start


@pytest.mark.parametrize("name", REQUESTS)
async def test_without_a_directory_nothing_is_changed(name: str, autojump_clock: MockClock) -> None:
    async with world() as w:
        client = await prepared(w)
        await w.fail()
        ordered = w.log.frontiers().ordered
        version, fields = REQUESTS[name]
        await client.send(name, version, **fields)
        assert codes(name, await client.answer()) == [LATE.get(name, ErrorCode.NOT_ENOUGH_REPLICAS)]
        assert w.log.frontiers().ordered == ordered
        w.log.fail(failure=None)
        await w.store()
        await client.send(name, version, **fields)
        await w.store()
        assert codes(name, await client.answer()) == [NONE]


async def test_what_stores_nothing_does_not_wait(autojump_clock: MockClock) -> None:
    async with world() as w:
        client = await prepared(w)
        other = w.connect()
        await other.produce(("orders", 0, batch(1)), acks=1)  # ordered by somebody else, and not durable
        version, fields = REQUESTS["Metadata"]
        await client.send("Metadata", version, **(fields | {"topics": [{"name": "orders"}]}))
        assert codes("Metadata", await client.answer()) == [NONE]
        version, fields = REQUESTS["DeleteTopics"]
        await client.send("DeleteTopics", version, **(fields | {"topic_names": ["nothing"]}))
        assert codes("DeleteTopics", await client.answer()) == [ErrorCode.UNKNOWN_TOPIC_OR_PARTITION]
        await client.send("Heartbeat", 3, group_id="x", generation_id=1, member_id="m", group_instance_id=None)
        assert (await client.answer()).error_code == ErrorCode.UNKNOWN_MEMBER_ID


async def test_every_id_of_a_block_waits_for_the_block(autojump_clock: MockClock) -> None:
    async with world() as w:
        one, two = w.connect(), w.connect()
        version, fields = REQUESTS["InitProducerId"]
        await one.send("InitProducerId", version, **fields)
        await two.send("InitProducerId", version, **fields)
        assert not await one.answered()
        assert not await two.answered()
        await w.store()
        ids = [(await client.answer()).producer_id for client in (one, two)]
        assert len(set(ids)) == 2
        await one.send("InitProducerId", version, **fields)
        assert await one.answered()


async def test_a_topic_that_exists_is_stored_when_that_is_said(autojump_clock: MockClock) -> None:
    """A client that got no answer asks again, and takes this for success."""
    async with world() as w:
        one, two = w.connect(), w.connect()
        await create(one, new("orders"))
        await create(two, new("orders"))
        assert not await two.answered()
        await w.store()
        assert codes("CreateTopics", await one.answer()) == [NONE]
        assert codes("CreateTopics", await two.answer()) == [ErrorCode.TOPIC_ALREADY_EXISTS]


async def test_a_topic_of_two_replicas_is_stored_on_both(autojump_clock: MockClock) -> None:
    async with world(2) as w:
        client = w.connect()
        await create(client, new("orders", replication_factor=2))
        await w.store(0)
        assert not await client.answered()
        await w.store(1)
        answer = await client.answer()
        assert codes("CreateTopics", answer) == [NONE]
        assert answer.topics[0].replication_factor == 2


@pytest.mark.parametrize(("directories", "asked", "gets"), [(1, 3, 1), (2, 3, 2), (2, 2, 2), (2, -1, 1)])
async def test_replication_factors(directories: int, asked: int, gets: int, caplog: pytest.LogCaptureFixture) -> None:
    async with world(directories) as w:
        caplog.set_level("INFO", "totalog")
        client = w.connect()
        await create(client, new("orders", replication_factor=asked))
        for directory in range(directories):
            await w.store(directory)
        answer = await client.answer()
        assert answer.topics[0].replication_factor == gets
        handle = w.broker.topics.find("orders")
        assert handle is not None
        assert handle.topic.replication == gets
        told = [record.getMessage() for record in caplog.records if "orders" in record.getMessage()]
        assert len(told) == (1 if asked > gets else 0)


async def test_default_replication_factor() -> None:
    async with world(2, {"default.replication.factor": "2"}) as w:
        client = w.connect()
        await create(client, new("orders", replication_factor=-1))
        await w.store(0)
        assert not await client.answered()
        await w.store(1)
        assert (await client.answer()).topics[0].replication_factor == 2


async def test_strict_replication_factors() -> None:
    async with world(2, {"totalog.replication.strict": "true"}) as w:
        client = w.connect()
        await create(client, new("orders", replication_factor=3))
        answer = await client.answer()
        assert codes("CreateTopics", answer) == [ErrorCode.INVALID_REPLICATION_FACTOR]
        assert "2 data directories" in answer.topics[0].error_message
        await create(client, new("orders", replication_factor=2))
        for directory in range(2):
            await w.store(directory)
        assert codes("CreateTopics", await client.answer()) == [NONE]


async def test_storage_and_visibility_are_settings_of_the_topic() -> None:
    async with world(2) as w:
        client = w.connect()
        for name, value in (("totalog.storage", "tape"), ("totalog.visibility", "never")):
            await create(client, new("orders", configs=[{"name": name, "value": value}]))
            assert codes("CreateTopics", await client.answer()) == [ErrorCode.INVALID_CONFIG]
        configs = [{"name": "totalog.storage", "value": "memory"}]
        await create(client, new("orders", replication_factor=2, configs=configs))
        for directory in range(2):
            await w.store(directory)
        answer = await client.answer()
        assert answer.topics[0].replication_factor == 1
        told = {config.name: config.value for config in answer.topics[0].configs}
        assert (told["totalog.storage"], told["totalog.visibility"]) == ("memory", "replicated")
        handle = w.broker.topics.find("orders")
        assert handle is not None
        assert handle.topic.memory
        assert not handle.topic.visible_when_ordered


# Directories as they are told


async def log_dirs(client: Client) -> dict[str, tuple[int, list[str]]]:
    await client.send("DescribeLogDirs", 4, topics=None)
    answer = await client.answer()
    return {
        result.log_dir: (result.error_code, sorted(topic.name for topic in result.topics)) for result in answer.results
    }


async def test_data_directories_are_log_directories() -> None:
    async with world(2) as w:
        w.create("orders")
        w.create("volatile", totalog__storage="memory")
        client = w.connect()
        assert await log_dirs(client) == {
            "memory": (NONE, ["volatile"]),
            "/data/0": (NONE, ["orders"]),
            "/data/1": (NONE, ["orders"]),
        }
        await w.fail(1)
        told = await log_dirs(client)
        assert told["/data/0"] == (NONE, ["orders"])
        assert told["/data/1"] == (ErrorCode.KAFKA_STORAGE_ERROR, [])


async def test_the_server_hears_of_its_replicas_and_healthcheck_tells(caplog: pytest.LogCaptureFixture) -> None:
    """With a real descriptor and a real socket; nothing is moved by hand here."""
    async with world() as w:
        w.create("orders")
        [listener] = listen("127.0.0.1", 0, 10)
        host, port = listener.getsockname()
        server = Server(w.service, [listener])
        async with trio.open_nursery() as nursery:
            ready = trio.Event()
            nursery.start_soon(server.run, ready.set)
            await ready.wait()
            client = w.connect()
            await client.produce(("orders", 0, batch(1)))
            w.log.store()
            with trio.fail_after(60):
                assert await client.produced() == [(NONE, 0)]
                said = await trio.to_thread.run_sync(check, host, port, 30.0)
            assert "serves" in said
            await client.produce(("orders", 0, batch(1)))
            w.log.fail()
            with trio.fail_after(60):
                assert await client.produced() == [(ErrorCode.NOT_ENOUGH_REPLICAS_AFTER_APPEND, -1)]
                with pytest.raises(Unhealthy, match="/data/0"):
                    await trio.to_thread.run_sync(check, host, port, 30.0)
            w.log.fail(failure=None)
            with trio.fail_after(60):
                said = await trio.to_thread.run_sync(check, host, port, 30.0)
            told = [record.getMessage() for record in caplog.records if "/data/0" in record.getMessage()]
            assert len(told) == 2
            server.stop_now()


async def test_a_trim_that_finds_no_room_or_no_disk_costs_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Keeping internal topics short may wait; deleting records that are on a disk nobody can read is refused."""
    async with world() as w:
        client = await prepared(w)

        def trim(*arguments: Any, **options: Any) -> None:
            raise DirectoryError("cannot be read")

        monkeypatch.setattr(w.log, "trim", trim)
        version, fields = REQUESTS["InitProducerId"]
        await client.send("InitProducerId", version, **fields)
        await w.store()
        assert codes("InitProducerId", await client.answer()) == [NONE]
        version, fields = REQUESTS["DeleteRecords"]
        await client.send("DeleteRecords", version, **fields)
        assert codes("DeleteRecords", await client.answer()) == [ErrorCode.KAFKA_STORAGE_ERROR]
