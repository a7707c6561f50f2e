"""The order checker is itself checked: it is silent about good histories and must name each kind of planted anomaly."""

import os
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from totalog.engine import VIEW, Log
from totalog.engine._core import ffi, lib
from totalog.engine.check import CHECKS, History, Seen, Told, histories, judge, numbers
from totalog.engine.check.pages import Entries, judge_pages, seen
from totalog.engine.check.reading import read_heads
from totalog.engine.tests.histories import (
    PER_PRODUCER,
    good_pages,
    good_run,
    moved_up,
    shifted,
    swapped,
    with_copy,
    without,
)

GOOD = 1000
HALF_LOST = 3
"""A seed for which one of the items without an answer is stored, and another is not."""
HEAD = np.dtype([("identity", "<i8")])


def test_no_alarm_on_a_thousand_good_histories() -> None:
    alarms = {seed: found for seed in range(GOOD) if (found := judge(good_run(seed)))}
    assert alarms == {}


def test_no_alarm_on_a_thousand_good_sets_of_pages() -> None:
    alarms = {seed: found for seed in range(GOOD) if (found := judge_pages(*good_pages(seed), whole=True))}
    assert alarms == {}


def test_identities_that_are_far_apart_are_found_as_well() -> None:
    """Then they are sorted instead of being the places of a table."""

    def spread(columns: Any) -> Any:
        far = columns.identity // PER_PRODUCER * 2**40 + columns.identity % PER_PRODUCER
        return replace(columns, identity=far)

    def run(of: History) -> History:
        return replace(
            of,
            partitions=[spread(each) for each in of.partitions],
            views=[spread(each) for each in of.views],
            told=spread(of.told),
            sent=None,
            per_producer=2**40,
        )

    assert all(judge(run(good_run(seed))) == {} for seed in range(0, 100, 2))
    for plant, expected in PLANTED.items():
        assert set(judge(run(plant(good_run(6))))) >= expected - {"no phantom"}, plant.__name__


# -- histories of clients


def first(run: History, reader: Seen) -> History:
    """The first reader of the partitions saw this."""
    return replace(run, partitions=[reader, *run.partitions[1:]])


def both(run: History, reader: Seen) -> History:
    return replace(run, partitions=[reader] * 2)


def views(run: History, view: Seen) -> History:
    return replace(run, views=[view] * 2)


def neighbours(run: History) -> tuple[int, int]:
    """Places of two items of one producer that follow each other in partition 0."""
    reader = run.partitions[0]
    own = np.flatnonzero((reader.partition == 0) & (reader.identity < PER_PRODUCER - 1))
    return int(own[0]), int(own[1])


def lost(run: History) -> History:
    """Both readers miss it, and the offsets show it."""
    return both(run, without(run.partitions[0], neighbours(run)[0]))


def lost_and_renumbered(run: History) -> History:
    """It is nowhere, and those after it moved up, so that the offsets are dense all the same."""
    identity = run.partitions[0].identity[neighbours(run)[0]]
    place = int(np.flatnonzero(run.views[0].identity == identity)[0])
    return views(both(run, moved_up(run.partitions[0], neighbours(run)[0])), moved_up(run.views[0], place))


def doubled(run: History) -> History:
    return both(run, with_copy(run.partitions[0], 10))


def appended_twice(run: History) -> History:
    """A retry that was stored again at the end of its partition, for readers of either kind."""
    reader, view = run.partitions[0], run.views[0]
    own = np.flatnonzero(reader.partition == 0)
    last, again = int(own[-1]), int(own[0])
    end = [0, reader.offset[last] + reader.spans[last], reader.identity[again], reader.spans[again]]
    columns = (reader.partition, reader.offset, reader.identity, reader.spans)
    longer = Seen(*(np.insert(column, last + 1, value) for column, value in zip(columns, end, strict=True)))
    end[1] = view.offset[-1] + view.spans[-1]
    columns = (view.partition, view.offset, view.identity, view.spans)
    return views(
        both(run, longer), Seen(*(np.append(column, value) for column, value in zip(columns, end, strict=True)))
    )


def swapped_in_partition(run: History) -> History:
    reader = run.partitions[0]
    return both(run, replace(reader, identity=swapped(reader.identity, *neighbours(run))))


