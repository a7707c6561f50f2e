"""Who belongs to a group: its members, the static ones by instance id, and the ids that were handed out.

Invariants
- Members stand in the order in which they came, a static member that starts again in its predecessor's place. Each
  instance id belongs to one of them.
- All members have at least one protocol in common, and one protocol type.
- `size` follows the members: their metadata and assignments change only through methods of this class.
- A member id that was handed out and not used yet (KIP-394) is no member: it votes for nothing and gets nothing.
"""

import math

from totalog.gateway.coordinators.members import JoinReply, JoinRequest, Member, Pending
from totalog.gateway.wire.errors import ErrorCode

PENDING_SIZE = 512
"""Bytes that a handed-out member id costs."""


class Roster:
    def __init__(self, members_max: int, pending_max: int) -> None:
        self.members: dict[str, Member] = {}
        self.pending: dict[str, Pending] = {}
        """Handed-out ids, the oldest first."""
        self.protocol_type: str | None = None
        """Of the members there are, or of the last there were."""
        self._members_size = 0
        self._static: dict[str, str] = {}
        self._members_max = members_max
        self._pending_max = pending_max

    # Looking

    @property
    def size(self) -> int:
        """Bytes that members and handed-out ids take."""
        return self._members_size + PENDING_SIZE * len(self.pending)

    def check(self, member_id: str, instance_id: str | None) -> ErrorCode:
        """Whether there is this member; a static one is known by its instance id, which only one member may use."""
        if instance_id is not None:
            owner = self._static.get(instance_id)
            if owner is None:
                return ErrorCode.UNKNOWN_MEMBER_ID
            if owner != member_id:
                return ErrorCode.FENCED_INSTANCE_ID
        return ErrorCode.NONE if member_id in self.members else ErrorCode.UNKNOWN_MEMBER_ID

    def check_join(self, request: JoinRequest) -> ErrorCode:
        """Whether the group can take the member in, or take it on, with the protocols it supports."""
        if not request.protocol_type or not request.protocols:
            return ErrorCode.INCONSISTENT_GROUP_PROTOCOL
        members = self.members.values()
        if members:
            common = any(all(name in member.protocols for member in members) for name in request.protocols)
            if request.protocol_type != self.protocol_type or not common:
                return ErrorCode.INCONSISTENT_GROUP_PROTOCOL
        comes_back = request.member_id in self.members or request.instance_id in self._static
        if not comes_back and len(members) >= self._members_max:
            return ErrorCode.GROUP_MAX_SIZE_REACHED
        return ErrorCode.NONE

    def static_member(self, instance_id: str | None) -> Member | None:
        return None if instance_id is None else self.members.get(self._static.get(instance_id, ""))

    def joining(self, request: JoinRequest) -> Member | None:
        """The member that joins again, or whose place is taken."""
        return self.members.get(request.member_id) if request.member_id else self.static_member(request.instance_id)

    def joined(self) -> list[Member]:
        """The members that wait for the answer to a join."""
        return [member for member in self.members.values() if member.join_reply is not None]

    def all_joined(self) -> bool:
        return all(member.join_reply is not None for member in self.members.values())

    def rebalance_timeout_s(self) -> float:
        """The longest of all members; 0 without members."""
        return max((member.rebalance_timeout_s for member in self.members.values()), default=0.0)

    def last_offer_at(self) -> float:
        """When the youngest of the unused ids was handed out; minus infinity without any."""
        return max((pending.given_at for pending in self.pending.values()), default=-math.inf)

    def next_deadline(self) -> float:
        """When the next session runs out or the next unused id is to be forgotten."""
        deadlines = [pending.until for pending in self.pending.values()]
        deadlines += [member.session_until for member in self.members.values()]
        return min(deadlines, default=math.inf)

    def select_protocol(self, leader_id: str) -> str:
        """Each member votes for the one it likes best of those that all support; the leader breaks a tie."""
        members = list(self.members.values())
        candidates = set.intersection(*(set(member.protocols) for member in members))
        votes = {name: 0 for name in self.members[leader_id].protocols if name in candidates}
        for member in members:
            votes[member.vote(candidates)] += 1
        return max(votes, key=votes.__getitem__)

    # Changing

    def offer(self, member_id: str, now: float, session_timeout_s: float) -> None:
        """Remember an id that was handed out. Beyond the limit the oldest is forgotten: its owner asks for another."""
        while len(self.pending) >= self._pending_max:
            del self.pending[next(iter(self.pending))]
        self.pending[member_id] = Pending(now, now + session_timeout_s)

    def take_up(self, member_id: str) -> bool:
        """The id is used, or given back: it is pending no more. False when it was not."""
        return self.pending.pop(member_id, None) is not None

    def forget_offers(self, now: float) -> None:
        for member_id in [member_id for member_id, pending in self.pending.items() if pending.until <= now]:
            del self.pending[member_id]

    def add(self, request: JoinRequest, member_id: str, reply: JoinReply, *, id_known: bool) -> None:
        """`check_join` has agreed, and the instance id is free."""
        assert request.instance_id not in self._static
        member = _member_of(request, member_id, id_known=id_known or request.instance_id is not None)
        member.join_reply = reply
        self.protocol_type = request.protocol_type
        self.members[member_id] = member
        self._members_size += member.size
        if member.instance_id is not None:
            self._static[member.instance_id] = member_id

    def replace(self, predecessor: Member, request: JoinRequest, member_id: str) -> Member:
        """`check_join` has agreed: a static member starts again. It has its predecessor's assignment."""
        assert predecessor.instance_id is not None
        assert predecessor.instance_id == request.instance_id
        member = _member_of(request, member_id, id_known=True)
        member.assignment, member.synced = predecessor.assignment, predecessor.synced
        self._members_size += member.size - predecessor.size
        self.members = {
            each.id: each for each in (member if old is predecessor else old for old in self.members.values())
        }
        self._static[predecessor.instance_id] = member_id
        return member

    def update(self, member: Member, request: JoinRequest) -> bool:
        """Take over what a member says of itself when it joins again. True when its protocols or metadata changed."""
        changed = member.protocols != request.protocols or list(member.protocols) != list(request.protocols)
        self._members_size -= member.size
        member.client_id, member.client_host = request.client_id, request.client_host
        member.session_timeout_s = request.session_timeout_s
        member.rebalance_timeout_s = request.rebalance_timeout_s
        member.protocols = dict(request.protocols)
        self._members_size += member.size
        return changed

    def assign(self, member: Member, assignment: bytes) -> None:
        self._members_size += len(assignment) - len(member.assignment)
        member.assignment = assignment

    def remove(self, member_id: str) -> Member:
        member = self.members.pop(member_id)
        self._members_size -= member.size
        if member.instance_id is not None:
            del self._static[member.instance_id]
        return member


def _member_of(request: JoinRequest, member_id: str, *, id_known: bool) -> Member:
    return Member(
        id=member_id,
        instance_id=request.instance_id,
        client_id=request.client_id,
        client_host=request.client_host,
        session_timeout_s=request.session_timeout_s,
        rebalance_timeout_s=request.rebalance_timeout_s,
        protocols=dict(request.protocols),
        id_known=id_known,
    )
