"""The APIs of consumer groups as clients see them: every version, on the event loop with a clock that jumps."""

from collections.abc import AsyncIterator
from inspect import isawaitable
from typing import Any

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from totalog.gateway import apis, waiting
from totalog.gateway.broker import Broker
from totalog.gateway.tests.harness import build, encode_request, make_broker, parse_request
from totalog.gateway.wire import codec
from totalog.gateway.wire.errors import ErrorCode

NONE = ErrorCode.NONE
RANGE = [{"name": "range", "metadata": b"topics"}]
ALL_TIME_S = 10_000
"""Of the virtual clock: more than any wait of a test, so that one that never ends fails."""


@pytest.fixture
async def running(broker: Broker) -> AsyncIterator[Broker]:
    """A broker whose timers run. The test takes `autojump_clock`, too, which must be its own argument."""
    with trio.fail_after(ALL_TIME_S):
        async with trio.open_nursery() as nursery:
            await nursery.start(broker.timers.run)
            yield broker
            nursery.cancel_scope.cancel()


async def ask(broker: Broker, name: str, version: int, **fields: Any) -> Any:
    """The decoded answer to the request `name`."""
    request = parse_request(encode_request(build(getattr(codec, f"{name}Request"), version, fields)))
    answer: Any = apis.dispatch(broker, request)
    frame = await answer if isawaitable(answer) else answer
    return getattr(codec, f"{name}Response").decode(bytes(frame[4:]), version=version, header=True)


async def join(broker: Broker, version: int, member_id: str = "", **fields: Any) -> Any:
    request = {
        "group_id": "g",
        "session_timeout_ms": 10000,
        "member_id": member_id,
        "protocol_type": "consumer",
        "protocols": RANGE,
        **({"rebalance_timeout_ms": 30000} if version >= 1 else {}),
        **fields,
    }
    return await ask(broker, "JoinGroup", version, **request)


async def join_fully(broker: Broker, version: int, member_id: str = "", **fields: Any) -> Any:
    """Joins as a client does: once more with the id that the first answer gives."""
    answer = await join(broker, version, member_id, **fields)
    if answer.error_code == ErrorCode.MEMBER_ID_REQUIRED:
        answer = await join(broker, version, answer.member_id, **fields)
    return answer


async def sync(broker: Broker, version: int, member_id: str, generation_id: int, **assignments: bytes) -> Any:
    named = {"protocol_type": "consumer", "protocol_name": "range"} if version >= 5 else {}
    return await ask(
        broker,
        "SyncGroup",
        version,
        group_id="g",
        member_id=member_id,
        generation_id=generation_id,
        assignments=[{"member_id": member, "assignment": data} for member, data in assignments.items()],
        **named,
    )


async def heartbeat(broker: Broker, member_id: str, generation_id: int, version: int = 4) -> ErrorCode:
    answer = await ask(broker, "Heartbeat", version, group_id="g", member_id=member_id, generation_id=generation_id)
    return ErrorCode(answer.error_code)


async def stable_member(broker: Broker) -> tuple[str, int]:
    """One member that has its assignment; its id and generation."""
    joined = await join_fully(broker, 9)
    await sync(broker, 5, joined.member_id, joined.generation_id, **{joined.member_id: b"all"})
    return joined.member_id, joined.generation_id


class Later:
    """What a request is answered, once it is."""

    def __init__(self, nursery: trio.Nursery, function: Any, *args: Any, **options: Any) -> None:
        self.scope = trio.CancelScope()
        self.answer: Any = None
        self._done = trio.Event()
        nursery.start_soon(self._run, function, args, options)

    async def _run(self, function: Any, args: Any, options: Any) -> None:
        with self.scope:
            self.answer = await function(*args, **options)
        self._done.set()

    @property
    def answered(self) -> bool:
        return self._done.is_set()

    async def wait(self) -> Any:
        await self._done.wait()
        return self.answer


# FindCoordinator


