"""Checks what producers were told against what readers saw, in passes over numpy arrays that are linear in the number
of items.

An item is a record, or a batch where batches are the unit. Each carries its producer's number and a sequence number
from 0, so it is known by one integer, its `identity` = producer * per_producer + sequence, and no check has to compare
contents. Each check returns the anomalies that it found as sentences that name the first place; an empty list means
that all is well.

`Told.where` narrows what was told, to one ack level for instance; `judge.py` runs all checks over a run.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Numbers = NDArray[np.int64]
NOWHERE = -1
SPARSE = 64
"""Places of a table for each of its entries, above which it is not made."""


def numbers(values: Sequence[int]) -> Numbers:
    return np.array(values, dtype=np.int64)


@dataclass(frozen=True)
class Seen:
    """What one reader saw, in the order in which it came. `partition` is 0 throughout for the total-order view."""

    partition: Numbers
    offset: Numbers
    identity: Numbers
    span: Numbers | int = 1
    """Offsets that each item takes: 1 for records."""

    def __len__(self) -> int:
        return len(self.offset)

    @property
    def spans(self) -> Numbers:
        return np.broadcast_to(np.asarray(self.span, dtype=np.int64), self.offset.shape)


@dataclass(frozen=True)
class Told:
    """What the producers were told, one entry for each item that was acknowledged. `offset` -1: told no offset
    (acks=0).

    The times are nanoseconds of one monotonic clock shared by all processes: just before the item was
    given to the client, and just after its acknowledgement came.
    """

    identity: Numbers
    partition: Numbers
    offset: Numbers
    sent_ns: Numbers
    answered_ns: Numbers
    total_order: Numbers | int = NOWHERE
    """The offset in the view, where acknowledgements say it."""

    def where(self, wanted: NDArray[np.bool_]) -> "Told":
        """Only some of it: those of one ack level, of the time before a restart, of a group's members."""
        return Told(
            self.identity[wanted],
            self.partition[wanted],
            self.offset[wanted],
            self.sent_ns[wanted],
            self.answered_ns[wanted],
            self.total_orders[wanted],
        )

    @property
    def total_orders(self) -> Numbers:
        return np.broadcast_to(np.asarray(self.total_order, dtype=np.int64), self.offset.shape)


def dense(reader: Seen, first: Numbers | int = 0) -> list[str]:
    """In every partition the offsets go up by each item's span, with no hole and nothing twice, from `first` (one for
    all partitions, or one for each)."""
    order = np.argsort(reader.partition, kind="stable")
    partition, offset = reader.partition[order], reader.offset[order]
    starts = _starts(partition)
    expected = np.roll(offset + reader.spans[order], 1)
    expected[starts] = first if isinstance(first, int) else first[partition[starts]]
    wrong = np.flatnonzero(offset != expected)
    return [
        f"partition {partition[at]}: offset {expected[at]} expected, {offset[at]} read (item {at - _start(starts, at)})"
        for at in _first_of_each(partition, wrong)
    ]


def no_phantom(reader: Seen, sent: Numbers | int) -> list[str]:
    """Only what was sent was read: one of these, or of the first so many, identities."""
    strangers = np.flatnonzero(_places(_all(sent), reader.identity) == NOWHERE)
    if not len(strangers):
        return []
    at = int(strangers[0])
    return [f"record {reader.identity[at]} was never sent (read at {_place(reader, at)})"]


def no_duplicate(reader: Seen) -> list[str]:
    """Nothing was read at two places."""
    last = _places(reader.identity, reader.identity)
    doubled = reader.identity[last != np.arange(len(reader))]
    return [f"{len(doubled)} records read again, the first is {doubled[0]}"] if len(doubled) else []


def complete(reader: Seen, sent: Numbers | int) -> list[str]:
    """Each of these (or of the first so many) records was read exactly once, and nothing else."""
    strangers = no_phantom(reader, sent)
    if strangers:
        return strangers
    wanted = _all(sent)
    lost = wanted[_places(reader.identity, wanted) == NOWHERE]
    anomalies = [f"{len(lost)} records lost, the first is {lost[0]}"] if len(lost) else []
    return anomalies + no_duplicate(reader)


def acknowledged(reader: Seen, told: Told) -> list[str]:
    """Every acknowledged record was read, at the partition and offset that its producer was told."""
    return no_lost_acknowledgement(reader, told) or acknowledged_truly(reader, told)


def no_lost_acknowledgement(reader: Seen, told: Told) -> list[str]:
    missing = np.flatnonzero(_places(reader.identity, told.identity) == NOWHERE)
    if not len(missing):
        return []
    return [f"{len(missing)} acknowledged records lost, the first is {told.identity[missing[0]]}"]


def acknowledged_truly(reader: Seen, told: Told) -> list[str]:
    """What was read of the acknowledged records was where they were acknowledged."""
    if not len(reader):
        return []
    index = _places(reader.identity, told.identity)
    moved = (reader.partition[index] != told.partition) | (reader.offset[index] != told.offset)
    wrong = np.flatnonzero(moved & (told.offset >= 0) & (index != NOWHERE))
    if not len(wrong):
        return []
    at = int(wrong[0])
    promised = f"partition {told.partition[at]} offset {told.offset[at]}"
    return [f"record {told.identity[at]} was acknowledged at {promised} and read at {_place(reader, int(index[at]))}"]


