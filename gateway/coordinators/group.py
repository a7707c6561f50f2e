"""One consumer group of the classic protocol, as a state machine: no clock, no timers, no event loop, no other group.

    Empty --join--> PreparingRebalance --all joined, or time is up--> CompletingRebalance --leader syncs--> Stable
                            ^                                                  |                              |
                            +------ a member joins anew, changes, leaves, dies or never syncs ----------------+

Invariants
- Time comes in as `now` and nobody wakes the group by itself: `next_deadline()` says when `tick` must be called next.
  After `tick(now)` the next deadline lies after `now`.
- Every reply is called exactly once, unless its waiter was taken back with `abandon`. In PreparingRebalance members may
  wait for the answer to a join, in CompletingRebalance for that to a sync, and nobody waits in any other state.
- Nobody waits for ever: a rebalance ends at the longest rebalance timeout of its members without those who did not join
  again, and a generation loses those who did not sync within that time.
- A static member (KIP-345) that starts again takes its predecessor's place and assignment; while the group is stable
  nobody else notices. One that is silent keeps its place, also through a rebalance, until it has not synced in time or
  its session runs out.
- A member's session runs except while it waits; a session that runs out removes its member.
- The generation grows each time a rebalance ends, and only then. Whoever is a member when it ends is in it, and nobody
  else. Assignments belong to one generation and come from its leader, which is one of its members.

Sources: Kafka's protocol guide, KIP-345, KIP-394, KIP-559, KIP-814, and what Apache Kafka 4.3 does.
"""

import math
from enum import StrEnum

from totalog.gateway.coordinators.members import (
    JoinAnswer,
    JoinedMember,
    JoinReply,
    JoinRequest,
    Member,
    SyncAnswer,
    SyncReply,
    SyncRequest,
)
from totalog.gateway.coordinators.roster import Roster
from totalog.gateway.wire.errors import ErrorCode

PENDING_HOLD_S = 0.5
"""How long a handed-out member id that nobody used can hold back a rebalance, counted from when it was handed out.

Waiting at all is worth it: of two members that start together, the second is between its two JoinGroup requests when
the first could go on alone, and would then be noticed only at the first one's next heartbeat, seconds later. A client
that lives comes back within a round trip; one that does not must cost little, where Kafka waits for it the whole
rebalance timeout."""


STATIC_WAIT_S_MIN = 1.0
"""How long a rebalance is put off at least when all its members are static and none has joined again."""


class State(StrEnum):
    """The values are Kafka's names in DescribeGroups and ListGroups."""

    EMPTY = "Empty"
    PREPARING_REBALANCE = "PreparingRebalance"
    COMPLETING_REBALANCE = "CompletingRebalance"
    STABLE = "Stable"
    DEAD = "Dead"
    """No group is in this state here: it is what DescribeGroups calls a group that does not exist."""


