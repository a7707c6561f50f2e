"""A process killed between any two stores into the region: its successor finds everything that was ordered, once.

Each test runs one step of the log, takes its stores back one by one, and starts a successor on what is left. See
undo.h for how; `check` says what has to hold.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import pytest

from totalog.engine.tests import driver, undo
from totalog.engine.topic import Topic

VIEW = -1
Action = Callable[[Any], object]


@dataclass(frozen=True)
class Placed:
    """One live batch."""

    partition: int
    base_offset: int
    span: int
    total_order: int
    payload: bytes


@dataclass(frozen=True)
class Contents:
    """What a log holds of one topic."""

    topic: Topic
    starts: dict[int, int]
    memory_starts: dict[int, int]
    ends: dict[int, int]
    sizes: dict[int, int]
    batches: dict[tuple[int, int], Placed]  # by partition and base offset
    view: list[bytes]


def contents(log: Any) -> dict[tuple[int, int], Contents]:
    """All that the log holds, by slot and generation, after comparing partitions, view and index with each other."""
    reader = undo.modules().driver.Reader(log, room=1 << 20)
    return {(topic.slot, topic.generation): contents_of(log, reader, topic) for topic in log.topics()}


def contents_of(log: Any, reader: Any, topic: Topic) -> Contents:
    table = undo.modules().tables.entries(log._core, topic)
    batches = {}
    bounds_of = {partition: log._bounds(topic, partition) for partition in (VIEW, *range(topic.partitions))}
    starts = {partition: bounds.log_start_offset for partition, bounds in bounds_of.items()}
    memory_starts = {partition: bounds.memory_start_offset for partition, bounds in bounds_of.items()}
    ends = {partition: bounds.next_offset for partition, bounds in bounds_of.items()}
    spans = {(int(e["partition"]), int(e["base_offset"])): e for e in table[table["state"] == 0]}
    spans = {place: e for place, e in spans.items() if end_of(e) > memory_starts[place[0]]}
    for partition in range(topic.partitions):
        at = None
        for found in reader.read_all(topic, partition):
            entry = spans[partition, found.base_offset]
            assert at is None or found.base_offset == at, "offsets are dense"
            at = found.base_offset + int(entry["last_offset_delta"]) + 1
            assert at > memory_starts[partition]
            batches[partition, found.base_offset] = Placed(
                partition, found.base_offset, at - found.base_offset, int(entry["total_order"]), found.payload
            )
        assert at is None or at == ends[partition]
        assert at is not None or memory_starts[partition] == ends[partition]
        kept = sum(len(b.payload) for b in batches.values() if b.partition == partition)
        assert log.size_bytes(topic, partition) == kept or starts[partition] < memory_starts[partition]
    assert spans.keys() == batches.keys(), "live entries are those that partitions show"
    in_order = sorted(batches.values(), key=lambda batch: batch.total_order)
    in_order = [batch for batch in in_order if batch.total_order + batch.span > memory_starts[VIEW]]
    shown = reader.read_all(topic, VIEW)
    assert [(b.total_order, b.payload) for b in in_order] == [(f.base_offset, f.payload) for f in shown]
    sizes = {partition: bounds.bytes for partition, bounds in bounds_of.items()}
    assert sizes[VIEW] == sum(size for partition, size in sizes.items() if partition != VIEW)
    if not any(memory_starts.values()):
        assert log.available(topic, VIEW, 0) == log.size_bytes(topic, VIEW)
    assert undo.modules().driver.idle_pages(log, topic) == []
    return Contents(topic, starts, memory_starts, ends, sizes, batches, [found.payload for found in shown])


def end_of(entry: Any) -> int:
    return int(entry["base_offset"]) + int(entry["last_offset_delta"]) + 1


def check_between(found: Contents, before: Contents, after: Contents) -> None:
    """Each number lies between those before and after the step; what both bounds allow is there, bit for bit."""
    assert found.topic in (before.topic, after.topic)
    known = before.batches | after.batches
    for partition in (VIEW, *range(found.topic.partitions)):
        assert before.starts.get(partition, 0) <= found.starts[partition] <= after.starts[partition]
        start = found.memory_starts[partition]
        assert before.memory_starts.get(partition, 0) <= start <= after.memory_starts[partition]
        assert before.ends.get(partition, 0) <= found.ends[partition] <= after.ends[partition]
    expected = {
        place: batch
        for place, batch in known.items()
        if batch.base_offset < found.ends.get(batch.partition, 0)
        and batch.base_offset + batch.span > found.memory_starts[batch.partition]
    }
    assert found.batches == expected
    if found.starts == before.starts and found.ends == before.ends:
        assert found.sizes == before.sizes, "what is evicted is kept"


class Bench:
    """A region in memory on which a scenario is built step by step, each step tried with every kill."""

    def __init__(self, *, coherent: bool = True) -> None:
        self.driver = undo.modules().driver
        self.stage = undo.Stage(size=self.driver.SIZE_SMALL, coherent=coherent)
        self.log = self.stage.open()

    def run(self, action: Action) -> None:
        """A step that no one kills."""
        action(self.log)

    def try_kills(
        self,
        action: Action,
        *,
        exact: bool = False,
        stride: int = 1,
        descending: bool = False,
        nested: int = 0,
    ) -> None:
        """A step, killed at every store; then once more, to its end. `exact`: as soon as it is ordered, it is done."""
        stage = self.stage
        before, ordered_before = contents(self.log), stage.ordered()
        after: dict[tuple[int, int], Contents] = {}
        ordered_after = ordered_before
        for ordered, found in stage.crashes(self.log, action, stride=stride, descending=descending, nested=nested):
            now = contents(found)
            if not after:
                after, ordered_after = now, ordered
            assert ordered_before <= ordered <= found.frontiers().ordered <= ordered_after
            check_found(now, before, after, complete=ordered == ordered_after)
            if exact and ordered == ordered_after:
                assert now == after
            self.check_goes_on(found, now)
        self.log = stage.open()
        action(self.log)
        assert {key: value.batches for key, value in contents(self.log).items()} == {
            key: value.batches for key, value in after.items()
        }

    def check_goes_on(self, log: Any, now: dict[tuple[int, int], Contents]) -> None:
        """The successor takes batches, trims, deletes, and has all its memory in the end."""
        everything = 1 << 60
        self.driver.replicate(log, everything, releasable=everything, archived=everything)
        for place in now.values():
            topic = place.topic
            for partition in range(topic.partitions):
                batch = self.driver.Batch(topic, partition, b"more", max_timestamp=5)
                assert self.driver.append_one(log, batch).base_offset == place.ends[partition]
                log.trim(topic, partition, place.starts[partition])
            shown = [found.payload for found in self.driver.Reader(log).read_all(topic, VIEW)]
            assert shown[-topic.partitions :] == [b"more"] * topic.partitions
            log.trim(topic, VIEW, log.bounds(topic, VIEW).next_offset)
            assert log.size_bytes(topic, VIEW) == 0
        assert self.driver.left_when_empty(log) == []


def check_found(
    now: dict[tuple[int, int], Contents],
    before: dict[tuple[int, int], Contents],
    after: dict[tuple[int, int], Contents],
    *,
    complete: bool,
) -> None:
    assert before.keys() & after.keys() <= now.keys() <= before.keys() | after.keys()
    for key, found in now.items():
        empty = Contents(found.topic, {VIEW: 0}, {VIEW: 0}, {VIEW: 0}, {}, {}, [])
        check_between(found, before.get(key, empty), after.get(key, found))
    if complete:
        assert now.keys() == after.keys()
        assert {key: found.ends for key, found in now.items()} == {key: found.ends for key, found in after.items()}
        assert [found.topic for found in now.values()] == [found.topic for found in after.values()]


@pytest.fixture
def bench() -> Iterator[Bench]:
    made = Bench()
    yield made
    made.stage.kill(made.log)
    made.stage.close()


def topic_named(log: Any, name: str) -> Topic:
    topic = log.find_topic(name)
    assert topic is not None
    return topic  # type: ignore[no-any-return]


def create(name: str, partitions: int, **more: Any) -> Action:
    return lambda log: log.create_topic(name, id=name[:1].encode() * 16, partitions=partitions, **more)


def append(name: str, *partitions: int, first: int = 0, **more: Any) -> Action:
    """One group: a batch to each of the partitions."""
    Batch = driver.Batch

    def run(log: Any) -> None:
        topic = topic_named(log, name)
        batches = [
            Batch(topic, partition, driver.payload(first + number), max_timestamp=number, **more)
            for number, partition in enumerate(partitions)
        ]
        answers = undo.modules().driver.append(log, batches)
        assert [answer.status for answer in answers] == [0] * len(batches)

    return run


@pytest.mark.parametrize("descending", [False, True])
def test_append(bench: Bench, descending: bool) -> None:
    bench.run(create("a", 2))
    bench.try_kills(append("a", 0), descending=descending, nested=5)
    bench.try_kills(append("a", 1, 0, 1, first=10, records=3), descending=descending, nested=10)


def test_append_over_page_boundaries(bench: Bench) -> None:
    """The 33rd entry makes the order index a tree; the 257th element does so for a partition."""
    bench.run(create("a", 2))
    bench.run(append("a", *[0] * 32))
    bench.try_kills(append("a", 0, first=100), nested=10)
    bench.run(append("a", *[0] * 223, first=1000))
    bench.try_kills(append("a", 0, 1, first=2000), stride=2)


def test_segments_roll(bench: Bench) -> None:
    bench.run(create("a", 1))
    big = bytes(40_000)
    bench.run(lambda log: append_payloads(log, "a", [big]))
    bench.try_kills(lambda log: append_payloads(log, "a", [big, big]))


def test_reservation(bench: Bench) -> None:
    bench.run(create("a", 1))

    def receive(log: Any) -> None:
        topic = topic_named(log, "a")
        reservation = log.reserve(100_000)
        reservation.buffer[:72] = driver.payload(7)
        batch = bench.driver.Batch(topic, 0, driver.payload(7), reservation=reservation)
        assert bench.driver.append_one(log, batch).status == 0
        reservation.close()
        aborted = log.reserve(200_000)
        aborted.close()

    bench.try_kills(receive)


def test_topic_operations(bench: Bench) -> None:
    bench.try_kills(create("a", 3, settings=b"first"), nested=10)
    bench.run(create("b", 1))
    bench.run(append("a", 0, 1, 2))

    def alter(log: Any) -> None:
        log.alter_topic(topic_named(log, "a"), partitions=5, settings=b"second", retention_bytes=10_000)

    for descending in (False, True):
        bench.try_kills(alter, nested=10, descending=descending)
    bench.try_kills(lambda log: log.delete_topic(topic_named(log, "a")), nested=10)
    bench.try_kills(create("c", 2))


def test_sweep_of_a_large_topic(bench: Bench) -> None:
    """More entries than one pass sweeps: the rest is swept by and by."""
    bench.run(create("a", 1))
    bench.run(create("b", 1))
    bench.run(lambda log: bench.driver.Bulk(log, size=300).append(topic_named(log, "a"), 10_000))
    bench.try_kills(lambda log: log.delete_topic(topic_named(log, "a")), stride=7)
    bench.try_kills(bench.driver.settle, stride=7, nested=5)
    assert bench.driver.left_when_empty(bench.log) == []


@pytest.mark.parametrize("partition", [0, 1, VIEW])
def test_trim(bench: Bench, partition: int) -> None:
    bench.run(create("a", 2))
    bench.run(append("a", *[0, 1] * 30, records=2))
    bench.try_kills(lambda log: log.trim(topic_named(log, "a"), partition, 41), stride=2, nested=25, exact=True)


@pytest.mark.parametrize("order_level", [0, 5])
def test_retention(bench: Bench, order_level: int) -> None:
    bench.run(create("a", 2, order_level=order_level, retention_bytes=72 * 20, retention_ms=1000))
    bench.run(append("a", *[0, 1] * 20))
    bench.try_kills(append("a", 0, 0, 1, first=100), stride=2, nested=25)
    bench.try_kills(lambda log: log.maintain(1035), stride=2, nested=25)


# -- with data directories: what may not be released yet, and what leaves memory for the archive


def replicate(releasable: int, archived: int = 0) -> Action:
    """All is visible; so much is durable, and so much in sealed files."""
    return lambda log: undo.modules().driver.replicate(log, 1 << 60, releasable=releasable, archived=archived)


def maintain(log: Any) -> None:
    undo.modules().driver.settle(log)


@pytest.mark.parametrize("order_level", [0, 5])
@pytest.mark.parametrize("partition", [0, 1, VIEW])
def test_a_trim_that_is_held_back(bench: Bench, partition: int, order_level: int) -> None:
    """The operation is at position 0, the batches from 1 on; a half of them may be released, then all."""
    bench.run(create("a", 2, order_level=order_level))
    bench.run(append("a", *[0, 1] * 30, records=2))
    bench.run(replicate(20))
    bench.try_kills(lambda log: log.trim(topic_named(log, "a"), partition, 41), stride=2, nested=25, exact=True)

    def move(log: Any) -> None:
        replicate(1 << 60)(log)
        maintain(log)

    bench.try_kills(move, stride=2, nested=25, exact=True)
    assert bench.log.counters()["released_batches"] > 0


def test_a_deletion_that_is_held_back(bench: Bench) -> None:
    bench.run(create("a", 2))
    bench.run(create("b", 1))
    bench.run(append("a", *[0, 1] * 30))
    bench.run(replicate(20))
    bench.try_kills(lambda log: log.delete_topic(topic_named(log, "a")), stride=2, nested=25)

    def move(log: Any) -> None:
        replicate(1 << 60)(log)
        maintain(log)

    bench.try_kills(move, stride=2, nested=25)
    assert bench.driver.left_when_empty(bench.log) == []


def evict(log: Any) -> None:
    undo.modules().driver.lib.log_evict(log._core, 1000)


@pytest.mark.parametrize("order_level", [0, 5])
@pytest.mark.parametrize("coherent", [True, False])
def test_eviction(order_level: int, coherent: bool) -> None:
    """In three steps, over page boundaries; then a trim below what is left, one above it, and retention."""
    bench = Bench(coherent=coherent)
    bench.run(create("a", 2, order_level=order_level, retention_ms=1000))
    bench.run(create("b", 1, order_level=order_level))
    bench.run(append("a", *[0, 1] * 20, records=2))
    bench.run(append("b", *[0] * 5))
    bench.run(append("a", *[0, 1] * 20, first=200, records=2))
    for archived in (12, 44, 70):
        bench.run(replicate(1 << 60, archived))
        bench.try_kills(evict, stride=3, nested=25)
    bounds = bench.log._bounds(topic_named(bench.log, "a"), 0)
    assert 0 == bounds.log_start_offset < bounds.memory_start_offset < bounds.next_offset
    for partition, offset in ((0, 9), (1, 11)):
        row = (partition, offset, offset // 2 * 72)
        bench.try_kills(trim(partition, offset, rows=[row]), stride=3, nested=25, exact=True)
    bench.try_kills(trim(VIEW, 30, rows=[(0, 16, 8 * 72), (1, 14, 7 * 72)]), stride=3, nested=25, exact=True)
    for partition in (0, 1):
        bench.try_kills(trim(partition, 67), stride=3, nested=25, exact=True)
    bench.try_kills(lambda log: log.maintain(1035), stride=3, nested=25)
    bench.stage.kill(bench.log)
    bench.stage.close()


def trim(partition: int, offset: int, rows: list[tuple[int, int, int]] | None = None) -> Action:
    return lambda log: log.trim(topic_named(log, "a"), partition, offset, rows=rows or [])


def append_payloads(log: Any, name: str, payloads: list[bytes]) -> None:
    of = undo.modules().driver
    answers = of.append(log, [of.Batch(topic_named(log, name), 0, payload) for payload in payloads])
    assert [answer.status for answer in answers] == [0] * len(payloads)


def idempotent(log: Any, sequence: int) -> list[Any]:
    """A group of two producers in two partitions, as they would send it again after a kill."""
    of = undo.modules().driver
    topic = topic_named(log, "a")
    return [
        of.with_sequence(
            of.Batch(topic, partition, driver.payload(100 * producer + 10 * sequence + partition)),
            producer,
            0,
            sequence,
        )
        for producer in (1, 2)
        for partition in (0, 1)
    ]


def send(sequence: int) -> Action:
    return lambda log: undo.modules().driver.append(log, idempotent(log, sequence))


def check_retries(bench: Bench, log: Any, sequence: int) -> None:
    """What was sent before is a duplicate, and what is sent again goes in once."""
    of = bench.driver
    for earlier in range(sequence):
        assert [answer.status for answer in of.append(log, idempotent(log, earlier))] == [of.lib.STATUS_DUPLICATE] * 4
    batches = idempotent(log, sequence)
    first = of.append(log, batches)
    assert {answer.status for answer in first} <= {of.lib.STATUS_OK, of.lib.STATUS_DUPLICATE}
    again = of.append(log, batches)
    assert [answer.status for answer in again] == [of.lib.STATUS_DUPLICATE] * 4
    assert [answer.base_offset for answer in again] == [answer.base_offset for answer in first]
    assert [answer.global_position for answer in again] == [answer.global_position for answer in first]
    shown = [found.payload for found in of.Reader(log).read_all(topic_named(log, "a"), VIEW)]
    assert sorted(shown.count(batch.payload) for batch in batches) == [1] * 4


def test_producers_send_again(bench: Bench) -> None:
    bench.run(create("a", 2))
    for sequence in range(2):
        action = send(sequence)
        for _, found in bench.stage.crashes(bench.log, action, stride=2, nested=10):
            check_retries(bench, found, sequence)
        bench.log = bench.stage.open()
        action(bench.log)


def test_far_into_a_log(bench: Bench) -> None:
    """Where trees grow once more, a producer snapshot is taken, the order ring wraps; retention keeps the log small."""
    of, stage = bench.driver, bench.stage
    bench.run(create("a", 2, retention_bytes=400))
    bulk = of.Bulk(bench.log)

    def until(position: int) -> None:
        bulk.log = bench.log
        bulk.append(topic_named(bench.log, "a"), position - stage.ordered())
        assert stage.ordered() == position

    first = stage.ordered()
    other = 2 * 3  # batches of the first three groups that go to partition 1: its tree grows no further
    positions = (
        first + 32 * 1024 - 2,
        of.lib.CHECKPOINT_BATCHES - 2,
        of.lib.ORDER_RING_SLOTS - 2,
        first + 256 * 1024 + other - 1,
    )
    for sequence, position in enumerate(positions):
        until(position)
        for number, (_, found) in enumerate(stage.crashes(bench.log, send(sequence), stride=5)):
            now = contents(found)
            if number % 4 == 0:
                bench.check_goes_on(found, now)
            elif number % 4 == 2:
                check_retries(bench, found, sequence)
        bench.log = stage.open()
        send(sequence)(bench.log)
    control = of.peek_struct(bench.log, of.lib.CONTROL_POSITION, "control")
    assert control.checkpoint > 3 * of.lib.CHECKPOINT_BATCHES
    assert of.left_when_empty(bench.log) == []
