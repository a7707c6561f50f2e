"""Made-up runs for the tests of the order checker: good ones, from a seed, as readers, producers and index pages tell
them."""

from dataclasses import replace

import numpy as np

from totalog.engine.check import History, Numbers, Seen, Told
from totalog.engine.check.pages import Entries
from totalog.engine.tables import entry_type

PER_PRODUCER = 50


def sequential(random: np.random.Generator, producers: int) -> tuple[Numbers, Numbers, Numbers]:
    """When each item was sent, ordered and answered, in nanoseconds that differ: a producer sends one after another."""
    total = producers * PER_PRODUCER
    steps = random.integers(1, 1_000, (producers, 3 * PER_PRODUCER)).cumsum(axis=1)
    sent, ordered, answered = (steps[:, at::3].reshape(-1) * total + np.arange(total) for at in range(3))
    return sent, ordered, answered


def good_run(seed: int, producers: int = 3, partitions: int = 4) -> History:
    """Items of one to three offsets, sent at random times, each ordered at a moment between sending and answer. In
    every second run some producers died with their last item unanswered, which was stored or was not."""
    random = np.random.default_rng(seed)
    total = producers * PER_PRODUCER
    identity = np.arange(total)
    partition = random.integers(0, partitions, total)
    partition[: 2 * partitions] = np.arange(2 * partitions) % partitions
    span = random.integers(1, 4, total)
    sent, ordered, answered = sequential(random, producers)
    last = (
        PER_PRODUCER - 1 + PER_PRODUCER * np.flatnonzero(random.random(producers) < 0.7) if seed % 2 else identity[:0]
    )
    gone = last[random.random(len(last)) < 0.5]

    order = np.argsort(ordered)
    order = order[~np.isin(order, gone)]
    offset, total_order = np.full(total, -1), np.full(total, -1)
    total_order[order] = np.cumsum(span[order]) - span[order]
    own = [order[partition[order] == at] for at in range(partitions)]
    for items in own:
        offset[items] = np.cumsum(span[items]) - span[items]
    by_partition = np.concatenate(own)
    reader = Seen(partition[by_partition], offset[by_partition], by_partition, span[by_partition])
    view = Seen(np.zeros_like(order), total_order[order], order, span[order])
    told = Told(identity, partition, offset, sent, answered, total_order).where(~np.isin(identity, last))
    return History([reader, reader], [view, view], told, PER_PRODUCER, identity, not len(last), True)


def good_pages(seed: int, topics: int = 2) -> tuple[list[Entries], int]:
    """The index pages of several topics with idempotent producers and several brokers, and what is ordered."""
    random = np.random.default_rng(seed)
    runs = [good_run(2 * (seed + at)) for at in range(topics)]
    of = random.permutation(np.repeat(np.arange(topics), [len(run.views[0]) for run in runs]))
    brokers = random.integers(0, 3, len(of))
    headers = np.empty(len(of), dtype=np.int64)
    for broker in range(3):
        own = brokers == broker
        headers[own] = random.integers(1, 3, np.count_nonzero(own)).cumsum()
    pages = []
    for topic, run in enumerate(runs):
        at = np.flatnonzero(of == topic)
        entries = pages_of(run, random)
        entries["global_position"], entries["broker"], entries["ring_sequence"] = at, brokers[at], headers[at]
        pages.append(entries)
    return pages, len(of)


def pages_of(run: History, random: np.random.Generator) -> Entries:
    """Entries as the sequencer would have written them for what a run's first view shows."""
    view, reader = run.views[0], run.partitions[0]
    entries = np.zeros(len(view), dtype=entry_type())
    place = np.empty(int(view.identity.max()) + 1, dtype=np.int64)
    place[reader.identity] = np.arange(len(reader))
    index = place[view.identity]
    entries["total_order"], entries["partition"] = view.offset, reader.partition[index]
    entries["base_offset"], entries["last_offset_delta"] = reader.offset[index], view.spans - 1
    entries["size"] = random.integers(1, 5000, len(view))
    entries["max_timestamp"] = random.integers(0, 10_000, len(view))
    entries["producer_id"], entries["base_sequence"] = view.identity // PER_PRODUCER, -1
    for name, groups in (("topic", np.zeros(len(view), dtype=np.int64)), ("partition", entries["partition"])):
        for group in np.unique(groups):
            own = groups == group
            entries[f"{name}_bytes"][own] = np.cumsum(entries["size"][own]) - entries["size"][own]
            entries[f"{name}_max_timestamp"][own] = np.maximum.accumulate(entries["max_timestamp"][own])
    for producer in np.unique(entries["producer_id"]):
        for partition in np.unique(entries["partition"]):
            own = (entries["producer_id"] == producer) & (entries["partition"] == partition)
            start = int(random.integers(0, 2**31))
            span = view.spans[own]
            entries["base_sequence"][own] = (start + np.cumsum(span) - span) % 2**31
    return entries


# -- changes to one column


def swapped(values: Numbers, one: int, other: int) -> Numbers:
    copy = values.copy()
    copy[[one, other]] = copy[[other, one]]
    return copy


def shifted(values: Numbers, at: int) -> Numbers:
    copy = values.copy()
    copy[at:] += 1
    return copy


def without(reader: Seen, at: int) -> Seen:
    return Seen(*(np.delete(column, at) for column in (reader.partition, reader.offset, reader.identity, reader.spans)))


def with_copy(reader: Seen, at: int) -> Seen:
    columns = (reader.partition, reader.offset, reader.identity, reader.spans)
    return Seen(*(np.insert(column, at, column[at]) for column in columns))


def moved_up(reader: Seen, at: int) -> Seen:
    """Without one item, and with the offsets of those after it in its partition as if it had never been."""
    less = without(reader, at)
    offset = less.offset.copy()
    after = (less.partition == reader.partition[at]) & (less.offset > reader.offset[at])
    offset[after] -= reader.spans[at]
    return replace(less, offset=offset)
