"""What goes into a group and comes out of it: requests, answers, and the member as the group remembers it.

Times are seconds of the event loop's clock. Everything here is plain data, except that `Member` knows whether it is
waiting for an answer, because a member that waits cannot send heartbeats and must not be taken for dead.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

from totalog.gateway.wire.errors import ErrorCode

MEMBER_OVERHEAD_SIZE = 1024
"""Bytes that a member costs beside its ids, metadata and assignment: objects, not payload."""

PROTOCOL_OVERHEAD_SIZE = 200
"""Bytes that a protocol costs beside its name and metadata: two objects and their place in a table."""


def _protocols_size(protocols: Mapping[str, bytes]) -> int:
    return sum(PROTOCOL_OVERHEAD_SIZE + len(name) + len(data) for name, data in protocols.items())


class JoinRequest(NamedTuple):
    """One JoinGroup request. `protocols` maps the names a member supports to its metadata, the preferred name first."""

    group_id: str
    member_id: str
    """Empty for a member that is new."""
    client_id: str
    client_host: str
    session_timeout_s: float
    rebalance_timeout_s: float
    """How long the group waits for this member to join again when it rebalances."""
    protocol_type: str
    protocols: Mapping[str, bytes]
    instance_id: str | None = None
    """Set for a static member (KIP-345)."""
    takes_member_id: bool = True
    """True from version 4 on: a new member is first told its id and joins again with it (KIP-394)."""
    takes_skip: bool = True
    """True from version 9 on: a leader can be told that it leads and need not assign (KIP-814)."""

    @property
    def size(self) -> int:
        """Bytes that the member will take here."""
        ids = len(self.member_id) + len(self.client_id) + len(self.client_host) + len(self.instance_id or "")
        return MEMBER_OVERHEAD_SIZE + ids + _protocols_size(self.protocols)


class JoinedMember(NamedTuple):
    """A member as the leader gets to know it."""

    member_id: str
    instance_id: str | None
    metadata: bytes


class JoinAnswer(NamedTuple):
    code: ErrorCode
    member_id: str
    generation_id: int = -1
    protocol_type: str | None = None
    protocol_name: str | None = None
    leader_id: str = ""
    members: tuple[JoinedMember, ...] = ()
    """All members for the leader, none for the others."""
    skip_assignment: bool = False
    """The leader need not assign: the assignments are those there were."""


@dataclass(frozen=True, slots=True)
class SyncRequest:
    group_id: str
    generation_id: int
    member_id: str
    instance_id: str | None = None
    protocol_type: str | None = None
    protocol_name: str | None = None
    """Both None: the request's version has no such fields, and nothing is compared."""
    assignments: Mapping[str, bytes] = field(default_factory=dict)
    """By member id; only the leader's count."""

    @property
    def size(self) -> int:
        return sum(len(data) for data in self.assignments.values())


class SyncAnswer(NamedTuple):
    code: ErrorCode
    protocol_type: str | None = None
    protocol_name: str | None = None
    assignment: bytes = b""


JoinReply = Callable[[JoinAnswer], None]
SyncReply = Callable[[SyncAnswer], None]


@dataclass(slots=True, eq=False)
class Member:
    """One member. While a reply is set, the client waits for that answer and its session does not run."""

    id: str
    instance_id: str | None
    client_id: str
    client_host: str
    session_timeout_s: float
    rebalance_timeout_s: float
    protocols: dict[str, bytes]
    id_known: bool
    """False until the client was told its id: nobody but the answer to its join could ever speak for it. A static
    member is known by its instance id."""
    assignment: bytes = b""
    synced: bool = False
    """It has sent SyncGroup in this generation."""
    join_reply: JoinReply | None = None
    sync_reply: SyncReply | None = None
    session_until: float = math.inf

    @property
    def waits(self) -> bool:
        return self.join_reply is not None or self.sync_reply is not None

    @property
    def size(self) -> int:
        ids = len(self.id) + len(self.client_id) + len(self.client_host) + len(self.instance_id or "")
        return MEMBER_OVERHEAD_SIZE + ids + _protocols_size(self.protocols) + len(self.assignment)

    def heard(self, now: float) -> None:
        """The client is alive: its session starts anew, or stands still while it waits."""
        self.session_until = math.inf if self.waits else now + self.session_timeout_s

    def answer_join(self, answer: JoinAnswer, now: float) -> None:
        reply, self.join_reply = self.join_reply, None
        self.heard(now)
        if reply is not None:
            self.id_known = True
            reply(answer)

    def answer_sync(self, answer: SyncAnswer, now: float) -> None:
        reply, self.sync_reply = self.sync_reply, None
        self.heard(now)
        if reply is not None:
            reply(answer)

    def vote(self, candidates: set[str]) -> str:
        """The protocol that this member likes best of `candidates`, all of which it supports."""
        return next(name for name in self.protocols if name in candidates)


class Pending(NamedTuple):
    """A member id that was handed out and has not been used yet."""

    given_at: float
    until: float
    """When it is forgotten."""
