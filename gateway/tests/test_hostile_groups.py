"""Requests about groups that are meant to take memory or time out of proportion."""

from typing import Any

import pytest

from totalog.gateway.broker import Broker
from totalog.gateway.coordinators import groups, offsets
from totalog.gateway.coordinators.groups import GroupCoordinator
from totalog.gateway.coordinators.members import (
    MEMBER_OVERHEAD_SIZE,
    PROTOCOL_OVERHEAD_SIZE,
    JoinAnswer,
    JoinRequest,
    SyncAnswer,
    SyncRequest,
)
from totalog.gateway.coordinators.offset_records import Commit
from totalog.gateway.limits import COMMIT_BATCH_SIZE_MAX, ELEMENTS_COUNT_MAX, STRING_SIZE_MAX
from totalog.gateway.tests.harness import NOW_MS, ask, build
from totalog.gateway.topics import TopicHandle
from totalog.gateway.wire import codec
from totalog.gateway.wire.errors import ErrorCode, ProtocolViolation

JOIN = {
    "group_id": "g",
    "session_timeout_ms": 10_000,
    "rebalance_timeout_ms": 60_000,
    "protocol_type": "consumer",
    "protocols": [{"name": "range", "metadata": b""}],
}


def coordinator(broker: Broker) -> GroupCoordinator:
    return GroupCoordinator(broker, now=lambda: 1000.0)


def join_request(group_id: str = "g", **fields: Any) -> JoinRequest:
    known = JoinRequest(group_id, "", "c", "/h", 10.0, 60.0, "consumer", {"range": b""}, takes_member_id=False)
    return known._replace(**fields)


def join(coordinator: GroupCoordinator, request: JoinRequest) -> JoinAnswer:
    answers: list[JoinAnswer] = []
    coordinator.join(request, answers.append)
    return answers[0]


def sync(coordinator: GroupCoordinator, leader: JoinAnswer, assignment: bytes) -> SyncAnswer:
    answers: list[SyncAnswer] = []
    request = SyncRequest("g", leader.generation_id, leader.member_id, assignments={leader.member_id: assignment})
    coordinator.sync(request, answers.append)
    return answers[0]


def test_protocols_count_with_what_they_cost_and_not_with_their_bytes_alone(broker: Broker) -> None:
    """Half a million protocols of no metadata fit into a frame, and take fifty times its size."""
    held = coordinator(broker)
    protocols = {f"{number:x}": b"" for number in range(1000)}
    assert join(held, join_request(protocols=protocols)).code is ErrorCode.NONE
    assert held.size >= MEMBER_OVERHEAD_SIZE + 1000 * PROTOCOL_OVERHEAD_SIZE