@pytest.mark.parametrize("version", range(7))
async def test_every_group_is_coordinated_here(broker: Broker, version: int) -> None:
    if version < 4:
        answer = await ask(broker, "FindCoordinator", version, key="any group")
        assert (answer.error_code, answer.node_id, answer.host, answer.port) == (NONE, 0, "broker.test", 9092)
        return
    answer = await ask(broker, "FindCoordinator", version, coordinator_keys=["one", ""])
    found = [(each.key, each.error_code, each.node_id, each.host, each.port) for each in answer.coordinators]
    assert found == [("one", NONE, 0, "broker.test", 9092), ("", NONE, 0, "broker.test", 9092)]


@pytest.mark.parametrize(
    ("key_type", "code", "words"),
    [
        (1, ErrorCode.CLUSTER_AUTHORIZATION_FAILED, "transactions are not served"),
        (2, ErrorCode.INVALID_REQUEST, "share groups are not served"),
        (9, ErrorCode.INVALID_REQUEST, "key type 9"),
    ],
)
@pytest.mark.parametrize("version", range(1, 7))
async def test_other_coordinators_are_refused_with_a_reason(
    broker: Broker, version: int, key_type: int, code: ErrorCode, words: str
) -> None:
    keys = {"key": "k"} if version < 4 else {"coordinator_keys": ["k"]}
    answer = await ask(broker, "FindCoordinator", version, key_type=key_type, **keys)
    refused = answer if version < 4 else answer.coordinators[0]
    assert (refused.error_code, refused.node_id, refused.port) == (code, -1, -1)
    assert words in refused.error_message
    assert not code.retriable


# A group's life in every version


@pytest.mark.parametrize("version", range(10))
async def test_two_members_share_and_hand_over(
    running: Broker, autojump_clock: MockClock, version: int, nursery: trio.Nursery
) -> None:
    sync_version, heartbeat_version, leave_version = min(version, 5), min(version, 4), min(version, 5)
    first = await join_fully(running, version)
    assert (first.error_code, first.generation_id, first.protocol_name) == (NONE, 1, "range")
    assert first.leader == first.member_id
    assert [(member.member_id, member.metadata) for member in first.members] == [(first.member_id, b"topics")]
    alone = await sync(running, sync_version, first.member_id, 1, **{first.member_id: b"0, 1"})
    assert (alone.error_code, alone.assignment) == (NONE, b"0, 1")

    newcomer = Later(nursery, join_fully, running, version)
    await trio.sleep(1)
    assert not newcomer.answered
    rebalancing = await heartbeat(running, first.member_id, 1, heartbeat_version)
    assert rebalancing is ErrorCode.REBALANCE_IN_PROGRESS
    again, second = await join(running, version, first.member_id), await newcomer.wait()
    assert again.generation_id == second.generation_id == 2
    assert (second.leader, second.members) == (first.member_id, [])
    assert [member.member_id for member in again.members] == [first.member_id, second.member_id]

    follower = Later(nursery, sync, running, sync_version, second.member_id, 2)
    await trio.sleep(1)
    assert not follower.answered
    leads = await sync(running, sync_version, first.member_id, 2, **{first.member_id: b"0", second.member_id: b"1"})
    assert (leads.assignment, (await follower.wait()).assignment) == (b"0", b"1")
    if version >= 5:
        assert (leads.protocol_type, leads.protocol_name) == ("consumer", "range")

    members = {"member_id": first.member_id} if leave_version < 3 else {"members": [{"member_id": first.member_id}]}
    left = await ask(running, "LeaveGroup", leave_version, group_id="g", **members)
    assert left.error_code == NONE
    assert await heartbeat(running, second.member_id, 2, heartbeat_version) is ErrorCode.REBALANCE_IN_PROGRESS
    last = await join(running, version, second.member_id)
    assert (last.generation_id, last.leader, len(last.members)) == (3, second.member_id, 1)


@pytest.mark.parametrize("version", range(4))
async def test_old_versions_join_in_one_step(running: Broker, autojump_clock: MockClock, version: int) -> None:
    answer = await join(running, version)
    assert answer.error_code == NONE
    assert answer.member_id.startswith("tester-")


@pytest.mark.parametrize("version", range(4, 10))
async def test_new_versions_are_given_an_id_first(running: Broker, autojump_clock: MockClock, version: int) -> None:
    answer = await join(running, version)
    assert answer.error_code == ErrorCode.MEMBER_ID_REQUIRED
    assert answer.member_id.startswith("tester-")
    assert (answer.generation_id, answer.leader, answer.members) == (-1, "", [])
    assert answer.protocol_name == (None if version >= 7 else "")


