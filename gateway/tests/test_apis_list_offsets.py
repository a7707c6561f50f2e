"""ListOffsets: the ends of a partition, and records by their time, in topics and in total-order views."""

from collections.abc import Iterator, Sequence
from typing import Any

import pytest

from totalog.engine import Log
from totalog.gateway import waiting
from totalog.gateway.broker import Broker
from totalog.gateway.tests import batches
from totalog.gateway.tests.harness import REGION_SIZE, ask, make_broker
from totalog.gateway.wire.errors import ErrorCode

VERSIONS = range(1, 12)
LATEST, EARLIEST, MAX_TIMESTAMP, EARLIEST_LOCAL, LATEST_TIERED, EARLIEST_PENDING_UPLOAD = -1, -2, -3, -4, -5, -6
NOTHING = (0, -1, -1)
T = 1_700_000_000_000


def append(broker: Broker, partition: int, times: Sequence[int], codec: int = 0) -> None:
    """One batch of records with these times."""
    topic = broker.topics.find("orders")
    assert topic is not None
    batch = batches.build([(T + time, b"key", b"value", []) for time in times], codec=codec)
    broker.append_internal(topic, partition, batch)


@pytest.fixture(scope="module")
def broker() -> Iterator[Broker]:
    """Partition 0: times 0 10 20 | 30 50 40; partition 1: 5 5 | 60; in total order: 0 10 20 | 5 5 | 30 50 40 | 60."""
    with Log.create(size=REGION_SIZE) as log:
        broker = make_broker(log)
        broker.topics.create("orders", partitions=3)
        append(broker, 0, [0, 10, 20])
        append(broker, 1, [5, 5], codec=batches.CODECS["zstd"])
        append(broker, 0, [30, 50, 40], codec=batches.CODECS["lz4"])
        append(broker, 1, [60])
        yield broker


def list_offsets(broker: Broker, version: int, asked: Sequence[tuple[str, int, int]], epoch: int = -1) -> list[Any]:
    """One answer for each (topic, partition, timestamp); the topics must come in runs."""
    topics: dict[str, list[dict[str, int]]] = {}
    for name, partition, timestamp in asked:
        fields = {"current_leader_epoch": epoch} if version >= 4 else {}
        topics.setdefault(name, []).append({"partition_index": partition, "timestamp": timestamp, **fields})
    request = [{"name": name, "partitions": partitions} for name, partitions in topics.items()]
    answer = ask(broker, "ListOffsets", version, replica_id=-1, topics=request)
    assert [topic.name for topic in answer.topics] == list(topics)
    return [partition for topic in answer.topics for partition in topic.partitions]


def find(broker: Broker, version: int, name: str, partition: int, timestamp: int) -> tuple[int, int, int]:
    """Error code, offset, and timestamp without the base that all records share."""
    [found] = list_offsets(broker, version, [(name, partition, timestamp)])
    assert found.partition_index == partition
    return found.error_code, found.offset, found.timestamp - T if found.timestamp > 0 else found.timestamp


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize(
    ("name", "partition", "end"), [("orders", 0, 6), ("orders", 1, 3), ("orders", 2, 0), ("orders.total-order", 0, 9)]
)
def test_the_ends(broker: Broker, version: int, name: str, partition: int, end: int) -> None:
    assert find(broker, version, name, partition, LATEST) == (0, end, -1)
    assert find(broker, version, name, partition, EARLIEST) == (0, 0, -1)


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize(
    ("name", "partition", "time", "expected"),
    [
        ("orders", 0, -5, (0, 0, 0)),
        ("orders", 0, 0, (0, 0, 0)),
        ("orders", 0, 1, (0, 1, 10)),
        ("orders", 0, 20, (0, 2, 20)),
        ("orders", 0, 21, (0, 3, 30)),
        ("orders", 0, 31, (0, 4, 50)),
        ("orders", 0, 50, (0, 4, 50)),
        ("orders", 0, 51, NOTHING),
        ("orders", 1, 5, (0, 0, 5)),
        ("orders", 1, 6, (0, 2, 60)),
        ("orders", 2, 0, NOTHING),
        ("orders.total-order", 0, 0, (0, 0, 0)),
        ("orders.total-order", 0, 11, (0, 2, 20)),
        ("orders.total-order", 0, 21, (0, 5, 30)),
        ("orders.total-order", 0, 45, (0, 6, 50)),
        ("orders.total-order", 0, 55, (0, 8, 60)),
        ("orders.total-order", 0, 61, NOTHING),
    ],
)
def test_records_by_time(
    broker: Broker, version: int, name: str, partition: int, time: int, expected: tuple[int, int, int]
) -> None:
    assert find(broker, version, name, partition, T + time) == expected


@pytest.mark.parametrize("version", VERSIONS[6:])
@pytest.mark.parametrize(
    ("name", "partition", "expected"),
    [
        ("orders", 0, (0, 4, 50)),
        ("orders", 1, (0, 2, 60)),
        ("orders", 2, NOTHING),
        ("orders.total-order", 0, (0, 8, 60)),
    ],
)
def test_the_largest_timestamp(
    broker: Broker, version: int, name: str, partition: int, expected: tuple[int, int, int]
) -> None:
    assert find(broker, version, name, partition, MAX_TIMESTAMP) == expected


