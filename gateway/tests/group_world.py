"""A coordinator of groups with a clock and timers that stand still until a test moves them."""

from collections.abc import Callable, Iterable, Mapping
from types import SimpleNamespace
from typing import Any, Generic, TypeVar

from totalog.gateway.complaints import Complaints
from totalog.gateway.config import Config
from totalog.gateway.coordinators.group import Group, State
from totalog.gateway.coordinators.groups import GroupCoordinator
from totalog.gateway.coordinators.members import JoinAnswer, JoinRequest, SyncAnswer, SyncRequest
from totalog.gateway.lane import Steps
from totalog.gateway.timers import Handle
from totalog.gateway.wire.errors import ErrorCode

T = TypeVar("T")
RANGE: Mapping[str, bytes] = {"range": b"topics"}


class FakeTimers:
    def __init__(self) -> None:
        self.handles: list[Handle] = []

    def call_at(self, deadline: float, callback: Callable[[], None]) -> Handle:
        handle = Handle(deadline, callback)
        self.handles.append(handle)
        return handle

    def next(self) -> Handle | None:
        self.handles = [handle for handle in self.handles if handle.active]
        return min(self.handles, key=lambda handle: handle.deadline, default=None)


class FakeOffsets:
    """Groups that have committed something, and when (milliseconds)."""

    def __init__(self) -> None:
        self.committed_ms: dict[str, int] = {}
        self.failure: Exception | None = None

    def group_ids(self) -> list[str]:
        return list(self.committed_ms)

    def has_group(self, group_id: str) -> bool:
        return group_id in self.committed_ms

    def delete_group(self, group_id: str) -> Steps[int]:
        if self.failure is not None:
            raise self.failure
        count = 0 if self.committed_ms.pop(group_id, None) is None else 1
        yield
        return count

    def expire(self, group_id: str, before_ms: int) -> Steps[int]:
        if self.committed_ms[group_id] < before_ms:
            return (yield from self.delete_group(group_id))
        return 0


class Reply(Generic[T]):
    """Takes one answer, and no second one."""

    def __init__(self) -> None:
        self.answers: list[T] = []

    def __call__(self, answer: T) -> None:
        assert not self.answers, "a request is answered once"
        self.answers.append(answer)

    @property
    def answered(self) -> bool:
        return bool(self.answers)

    @property
    def answer(self) -> T:
        assert self.answers, "there is no answer yet"
        return self.answers[0]

    @property
    def code(self) -> ErrorCode:
        code: ErrorCode = getattr(self.answer, "code")  # noqa: B009 (T has no bound)
        return code


class World:
    def __init__(self, settings: Mapping[str, str] | None = None) -> None:
        self.time = 1000.0
        self.timers = FakeTimers()
        self.offsets = FakeOffsets()
        clock = SimpleNamespace(wall_ms=lambda: int(self.time * 1000))
        broker: Any = SimpleNamespace(
            config=Config(settings),
            timers=self.timers,
            offsets=self.offsets,
            clock=clock,
            complaints=Complaints(lambda: self.time),
        )
        self.groups = GroupCoordinator(broker, now=lambda: self.time)

    def advance(self, seconds: float) -> None:
        """Let time pass, and call what becomes due at its time."""
        end = self.time + seconds
        while (handle := self.timers.next()) is not None and handle.deadline <= end:
            self.time = max(self.time, handle.deadline)
            handle._call()
        self.time = end

    def group(self, group_id: str = "g") -> Group:
        return self.groups._groups[group_id].group

    def state(self, group_id: str = "g") -> State:
        return self.groups.describe(group_id).state

    # One request each

    def join(
        self,
        member_id: str = "",
        *,
        group_id: str = "g",
        session_s: float = 10.0,
        rebalance_s: float = 30.0,
        type: str = "consumer",
        protocols: Mapping[str, bytes] = RANGE,
        instance_id: str | None = None,
        takes_member_id: bool = False,
        takes_skip: bool = True,
        client_id: str = "c",
    ) -> Reply[JoinAnswer]:
        reply: Reply[JoinAnswer] = Reply()
        request = JoinRequest(
            group_id=group_id,
            member_id=member_id,
            client_id=client_id,
            client_host="/192.0.2.1",
            session_timeout_s=session_s,
            rebalance_timeout_s=rebalance_s,
            protocol_type=type,
            protocols=protocols,
            instance_id=instance_id,
            takes_member_id=takes_member_id,
            takes_skip=takes_skip,
        )
        self.groups.join(request, reply)
        return reply

    def sync(
        self,
        member_id: str,
        generation_id: int,
        assignments: Mapping[str, bytes] | None = None,
        *,
        group_id: str = "g",
        instance_id: str | None = None,
        type: str | None = None,
        name: str | None = None,
    ) -> Reply[SyncAnswer]:
        reply: Reply[SyncAnswer] = Reply()
        request = SyncRequest(group_id, generation_id, member_id, instance_id, type, name, assignments or {})
        self.groups.sync(request, reply)
        return reply

    def heartbeat(self, member_id: str, generation_id: int, instance_id: str | None = None) -> ErrorCode:
        return self.groups.heartbeat("g", generation_id, member_id, instance_id)

    def leave(self, member_id: str, instance_id: str | None = None) -> ErrorCode:
        return self.groups.leave("g", [(member_id, instance_id)])[0]

    def commit(self, member_id: str = "", generation_id: int = -1, instance_id: str | None = None) -> ErrorCode:
        return self.groups.check_commit("g", generation_id, member_id, instance_id)

    # Whole conversations

    def stable(self, count: int, **options: Any) -> tuple[list[str], int]:
        """A stable group of `count` members: their ids, the leader first, and the generation."""
        members: list[str] = []
        for _ in range(count):
            newcomer = self.join(**options)
            replies = [*(self.join(member, **options) for member in members), newcomer]
            members = [reply.answer.member_id for reply in replies]
            self.sync_all(replies[0].answer.generation_id, members)
        return members, self.group().generation_id

    def sync_all(self, generation_id: int, members: Iterable[str]) -> None:
        """Every member syncs, the leader last, who assigns to each its own id."""
        leader, *followers = members
        waiting = [self.sync(member, generation_id) for member in followers]
        assignments = {member: member.encode() for member in (leader, *followers)}
        waiting.append(self.sync(leader, generation_id, assignments))
        assert [reply.answer.assignment.decode() for reply in waiting] == [*followers, leader]
