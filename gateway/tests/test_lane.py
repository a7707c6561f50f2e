"""Work that a client can make long goes in steps, one request at a time, and keeps nobody waiting."""

from collections.abc import Callable
from typing import Any

import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from totalog.gateway import apis
from totalog.gateway.broker import Broker
from totalog.gateway.lane import STEPS_AT_ONCE, Lane, Steps, finish, start
from totalog.gateway.limits import COMMIT_BATCH_COUNT_MAX
from totalog.gateway.tests.harness import build, make_request
from totalog.gateway.waiting import Stopped, stop_waiting
from totalog.gateway.wire import codec


def counting(log: list[str], name: str, count: int) -> Steps[str]:
    for _ in range(count):
        log.append(name)
        yield
    return name


async def test_one_request_at_a_time_and_of_those_that_wait_the_smallest_next(nursery: trio.Nursery) -> None:
    lane = Lane()
    log: list[str] = []
    go = trio.Event()

    async def run(name: str, size: int) -> None:
        assert await lane.run(counting(log, name, 3), size) == name

    async def hold() -> None:
        await lane._take(0)
        await go.wait()
        lane._give()

    nursery.start_soon(hold)
    await wait_all_tasks_blocked()
    for name, size in [("large", 900), ("small", 10), ("also small", 10), ("middle", 100)]:
        nursery.start_soon(run, name, size)
        await wait_all_tasks_blocked()
    assert (log, lane.waiting) == ([], 4)
    go.set()
    await wait_all_tasks_blocked()
    assert log == [name for name in ("small", "also small", "middle", "large") for _ in range(3)]
    assert lane.waiting == 0


async def test_others_run_between_the_steps(nursery: trio.Nursery) -> None:
    lane = Lane()
    log: list[str] = []

    async def other() -> None:
        for _ in range(10):
            log.append("other")
            await trio.lowlevel.checkpoint()

    nursery.start_soon(lane.run, counting(log, "long", 10), 1)
    nursery.start_soon(other)
    await wait_all_tasks_blocked()
    assert max(len(part) for part in "".join(name[0] for name in log).split("o")) <= 2


async def test_what_the_steps_raise_ends_them_and_lets_the_next_one_in(nursery: trio.Nursery) -> None:
    lane = Lane()

    def fails() -> Steps[None]:
        yield
        raise KeyError("a fault of ours")

    with pytest.raises(KeyError):
        await lane.run(fails(), 1)
    assert await lane.run(counting([], "next", 2), 1) == "next"


@pytest.mark.parametrize("waits", [True, False], ids=["waiting", "at work"])
async def test_who_goes_away_leaves_nothing_behind(waits: bool, nursery: trio.Nursery) -> None:
    lane, scope, closed = Lane(), trio.CancelScope(), []

    def endless() -> Steps[None]:
        try:
            while True:
                yield
        finally:
            closed.append(True)

    async def run() -> None:
        with scope:
            await lane.run(endless(), 1)

    if waits:
        await lane._take(0)
    nursery.start_soon(run)
    for _ in range(5):
        await trio.lowlevel.checkpoint()
    scope.cancel()
    await wait_all_tasks_blocked()
    if waits:
        lane._give()
    else:
        assert closed == [True]
    assert await lane.run(counting([], "next", 2), 1) == "next"


async def test_a_stopping_gateway_ends_the_waiting(nursery: trio.Nursery) -> None:
    lane = Lane()
    await lane._take(0)
    stopped = []

    async def run() -> None:
        with pytest.raises(Stopped):
            await lane.run(counting([], "late", 1), 1)
        stopped.append(True)

    nursery.start_soon(run)
    await wait_all_tasks_blocked()
    stop_waiting()
    await wait_all_tasks_blocked()
    assert stopped == [True]


def test_a_few_steps_are_done_at_once() -> None:
    log: list[str] = []
    assert start(counting(log, "short", STEPS_AT_ONCE - 1)) == ["short"]
    assert start(counting(log, "long", STEPS_AT_ONCE)) == []
    assert log.count("long") == STEPS_AT_ONCE
    assert finish(counting(log, "any", 100)) == "any"


# The requests whose work a client can make long

MANY = 5000


def partitions(**fields: Any) -> list[dict[str, Any]]:
    return [{"name": "wide", "partitions": [{"partition_index": number, **fields} for number in range(MANY)]}]