async def test_version_0_waits_for_the_session_timeout(
    running: Broker, autojump_clock: MockClock, nursery: trio.Nursery
) -> None:
    first = await join(running, 0)
    Later(nursery, join, running, 0)
    await trio.sleep(0)
    again = Later(nursery, join, running, 0, first.member_id)
    start = trio.current_time()
    await again.wait()
    assert trio.current_time() == start
    assert len(again.answer.members) == 2
    newcomer = Later(nursery, join, running, 0)
    await newcomer.wait()
    assert trio.current_time() - start == pytest.approx(10)


@pytest.mark.parametrize("version", range(5, 10))
async def test_a_static_member_starts_again(running: Broker, autojump_clock: MockClock, version: int) -> None:
    """In one step, into the generation there is; since it leads, it is kept from assigning anew."""
    static = {"group_instance_id": "i"}
    first = await join(running, version, **static)
    assert (first.error_code, first.leader) == (NONE, first.member_id)
    assert [(each.member_id, each.group_instance_id) for each in first.members] == [(first.member_id, "i")]
    await sync(running, min(version, 5), first.member_id, 1, **{first.member_id: b"all"})
    again = await join(running, version, **static)
    assert (again.error_code, again.generation_id, again.member_id != first.member_id) == (NONE, 1, True)
    if version >= 9:
        assert (again.leader, again.skip_assignment) == (again.member_id, True)
        assert [(each.member_id, each.group_instance_id) for each in again.members] == [(again.member_id, "i")]
    else:
        assert (again.leader, again.members) == (first.member_id, [])
    assert (await sync(running, min(version, 5), again.member_id, 1)).assignment == b"all"
    assert await heartbeat(running, again.member_id, 1) is NONE

    old = {"group_id": "g", "member_id": first.member_id, "group_instance_id": "i", "generation_id": 1}
    fenced = ErrorCode.FENCED_INSTANCE_ID
    assert (await ask(running, "Heartbeat", 4, **old)).error_code == fenced
    named = {"protocol_type": "consumer", "protocol_name": "range"}
    assert (await ask(running, "SyncGroup", 5, **old, **named)).error_code == fenced
    assert (await join(running, version, first.member_id, **static)).error_code == fenced
    members = [{"member_id": first.member_id, "group_instance_id": "i"}]
    assert (await ask(running, "LeaveGroup", 5, group_id="g", members=members)).members[0].error_code == fenced
    described = await ask(running, "DescribeGroups", 4, groups=["g"])
    assert [(each.member_id, each.group_instance_id) for each in described.groups[0].members] == [
        (again.member_id, "i")
    ]
    members = [{"member_id": "", "group_instance_id": "i"}]
    (left,) = (await ask(running, "LeaveGroup", 5, group_id="g", members=members)).members
    assert (left.member_id, left.group_instance_id, left.error_code) == ("", "i", NONE)
    assert await heartbeat(running, again.member_id, 1) is ErrorCode.UNKNOWN_MEMBER_ID


async def test_dead_member_hands_over(running: Broker, autojump_clock: MockClock) -> None:
    dead, _ = await stable_member(running)
    start = trio.current_time()
    survivor = await join_fully(running, 9)
    assert survivor.leader == survivor.member_id
    assert trio.current_time() - start == pytest.approx(10)
    assert await heartbeat(running, dead, survivor.generation_id) is ErrorCode.UNKNOWN_MEMBER_ID


async def test_connection_that_dies_while_it_waits_to_join(
    running: Broker, autojump_clock: MockClock, nursery: trio.Nursery
) -> None:
    member, _ = await stable_member(running)
    gone = Later(nursery, join, running, 3)
    await trio.sleep(1)
    gone.scope.cancel()
    await gone.wait()
    answer = await join(running, 9, member)
    assert [each.member_id for each in answer.members] == [member]


