"""OffsetCommit and OffsetFetch in every version."""

from collections.abc import Iterator
from typing import Any
from uuid import UUID, uuid4

import pytest
import trio
from trio.testing import MockClock

from totalog.engine import EngineError
from totalog.gateway import waiting
from totalog.gateway.broker import READ_AGAIN_S, AppendFailed, Broker
from totalog.gateway.complaints import LINES_MAX
from totalog.gateway.coordinators import offset_records, offsets
from totalog.gateway.tests.harness import NOW_MS, ask, make_broker
from totalog.gateway.tests.replicas import ReplicaLog, durable_broker
from totalog.gateway.topics import TopicHandle
from totalog.gateway.wire.errors import ErrorCode

NONE = ErrorCode.NONE
NEVER = (-1, -1, "", NONE)


@pytest.fixture
def orders(broker: Broker) -> TopicHandle:
    return broker.topics.create("orders", partitions=3)


def commit(broker: Broker, version: int, offsets: dict[int, Any], topic: Any = "orders", **fields: Any) -> list[int]:
    """Commits offsets by partition; the error codes."""
    epoch = {"committed_leader_epoch": 3} if version >= 6 else {}
    partitions = [
        {"partition_index": partition, "committed_offset": offset, "committed_metadata": "text", **epoch}
        for partition, offset in offsets.items()
    ]
    return commit_partitions(broker, version, partitions, topic, **fields)


def commit_partitions(
    broker: Broker, version: int, partitions: list[dict[str, Any]], topic: Any = "orders", **fields: Any
) -> list[int]:
    named = {"topic_id": topic} if version >= 10 else {"name": topic}
    request = {"group_id": "g", "generation_id_or_member_epoch": -1, "member_id": "", **fields}
    answer = ask(broker, "OffsetCommit", version, topics=[{**named, "partitions": partitions}], **request)
    (answered,) = answer.topics
    assert (answered.topic_id if version >= 10 else answered.name) == topic
    assert [each.partition_index for each in answered.partitions] == [each["partition_index"] for each in partitions]
    return [each.error_code for each in answered.partitions]


def fetch(broker: Broker, version: int, topics: dict[Any, list[int]] | None, group_id: str = "g") -> dict[Any, Any]:
    """(offset, leader epoch, metadata, error code) by topic and partition."""
    named = "topic_id" if version >= 10 else "name"
    asked = topics and [{named: topic, "partition_indexes": partitions} for topic, partitions in topics.items()]
    if version < 8:
        answer = ask(broker, "OffsetFetch", version, group_id=group_id, topics=asked)
    else:
        (answer,) = ask(broker, "OffsetFetch", version, groups=[{"group_id": group_id, "topics": asked}]).groups
        assert answer.group_id == group_id
    if version >= 2:
        assert answer.error_code == NONE
    return {
        getattr(topic, named): {each.partition_index: _fetched(version, each) for each in topic.partitions}
        for topic in answer.topics
    }


def _fetched(version: int, partition: Any) -> tuple[int, int, str, int]:
    leader_epoch = partition.committed_leader_epoch if version >= 5 else -1
    return partition.committed_offset, leader_epoch, partition.metadata, partition.error_code


@pytest.mark.parametrize("version", range(2, 10))
def test_commits_of_every_version(broker: Broker, orders: TopicHandle, version: int) -> None:
    assert commit(broker, version, {0: 5, 2: 0}) == [NONE, NONE]
    leader_epoch = 3 if version >= 6 else -1
    assert fetch(broker, 9, {"orders": [0, 1, 2]}) == {
        "orders": {0: (5, leader_epoch, "text", NONE), 1: NEVER, 2: (0, leader_epoch, "text", NONE)}
    }
    stored = broker.offsets.fetch("g", "orders", 0)
    assert stored is not None
    assert stored.timestamp_ms == NOW_MS