def acknowledged_elsewhere(run: History) -> History:
    """One producer was told the offset of another item."""
    return replace(run, told=replace(run.told, offset=shifted(run.told.offset, len(run.told.offset) - 1)))


def acknowledged_in_another_partition(run: History) -> History:
    return replace(run, told=replace(run.told, partition=shifted(run.told.partition, len(run.told.offset) - 1)))


def acknowledged_elsewhere_in_the_view(run: History) -> History:
    total_order = run.told.total_orders
    return replace(run, told=replace(run.told, total_order=shifted(total_order, len(total_order) - 1)))


def hole(run: History) -> History:
    """One offset was never given."""
    reader = run.partitions[0]
    offset = reader.offset.copy()
    offset[np.flatnonzero(reader.partition == 0)[-1]] += 1
    return both(run, replace(reader, offset=offset))


def overlapping(run: History) -> History:
    """An item of several offsets, the last of which is given again."""
    reader = run.partitions[0]
    span = reader.spans.copy()
    span[np.flatnonzero(reader.partition == 0)[0]] += 1
    return both(run, replace(reader, span=span))


def phantom(run: History) -> History:
    """An item that nobody sent, in the place of one that was."""
    reader = run.partitions[0]
    identity = reader.identity.copy()
    identity[neighbours(run)[0]] = PER_PRODUCER * 3 + 7
    return both(run, replace(reader, identity=identity))


def garbage(run: History) -> History:
    """Bytes that name no producer at all."""
    view = run.views[0]
    identity = view.identity.copy()
    identity[3:5] = -(2**62), 2**62
    return views(run, replace(view, identity=identity))


def swapped_in_view(run: History) -> History:
    """Two items of partition 0, sent long after each other, change places in the view alone."""
    reader, view = run.partitions[0], run.views[0]
    own = np.flatnonzero(np.isin(view.identity, reader.identity[reader.partition == 0]))
    return views(run, replace(view, identity=swapped(view.identity, int(own[0]), int(own[-1]))))


def hole_in_view(run: History) -> History:
    return views(run, replace(run.views[0], offset=shifted(run.views[0].offset, 20)))


def lost_in_view(run: History) -> History:
    return views(run, without(run.views[0], int(np.flatnonzero(run.views[0].identity == 0)[0])))


def against_real_time(run: History) -> History:
    """The first item of all is the last of the view: every partition but one keeps its order."""
    return views(run, replace(run.views[0], identity=np.roll(run.views[0].identity, -1)))


def answered_before_it_was_sent(run: History) -> History:
    """The second item of the view had its answer before the first was sent: only the clock tells."""
    one, other = (int(np.flatnonzero(run.told.identity == identity)[0]) for identity in run.views[0].identity[:2])
    sent, answered = run.told.sent_ns.copy(), run.told.answered_ns.copy()
    sent[one], answered[other] = 10, 9
    return replace(run, told=replace(run.told, sent_ns=sent, answered_ns=answered))


def one_reader_swaps(run: History) -> History:
    reader = run.partitions[0]
    return first(run, replace(reader, identity=swapped(reader.identity, 3, 4)))


def one_reader_stops_early(run: History) -> History:
    return replace(run, views=[run.views[0], without(run.views[0], len(run.views[0]) - 1)])


PLANTED: dict[Callable[[History], History], set[str]] = {
    lost: {"dense", "nothing lost", "view holds partitions"},
    lost_and_renumbered: {"nothing lost", "told truly"},
    doubled: {"dense", "no duplicate", "producer order", "view holds partitions"},
    appended_twice: {"no duplicate", "producer order"},
    swapped_in_partition: {"told truly", "producer order", "view holds partitions"},
    acknowledged_elsewhere: {"told truly"},
    acknowledged_in_another_partition: {"told truly"},
    acknowledged_elsewhere_in_the_view: {"told truly"},
    hole: {"dense"},
    overlapping: {"dense"},
    phantom: {"no phantom", "nothing lost", "view holds partitions"},
    garbage: {"no phantom", "view holds partitions"},
    swapped_in_view: {"real time", "view holds partitions", "told truly"},
    hole_in_view: {"dense", "told truly"},
    lost_in_view: {"dense", "nothing lost", "view holds partitions"},
    against_real_time: {"real time", "view holds partitions", "told truly"},
    answered_before_it_was_sent: {"real time"},
    one_reader_swaps: {"readers agree", "told truly"},
    one_reader_stops_early: {"readers agree"},
}


