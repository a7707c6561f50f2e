"""Committed offsets: what is answered is found again, in this life of the broker and the next; the topic is short."""

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from totalog.engine import Log, Topic
from totalog.gateway.broker import AppendFailed, Broker, CommitsFull
from totalog.gateway.coordinators import offsets as module
from totalog.gateway.coordinators.offset_records import (
    Commit,
    Key,
    decode_key,
    decode_value,
    encode_key,
    encode_value,
)
from totalog.gateway.coordinators.offsets import OffsetStore
from totalog.gateway.lane import finish
from totalog.gateway.tests.harness import NOW_MS, REGION_SIZE, make_broker
from totalog.gateway.topics import GONE_COUNT_MAX, TopicHandle
from totalog.gateway.wire import records
from totalog.gateway.wire.errors import ErrorCode, ProtocolViolation

TOPIC_ID = bytes.fromhex("f2f6888fb5124d03b908cf6e8739943a")


def at(offset: int, metadata: str = "", timestamp_ms: int = NOW_MS) -> Commit:
    return Commit(offset, -1, metadata, timestamp_ms)


@pytest.fixture
def orders(broker: Broker) -> TopicHandle:
    return broker.topics.create("orders", partitions=4)


def commit(broker: Broker, group_id: str, name: str, partition: int, commit: Commit) -> None:
    topic = broker.topics.find(name)
    assert topic is not None
    broker.offsets.commit(group_id, [(topic, partition, commit)])


def folded(broker: Broker) -> OffsetStore:
    """What another broker, or this one in its next life, makes of the log."""
    return OffsetStore(broker)


def everything(store: OffsetStore) -> dict[str, dict[str, dict[int, Commit]]]:
    return {
        group: {topic: dict(commits) for topic, commits in store.fetch_all(group).items()}
        for group in store.group_ids()
    }


# The records


@pytest.mark.parametrize(
    ("key", "value", "commit"),
    [
        (  # both taken from the log of an Apache Kafka 4.3.1
            "00010000000a742d7235333139353132" "00000000",
            "00040000000000000005ffffffff01000001a20e0b52a4010010f2f6888fb5124d03b908cf6e8739943a",
            (Key("", "t-r5319512", 0), Commit(5, -1, "", 0x1A20E0B52A4)),
        ),
        (
            "000100046e6f6732000a742d723533313935313200000000",
            "00040000000000000005ffffffff0668656c6c6f000001a20e0b52fd010010f2f6888fb5124d03b908cf6e8739943a",
            (Key("nog2", "t-r5319512", 0), Commit(5, -1, "hello", 0x1A20E0B52FD)),
        ),
    ],
)  # fmt: skip
def test_records_are_kafkas(key: str, value: str, commit: tuple[Key, Commit]) -> None:
    assert encode_key(commit[0]).hex() == key
    assert encode_value(commit[1], TOPIC_ID).hex() == value
    assert decode_key(bytes.fromhex(key)) == commit[0]
    assert decode_value(bytes.fromhex(value)) == (commit[1], TOPIC_ID)


@given(
    group=st.text(max_size=40),
    topic=st.text(max_size=40),
    partition=st.integers(0, 2**31 - 1),
    offset=st.integers(-(2**63), 2**63 - 1),
    leader_epoch=st.integers(-1, 2**31 - 1),
    metadata=st.text(max_size=300),
    timestamp_ms=st.integers(-1, 2**63 - 1),
)
def test_records_come_out_as_they_went_in(
    group: str, topic: str, partition: int, offset: int, leader_epoch: int, metadata: str, timestamp_ms: int
) -> None:
    key, commit = Key(group, topic, partition), Commit(offset, leader_epoch, metadata, timestamp_ms)
    assert decode_key(encode_key(key)) == key
    assert decode_value(encode_value(commit, TOPIC_ID)) == (commit, TOPIC_ID)


def test_records_that_are_cut_off() -> None:
    key, value = encode_key(Key("group", "topic", 1)), encode_value(at(7, "text"), TOPIC_ID)
    for size in range(len(key)):
        with pytest.raises(ProtocolViolation):
            decode_key(key[:size])
    for size in range(len(value)):
        with pytest.raises(ProtocolViolation):
            decode_value(value[:size])