@pytest.mark.parametrize("version", range(1, 10))
def test_fetches_of_every_version(broker: Broker, orders: TopicHandle, version: int) -> None:
    commit(broker, 9, {0: 5})
    leader_epoch = 3 if version >= 5 else -1
    found = fetch(broker, version, {"orders": [0, 1, 77], "unknown": [0]})
    assert found == {"orders": {0: (5, leader_epoch, "text", NONE), 1: NEVER, 77: NEVER}, "unknown": {0: NEVER}}
    assert fetch(broker, version, {"orders": [0]}, group_id="unknown") == {"orders": {0: NEVER}}


@pytest.mark.parametrize("version", range(2, 10))
def test_all_that_a_group_has_committed(broker: Broker, orders: TopicHandle, version: int) -> None:
    commit(broker, 9, {2: 7})
    commit(broker, 9, {0: 5})
    commit(broker, 9, {0: 1}, "orders.total-order")
    leader_epoch = 3 if version >= 5 else -1
    found = fetch(broker, version, None)
    assert list(found["orders"]) == [0, 2]
    assert found == {
        "orders": {0: (5, leader_epoch, "text", NONE), 2: (7, leader_epoch, "text", NONE)},
        "orders.total-order": {0: (1, leader_epoch, "text", NONE)},
    }
    assert fetch(broker, version, None, group_id="unknown") == {}


def test_topics_by_id(broker: Broker, orders: TopicHandle) -> None:
    view = broker.topics.find("orders.total-order")
    assert view is not None
    topic_id, view_id, unknown = UUID(bytes=orders.id), UUID(bytes=view.id), uuid4()
    assert commit(broker, 10, {0: 5, 9: 5}, topic_id) == [NONE, ErrorCode.UNKNOWN_TOPIC_OR_PARTITION]
    assert commit(broker, 10, {0: 8, 1: 8}, view_id) == [NONE, ErrorCode.UNKNOWN_TOPIC_OR_PARTITION]
    assert commit(broker, 10, {0: 5}, unknown) == [ErrorCode.UNKNOWN_TOPIC_ID]
    assert commit(broker, 10, {0: 5}, None) == [ErrorCode.UNKNOWN_TOPIC_ID]
    five, eight = (5, 3, "text", NONE), (8, 3, "text", NONE)
    assert fetch(broker, 10, {topic_id: [0, 1], view_id: [0], unknown: [0]}) == {
        topic_id: {0: five, 1: NEVER},
        view_id: {0: eight},
        unknown: {0: (-1, -1, "", ErrorCode.UNKNOWN_TOPIC_ID)},
    }
    assert fetch(broker, 10, None) == {topic_id: {0: five}, view_id: {0: eight}}
    assert fetch(broker, 9, {"orders": [0]}) == {"orders": {0: five}}


@pytest.mark.parametrize("version", [8, 9])
def test_several_groups_at_once(broker: Broker, orders: TopicHandle, version: int) -> None:
    commit(broker, 9, {0: 5})
    commit(broker, 9, {0: 6}, group_id="")
    asked = [{"name": "orders", "partition_indexes": [0, 0]}] * 2
    groups = [{"group_id": name, "topics": topics} for name in ("g", "", "unknown", "g") for topics in (asked, None)]
    answer = ask(broker, "OffsetFetch", version, groups=groups)
    found = [
        (group.group_id, [[each.committed_offset for each in topic.partitions] for topic in group.topics])
        for group in answer.groups
    ]
    assert found == [("g", [[5], []]), ("", [[6], []]), ("unknown", [[-1, -1], [-1, -1]])]


def test_what_does_not_exist_cannot_be_committed(broker: Broker, orders: TopicHandle) -> None:
    unknown = ErrorCode.UNKNOWN_TOPIC_OR_PARTITION
    assert commit(broker, 9, {0: 5, 3: 5, -1: 5, 2: 5}) == [NONE, unknown, unknown, NONE]
    assert commit(broker, 9, {0: 5}, "unknown") == [unknown]
    assert commit(broker, 9, {0: 5, 1: 5}, "orders.total-order") == [NONE, unknown]
    assert commit(broker, 9, {0: -7}) == [NONE], "as by Kafka"


