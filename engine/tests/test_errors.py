"""What the log refuses, and how it says so: exceptions for what is done to topics, a status for each batch."""

from collections.abc import Callable, Iterator

import pytest

from totalog.engine import (
    VIEW,
    EngineError,
    LimitReached,
    Log,
    OffsetOutOfRange,
    OutOfMemory,
    Topic,
    TopicExists,
    UnknownTopic,
)
from totalog.engine._core import ffi, lib
from totalog.engine.tests import driver
from totalog.engine.tests.driver import Batch


@pytest.fixture
def log() -> Iterator[Log]:
    with Log.create(size=driver.SIZE_SMALL) as log:
        yield log


@pytest.fixture
def topic(log: Log) -> Topic:
    """Two partitions; partition 0 holds offsets 3 to 9, in one batch of five and one of five that is cut."""
    topic = log.create_topic("a", id=driver.topic_id(0), partitions=2)
    driver.append(log, [Batch(topic, 0, driver.payload(number), records=5) for number in range(2)])
    log.trim(topic, 0, 3)
    return topic


OPERATIONS: dict[str, Callable[[Log, Topic], object]] = {
    "alter": lambda log, topic: log.alter_topic(topic, retention_ms=1),
    "delete": lambda log, topic: log.delete_topic(topic),
    "trim": lambda log, topic: log.trim(topic, VIEW, 0),
    "bounds": lambda log, topic: log.bounds(topic, 0),
    "bounds of the view": lambda log, topic: log.bounds(topic, VIEW),
    "size": lambda log, topic: log.size_bytes(topic, 0),
    "timestamp": lambda log, topic: log.find_timestamp(topic, 0, 0),
    "largest timestamp": lambda log, topic: log.find_max_timestamp(topic, VIEW),
}


@pytest.mark.parametrize("operation", OPERATIONS)
def test_a_topic_that_is_gone(log: Log, topic: Topic, operation: str) -> None:
    log.delete_topic(topic)
    for _ in range(2):  # while its slot is empty, and when another topic has it
        with pytest.raises(UnknownTopic, match="there is no topic 'a' in slot 1, generation 1"):
            OPERATIONS[operation](log, topic)
        log.find_topic("b") or log.create_topic("b", id=driver.topic_id(1), partitions=2)


def test_reads_of_a_topic_that_is_gone(log: Log, topic: Topic) -> None:
    log.delete_topic(topic)
    result, found = driver.Reader(log).read(topic, 0, 3)
    assert (result.status, found, result.log_start_offset, result.next_offset) == (lib.STATUS_UNKNOWN_TOPIC, [], -1, -1)
    assert log.available(topic, 0, 3) == -1
    assert len(log.entries(topic)) == 0
    assert log.find_topic("a") is None


@pytest.mark.parametrize("partition", [2, 65_535, 2**31 - 1])
def test_a_partition_that_is_not_there(log: Log, topic: Topic, partition: int) -> None:
    for operation in (log.bounds, log.size_bytes, log.find_max_timestamp):
        with pytest.raises(UnknownTopic):
            operation(topic, partition)
    with pytest.raises(UnknownTopic):
        log.trim(topic, partition, 0)
    assert driver.Reader(log).read(topic, partition, 0)[0].status == lib.STATUS_UNKNOWN_TOPIC
    assert log.available(topic, partition, 0) == -1


@pytest.mark.parametrize(("partition", "offset"), [(0, -1), (0, 11), (0, 2**62), (1, 1), (VIEW, -5), (VIEW, 11)])
def test_trims_outside_the_log(log: Log, topic: Topic, partition: int, offset: int) -> None:
    with pytest.raises(OffsetOutOfRange):
        log.trim(topic, partition, offset)
    assert log.bounds(topic, 0) == (3, 10, 0, 10)


def test_a_trim_below_the_log_start_changes_nothing(log: Log, topic: Topic) -> None:
    log.trim(topic, 0, 1)
    assert log.bounds(topic, 0) == (3, 10, 0, 10)


@pytest.mark.parametrize("offset", [-(2**63), -1, 2, 11, 2**63 - 1])
def test_reads_outside_the_log(log: Log, topic: Topic, offset: int) -> None:
    result, found = driver.Reader(log).read(topic, 0, offset)
    assert (result.status, found) == (lib.STATUS_OFFSET_OUT_OF_RANGE, [])
    assert (result.log_start_offset, result.next_offset) == (3, 10)
    assert log.available(topic, 0, offset) == -1


def test_names_are_unique(log: Log, topic: Topic) -> None:
    version = log.topics_version
    with pytest.raises(TopicExists, match="a topic 'a' exists"):
        log.create_topic("a", id=driver.topic_id(1), partitions=1)
    assert log.topics_version == version
    assert log.topics() == [topic]


def test_descriptions_that_make_no_topic(log: Log, topic: Topic) -> None:
    with pytest.raises(EngineError, match="is not valid"):
        log.create_topic("b", id=driver.topic_id(1), partitions=0)
    with pytest.raises(EngineError, match="is not valid"):
        log.create_topic("", id=driver.topic_id(1), partitions=1)
    with pytest.raises(EngineError, match="is not valid"):
        log.create_topic("b", id=driver.topic_id(1), partitions=1, order_level=3)
    with pytest.raises(EngineError, match="is not valid"):
        log.alter_topic(topic, partitions=1)
    with pytest.raises(AssertionError):
        log.create_topic("b", id=b"short", partitions=1)
    assert log.topics() == [topic]


def test_errors_are_of_one_family() -> None:
    for error in (TopicExists, UnknownTopic, LimitReached, OutOfMemory, OffsetOutOfRange):
        assert issubclass(error, EngineError)


# -- batches


