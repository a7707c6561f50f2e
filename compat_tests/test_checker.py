"""The checker is itself checked: it is silent about good histories and must name each kind of planted anomaly."""

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from compat_tests import checker
from compat_tests.checker import Seen, Told, numbers

RECORDS_PER_PRODUCER = 50


@dataclass(frozen=True)
class History:
    """A run that went well, as the readers of the partitions, a reader of the view and the producers saw it."""

    reader: Seen
    view: Seen
    told: Told
    total: int


def history(seed: int, producers: int = 3, partitions: int = 4) -> History:
    """Producers send one record after the other at random times; each is ordered at a moment between sending and
    answer.
    """
    random = np.random.default_rng(seed)
    total = producers * RECORDS_PER_PRODUCER
    identity = np.arange(total)
    partition = random.integers(0, partitions, total)
    partition[:partitions] = np.arange(partitions)
    steps = random.integers(1, 1_000, (producers, 3 * RECORDS_PER_PRODUCER)).cumsum(axis=1)
    sent, ordered, answered = (steps[:, moment::3].reshape(-1) * total + identity for moment in range(3))
    order = np.argsort(ordered)
    view = Seen(numbers([0] * total), np.arange(total), identity[order])
    in_order = [order[partition[order] == at] for at in range(partitions)]
    reader = Seen(
        np.concatenate([np.full(len(own), at) for at, own in enumerate(in_order)]),
        np.concatenate([np.arange(len(own)) for own in in_order]),
        np.concatenate(in_order),
    )
    offset = np.empty(total, dtype=np.int64)
    offset[reader.identity] = reader.offset
    return History(reader, view, Told(identity, partition, offset, sent, answered), total)


def anomalies(run: History) -> dict[str, list[str]]:
    return {
        "dense": checker.dense(run.reader),
        "complete": checker.complete(run.reader, run.total),
        "acknowledged": checker.acknowledged(run.reader, run.told),
        "producer_order": checker.producer_order(run.reader, RECORDS_PER_PRODUCER),
        "dense view": checker.dense(run.view),
        "view": checker.view_holds_partitions(run.view, run.reader),
        "real_time": checker.real_time(run.view, run.told),
    }


def found(run: History) -> set[str]:
    return {name for name, sentences in anomalies(run).items() if sentences}


@given(st.integers(0, 2**32))
def test_a_good_history_has_no_anomaly(seed: int) -> None:
    assert found(history(seed)) == set()


def without(reader: Seen, at: int) -> Seen:
    return Seen(*(np.delete(column, at) for column in (reader.partition, reader.offset, reader.identity)))


def with_copy(reader: Seen, at: int) -> Seen:
    return Seen(*(np.insert(column, at, column[at]) for column in (reader.partition, reader.offset, reader.identity)))


def swapped(values: checker.Numbers, one: int, other: int) -> checker.Numbers:
    copy = values.copy()
    copy[[one, other]] = copy[[other, one]]
    return copy


def shifted(values: checker.Numbers, at: int) -> checker.Numbers:
    copy = values.copy()
    copy[at:] += 1
    return copy


def same_producer_neighbours(run: History) -> tuple[int, int]:
    """Places of two records of one producer that follow each other in partition 0."""
    own = np.flatnonzero((run.reader.partition == 0) & (run.reader.identity < RECORDS_PER_PRODUCER))
    return int(own[0]), int(own[1])


def lost(run: History) -> History:
    return replace(run, reader=without(run.reader, 10))


def lost_and_renumbered(run: History) -> History:
    """The record is gone and those after it moved up, so that the offsets are dense all the same."""
    less = without(run.reader, 0)
    offset = less.offset.copy()
    offset[less.partition == 0] -= 1
    return replace(run, reader=replace(less, offset=offset))


def doubled(run: History) -> History:
    return replace(run, reader=with_copy(run.reader, 10))


