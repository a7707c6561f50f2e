"""Records are deleted up to an offset, and leader epochs say where they ended."""

from typing import Any

import pytest

from totalog.engine import Read
from totalog.gateway.apis import offset_for_leader_epoch
from totalog.gateway.broker import Broker
from totalog.gateway.tests.harness import ask
from totalog.gateway.tests.test_apis_fetch import batch, put
from totalog.gateway.view import SUFFIX
from totalog.gateway.wire.errors import ErrorCode


@pytest.fixture(autouse=True)
def records(broker: Broker) -> None:
    """Ten batches of three records in each of two partitions."""
    broker.topics.create("orders", partitions=3)
    for _ in range(10):
        put(broker, "orders", 0, batch(3))
        put(broker, "orders", 1, batch(3))


def delete(broker: Broker, version: int, *places: tuple[str, int, int]) -> list[tuple[int, int]]:
    topics = [{"name": name, "partitions": [{"partition_index": index, "offset": at}]} for name, index, at in places]
    answer = ask(broker, "DeleteRecords", version, topics=topics, timeout_ms=1000)
    return [(row.error_code, row.low_watermark) for topic in answer.topics for row in topic.partitions]


def starts(broker: Broker) -> list[int]:
    topic = broker.topics.find("orders")
    assert topic is not None
    return [broker.log.bounds(topic.topic, partition).log_start_offset for partition in range(3)]


@pytest.mark.parametrize("version", [0, 1, 2])
def test_up_to_an_offset(broker: Broker, version: int) -> None:
    assert delete(broker, version, ("orders", 0, 12)) == [(0, 12)]
    assert starts(broker) == [12, 0, 0]
    assert delete(broker, version, ("orders", 0, 11)) == [(0, 12)], "below the start nothing happens"
    assert delete(broker, version, ("orders", 0, 13)) == [(0, 13)], "inside a batch too"
    assert delete(broker, version, ("orders", 1, -1), ("orders", 2, -1)) == [(0, 30), (0, 0)]
    assert starts(broker) == [13, 30, 0]
    put(broker, "orders", 1, batch(1))
    assert delete(broker, version, ("orders", 1, 31)) == [(0, 31)]


def test_what_cannot_be_deleted(broker: Broker) -> None:
    broker.topics.create("__consumer_offsets", partitions=1, internal=True)
    broker.topics.create("compacted", partitions=1, config={"cleanup.policy": "compact"})
    cases = [
        (("nobody", 0, 0), ErrorCode.UNKNOWN_TOPIC_OR_PARTITION),
        (("orders", 3, 0), ErrorCode.UNKNOWN_TOPIC_OR_PARTITION),
        (("orders", -1, 0), ErrorCode.UNKNOWN_TOPIC_OR_PARTITION),
        (("orders", 0, 31), ErrorCode.OFFSET_OUT_OF_RANGE),
        (("orders", 0, -2), ErrorCode.OFFSET_OUT_OF_RANGE),
        (("orders", 0, 2**63 - 1), ErrorCode.OFFSET_OUT_OF_RANGE),
        (("orders" + SUFFIX, 0, 5), ErrorCode.INVALID_TOPIC_EXCEPTION),
        (("__consumer_offsets", 0, 0), ErrorCode.INVALID_TOPIC_EXCEPTION),
        (("compacted", 0, 0), ErrorCode.POLICY_VIOLATION),
    ]
    assert delete(broker, 2, *(place for place, _ in cases)) == [(code, -1) for _, code in cases]
    assert starts(broker) == [0, 0, 0]


def test_the_view_skips_what_was_deleted(broker: Broker) -> None:
    assert delete(broker, 2, ("orders", 0, -1)) == [(0, 30)]
    for offset, batches in ((3, 10), (6, 9), (59, 1)):
        partition = {"partition": 0, "fetch_offset": offset, "partition_max_bytes": 9999}
        topics = [{"topic": "orders" + SUFFIX, "partitions": [partition]}]
        answer = ask(broker, "Fetch", 11, max_wait_ms=0, min_bytes=0, max_bytes=9999, topics=topics)
        (part,) = answer.responses[0].partitions
        assert part.error_code == 0
        assert bytes(part.records).count(batch(3)[16:]) == batches


# Leader epochs


def ends(broker: Broker, version: int, *places: tuple[str, int, int, int]) -> list[tuple[int, int, int]]:
    topics = [
        {
            "topic": name,
            "partitions": [{"partition": index, "current_leader_epoch": current, "leader_epoch": epoch}],
        }
        for name, index, current, epoch in places
    ]
    answer = ask(broker, "OffsetForLeaderEpoch", version, topics=topics)
    return [(row.error_code, row.leader_epoch, row.end_offset) for topic in answer.topics for row in topic.partitions]


@pytest.mark.parametrize("version", [2, 3, 4])
def test_where_leader_epochs_end(broker: Broker, version: int) -> None:
    assert ends(
        broker,
        version,
        ("orders", 0, -1, 0),
        ("orders", 0, 0, 0),
        ("orders", 2, -1, 0),
        ("orders" + SUFFIX, 0, -1, 0),
        ("orders", 0, -1, 7),
        ("orders", 0, -1, -1),
        ("orders", 0, 1, 0),
        ("orders", 9, -1, 0),
        ("nobody", 0, -1, 0),
    ) == [
        (0, 0, 30),
        (0, 0, 30),
        (0, 0, 0),
        (0, 0, 60),
        (0, -1, -1),
        (0, -1, -1),
        (ErrorCode.UNKNOWN_LEADER_EPOCH, -1, -1),
        (ErrorCode.UNKNOWN_TOPIC_OR_PARTITION, -1, -1),
        (ErrorCode.UNKNOWN_TOPIC_OR_PARTITION, -1, -1),
    ]


@pytest.mark.parametrize(
    "epochs", [[0] * 10, [1] * 10, [0, 0, 2, 2, 2, 3, 3, 5, 5, 5], [1, 2, 3, 4, 5, 6, 7, 8, 9, 10]]
)
async def test_an_earlier_epoch_is_searched_for(
    broker: Broker, monkeypatch: pytest.MonkeyPatch, epochs: list[int]
) -> None:
    """Batch `n` of partition 0, three records each, is made to be of `epochs[n]`."""
    topic = broker.topics.find("orders")
    assert topic is not None
    search = offset_for_leader_epoch.Search(broker, topic, 0)
    read = broker.log.read

    def with_epochs(*place: Any, batches: Any) -> Read:
        found = read(*place, batches=batches)
        batches[0].leader_epoch = epochs[batches[0].base_offset // 3]
        return found

    monkeypatch.setattr(broker.log, "read", with_epochs)
    for asked in range(12):
        later = [3 * number for number, epoch in enumerate(epochs) if epoch > asked]
        earlier = [epoch for epoch in epochs if epoch <= asked]
        expected = (earlier[-1] if earlier else asked, later[0] if later else 30)
        assert (await search.end_of(asked, 0, 30))[:2] == expected
    log_start = await search.end_of(epochs[-1] - 1, 29, 30)
    assert log_start.offset == 29


async def test_a_search_reads_batches_larger_than_its_buffer(broker: Broker) -> None:
    put(broker, "orders", 2, batch(1, 200_000))
    topic = broker.topics.find("orders")
    assert topic is not None
    search = offset_for_leader_epoch.Search(broker, topic, 2)
    assert await search.end_of(0, 0, 1) == (0, 1, ErrorCode.NONE)
