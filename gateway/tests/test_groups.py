"""The classic group protocol: every transition and every error, on a clock that the test moves."""

from typing import Any

import pytest

from totalog.gateway.coordinators import groups as module
from totalog.gateway.coordinators.group import PENDING_HOLD_S, State
from totalog.gateway.tests.group_world import RANGE, World
from totalog.gateway.wire.errors import ErrorCode

NONE = ErrorCode.NONE


@pytest.fixture
def world() -> World:
    return World()


# Joining


def test_first_member_joins_leads_and_waits_for_nothing(world: World) -> None:
    answer = world.join(client_id="kim").answer
    assert answer.code is NONE
    assert answer.member_id.startswith("kim-")
    assert answer.leader_id == answer.member_id
    assert (answer.generation_id, answer.protocol_type, answer.protocol_name) == (1, "consumer", "range")
    assert [(member.member_id, member.metadata) for member in answer.members] == [(answer.member_id, b"topics")]
    assert world.state() is State.COMPLETING_REBALANCE


def test_leader_alone_syncs_and_is_stable(world: World) -> None:
    member = world.join().answer.member_id
    answer = world.sync(member, 1, {member: b"mine", "stranger": b"not"}, type="consumer", name="range").answer
    assert (answer.code, answer.assignment) == (NONE, b"mine")
    assert (answer.protocol_type, answer.protocol_name) == ("consumer", "range")
    assert world.state() is State.STABLE


def test_member_that_knows_of_ids_is_told_its_own_first(world: World) -> None:
    first = world.join(takes_member_id=True, client_id="kim").answer
    assert first.code is ErrorCode.MEMBER_ID_REQUIRED
    assert first.member_id.startswith("kim-")
    assert (first.generation_id, first.leader_id, first.members) == (-1, "", ())
    assert world.state() is State.EMPTY
    second = world.join(first.member_id, takes_member_id=True).answer
    assert (second.code, second.member_id, second.generation_id) == (NONE, first.member_id, 1)


def test_two_members_share_one_generation(world: World) -> None:
    first = world.join().answer.member_id
    newcomer = world.join()
    assert not newcomer.answered
    assert world.state() is State.PREPARING_REBALANCE
    again = world.join(first)
    answers = again.answer, newcomer.answer
    assert [answer.generation_id for answer in answers] == [2, 2]
    assert {answer.leader_id for answer in answers} == {first}
    assert [len(answer.members) for answer in answers] == [2, 0]
    waiting = world.sync(newcomer.answer.member_id, 2)
    assert not waiting.answered
    leads = world.sync(first, 2, {first: b"0", newcomer.answer.member_id: b"1"})
    assert (leads.answer.assignment, waiting.answer.assignment) == (b"0", b"1")


def test_unchanged_follower_joins_again_without_a_rebalance(world: World) -> None:
    (_leader, follower), generation = world.stable(2)
    answer = world.join(follower).answer
    assert (answer.code, answer.generation_id, answer.members) == (NONE, generation, ())
    assert world.state() is State.STABLE


def test_changed_follower_starts_a_rebalance(world: World) -> None:
    (leader, follower), generation = world.stable(2)
    changed = world.join(follower, protocols={"range": b"other topics"})
    assert not changed.answered
    assert world.heartbeat(leader, generation) is ErrorCode.REBALANCE_IN_PROGRESS
    members = world.join(leader).answer.members
    assert {member.member_id: member.metadata for member in members} == {leader: b"topics", follower: b"other topics"}
    assert changed.answer.generation_id == generation + 1


def test_leader_that_joins_again_starts_a_rebalance(world: World) -> None:
    (leader, follower), generation = world.stable(2)
    assert not world.join(leader).answered
    assert world.heartbeat(follower, generation) is ErrorCode.REBALANCE_IN_PROGRESS


def test_member_that_missed_its_join_answer_gets_it_again(world: World) -> None:
    member = world.join().answer
    assert world.join(member.member_id).answer == member
    assert world.state() is State.COMPLETING_REBALANCE


def test_join_repeated_on_another_connection_answers_the_first(world: World) -> None:
    (leader, _follower), _ = world.stable(2)
    first, second = world.join(leader), world.join(leader)
    assert first.code is ErrorCode.REBALANCE_IN_PROGRESS
    assert not second.answered


def test_votes_choose_the_protocol(world: World) -> None:
    world.join(protocols={"a": b"1", "b": b"2"})
    first = next(iter(world.group().roster.members))
    second = world.join(protocols={"b": b"3", "c": b"4", "a": b"5"})
    third = world.join(protocols={"b": b"6", "a": b"7"})
    answer = world.join(first, protocols={"a": b"1", "b": b"2"}).answer
    assert answer.protocol_name == second.answer.protocol_name == third.answer.protocol_name == "b"
    assert [member.metadata for member in answer.members] == [b"2", b"3", b"6"]


