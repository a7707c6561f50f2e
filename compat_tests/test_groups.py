"""Consumer groups, of each kind of client and of all together: sharing, handing over, resuming from commits."""

import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import replace
from itertools import product

import pytest

from compat_tests.clients import CONFLUENT, KINDS
from compat_tests.clients.face import (
    Client,
    ClientError,
    Code,
    ConsumerSettings,
    Place,
    Received,
)
from compat_tests.clients.process import ClientProcess
from compat_tests.conftest import MakeTopic, Spawn, unique
from compat_tests.steps import numbered, places_of, write

GROUP_TIME_MAX_S = 120.0
POLL_MS = 300
LONG_SESSION_MS = 30_000
"""For members that leave by themselves: none is taken for dead on a machine that stalls."""
GROUPS = [*((kind, kind) for kind in KINDS), KINDS]
GROUP_NAMES = ["-and-".join(kinds) for kinds in GROUPS]
PARTITIONS = 6  # shared evenly by two and by three
RESUMES = list(product(KINDS, KINDS))


class Member:
    """One member in its own process, and every record that it was given."""

    def __init__(
        self,
        process: ClientProcess,
        group: str,
        topics: Sequence[str] = (),
        pattern: str | None = None,
        settings: ConsumerSettings | None = None,
    ) -> None:
        self.process = process
        self.client = process.client
        self.consumer = self.client.open_consumer(replace(settings or ConsumerSettings(), group=group))
        self.client.subscribe(self.consumer, topics, pattern)
        self.records: list[Received] = []
        self.may_be_late = settings is not None and settings.poll_interval_max_ms is not None

    def start_poll(self) -> "Future[list[Received]]":
        return self.process.later("poll", self.consumer, POLL_MS)

    def assignment(self) -> list[Place]:
        return self.client.assignment(self.consumer)

    def leave(self) -> None:
        self.client.close_consumer(self.consumer)


def poll_until(members: Sequence[Member], true: Callable[[], bool]) -> None:
    """All members poll at once, as each application polls for itself, until what is waited for is true."""

    def told(member: Member, polled: "Future[list[Received]]") -> list[Received]:
        try:
            return polled.result()
        except ClientError:  # librdkafka says with the next poll that the last one is too long ago
            if not member.may_be_late:
                raise
            return []

    deadline = time.monotonic() + GROUP_TIME_MAX_S
    while not true():
        assert time.monotonic() < deadline, [
            (member.process.kind, member.assignment(), len(member.records)) for member in members
        ]
        for member, polled in [(member, member.start_poll()) for member in members]:
            member.records += told(member, polled)


