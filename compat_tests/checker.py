"""Checks what producers logged against what readers saw, in passes over numpy arrays that are linear in the number of
records.

Every record of a run carries its producer's number and a sequence number from 0 in its value (`value_of`), so it is
known by one integer, its `identity` = producer * records_per_producer + sequence, and no check has to sort or to
compare values. Each check returns the anomalies that it found as sentences that name the first place; an empty list
means that all is well.
"""

import struct
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from compat_tests.clients.face import Delivery, Received

Numbers = NDArray[np.int64]

VALUE = struct.Struct("<qq")  # producer, sequence; whatever follows in a value is padding
NOWHERE = -1


def value_of(producer: int, sequence: int, padding: bytes = b"") -> bytes:
    return VALUE.pack(producer, sequence) + padding


@dataclass(frozen=True)
class Seen:
    """What one reader saw, in the order in which it came. `partition` is 0 throughout for the total-order view."""

    partition: Numbers
    offset: Numbers
    identity: Numbers

    def __len__(self) -> int:
        return len(self.offset)


@dataclass(frozen=True)
class Told:
    """What the producers were told, one entry for each record that was acknowledged. `offset` -1: told no offset
    (acks=0).

    The times are nanoseconds of one monotonic clock shared by all processes: just before the record was
    given to the client, and just after its acknowledgement came.
    """

    identity: Numbers
    partition: Numbers
    offset: Numbers
    sent_ns: Numbers
    answered_ns: Numbers


def numbers(values: Sequence[int]) -> Numbers:
    return np.array(values, dtype=np.int64)


def seen(partitions: Sequence[int], offsets: Sequence[int], values: Sequence[bytes], records_per_producer: int) -> Seen:
    heads = np.frombuffer(b"".join(value[: VALUE.size] for value in values), dtype="<i8").reshape(-1, 2)
    return Seen(numbers(partitions), numbers(offsets), heads[:, 0] * records_per_producer + heads[:, 1])


def received(records: Sequence[Received], records_per_producer: int) -> Seen:
    """What a client's reader returned, every value made by `value_of`."""
    values = [record.value or b"" for record in records]
    return seen(
        [record.partition for record in records], [record.offset for record in records], values, records_per_producer
    )


def told(identities: Iterable[int], deliveries: Sequence[Delivery]) -> Told:
    """The deliveries, all of them acknowledged, of the records that `identities` names in the same order."""
    columns = np.array([delivery[1:5] for delivery in deliveries], dtype=np.int64).reshape(-1, 4).T
    return Told(np.fromiter(identities, dtype=np.int64), *columns)


def dense(reader: Seen, first: int = 0) -> list[str]:
    """In every partition the offsets go up by one from `first`, with no hole and nothing twice."""
    anomalies = []
    for partition in range(_count(reader.partition)):
        offsets = reader.offset[reader.partition == partition]
        wrong = np.flatnonzero(offsets != np.arange(first, first + len(offsets)))
        if len(wrong):
            at = int(wrong[0])
            anomalies.append(f"partition {partition}: offset {first + at} expected, {offsets[at]} read (record {at})")
    return anomalies


def complete(reader: Seen, total: int) -> list[str]:
    """Each of the `total` records was read exactly once."""
    strangers = np.flatnonzero((reader.identity < 0) | (reader.identity >= total))
    if len(strangers):
        return [f"record {reader.identity[strangers[0]]} was never sent (read at {_place(reader, int(strangers[0]))})"]
    times = np.bincount(reader.identity, minlength=total)
    anomalies = []
    lost = np.flatnonzero(times == 0)
    if len(lost):
        anomalies.append(f"{len(lost)} records lost, the first is {lost[0]}")
    doubled = np.flatnonzero(times > 1)
    if len(doubled):
        anomalies.append(f"{len(doubled)} records read more than once, the first is {doubled[0]}")
    return anomalies


def acknowledged(reader: Seen, told: Told) -> list[str]:
    """Every acknowledged record was read, at the partition and offset that its producer was told."""
    size = 1 + max(_highest(reader.identity), _highest(told.identity))
    index = _index(reader.identity, size)[told.identity]
    missing = np.flatnonzero(index == NOWHERE)
    if len(missing):
        return [f"{len(missing)} acknowledged records lost, the first is {told.identity[missing[0]]}"]
    moved = (told.offset >= 0) & ((reader.partition[index] != told.partition) | (reader.offset[index] != told.offset))
    wrong = np.flatnonzero(moved)
    if not len(wrong):
        return []
    at = int(wrong[0])
    promised = f"partition {told.partition[at]} offset {told.offset[at]}"
    return [f"record {told.identity[at]} was acknowledged at {promised} and read at {_place(reader, int(index[at]))}"]


def producer_order(reader: Seen, records_per_producer: int) -> list[str]:
    """Inside a partition the records of one producer come in the order in which it sent them."""
    anomalies = []
    producers = _count(reader.identity // records_per_producer)
    for partition in range(_count(reader.partition)):
        identities = reader.identity[reader.partition == partition]
        for producer in range(producers):
            own = identities[identities // records_per_producer == producer]
            back = np.flatnonzero(np.diff(own) <= 0)
            if len(back):
                at = int(back[0])
                anomalies.append(
                    f"partition {partition}: record {own[at + 1]} comes after record {own[at]} of the same producer"
                )
    return anomalies


def view_holds_partitions(view: Seen, reader: Seen) -> list[str]:
    """The view has the records of all partitions, and those of each partition in that partition's order."""
    if len(view) != len(reader):
        return [f"the view has {len(view)} records and the partitions {len(reader)}"]
    size = 1 + max(_highest(reader.identity), _highest(view.identity))
    index = _index(reader.identity, size)[view.identity]
    strangers = np.flatnonzero(index == NOWHERE)
    if len(strangers):
        return [f"record {view.identity[strangers[0]]} is in the view and in no partition"]
    anomalies = []
    for partition in range(_count(reader.partition)):
        in_partition = reader.identity[reader.partition == partition]
        in_view = view.identity[reader.partition[index] == partition]
        if len(in_partition) != len(in_view):
            anomalies.append(
                f"partition {partition} has {len(in_partition)} records, {len(in_view)} of them in the view"
            )
            continue
        wrong = np.flatnonzero(in_partition != in_view)
        if len(wrong):
            at = int(wrong[0])
            anomalies.append(
                f"partition {partition}: record {in_partition[at]} at offset {at}, the view has {in_view[at]} there"
            )
    return anomalies


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
    size = 1 + max(_highest(view.identity), _highest(told.identity))
    index = _index(told.identity, size)[view.identity]
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


def _index(identities: Numbers, size: int) -> Numbers:
    """identity -> where it is in the array; NOWHERE where it is not."""
    index = np.full(size, NOWHERE, dtype=np.int64)
    index[identities] = np.arange(len(identities))
    return index


def _highest(values: Numbers) -> int:
    return int(values.max()) if len(values) else -1


def _count(values: Numbers) -> int:
    return _highest(values) + 1


def _place(reader: Seen, at: int) -> str:
    return f"partition {reader.partition[at]} offset {reader.offset[at]}"