def test_leader_breaks_a_tie_of_votes(world: World) -> None:
    first = world.join(protocols={"a": b"", "b": b""}).answer.member_id
    world.join(protocols={"b": b"", "a": b""})
    assert world.join(first, protocols={"a": b"", "b": b""}).answer.protocol_name == "a"


def test_only_what_all_support_can_be_chosen(world: World) -> None:
    first = world.join(protocols={"a": b"", "b": b""}).answer.member_id
    world.join(protocols={"b": b""})
    assert world.join(first, protocols={"a": b"", "b": b""}).answer.protocol_name == "b"


@pytest.mark.parametrize(
    ("options", "code"),
    [
        ({"group_id": ""}, ErrorCode.INVALID_GROUP_ID),
        ({"session_s": 5.999}, ErrorCode.INVALID_SESSION_TIMEOUT),
        ({"session_s": 1800.001}, ErrorCode.INVALID_SESSION_TIMEOUT),
        ({"protocols": {}}, ErrorCode.INCONSISTENT_GROUP_PROTOCOL),
        ({"type": ""}, ErrorCode.INCONSISTENT_GROUP_PROTOCOL),
        ({"member_id": "stranger"}, ErrorCode.UNKNOWN_MEMBER_ID),
        ({"member_id": "stranger", "instance_id": "i"}, ErrorCode.UNKNOWN_MEMBER_ID),
    ],
)
def test_join_errors_leave_no_group_behind(world: World, options: dict[str, object], code: ErrorCode) -> None:
    answer = world.join(**options).answer  # type: ignore[arg-type]
    assert answer.code is code
    assert (answer.member_id, answer.generation_id) == (options.get("member_id", ""), -1)
    assert world.groups.all() == []


@pytest.mark.parametrize("session_s", [6.0, 1800.0])
def test_session_timeout_at_its_bounds(world: World, session_s: float) -> None:
    assert world.join(session_s=session_s).code is NONE


@pytest.mark.parametrize("options", [{"type": "connect"}, {"protocols": {"roundrobin": b""}}])
def test_joining_members_must_fit_those_there_are(world: World, options: dict[str, object]) -> None:
    member = world.join().answer.member_id
    assert world.join(**options).code is ErrorCode.INCONSISTENT_GROUP_PROTOCOL  # type: ignore[arg-type]
    again = world.join(member, **options)  # type: ignore[arg-type]
    assert (again.code, again.answer.member_id) == (ErrorCode.INCONSISTENT_GROUP_PROTOCOL, member)
    assert world.state() is State.COMPLETING_REBALANCE


def test_empty_group_takes_any_protocol(world: World) -> None:
    (member,), _ = world.stable(1)
    world.leave(member)
    answer = world.join(type="connect", protocols={"x": b""}).answer
    assert (answer.code, answer.protocol_type, answer.generation_id) == (NONE, "connect", 3)


def test_group_that_is_full() -> None:
    world = World({"group.max.size": "2"})
    (leader, follower), generation = world.stable(2)
    assert world.join().code is ErrorCode.GROUP_MAX_SIZE_REACHED
    assert world.join(takes_member_id=True).code is ErrorCode.GROUP_MAX_SIZE_REACHED
    assert world.heartbeat(leader, generation) is NONE
    assert world.join(follower).code is NONE


def test_id_handed_out_before_the_group_was_full() -> None:
    world = World({"group.max.size": "1"})
    early = world.join(takes_member_id=True).answer.member_id
    late = world.join(takes_member_id=True).answer.member_id
    waiting = world.join(early)
    assert world.join(late).code is ErrorCode.GROUP_MAX_SIZE_REACHED
    assert waiting.code is NONE, "an id that was refused is not waited for"


# Ids that were handed out


def test_member_between_its_two_joins_is_waited_for(world: World) -> None:
    first, second = (world.join(takes_member_id=True).answer.member_id for _ in range(2))
    waiting = world.join(first)
    assert not waiting.answered
    joined = world.join(second)
    assert waiting.answer.generation_id == joined.answer.generation_id == 1
    assert len(waiting.answer.members) == 2


def test_unused_id_holds_the_first_join_for_half_a_second_only(world: World) -> None:
    first, never_used = (world.join(takes_member_id=True).answer.member_id for _ in range(2))
    waiting = world.join(first)
    world.advance(PENDING_HOLD_S * 0.99)
    assert not waiting.answered
    world.advance(PENDING_HOLD_S * 0.01)
    assert waiting.answer.generation_id == 1
    assert world.heartbeat(never_used, 1) is ErrorCode.UNKNOWN_MEMBER_ID


def test_each_rebalance_waits_anew_for_ids_just_handed_out(world: World) -> None:
    first, second = (world.join(takes_member_id=True).answer.member_id for _ in range(2))
    world.join(first)
    world.advance(PENDING_HOLD_S)
    world.sync(first, 1)
    newcomer = world.join(takes_member_id=True).answer.member_id
    waiting = world.join(first)
    assert not waiting.answered
    world.join(newcomer)
    assert len(waiting.answer.members) == 2
    assert second not in [member.member_id for member in waiting.answer.members]


