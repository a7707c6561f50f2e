"""Checks of order entries, as `Log.entries` reads them from index pages: what no client can see.

`judge_pages` looks at all topics of a log at once, since global positions and rings are common to them. `seen` makes of
a topic's entries what two readers saw, one of the partitions and one of the view, so that `histories` can go on.
"""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from totalog.engine.check.histories import Numbers, Seen, dense

Entries = npt.NDArray[np.void]
SEQUENCES = 1 << 31
"""Producer sequences wrap here."""


def judge_pages(
    topics: Sequence[Entries], ordered: int, *, whole: bool = False, holes: bool = False
) -> dict[str, list[str]]:
    """Name of a promise -> the anomalies that speak against it; empty for good pages.

    `whole`: these are all topics, that of the operations too, and nothing was released or deleted, so that every global
    position below `ordered` stands in one of them. `holes`: whole batches may be missing (trimmed partitions).
    """
    found: dict[str, list[str]] = {name: [] for name in ("dense", "counted", "producers in sequence")}
    for entries in topics:
        found["dense"] += [] if holes else orders_are_dense(entries)
        found["counted"] += [] if holes else counted(entries)
        found["producers in sequence"] += in_sequence(entries)
    every = np.concatenate(topics) if topics else np.empty(0, dtype=[("global_position", "<u8")])
    found["positions"] = [place for entries in topics for place in rising(entries)] + positions(every, ordered, whole)
    found["rings in order"] = rings_in_order(every) if len(every) else []
    return {name: anomalies for name, anomalies in found.items() if anomalies}


def seen(entries: Entries, identity: Numbers) -> tuple[Seen, Seen]:
    """What a reader of the partitions and a reader of the view would have seen; `identity`: of each entry's batch."""
    span = entries["last_offset_delta"].astype(np.int64) + 1
    partition, base_offset, total_order = (
        entries[name].astype(np.int64) for name in ("partition", "base_offset", "total_order")
    )
    by_partition = np.argsort(partition, kind="stable")
    of_partitions = (column[by_partition] for column in (partition, base_offset, identity, span))
    return Seen(*of_partitions), Seen(np.zeros_like(partition), total_order, identity, span)


def orders_are_dense(entries: Entries) -> list[str]:
    """Base offsets in each partition and the total order: each batch begins where the one before it ended."""
    by_partition, view = seen(entries, np.arange(len(entries)))
    partitions, first = np.unique(by_partition.partition, return_index=True)
    starts = np.zeros(int(partitions[-1]) + 1 if len(partitions) else 0, dtype=np.int64)
    starts[partitions] = by_partition.offset[first]
    return dense(by_partition, starts) + dense(view, view.offset[:1])


def rising(entries: Entries) -> list[str]:
    """Global positions go up with the total order."""
    position = entries["global_position"].astype(np.int64)
    wrong = np.flatnonzero(np.diff(position) <= 0)
    return [f"global position {position[at + 1]} comes after {position[at]} in one topic" for at in wrong[:1]]


def positions(entries: Entries, ordered: int, whole: bool) -> list[str]:
    """Of all topics: no global position twice, none that is not ordered; where the pages are whole, none missing."""
    position = np.sort(entries["global_position"].astype(np.int64))
    twice = np.flatnonzero(np.diff(position) == 0)
    anomalies = [f"global position {position[at]} stands in two entries" for at in twice[:1]]
    anomalies += [
        f"global position {at} stands in an entry, {ordered} are ordered" for at in position[-1:] if at >= ordered
    ]
    missing = np.setdiff1d(np.arange(ordered if whole else 0), position)
    return anomalies + [f"global position {at} stands in no entry" for at in missing[:1]]


def counted(entries: Entries) -> list[str]:
    """Bytes before each batch and the running largest timestamps, of the topic and of each partition."""
    anomalies = _counted("topic", entries)
    partition = entries["partition"]
    order = np.argsort(partition, kind="stable")
    cuts = np.flatnonzero(np.diff(partition[order])) + 1
    for own in np.split(entries[order], cuts):
        anomalies += _counted("partition", own)
    return anomalies


def _counted(of: str, entries: Entries) -> list[str]:
    if not len(entries):
        return []
    name = of if of == "topic" else f"partition {entries['partition'][0]}"
    before = entries[f"{of}_bytes"].astype(np.int64)
    wrong = np.flatnonzero(np.diff(before) != entries["size"][:-1])
    anomalies = [
        f"{name}: {before[at + 1]} bytes before total order {entries['total_order'][at + 1]}" for at in wrong[:1]
    ]
    latest = np.maximum.accumulate(entries["max_timestamp"])
    said = entries[f"{of}_max_timestamp"]
    wrong = np.flatnonzero(said != np.maximum(latest, said[0]))
    return anomalies + [f"{name}: largest timestamp {said[at]}, {latest[at]} expected" for at in wrong[:1]]


def in_sequence(entries: Entries) -> list[str]:
    """Each idempotent producer's batches follow one another inside a partition, from any sequence on."""
    own = entries[(entries["producer_id"] >= 0) & (entries["base_sequence"] >= 0)]
    order = np.lexsort((own["partition"], own["producer_epoch"], own["producer_id"]))  # stable: the rest is by position
    own = own[order]
    same = np.ones(max(len(own) - 1, 0), dtype=bool)
    for name in ("partition", "producer_epoch", "producer_id"):
        same &= own[name][1:] == own[name][:-1]
    sequence = own["base_sequence"].astype(np.int64)
    expected = (sequence[:-1] + own["last_offset_delta"][:-1] + 1) % SEQUENCES
    wrong = np.flatnonzero(same & (sequence[1:] != expected))
    return [
        f"producer {own['producer_id'][at]}, partition {own['partition'][at]}: "
        f"sequence {sequence[at + 1]} where {expected[at]} is next"
        for at in wrong[:1]
    ]


def rings_in_order(entries: Entries) -> list[str]:
    """Of all topics: each broker's headers were ordered in the order of its ring, and each once."""
    order = np.lexsort((entries["global_position"], entries["broker"]))
    broker, sequence = entries["broker"][order], entries["ring_sequence"][order].astype(np.int64)
    wrong = np.flatnonzero((broker[1:] == broker[:-1]) & (sequence[1:] <= sequence[:-1]))
    return [f"broker {broker[at]}: header {sequence[at + 1]} was ordered after {sequence[at]}" for at in wrong[:1]]
