"""A region that was lost: what the journal puts into a new one, and that the log goes on as if it had not happened."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from totalog.engine import VIEW, EngineError, Log, Topic
from totalog.engine._core_long import lib
from totalog.engine.tests import driver
from totalog.engine.tests.stores import Store, core_of

SIZE = 128 * lib.BLOCK_SIZE


@contextmanager
def restored(folder: Path, *, coherent: bool = True, size: int = SIZE) -> Iterator[tuple[Log, Store]]:
    """A new region with what the journal says, and its replica."""
    with Log.create(size=size, coherent=coherent) as log:
        store = Store(log, [folder], restore=True)
        try:
            yield log, store
        finally:
            store.close()


def test_an_empty_journal(tmp_path: Path) -> None:
    with restored(tmp_path) as (log, store):
        assert (log.frontiers().ordered, log.topics()) == (0, [])
        topic = log.create_topic("a", id=driver.topic_id(0), partitions=2)
        assert (topic.slot, topic.generation) == (1, 1)
        store.run_all()


@pytest.mark.parametrize("coherent", [True, False])
def test_topics_keep_slots_generations_and_settings(tmp_path: Path, coherent: bool) -> None:
    with restored(tmp_path, coherent=coherent) as (log, store):
        for number in range(5):
            log.create_topic(f"gone {number}", id=driver.topic_id(number), partitions=3)
        for topic in log.topics():
            log.delete_topic(topic)
        store.run_all()
        driver.settle(log)
        many = [log.create_topic(f"t{i}", id=driver.topic_id(10 + i), partitions=1 + i % 4) for i in range(40)]
        for topic in many[::3]:
            log.alter_topic(topic, partitions=topic.partitions + 2, settings=b"set" * topic.slot, replication=2)
        log.create_topic(
            "m", id=driver.topic_id(99), partitions=1, memory=True, internal=True, retention_ms=5, order_level=0
        )
        log.delete_topic(many[7])
        before, end = log.topics(), log.frontiers().ordered
        generation = driver.topic_line(log, many[7]).generation
        store.run_all()
    for _ in range(3):
        with restored(tmp_path, coherent=coherent) as (log, store):
            assert log.topics() == before
            assert log.frontiers().ordered == end
            again = log.create_topic("again", id=driver.topic_id(100), partitions=1)
            assert (again.slot, again.generation) == (many[7].slot, generation + 1)
    # None of these was kept: the replica was never run.
    with restored(tmp_path) as (log, store):
        altered = log.alter_topic(before[3], settings=b"new")
        log.delete_topic(before[4])
        store.run_all()
        assert driver.left_when_empty(log) == []
    with restored(tmp_path) as (log, store):
        assert before[3].name in [topic.name for topic in log.topics()]
        assert log.find_topic(before[3].name) == altered
        assert log.find_topic(before[4].name) is None


def test_a_topic_of_which_all_is_gone_takes_no_memory(tmp_path: Path) -> None:
    with restored(tmp_path) as (log, store):
        for number in range(100):
            log.create_topic(f"t{number}", id=driver.topic_id(number), partitions=1, settings=bytes(2000))
        store.run_all()
    with restored(tmp_path) as (log, store):
        assert len(log.topics()) == 100
        store.run_all()
        assert driver.left_when_empty(log) == []


def test_offsets_go_on_under_a_higher_leader_epoch(tmp_path: Path) -> None:
    with restored(tmp_path) as (log, store):
        topic = log.create_topic("a", id=driver.topic_id(0), partitions=2)
        batches = [driver.Batch(topic, i % 2, driver.payload(i), records=3) for i in range(10)]
        driver.append(log, batches)
        store.run_all()
        driver.append(log, batches)  # never durable
        old = driver.Reader(log).read_all(topic, VIEW)[:10]
    with restored(tmp_path) as (log, store):
        assert log.frontiers().ordered == 11
        for partition in (0, 1):
            bounds = log.bounds(topic, partition)
            assert (bounds.log_start_offset, bounds.end_offset, bounds.leader_epoch) == (0, 15, 1)
        bounds = log.bounds(topic, VIEW)
        assert (bounds.end_offset, bounds.leader_epoch) == (30, 1)
        answer = driver.append_one(log, batches[0])
        assert (answer.base_offset, answer.total_order, answer.global_position, answer.leader_epoch) == (15, 30, 11, 1)
        wider = log.alter_topic(topic, partitions=3)
        assert driver.append_one(log, driver.Batch(wider, 2, b"x")).leader_epoch == 1
        store.run_all()
        store.rotate()
        found = store.read_all(topic, VIEW)
        assert found[:10] == old
        assert [(batch.base_offset, batch.leader_epoch) for batch in found[10:]] == [(30, 1), (33, 1)]
    with restored(tmp_path) as (log, _):
        assert {log.bounds(wider, partition).leader_epoch for partition in (VIEW, 0, 1, 2)} == {2}


def test_a_memory_topic_comes_back_empty(tmp_path: Path) -> None:
    with restored(tmp_path) as (log, store):
        topic = log.create_topic("a", id=driver.topic_id(0), partitions=1, memory=True)
        driver.append(log, [driver.Batch(topic, 0, b"x")] * 5)
        store.run_all()
    with restored(tmp_path) as (log, store):
        assert log.topics() == [topic]
        bounds = log.bounds(topic, 0)
        assert (bounds.log_start_offset, bounds.end_offset, bounds.leader_epoch) == (0, 0, 1)
        assert driver.append_one(log, driver.Batch(topic, 0, b"y")).base_offset == 0


def test_a_region_that_holds_something_is_refused(tmp_path: Path) -> None:
    with restored(tmp_path) as (log, store):
        log.create_topic("a", id=driver.topic_id(0), partitions=1)
        lib.replica_detach(store.replicas, 0)
        journal = store.open_journal(0)
        assert lib.restore_region(core_of(log), journal) == lib.OPEN_DAMAGED
        lib.journal_close(journal)


# ---- anything in any order, and lost at any moment, against a model ----


@dataclass
class Stored:
    partition: int
    base_offset: int
    total_order: int
    epoch: int
    payload: bytes
    records: int


@dataclass
class Model:
    topic: Topic
    epoch: int = 0
    batches: list[Stored] = field(default_factory=list)
    starts: dict[int, int] = field(default_factory=dict)
    producers: dict[int, list[tuple[int, int, Stored]]] = field(default_factory=dict)
    """Per producer, which writes to one partition: base sequence, records, and what was stored."""

    def next_offset(self, partition: int) -> int:
        mine = [batch for batch in self.batches if batch.partition == partition]
        return mine[-1].base_offset + mine[-1].records if mine else 0

    def next_total_order(self) -> int:
        return self.batches[-1].total_order + self.batches[-1].records if self.batches else 0


class Restored(RuleBasedStateMachine):
    """Everything is made durable before the region is lost, so the model is the log's whole history."""

    folder: Path

    def __init__(self) -> None:
        super().__init__()
        self.models: dict[str, Model] = {}
        self.number = 0
        self.names = 0

    @initialize(folder=st.builds(lambda: None))
    def start(self, folder: None) -> None:
        import tempfile

        self.temporary = tempfile.TemporaryDirectory()
        self.folder = Path(self.temporary.name)
        self.log = Log.create(size=SIZE)
        self.store = Store(self.log, [self.folder], restore=True)

    def teardown(self) -> None:
        if hasattr(self, "store"):
            self.store.verify()
            self.store.close()
            self.log.close()
            self.temporary.cleanup()

    def any_model(self, choice: int) -> Model:
        return list(self.models.values())[choice % len(self.models)]

    @rule(partitions=st.integers(1, 4), order_level=st.sampled_from([0, 5]), settings=st.binary(max_size=100))
    @precondition(lambda self: len(self.models) < 6)
    def create(self, partitions: int, order_level: int, settings: bytes) -> None:
        self.names += 1
        name = f"t{self.names}"
        topic = self.log.create_topic(
            name, id=driver.topic_id(self.names), partitions=partitions, order_level=order_level, settings=settings
        )
        self.models[name] = Model(topic)

    @rule(choice=st.integers(0, 5), more=st.integers(0, 3), settings=st.binary(max_size=100))
    @precondition(lambda self: self.models)
    def alter(self, choice: int, more: int, settings: bytes) -> None:
        model = self.any_model(choice)
        model.topic = self.log.alter_topic(model.topic, partitions=model.topic.partitions + more, settings=settings)

    @rule(choice=st.integers(0, 5))
    @precondition(lambda self: self.models)
    def delete(self, choice: int) -> None:
        model = self.any_model(choice)
        self.log.delete_topic(model.topic)
        del self.models[model.topic.name]

    @rule(
        choice=st.integers(0, 5),
        sizes=st.lists(st.tuples(st.integers(0, 5), st.integers(1, 4)), min_size=1, max_size=8),
    )
    @precondition(lambda self: self.models)
    def append(self, choice: int, sizes: list[tuple[int, int]]) -> None:
        model = self.any_model(choice)
        for partition, records in sizes:
            self.number += 1
            partition %= model.topic.partitions
            content = driver.payload(self.number, 1 + self.number * 37 % 900)
            self.store_one(model, driver.Batch(model.topic, partition, content, records=records))

    @rule(choice=st.integers(0, 5), producer=st.integers(0, 2), records=st.integers(1, 4))
    @precondition(lambda self: self.models)
    def append_in_sequence(self, choice: int, producer: int, records: int) -> None:
        model = self.any_model(choice)
        self.number += 1
        known = model.producers.setdefault(producer, [])
        sequence = known[-1][0] + known[-1][1] if known else 0
        batch = driver.Batch(
            model.topic, producer % model.topic.partitions, driver.payload(self.number), records=records
        )
        if known:
            batch = driver.Batch(model.topic, known[-1][2].partition, batch.payload, records=records)
        stored = self.store_one(model, driver.with_sequence(batch, producer, 0, sequence))
        known.append((sequence, records, stored))

    def store_one(self, model: Model, batch: driver.Batch) -> Stored:
        answer = driver.append_one(self.log, batch)
        assert answer.status == lib.STATUS_OK
        assert answer.leader_epoch == model.epoch
        assert answer.base_offset == model.next_offset(batch.partition)
        assert answer.total_order == model.next_total_order()
        stored = Stored(
            batch.partition, answer.base_offset, answer.total_order, model.epoch, batch.payload, batch.records
        )
        model.batches.append(stored)
        return stored

    @rule(choice=st.integers(0, 5), producer=st.integers(0, 2), back=st.integers(0, 4))
    @precondition(lambda self: self.models)
    def repeat(self, choice: int, producer: int, back: int) -> None:
        model = self.any_model(choice)
        known = model.producers.get(producer, [])[-5:]
        if not known:
            return
        sequence, records, stored = known[back % len(known)]
        batch = driver.Batch(model.topic, stored.partition, stored.payload, records=records)
        answer = driver.append_one(self.log, driver.with_sequence(batch, producer, 0, sequence))
        assert answer.status == lib.STATUS_DUPLICATE
        assert (answer.base_offset, answer.total_order) == (stored.base_offset, stored.total_order)

    @rule(choice=st.integers(0, 5), partition=st.integers(0, 3), share=st.floats(0, 1))
    @precondition(lambda self: self.models)
    def trim(self, choice: int, partition: int, share: float) -> None:
        model = self.any_model(choice)
        partition %= model.topic.partitions
        line = driver.partition_lines(self.log, model.topic)[partition]
        offset = int(model.next_offset(partition) * share)
        if offset < line.memory_start_offset:
            return  # what only the archive has is trimmed with its help
        self.log.trim(model.topic, partition, offset)
        model.starts[partition] = max(model.starts.get(partition, 0), offset)

    @rule()
    def run_replica(self) -> None:
        self.store.run_all()

    @rule()
    def rotate(self) -> None:
        self.store.rotate()

    @rule(seal=st.booleans())
    def lose_the_region(self, seal: bool) -> None:
        self.store.run_all()
        self.store.close(seal=seal)
        self.log.close()
        self.log = Log.create(size=SIZE)
        self.store = Store(self.log, [self.folder], restore=True)
        for model in self.models.values():
            model.epoch += 1

    @invariant()
    def topics_are_those_of_the_model(self) -> None:
        if hasattr(self, "log"):
            assert {topic.name: topic for topic in self.log.topics()} == {
                name: model.topic for name, model in self.models.items()
            }

    @rule()
    def everything_is_there(self) -> None:
        self.store.run_all()
        self.store.rotate()
        for model in self.models.values():
            for partition in range(model.topic.partitions):
                bounds = self.log.bounds(model.topic, partition)
                start = model.starts.get(partition, 0)
                assert (bounds.log_start_offset, bounds.end_offset) == (start, model.next_offset(partition))
                assert bounds.leader_epoch == model.epoch
                expected = [
                    driver.Found(batch.base_offset, batch.epoch, batch.payload)
                    for batch in model.batches
                    if batch.partition == partition and batch.base_offset + batch.records > start
                ]
                assert self.store.read_all(model.topic, partition) == expected
            kept = [b for b in model.batches if b.base_offset + b.records > model.starts.get(b.partition, 0)]
            whole = [driver.Found(batch.total_order, batch.epoch, batch.payload) for batch in kept]
            found = self.read_view(model)
            assert found == [batch for batch in whole if batch in found]
            assert len(found) == len(whole)

    def read_view(self, model: Model) -> list[Any]:
        return self.store.read_all(model.topic, VIEW)