def test_old_unused_id_does_not_hold_a_rebalance(world: World) -> None:
    (member,), _ = world.stable(1)
    world.join(takes_member_id=True)
    world.advance(PENDING_HOLD_S)
    assert world.join(member).answered


def test_stream_of_unused_ids_does_not_hold_a_rebalance_longer(world: World) -> None:
    first = world.join(takes_member_id=True).answer.member_id
    world.join(takes_member_id=True)
    waiting = world.join(first)
    for _ in range(4):
        world.advance(PENDING_HOLD_S / 4)
        world.join(takes_member_id=True)
    assert waiting.answered


def test_unused_id_that_is_given_back_holds_nothing(world: World) -> None:
    first, second = (world.join(takes_member_id=True).answer.member_id for _ in range(2))
    waiting = world.join(first)
    assert world.leave(second) is NONE
    assert waiting.answered
    assert world.join(second).code is ErrorCode.UNKNOWN_MEMBER_ID


def test_unused_id_is_forgotten_after_the_session_timeout(world: World) -> None:
    member = world.join(takes_member_id=True, session_s=10).answer.member_id
    world.advance(9.9)
    assert world.state() is State.EMPTY
    world.advance(0.1)
    assert world.state() is State.DEAD
    assert world.join(member).code is ErrorCode.UNKNOWN_MEMBER_ID


def test_unused_id_is_no_member(world: World) -> None:
    member = world.join(takes_member_id=True).answer.member_id
    assert world.heartbeat(member, 0) is ErrorCode.UNKNOWN_MEMBER_ID
    assert world.sync(member, 0).code is ErrorCode.UNKNOWN_MEMBER_ID
    assert world.commit(member, 0) is ErrorCode.UNKNOWN_MEMBER_ID


# Rebalance and session timeouts


def test_initial_delay_waits_for_more_members() -> None:
    world = World({"group.initial.rebalance.delay.ms": "3000"})
    first = world.join()
    world.advance(2.0)
    second = world.join()
    world.advance(2.9)
    assert not first.answered
    world.advance(0.1)
    assert first.answer.generation_id == second.answer.generation_id == 1


def test_initial_delay_ends_at_the_rebalance_timeout() -> None:
    world = World({"group.initial.rebalance.delay.ms": "3000"})
    replies = []
    for _ in range(4):
        replies.append(world.join(rebalance_s=5))
        world.advance(1.25)
    assert all(reply.answer.generation_id == 1 for reply in replies)


def test_initial_delay_is_not_for_later_rebalances() -> None:
    world = World({"group.initial.rebalance.delay.ms": "3000"})
    first = world.join()
    world.advance(3.0)
    second = world.join()
    assert world.join(first.answer.member_id).answer.generation_id == second.answer.generation_id == 2


def test_member_that_does_not_join_again_is_removed(world: World) -> None:
    (leader, follower), generation = world.stable(2, rebalance_s=8, session_s=10)
    waiting = world.join(follower, rebalance_s=8, protocols={"range": b"new"})
    world.advance(4)
    assert world.heartbeat(leader, generation) is ErrorCode.REBALANCE_IN_PROGRESS
    world.advance(3.9)
    assert not waiting.answered
    world.advance(0.1)
    answer = waiting.answer
    assert (answer.generation_id, answer.leader_id, len(answer.members)) == (generation + 1, follower, 1)
    assert world.heartbeat(leader, generation + 1) is ErrorCode.UNKNOWN_MEMBER_ID
    assert world.join(leader).code is ErrorCode.UNKNOWN_MEMBER_ID


def test_rebalance_waits_for_the_most_patient_member(world: World) -> None:
    world.join(rebalance_s=4)
    first = next(iter(world.group().roster.members))
    second = world.join(rebalance_s=20)
    world.join(first, rebalance_s=4)
    assert second.answered
    world.sync_all(2, [first, second.answer.member_id])
    waiting = world.join(first, rebalance_s=4)
    for _ in range(3):
        world.advance(6)
        assert world.heartbeat(second.answer.member_id, 2) is ErrorCode.REBALANCE_IN_PROGRESS
    assert not waiting.answered
    world.advance(2)
    assert len(waiting.answer.members) == 1


def test_dead_member_is_removed_after_its_session(world: World) -> None:
    (leader, follower), generation = world.stable(2, session_s=10)
    world.advance(6)
    assert world.heartbeat(leader, generation) is NONE
    world.advance(3.9)
    assert world.heartbeat(leader, generation) is NONE
    world.advance(0.1)
    assert world.heartbeat(leader, generation) is ErrorCode.REBALANCE_IN_PROGRESS
    assert world.heartbeat(follower, generation) is ErrorCode.UNKNOWN_MEMBER_ID
    answer = world.join(leader).answer
    assert (answer.generation_id, len(answer.members)) == (generation + 1, 1)


