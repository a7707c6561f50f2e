"""What clients were told and read, as columns for the order checker (`totalog.engine.check`), which this offers too.

Every record of a run carries its producer's number and a sequence number from 0 in its value (`value_of`).
"""

import struct
from collections.abc import Iterable, Sequence

import numpy as np

from compat_tests.clients.face import Delivery, Received
from totalog.engine.check.histories import (
    Numbers,
    Seen,
    Told,
    acknowledged,
    agree,
    complete,
    dense,
    numbers,
    producer_order,
    real_time,
    view_holds_partitions,
)

__all__ = [
    "Numbers",
    "Seen",
    "Told",
    "acknowledged",
    "agree",
    "complete",
    "dense",
    "numbers",
    "producer_order",
    "real_time",
    "received",
    "seen",
    "told",
    "value_of",
    "view_holds_partitions",
]

VALUE = struct.Struct("<qq")  # producer, sequence; whatever follows in a value is padding


def value_of(producer: int, sequence: int, padding: bytes = b"") -> bytes:
    return VALUE.pack(producer, sequence) + padding


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