def test_one_batch_does_not_spoil_its_group(log: Log, topic: Topic) -> None:
    missing = Topic(9, 1, "missing", driver.topic_id(9), 1)
    batches = [Batch(topic, 0, b"good"), Batch(topic, 2, b"bad"), Batch(missing, 0, b"bad"), Batch(topic, 1, b"good")]
    answers = driver.append(log, batches)
    assert [answer.status for answer in answers] == [0, lib.STATUS_UNKNOWN_TOPIC, lib.STATUS_UNKNOWN_TOPIC, 0]
    assert [answer.base_offset for answer in answers] == [10, -1, -1, 0]
    assert [answer.total_order for answer in answers] == [10, -1, -1, 11]
    assert (log.counters()["appended_batches"], log.counters()["rejected_batches"]) == (4, 2)


def test_the_operations_own_topic_takes_no_batch(log: Log) -> None:
    records = Topic(0, 1, "", bytes(16), 1)
    assert driver.append_one(log, Batch(records, 0, bytes(400))).status == lib.STATUS_UNKNOWN_TOPIC
    with pytest.raises(UnknownTopic):
        log.delete_topic(records)


def test_a_batch_that_the_caller_refused_is_left_alone(log: Log, topic: Topic) -> None:
    group = log.group(2)
    kept = ffi.from_buffer(b"x" * 100)
    for index in range(2):
        driver.fill(group[index], Batch(topic, 1, b"x" * 100), int(ffi.cast("uintptr_t", kept)))
    group[0].status = lib.STATUS_CORRUPT
    log.append(group, 2)
    assert (group[0].status, group[1].status, group[1].base_offset) == (lib.STATUS_CORRUPT, lib.STATUS_OK, 0)
    assert log.bounds(topic, 1).next_offset == 1


def test_sizes_that_are_no_batch(log: Log, topic: Topic) -> None:
    group = log.group(2)
    for index, size in enumerate((0, 2**30 + 1)):
        driver.fill(group[index], Batch(topic, 0, b""), 0)
        group[index].size = size
    log.append(group, 2)
    assert [group[index].status for index in range(2)] == [lib.STATUS_INVALID_ARGUMENT, lib.STATUS_TOO_LARGE]


def test_batches_outside_their_reservation(log: Log, topic: Topic) -> None:
    with log.reserve(100_000) as reservation, log.reserve(100_000) as other:
        positions = [-1, 131_072 - 9, 131_072, other.address - reservation.address]
        batches = [Batch(topic, 1, bytes(10), reservation=reservation, position=position) for position in positions]
        answers = driver.append(log, batches)
        assert {answer.status for answer in answers} == {lib.STATUS_INVALID_ARGUMENT}
        last = Batch(topic, 1, bytes(10), reservation=reservation, position=131_072 - 10)
        assert driver.append_one(log, last).status == lib.STATUS_OK
    assert log.bounds(topic, 1).next_offset == 1


def test_a_caller_in_c_appends_as_one_in_python(log: Log, topic: Topic) -> None:
    call, where = log.append_call
    append = ffi.cast("void (*)(uintptr_t, struct append *, uint32_t)", call)
    group = log.group(2)
    with log.reserve(100) as reservation, log.reserve(100) as other:
        driver.fill(group[0], Batch(topic, 1, bytes(10), reservation=reservation, position=0), 0)
        driver.fill(group[1], Batch(topic, 1, bytes(2**20), reservation=other, position=0), 0)
        append(where, ffi.cast("struct append *", group.address), 2)
        log.note_published(group, 2)
        assert (reservation.published, other.published) == (True, False)
    assert [group[index].status for index in range(2)] == [lib.STATUS_OK, lib.STATUS_INVALID_ARGUMENT]
    assert log.bounds(topic, 1).next_offset == 1


@pytest.mark.parametrize("segment", [2**32 - 1, 10_000, 200])
def test_reservations_that_are_none(log: Log, topic: Topic, segment: int) -> None:
    """Past the region, and a block that no one claimed."""
    header = driver.peek_struct(log, 0, "region_header")
    group = log.group(1)
    with log.reserve(10) as reservation:
        base = reservation.address - reservation.segment * lib.BLOCK_SIZE
        driver.fill(group[0], Batch(topic, 1, bytes(10)), base + min(segment, header.block_count) * lib.BLOCK_SIZE)
        group[0].segment = segment
        log.append(group, 1)
    assert group[0].status == lib.STATUS_INVALID_ARGUMENT
    assert log.bounds(topic, 1).next_offset == 0


# -- what is told besides


def test_frontiers_and_levels(log: Log, topic: Topic) -> None:
    before = log.frontiers()
    answer = driver.append_one(log, Batch(topic, 1, b"x"))
    after = log.frontiers()
    assert (after.ordered, after.replicated) == (before.ordered + 1, before.ordered + 1)
    assert after.written > before.written
    assert answer.global_position == before.ordered
    for level in (0, 1, 2):
        assert log.acknowledged(answer.global_position, level)
        assert log.acknowledged(answer.global_position + 1, level) == (level == 0)


def test_counters_count(log: Log, topic: Topic) -> None:
    before = log.counters()
    batch = driver.with_sequence(Batch(topic, 1, bytes(500)), 7, 0, 0)
    driver.append(log, [batch, batch, Batch(topic, 9, b"x")])
    driver.Reader(log).read(topic, 1, 0)
    log.trim(topic, 1, 1)
    moved = {name: value - before[name] for name, value in log.counters().items() if value != before[name]}
    assert moved["appended_batches"] == moved["duplicate_batches"] == moved["rejected_batches"] == 1
    assert moved["appended_bytes"] == moved["read_bytes"] == 500
    assert moved["read_batches"] == 1
    assert moved["released_batches"] == 1
    assert moved["sequencer_passes"] == 2