def test_member_that_dies_during_a_rebalance_does_not_hold_it(world: World) -> None:
    (leader, _follower), _ = world.stable(2, session_s=10, rebalance_s=60)
    waiting = world.join(leader)
    world.advance(10)
    assert len(waiting.answer.members) == 1


def test_waiting_for_a_rebalance_keeps_the_session(world: World) -> None:
    (leader, follower), generation = world.stable(2, session_s=6, rebalance_s=60)
    waiting = world.join(leader, session_s=6, rebalance_s=60)
    for _ in range(10):
        world.advance(5)
        assert world.heartbeat(follower, generation) is ErrorCode.REBALANCE_IN_PROGRESS
    assert not waiting.answered
    world.join(follower, session_s=6, rebalance_s=60)
    assert len(waiting.answer.members) == 2


@pytest.mark.parametrize("request_kind", ["commit", "join", "sync"])
def test_every_request_of_a_member_keeps_its_session(world: World, request_kind: str) -> None:
    (leader, follower), generation = world.stable(2, session_s=10)
    for _ in range(3):
        world.advance(6)
        assert world.heartbeat(leader, generation) is NONE
        if request_kind == "commit":
            assert world.commit(follower, generation) is NONE
        elif request_kind == "join":
            assert world.join(follower).code is NONE
        else:
            assert world.sync(follower, generation).code is NONE
    assert world.state() is State.STABLE


def test_last_member_dies(world: World) -> None:
    world.stable(1, session_s=10)
    world.advance(10)
    assert world.state() is State.EMPTY
    assert world.join().answer.generation_id == 3


def test_leader_that_never_syncs_is_removed(world: World) -> None:
    (leader, follower), generation = world.stable(2, rebalance_s=7, session_s=30)
    world.join(leader, rebalance_s=7, session_s=30)
    world.join(follower, rebalance_s=7, session_s=30)
    waiting = world.sync(follower, generation + 1)
    world.advance(7)
    assert waiting.code is ErrorCode.REBALANCE_IN_PROGRESS
    assert world.heartbeat(leader, generation + 1) is ErrorCode.UNKNOWN_MEMBER_ID
    answer = world.join(follower).answer
    assert (answer.leader_id, answer.generation_id) == (follower, generation + 2)


def test_follower_that_never_syncs_is_removed(world: World) -> None:
    (leader, follower), generation = world.stable(2, rebalance_s=7, session_s=30)
    world.join(leader, rebalance_s=7, session_s=30)
    world.advance(3)
    world.join(follower, rebalance_s=7, session_s=30)
    world.sync(leader, generation + 1, {leader: b"", follower: b""})
    world.advance(6.9)
    assert world.heartbeat(leader, generation + 1) is NONE
    world.advance(0.1)
    assert world.heartbeat(leader, generation + 1) is ErrorCode.REBALANCE_IN_PROGRESS
    assert world.sync(follower, generation + 1).code is ErrorCode.UNKNOWN_MEMBER_ID


def test_time_to_sync_ends_with_its_generation(world: World) -> None:
    (leader, follower), generation = world.stable(2, rebalance_s=30, session_s=30)
    world.join(leader, session_s=30)
    world.join(follower, session_s=30)
    world.advance(20)
    waiting = world.join(leader, session_s=30, protocols={"range": b"new"})
    world.join(takes_member_id=True, session_s=11)
    assert world.heartbeat(follower, generation + 1) is ErrorCode.REBALANCE_IN_PROGRESS
    world.advance(15)
    assert not waiting.answered
    world.join(follower, session_s=30)
    assert len(waiting.answer.members) == 2


# Syncing


def test_sync_errors(world: World) -> None:
    (leader, _follower), generation = world.stable(2)
    assert world.sync(leader, generation - 1).code is ErrorCode.ILLEGAL_GENERATION
    assert world.sync(leader, generation + 1).code is ErrorCode.ILLEGAL_GENERATION
    assert world.sync("stranger", generation).code is ErrorCode.UNKNOWN_MEMBER_ID
    assert world.sync(leader, generation, name="roundrobin").code is ErrorCode.INCONSISTENT_GROUP_PROTOCOL
    assert world.sync(leader, generation, type="connect").code is ErrorCode.INCONSISTENT_GROUP_PROTOCOL
    assert world.sync(leader, generation, group_id="unknown").code is ErrorCode.UNKNOWN_MEMBER_ID
    assert world.sync(leader, generation, group_id="").code is ErrorCode.INVALID_GROUP_ID


def test_sync_again_returns_the_stored_assignment(world: World) -> None:
    (leader, follower), generation = world.stable(2)
    assert world.sync(follower, generation).answer.assignment == follower.encode()
    assert world.sync(leader, generation, {follower: b"other"}).answer.assignment == leader.encode()
    assert world.sync(follower, generation).answer.assignment == follower.encode()