def shared_evenly(members: Sequence[Member], places: Sequence[Place]) -> bool:
    shares = [member.assignment() for member in members]
    even = {len(share) for share in shares} == {len(places) // len(members)}
    return even and sorted(place for share in shares for place in share) == sorted(places)


def numbers(records: Sequence[Received]) -> list[int]:
    return sorted(int(record.value or b"-1") for record in records)


def have_read(members: Sequence[Member], count: int) -> bool:
    """All of so many numbered records, and some of them more than once where the group rebalanced meanwhile."""
    return set(numbers([record for member in members for record in member.records])) >= set(range(count))


def committed(members: Sequence[Member], offsets: dict[Place, int]) -> bool:
    """Whether the group's commits are these, once each member has committed how far it is. False also while a rebalance
    is not over for one of them: it polls, joins, reads again, and then may."""
    try:
        for member in members:
            member.client.commit(member.consumer)
        return members[0].client.committed(members[0].consumer, list(offsets)) == offsets
    except ClientError:
        return False


@pytest.mark.case("groups share, and hand over")
@pytest.mark.parametrize("kinds", GROUPS, ids=GROUP_NAMES)
def test_members_share_the_partitions_and_hand_over_when_they_leave(
    spawn: Spawn, admin: Client, make_topic: MakeTopic, kinds: Sequence[str]
) -> None:
    topic, group = make_topic(PARTITIONS), unique("group")
    places = places_of(topic, PARTITIONS)
    settings = ConsumerSettings(session_timeout_ms=LONG_SESSION_MS)
    members = [Member(spawn(kind), group, [topic], settings=settings) for kind in kinds]
    poll_until(members, lambda: shared_evenly(members, places))
    write(admin, topic, numbered(400, PARTITIONS))
    poll_until(members, lambda: have_read(members, 400))
    for member in members:
        assert {Place(record.topic, record.partition) for record in member.records} == set(member.assignment())
        member.client.commit(member.consumer)
    assert numbers([record for member in members for record in member.records]) == list(range(400))

    stays, *leaving = members
    for member in leaving:
        member.leave()
    poll_until([stays], lambda: stays.assignment() == places)
    write(admin, topic, numbered(400, PARTITIONS, start=400))
    poll_until([stays], lambda: have_read(members, 800))
    assert numbers([record for member in members for record in member.records]) == list(range(800))
    stays.leave()


def committed_and_not(members: Sequence[Member], admin: Client, topic: str) -> dict[Place, int]:
    """The members share 120 records and commit what they read, then read 60 more that they do not commit; partition
    -> committed offset.
    """
    places = places_of(topic, PARTITIONS)
    poll_until(members, lambda: shared_evenly(members, places))
    write(admin, topic, numbered(120, PARTITIONS))
    poll_until(members, lambda: have_read(members, 120))
    offsets = dict.fromkeys(places, 120 // PARTITIONS)
    poll_until(members, lambda: committed(members, offsets))
    write(admin, topic, numbered(60, PARTITIONS, start=120))
    poll_until(members, lambda: have_read(members, 180))
    return offsets


def taken_over(member: Member, already: int, offsets: dict[Place, int], own: Sequence[Place]) -> None:
    """What was not the member's own it reads from the commits on, record by record, and from there again where it lost
    its own session meanwhile. librdkafka may bring what it fetched of a partition before: a late answer about the first
    offset sets it going although the partition was taken away, and what it brought is kept for the next time."""
    for place in set(offsets) - set(own):
        read = [record.offset for record in member.records[already:] if record.partition == place.partition]
        following = offsets[place]
        for offset in read:
            assert offset in (following, offsets[place]) or (member.process.kind == CONFLUENT and offset < following), (
                place,
                read,
            )
            following = max(following, offset + 1)
        assert following == offsets[place] + 10, (place, read)


@pytest.mark.case("members that are killed, or stop polling")
@pytest.mark.parametrize("kinds", GROUPS, ids=GROUP_NAMES)
def test_the_partitions_of_killed_members_go_to_the_one_that_stays(
    spawn: Spawn, admin: Client, make_topic: MakeTopic, session_ms: int, kinds: Sequence[str]
) -> None:
    """They say nothing when they die, so their sessions have to run out; of three, the last dies while the group waits
    for the first. What they did not commit is read again, and nothing is skipped.
    """
    topic, group = make_topic(PARTITIONS), unique("group")
    settings = ConsumerSettings(session_timeout_ms=session_ms)
    members = [Member(spawn(kind), group, [topic], settings=settings) for kind in kinds]
    offsets = committed_and_not(members, admin, topic)
    stays, first, *later = members
    own, already = stays.assignment(), len(stays.records)
    first.process.kill()
    for member in later:
        stays.records += stays.start_poll().result()
        member.process.kill()
    poll_until([stays], lambda: stays.assignment() == list(offsets))
    poll_until([stays], lambda: set(numbers(stays.records)) >= set(range(120, 180)))
    taken_over(stays, already, offsets, own)
    write(admin, topic, numbered(60, PARTITIONS, start=180))
    poll_until([stays], lambda: set(numbers(stays.records)) >= set(range(120, 240)))
    stays.leave()


@pytest.mark.case("members that are killed, or stop polling")
def test_a_member_that_stops_polling_loses_its_partitions_until_it_polls_again(
    spawn: Spawn, admin: Client, make_topic: MakeTopic, session_ms: int, kind: str
) -> None:
    """Its heartbeats go on; the client itself gives its place up when too much time passes without a poll."""
    topic, group = make_topic(PARTITIONS), unique("group")
    settings = ConsumerSettings(session_timeout_ms=session_ms)
    stays = Member(spawn(kind), group, [topic], settings=settings)
    stops = Member(spawn(kind), group, [topic], settings=replace(settings, poll_interval_max_ms=session_ms))
    members = [stays, stops]
    offsets = committed_and_not(members, admin, topic)
    own, already = stays.assignment(), len(stays.records)
    poll_until([stays], lambda: stays.assignment() == list(offsets))
    poll_until([stays], lambda: set(numbers(stays.records)) >= set(range(120, 180)))
    taken_over(stays, already, offsets, own)
    poll_until([stays], lambda: committed([stays], dict.fromkeys(offsets, 180 // PARTITIONS)))

    poll_until(members, lambda: shared_evenly(members, list(offsets)))
    again = len(stops.records)
    write(admin, topic, numbered(60, PARTITIONS, start=180))
    poll_until(members, lambda: set(numbers(stays.records + stops.records[again:])) >= set(range(120, 240)))
    for member in members:
        member.leave()


@pytest.mark.case("commits and resume")
@pytest.mark.parametrize("kinds", RESUMES, ids=["-then-".join(pair) for pair in RESUMES])
def test_a_group_resumes_from_its_commits(
    readers: dict[str, Client], admin: Client, make_topic: MakeTopic, kinds: tuple[str, str]
) -> None:
    topic, group = make_topic(2), unique("group")
    places = places_of(topic, 2)
    write(admin, topic, numbered(200, 2))
    first, second = (readers[kind] for kind in kinds)
    consumer = first.open_consumer(ConsumerSettings(group=group))
    assert first.committed(consumer, places) == dict.fromkeys(places)
    first.subscribe(consumer, [topic])
    assert numbers(first.read(consumer, 200)) == list(range(200))
    first.commit(consumer, {places[0]: 30, places[1]: 60})
    first.close_consumer(consumer)

    consumer = second.open_consumer(ConsumerSettings(group=group))
    assert second.committed(consumer, places) == {places[0]: 30, places[1]: 60}
    second.subscribe(consumer, [topic])
    read = second.read(consumer, 110)
    assert sorted((record.partition, record.offset) for record in read) == [
        *((0, offset) for offset in range(30, 100)),
        *((1, offset) for offset in range(60, 100)),
    ]
    second.commit(consumer)
    second.close_consumer(consumer)

    consumer = first.open_consumer(ConsumerSettings(group=group))
    assert first.committed(consumer, places) == dict.fromkeys(places, 100)
    first.close_consumer(consumer)


@pytest.mark.case("commits and resume")
def test_what_was_not_committed_is_read_again(client: Client, admin: Client, topic: str) -> None:
    write(admin, topic, numbered(50, 2))
    group = unique("group")
    for _ in range(2):
        consumer = client.open_consumer(ConsumerSettings(group=group))
        client.subscribe(consumer, [topic])
        assert numbers(client.read(consumer, 50)) == list(range(50))
        client.close_consumer(consumer)


@pytest.mark.case("commits and resume")
def test_commits_without_membership(client: Client, admin: Client, topic: str) -> None:
    """A consumer that assigns its partitions itself may keep its offsets in a group all the same."""
    write(admin, topic, numbered(20, 2))
    group, place = unique("group"), Place(topic, 1)
    consumer = client.open_consumer(ConsumerSettings(group=group))
    client.assign(consumer, {place: 0})
    assert len(client.read(consumer, 10)) == 10
    client.commit(consumer, {place: 4})
    client.close_consumer(consumer)
    again = client.open_consumer(ConsumerSettings(group=group))
    client.assign(again, {place: None})
    assert [record.offset for record in client.read(again, 6)] == list(range(4, 10))
    client.close_consumer(again)


def test_two_groups_know_nothing_of_each_other(client: Client, admin: Client, topic: str) -> None:
    write(admin, topic, numbered(40, 2))
    places = places_of(topic, 2)
    one = client.open_consumer(ConsumerSettings(group=unique("group")))
    other = client.open_consumer(ConsumerSettings(group=unique("group")))
    client.subscribe(one, [topic])
    assert numbers(client.read(one, 40)) == list(range(40))
    client.commit(one)
    assert client.committed(other, places) == dict.fromkeys(places)
    client.subscribe(other, [topic])
    assert numbers(client.read(other, 40)) == list(range(40))
    client.close_consumer(one)
    client.close_consumer(other)


@pytest.mark.case("patterns, topics and partitions that come later")
@pytest.mark.parametrize("kind_of_member", KINDS)
def test_a_pattern_takes_in_topics_that_come_later(
    spawn: Spawn, admin: Client, make_topic: MakeTopic, kind_of_member: str
) -> None:
    prefix = unique("pattern")
    first, other = make_topic(1, name=f"{prefix}.a"), make_topic(1)
    member = Member(spawn(kind_of_member), unique("group"), pattern=f"{prefix}\\..*")
    write(admin, first, numbered(5, 1))
    poll_until([member], lambda: len(member.records) >= 5)
    later = make_topic(1, name=f"{prefix}.b")
    poll_until([member], lambda: member.assignment() == [Place(first, 0), Place(later, 0)])
    for topic in (other, later):
        write(admin, topic, numbered(5, 1))
    poll_until([member], lambda: any(record.topic == later for record in member.records))
    assert {record.topic for record in member.records} == {first, later}
    member.leave()


@pytest.mark.case("patterns, topics and partitions that come later")
@pytest.mark.parametrize("kind_of_member", KINDS)
def test_a_group_takes_in_partitions_that_are_added(
    spawn: Spawn, admin: Client, make_topic: MakeTopic, kind_of_member: str
) -> None:
    topic = make_topic(2)
    member = Member(spawn(kind_of_member), unique("group"), [topic])
    write(admin, topic, numbered(40, 2))
    poll_until([member], lambda: len(member.records) >= 40)
    admin.create_partitions(topic, 4)
    poll_until([member], lambda: member.assignment() == places_of(topic, 4))
    write(admin, topic, numbered(40, 4, start=40))
    poll_until([member], lambda: {record.partition for record in member.records} == {0, 1, 2, 3})
    poll_until([member], lambda: set(numbers(member.records)) == set(range(80)))
    member.leave()


@pytest.mark.case("groups of KIP-848")
@pytest.mark.needs("group_protocol")
def test_a_group_of_the_new_protocol(client: Client, topic: str) -> None:
    group = unique("group")
    write(client, topic, numbered(40, 2))
    consumer = client.open_consumer(ConsumerSettings(group=group, group_protocol="consumer"))
    client.subscribe(consumer, [topic])
    assert numbers(client.read(consumer, 40, 5_000)) == list(range(40))
    client.commit(consumer)
    client.close_consumer(consumer)


@pytest.mark.case("groups listed and described")
def test_a_group_is_listed_and_described(client: Client, spawn: Spawn, kind: str, topic: str) -> None:
    group = unique("group")
    member = Member(spawn(kind), group, [topic])
    poll_until([member], lambda: member.assignment() == places_of(topic, 2))
    member.client.commit(member.consumer, {Place(topic, 0): 0})
    assert group in client.groups()
    described = client.describe_group(group)
    assert (described.state, [assigned for _, assigned in described.members]) == (
        "stable",
        [tuple(places_of(topic, 2))],
    )
    member.leave()
    described = client.describe_group(group)
    assert (described.state, described.members) == ("empty", ())


@pytest.mark.case("groups deleted")
@pytest.mark.needs("delete_group")
def test_a_group_is_deleted_when_it_is_empty(client: Client, topic: str) -> None:
    group, place = unique("group"), Place(topic, 0)
    write(client, topic, numbered(10, 2))
    consumer = client.open_consumer(ConsumerSettings(group=group))
    client.subscribe(consumer, [topic])
    assert len(client.read(consumer, 10)) == 10
    client.commit(consumer, {place: 0})
    with pytest.raises(ClientError) as refused:
        client.delete_group(group)
    assert refused.value.code == Code.NON_EMPTY_GROUP
    client.close_consumer(consumer)
    assert group in client.groups()
    client.delete_group(group)
    assert group not in client.groups()
    with pytest.raises(ClientError) as unknown:
        client.delete_group(group)
    assert unknown.value.code == Code.GROUP_ID_NOT_FOUND