def test_records_of_other_kinds_are_not_commits() -> None:
    assert decode_key(b"\0\2\0\1g") is None, "GroupMetadataKey"
    assert decode_value(b"\0\3" + bytes(30)) is None, "OffsetCommitValue version 3"


# The store


def test_commits_are_found_by_group_topic_and_partition(broker: Broker, orders: TopicHandle) -> None:
    commit(broker, "g", "orders", 0, at(5, "five"))
    commit(broker, "g", "orders", 3, at(0))
    commit(broker, "h", "orders", 0, at(9))
    store = broker.offsets
    assert store.fetch("g", "orders", 0) == at(5, "five")
    assert store.fetch("g", "orders", 1) is None
    assert store.fetch("g", "other", 0) is None
    assert store.fetch("other", "orders", 0) is None
    assert store.fetch_all("g") == {"orders": {0: at(5, "five"), 3: at(0)}}
    assert sorted(store.group_ids()) == ["g", "h"]
    assert store.has_group("g")
    assert not store.has_group("other")


def test_later_commit_replaces_the_earlier(broker: Broker, orders: TopicHandle) -> None:
    broker.offsets.commit("g", [(orders, 0, at(1)), (orders, 1, at(2)), (orders, 0, at(3))])
    assert broker.offsets.fetch_all("g") == {"orders": {0: at(3), 1: at(2)}}
    commit(broker, "g", "orders", 1, at(1))
    assert broker.offsets.fetch("g", "orders", 1) == at(1), "backwards, too"
    assert len(broker.offsets) == 2


def test_nothing_is_made_before_the_first_commit(broker: Broker) -> None:
    assert broker.offsets.fetch("g", "orders", 0) is None
    broker.offsets.commit("g", [])
    assert broker.topics.find(module.TOPIC) is None


def test_offsets_topic_is_internal_and_holds_one_batch_a_commit(broker: Broker, orders: TopicHandle) -> None:
    broker.offsets.commit("g", [(orders, 0, at(1)), (orders, 1, at(2))])
    topic = broker.topics.find(module.TOPIC)
    assert topic is not None
    assert topic.topic.internal
    assert broker.log.bounds(topic.topic, 0).next_offset == 2
    assert broker.topics.find(f"{module.TOPIC}.total-order") is None


def test_views_are_committed_like_topics(broker: Broker, orders: TopicHandle) -> None:
    commit(broker, "g", "orders.total-order", 0, at(77))
    assert broker.offsets.fetch("g", "orders.total-order", 0) == at(77)
    assert broker.offsets.fetch("g", "orders", 0) is None
    assert everything(folded(broker)) == {"g": {"orders.total-order": {0: at(77)}}}
    broker.topics.delete(orders)
    assert broker.offsets.group_ids() == []


def test_deleted_group(broker: Broker, orders: TopicHandle) -> None:
    for partition in range(4):
        commit(broker, "g", "orders", partition, at(partition))
    commit(broker, "h", "orders", 0, at(1))
    finish(broker.offsets.delete_group("g"))
    assert everything(broker.offsets) == everything(folded(broker)) == {"h": {"orders": {0: at(1)}}}
    finish(broker.offsets.delete_group("g"))


def test_large_group_is_deleted_in_batches(broker: Broker, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "COMMIT_BATCH_COUNT_MAX", 7)
    topic = broker.topics.create("wide", partitions=40)
    broker.offsets.commit("g", [(topic, partition, at(1)) for partition in range(40)])
    finish(broker.offsets.delete_group("g"))
    assert everything(broker.offsets) == everything(folded(broker)) == {}


def test_old_commits_expire(broker: Broker, orders: TopicHandle) -> None:
    commit(broker, "g", "orders", 0, at(1, timestamp_ms=100))
    commit(broker, "g", "orders", 1, at(1, timestamp_ms=200))
    assert finish(broker.offsets.expire("g", 200)) == 1
    assert broker.offsets.fetch_all("g") == folded(broker).fetch_all("g") == {"orders": {1: at(1, timestamp_ms=200)}}
    assert finish(broker.offsets.expire("unknown", 200)) == 0