@pytest.mark.parametrize(("limit", "letter"), [(4096, "x"), (4096, "é"), (10, "x"), (0, "x")])
def test_metadata_has_a_limit(broker: Broker, limit: int, letter: str) -> None:
    small = make_broker(broker.log, {"offset.metadata.max.bytes": str(limit)})
    small.topics.create("orders", partitions=3)
    texts = [letter * limit, letter * (limit + 1), "", None]
    partitions = [
        {"partition_index": index % 3, "committed_offset": index, "committed_metadata": text}
        for index, text in enumerate(texts)
    ]
    assert commit_partitions(small, 8, partitions) == [NONE, ErrorCode.OFFSET_METADATA_TOO_LARGE, NONE, NONE]
    assert fetch(small, 8, {"orders": [0, 1, 2]}) == {
        "orders": {0: (3, -1, "", NONE), 1: NEVER, 2: (2, -1, "", NONE)},
    }


@pytest.mark.parametrize(("version", "code"), [(8, ErrorCode.ILLEGAL_GENERATION), (9, ErrorCode.GROUP_ID_NOT_FOUND)])
def test_member_of_a_group_that_does_not_exist(
    broker: Broker, orders: TopicHandle, version: int, code: ErrorCode
) -> None:
    member = {"member_id": "m", "generation_id_or_member_epoch": 1}
    unknown = ErrorCode.UNKNOWN_TOPIC_OR_PARTITION
    assert commit(broker, version, {0: 5, 9: 5}, **member) == [code, unknown]
    assert fetch(broker, 9, None) == {}
    assert commit(broker, version, {0: 5}) == [NONE]
    assert commit(broker, version, {0: 5}, **member) == [ErrorCode.UNKNOWN_MEMBER_ID]


def test_group_with_members_takes_commits_of_its_members_only(broker: Broker, orders: TopicHandle) -> None:
    protocols = [{"name": "range", "metadata": b""}]
    joined = ask(
        broker,
        "JoinGroup",
        3,
        group_id="g",
        session_timeout_ms=10000,
        rebalance_timeout_ms=10000,
        member_id="",
        protocol_type="consumer",
        protocols=protocols,
    )
    member = {"member_id": joined.member_id, "generation_id_or_member_epoch": joined.generation_id}
    assert commit(broker, 9, {0: 5}, **member) == [ErrorCode.REBALANCE_IN_PROGRESS]
    ask(broker, "SyncGroup", 3, group_id="g", generation_id=joined.generation_id, member_id=joined.member_id)
    assert commit(broker, 9, {0: 5}, **member) == [NONE]
    assert commit(broker, 9, {0: 6}, **{**member, "generation_id_or_member_epoch": 0}) == [ErrorCode.ILLEGAL_GENERATION]
    assert commit(broker, 9, {0: 6}) == [ErrorCode.UNKNOWN_MEMBER_ID]
    assert commit(broker, 9, {0: 6}, group_instance_id="i", **member) == [ErrorCode.UNKNOWN_MEMBER_ID]
    assert fetch(broker, 9, {"orders": [0]}) == {"orders": {0: (5, 3, "text", NONE)}}