NAMES = [f"t{number}" for number in range(1000)]
NEW = {"num_partitions": 1, "replication_factor": 1, "assignments": [], "configs": []}
LONG: dict[str, tuple[str, int, Callable[[], dict[str, Any]], int]] = {
    "commit": (
        "OffsetCommit",
        8,
        lambda: {"group_id": "g", "generation_id_or_member_epoch": -1, "topics": partitions(committed_offset=1)},
        MANY // COMMIT_BATCH_COUNT_MAX,
    ),
    "fetch offsets": (
        "OffsetFetch",
        7,
        lambda: {"group_id": "g", "topics": [{"name": "wide", "partition_indexes": list(range(MANY))}]},
        MANY // 512,
    ),
    "all partitions": ("Metadata", 12, lambda: {"topics": None}, MANY // 2048),
    "new topics": ("Metadata", 9, lambda: {"topics": [{"name": name} for name in NAMES]}, len(NAMES) // 16),
    "create": ("CreateTopics", 5, lambda: {"topics": [{"name": name, **NEW} for name in NAMES]}, len(NAMES) // 16),
    "more partitions": ("CreatePartitions", 3, lambda: {"topics": [{"name": name} for name in NAMES]}, 60),
    "delete": ("DeleteTopics", 5, lambda: {"topic_names": NAMES}, len(NAMES) // 16),
    "sizes": ("DescribeLogDirs", 4, lambda: {"topics": None}, MANY // 512),
    "settings": (
        "DescribeConfigs",
        4,
        lambda: {"resources": [{"resource_type": 2, "resource_name": name} for name in NAMES]},
        len(NAMES) // 512,
    ),
    "groups": ("DeleteGroups", 2, lambda: {"groups_names": NAMES}, len(NAMES) // 64),
}


@pytest.mark.parametrize("long", LONG)
async def test_a_long_request_goes_in_steps(broker: Broker, long: str) -> None:
    name, version, fields, least = LONG[long]
    broker.topics.create("wide", partitions=MANY)
    body = bytes(build(getattr(codec, f"{name}Request"), version, fields()).encode())
    request = make_request(getattr(codec, f"{name}Request").API_KEY, version, body)
    steps, count = apis._steps(broker, request, apis.TABLE[request.key]), 0
    while True:
        try:
            next(steps)
        except StopIteration as done:
            frame = bytes(done.value)
            break
        count += 1
    assert count >= least > 1 or long in ("settings", "all partitions")
    assert count >= least
    answer = getattr(codec, f"{name}Response").decode(frame[4:], version=version, header=True)
    answer.with_header(answer.header.correlation_id)
    assert bytes(answer.encode(header=True)) == frame[4:]


def frame_of(answer: object) -> bytes:
    assert isinstance(answer, bytes | bytearray)
    return bytes(answer)


async def test_a_topic_that_goes_while_it_is_described_is_left_out_or_unknown(broker: Broker) -> None:
    for version, fields in ((12, {"topics": None}), (12, {"topics": [{"name": "wide"}]})):
        wide = broker.topics.create("wide", partitions=MANY)
        body = bytes(build(codec.MetadataRequest, version, fields).encode())
        steps = apis._steps(broker, make_request(3, version, body), apis.TABLE[3])
        next(steps)
        broker.topics.delete(wide)
        answer = codec.MetadataResponse.decode(frame_of(finish(steps))[4:], version=version, header=True)
        assert [topic.error_code for topic in answer.topics] == ([3] if fields["topics"] else [])


async def test_a_topic_that_goes_during_a_commit_takes_its_commits_with_it(broker: Broker) -> None:
    wide = broker.topics.create("wide", partitions=MANY)
    _, version, fields, _ = LONG["commit"]
    body = bytes(build(codec.OffsetCommitRequest, version, fields()).encode())
    steps = apis._steps(broker, make_request(8, version, body), apis.TABLE[8])
    while len(broker.offsets) == 0:
        next(steps)
    broker.topics.delete(wide)
    answer = codec.OffsetCommitResponse.decode(frame_of(finish(steps))[4:], version=version, header=True)
    codes = [partition.error_code for partition in answer.topics[0].partitions]
    assert codes == [0] * COMMIT_BATCH_COUNT_MAX + [3] * (MANY - COMMIT_BATCH_COUNT_MAX)
    assert len(broker.offsets) == 0 or broker.offsets.fetch_all("g") == {}
