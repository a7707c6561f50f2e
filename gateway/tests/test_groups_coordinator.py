"""What is beyond one group: which groups there are, limits, timers, expiry."""

from collections.abc import Callable

import pytest

from totalog.gateway.broker import AppendFailed
from totalog.gateway.coordinators import groups as module
from totalog.gateway.coordinators.group import State
from totalog.gateway.coordinators.groups import Listed
from totalog.gateway.lane import finish
from totalog.gateway.tests.group_world import Reply, World
from totalog.gateway.wire.errors import ErrorCode

NONE = ErrorCode.NONE


@pytest.fixture
def world() -> World:
    return World({"offsets.retention.minutes": "60", "offsets.retention.check.interval.ms": "60000"})


# Looking and deleting


def test_groups_are_listed_with_and_without_members(world: World) -> None:
    world.offsets.committed_ms = {"g": 0, "tool": 0}
    world.stable(1)
    world.join(group_id="asked", takes_member_id=True)
    assert sorted(world.groups.all()) == [
        Listed("asked", "", State.EMPTY),
        Listed("g", "consumer", State.STABLE),
        Listed("tool", "", State.EMPTY),
    ]


def test_description_follows_the_state(world: World) -> None:
    assert world.groups.describe("g").state is State.DEAD
    world.offsets.committed_ms["g"] = 0
    simple = world.groups.describe("g")
    assert (simple.state, simple.protocol_type, simple.members) == (State.EMPTY, "", ())
    member = world.join(client_id="kim").answer.member_id
    completing = world.groups.describe("g")
    assert (completing.state, completing.protocol_name) == (State.COMPLETING_REBALANCE, "")
    world.sync(member, 1, {member: b"mine"})
    stable = world.groups.describe("g")
    assert (stable.state, stable.protocol_type, stable.protocol_name) == (State.STABLE, "consumer", "range")
    (described,) = stable.members
    assert (described.id, described.client_id, described.client_host) == (member, "kim", "/192.0.2.1")
    assert described.assignment == b"mine"
    world.leave(member)
    empty = world.groups.describe("g")
    assert (empty.state, empty.protocol_type, empty.protocol_name, empty.members) == (State.EMPTY, "consumer", "", ())


def test_group_is_deleted_with_its_offsets(world: World) -> None:
    (member,), _ = world.stable(1)
    world.offsets.committed_ms["g"] = 0
    assert finish(world.groups.delete("g")) is ErrorCode.NON_EMPTY_GROUP
    world.join(member)
    assert finish(world.groups.delete("g")) is ErrorCode.NON_EMPTY_GROUP
    world.leave(member)
    assert finish(world.groups.delete("g")) is NONE
    assert world.offsets.committed_ms == {}
    assert world.state() is State.DEAD
    assert finish(world.groups.delete("g")) is ErrorCode.GROUP_ID_NOT_FOUND


def test_group_of_offsets_alone_is_deleted(world: World) -> None:
    world.offsets.committed_ms["tool"] = 0
    assert finish(world.groups.delete("tool")) is NONE
    assert finish(world.groups.delete("tool")) is ErrorCode.GROUP_ID_NOT_FOUND


def test_group_stays_when_its_offsets_cannot_be_deleted(world: World) -> None:
    (member,), _ = world.stable(1)
    world.leave(member)
    world.offsets.committed_ms["g"] = 0
    world.offsets.failure = AppendFailed(ErrorCode.KAFKA_STORAGE_ERROR, "__consumer_offsets")
    assert finish(world.groups.delete("g")) is ErrorCode.COORDINATOR_NOT_AVAILABLE
    assert world.state() is State.EMPTY


def test_deleted_group_leaves_no_timer(world: World) -> None:
    timers = len(world.timers.handles)
    world.join(takes_member_id=True)
    assert finish(world.groups.delete("g")) is NONE
    world.timers.next()
    assert len(world.timers.handles) == timers


# Limits


@pytest.fixture
def limit(monkeypatch: pytest.MonkeyPatch) -> Callable[[str, int], None]:
    return lambda name, value: monkeypatch.setattr(module, name, value)


def test_longest_empty_group_makes_room(world: World, limit: Callable[[str, int], None]) -> None:
    limit("GROUPS_COUNT_MAX", 2)
    for group_id in ("first", "second"):
        member = world.join(group_id=group_id).answer.member_id
        world.advance(1)
        world.groups.leave(group_id, [(member, None)])
    back = world.join(group_id="first").answer.member_id
    world.advance(1)
    world.groups.leave("first", [(back, None)])
    assert world.join(group_id="third").code is NONE
    assert world.state("second") is State.DEAD
    assert world.state("first") is State.EMPTY


def test_too_many_groups_with_members(world: World, limit: Callable[[str, int], None]) -> None:
    limit("GROUPS_COUNT_MAX", 2)
    world.join(group_id="first")
    world.join(group_id="second", takes_member_id=True)
    assert world.join(group_id="third").code is ErrorCode.POLICY_VIOLATION
    assert world.join(group_id="first").answered is False, "a group that exists takes members as before"


def test_unknown_member_takes_no_groups_place(world: World, limit: Callable[[str, int], None]) -> None:
    limit("GROUPS_COUNT_MAX", 1)
    (member,), _ = world.stable(1)
    world.leave(member)
    assert world.join("stranger", group_id="other").code is ErrorCode.UNKNOWN_MEMBER_ID
    assert world.state("g") is State.EMPTY


