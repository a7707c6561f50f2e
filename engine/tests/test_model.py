"""The log next to a model in plain Python, in both coherence modes, through everything that one can do to it."""

import shutil
import tempfile
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from totalog.engine import VIEW, Log, OffsetOutOfRange, Topic, TopicExists, UnknownTopic
from totalog.engine._core import lib
from totalog.engine.tests import driver
from totalog.engine.tests.driver import Batch
from totalog.engine.tests.model import EVERYTHING, SEQUENCES, Model, ModelTopic, Stored

NAMES = ("a", "b", "c")
FIRST_SEQUENCE = SEQUENCES - 6
"""Producers start close to where sequences wrap."""
RESERVE = 40_000

sizes = st.one_of(st.integers(1, 300), st.sampled_from([4096, 30_000, 66_000]))
kinds = st.sampled_from(
    ["plain", "plain", "next", "next", "next", "again", "gap", "overlap", "old epoch", "new epoch", "new epoch late"]
)


class LogMachine(RuleBasedStateMachine):
    """Each rule does one thing to the log and to the model, and compares the answers."""

    coherent = True

    def __init__(self) -> None:
        super().__init__()
        self.folder = Path(tempfile.mkdtemp(prefix="totalog-model-"))
        self.path = self.folder / "region"
        self.log = Log.create(self.path, size=driver.SIZE_SMALL, coherent=self.coherent)
        self.reader = driver.Reader(self.log, 4 << 20)
        self.model = Model()
        self.gone: list[Topic] = []
        self.number = 0
        self.now = 0

    @initialize()
    def first_topic(self) -> None:
        self.create("a", 2, 5, -1, -1, b"")

    def topics(self) -> list[ModelTopic]:
        return list(self.model.topics.values())

    def any_topic(self, data: st.DataObject) -> ModelTopic:
        return data.draw(st.sampled_from(self.topics()), label="topic")

    def any_place(self, data: st.DataObject) -> tuple[ModelTopic, int]:
        model = self.any_topic(data)
        return model, data.draw(st.integers(VIEW, model.topic.partitions - 1), label="partition")

    # -- topics

    @rule(
        name=st.sampled_from(NAMES),
        partitions=st.integers(1, 4),
        order_level=st.sampled_from([5, 5, 0]),
        retention_bytes=st.sampled_from([-1, -1, 0, 500, 5000]),
        retention_ms=st.sampled_from([-1, 20]),
        settings=st.binary(max_size=30),
    )
    def create(
        self, name: str, partitions: int, order_level: int, retention_bytes: int, retention_ms: int, settings: bytes
    ) -> None:
        version = self.log.topics_version
        wanted: dict[str, Any] = {
            "id": driver.topic_id(self.number),
            "partitions": partitions,
            "order_level": order_level,
            "retention_bytes": retention_bytes,
            "retention_ms": retention_ms,
            "settings": settings,
        }
        self.number += 1
        if any(model.topic.name == name for model in self.topics()):
            with pytest.raises(TopicExists):
                self.log.create_topic(name, **wanted)
            assert self.log.topics_version == version
            return
        topic = self.log.create_topic(name, **wanted)
        self.model.ordered += 1
        assert topic == Topic(topic.slot, topic.generation, name, **wanted)
        assert self.log.topics_version > version
        self.model.add(topic)

    @precondition(lambda self: self.model.topics)
    @rule(
        data=st.data(),
        added=st.integers(0, 2),
        retention_bytes=st.sampled_from([None, -1, 800]),
        retention_ms=st.sampled_from([None, -1, 30]),
        settings=st.one_of(st.none(), st.binary(max_size=30)),
    )
    def alter(
        self,
        data: st.DataObject,
        added: int,
        retention_bytes: int | None,
        retention_ms: int | None,
        settings: bytes | None,
    ) -> None:
        model = self.any_topic(data)
        version = self.log.topics_version
        model.topic = self.log.alter_topic(
            model.topic,
            partitions=model.topic.partitions + added,
            retention_bytes=retention_bytes,
            retention_ms=retention_ms,
            settings=settings,
        )
        self.model.ordered += 1
        assert self.log.topics_version > version
        model.add_partitions()
        if added:
            model.retain_by_size(set())  # a pass that touches partitions looks at their topic's limit

    @precondition(lambda self: self.model.topics)
    @rule(data=st.data())
    def delete(self, data: st.DataObject) -> None:
        model = self.any_topic(data)
        self.log.delete_topic(model.topic)
        self.model.ordered += 1
        del self.model.topics[model.topic.slot, model.topic.generation]
        self.gone.append(model.topic)
        with pytest.raises(UnknownTopic):
            self.log.delete_topic(model.topic)

    # -- writing

    @precondition(lambda self: self.model.topics or self.gone)
    @rule(data=st.data(), count=st.integers(1, 8), reserve=st.booleans())
    def append(self, data: st.DataObject, count: int, reserve: bool) -> None:
        reservation = self.log.reserve(RESERVE * count) if reserve else None
        batches = []
        position = 0
        sequences: dict[tuple[int, ...], int] = {}
        for _ in range(count):
            batch = self.draw_batch(data, sequences)
            if reservation is not None and len(batch.payload) <= RESERVE and data.draw(st.booleans(), label="reserved"):
                reservation.buffer[position : position + len(batch.payload)] = batch.payload
                batch = driver.in_reservation(batch, reservation, position)
                position += len(batch.payload)
            batches.append(batch)
        answers = driver.append(self.log, batches)
        if reservation is not None:
            reservation.close()
        for answer, expected in zip(answers, self.model.append(batches), strict=True):
            assert answer.status == expected.status
            assert (answer.base_offset, answer.total_order) == (expected.base_offset, expected.total_order)
            assert (answer.global_position, answer.log_start_offset) == (
                expected.global_position,
                expected.log_start_offset,
            )
            assert answer.leader_epoch == 0
        assert self.log.frontiers().ordered == self.model.ordered

    def draw_batch(self, data: st.DataObject, sequences: dict[tuple[int, ...], int]) -> Batch:
        topics = [model.topic for model in self.topics()] + self.gone[-1:]
        topic = data.draw(st.sampled_from(topics), label="topic")
        self.number += 1
        batch = Batch(
            topic,
            data.draw(st.integers(0, topic.partitions), label="partition"),
            driver.payload(self.number, data.draw(sizes, label="size")),
            records=data.draw(st.integers(1, 5), label="records"),
            max_timestamp=data.draw(st.integers(-1, 100), label="timestamp"),
            flags=data.draw(st.integers(0, 63), label="flags"),
        )
        return self.with_producer(data, batch, data.draw(kinds, label="kind"), sequences)

    def with_producer(
        self, data: st.DataObject, batch: Batch, kind: str, sequences: dict[tuple[int, ...], int]
    ) -> Batch:
        if kind == "plain":
            return batch
        producer_id = data.draw(st.integers(0, 1), label="producer")
        probe = driver.with_sequence(batch, producer_id, 0, 0)
        known = self.model.producer(probe)
        epoch, batches = (known.epoch, known.batches) if known is not None else (3, [])
        key = (producer_id, batch.topic.slot, batch.topic.generation, batch.partition)
        following = sequences.get(key, (batches[-1][1] + 1) % SEQUENCES if batches else FIRST_SEQUENCE)
        records = batch.records
        if kind == "again" and batches:
            base, last, *_ = data.draw(st.sampled_from(batches), label="which")
            records, sequence = (last - base) % SEQUENCES + 1, base
        elif kind == "gap":
            sequence = (following + 1) % SEQUENCES
        elif kind == "overlap":
            sequence = (following - 1) % SEQUENCES
        elif kind == "new epoch":
            epoch, sequence = epoch + 1, 0
        elif kind == "new epoch late":
            epoch, sequence = epoch + 1, 4
        elif kind == "old epoch":
            epoch, sequence = epoch - 1, following
        else:
            sequence = following
            sequences[key] = (following + records) % SEQUENCES
        return driver.with_sequence(batch, producer_id, epoch, sequence, records)

    @rule(size=st.sampled_from([1, 65_536, 65_537, 300_000]))
    def abandon(self, size: int) -> None:
        """A body that never completes."""
        before = driver.blocks_used(self.log)
        with self.log.reserve(size) as reservation:
            reservation.buffer[size // 2 :] = bytes(size - size // 2)
            assert driver.blocks_used(self.log) == before + (size + 65_535) // 65_536
        assert driver.blocks_used(self.log) == before

    # -- leaving

    @precondition(lambda self: self.model.topics)
    @rule(data=st.data())
    def trim(self, data: st.DataObject) -> None:
        model, partition = self.any_place(data)
        end = model.next[partition]
        offset = data.draw(st.integers(model.log_start[partition], end + 1), label="offset")
        if offset > end:
            with pytest.raises(OffsetOutOfRange):
                self.log.trim(model.topic, partition, offset)
            return
        below = offset < model.memory_start[partition]
        self.log.trim(model.topic, partition, offset, rows=model.rows(partition, offset) if below else ())
        self.model.ordered += 1
        model.trim(partition, offset)

    @rule(passed=st.integers(0, 30))
    def maintain(self, passed: int) -> None:
        self.now += passed
        driver.settle(self.log, self.now)
        self.model.maintain(self.now)

    @rule()
    def restart(self) -> None:
        self.log.close()
        self.log = Log.attach(self.path)
        self.reader = driver.Reader(self.log, 4 << 20)
        self.everything_agrees()

    # -- looking

    @precondition(lambda self: self.model.topics)
    @rule(
        data=st.data(),
        size_max=st.sampled_from([0, 1, 100, 700, 5000, 1 << 20]),
        count=st.integers(1, 9),
        whole=st.booleans(),
        lent_size_min=st.sampled_from([None, 1, 1000]),
    )
    def read(self, data: st.DataObject, size_max: int, count: int, whole: bool, lent_size_min: int | None) -> None:
        """Copied to no more room than wanted; or to much of it, and large ones lent."""
        model, partition = self.any_place(data)
        offset = data.draw(st.integers(-1, model.next[partition] + 1), label="offset")
        self.reader.batches.capacity = count
        lending = {} if lent_size_min is None else {"room": self.reader.room, "lent_size_min": lent_size_min}
        result, found = self.reader.read(model.topic, partition, offset, size_max, whole_first=whole, **lending)
        status, expected, needed = model.read(partition, offset, size_max, count)
        if lending and whole and needed:
            _, expected, needed = model.read(partition, offset, needed, 1)
        assert result.status == status
        assert [(each.base_offset, each.payload) for each in found] == [
            (b.start(partition), b.payload) for b in expected
        ]
        assert result.size_needed == (needed if whole else 0)
        assert result.log_start_offset == model.log_start[partition]
        assert result.next_offset == model.visible_end(partition)
        available = model.available(partition, offset)
        assert self.log.available(model.topic, partition, offset) == available
        assert status != lib.STATUS_OK or result.available == available

    @precondition(lambda self: self.model.topics)
    @rule(data=st.data(), timestamp=st.integers(0, 101))
    def look_up(self, data: st.DataObject, timestamp: int) -> None:
        model, partition = self.any_place(data)
        topic = model.topic
        check_found(
            self.log.find_timestamp(topic, partition, timestamp), model.find_timestamp(partition, timestamp), partition
        )
        check_found(self.log.find_max_timestamp(topic, partition), model.find_max_timestamp(partition), partition)

    @invariant()
    def bounds_agree(self) -> None:
        for model in self.topics():
            for partition in range(VIEW, model.topic.partitions):
                bounds = self.log.bounds(model.topic, partition)
                end = model.visible_end(partition)
                assert bounds == (model.log_start[partition], end, 0, model.next[partition])
                assert self.log.archived(model.topic, partition) == model.archived(partition)
                assert self.log.size_bytes(model.topic, partition) == model.size(partition)

    def everything_agrees(self) -> None:
        by_name = {model.topic.name: model.topic for model in self.topics()}
        assert {topic.name: topic for topic in self.log.topics()} == by_name
        self.reader.batches.capacity = 4096
        for model in self.topics():
            for partition in range(VIEW, model.topic.partitions):
                found = self.reader.read_all(model.topic, partition)
                expected = [(batch.start(partition), batch.payload) for batch in model.shown(partition)]
                assert [(each.base_offset, each.payload) for each in found] == expected
            table = self.log.entries(model.topic)
            in_memory = [int(total) for total in table["total_order"][table["state"] == lib.ENTRY_LIVE]]
            held = {batch.total_order for batch in model.stored if batch.position >= self.model.limits.releasable}
            kept = [batch.total_order for batch in model.live(VIEW) if batch.in_memory]
            assert [total for total in in_memory if total in kept or total not in held] == kept

    def teardown(self) -> None:
        try:
            self.everything_agrees()
            assert driver.left_when_empty(self.log) == []
        finally:
            self.log.close()
            shutil.rmtree(self.folder)


def check_found(found: Any, expected: Stored | None, partition: int) -> None:
    if expected is None:
        assert found is None
        return
    assert found is not None
    assert found.base_offset == expected.start(partition)
    assert (found.size, found.max_timestamp) == (len(expected.payload), expected.max_timestamp)
    assert (found.flags, found.leader_epoch) == (expected.flags, 0)


class NoncoherentMachine(LogMachine):
    """The same with every flush, fence and invalidate."""

    coherent = False


class DurableMachine(LogMachine):
    """With a data directory: what is durable becomes visible, and may go; what is archived leaves memory."""

    def __init__(self) -> None:
        super().__init__()
        self.model.limits.visible = self.model.limits.releasable = 0
        self.tell()

    def tell(self, archived: int = 0) -> None:
        limits = self.model.limits
        driver.replicate(self.log, limits.visible, releasable=limits.releasable, archived=archived)

    @rule(data=st.data())
    def replicate(self, data: st.DataObject) -> None:
        limits = self.model.limits
        limits.visible = data.draw(st.integers(limits.visible, self.model.ordered + 1), label="visible")
        limits.releasable = data.draw(st.integers(limits.releasable, limits.visible), label="releasable")
        self.tell()

    @rule(data=st.data())
    def evict(self, data: st.DataObject) -> None:
        archived = data.draw(st.integers(0, self.model.limits.releasable), label="archived")
        self.tell(archived)
        lib.log_evict(self.log._core, 1 << 20)
        self.tell()
        for model in self.topics():
            model.evict(archived)

    def teardown(self) -> None:
        limits = self.model.limits
        limits.visible = limits.releasable = EVERYTHING
        self.tell()
        driver.settle(self.log, self.now)
        self.model.maintain(self.now)
        super().teardown()


machine_settings = settings(
    max_examples=30,
    stateful_step_count=40,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)
TestCoherent = LogMachine.TestCase
TestCoherent.settings = machine_settings
TestNoncoherent = NoncoherentMachine.TestCase
TestNoncoherent.settings = machine_settings
TestDurable = DurableMachine.TestCase
TestDurable.settings = machine_settings
