"""What a read is given to write into, and what it says it found."""

from dataclasses import dataclass
from typing import Any, NamedTuple

from totalog.engine._core import ffi, lib
from totalog.engine.topic import Topic, error_of

LENT_FRONT: int = lib.LENT_FRONT
"""Bytes of a lent batch that are copied all the same, so that their reader can change them."""
NOTHING_LENT: int = (1 << 64) - 1
"""As the size from which on batches are lent."""


class ReadBatches:
    """Room for one `struct read_batch` per batch of a read, at `address`."""

    def __init__(self, capacity: int) -> None:
        self.capacity = capacity
        self._batches = ffi.new("struct read_batch[]", capacity)
        self.address = int(ffi.cast("uintptr_t", self._batches))

    def __getitem__(self, index: int) -> Any:
        return self._batches[index]


@dataclass(slots=True)
class Read:
    """What a read found, or why nothing. Not frozen: one is made for each read, and freezing costs a microsecond."""

    status: int
    """STATUS_OK, STATUS_OFFSET_OUT_OF_RANGE, STATUS_UNKNOWN_TOPIC, or STATUS_ON_DISK: ask the archive."""
    size: int
    """Bytes."""
    count: int
    """Batches."""
    size_needed: int
    """Bytes that the first batch takes, when there was no room for it; else 0."""
    log_start_offset: int
    next_offset: int
    leader_epoch: int = 0
    available: int = 0
    """Visible bytes from the batch that holds the offset to the end."""
    copied: int = 0
    """Bytes of `size` that were copied; the others are lent."""
    pins: int = 0
    """What holds those that are lent: for `Log.give_back`."""


def read_of(result: Any) -> Read:
    """What a `struct read_result` says."""
    return Read(
        result.status,
        result.size,
        result.count,
        result.size_needed,
        result.log_start_offset,
        result.next_offset,
        result.leader_epoch,
        result.available,
        result.copied,
        result.pins,
    )


class BatchAt(NamedTuple):
    """One batch that was looked for. `base_offset` is the total order where the view was searched."""

    base_offset: int
    size: int
    max_timestamp: int
    leader_epoch: int
    flags: int


def batch_at(status: int, found: Any, topic: Topic) -> BatchAt | None:
    """What a `struct batch_at` says; None where no batch was found. Errors: UnknownTopic."""
    if status == lib.STATUS_OFFSET_OUT_OF_RANGE:
        return None
    if status != lib.STATUS_OK:
        raise error_of(status, topic)
    return BatchAt(found.base_offset, found.size, found.max_timestamp, found.leader_epoch, found.flags)
