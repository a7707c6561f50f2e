"""Headers that were published when their process died, good and bad: nothing that is read from the region is believed.

A header is written into the ring of a closed region as a broker would do it; the next process finds it there.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from totalog.engine import VIEW, Log, Topic
from totalog.engine._core import ffi, lib
from totalog.engine.tests import driver
from totalog.engine.tests.driver import Batch

WRITTEN = lib.BROKER_TABLE_POSITION + ffi.offsetof("struct broker_entry", "written")


@pytest.fixture
def path(tmp_path: Path) -> Iterator[Path]:
    path = tmp_path / "region"
    Log.create(path, size=driver.SIZE_SMALL).close()
    yield path
    with Log.attach(path) as log:
        assert driver.left_when_empty(log) == []


def prepare(path: Path) -> tuple[Topic, dict[str, Any]]:
    """A topic with one batch in a segment that is open no more, and a good header for a second one in that segment."""
    with Log.attach(path) as log:
        topic = log.create_topic("a", id=driver.topic_id(0), partitions=2)
        with log.reserve(100_000) as reservation:
            reservation.buffer[:8] = b"ordered "
            reservation.buffer[4096:4104] = b"pending "
            batch = Batch(topic, 0, b"ordered ", reservation=reservation)
            assert driver.append_one(log, batch).status == lib.STATUS_OK
            segment = reservation.segment
        return topic, {
            "kind": lib.HEADER_BATCH,
            "topic_slot": topic.slot,
            "topic_generation": topic.generation,
            "partition": 0,
            "segment": segment,
            "segment_position": 4096,
            "size": 8,
            "record_count": 1,
            "last_offset_delta": 0,
            "base_sequence": -1,
            "producer_epoch": -1,
            "producer_id": -1,
            "max_timestamp": 5,
        }


def publish(path: Path, *headers: dict[str, Any], turn_shift: int = 0) -> int:
    """Writes headers behind those that are there, moves `written`; returns the first one's ring sequence."""
    with path.open("r+b") as file:
        file.seek(WRITTEN)
        written = int.from_bytes(file.read(8), "little")
        for number, fields in enumerate(headers):
            header = ffi.new("struct batch_header *")
            for name, value in ({"turn": written + number + 1 + turn_shift, "broker_epoch": 1} | fields).items():
                setattr(header, name, value)
            file.seek(lib.BATCH_RING_POSITION + (written + number) % lib.RING_SLOTS * ffi.sizeof("struct batch_header"))
            file.write(bytes(ffi.buffer(header)))
        file.seek(WRITTEN)
        file.write((written + len(headers)).to_bytes(8, "little"))
    return written


def completion(log: Log, sequence: int) -> Any:
    position = lib.COMPLETION_POSITION + sequence % lib.RING_SLOTS * ffi.sizeof("struct completion")
    found = driver.peek_struct(log, position, "completion")
    assert found.turn == sequence + 1
    return found


def status_after(path: Path, topic: Topic, header: dict[str, Any], **publishing: int) -> int:
    """What the successor answers; a batch that is refused changes nothing."""
    sequence = publish(path, header, **publishing)
    with Log.attach(path) as log:
        status: int = completion(log, sequence).status
        payloads = [found.payload for found in driver.Reader(log).read_all(topic, VIEW)]
        assert payloads == [b"ordered ", b"pending "][: 2 if status == lib.STATUS_OK else 1]
    return status


def test_a_published_batch_is_ordered_by_the_successor(path: Path) -> None:
    topic, header = prepare(path)
    sequence = publish(path, header | {"partition": 1, "last_offset_delta": 2, "record_count": 3})
    with Log.attach(path) as log:
        found = completion(log, sequence)
        assert (found.status, found.base_offset, found.total_order) == (lib.STATUS_OK, 0, 1)
        assert found.global_position == log.frontiers().ordered - 1
        assert [each.payload for each in driver.Reader(log).read_all(topic, 1)] == [b"pending "]
        assert log.bounds(topic, 1).next_offset == 3
        assert log.find_timestamp(topic, 1, 5) is not None


