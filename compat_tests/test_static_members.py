"""Static members (KIP-345): stock consumers that keep their name, and so their partitions, when they start again; and
what of a group outlives its broker."""

import time
from collections.abc import Callable
from pathlib import Path

import pytest

from compat_tests.asking import Asker
from compat_tests.clients import KINDS
from compat_tests.clients.face import Client, ClientError, ConsumerSettings, Place, Received
from compat_tests.conftest import MakeTopic, Spawn, StartBroker, unique
from compat_tests.steps import numbered, places_of, write

TIME_MAX_S = 60.0
POLL_MS = 300
SESSION_MS = 20_000
GENERATIONS = range(1, 50)
NONE, UNKNOWN_MEMBER, FENCED_INSTANCE = 0, 25, 82


def poll_until(client: Client, consumer: int, true: Callable[[], bool]) -> list[Received]:
    deadline, read = time.monotonic() + TIME_MAX_S, list[Received]()
    while not true():
        assert time.monotonic() < deadline
        read += client.poll(consumer, POLL_MS)
    return read


def members(asker: Asker, group: str) -> dict[str, str]:
    """Member ids by instance id."""
    (described,) = asker.ask("DescribeGroups", 5, groups=[group]).groups
    return {member.group_instance_id: member.member_id for member in described.members}


def heartbeat(asker: Asker, group: str, instance: str | None, member: str, generation: int) -> int:
    fields = {"group_id": group, "member_id": member, "generation_id": generation, "group_instance_id": instance}
    code: int = asker.ask("Heartbeat", 4, **fields).error_code
    return code


def generation_of(asker: Asker, group: str, instance: str, member: str) -> int:
    return next(at for at in GENERATIONS if heartbeat(asker, group, instance, member, at) == NONE)


@pytest.mark.case("static members")
@pytest.mark.parametrize("kind", KINDS)
def test_one_that_starts_again_goes_on_without_a_rebalance(
    address: str, spawn: Spawn, admin: Client, make_topic: MakeTopic, kind: str
) -> None:
    topic, group = make_topic(4), unique("group")
    write(admin, topic, numbered(100, 4))
    stays, ends = spawn(kind), spawn(kind)

    def open_as(client: Client, instance: str) -> int:
        consumer = client.open_consumer(ConsumerSettings(group=group, instance=instance, session_timeout_ms=SESSION_MS))
        client.subscribe(consumer, [topic])
        return consumer

    one, other = open_as(stays.client, "a"), open_as(ends.client, "b")

    def shared() -> bool:
        mine, others = stays.client.assignment(one), ends.client.assignment(other)
        return len(mine) == len(others) == 2 and sorted([*mine, *others]) == places_of(topic, 4)

    # Their numbers differ, since each is one of its own process.
    deadline = time.monotonic() + TIME_MAX_S
    while not shared():
        assert time.monotonic() < deadline
        polls = [process.later("poll", consumer, POLL_MS) for process, consumer in ((stays, one), (ends, other))]
        for poll in polls:
            poll.result()
    share: list[Place] = ends.client.assignment(other)
    while True:
        try:
            ends.client.commit(other, dict.fromkeys(share, 10))
            break
        except ClientError:  # the last rebalance may not be over for it
            ends.client.poll(other, POLL_MS)
    with Asker(address) as asker:
        before = members(asker, group)
        generation = generation_of(asker, group, "a", before["a"])
        ends.kill()
        again = spawn(kind)
        successor = open_as(again.client, "b")
        read = poll_until(again.client, successor, lambda: again.client.assignment(successor) == share)
        after = members(asker, group)
        assert after["a"] == before["a"]
        assert after["b"] != before["b"]
        assert heartbeat(asker, group, "a", after["a"], generation) == NONE, "its start was a rebalance"
        assert heartbeat(asker, group, "b", after["b"], generation) == NONE
        assert heartbeat(asker, group, "b", before["b"], generation) == FENCED_INSTANCE
    assert again.client.committed(successor, share) == dict.fromkeys(share, 10)
    read += again.client.read(successor, 30 - len(read))
    assert sorted((record.partition, record.offset) for record in read) == [
        (place.partition, offset) for place in share for offset in range(10, 25)
    ]
    again.client.close_consumer(successor)
    stays.client.close_consumer(one)


@pytest.mark.totalog_only
def test_members_outlive_their_broker(start_broker: StartBroker, tmp_path: Path) -> None:
    """As with Apache Kafka, which stores who they are."""
    group, options = unique("group"), {"region": tmp_path / "region", "memory": "128m"}
    broker = start_broker(**options)
    fields = {"group_id": group, "session_timeout_ms": SESSION_MS, "rebalance_timeout_ms": SESSION_MS, "member_id": ""}
    fields |= {"protocol_type": "consumer", "protocols": [{"name": "range", "metadata": b""}]}
    with Asker(broker.address) as asker:
        joined = asker.ask("JoinGroup", 3, **fields)
        given = [{"member_id": joined.member_id, "assignment": b"all"}]
        asker.ask("SyncGroup", 3, group_id=group, member_id=joined.member_id, generation_id=1, assignments=given)
        assert heartbeat(asker, group, None, joined.member_id, 1) == NONE
    broker.process.kill()
    broker.process.wait(20)
    with Asker(start_broker(**options).address) as asker:
        code = heartbeat(asker, group, None, joined.member_id, 1)
        assert code in (NONE, UNKNOWN_MEMBER)
        assert code == NONE
