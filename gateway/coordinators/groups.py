"""The coordinator of all consumer groups of the broker: finds the group, gives it the time, and wakes it when it is
due.

What a group does is in `group`; what belongs to it beyond one group is here: which groups there are, the limits, and
the settings that bound what a member may ask for. A group exists while it has members or handed-out ids, for some time
after that, and as long as it has committed offsets, whether or not anything of it stands here: after a restart only the
offsets are left, members find that they are unknown, and join again.

Invariants
- Each group with a deadline has one timer, which is never later than the deadline. It may be earlier: a heartbeat moves
  a session's end without touching the timer, which then fires for nothing and is set anew.
- `size` is the sum of the sizes of all groups, and no request makes it grow beyond STATE_SIZE_MAX.
"""

import logging
import math
from collections.abc import Callable, Sequence, Set
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple, TypeVar
from uuid import uuid4

from totalog.gateway import waiting
from totalog.gateway.broker import AppendFailed, Unreadable
from totalog.gateway.coordinators.group import Group, State
from totalog.gateway.coordinators.members import (
    JoinAnswer,
    JoinReply,
    JoinRequest,
    Member,
    SyncAnswer,
    SyncReply,
    SyncRequest,
)
from totalog.gateway.coordinators.roster import Roster
from totalog.gateway.coordinators.subscription import subscribed_of
from totalog.gateway.lane import Steps, finish
from totalog.gateway.waiting import Later
from totalog.gateway.wire.errors import ErrorCode, ProtocolViolation

if TYPE_CHECKING:
    from totalog.gateway.broker import Broker
    from totalog.gateway.timers import Handle

Answer = TypeVar("Answer", JoinAnswer, SyncAnswer)

CONSUMERS = "consumer"
"""The protocol type of groups whose members' metadata are a subscription."""

GROUPS_COUNT_MAX = 10_000
"""Groups that stand here at once. Beyond it the longest empty one makes room; a join of a further one is refused with
POLICY_VIOLATION when none is empty."""

MEMBERS_COUNT_MAX = 2_000
"""Members of one group; group.max.size may lower it. Beyond it: GROUP_MAX_SIZE_REACHED."""

PENDING_COUNT_MAX = 2_000
"""Handed-out and unused member ids of one group; beyond it the oldest is forgotten."""

ID_PREFIX_LENGTH_MAX = 255
"""Characters of a client or instance id that a member id begins with. It is there for people; a client id may be as
long as any string, and with a uuid behind it would be longer."""

STATE_SIZE_MAX = 128 << 20
"""Bytes of all members' ids, metadata and assignments. A join that goes beyond is refused with POLICY_VIOLATION, an
assignment with UNKNOWN_SERVER_ERROR (as by Kafka when a group is too large to be stored)."""

GROUP_SIZE_MAX = 16 << 20
"""The same of one group: its leader gets all of it in one answer, and so does who describes it."""

log = logging.getLogger("totalog")


class Listed(NamedTuple):
    group_id: str
    protocol_type: str
    state: State


@dataclass(frozen=True, slots=True)
class Description:
    """A group as it is at this moment."""

    state: State
    protocol_type: str = ""
    protocol_name: str = ""
    """Empty unless the group is stable."""
    members: tuple[Member, ...] = ()


@dataclass(slots=True)
class _Entry:
    """A group, its size when it was last looked at, and its timer."""

    group: Group
    size: int = 0
    timer: "Handle | None" = None
    timer_at: float = math.inf
    empty_since: float | None = None
    """None while there are members."""