def test_sync_while_a_rebalance_is_prepared(world: World) -> None:
    (leader, follower), generation = world.stable(2)
    world.join(leader)
    assert world.sync(follower, generation).code is ErrorCode.REBALANCE_IN_PROGRESS


def test_members_left_out_by_the_leader_get_nothing(world: World) -> None:
    (leader, follower), generation = world.stable(2)
    world.join(leader)
    world.join(follower)
    world.sync(leader, generation + 1, {leader: b"all"})
    assert world.sync(follower, generation + 1).answer.assignment == b""


def test_new_rebalance_sends_those_who_sync_back_to_join(world: World) -> None:
    (leader, follower), generation = world.stable(2)
    world.join(leader)
    world.join(follower)
    waiting = world.sync(follower, generation + 1)
    world.join()
    assert waiting.code is ErrorCode.REBALANCE_IN_PROGRESS


def test_sync_repeated_on_another_connection_answers_the_first(world: World) -> None:
    (leader, follower), generation = world.stable(2)
    world.join(leader)
    world.join(follower)
    first, second = world.sync(follower, generation + 1), world.sync(follower, generation + 1)
    assert first.code is ErrorCode.REBALANCE_IN_PROGRESS
    world.sync(leader, generation + 1, {follower: b"x"})
    assert second.answer.assignment == b"x"


# Heartbeats and commits


def test_heartbeat_errors(world: World) -> None:
    (leader, _), generation = world.stable(2)
    assert world.heartbeat(leader, generation) is NONE
    assert world.heartbeat(leader, generation - 1) is ErrorCode.ILLEGAL_GENERATION
    assert world.heartbeat("stranger", generation) is ErrorCode.UNKNOWN_MEMBER_ID
    assert world.groups.heartbeat("unknown", 1, leader, None) is ErrorCode.UNKNOWN_MEMBER_ID
    assert world.groups.heartbeat("", 1, leader, None) is ErrorCode.INVALID_GROUP_ID


def test_heartbeat_and_commit_through_a_rebalance(world: World) -> None:
    (leader, follower), generation = world.stable(2)
    world.join(leader)
    assert world.heartbeat(follower, generation) is ErrorCode.REBALANCE_IN_PROGRESS
    assert world.commit(follower, generation) is NONE, "before it gives its partitions up"
    assert world.heartbeat(follower, generation + 1) is ErrorCode.ILLEGAL_GENERATION
    world.join(follower)
    assert world.state() is State.COMPLETING_REBALANCE
    assert world.heartbeat(follower, generation + 1) is NONE
    assert world.commit(follower, generation + 1) is ErrorCode.REBALANCE_IN_PROGRESS
    assert world.commit(follower, generation) is ErrorCode.ILLEGAL_GENERATION


def test_commit_errors(world: World) -> None:
    (member,), generation = world.stable(1)
    assert world.commit(member, generation) is NONE
    assert world.commit(member, generation - 1) is ErrorCode.ILLEGAL_GENERATION
    assert world.commit(member, -1) is ErrorCode.ILLEGAL_GENERATION
    assert world.commit("stranger", generation) is ErrorCode.UNKNOWN_MEMBER_ID
    assert world.commit() is ErrorCode.UNKNOWN_MEMBER_ID, "without a generation while there are members"
    world.leave(member)
    assert world.commit(member, generation) is ErrorCode.UNKNOWN_MEMBER_ID
    assert world.commit() is NONE
    assert world.commit("anyone", -1) is NONE


def test_commit_for_a_group_that_is_not_there(world: World) -> None:
    assert world.commit() is NONE
    assert world.commit("anyone", -1) is NONE
    assert world.commit("anyone", 1) is ErrorCode.GROUP_ID_NOT_FOUND
    world.offsets.committed_ms["g"] = 0
    assert world.commit() is NONE
    assert world.commit("anyone", 1) is ErrorCode.UNKNOWN_MEMBER_ID, "a member from before a restart"


# Leaving


def test_leader_leaves_and_hands_over(world: World) -> None:
    (leader, follower), generation = world.stable(2)
    assert world.leave(leader) is NONE
    assert world.heartbeat(follower, generation) is ErrorCode.REBALANCE_IN_PROGRESS
    answer = world.join(follower).answer
    assert (answer.leader_id, answer.generation_id, len(answer.members)) == (follower, generation + 1, 1)


def test_member_leaves_while_others_wait_to_join(world: World) -> None:
    (leader, follower), _generation = world.stable(2)
    waiting = world.join(leader)
    world.leave(follower)
    assert len(waiting.answer.members) == 1


def test_leader_leaves_while_others_wait_to_sync(world: World) -> None:
    (leader, follower), generation = world.stable(2)
    world.join(leader)
    world.join(follower)
    waiting = world.sync(follower, generation + 1)
    world.leave(leader)
    assert waiting.code is ErrorCode.REBALANCE_IN_PROGRESS
    assert world.join(follower).answer.leader_id == follower


