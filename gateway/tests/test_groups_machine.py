"""Members join, sync, live, leave and die in every order that hypothesis can think of; what must hold, holds."""

from dataclasses import dataclass, field
from typing import Any

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, initialize, invariant, multiple, rule

from totalog.gateway.coordinators.group import State
from totalog.gateway.coordinators.members import JoinAnswer, SyncAnswer
from totalog.gateway.tests.group_world import Reply, World
from totalog.gateway.wire.errors import ErrorCode

SESSION_S, REBALANCE_S = 8.0, 20.0
LIVES = (ErrorCode.NONE, ErrorCode.REBALANCE_IN_PROGRESS)


@dataclass(eq=False)
class Client:
    """A member as it sees itself."""

    asks_for_id: bool
    metadata: bytes
    instance_id: str | None = None
    member_id: str = ""
    generation_id: int = -1
    joins: list[Reply[JoinAnswer]] = field(default_factory=list)
    syncs: list[tuple[int, Reply[SyncAnswer]]] = field(default_factory=list)
    leads: tuple[str, ...] = ()
    """The members of the generation it leads."""
    assigned: bool = False
    """It has its assignment in this generation."""

    def forget(self) -> None:
        """What it was told is of no use any more: it begins anew."""
        self.member_id, self.generation_id, self.leads, self.assigned = "", -1, (), False


def who(member_id: str) -> str:
    """A static member is the same whatever its id."""
    name = member_id[:-37]
    return name if name.startswith("static") else member_id