async def test_connection_that_dies_while_it_waits_to_sync(
    running: Broker, autojump_clock: MockClock, nursery: trio.Nursery
) -> None:
    member, _ = await stable_member(running)
    newcomer = Later(nursery, join_fully, running, 9)
    await trio.sleep(1)
    await join(running, 9, member)
    second = (await newcomer.wait()).member_id
    gone = Later(nursery, sync, running, 5, second, 2)
    await trio.sleep(1)
    gone.scope.cancel()
    await gone.wait()
    await sync(running, 5, member, 2, **{second: b"yours"})
    assert (await sync(running, 5, second, 2)).assignment == b"yours"


async def test_client_gone_while_it_waits_to_sync_has_its_session_to_come_back(
    running: Broker, autojump_clock: MockClock, nursery: trio.Nursery
) -> None:
    member, _ = await stable_member(running)
    newcomer = Later(nursery, join_fully, running, 9)
    await trio.sleep(1)
    await join(running, 9, member)
    gone = Later(nursery, sync, running, 5, (await newcomer.wait()).member_id, 2)
    await trio.sleep(1)
    gone.scope.cancel()
    await gone.wait()
    for _ in range(9):
        await trio.sleep(1)
        assert await heartbeat(running, member, 2) is NONE
    await trio.sleep(1.1)
    assert await heartbeat(running, member, 2) is ErrorCode.REBALANCE_IN_PROGRESS


async def test_stopping_ends_those_who_wait(broker: Broker) -> None:
    await stable_member(broker)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(_stopped, broker)
        await wait_all_tasks_blocked()
        waiting.stop_waiting()
    assert len(broker.groups.describe("g").members) == 1


async def _stopped(broker: Broker) -> None:
    with pytest.raises(waiting.Stopped):
        await join(broker, 3)


async def test_empty_group_ids(running: Broker, autojump_clock: MockClock) -> None:
    assert (await join(running, 9, group_id="")).error_code == ErrorCode.INVALID_GROUP_ID
    for name, version, fields in (
        ("SyncGroup", 3, {"member_id": "m"}),
        ("Heartbeat", 4, {"member_id": "m"}),
        ("LeaveGroup", 2, {"member_id": "m"}),
        ("LeaveGroup", 5, {"members": [{"member_id": "m"}]}),
    ):
        answer = await ask(running, name, version, group_id="", **fields)
        assert answer.error_code == ErrorCode.INVALID_GROUP_ID, name


async def test_sync_of_version_5_names_the_protocol(running: Broker, autojump_clock: MockClock) -> None:
    joined = await join_fully(running, 9)
    request = {"group_id": "g", "member_id": joined.member_id, "generation_id": 1}
    for names in (
        {},
        {"protocol_type": "consumer"},
        {"protocol_type": "consumer", "protocol_name": "other"},
        {"protocol_type": "connect", "protocol_name": "range"},
    ):
        answer = await ask(running, "SyncGroup", 5, **request, **names)
        assert answer.error_code == ErrorCode.INCONSISTENT_GROUP_PROTOCOL
    assert (await ask(running, "SyncGroup", 4, **request)).error_code == NONE


async def test_first_of_two_protocols_of_one_name_counts(running: Broker, autojump_clock: MockClock) -> None:
    twice = [*RANGE, {"name": "range", "metadata": b"other"}]
    assert (await join_fully(running, 9, protocols=twice)).members[0].metadata == b"topics"


# LeaveGroup


@pytest.mark.parametrize("version", range(6))
async def test_strangers_cannot_leave(running: Broker, autojump_clock: MockClock, version: int) -> None:
    await stable_member(running)
    for group_id in ("g", "unknown"):
        if version < 3:
            answer = await ask(running, "LeaveGroup", version, group_id=group_id, member_id="stranger")
            assert answer.error_code == ErrorCode.UNKNOWN_MEMBER_ID
            continue
        members = [{"member_id": "stranger"}, {"member_id": "", "group_instance_id": "i"}]
        answer = await ask(running, "LeaveGroup", version, group_id=group_id, members=members)
        assert answer.error_code == NONE
        told = [(each.member_id, each.group_instance_id, each.error_code) for each in answer.members]
        unknown = ErrorCode.UNKNOWN_MEMBER_ID
        assert told == [("stranger", None, unknown), ("", "i", unknown)]