def test_member_that_leaves_while_it_waits_is_answered(world: World) -> None:
    (leader, follower), generation = world.stable(2)
    waiting = world.join(leader)
    world.leave(leader)
    assert waiting.code is ErrorCode.UNKNOWN_MEMBER_ID
    assert world.heartbeat(follower, generation) is ErrorCode.REBALANCE_IN_PROGRESS


def test_several_members_leave_at_once(world: World) -> None:
    (leader, follower, third), generation = world.stable(3)
    codes = world.groups.leave("g", [(leader, None), ("stranger", None), (follower, None)])
    assert codes == [NONE, ErrorCode.UNKNOWN_MEMBER_ID, NONE]
    assert world.join(third).answer.generation_id == generation + 1


def test_leave_errors(world: World) -> None:
    assert world.leave("anyone") is ErrorCode.UNKNOWN_MEMBER_ID
    world.stable(1)
    assert world.leave("stranger") is ErrorCode.UNKNOWN_MEMBER_ID
    assert world.leave("") is ErrorCode.UNKNOWN_MEMBER_ID
    assert world.leave("", "no instance") is ErrorCode.UNKNOWN_MEMBER_ID


def test_last_member_leaves(world: World) -> None:
    (member,), generation = world.stable(1)
    world.leave(member)
    assert world.state() is State.EMPTY
    assert world.group().generation_id == generation + 1
    assert world.heartbeat(member, generation) is ErrorCode.UNKNOWN_MEMBER_ID
    assert world.sync(member, generation).code is ErrorCode.UNKNOWN_MEMBER_ID


# Clients that are gone while they wait


def test_gone_client_that_was_never_told_its_id_is_no_member(world: World) -> None:
    (leader,), _ = world.stable(1)
    newcomer = world.join()
    world.groups.abandon("g", newcomer)
    answer = world.join(leader).answer
    assert [member.member_id for member in answer.members] == [leader]
    assert not newcomer.answered


def test_gone_client_may_come_back_within_its_session(world: World) -> None:
    (leader, follower), generation = world.stable(2, session_s=10)
    gone = world.join(leader)
    world.groups.abandon("g", gone)
    world.advance(9)
    assert world.heartbeat(follower, generation) is ErrorCode.REBALANCE_IN_PROGRESS
    back = world.join(leader)
    world.join(follower)
    assert back.answer.generation_id == generation + 1
    assert len(back.answer.members) == 2


def test_gone_client_that_does_not_come_back(world: World) -> None:
    (leader, follower), _generation = world.stable(2, session_s=10, rebalance_s=60)
    world.groups.abandon("g", world.join(leader, rebalance_s=60))
    waiting = world.join(follower, rebalance_s=60)
    assert not waiting.answered
    world.advance(10)
    assert [member.member_id for member in waiting.answer.members] == [follower]


def test_only_client_of_a_group_is_gone(world: World) -> None:
    never_used = world.join(takes_member_id=True).answer.member_id
    world.groups.abandon("g", world.join())
    assert world.state() is State.EMPTY
    assert world.join(never_used).answer.generation_id == 2


def test_client_gone_while_it_waits_to_sync(world: World) -> None:
    (leader, follower), generation = world.stable(2, session_s=10)
    world.join(leader)
    world.join(follower)
    gone = world.sync(follower, generation + 1)
    world.groups.abandon("g", gone)
    world.sync(leader, generation + 1, {leader: b"", follower: b"x"})
    assert not gone.answered
    assert world.sync(follower, generation + 1).answer.assignment == b"x"


def test_abandoning_what_nobody_waits_for(world: World) -> None:
    reply = world.join()
    world.groups.abandon("g", reply)
    world.groups.abandon("unknown", reply)
    assert world.heartbeat(reply.answer.member_id, 1) is NONE


# Static members


def test_static_member_joins_in_one_step(world: World) -> None:
    answer = world.join(instance_id="i", takes_member_id=True).answer
    assert answer.code is NONE
    assert answer.member_id.startswith("i-")
    assert answer.members[0].instance_id == "i"


def static(world: World, *instances: str, **options: Any) -> tuple[list[str], int]:
    """A stable group of static members: their ids, the leader first, and the generation."""
    members: list[str] = []
    for count, instance in enumerate(instances):
        newcomer = world.join(instance_id=instance, **options)
        replies = [
            *(world.join(member, instance_id=instances[at], **options) for at, member in enumerate(members)),
            newcomer,
        ]
        members = [reply.answer.member_id for reply in replies]
        generation = replies[0].answer.generation_id
        for at in range(count, -1, -1):
            assignments = {member: instances[number].encode() for number, member in enumerate(members)}
            world.sync(members[at], generation, assignments if at == 0 else None, instance_id=instances[at])
    return members, world.group().generation_id