def told_of_view(told: Told) -> Told:
    """The acknowledgements as they speak of the view."""
    return Told(told.identity, np.zeros_like(told.partition), told.total_orders, told.sent_ns, told.answered_ns)


def producer_order(reader: Seen, per_producer: int) -> list[str]:
    """Inside a partition the records of one producer come in the order in which it sent them."""
    producer = reader.identity // per_producer
    key = reader.partition * (_highest(producer) + 1) + producer
    order = np.argsort(key, kind="stable")
    key, identity, partition = key[order], reader.identity[order], reader.partition[order]
    wrong = np.flatnonzero((key[1:] == key[:-1]) & (identity[1:] <= identity[:-1]))
    return [
        f"partition {partition[at]}: record {identity[at + 1]} comes after record {identity[at]} of the same producer"
        for at in _first_of_each(key, wrong)
    ]


def view_holds_partitions(view: Seen, reader: Seen) -> list[str]:
    """The view has the records of all partitions, and those of each partition in that partition's order."""
    if len(view) != len(reader):
        return [f"the view has {len(view)} records and the partitions {len(reader)}"]
    index = _places(reader.identity, view.identity)
    strangers = np.flatnonzero(index == NOWHERE)
    if len(strangers):
        return [f"record {view.identity[strangers[0]]} is in the view and in no partition"]
    partitions = _highest(reader.partition) + 1
    held, own = (np.bincount(each, minlength=partitions) for each in (reader.partition[index], reader.partition))
    uneven = np.flatnonzero(held != own)
    if len(uneven):
        return [f"partition {at} has {own[at]} records, {held[at]} of them in the view" for at in uneven]
    in_view, in_partitions = (np.argsort(by, kind="stable") for by in (reader.partition[index], reader.partition))
    partition = reader.partition[in_partitions]
    wrong = np.flatnonzero(reader.identity[in_partitions] != view.identity[in_view])
    return [
        f"partition {partition[at]}: record {reader.identity[in_partitions[at]]} at offset "
        f"{reader.offset[in_partitions[at]]}, the view has {view.identity[in_view[at]]} there"
        for at in _first_of_each(partition, wrong)
    ]


def agree(one: Seen, other: Seen) -> list[str]:
    """Two readers of one partition, or of one view, saw the same records at the same offsets in the same order."""
    if len(one) != len(other):
        return [f"one reader saw {len(one)} records and the other {len(other)}"]
    wrong = np.flatnonzero(
        (one.identity != other.identity) | (one.offset != other.offset) | (one.partition != other.partition)
    )
    if not len(wrong):
        return []
    at = int(wrong[0])
    here = f"record {one.identity[at]} at {_place(one, at)} for one reader"
    return [f"{here}, {other.identity[at]} at {_place(other, at)} for the other"]


def real_time(view: Seen, told: Told) -> list[str]:
    """If one record was acknowledged before another was sent, it comes first in the view."""
    index = _places(told.identity, view.identity)
    known = index[index != NOWHERE]
    sent, answered = told.sent_ns[known], told.answered_ns[known]
    first_answer_from_here = np.minimum.accumulate(answered[::-1])[::-1]
    wrong = np.flatnonzero(first_answer_from_here[1:] < sent[:-1])
    if not len(wrong):
        return []
    at = int(wrong[0])
    later = at + 1 + int(np.argmin(answered[at + 1 :]))
    one, other = told.identity[known[at]], told.identity[known[later]]
    early_ns = int(sent[at] - answered[later])
    return [f"record {other} was acknowledged {early_ns} ns before record {one} was sent, and comes after it"]


def _all(sent: Numbers | int) -> Numbers:
    return np.arange(sent) if isinstance(sent, int) else sent


def _places(known: Numbers, wanted: Numbers) -> Numbers:
    """Where each wanted identity stands in `known` (the last place, where it stands at several); NOWHERE: it does not.

    By a table, and by sorting where identities are so far apart that a table would be mostly holes.
    """
    size = 1 + _highest(known)
    if size > SPARSE * len(known) or (len(known) and known.min() < 0):
        order = np.argsort(known, kind="stable")
        at = np.searchsorted(known, wanted, side="right", sorter=order) - 1
        return np.where((at >= 0) & (known[order[at]] == wanted), order[at], NOWHERE)
    index = np.full(size + 1, NOWHERE, dtype=np.int64)
    index[known] = np.arange(len(known))
    return index[np.where((wanted >= 0) & (wanted < size), wanted, size)]


def _highest(values: Numbers) -> int:
    return int(values.max()) if len(values) else -1


def _starts(sorted_values: Numbers) -> Numbers:
    """Where each run of equal values begins."""
    return np.flatnonzero(np.diff(sorted_values, prepend=sorted_values[:1] - 1))


def _start(starts: Numbers, at: int) -> int:
    return int(starts[np.searchsorted(starts, at, side="right") - 1])


def _first_of_each(sorted_values: Numbers, places: Numbers) -> list[int]:
    """Of these places the first in each run of equal values."""
    return [int(places[at]) for at in _starts(sorted_values[places])]


def _place(reader: Seen, at: int) -> str:
    return f"partition {reader.partition[at]} offset {reader.offset[at]}"