@pytest.mark.parametrize("plant", PLANTED, ids=lambda plant: plant.__name__)
def test_each_planted_anomaly_is_named(plant: Callable[[History], History]) -> None:
    for seed in range(40):
        found = judge(plant(good_run(seed)))
        assert set(found) >= PLANTED[plant], (seed, found)


def test_every_check_is_planted_against() -> None:
    assert set().union(*PLANTED.values()) == set(CHECKS)


def test_the_sentence_names_the_place() -> None:
    run = good_run(4)
    at, _ = neighbours(run)
    reader = run.partitions[0]
    gone = reader.identity[at]
    assert judge(lost(run))["nothing lost"][0] == f"1 records lost, the first is {gone}"
    place = f"partition 0 offset {reader.offset[at]}"
    assert judge(phantom(run))["no phantom"][0] == f"record {PER_PRODUCER * 3 + 7} was never sent (read at {place})"


def test_records_that_overlap_in_time_may_stand_in_either_order() -> None:
    view = Seen(numbers([0, 0]), numbers([0, 1]), numbers([0, 1]))
    overlapping = Told(numbers([0, 1]), numbers([0, 0]), numbers([0, 1]), numbers([10, 5]), numbers([20, 15]))
    assert histories.real_time(view, overlapping) == []
    apart = replace(overlapping, sent_ns=numbers([16, 5]))
    assert histories.real_time(view, apart) == [
        "record 1 was acknowledged 1 ns before record 0 was sent, and comes after it"
    ]


def test_unanswered_items_may_be_there_or_not_and_answered_ones_may_not() -> None:
    run = good_run(HALF_LOST)
    assert judge(run) == {}
    stored = len(run.views[0])
    assert len(run.told.identity) < stored < len(run.given)
    assert set(judge(replace(run, all_arrive=True))) == {"nothing lost"}
    assert "nothing lost" in judge(lost_in_view(run))


def test_one_ack_level_alone_can_be_looked_at() -> None:
    """What a run lost that was only ordered, and not what was replicated: the caller says which is which."""
    run = lost_and_renumbered(good_run(2))
    kept = np.isin(run.told.identity, run.views[0].identity)
    assert "nothing lost" not in judge(replace(run, told=run.told.where(kept), all_arrive=False))


def test_checks_of_ones_own_stand_beside() -> None:
    found = judge(good_run(1), {**CHECKS, "few": lambda run: [f"{len(run.views[0])} records"]})
    assert list(found) == ["few"]


# -- index pages


Pages = tuple[list[Entries], int]


def changed(pages: Pages, name: str, change: Callable[[Any], Any]) -> Pages:
    """Of the second topic."""
    topics = [entries.copy() for entries in pages[0]]
    topics[1][name] = change(topics[1][name])
    return topics, pages[1]


def put(at: int, value: int) -> Callable[[npt.NDArray[Any]], npt.NDArray[Any]]:
    def change(column: npt.NDArray[Any]) -> npt.NDArray[Any]:
        column = column.copy()
        column[at] = value
        return column

    return change


def plus(at: int, value: int) -> Callable[[npt.NDArray[Any]], npt.NDArray[Any]]:
    return lambda column: put(at, int(column[at]) + value)(column)


def sequence_again(pages: Pages) -> Pages:
    """A duplicate of one producer was ordered a second time."""
    entries = pages[0][1]
    own = np.flatnonzero((entries["producer_id"] == 1) & (entries["partition"] == 2))
    return changed(pages, "base_sequence", put(own[1], entries["base_sequence"][own[0]]))


def from_an_older_header(pages: Pages) -> Pages:
    entries = pages[0][1]
    own = np.flatnonzero(entries["broker"] == entries["broker"][-1])
    return changed(pages, "ring_sequence", put(own[-1], entries["ring_sequence"][own[-2]] - 1))


def entries_swapped(pages: Pages) -> Pages:
    entries = pages[0][1]
    return [pages[0][0], entries[[1, 0, *range(2, len(entries))]]], pages[1]