TestRestored = Restored.TestCase
TestRestored.settings = settings(
    max_examples=15, stateful_step_count=30, deadline=None, suppress_health_check=list(HealthCheck)
)


def test_limits_are_told(tmp_path: Path) -> None:
    """A region that is too small for the topics of the journal."""
    with restored(tmp_path, size=256 * lib.BLOCK_SIZE) as (log, store):
        for number in range(300):
            log.create_topic(f"t{number}", id=driver.topic_id(number), partitions=1, settings=bytes(32_000))
        store.run_all()
    with Log.create(size=64 * lib.BLOCK_SIZE) as small, pytest.raises((EngineError, AssertionError)):
        Store(small, [tmp_path], restore=True)


def test_a_restored_region_that_is_killed_is_attached_again(tmp_path: Path) -> None:
    """Also where the record of an operation was spent before the first region was lost: its place stays empty."""
    directory, region, left = tmp_path / "data", tmp_path / "region", tmp_path / "left by a kill"
    directory.mkdir()
    with restored(directory) as (log, store):
        topic = log.create_topic("t", id=driver.topic_id(0), partitions=2)
        driver.append(log, [driver.Batch(topic, number % 2, driver.payload(number, 80)) for number in range(6)])
        store.run_all()
        log.trim(topic, VIEW, 2)
        other = log.create_topic("u", id=driver.topic_id(1), partitions=1)
        log.alter_topic(other, settings=b"changed")
        store.run_all()
    with Log.create(region, size=SIZE) as log:
        store = Store(log, [directory], restore=True)
        driver.append(log, [driver.Batch(topic, number % 2, driver.payload(number, 80)) for number in range(6)])
        log.trim(topic, VIEW, 4)
        store.run_all()
        driver.settle(log)
        left.write_bytes(region.read_bytes())
        left.chmod(0o600)
        before = log.topics(), [log.bounds(topic, partition) for partition in (0, 1, VIEW)]
        store.close()
    with Log.attach(left) as log:
        assert (log.topics(), [log.bounds(topic, partition) for partition in (0, 1, VIEW)]) == before