def test_log_without_room(broker: Broker, orders: TopicHandle, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_room(broker: Broker, topic: TopicHandle, partition: int, batch: bytes) -> int:
        raise AppendFailed(ErrorCode.KAFKA_STORAGE_ERROR, topic.name)

    monkeypatch.setattr(Broker, "append_internal", no_room)
    retry = ErrorCode.COORDINATOR_NOT_AVAILABLE
    assert retry.retriable
    assert commit(broker, 9, {0: 5, 9: 5, 1: 5}) == [retry, ErrorCode.UNKNOWN_TOPIC_OR_PARTITION, retry]
    monkeypatch.undo()
    assert fetch(broker, 9, None) == {}
    assert commit(broker, 9, {0: 5}) == [NONE]
    monkeypatch.setattr(Broker, "append_internal", no_room)
    (result,) = ask(broker, "DeleteGroups", 2, groups_names=["g"]).results
    assert result.error_code == ErrorCode.COORDINATOR_NOT_AVAILABLE


def test_too_many_commits(broker: Broker, orders: TopicHandle, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(offsets, "COMMITS_SIZE_MAX", 1000)
    assert commit(broker, 9, {0: 5}) == [NONE]
    assert commit(broker, 9, {1: 5}) == [ErrorCode.POLICY_VIOLATION]


def test_a_region_is_attached_again_with_its_commits(broker: Broker, orders: TopicHandle) -> None:
    commit(broker, 9, {0: 5})
    later = make_broker(broker.log)
    assert fetch(later, 9, {"orders": [0]}) == {"orders": {0: (5, 3, "text", NONE)}}
    groups = ask(later, "ListGroups", 5).groups
    assert [(group.group_id, group.group_state, group.protocol_type) for group in groups] == [("g", "Empty", "")]
    (described,) = ask(later, "DescribeGroups", 6, groups=["g"]).groups
    assert (described.error_code, described.group_state, described.members) == (NONE, "Empty", [])


@pytest.fixture
def unreadable() -> Iterator[tuple[Broker, ReplicaLog]]:
    """A broker that starts while what was committed is on a disk alone, and the disk cannot be read."""
    before, log = durable_broker()
    handle = before.topics.create("orders", partitions=3)
    before.offsets.commit("g", [(handle, 0, offset_records.Commit(5, 3, "text", NOW_MS))])
    internal = before.topics.find(offsets.TOPIC)
    assert internal is not None
    log.store()
    log.evict(internal.topic, 0, 1)
    log.disk_fault = EngineError("input/output error")
    yield make_broker(log), log
    log.close()


def test_commits_that_no_disk_gives_are_not_available(
    unreadable: tuple[Broker, ReplicaLog], caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nobody is told that there are none, clients ask again, and it works soon after a disk gives them. That is looked
    for now and then, and not for each of those who ask."""
    (broker, log), retry = unreadable, ErrorCode.COORDINATOR_NOT_AVAILABLE
    reads, read = [], log.archive_read

    def archive_read(*asked: Any, **how: Any) -> Any:
        reads.append(asked)
        return read(*asked, **how)

    monkeypatch.setattr(log, "archive_read", archive_read)
    clock = 0.0
    monkeypatch.setattr(waiting, "now", lambda: clock)
    for version in range(2, 10):
        assert commit(broker, version, {0: 6, 9: 6}) == [retry, ErrorCode.UNKNOWN_TOPIC_OR_PARTITION]
        member = {"member_id": "m", "generation_id_or_member_epoch": 1}
        assert commit(broker, version, {0: 6}, **member) == [retry]
    topics = [{"name": "orders", "partition_indexes": [0, 1]}]
    (topic,) = ask(broker, "OffsetFetch", 1, group_id="g", topics=topics).topics
    assert [_fetched(1, each) for each in topic.partitions] == [(-1, -1, "", retry)] * 2
    for version in range(2, 8):
        answer = ask(broker, "OffsetFetch", version, group_id="g", topics=topics)
        assert (answer.error_code, answer.topics) == (retry, [])
    for version in range(8, 11):
        (group,) = ask(broker, "OffsetFetch", version, groups=[{"group_id": "g", "topics": None}]).groups
        assert (group.group_id, group.error_code, group.topics) == ("g", retry, [])
    for version in range(6):
        answer = ask(broker, "ListGroups", version)
        assert (answer.error_code, answer.groups) == (retry, [])
    for version in range(7):
        (described,) = ask(broker, "DescribeGroups", version, groups=["g"]).groups
        assert (described.group_id, described.error_code, described.members) == ("g", retry, [])
    for version in range(3):
        (result,) = ask(broker, "DeleteGroups", version, groups_names=["g"]).results
        assert (result.group_id, result.error_code) == ("g", retry)
    assert f"record 0 of {offsets.TOPIC} is on disk, input/output error" in caplog.text
    assert len(caplog.records) <= LINES_MAX
    assert len(reads) == 1

    log.disk_fault = None
    assert ask(broker, "ListGroups", 4).error_code == retry
    assert len(reads) == 1
    clock = READ_AGAIN_S
    assert fetch(broker, 9, {"orders": [0, 1]}) == {"orders": {0: (5, 3, "text", NONE), 1: NEVER}}


async def test_expiry_waits_for_commits_that_no_disk_gives(
    unreadable: tuple[Broker, ReplicaLog], autojump_clock: MockClock
) -> None:
    """It comes by itself, so there is no client whom an error could be told."""
    broker, log = unreadable
    assert broker.groups.size == 0
    async with trio.open_nursery() as nursery:
        await nursery.start(broker.timers.run)
        await trio.sleep(3_600)
        log.disk_fault = None
        await trio.sleep(3_600)
        nursery.cancel_scope.cancel()
    assert broker.offsets.group_ids() == ["g"]


def end(broker: Broker, topics: dict[str, list[int]], group_id: str = "g") -> tuple[int, dict[str, dict[int, int]]]:
    """Deletes offsets: the error code of all, and those by topic and partition."""
    asked = [
        {"name": name, "partitions": [{"partition_index": each} for each in partitions]}
        for name, partitions in topics.items()
    ]
    answer = ask(broker, "OffsetDelete", 0, group_id=group_id, topics=asked)
    told = {topic.name: {each.partition_index: each.error_code for each in topic.partitions} for topic in answer.topics}
    return answer.error_code, told


def test_offsets_are_deleted(broker: Broker, orders: TopicHandle) -> None:
    commit(broker, 9, {0: 5, 1: 6, 2: 7})
    commit(broker, 9, {0: 8}, "orders.total-order")
    commit(broker, 9, {0: 9}, group_id="other")
    unknown = ErrorCode.UNKNOWN_TOPIC_OR_PARTITION
    assert end(broker, {"orders": [2, 0, 2, 9], "orders.total-order": [0], "unknown": [0]}) == (
        NONE,
        {"orders": {2: NONE, 0: NONE, 9: unknown}, "orders.total-order": {0: NONE}, "unknown": {0: unknown}},
    )
    assert fetch(broker, 9, None) == {"orders": {1: (6, 3, "text", NONE)}}
    assert fetch(broker, 9, None, group_id="other") == {"orders": {0: (9, 3, "text", NONE)}}
    assert end(broker, {"orders": [0]}) == (NONE, {"orders": {0: NONE}}), "what was not committed is no error"
    again = make_broker(broker.log)
    assert fetch(again, 9, None) == {"orders": {1: (6, 3, "text", NONE)}}, "it is in the log"


def test_offsets_of_no_group_are_not_deleted(broker: Broker, orders: TopicHandle) -> None:
    commit(broker, 9, {0: 5}, group_id="")
    assert end(broker, {"orders": [0]}) == (ErrorCode.GROUP_ID_NOT_FOUND, {})
    assert end(broker, {"orders": [0]}, "") == (ErrorCode.INVALID_GROUP_ID, {})
    assert len(broker.offsets) == 1


def test_a_full_log_keeps_offsets_that_should_go(
    broker: Broker, orders: TopicHandle, monkeypatch: pytest.MonkeyPatch
) -> None:
    commit(broker, 9, {0: 5})

    def refuse(*_: Any) -> int:
        raise AppendFailed(ErrorCode.KAFKA_STORAGE_ERROR, "full")

    monkeypatch.setattr(Broker, "append_internal", refuse)
    assert end(broker, {"orders": [0]}) == (ErrorCode.COORDINATOR_NOT_AVAILABLE, {})
    assert fetch(broker, 9, None) == {"orders": {0: (5, 3, "text", NONE)}}