class Members(RuleBasedStateMachine):
    clients = Bundle("clients")

    def __init__(self) -> None:
        super().__init__()
        self.world = World()
        self.all: list[Client] = []
        self.fenced: list[Reply[Any]] = []
        """What predecessors of static members wait for."""
        self.leaders: dict[int, str] = {}
        self.listed: dict[int, frozenset[str]] = {}
        self.seen_generation = 0

    # What clients do

    @initialize(target=clients, count=st.integers(1, 4))
    def begin(self, count: int) -> object:
        self.all = [
            Client(index % 2 == 0, b"a", f"static{index}" if index % 3 == 1 else None) for index in range(count)
        ]
        self.everybody_goes_on(6)
        assert all(client.assigned for client in self.all)
        return multiple(*self.all)

    @rule(
        target=clients,
        asks_for_id=st.booleans(),
        metadata=st.sampled_from([b"a", b"b"]),
        instance_id=st.sampled_from([None, "static0", "static1", "static2"]),
    )
    def appear(self, asks_for_id: bool, metadata: bytes, instance_id: str | None) -> object:
        taken = instance_id is not None and instance_id in {client.instance_id for client in self.all}
        if len(self.all) == 8 or taken:
            return multiple()
        client = Client(asks_for_id, metadata, instance_id)
        self.all.append(client)
        return client

    @rule(steps=st.integers(1, 6))
    def everybody_goes_on(self, steps: int) -> None:
        """As real clients do: join when told to, sync, and send heartbeats."""
        for _ in range(steps):
            for client in self.all:
                self.go_on(client)
            self.world.advance(0.5)
            self.take_answers()

    def go_on(self, client: Client) -> None:
        if client.joins or client.syncs:
            return
        if client.generation_id < 0:
            self.join(client)
        elif not client.assigned:
            self.sync(client)
        else:
            code = self.world.heartbeat(client.member_id, client.generation_id, client.instance_id)
            self.check_accepted(client, code)
            if code is not ErrorCode.NONE:
                if code is not ErrorCode.REBALANCE_IN_PROGRESS:
                    client.forget()
                self.join(client)

    @rule(client=clients)
    def join(self, client: Client) -> None:
        self.take_answers()
        reply = self.world.join(
            client.member_id,
            takes_member_id=client.asks_for_id,
            protocols={"range": client.metadata},
            session_s=SESSION_S,
            rebalance_s=REBALANCE_S,
            instance_id=client.instance_id,
            takes_skip=client.asks_for_id,
        )
        client.joins.append(reply)
        self.take_answers()

    @rule(client=clients, metadata=st.sampled_from([b"a", b"b"]))
    def change(self, client: Client, metadata: bytes) -> None:
        client.metadata = metadata

    @rule(client=clients)
    def sync(self, client: Client) -> None:
        self.take_answers()
        generation_id = client.generation_id
        assignments = {member: f"{generation_id} {client.member_id} {member}".encode() for member in client.leads}
        reply = self.world.sync(client.member_id, generation_id, assignments, instance_id=client.instance_id)
        client.syncs.append((generation_id, reply))
        self.take_answers()

    @rule(client=clients)
    def heartbeat(self, client: Client) -> None:
        code = self.world.heartbeat(client.member_id, client.generation_id, client.instance_id)
        self.check_accepted(client, code)

    @rule(client=clients)
    def commit(self, client: Client) -> None:
        if client.generation_id >= 0:
            code = self.world.commit(client.member_id, client.generation_id, client.instance_id)
            self.check_accepted(client, code)

    @rule(client=clients)
    def start_again(self, client: Client) -> None:
        """A static member's process ends, without a word to the group, and another takes its place."""
        if client.instance_id is None:
            return
        self.take_answers()
        before, generation_id, assigned = client.member_id, client.generation_id, client.assigned
        self.fenced += [*client.joins, *(reply for _, reply in client.syncs)]
        client.joins, client.syncs = [], []
        client.forget()
        stable = self.world.state() is State.STABLE and before in self.world.group().roster.members
        current = stable and assigned and generation_id == self.world.group().generation_id
        self.join(client)
        if current:
            assert client.generation_id == generation_id, "its start was a rebalance"
            self.sync(client)
            assert client.assigned
        if before and before != client.member_id:
            assert self.world.heartbeat(before, generation_id) not in LIVES, "its predecessor lives on"

    @rule(client=clients)
    def leave(self, client: Client) -> None:
        self.take_answers()
        code = self.world.leave(client.member_id, client.instance_id)
        assert code in (ErrorCode.NONE, ErrorCode.UNKNOWN_MEMBER_ID)
        self.take_answers()
        client.forget()

    @rule(client=clients)
    def lose_connections(self, client: Client) -> None:
        self.take_answers()
        for join in client.joins:
            self.world.groups.abandon("g", join)
        for _, sync in client.syncs:
            self.world.groups.abandon("g", sync)
        client.joins, client.syncs = [], []
        self.take_answers()

    @rule(client=consumes(clients))
    def die(self, client: Client) -> None:
        """Without a word: nothing is ever heard of it again, what it waits for is answered into the void."""
        client.forget()
        client.joins, client.syncs = [], []
        self.all.remove(client)

    @rule(seconds=st.sampled_from([0.1, 0.5, 3.0, SESSION_S, REBALANCE_S]))
    def time_passes(self, seconds: float) -> None:
        self.world.advance(seconds)
        self.take_answers()

    def teardown(self) -> None:
        """Everybody is silent, long enough for all that may take time: who waits is answered, members are gone."""
        waiting = [*self.fenced, *(reply for client in self.all for reply in client.joins)]
        syncing = [reply for client in self.all for _, reply in client.syncs]
        self.world.advance(2 * REBALANCE_S + SESSION_S)
        assert all(reply.answered for reply in waiting), "somebody waits for a join for ever"
        assert all(reply.answered for reply in syncing), "somebody waits for a sync for ever"
        assert self.world.state() in (State.EMPTY, State.DEAD)
        self.take_answers()

    # What clients learn

    def take_answers(self) -> None:
        for client in self.all:
            client.joins = [reply for reply in client.joins if not self.take_join(client, reply)]
            client.syncs = [(asked, reply) for asked, reply in client.syncs if not self.take_sync(client, asked, reply)]

    def take_join(self, client: Client, reply: Reply[JoinAnswer]) -> bool:
        if not reply.answered:
            return False
        answer = reply.answer
        if answer.code is ErrorCode.NONE:
            client.member_id, client.generation_id = answer.member_id, answer.generation_id
            members = tuple(member.member_id for member in answer.members)
            client.leads = () if answer.skip_assignment else members
            client.assigned = False
            assert self.leaders.setdefault(answer.generation_id, who(answer.leader_id)) == who(answer.leader_id)
            assert bool(answer.members) == (answer.leader_id == answer.member_id), "one leader knows the members"
            if members:
                everyone = frozenset(map(who, members))
                assert self.listed.setdefault(answer.generation_id, everyone) == everyone
            if answer.generation_id in self.listed:
                assert who(answer.member_id) in self.listed[answer.generation_id], "a stranger in the generation"
        elif answer.code is ErrorCode.MEMBER_ID_REQUIRED:
            client.member_id = answer.member_id
        elif answer.code is ErrorCode.UNKNOWN_MEMBER_ID:
            client.forget()
        elif answer.code is ErrorCode.FENCED_INSTANCE_ID:
            assert client.instance_id is not None, "it had asked twice before it had an id"
        else:
            assert answer.code is ErrorCode.REBALANCE_IN_PROGRESS
        return True

    def take_sync(self, client: Client, asked: int, reply: Reply[SyncAnswer]) -> bool:
        if not reply.answered:
            return False
        answer = reply.answer
        client.assigned = answer.code is ErrorCode.NONE and asked == client.generation_id
        if answer.code is not ErrorCode.NONE:
            client.generation_id = -1
        elif answer.assignment:
            generation, leader, member = answer.assignment.decode().split()
            assert int(generation) == asked, "an assignment of another generation"
            assert who(leader) == self.leaders[asked], "an assignment that is not the leader's"
            assert who(member) == who(client.member_id), "another member's assignment"
        return True

    def check_accepted(self, client: Client, code: ErrorCode) -> None:
        if code in LIVES:
            group = self.world.group()
            assert client.generation_id == group.generation_id, "a member of an old generation was accepted"
            assert client.member_id in group.roster.members

    # What the group must be at any time

    @invariant()
    def structure(self) -> None:
        if self.world.state() is State.DEAD:  # forgotten after a time of silence: all begins anew
            self.leaders, self.listed, self.seen_generation = {}, {}, 0
            return
        group = self.world.group()
        members = group.roster.members.values()
        assert group.generation_id >= self.seen_generation
        self.seen_generation = group.generation_id
        assert (group.state is State.EMPTY) == (not members)
        assert all(member.join_reply is None for member in members) or group.state is State.PREPARING_REBALANCE
        assert all(member.sync_reply is None for member in members) or group.state is State.COMPLETING_REBALANCE
        if group.state is State.EMPTY:
            assert group.leader_id is None
        if group.state in (State.COMPLETING_REBALANCE, State.STABLE):
            assert group.leader_id in group.roster.members
        assert not set(group.roster.pending) & set(group.roster.members)
        static = {member.instance_id: member.id for member in members if member.instance_id is not None}
        assert group.roster._static == static

    @invariant()
    def time(self) -> None:
        if self.world.state() is State.DEAD:
            return
        deadline = self.world.group().next_deadline()
        assert deadline > self.world.time, "something is due and was not done"
        timer = self.world.timers.next()
        assert timer is not None
        assert timer.deadline <= deadline, "the group would be woken too late"

    @invariant()
    def sizes(self) -> None:
        if self.world.state() is State.DEAD:
            assert self.world.groups.size == 0
        else:
            roster = self.world.group().roster
            counted = sum(member.size for member in roster.members.values())
            assert roster.size - counted == 512 * len(roster.pending)
            assert self.world.groups.size == roster.size


Members.TestCase.settings = settings(max_examples=150, stateful_step_count=40, deadline=None)
TestMembers = Members.TestCase