def test_trims_after_the_last_checkpoint(tmp_path: Path) -> None:
    """Log starts of partitions and the bytes that are kept are as they were, though only a footer knows them."""
    with restored(tmp_path) as (log, store):
        topic = log.create_topic("a", id=driver.topic_id(0), partitions=3)
        loose = log.create_topic("b", id=driver.topic_id(1), partitions=2, order_level=0)
        for number in range(300):
            place = (topic, number % 3) if number % 2 else (loose, number % 2)
            driver.append_one(log, driver.Batch(*place, driver.payload(number, 100 + number), records=2))
        store.run_all()
        log.trim(topic, 1, 21)
        log.trim(topic, VIEW, 101)
        log.trim(topic, 2, 77)
        log.trim(loose, 0, 50)
        store.run_all()
        before = {
            (each, partition): (log.bounds(each, partition)[:2], log.size_bytes(each, partition))
            for each in (topic, loose)
            for partition in (VIEW, *range(each.partitions))
        }
        views = {each: driver.Reader(log).read_all(each, VIEW) for each in (topic, loose)}
    for _ in range(2):
        with restored(tmp_path) as (log, store):
            for (each, partition), (bounds, size) in before.items():
                said = log.bounds(each, partition)
                assert (said.log_start_offset, said.end_offset) == bounds
                assert log.size_bytes(each, partition) == size
            store.run_all()
            store.rotate()
            for each, view in views.items():
                assert store.read_all(each, VIEW) == view