class GroupCoordinator:
    def __init__(self, broker: "Broker", *, now: Callable[[], float] = waiting.now) -> None:
        config = broker.config
        self.size = 0
        self._broker = broker
        self._now = now
        self._groups: dict[str, _Entry] = {}
        self._session_timeouts_s = (
            config.integer("group.min.session.timeout.ms") / 1000,
            config.integer("group.max.session.timeout.ms") / 1000,
        )
        self._initial_delay_s = config.integer("group.initial.rebalance.delay.ms") / 1000
        self._members_max = min(config.integer("group.max.size"), MEMBERS_COUNT_MAX)
        self._retention_s = config.integer("offsets.retention.minutes") * 60
        self._check_interval_s = config.integer("offsets.retention.check.interval.ms") / 1000
        broker.timers.call_at(now() + self._check_interval_s, self._expire)

    # What members ask

    def join(self, request: JoinRequest, reply: JoinReply) -> None:
        """Calls `reply` at once or later, when the rebalance ends."""
        now = self._now()
        entry = self._find_or_create(request, now)
        if isinstance(entry, ErrorCode):
            reply(JoinAnswer(entry, request.member_id))
            return
        named_after = request.client_id if request.instance_id is None else request.instance_id
        new_id = f"{named_after[:ID_PREFIX_LENGTH_MAX]}-{uuid4()}"
        entry.group.join(request, new_id, now, reply)
        self._settle(entry, now)

    def _find_or_create(self, request: JoinRequest, now: float) -> "_Entry | ErrorCode":
        """The group to join, or why there is none."""
        if not request.group_id:
            return ErrorCode.INVALID_GROUP_ID
        shortest, longest = self._session_timeouts_s
        if not shortest <= request.session_timeout_s <= longest:
            return ErrorCode.INVALID_SESSION_TIMEOUT
        entry = self._groups.get(request.group_id)
        if entry is None and request.member_id:
            return ErrorCode.UNKNOWN_MEMBER_ID
        known = entry.group.roster.joining(request) if entry is not None else None
        if not self._has_room(entry, request.size - (known.size if known is not None else 0)):
            return ErrorCode.POLICY_VIOLATION
        return entry or self._create(request.group_id, now) or ErrorCode.POLICY_VIOLATION

    def sync(self, request: SyncRequest, reply: SyncReply) -> None:
        """Calls `reply` at once or later, when the leader has brought the assignments."""
        now = self._now()
        entry = self._groups.get(request.group_id)
        if not request.group_id:
            reply(SyncAnswer(ErrorCode.INVALID_GROUP_ID))
        elif entry is None:
            reply(SyncAnswer(ErrorCode.UNKNOWN_MEMBER_ID))
        elif not self._has_room(entry, _growth(entry.group, request)):
            reply(SyncAnswer(ErrorCode.UNKNOWN_SERVER_ERROR))
        else:
            entry.group.sync(request, now, reply)
            self._settle(entry, now)

    async def answer(self, group_id: str, later: Later[Answer]) -> Answer:
        """What `join` or `sync`, asked with `later.set` as reply, come to; abandoned when the client goes before."""
        try:
            return await later.wait()
        finally:
            if not later.is_set:
                self.abandon(group_id, later.set)

    def abandon(self, group_id: str, reply: JoinReply | SyncReply) -> None:
        """The client that waited for `reply` is gone."""
        entry = self._groups.get(group_id)
        if entry is not None:
            now = self._now()
            entry.group.abandon(reply, now)
            self._settle(entry, now)

    def heartbeat(self, group_id: str, generation_id: int, member_id: str, instance_id: str | None) -> ErrorCode:
        if not group_id:
            return ErrorCode.INVALID_GROUP_ID
        entry = self._groups.get(group_id)
        if entry is None:
            return ErrorCode.UNKNOWN_MEMBER_ID
        return entry.group.heartbeat(generation_id, member_id, instance_id, self._now())

    def leave(self, group_id: str, members: Sequence[tuple[str, str | None]]) -> list[ErrorCode]:
        """Members, each by member id and instance id, leave; one error code for each."""
        entry = self._groups.get(group_id)
        if entry is None:
            return [ErrorCode.UNKNOWN_MEMBER_ID] * len(members)
        now = self._now()
        codes = [entry.group.leave(member_id, instance_id, now) for member_id, instance_id in members]
        self._settle(entry, now)
        return codes

    def check_commit(self, group_id: str, generation_id: int, member_id: str, instance_id: str | None) -> ErrorCode:
        """Whether offsets may be committed for the group. A group that does not exist comes into being by a commit that
        claims no generation; else GROUP_ID_NOT_FOUND. Raises Unreadable."""
        entry = self._groups.get(group_id)
        if entry is not None:
            return entry.group.check_commit(generation_id, member_id, instance_id, self._now())
        if generation_id < 0:
            return ErrorCode.NONE
        exists = self._broker.offsets.has_group(group_id)
        return ErrorCode.UNKNOWN_MEMBER_ID if exists else ErrorCode.GROUP_ID_NOT_FOUND

    # What tools ask. Each raises Unreadable.

    def all(self) -> list[Listed]:
        here = [
            Listed(group_id, entry.group.roster.protocol_type or "", entry.group.state)
            for group_id, entry in self._groups.items()
        ]
        only_offsets = (group_id for group_id in self._broker.offsets.group_ids() if group_id not in self._groups)
        return here + [Listed(group_id, "", State.EMPTY) for group_id in only_offsets]

    def describe(self, group_id: str) -> Description:
        """State DEAD: there is no such group."""
        entry = self._groups.get(group_id)
        if entry is None:
            exists = self._broker.offsets.has_group(group_id)
            return Description(State.EMPTY if exists else State.DEAD)
        group = entry.group
        return Description(
            group.state,
            group.roster.protocol_type or "",
            (group.protocol_name or "") if group.state is State.STABLE else "",
            tuple(group.roster.members.values()),
        )

    def delete(self, group_id: str) -> Steps[ErrorCode]:
        """Delete an empty group and its committed offsets. It may be joined meanwhile: then it stays, with the offsets
        that are left."""
        entry = self._groups.get(group_id)
        if entry is None and not self._broker.offsets.has_group(group_id):
            return ErrorCode.GROUP_ID_NOT_FOUND
        if entry is not None and entry.group.state is not State.EMPTY:
            return ErrorCode.NON_EMPTY_GROUP
        try:
            for _ in self._broker.offsets.delete_group(group_id):
                yield
                entry = self._groups.get(group_id)
                if entry is not None and entry.group.state is not State.EMPTY:
                    return ErrorCode.NON_EMPTY_GROUP
        except AppendFailed:
            return ErrorCode.COORDINATOR_NOT_AVAILABLE
        if entry is not None:
            self._drop(entry)
        return ErrorCode.NONE

    def check_delete_offsets(self, group_id: str) -> ErrorCode:
        """Whether single offsets of the group may be deleted: it has no members, or such as say what they read."""
        entry = self._groups.get(group_id)
        if entry is None:
            return ErrorCode.NONE if self._broker.offsets.has_group(group_id) else ErrorCode.GROUP_ID_NOT_FOUND
        tells = entry.group.state is State.EMPTY or entry.group.roster.protocol_type == CONSUMERS
        return ErrorCode.NONE if tells else ErrorCode.NON_EMPTY_GROUP

    def subscribed(self, group_id: str, topics: Set[str]) -> Steps[Set[str]]:
        """Those of `topics` that members of the group are subscribed to; all of them where one does not say so."""
        entry = self._groups.get(group_id)
        if entry is None:
            return frozenset()
        protocol, found = entry.group.protocol_name or "", set[str]()
        for member in tuple(entry.group.roster.members.values()):
            try:
                found |= yield from subscribed_of(member.protocols.get(protocol, b""), topics)
            except ProtocolViolation:
                return topics
            yield
        return found

    # Groups and their timers

    def _create(self, group_id: str, now: float) -> _Entry | None:
        """None: there are too many."""
        if len(self._groups) >= GROUPS_COUNT_MAX:
            longest = min(
                (entry for entry in self._groups.values() if _is_idle(entry.group)),
                key=lambda entry: entry.empty_since or 0.0,
                default=None,
            )
            if longest is None:
                self._complain(f"there are {GROUPS_COUNT_MAX} groups, the limit: refused: {group_id}")
                return None
            self._drop(longest)
        roster = Roster(self._members_max, PENDING_COUNT_MAX)
        entry = _Entry(Group(group_id, roster, initial_delay_s=self._initial_delay_s), empty_since=now)
        self._groups[group_id] = entry
        return entry

    def _has_room(self, entry: _Entry | None, size: int) -> bool:
        """Whether `size` bytes more fit into the group and into all of them."""
        for what, taken, limit in (
            ("all groups take", self.size, STATE_SIZE_MAX),
            ("it takes", 0 if entry is None else entry.size, GROUP_SIZE_MAX),
        ):
            if taken + size > limit:
                self._complain(f"a group's request is refused: {what} {taken} bytes, the limit is {limit}")
                return False
        return True

    def _complain(self, text: str) -> None:
        self._broker.complaints.tell("groups", text)

    def _settle(self, entry: _Entry, now: float) -> None:
        """After anything happened to a group: take account of its size, set its timer, drop it if it never lived."""
        group = entry.group
        size = group.roster.size
        self.size += size - entry.size
        entry.size = size
        if _is_idle(group) and group.generation_id == 0:
            self._drop(entry)
            return
        if group.state is not State.EMPTY:
            entry.empty_since = None
        elif entry.empty_since is None:
            entry.empty_since = now
        deadline = group.next_deadline()
        if deadline < entry.timer_at:
            self._set_timer(entry, deadline)

    def _set_timer(self, entry: _Entry, deadline: float) -> None:
        if entry.timer is not None:
            entry.timer.cancel()
        entry.timer, entry.timer_at = None, deadline
        if deadline < math.inf:
            entry.timer = self._broker.timers.call_at(deadline, lambda: self._wake(entry))

    def _wake(self, entry: _Entry) -> None:
        now = self._now()
        entry.timer, entry.timer_at = None, math.inf
        entry.group.tick(now)
        self._settle(entry, now)

    def _drop(self, entry: _Entry) -> None:
        self._set_timer(entry, math.inf)
        self.size -= entry.size
        del self._groups[entry.group.id]

    # Expiry

    def _expire(self) -> None:
        """Take back offsets past offsets.retention.minutes (KIP-211): counted from when the group's last member left,
        or from the commit where the group has had no members in this life of the broker. Then forget groups of which
        nothing is left."""
        now = self._now()
        self._broker.timers.call_at(now + self._check_interval_s, self._expire)
        try:
            offsets = self._broker.offsets
        except Unreadable:
            return  # and was complained about
        before_ms = self._broker.clock.wall_ms() - int(self._retention_s * 1000)
        try:
            for group_id in offsets.group_ids():
                entry = self._groups.get(group_id)
                if entry is None:
                    finish(offsets.expire(group_id, before_ms))
                elif entry.empty_since is not None and now - entry.empty_since >= self._retention_s:
                    finish(offsets.delete_group(group_id))
        except AppendFailed as failure:
            log.warning("expired offsets stay for now: %s", failure)
        for entry in list(self._groups.values()):
            if _is_idle(entry.group) and not offsets.has_group(entry.group.id):
                self._drop(entry)


def _growth(group: Group, request: SyncRequest) -> int:
    """By how much the assignments that a leader brings are larger than those that they replace."""
    if not request.assignments:
        return 0
    return request.size - sum(len(member.assignment) for member in group.roster.members.values())


def _is_idle(group: Group) -> bool:
    """No members, and nobody was given a member id to come back with."""
    return group.state is State.EMPTY and not group.roster.pending