def test_static_member_that_starts_again_goes_on_where_its_predecessor_was(world: World) -> None:
    (leader, follower), generation = static(world, "a", "b")
    answer = world.join(instance_id="b", protocols={"range": b"other topics"}).answer
    assert (answer.code, answer.generation_id, answer.leader_id) == (NONE, generation, leader)
    assert (answer.members, answer.skip_assignment) == ((), False)
    assert answer.member_id != follower
    assert world.sync(answer.member_id, generation, instance_id="b").answer.assignment == b"b"
    assert world.heartbeat(leader, generation, "a") is NONE, "the others do not notice"
    (_, told) = world.groups.describe("g").members
    assert (told.id, told.assignment, told.protocols) == (answer.member_id, b"b", {"range": b"other topics"})


def test_leader_that_starts_again_leads_and_need_not_assign(world: World) -> None:
    (leader, follower), generation = static(world, "a", "b")
    answer = world.join(instance_id="a").answer
    assert (answer.code, answer.generation_id, answer.leader_id) == (NONE, generation, answer.member_id)
    assert [member.member_id for member in answer.members] == [answer.member_id, follower]
    assert answer.skip_assignment
    assert world.sync(answer.member_id, generation, {answer.member_id: b"x"}).answer.assignment == b"a"
    again = world.join(instance_id="a", takes_skip=False).answer
    assert (again.generation_id, again.leader_id) == (generation, answer.member_id), "not told that it leads"
    assert (again.members, again.skip_assignment) == ((), False)
    assert world.group().leader_id == again.member_id
    assert world.heartbeat(leader, generation, "a") is ErrorCode.FENCED_INSTANCE_ID


def test_predecessor_is_fenced(world: World) -> None:
    (old,), generation = static(world, "i")
    new = world.join(instance_id="i").answer.member_id
    fenced, unknown = ErrorCode.FENCED_INSTANCE_ID, ErrorCode.UNKNOWN_MEMBER_ID
    assert world.heartbeat(old, generation, "i") is fenced
    assert world.sync(old, generation, instance_id="i").code is fenced
    assert world.commit(old, generation, "i") is fenced
    assert world.join(old, instance_id="i").code is fenced
    assert world.leave(old, "i") is fenced
    assert world.heartbeat(old, generation) is unknown
    assert world.heartbeat(new, generation, "i") is NONE
    assert world.heartbeat(new, generation, "j") is unknown
    assert world.join(new, instance_id="j").code is unknown
    assert world.join(new, instance_id="i").code is NONE


def test_static_member_that_changes_the_choice_of_protocol_starts_a_rebalance(world: World) -> None:
    both = {"range": b"", "roundrobin": b""}
    (leader, follower), generation = static(world, "a", "b", protocols=both)
    alone = world.join(instance_id="b", protocols={"roundrobin": b""})
    assert not alone.answered
    assert world.heartbeat(leader, generation, "a") is ErrorCode.REBALANCE_IN_PROGRESS
    answer = world.join(leader, instance_id="a", protocols=both).answer
    assert (answer.generation_id, answer.protocol_name) == (generation + 1, "roundrobin")
    assert alone.answer.generation_id == generation + 1
    assert world.heartbeat(follower, generation, "b") is ErrorCode.FENCED_INSTANCE_ID


def test_static_member_that_starts_again_before_it_is_assigned_starts_a_rebalance(world: World) -> None:
    """Its old id may be on the way to the leader."""
    (leader, follower), generation = static(world, "a", "b")
    world.join(follower, instance_id="b", protocols={"range": b"new"})
    world.join(leader, instance_id="a")
    waiting = world.sync(follower, generation + 1, instance_id="b")
    successor = world.join(instance_id="b")
    assert waiting.code is ErrorCode.FENCED_INSTANCE_ID
    assert not successor.answered
    assert world.sync(leader, generation + 1, {follower: b"x"}, instance_id="a").code is not NONE
    again = world.join(leader, instance_id="a").answer
    assert [member.instance_id for member in again.members] == ["a", "b"]
    assert successor.answer.generation_id == again.generation_id == generation + 2


def test_silent_static_member_keeps_its_place_through_a_rebalance(world: World) -> None:
    (leader, silent), generation = static(world, "a", "b", session_s=60, rebalance_s=8)
    newcomer = world.join(session_s=60, rebalance_s=8)
    again = world.join(leader, instance_id="a", session_s=60, rebalance_s=8)
    world.advance(7.9)
    assert not again.answered
    world.advance(0.1)
    assert [member.member_id for member in again.answer.members] == [leader, silent, newcomer.answer.member_id]
    world.sync(newcomer.answer.member_id, generation + 1)
    world.sync(leader, generation + 1, {silent: b"kept for it"}, instance_id="a")
    back = world.join(instance_id="b", session_s=60, rebalance_s=8).answer
    assert (back.code, back.generation_id) == (NONE, generation + 1)
    assert world.sync(back.member_id, generation + 1, instance_id="b").answer.assignment == b"kept for it"
    world.advance(8)
    assert world.heartbeat(back.member_id, generation + 1, "b") is NONE