def test_commits_go_with_their_topic(broker: Broker, orders: TopicHandle) -> None:
    broker.topics.create("kept", partitions=1)
    commit(broker, "g", "orders", 0, at(5))
    commit(broker, "g", "kept", 0, at(6))
    broker.topics.delete(orders)
    assert broker.offsets.fetch_all("g") == {"kept": {0: at(6)}}
    assert broker.offsets._topic_ids.keys() == {"kept"}
    assert folded(broker).fetch_all("g") == {"kept": {0: at(6)}}


def test_new_topic_of_the_name_starts_without_commits(broker: Broker, orders: TopicHandle) -> None:
    commit(broker, "g", "orders", 0, at(5))
    broker.topics.delete(orders)
    broker.topics.create("orders", partitions=4)
    assert folded(broker).group_ids() == [], "nobody looked between the two"
    assert broker.offsets.fetch("g", "orders", 0) is None
    commit(broker, "g", "orders", 0, at(1))
    assert everything(broker.offsets) == everything(folded(broker)) == {"g": {"orders": {0: at(1)}}}


def test_more_partitions_change_nothing(broker: Broker, orders: TopicHandle) -> None:
    commit(broker, "g", "orders", 3, at(5))
    broker.topics.add_partitions(orders, 8)
    commit(broker, "g", "orders", 7, at(6))
    assert everything(broker.offsets) == everything(folded(broker)) == {"g": {"orders": {3: at(5), 7: at(6)}}}


def test_attached_region_has_every_commit(tmp_path: Path) -> None:
    with Log.create(tmp_path / "region", size=REGION_SIZE) as log:
        broker = make_broker(log)
        broker.topics.create("orders", partitions=4)
        for offset in range(300):
            commit(broker, f"g{offset % 7}", "orders", offset % 4, at(offset, "x" * offset))
        before = everything(broker.offsets)
    with Log.attach(tmp_path / "region") as log:
        broker = make_broker(log)
        assert everything(broker.offsets) == before
        commit(broker, "g0", "orders", 0, at(1))
        assert broker.offsets.fetch("g0", "orders", 0) == at(1)


def test_fold_reads_batches_larger_than_its_buffer(
    broker: Broker, orders: TopicHandle, monkeypatch: pytest.MonkeyPatch
) -> None:
    broker.offsets.commit("g", [(orders, partition, at(partition, "x" * 4000)) for partition in range(4)])
    commit(broker, "g", "orders", 0, at(9))
    monkeypatch.setattr(module, "READ_SIZE", 128)
    assert everything(folded(broker)) == everything(broker.offsets)
    monkeypatch.undo()
    monkeypatch.setattr(module, "READ_BATCHES_COUNT", 1)
    assert everything(folded(broker)) == everything(broker.offsets)


def test_fold_passes_over_what_it_does_not_know(
    broker: Broker, orders: TopicHandle, caplog: pytest.LogCaptureFixture
) -> None:
    commit(broker, "g", "orders", 0, at(5))
    topic = broker.topics.find(module.TOPIC)
    assert topic is not None
    key = encode_key(Key("g", "orders", 0))
    others = [(None, b"x"), (b"\0\2\0\1g", b"x"), (key, b"\0\3" + bytes(30)), (b"\0\1\0", None), (key, b"\0\4")]
    broker.append_internal(topic, 0, records.build_batch(others, NOW_MS))
    assert everything(folded(broker)) == {"g": {"orders": {0: at(5)}}}
    assert caplog.text.count("is passed over") == 2


# The topic stays short


@pytest.fixture
def short(monkeypatch: pytest.MonkeyPatch) -> int:
    """Small numbers, so that a test gets there; the most records that may lie in the log beside four times the live."""
    monkeypatch.setattr(module, "DEAD_COUNT_MIN", 64)
    monkeypatch.setattr(module, "TRIM_COUNT_MIN", 8)
    return 64 + 8


def log_length(broker: Broker) -> int:
    topic = broker.topics.find(module.TOPIC)
    assert topic is not None
    bounds = broker.log.bounds(topic.topic, 0)
    return bounds.next_offset - bounds.log_start_offset