FIRST_VERSIONS = {MAX_TIMESTAMP: 7, EARLIEST_LOCAL: 8, LATEST_TIERED: 9, EARLIEST_PENDING_UPLOAD: 11, -7: 99, -99: 99}


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize(("timestamp", "first"), FIRST_VERSIONS.items())
def test_special_timestamps_belong_to_versions(broker: Broker, version: int, timestamp: int, first: int) -> None:
    code, offset, time = find(broker, version, "orders", 0, timestamp)
    if version < first:
        assert (code, offset, time) == (ErrorCode.UNSUPPORTED_VERSION, -1, -1)
    else:
        assert code == 0
        assert offset == {MAX_TIMESTAMP: 4, EARLIEST_LOCAL: 0}.get(timestamp, -1)


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize(
    ("name", "partition"),
    [("orders", 3), ("orders", -1), ("nothing", 0), ("orders.total-order", 1), ("nothing.total-order", 0)],
)
def test_unknown_partitions(broker: Broker, version: int, name: str, partition: int) -> None:
    assert find(broker, version, name, partition, LATEST) == (ErrorCode.UNKNOWN_TOPIC_OR_PARTITION, -1, -1)


@pytest.mark.parametrize("version", VERSIONS)
def test_a_partition_named_twice(broker: Broker, version: int) -> None:
    asked = [("orders", 0, LATEST), ("orders", 1, LATEST), ("orders", 0, EARLIEST), ("orders.total-order", 0, LATEST)]
    codes = [found.error_code for found in list_offsets(broker, version, asked)]
    assert codes == [ErrorCode.INVALID_REQUEST, 0, 0], "told once, as by Apache Kafka"


@pytest.mark.parametrize("version", VERSIONS[3:])
def test_leader_epochs(broker: Broker, version: int) -> None:
    topic = broker.topics.find("orders")
    assert topic is not None
    epoch = broker.log.bounds(topic.topic, 0).leader_epoch
    for name in ("orders", "orders.total-order"):
        [known] = list_offsets(broker, version, [(name, 0, LATEST)], epoch)
        assert (known.error_code, known.leader_epoch) == (0, epoch)
        [newer] = list_offsets(broker, version, [(name, 0, LATEST)], epoch + 9)
        assert (newer.error_code, newer.offset) == (ErrorCode.UNKNOWN_LEADER_EPOCH, -1)
        if epoch > 0:
            [older] = list_offsets(broker, version, [(name, 0, LATEST)], epoch - 1)
            assert older.error_code == ErrorCode.FENCED_LEADER_EPOCH


def test_after_a_trim_the_start_moves() -> None:
    with Log.create(size=REGION_SIZE) as log:
        broker = make_broker(log)
        topic = broker.topics.create("orders", partitions=1, config={"totalog.order.level": "0"})
        for time in range(4):
            append(broker, 0, [time])
        log.trim(topic.topic, 0, 2)
        assert find(broker, 11, "orders", 0, EARLIEST) == (0, 2, -1)
        assert find(broker, 11, "orders", 0, T) == (0, 2, 2)


def test_a_compressed_batch_that_cannot_be_opened_answers_its_first_offset() -> None:
    """The check of a batch on its way in looks at the header and the CRC of compressed ones, not at their records."""
    with Log.create(size=REGION_SIZE) as log:
        broker = make_broker(log)
        topic = broker.topics.create("orders", partitions=1)
        append(broker, 0, [0])
        sound = batches.build([(T + 10, None, b"x" * 100, [])] * 2, codec=batches.CODECS["zstd"])
        broken = batches.sealed(sound[: batches.HEADER_SIZE] + b"\x00" * (len(sound) - batches.HEADER_SIZE))
        broker.append_internal(topic, 0, broken)
        assert find(broker, 11, "orders", 0, T + 5) == (0, 1, 10)
        assert find(broker, 11, "orders", 0, MAX_TIMESTAMP) == (0, 1, 10)


def test_a_topic_may_be_deleted_between_two_partitions(monkeypatch: pytest.MonkeyPatch) -> None:
    """A look-up by time lets others have their turn, and one of them may delete the topic."""
    with Log.create(size=REGION_SIZE) as log:
        broker = make_broker(log)
        topic = broker.topics.create("orders", partitions=2)
        append(broker, 0, [0])

        async def delete() -> None:
            if broker.topics.find("orders"):
                broker.topics.delete(topic)

        monkeypatch.setattr(waiting, "yield_once", delete)
        first, second = list_offsets(broker, 11, [("orders", 0, T), ("orders", 1, T)])
        assert (first.error_code, first.offset) == (0, 0)
        assert second.error_code == ErrorCode.UNKNOWN_TOPIC_OR_PARTITION