def test_members_of_one_group(limit: Callable[[str, int], None]) -> None:
    limit("MEMBERS_COUNT_MAX", 2)
    world = World()
    world.stable(2)
    assert world.join().code is ErrorCode.GROUP_MAX_SIZE_REACHED


def test_unused_ids_of_one_group(world: World, limit: Callable[[str, int], None]) -> None:
    limit("PENDING_COUNT_MAX", 2)
    first, second, third = (world.join(takes_member_id=True).answer.member_id for _ in range(3))
    assert world.join(first).code is ErrorCode.UNKNOWN_MEMBER_ID
    world.join(second)
    assert world.join(third).code is NONE


def test_metadata_of_all_groups(world: World, limit: Callable[[str, int], None]) -> None:
    limit("STATE_SIZE_MAX", 100_000)
    large = {"range": bytes(90_000)}
    member = world.join(protocols=large).answer.member_id
    assert world.join(group_id="other", protocols=large).code is ErrorCode.POLICY_VIOLATION
    assert world.state("other") is State.DEAD
    assert world.join(group_id="other").code is NONE
    assert world.join(member, protocols={"range": bytes(89_999)}).code is NONE, "what it replaces goes"
    world.groups.leave("g", [(member, None)])
    assert world.join(group_id="third", protocols=large).code is NONE


def test_assignments_count_as_well(world: World, limit: Callable[[str, int], None]) -> None:
    limit("STATE_SIZE_MAX", 100_000)
    member = world.join().answer.member_id
    assert world.sync(member, 1, {member: bytes(100_000)}).code is ErrorCode.UNKNOWN_SERVER_ERROR
    assert world.state() is State.COMPLETING_REBALANCE
    assert world.sync(member, 1, {member: bytes(90_000)}).code is NONE
    assert world.join(group_id="other", protocols={"range": bytes(9_000)}).code is ErrorCode.POLICY_VIOLATION


def test_size_returns_to_nothing(world: World) -> None:
    members, _ = world.stable(3)
    world.join(takes_member_id=True)
    assert world.groups.size > 0
    for member in members:
        world.leave(member)
    world.advance(20)
    assert world.groups.size == 0
    world.join(group_id="h", takes_member_id=True)
    finish(world.groups.delete("h"))
    assert world.groups.size == 0


# Timers


def test_one_timer_for_a_group_whatever_happens(world: World) -> None:
    (leader, follower), generation = world.stable(2)
    for _ in range(20):
        world.heartbeat(leader, generation)
        world.heartbeat(follower, generation)
        world.join(follower)
        world.advance(1)
    world.timers.next()
    assert len(world.timers.handles) == 2, "the group's and that of expiry"


# Expiry


def test_group_without_members_and_offsets_is_forgotten(world: World) -> None:
    (member,), _ = world.stable(1)
    world.leave(member)
    assert world.state() is State.EMPTY
    world.advance(61)
    assert world.state() is State.DEAD


def test_offsets_of_a_group_expire_after_its_last_member_left(world: World) -> None:
    (member,), generation = world.stable(1)
    world.offsets.committed_ms["g"] = int(world.time * 1000)
    for _ in range(2 * 3600 // 5):
        world.advance(5)
        assert world.heartbeat(member, generation) is NONE
    world.leave(member)
    world.advance(3590)
    assert world.groups.describe("g").state is State.EMPTY
    assert world.offsets.has_group("g")
    world.advance(70)
    assert not world.offsets.has_group("g")
    assert world.state() is State.DEAD


def test_group_that_lives_again_keeps_its_offsets(world: World) -> None:
    (member,), _ = world.stable(1)
    world.offsets.committed_ms["g"] = int(world.time * 1000)
    world.leave(member)
    world.advance(3000)
    (member,), generation = world.stable(1)
    for _ in range(1000 // 5):
        world.advance(5)
        world.heartbeat(member, generation)
    assert world.offsets.has_group("g")
    world.leave(member)
    world.advance(3500)
    assert world.offsets.has_group("g")


def test_offsets_without_a_group_expire_by_their_age(world: World) -> None:
    world.offsets.committed_ms["tool"] = int(world.time * 1000)
    world.advance(3590)
    assert world.offsets.has_group("tool")
    world.advance(70)
    assert not world.offsets.has_group("tool")


def test_expiry_that_fails_is_tried_again(world: World, caplog: pytest.LogCaptureFixture) -> None:
    (member,), _ = world.stable(1)
    world.offsets.committed_ms["g"] = int(world.time * 1000)
    world.leave(member)
    world.offsets.failure = AppendFailed(ErrorCode.KAFKA_STORAGE_ERROR, "__consumer_offsets")
    world.advance(3700)
    assert world.offsets.has_group("g")
    assert "expired offsets stay for now" in caplog.text
    world.offsets.failure = None
    world.advance(60)
    assert not world.offsets.has_group("g")


def test_replies_of_different_groups_do_not_meet(world: World) -> None:
    one = world.join(group_id="one").answer.member_id
    newcomer = world.join(group_id="one")
    assert world.join(group_id="two").code is NONE
    assert not newcomer.answered
    assert isinstance(newcomer, Reply)
    assert world.groups.heartbeat("two", 1, one, None) is ErrorCode.UNKNOWN_MEMBER_ID