def test_static_member_that_is_silent_for_too_long_is_removed(world: World) -> None:
    """When it has not synced in time, or when its session is over, whatever comes first."""
    for session_s, time_s in ((60.0, 8.0), (6.0, 6.0)):
        (leader, silent), generation = static(world, "a", "b", session_s=session_s, rebalance_s=8)
        world.join(leader, instance_id="a", session_s=60, rebalance_s=8)
        world.advance(5)
        world.heartbeat(silent, generation, "b")
        world.advance(3)
        world.sync(leader, generation + 1, {}, instance_id="a")
        world.advance(time_s - 0.1)
        assert world.heartbeat(leader, generation + 1, "a") is NONE
        world.advance(0.1)
        assert world.heartbeat(leader, generation + 1, "a") is ErrorCode.REBALANCE_IN_PROGRESS
        assert world.heartbeat(silent, generation + 1, "b") is ErrorCode.UNKNOWN_MEMBER_ID
        assert world.leave("", "a") is NONE


def test_another_one_leads_when_a_static_leader_is_silent(world: World) -> None:
    (leader, follower), generation = static(world, "a", "b", session_s=60, rebalance_s=8)
    answer = world.join(follower, instance_id="b", protocols={"range": b"new"}, session_s=60, rebalance_s=8)
    world.advance(8)
    assert (answer.answer.generation_id, answer.answer.leader_id) == (generation + 1, follower)
    assert [member.member_id for member in answer.answer.members] == [leader, follower]
    world.sync(follower, generation + 1, {follower: b"", leader: b"x"}, instance_id="b")
    assert world.sync(leader, generation + 1, instance_id="a").answer.assignment == b"x"


def test_rebalance_of_silent_static_members_waits_for_one_of_them(world: World) -> None:
    for rebalance_s in (8.0, 0.0):
        (leader, follower, third), generation = static(world, "a", "b", "c", session_s=60, rebalance_s=rebalance_s)
        assert world.leave("", "c") is NONE
        for _ in range(3):
            world.advance(8)
            assert world.heartbeat(leader, generation, "a") is ErrorCode.REBALANCE_IN_PROGRESS
            assert world.heartbeat(follower, generation, "b") is ErrorCode.REBALANCE_IN_PROGRESS
        assert world.heartbeat(third, generation, "c") is ErrorCode.UNKNOWN_MEMBER_ID
        answer = world.join(follower, instance_id="b", session_s=60, rebalance_s=rebalance_s)
        world.advance(8)
        assert (answer.answer.generation_id, answer.answer.leader_id) == (generation + 1, follower)
        world.advance(70)
        assert world.state() is State.EMPTY


def test_static_member_whose_connection_is_lost_keeps_its_place(world: World) -> None:
    (leader,), _ = world.stable(1)
    gone = world.join(instance_id="i")
    world.groups.abandon("g", gone)
    answer = world.join(leader, rebalance_s=8)
    assert not answer.answered
    back = world.join(instance_id="i")
    assert back.answer.generation_id == answer.answer.generation_id
    assert not gone.answered


def test_size_follows_a_static_member_that_starts_again(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    static(world, "i", protocols={"range": bytes(1000)})
    size = world.groups.size
    monkeypatch.setattr(module, "GROUP_SIZE_MAX", size + 600)
    assert world.join(instance_id="i", protocols={"range": bytes(1500)}).code is NONE
    assert world.groups.size == size + 500
    assert world.join(instance_id="i", protocols={"range": bytes(1700)}).code is ErrorCode.POLICY_VIOLATION


def test_predecessor_that_waits_is_told(world: World) -> None:
    (leader,), _ = world.stable(1)
    waiting = world.join(instance_id="i")
    world.join(instance_id="i")
    assert waiting.code is ErrorCode.FENCED_INSTANCE_ID
    assert len(world.join(leader).answer.members) == 2


def test_static_member_is_removed_by_instance_id_alone(world: World) -> None:
    world.join(instance_id="i")
    assert world.leave("", "i") is NONE
    assert world.state() is State.EMPTY


def test_static_member_starts_again_in_a_full_group() -> None:
    world = World({"group.max.size": "1"})
    world.join(instance_id="i")
    assert world.join(instance_id="i").code is NONE
    assert world.join(instance_id="j").code is ErrorCode.GROUP_MAX_SIZE_REACHED


def test_order_of_preference_counts_as_a_change(world: World) -> None:
    both = {"range": b"", "roundrobin": b""}
    (leader, follower), _ = world.stable(2, protocols=both)
    assert world.join(follower, protocols=both).answered
    assert not world.join(follower, protocols=dict(reversed(both.items()))).answered
    assert RANGE.keys() < both.keys()
    assert world.join(leader, protocols=both).answered