def appended_twice(run: History) -> History:
    """A retry that was stored again at the end of its partition."""
    last = int(np.flatnonzero(run.reader.partition == 0)[-1])
    reader = with_copy(run.reader, last)
    offset, identity = reader.offset.copy(), reader.identity.copy()
    offset[last + 1] += 1
    identity[last + 1] = identity[0]
    return replace(run, reader=replace(reader, offset=offset, identity=identity))


def swapped_in_partition(run: History) -> History:
    return replace(
        run, reader=replace(run.reader, identity=swapped(run.reader.identity, *same_producer_neighbours(run)))
    )


def shifted_offset(run: History) -> History:
    return replace(run, told=replace(run.told, offset=shifted(run.told.offset, run.total - 1)))


def hole(run: History) -> History:
    last = int(np.flatnonzero(run.reader.partition == 0)[-1])
    offset = run.reader.offset.copy()
    offset[last] += 1
    return replace(run, reader=replace(run.reader, offset=offset))


def never_sent(run: History) -> History:
    identity = run.reader.identity.copy()
    identity[5] = run.total + 7
    return replace(run, reader=replace(run.reader, identity=identity))


def swapped_in_view(run: History) -> History:
    """Two records of partition 0 change places in the view alone."""
    own = np.flatnonzero(np.isin(run.view.identity, run.reader.identity[run.reader.partition == 0]))
    return replace(run, view=replace(run.view, identity=swapped(run.view.identity, int(own[0]), int(own[-1]))))


def hole_in_view(run: History) -> History:
    return replace(run, view=replace(run.view, offset=shifted(run.view.offset, 20)))


def lost_in_view(run: History) -> History:
    return replace(run, view=without(run.view, 20))


def late_in_view(run: History) -> History:
    """The first record of all is the last in the view, each partition keeping its order only by chance."""
    return replace(run, view=replace(run.view, identity=np.roll(run.view.identity, -1)))


PLANTED: dict[Callable[[History], History], set[str]] = {
    lost: {"dense", "complete", "acknowledged", "view"},
    lost_and_renumbered: {"complete", "acknowledged", "view"},
    doubled: {"dense", "complete", "view"},
    appended_twice: {"complete", "producer_order", "view"},
    swapped_in_partition: {"acknowledged", "producer_order", "view"},
    shifted_offset: {"acknowledged"},
    hole: {"dense", "acknowledged"},
    never_sent: {"complete", "acknowledged", "view"},
    swapped_in_view: {"view", "real_time"},
    hole_in_view: {"dense view"},
    lost_in_view: {"dense view", "view"},
    late_in_view: {"view", "real_time"},
}


@pytest.mark.parametrize("plant", PLANTED, ids=lambda plant: plant.__name__)
@pytest.mark.parametrize("seed", range(20))
def test_each_planted_anomaly_is_named(plant: Callable[[History], History], seed: int) -> None:
    assert found(plant(history(seed))) >= PLANTED[plant]


def test_readers_that_differ_in_one_place_are_told_apart() -> None:
    view = history(1).view
    assert checker.agree(view, view) == []
    assert checker.agree(view, replace(view, identity=swapped(view.identity, 3, 4)))
    assert checker.agree(view, replace(view, offset=shifted(view.offset, 9)))
    assert checker.agree(view, without(view, len(view) - 1))


def test_records_that_overlap_in_time_may_stand_in_either_order() -> None:
    view = Seen(numbers([0, 0]), numbers([0, 1]), numbers([0, 1]))
    overlapping = Told(numbers([0, 1]), numbers([0, 0]), numbers([0, 1]), numbers([10, 5]), numbers([20, 15]))
    assert checker.real_time(view, overlapping) == []
    apart = replace(overlapping, sent_ns=numbers([16, 5]))
    assert checker.real_time(view, apart) == [
        "record 1 was acknowledged 1 ns before record 0 was sent, and comes after it"
    ]


def test_values_carry_producer_and_sequence() -> None:
    values = [checker.value_of(2, 7, b"padding"), checker.value_of(0, 1)]
    assert checker.seen([1, 0], [5, 6], values, 50).identity.tolist() == [107, 1]
    assert len(checker.seen([], [], [], 50)) == 0