# ListGroups, DescribeGroups, DeleteGroups


@pytest.mark.parametrize("version", range(6))
async def test_groups_are_listed(running: Broker, autojump_clock: MockClock, version: int) -> None:
    await stable_member(running)
    (group,) = (await ask(running, "ListGroups", version)).groups
    assert (group.group_id, group.protocol_type) == ("g", "consumer")
    if version >= 4:
        assert group.group_state == "Stable"
    if version >= 5:
        assert group.group_type == "classic"


@pytest.mark.parametrize(
    ("states", "types", "count"),
    [
        (["STABLE"], [], 1),
        (["empty", "stAble"], ["CLASSIC"], 1),
        (["Empty"], [], 0),
        (["nonsense"], [], 0),
        ([], ["classic", "consumer"], 1),
        ([], ["consumer"], 0),
    ],
)
async def test_lists_are_filtered(
    running: Broker, autojump_clock: MockClock, states: list[str], types: list[str], count: int
) -> None:
    await stable_member(running)
    answer = await ask(running, "ListGroups", 5, states_filter=states, types_filter=types)
    assert (answer.error_code, len(answer.groups)) == (NONE, count)


@pytest.mark.parametrize("version", range(7))
async def test_groups_are_described(running: Broker, autojump_clock: MockClock, version: int) -> None:
    member, _ = await stable_member(running)
    answer = await ask(running, "DescribeGroups", version, groups=["g", "unknown", "g"])
    group, unknown = answer.groups
    assert (group.error_code, group.group_id, group.group_state) == (NONE, "g", "Stable")
    assert (group.protocol_type, group.protocol_data) == ("consumer", "range")
    (described,) = group.members
    assert (described.member_id, described.client_id, described.client_host) == (member, "tester", "/192.0.2.1")
    assert (described.member_metadata, described.member_assignment) == (b"topics", b"all")
    assert (unknown.group_id, unknown.group_state, unknown.members) == ("unknown", "Dead", [])
    assert unknown.error_code == (ErrorCode.GROUP_ID_NOT_FOUND if version >= 6 else NONE)


@pytest.mark.parametrize("version", range(3, 7))
async def test_operations_on_a_group_are_told_when_asked_for(
    running: Broker, autojump_clock: MockClock, version: int
) -> None:
    await stable_member(running)
    asked = await ask(running, "DescribeGroups", version, groups=["g"], include_authorized_operations=True)
    assert asked.groups[0].authorized_operations == {3, 6, 8, 10, 11}
    answer = await ask(running, "DescribeGroups", version, groups=["g"])
    assert answer.groups[0].authorized_operations is None


async def test_metadata_is_told_while_the_group_is_stable(running: Broker, autojump_clock: MockClock) -> None:
    await join_fully(running, 9)
    (group,) = (await ask(running, "DescribeGroups", 6, groups=["g"])).groups
    assert (group.group_state, group.protocol_data) == ("CompletingRebalance", "")
    assert group.members[0].member_metadata == b""


@pytest.mark.parametrize("version", range(3))
async def test_groups_are_deleted_when_they_are_empty(running: Broker, autojump_clock: MockClock, version: int) -> None:
    member, generation = await stable_member(running)
    running.topics.create("orders", partitions=1)
    await commit(running, member, generation)
    first = await ask(running, "DeleteGroups", version, groups_names=["g", "unknown", "g"])
    assert {each.group_id: each.error_code for each in first.results} == {
        "g": ErrorCode.NON_EMPTY_GROUP,
        "unknown": ErrorCode.GROUP_ID_NOT_FOUND,
    }
    assert len(first.results) == 2
    await ask(running, "LeaveGroup", 2, group_id="g", member_id=member)
    second = await ask(running, "DeleteGroups", version, groups_names=["g"])
    assert second.results[0].error_code == NONE
    assert running.offsets.group_ids() == []
    assert (await ask(running, "ListGroups", 5)).groups == []


def subscription(*topics: str) -> bytes:
    return bytes(codec.ConsumerProtocolSubscription(version=3, topics=list(topics), user_data=b"orders").encode())