@pytest.mark.parametrize(
    ("change", "status"),
    [
        ({}, lib.STATUS_OK),
        ({"topic_generation": 0}, lib.STATUS_UNKNOWN_TOPIC),
        ({"topic_generation": 99}, lib.STATUS_UNKNOWN_TOPIC),
        ({"topic_slot": 0, "topic_generation": 1}, lib.STATUS_UNKNOWN_TOPIC),
        ({"topic_slot": 7}, lib.STATUS_UNKNOWN_TOPIC),
        ({"topic_slot": lib.TOPICS_MAX}, lib.STATUS_UNKNOWN_TOPIC),
        ({"topic_slot": 65_535}, lib.STATUS_UNKNOWN_TOPIC),
        ({"partition": 2}, lib.STATUS_UNKNOWN_TOPIC),
        ({"partition": lib.PARTITION_VIEW}, lib.STATUS_UNKNOWN_TOPIC),
        ({"segment": 0}, lib.STATUS_CORRUPT),
        ({"segment": 1}, lib.STATUS_CORRUPT),
        ({"segment": 2**32 - 1}, lib.STATUS_CORRUPT),
        ({"segment_position": 131_072 - 7}, lib.STATUS_CORRUPT),
        ({"segment_position": 2**32 - 1}, lib.STATUS_CORRUPT),
        ({"size": 2**32 - 1}, lib.STATUS_CORRUPT),
        ({"size": 131_072}, lib.STATUS_CORRUPT),
        ({"kind": 0}, lib.STATUS_CORRUPT),
        ({"kind": 4}, lib.STATUS_CORRUPT),
        ({"kind": 65_535}, lib.STATUS_CORRUPT),
        ({"kind": lib.HEADER_TOPIC_OPERATION}, lib.STATUS_CORRUPT),
    ],
)
def test_each_field_is_checked(path: Path, change: dict[str, int], status: int) -> None:
    topic, header = prepare(path)
    assert status_after(path, topic, header | change) == status


@pytest.mark.parametrize("shift", [-1, 1, lib.RING_SLOTS])
def test_a_header_of_another_turn_is_none(path: Path, shift: int) -> None:
    topic, header = prepare(path)
    assert status_after(path, topic, header, turn_shift=shift) == lib.STATUS_CORRUPT


def test_what_was_in_flight_to_a_deleted_topic(path: Path) -> None:
    """Three batches around the deletion of their topic, and the creation of another one of that name in its slot."""
    topic, header = prepare(path)
    with Log.attach(path) as log:
        log.delete_topic(topic)
        driver.settle(log)
        again = log.create_topic("a", id=driver.topic_id(1), partitions=2)
        assert (again.slot, again.generation) == (topic.slot, topic.generation + 1)
        with log.reserve(100_000) as reservation:
            reservation.buffer[4096:4104] = b"pending "
            batch = Batch(again, 1, b"first", reservation=reservation)
            assert driver.append_one(log, batch).status == lib.STATUS_OK
            header["segment"] = reservation.segment
    first = publish(path, header, header | {"topic_generation": again.generation}, header)
    with Log.attach(path) as log:
        statuses = [completion(log, first + number).status for number in range(3)]
        assert statuses == [lib.STATUS_UNKNOWN_TOPIC, lib.STATUS_OK, lib.STATUS_UNKNOWN_TOPIC]
        assert [found.payload for found in driver.Reader(log).read_all(again, 0)] == [b"pending "]


def test_deletion_with_data_in_flight_in_one_group() -> None:
    """Of two interleaved topics one is deleted: the group's other batches go in, its own do not, nor a reservation."""
    with Log.create(size=driver.SIZE_SMALL) as log:
        topics = [log.create_topic(name, id=driver.topic_id(number), partitions=2) for number, name in enumerate("abc")]
        batches = [Batch(topics[number % 3], number % 2, driver.payload(number)) for number in range(30)]
        assert {answer.status for answer in driver.append(log, batches)} == {lib.STATUS_OK}
        reservation = log.reserve(100_000)
        log.delete_topic(topics[1])
        late = driver.in_reservation(Batch(topics[1], 0, bytes(1000)), reservation, 0)
        answers = driver.append(log, [*batches, late])
        for answer, batch in zip(answers, [*batches, late], strict=True):
            assert (answer.status == lib.STATUS_UNKNOWN_TOPIC) == (batch.topic is topics[1])
        reservation.close()
        for topic in (topics[0], topics[2]):
            for partition in (0, 1):
                mine = [batch.payload for batch in batches if (batch.topic, batch.partition) == (topic, partition)]
                assert [found.payload for found in driver.Reader(log).read_all(topic, partition)] == mine * 2
        assert driver.left_when_empty(log) == []


@settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)
@given(garbage=st.binary(min_size=64, max_size=64), keep_turn=st.booleans(), seed=st.data())
def test_garbage_in_the_ring_harms_no_one(tmp_path: Path, garbage: bytes, keep_turn: bool, seed: st.DataObject) -> None:
    """Any 64 bytes as a header: the successor starts, and the log is as it was or has one batch more."""
    path = tmp_path / f"region{seed.draw(st.integers(0, 2**60))}"
    Log.create(path, size=driver.SIZE_SMALL).close()
    topic, header = prepare(path)
    sequence = publish(path, header)
    ring = lib.BATCH_RING_POSITION + sequence % lib.RING_SLOTS * ffi.sizeof("struct batch_header")
    with path.open("r+b") as file:
        # The first bytes decide what it is: some of them stay, so that more than the turn is looked at.
        keep = seed.draw(st.sampled_from([4, 8, 10, 12, 16, 20, 24, 28])) if keep_turn else 0
        file.seek(ring + keep)
        file.write(garbage[keep:])
    with Log.attach(path) as log:
        payloads = [found.payload for found in driver.Reader(log).read_all(topic, VIEW)]
        assert payloads[:1] == [b"ordered "]
        assert len(payloads) <= 2
        answer = driver.append_one(log, Batch(topic, 1, b"after"))
        assert answer.status == lib.STATUS_OK
    path.unlink()


# -- operations, whose payload is a struct of the region


def operation(topic: Topic, **fields: Any) -> bytes:
    made = ffi.new("struct topic_operation *")
    base = {"operation": lib.OPERATION_ALTER, "topic_slot": topic.slot, "topic_generation": topic.generation}
    base |= {"partition_count": 2, "order_level": 5, "retention_bytes": -1, "retention_ms": -1, "name_size": 1}
    for name, value in (base | fields).items():
        setattr(made, name, value)
    return bytes(ffi.buffer(made))


@pytest.mark.parametrize(
    ("fields", "extra", "status"),
    [
        ({}, 0, lib.STATUS_OK),
        ({}, 1, lib.STATUS_CORRUPT),
        ({"settings_size": 10}, 0, lib.STATUS_CORRUPT),
        ({"settings_size": 10}, 10, lib.STATUS_OK),
        ({"settings_size": 2**32 - 1}, 0, lib.STATUS_CORRUPT),
        ({"settings_size": lib.SETTINGS_SIZE_MAX + 1}, lib.SETTINGS_SIZE_MAX + 1, lib.STATUS_LIMIT_REACHED),
        ({"name_size": 2**32 - 1}, 0, lib.STATUS_CORRUPT),
        ({"operation": 0}, 0, lib.STATUS_INVALID_ARGUMENT),
        ({"operation": 99}, 0, lib.STATUS_INVALID_ARGUMENT),
        ({"topic_slot": 0, "topic_generation": 1}, 0, lib.STATUS_UNKNOWN_TOPIC),
        ({"topic_slot": 2**32 - 1}, 0, lib.STATUS_UNKNOWN_TOPIC),
        ({"topic_generation": 5}, 0, lib.STATUS_UNKNOWN_TOPIC),
        ({"order_level": 0}, 0, lib.STATUS_INVALID_ARGUMENT),
        ({"partition_count": 1}, 0, lib.STATUS_INVALID_ARGUMENT),
        ({"partition_count": 2**32 - 1}, 0, lib.STATUS_LIMIT_REACHED),
        ({"operation": lib.OPERATION_CREATE, "partition_count": 0}, 0, lib.STATUS_INVALID_ARGUMENT),
        ({"operation": lib.OPERATION_CREATE, "order_level": 3}, 0, lib.STATUS_INVALID_ARGUMENT),
        ({"operation": lib.OPERATION_CREATE, "name_size": 0}, 0, lib.STATUS_INVALID_ARGUMENT),
        ({"operation": lib.OPERATION_TRIM, "trim_partition": 2}, 0, lib.STATUS_UNKNOWN_TOPIC),
        ({"operation": lib.OPERATION_TRIM, "trim_offset": 2**63}, 0, lib.STATUS_OFFSET_OUT_OF_RANGE),
    ],
)
def test_operations_are_checked(path: Path, fields: dict[str, Any], extra: int, status: int) -> None:
    with Log.attach(path) as log:
        topic = log.create_topic("a", id=driver.topic_id(0), partitions=2, settings=b"as before")
        content = operation(topic, **fields) + bytes(extra)
        with log.reserve(100_000) as reservation:
            reservation.buffer[: len(content)] = content
            batch = Batch(topic, 0, b"x", reservation=reservation, position=99_000)
            assert driver.append_one(log, batch).status == lib.STATUS_OK
            header = {"kind": lib.HEADER_TOPIC_OPERATION, "topic_generation": 1, "segment": reservation.segment}
    sequence = publish(path, header | {"size": len(content), "producer_id": -1, "record_count": 1})
    with Log.attach(path) as log:
        assert completion(log, sequence).status == status
        found = log.find_topic("a")
        assert found is not None
        assert (found.partitions, found.order_level) == (2, 5)
        assert found.settings == (bytes(extra) if status == lib.STATUS_OK else b"as before")
    Log.attach(path).close()