class Group:
    def __init__(self, group_id: str, roster: Roster, *, initial_delay_s: float = 0.0) -> None:
        """`initial_delay_s`: how long the first rebalance of an empty group waits for further members."""
        self.id = group_id
        self.roster = roster
        self.state = State.EMPTY
        self.generation_id = 0
        self.protocol_name: str | None = None
        self.leader_id: str | None = None
        """Of the generation. It leads the next one too, if it joins again, else the first member that does."""
        self._initial_delay_s = initial_delay_s
        # Of the rebalance being prepared: when it may end at the earliest, when it ends in any case, and how long it
        # waits for unused member ids at most (known once everyone else is there; ids handed out later add nothing).
        self._join_from = self._join_until = 0.0
        self._hold_until = math.inf
        # Of the generation: when members that did not sync are removed.
        self._sync_until = math.inf

    # Joining

    def join(self, request: JoinRequest, new_id: str, now: float, reply: JoinReply) -> None:
        """Take in a member, or let it join again. `new_id` is the id for a member that has none yet."""
        code = self.roster.check_join(request)
        if code is not ErrorCode.NONE:
            self._give_back(request.member_id, now)
            reply(JoinAnswer(code, request.member_id))
        elif request.member_id:
            self._join_by_id(request, now, reply)
        elif (predecessor := self.roster.static_member(request.instance_id)) is not None:
            self._succeed(predecessor, request, new_id, now, reply)
        elif request.takes_member_id and request.instance_id is None:
            self.roster.offer(new_id, now, request.session_timeout_s)
            reply(JoinAnswer(ErrorCode.MEMBER_ID_REQUIRED, new_id))
        else:
            self._add(request, new_id, now, reply, id_known=False)

    def _join_by_id(self, request: JoinRequest, now: float, reply: JoinReply) -> None:
        if request.instance_id is None and self.roster.take_up(request.member_id):
            self._add(request, request.member_id, now, reply, id_known=True)
            return
        code = self.roster.check(request.member_id, request.instance_id)
        if code is ErrorCode.NONE:
            self._join_again(self.roster.members[request.member_id], request, now, reply)
        else:
            reply(JoinAnswer(code, request.member_id))

    def _add(self, request: JoinRequest, member_id: str, now: float, reply: JoinReply, *, id_known: bool) -> None:
        self.roster.add(request, member_id, reply, id_known=id_known)
        if self.state is State.PREPARING_REBALANCE and now < self._join_from:
            self._join_from = min(now + self._initial_delay_s, self._join_until)
        self._rebalance(now)

    def _succeed(self, predecessor: Member, request: JoinRequest, new_id: str, now: float, reply: JoinReply) -> None:
        """A static member starts again. The others are troubled only if they would choose another protocol now, or if
        its predecessor's id may be under way to the leader."""
        led = predecessor.id == self.leader_id
        member = self.roster.replace(predecessor, request, new_id)
        _part(predecessor, ErrorCode.FENCED_INSTANCE_ID, now)
        if led:
            self.leader_id = new_id
        if self.state is State.STABLE and self.roster.select_protocol(self._leader().id) == self.protocol_name:
            member.heard(now)
            answer = self._join_answer(member)
            if led and request.takes_skip:
                answer = answer._replace(skip_assignment=True)
            elif led:  # it knows no better way, so that it does not assign anew, than not to know that it leads
                answer = answer._replace(leader_id=predecessor.id, members=())
            reply(answer)
            return
        member.join_reply = reply
        member.heard(now)
        self._rebalance(now)

    def _join_again(self, member: Member, request: JoinRequest, now: float, reply: JoinReply) -> None:
        """A member joins to take part in a rebalance, to start one, or because the answer to its last join was lost."""
        changed = self.roster.update(member, request)
        follows = self.state is State.STABLE and member.id != self.leader_id
        if not changed and (follows or self.state is State.COMPLETING_REBALANCE):
            member.heard(now)
            reply(self._join_answer(member))
            return
        # The older of two joins was left behind on another connection, most likely a dead one.
        member.answer_join(JoinAnswer(ErrorCode.REBALANCE_IN_PROGRESS, member.id), now)
        member.join_reply = reply
        member.heard(now)
        self._rebalance(now)

    # Rebalancing

    def _rebalance(self, now: float) -> None:
        """Begin a rebalance unless one is being prepared, and end it if nobody has to be waited for."""
        if self.state is not State.PREPARING_REBALANCE:
            self._join_until = now + self.roster.rebalance_timeout_s()
            first = self.state is State.EMPTY
            self._join_from = min(now + self._initial_delay_s, self._join_until) if first else now
            self._hold_until = math.inf
            self._sync_until = math.inf
            self.state = State.PREPARING_REBALANCE
            for member in self.roster.members.values():
                member.answer_sync(SyncAnswer(ErrorCode.REBALANCE_IN_PROGRESS), now)
        self._end_rebalance(now)

    def _end_rebalance(self, now: float) -> None:
        """End the rebalance being prepared if everyone has joined, or its time is up."""
        if self.roster.members and now < self._join_until and self._must_wait(now):
            return
        for member in list(self.roster.members.values()):
            if member.join_reply is None and member.instance_id is None:
                self.roster.remove(member.id)
        joined = self.roster.joined()
        if self.roster.members and not joined:
            self._join_until = now + max(self.roster.rebalance_timeout_s(), STATIC_WAIT_S_MIN)
            return
        self.generation_id += 1
        if not joined:
            self.state, self.leader_id = State.EMPTY, None
            return
        if self.leader_id not in {member.id for member in joined}:
            self.leader_id = joined[0].id
        self.state = State.COMPLETING_REBALANCE
        self.protocol_name = self.roster.select_protocol(self.leader_id)
        self._sync_until = now + self.roster.rebalance_timeout_s()
        for member in self.roster.members.values():
            member.synced = False
            member.answer_join(self._join_answer(member), now)

    def _must_wait(self, now: float) -> bool:
        """For the initial delay, for members that have not joined again, or for ids that were just handed out."""
        if now < self._join_from or not self.roster.all_joined():
            return True
        self._hold_until = self._held_until()
        return now < self._hold_until

    def _held_until(self) -> float:
        """Until when the unused member ids hold the rebalance."""
        return min(self._hold_until, self.roster.last_offer_at() + PENDING_HOLD_S)

    def _join_answer(self, member: Member) -> JoinAnswer:
        """What the member is told of the current generation: everything if it leads, little if it follows."""
        name, leader = self.protocol_name, self._leader()
        members: tuple[JoinedMember, ...] = ()
        assert name is not None
        if member is leader:
            everyone = self.roster.members.values()
            members = tuple(JoinedMember(each.id, each.instance_id, each.protocols[name]) for each in everyone)
        return JoinAnswer(
            ErrorCode.NONE, member.id, self.generation_id, self.roster.protocol_type, name, leader.id, members
        )

    def _leader(self) -> Member:
        assert self.leader_id is not None
        return self.roster.members[self.leader_id]

    # Syncing

    def sync(self, request: SyncRequest, now: float, reply: SyncReply) -> None:
        """Answer with the member's assignment as soon as the leader has brought it."""
        code = self._check_sync(request)
        if code is not ErrorCode.NONE:
            reply(SyncAnswer(code))
            return
        member = self.roster.members[request.member_id]
        member.synced = True
        # Of two syncs, the older one was left behind on another connection.
        member.answer_sync(SyncAnswer(ErrorCode.REBALANCE_IN_PROGRESS), now)
        member.sync_reply = reply
        member.heard(now)
        if member.id == self.leader_id and self.state is State.COMPLETING_REBALANCE:
            self.state = State.STABLE
            for other in self.roster.members.values():
                self.roster.assign(other, request.assignments.get(other.id, b""))
                other.answer_sync(self._sync_answer(other), now)
        elif self.state is State.STABLE:
            member.answer_sync(self._sync_answer(member), now)

    def _check_sync(self, request: SyncRequest) -> ErrorCode:
        code = self._check_generation(request.generation_id, request.member_id, request.instance_id)
        if code is not ErrorCode.NONE:
            return code
        if request.protocol_type not in (None, self.roster.protocol_type):
            return ErrorCode.INCONSISTENT_GROUP_PROTOCOL
        if request.protocol_name not in (None, self.protocol_name):
            return ErrorCode.INCONSISTENT_GROUP_PROTOCOL
        return ErrorCode.REBALANCE_IN_PROGRESS if self.state is State.PREPARING_REBALANCE else ErrorCode.NONE

    def _sync_answer(self, member: Member) -> SyncAnswer:
        return SyncAnswer(ErrorCode.NONE, self.roster.protocol_type, self.protocol_name, member.assignment)

    # Living, committing and leaving

    def _check_generation(self, generation_id: int, member_id: str, instance_id: str | None) -> ErrorCode:
        code = self.roster.check(member_id, instance_id)
        if code is ErrorCode.NONE and generation_id != self.generation_id:
            return ErrorCode.ILLEGAL_GENERATION
        return code

    def heartbeat(self, generation_id: int, member_id: str, instance_id: str | None, now: float) -> ErrorCode:
        code = self._check_generation(generation_id, member_id, instance_id)
        if code is not ErrorCode.NONE:
            return code
        self.roster.members[member_id].heard(now)
        rebalancing = self.state is State.PREPARING_REBALANCE
        return ErrorCode.REBALANCE_IN_PROGRESS if rebalancing else ErrorCode.NONE

    def check_commit(self, generation_id: int, member_id: str, instance_id: str | None, now: float) -> ErrorCode:
        """Whether offsets may be committed: by a member of this generation, or by anyone who claims no generation while
        the group is empty (tools, and consumers that assign partitions by themselves)."""
        if generation_id < 0 and self.state is State.EMPTY:
            return ErrorCode.NONE
        code = self._check_generation(generation_id, member_id, instance_id)
        if code is not ErrorCode.NONE:
            return code
        self.roster.members[member_id].heard(now)
        # The member knows of the new generation but has not got its partitions: what it owned is not its own any more.
        completing = self.state is State.COMPLETING_REBALANCE
        return ErrorCode.REBALANCE_IN_PROGRESS if completing else ErrorCode.NONE

    def leave(self, member_id: str, instance_id: str | None, now: float) -> ErrorCode:
        """A member leaves, or gives back an id it did not use. A static one may be named by its instance id alone."""
        static = self.roster.static_member(instance_id)
        if static is not None and not member_id:
            member_id = static.id
        elif self._give_back(member_id, now):
            return ErrorCode.NONE
        code = self.roster.check(member_id, instance_id)
        if code is ErrorCode.NONE:
            _part(self.roster.remove(member_id), ErrorCode.UNKNOWN_MEMBER_ID, now)
            self._rebalance(now)
        return code

    def _give_back(self, member_id: str, now: float) -> bool:
        """An id that was handed out will not be used: nobody waits for it any more. False: it was not handed out."""
        given = self.roster.take_up(member_id)
        if given and self.state is State.PREPARING_REBALANCE:
            self._end_rebalance(now)
        return given

    def abandon(self, reply: JoinReply | SyncReply, now: float) -> None:
        """The client that waited for `reply` is gone, and `reply` will not be called. The member may come back and ask
        again within its session, unless it was never told its id."""
        for member in self.roster.members.values():
            if reply in (member.join_reply, member.sync_reply):
                member.join_reply = member.sync_reply = None
                member.heard(now)
                if not member.id_known:
                    self.roster.remove(member.id)
                if self.state is State.PREPARING_REBALANCE:
                    self._end_rebalance(now)
                return

    # Time

    def next_deadline(self) -> float:
        """When `tick` has something to do; infinity when never."""
        deadline = self.roster.next_deadline()
        if self.state is not State.PREPARING_REBALANCE:
            return min(deadline, self._sync_until)
        if self.roster.all_joined():
            deadline = min(deadline, max(self._join_from, self._held_until()))
        return min(deadline, self._join_until)

    def tick(self, now: float) -> None:
        """Do what is due at `now`."""
        self.roster.forget_offers(now)
        sync_is_over = self._sync_until <= now
        if sync_is_over:
            self._sync_until = math.inf
        gone = [
            member.id
            for member in self.roster.members.values()
            if member.session_until <= now or (sync_is_over and not member.synced)
        ]
        for member_id in gone:
            _part(self.roster.remove(member_id), ErrorCode.UNKNOWN_MEMBER_ID, now)
        if gone:
            self._rebalance(now)
        elif self.state is State.PREPARING_REBALANCE:
            self._end_rebalance(now)


def _part(member: Member, code: ErrorCode, now: float) -> None:
    """Answer what one that is no member any more waits for."""
    member.answer_join(JoinAnswer(code, member.id), now)
    member.answer_sync(SyncAnswer(code), now)