async def delete_offsets(broker: Broker, *topics: str, group_id: str = "g") -> list[int]:
    """The error code of all, or else those of the partition 0 of each topic."""
    named = [{"name": topic, "partitions": [{"partition_index": 0}]} for topic in topics]
    answer = await ask(broker, "OffsetDelete", 0, group_id=group_id, topics=named)
    assert [topic.name for topic in answer.topics] == (list(topics) if answer.error_code == NONE else [])
    return [part.error_code for topic in answer.topics for part in topic.partitions] or [answer.error_code]


async def test_offsets_of_a_topic_that_a_member_reads_stay(running: Broker, autojump_clock: MockClock) -> None:
    for topic in ("orders", "payments"):
        running.topics.create(topic, partitions=1)
    protocols = [{"name": "sticky", "metadata": b""}, {"name": "range", "metadata": subscription("others", "orders")}]
    joined = await join_fully(running, 9, protocols=protocols[1:])
    again = await join(running, 9, joined.member_id, protocols=protocols[1:])
    await sync(running, 5, joined.member_id, again.generation_id, **{joined.member_id: b"all"})
    await commit(running, joined.member_id, again.generation_id)
    assert await delete_offsets(running, "orders", "payments") == [ErrorCode.GROUP_SUBSCRIBED_TO_TOPIC, NONE]
    assert running.offsets.fetch("g", "orders", 0) is not None
    await ask(running, "LeaveGroup", 2, group_id="g", member_id=joined.member_id)
    assert await delete_offsets(running, "orders", "payments") == [NONE, NONE]
    assert running.offsets.fetch("g", "orders", 0) is None


@pytest.mark.parametrize(
    "metadata",
    [b"", b"\xff\xff\0\0\0\0", b"\0\0\xff\xff\xff\xff", subscription("a" * 9)[:10]],
    ids=["nothing", "no version", "no topics", "half a topic"],
)
async def test_a_member_that_does_not_say_what_it_reads_reads_all(
    running: Broker, autojump_clock: MockClock, metadata: bytes
) -> None:
    running.topics.create("orders", partitions=1)
    await join_fully(running, 9, protocols=[{"name": "range", "metadata": metadata}])
    assert await delete_offsets(running, "orders") == [ErrorCode.GROUP_SUBSCRIBED_TO_TOPIC]


async def test_offsets_of_a_group_that_is_preparing_stay(
    running: Broker, autojump_clock: MockClock, nursery: trio.Nursery
) -> None:
    running.topics.create("orders", partitions=1)
    member, _ = await stable_member(running)
    Later(nursery, join_fully, running, 9, protocols=[{"name": "range", "metadata": subscription("payments")}])
    await wait_all_tasks_blocked()
    assert await delete_offsets(running, "orders") == [ErrorCode.GROUP_SUBSCRIBED_TO_TOPIC]
    await ask(running, "LeaveGroup", 2, group_id="g", member_id=member)
    await wait_all_tasks_blocked()
    assert await delete_offsets(running, "orders") == [NONE]


async def test_offsets_of_members_that_are_no_consumers_stay(running: Broker, autojump_clock: MockClock) -> None:
    running.topics.create("orders", partitions=1)
    await join_fully(running, 9, protocol_type="connect")
    assert await delete_offsets(running, "orders") == [ErrorCode.NON_EMPTY_GROUP]


async def commit(broker: Broker, member: str, generation: int) -> None:
    partition = {"partition_index": 0, "committed_offset": 5, "committed_metadata": ""}
    answer = await ask(
        broker,
        "OffsetCommit",
        9,
        group_id="g",
        member_id=member,
        generation_id_or_member_epoch=generation,
        topics=[{"name": "orders", "partitions": [partition]}],
    )
    assert answer.topics[0].partitions[0].error_code == NONE


def test_settings_reach_the_coordinator(broker: Broker) -> None:
    narrow = make_broker(broker.log, {"group.min.session.timeout.ms": "100", "group.max.session.timeout.ms": "200"})

    async def codes() -> list[int]:
        return [(await join(narrow, 3, session_timeout_ms=ms)).error_code for ms in (99, 100, 201)]

    invalid = ErrorCode.INVALID_SESSION_TIMEOUT
    assert trio.run(codes) == [invalid, NONE, invalid]