def entry_lost(pages: Pages) -> Pages:
    return [pages[0][0], np.delete(pages[0][1], 9)], pages[1]


def position_in_two_topics(pages: Pages) -> Pages:
    taken = pages[0][0]["global_position"][5]
    return changed(pages, "global_position", lambda column: np.sort(np.append(column[1:], taken)))


def total_order_with_a_hole(pages: Pages) -> Pages:
    return changed(pages, "total_order", plus(30, 1))


def base_offset_given_twice(pages: Pages) -> Pages:
    return changed(pages, "base_offset", plus(-1, -1))


def beyond_what_is_ordered(pages: Pages) -> Pages:
    return pages[0], pages[1] - 1


def bytes_counted_twice(pages: Pages) -> Pages:
    return changed(pages, "topic_bytes", plus(7, 5))


def bytes_of_another_partition(pages: Pages) -> Pages:
    return changed(pages, "partition_bytes", plus(-1, 5))


def later_than_any(pages: Pages) -> Pages:
    return changed(pages, "topic_max_timestamp", plus(8, 1))


def sequence_left_out(pages: Pages) -> Pages:
    return changed(pages, "base_sequence", plus(0, -1))


PLANTED_IN_PAGES: dict[Callable[[Pages], Pages], set[str]] = {
    total_order_with_a_hole: {"dense"},
    base_offset_given_twice: {"dense"},
    entries_swapped: {"dense", "positions", "counted"},
    entry_lost: {"dense", "positions"},
    position_in_two_topics: {"positions"},
    beyond_what_is_ordered: {"positions"},
    bytes_counted_twice: {"counted"},
    bytes_of_another_partition: {"counted"},
    later_than_any: {"counted"},
    sequence_again: {"producers in sequence"},
    sequence_left_out: {"producers in sequence"},
    from_an_older_header: {"rings in order"},
}


@pytest.mark.parametrize("plant", PLANTED_IN_PAGES, ids=lambda plant: plant.__name__)
def test_each_anomaly_planted_in_pages_is_named(plant: Callable[[Pages], Pages]) -> None:
    for seed in range(40):
        found = judge_pages(*plant(good_pages(seed)), whole=True)
        assert set(found) >= PLANTED_IN_PAGES[plant], (seed, found)


def test_pages_and_readers_of_a_log_tell_the_same() -> None:
    seed = int.from_bytes(os.urandom(4), "little")
    print(f"seed {seed}")
    random = np.random.default_rng(seed)
    with Log.create(size=32 << 20) as log:
        topics = [log.create_topic(name, id=bytes(16), partitions=3) for name in "ab"]
        group = log.group(1)
        payload = np.zeros(64, dtype=np.uint8)
        for identity in range(300):
            payload[:8] = np.frombuffer(int(identity).to_bytes(8, "little"), dtype=np.uint8)
            topic, append = topics[int(random.integers(2))], group[0]
            append.source, append.size, append.status = payload.ctypes.data, int(random.integers(8, 64)), lib.STATUS_OK
            append.topic_slot, append.topic_generation = topic.slot, topic.generation
            append.partition, append.record_count, append.last_offset_delta = int(random.integers(3)), 2, 1
            append.producer_id, append.base_sequence = -1, -1
            log.append(group, 1)
        pages = [log.entries(topic) for topic in topics]
        operations = log.entries(topics[0]._replace(slot=0, generation=1))
        assert judge_pages([operations, *pages], log.frontiers().ordered, whole=True) == {}
        for topic, entries in zip(topics, pages, strict=True):
            offsets, heads = read_heads(log, topic, VIEW, HEAD, 2)
            of_partitions, of_view = seen(entries, heads["identity"])
            assert histories.agree(of_view, Seen(np.zeros_like(offsets), offsets, heads["identity"])) == []
            for partition in range(3):
                offsets, heads = read_heads(log, topic, partition, HEAD, 2)
                own = of_partitions.partition == partition
                assert (of_partitions.offset[own] == offsets).all()
                assert (of_partitions.identity[own] == heads["identity"]).all()
                assert len(offsets) == np.count_nonzero(own)
            assert histories.view_holds_partitions(of_view, of_partitions) == []
        assert ffi.sizeof("struct order_entry") == pages[0].dtype.itemsize