def test_a_group_has_a_limit_of_its_own(broker: Broker, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(groups, "GROUP_SIZE_MAX", 100_000)
    held = coordinator(broker)
    first = join(held, join_request(protocols={"range": bytes(60_000)}))
    assert first.code is ErrorCode.NONE
    assert join(held, join_request(protocols={"range": bytes(60_000)})).code is ErrorCode.POLICY_VIOLATION
    assert join(held, join_request("other", protocols={"range": bytes(60_000)})).code is ErrorCode.NONE
    assert sync(held, first, bytes(60_000)).code is ErrorCode.UNKNOWN_SERVER_ERROR
    assert sync(held, first, bytes(20_000)).code is ErrorCode.NONE


def test_assignments_that_replace_others_need_no_room_beside_them(
    broker: Broker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(groups, "GROUP_SIZE_MAX", 100_000)
    held = coordinator(broker)
    member = join(held, join_request())
    for _ in range(3):
        assert sync(held, member, bytes(90_000)).code is ErrorCode.NONE
        member = join(held, join_request(member_id=member.member_id))
        assert member.code is ErrorCode.NONE


def test_a_thousand_protocols_are_no_problem(broker: Broker) -> None:
    names = [f"protocol-{number}" for number in range(1000)]
    fields = JOIN | {"protocols": [{"name": name, "metadata": b"m"} for name in names]}
    for _ in range(2):
        answer = ask(broker, "JoinGroup", 3, **fields | {"group_id": "thousand"})
        assert (answer.error_code, answer.protocol_name) == (ErrorCode.NONE, names[0])
        ask(broker, "LeaveGroup", 0, group_id="thousand", member_id=answer.member_id)


@pytest.mark.parametrize(
    ("name", "version", "field", "element"),
    [
        ("JoinGroup", 6, "protocols", {"name": "a", "metadata": b""}),
        ("SyncGroup", 4, "assignments", {"member_id": "a", "assignment": b""}),
        ("OffsetFetch", 6, "topics", {"name": "a", "partition_indexes": []}),
        ("DeleteTopics", 4, "topic_names", "a"),
    ],
)
def test_elements_of_arrays_are_limited(name: str, version: int, field: str, element: Any) -> None:
    def body(count: int) -> memoryview:
        message = getattr(codec, f"{name}Request")
        return memoryview(bytes(build(message, version, {field: [element] * count}).encode()))

    key = getattr(codec, f"{name}Request").API_KEY
    assert len(getattr(codec.decode(key, version, body(ELEMENTS_COUNT_MAX)), field)) == ELEMENTS_COUNT_MAX
    with pytest.raises(ProtocolViolation, match=f"more than {ELEMENTS_COUNT_MAX} array elements"):
        codec.decode(key, version, body(ELEMENTS_COUNT_MAX + 1))


def test_elements_of_all_arrays_count_together() -> None:
    topics = [{"name": "a", "partition_indexes": [0] * 1000} for _ in range(ELEMENTS_COUNT_MAX // 1000)]
    body = bytes(build(codec.OffsetFetchRequest, 6, {"group_id": "g", "topics": topics}).encode())
    with pytest.raises(ProtocolViolation, match="array elements"):
        codec.decode(9, 6, memoryview(body))
    body = bytes(build(codec.OffsetFetchRequest, 6, {"group_id": "g", "topics": topics[1:]}).encode())
    codec.decode(9, 6, memoryview(body))


# Committed offsets


def commit_of(broker: Broker, topic: str, partitions: int, metadata: str = "") -> list[tuple[TopicHandle, int, Commit]]:
    handle = broker.topics.find(topic)
    assert handle is not None
    return [(handle, partition, Commit(5, -1, metadata, NOW_MS)) for partition in range(partitions)]


def kept(broker: Broker) -> int:
    """Bytes of the offsets topic."""
    handle = broker.topics.find(offsets.TOPIC)
    assert handle is not None
    return broker.log.size_bytes(handle.topic, 0)


@pytest.fixture
def batch_sizes(broker: Broker, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Of the batches of our own that are appended."""
    sizes: list[int] = []
    append = broker.append_internal

    def watched(topic: TopicHandle, partition: int, batch: bytes) -> int:
        sizes.append(len(batch))
        return append(topic, partition, batch)

    monkeypatch.setattr(broker, "append_internal", watched)
    return sizes


def ask_to_commit(broker: Broker, group_id: str, topic: str, partitions: int) -> set[int]:
    """The error codes of a commit for the first partitions of a topic."""
    answer = ask(
        broker,
        "OffsetCommit",
        9,
        group_id=group_id,
        generation_id_or_member_epoch=-1,
        topics=[{"name": topic, "partitions": [{"partition_index": index} for index in range(partitions)]}],
    )
    assert len(answer.topics[0].partitions) == partitions
    return {partition.error_code for partition in answer.topics[0].partitions}


def test_a_long_group_id_is_not_stored_for_any_number_of_partitions(broker: Broker, batch_sizes: list[int]) -> None:
    """It stands in each record: 200 KB of request would be 180 MB of them."""
    broker.topics.create("many", partitions=6000)
    assert ask_to_commit(broker, "g" * 30_000, "many", 6000) == {ErrorCode.INVALID_COMMIT_OFFSET_SIZE}
    assert len(broker.offsets) == 0
    assert batch_sizes == []
    assert ask_to_commit(broker, "g" * 30_000, "many", 1000) == {ErrorCode.NONE}
    assert len(broker.offsets) == 1000
    assert max(batch_sizes) <= 2 * COMMIT_BATCH_SIZE_MAX + 64 * 1024


def test_one_request_may_commit_for_every_partition_of_a_region(broker: Broker, batch_sizes: list[int]) -> None:
    broker.topics.create("n" * 237, partitions=65_000)
    assert ask_to_commit(broker, "g" * 249, "n" * 237, 65_000) == {ErrorCode.NONE}
    assert len(broker.offsets) == 65_000
    assert max(batch_sizes) <= 2 * COMMIT_BATCH_SIZE_MAX


def test_commits_of_the_longest_texts_leave_the_offsets_topic_short(broker: Broker) -> None:
    """A topic that is short in records may still be long in bytes: 4,096 of them could be 200 MiB."""
    broker.topics.create("orders", partitions=1)
    long_id, metadata = "g" * STRING_SIZE_MAX, "é" * 4096
    for _ in range(2000):
        broker.offsets.commit(long_id, commit_of(broker, "orders", 1, metadata))
    assert kept(broker) <= 2 * offsets.TRIM_SIZE_MIN


def test_an_old_commit_pins_no_more_than_its_share_of_long_ones(broker: Broker) -> None:
    broker.topics.create("orders", partitions=2)
    broker.offsets.commit("old", commit_of(broker, "orders", 1))
    long_id, metadata = "g" * STRING_SIZE_MAX, "é" * 4096
    most = 0
    for _ in range(2000):
        broker.offsets.commit(long_id, commit_of(broker, "orders", 1, metadata))
        most = max(most, kept(broker))
    assert most <= offsets.DEAD_SIZE_MIN + 2 * offsets.TRIM_SIZE_MIN
    commit = broker.offsets.fetch("old", "orders", 0)
    assert commit is not None
    assert commit.offset == 5


def test_what_is_carried_on_and_taken_back_goes_in_batches_of_bounded_size(
    broker: Broker, batch_sizes: list[int]
) -> None:
    broker.topics.create("many", partitions=1000)
    long_id = "g" * STRING_SIZE_MAX
    assert ask_to_commit(broker, long_id, "many", 1000) == {ErrorCode.NONE}
    for _ in range(30):  # carries the thousand on
        assert ask_to_commit(broker, "short", "many", 1000) == {ErrorCode.NONE}
    assert max(batch_sizes) <= 2 * COMMIT_BATCH_SIZE_MAX + 2 * STRING_SIZE_MAX
    batch_sizes.clear()
    answer = ask(broker, "DeleteGroups", 2, groups_names=[long_id])
    assert answer.results[0].error_code == 0
    assert max(batch_sizes) <= 2 * COMMIT_BATCH_SIZE_MAX + 2 * STRING_SIZE_MAX
    assert broker.offsets.group_ids() == ["short"]