def test_one_commit_again_and_again_keeps_the_topic_short(broker: Broker, orders: TopicHandle, short: int) -> None:
    for offset in range(1000):
        commit(broker, "g", "orders", 0, at(offset))
        assert log_length(broker) <= short + 4
    assert everything(folded(broker)) == {"g": {"orders": {0: at(999)}}}


def test_log_start_is_moved_now_and_then(
    broker: Broker, orders: TopicHandle, short: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    trimmed: list[int] = []
    trim = broker.log.trim

    def count(topic: Topic, partition: int, offset: int) -> None:
        trimmed.append(offset)
        trim(topic, partition, offset)

    monkeypatch.setattr(broker.log, "trim", count)
    for offset in range(200):
        commit(broker, "g", "orders", 0, at(offset))
    assert trimmed == sorted(trimmed)
    assert 10 <= len(trimmed) <= 200 // 8


def test_commit_wins_over_what_is_carried_on(broker: Broker, orders: TopicHandle, short: int) -> None:
    for gap in range(short - 16, short + 16):
        commit(broker, "g", "orders", 0, at(gap))
        for _ in range(gap):
            commit(broker, "g", "orders", 1, at(0))
        commit(broker, "g", "orders", 0, at(gap + 1))
        assert broker.offsets.fetch("g", "orders", 0) == at(gap + 1)


def test_idle_groups_do_not_pin_the_log(broker: Broker, orders: TopicHandle, short: int) -> None:
    for idle in range(50):
        commit(broker, f"idle{idle}", "orders", 0, at(idle))
    longest = 0
    for offset in range(2000):
        commit(broker, "busy", "orders", 0, at(offset))
        longest = max(longest, log_length(broker))
    assert longest <= short + 6 * 51
    expected = {f"idle{idle}": {"orders": {0: at(idle)}} for idle in range(50)}
    assert everything(broker.offsets) == everything(folded(broker)) == expected | {"busy": {"orders": {0: at(1999)}}}


def test_deleted_groups_leave_the_log(broker: Broker, orders: TopicHandle, short: int) -> None:
    for round in range(300):
        commit(broker, f"g{round}", "orders", 0, at(round))
        finish(broker.offsets.delete_group(f"g{round}"))
    assert log_length(broker) <= short
    assert everything(folded(broker)) == {}


def test_a_deletion_costs_what_is_committed_for_the_topic(broker: Broker, monkeypatch: pytest.MonkeyPatch) -> None:
    """And not what is committed at all: no other topic is looked at."""
    handles = [broker.topics.create(f"t{number}", partitions=2) for number in range(50)]
    for handle in handles:
        commit(broker, "g", handle.name, 0, at(1))
        commit(broker, "g", handle.name, 1, at(1))
        commit(broker, f"of {handle.name}", handle.name, 0, at(1))
    broker.topics.delete(handles[3])
    broker.topics.delete(handles[4])
    broker.topics.create("t4", partitions=2)
    looked: list[str] = []
    find = broker.topics.find

    def found(name: str) -> TopicHandle | None:
        looked.append(name)
        return find(name)

    monkeypatch.setattr(broker.topics, "find", found)
    store = broker.offsets
    assert store.group_ids() == ["g", *(f"of {h.name}" for h in handles if h.name not in ("t3", "t4"))]
    assert set(looked) == {"t3", "t4"}
    commit(broker, "g", "t4", 1, at(7))
    assert set(store.fetch_all("g")) == {handle.name for handle in handles} - {"t3"}
    assert store.fetch("g", "t4", 0) is None


def test_deletions_that_nobody_here_made_are_found(broker: Broker) -> None:
    """By another process on the same region, or more of them than are remembered: every topic is looked at."""
    handles = [broker.topics.create(f"t{number}", partitions=1) for number in range(4)]
    for handle in handles:
        commit(broker, "g", handle.name, 0, at(1))
    broker.log.delete_topic(handles[0].topic)
    assert set(broker.offsets.fetch_all("g")) == {"t1", "t2", "t3"}
    broker.topics.delete(handles[1])
    for _ in range(GONE_COUNT_MAX // 2):
        broker.topics.delete(broker.topics.create("other", partitions=1))
    assert set(broker.offsets.fetch_all("g")) == {"t2", "t3"}


def test_commits_of_a_deleted_topic_do_not_pin_the_log(broker: Broker, orders: TopicHandle, short: int) -> None:
    for group in range(20):
        commit(broker, f"g{group}", "orders", 0, at(group))
    broker.topics.delete(orders)
    broker.topics.create("other", partitions=1)
    for offset in range(100):
        commit(broker, "g", "other", 0, at(offset))
    assert log_length(broker) <= short


@settings(max_examples=30, deadline=None)
@given(
    steps=st.lists(
        st.one_of(
            st.tuples(st.just("commit"), st.integers(0, 5), st.integers(0, 3), st.integers(0, 99)),
            st.tuples(st.just("delete"), st.integers(0, 5), st.just(0), st.just(0)),
            st.tuples(st.just("expire"), st.integers(0, 5), st.just(0), st.integers(0, 99)),
        ),
        max_size=120,
    )
)
def test_fold_equals_what_was_done(steps: list[tuple[str, int, int, int]]) -> None:
    expected: dict[tuple[str, int], int] = {}
    with pytest.MonkeyPatch.context() as patch, Log.create(size=REGION_SIZE) as log:
        patch.setattr(module, "DEAD_COUNT_MIN", 5)
        patch.setattr(module, "DEAD_FACTOR", 1)
        patch.setattr(module, "TRIM_COUNT_MIN", 2)
        broker = make_broker(log)
        broker.topics.create("orders", partitions=4)
        for kind, group, partition, number in steps:
            group_id = f"g{group}"
            if kind == "commit":
                commit(broker, group_id, "orders", partition, at(number, timestamp_ms=number))
                expected[group_id, partition] = number
            else:
                if kind == "delete":
                    finish(broker.offsets.delete_group(group_id))
                else:
                    finish(broker.offsets.expire(group_id, number))
                limit = 100 if kind == "delete" else number
                expected = {key: at for key, at in expected.items() if key[0] != group_id or at >= limit}
        for store in (broker.offsets, folded(broker)):
            found = {
                (group, partition): commit.offset
                for group, topics in everything(store).items()
                for partition, commit in topics["orders"].items()
            }
            assert found == expected
            assert len(store) == len(expected)
            sizes = (module.COMMIT_OVERHEAD_SIZE + len("g0") + len("orders") for _ in expected)
            assert store.size == sum(sizes)


# Limits


def test_commits_beyond_the_limit_are_refused(
    broker: Broker, orders: TopicHandle, monkeypatch: pytest.MonkeyPatch
) -> None:
    one = module.COMMIT_OVERHEAD_SIZE + len("g") + len("orders")
    monkeypatch.setattr(module, "COMMITS_SIZE_MAX", 2 * one)
    commit(broker, "g", "orders", 0, at(1))
    commit(broker, "g", "orders", 1, at(1))
    with pytest.raises(CommitsFull):
        commit(broker, "g", "orders", 2, at(1))
    with pytest.raises(CommitsFull):
        commit(broker, "g", "orders", 1, at(1, "longer"))
    commit(broker, "g", "orders", 1, at(2))
    assert everything(broker.offsets) == {"g": {"orders": {0: at(1), 1: at(2)}}}
    finish(broker.offsets.delete_group("g"))
    commit(broker, "g", "orders", 2, at(1))


def test_full_log_refuses_and_changes_nothing(broker: Broker, orders: TopicHandle) -> None:
    commit(broker, "g", "orders", 0, at(1))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(type(broker), "append_internal", _no_room)
        with pytest.raises(AppendFailed):
            commit(broker, "g", "orders", 0, at(2))
        with pytest.raises(AppendFailed):
            finish(broker.offsets.delete_group("g"))
    assert broker.offsets.fetch("g", "orders", 0) == at(1)
    commit(broker, "g", "orders", 0, at(3))
    assert everything(folded(broker)) == {"g": {"orders": {0: at(3)}}}


def _no_room(broker: Broker, topic: TopicHandle, partition: int, batch: bytes) -> int:
    raise AppendFailed(ErrorCode.KAFKA_STORAGE_ERROR, topic.name)
