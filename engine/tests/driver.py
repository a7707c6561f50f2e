"""Few words for tests that fill groups of batches, and read back what the log holds."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any
from uuid import UUID

import numpy as np
import numpy.typing as npt

from totalog.engine import NOTHING_LENT, Log, Reservation, Topic, layout
from totalog.engine._core import ffi, lib
from totalog.engine.reads import LENT_FRONT

SIZE_SMALL = 250 * lib.BLOCK_SIZE
"""Bytes of a log that has all its memory from the start."""
RESERVE = 8
"""Blocks kept back so that topics can be deleted when memory is full (RESERVE_BLOCKS of log.h)."""
READ_ROOM = 4 << 20
"""Bytes that `read_all` copies at once."""

READ_BATCH = np.dtype([("base_offset", "<i8"), ("size", "<u4"), ("leader_epoch", "<u4"), ("lent", "<u8")])
"""`struct read_batch`."""

_FORMATS = {
    "uint64_t": "<u8",
    "int64_t": "<i8",
    "uint32_t": "<u4",
    "int32_t": "<i4",
    "uint16_t": "<u2",
    "int16_t": "<i2",
}


def topic_id(number: int) -> bytes:
    return UUID(int=number + 1).bytes


def payload(number: int, size: int = 72) -> bytes:
    """Bytes that no other number has."""
    return (number.to_bytes(8, "little") * (size // 8 + 1))[:size]


@dataclass(frozen=True, slots=True)
class Batch:
    """What a caller says of one batch."""

    topic: Topic
    partition: int
    payload: bytes
    records: int = 1
    max_timestamp: int = 0
    producer_id: int = -1
    producer_epoch: int = -1
    base_sequence: int = -1
    flags: int = 0
    reservation: Reservation | None = None
    """The payload lies in it already, at `position`."""
    position: int = 0


def in_reservation(batch: Batch, reservation: Reservation, position: int) -> Batch:
    return replace(batch, reservation=reservation, position=position)


def with_sequence(batch: Batch, producer_id: int, epoch: int, sequence: int, records: int | None = None) -> Batch:
    return replace(
        batch,
        producer_id=producer_id,
        producer_epoch=epoch,
        base_sequence=sequence,
        records=batch.records if records is None else records,
    )


@dataclass(frozen=True, slots=True)
class Answer:
    status: int
    base_offset: int
    total_order: int
    global_position: int
    log_start_offset: int
    leader_epoch: int


def append(log: Log, batches: Sequence[Batch]) -> list[Answer]:
    """Appends the batches as one group."""
    group = log.group(max(len(batches), 1))
    kept = [ffi.from_buffer(batch.payload) for batch in batches]
    for index, batch in enumerate(batches):
        fill(group[index], batch, int(ffi.cast("uintptr_t", kept[index])))
    log.append(group, len(batches))
    return [answer_of(group[index]) for index in range(len(batches))]


def append_one(log: Log, batch: Batch) -> Answer:
    return append(log, [batch])[0]


def replicate(log: Log, *replicated: int, releasable: int = 0, archived: int = 0) -> None:
    """Says in the replicas' place how far each of the data directories is, the furthest first; none: ephemeral."""
    numbers = ffi.new("uint64_t[]", lib.DIRECTORIES_MAX)
    for number, position in enumerate(replicated):
        numbers[number] = position
    lib.core_replicate(log._core, len(replicated), releasable, archived, numbers)


def fill(target: Any, batch: Batch, source: int) -> None:
    reservation = batch.reservation
    target.source = source if reservation is None else reservation.address + batch.position
    target.segment = 0 if reservation is None else reservation.segment
    target.size = len(batch.payload)
    target.topic_slot, target.topic_generation = batch.topic.slot, batch.topic.generation
    target.partition = batch.partition
    target.record_count, target.last_offset_delta = batch.records, batch.records - 1
    target.producer_id, target.producer_epoch = batch.producer_id, batch.producer_epoch
    target.base_sequence = batch.base_sequence
    target.max_timestamp, target.flags, target.status = batch.max_timestamp, batch.flags, lib.STATUS_OK


def answer_of(source: Any) -> Answer:
    return Answer(
        source.status,
        source.base_offset,
        source.total_order,
        source.global_position,
        source.log_start_offset,
        source.leader_epoch,
    )


def append_type() -> np.dtype[np.void]:
    """The dtype of `struct append`, for tests that need many batches."""
    described = [(name, field) for name, field in ffi.typeof("struct append").fields or [] if name != "padding1"]
    return np.dtype(
        {
            "names": [name for name, _ in described],
            "formats": [_FORMATS[field.type.cname] for _, field in described],
            "offsets": [field.offset for _, field in described],
            "itemsize": ffi.sizeof("struct append"),
        }
    )


class Bulk:
    """Appends many small batches, in groups of `room`, with fields set by array."""

    def __init__(self, log: Log, room: int = 1024, size: int = 8) -> None:
        self.log = log
        self.room = room
        self.group = log.group(room)
        self.appends: npt.NDArray[np.void] = np.frombuffer(ffi.buffer(self.group._appends), dtype=append_type())
        self.payloads = np.zeros((room, size), dtype=np.uint8)
        self.next = 0

    def append(self, topic: Topic, count: int, **fields: Any) -> npt.NDArray[np.void]:
        """`count` batches whose payload begins with a running number. `fields`: per batch, or one for all.

        Returns copies of the filled `struct append`s, after checking that each was stored.
        """
        parts = []
        for first in range(0, count, self.room):
            some = min(self.room, count - first)
            parts.append(self._append_group(topic, first, some, fields))
        return np.concatenate(parts)

    def _append_group(self, topic: Topic, first: int, count: int, fields: dict[str, Any]) -> npt.NDArray[np.void]:
        appends = self.appends[:count]
        self.payloads[:count, :8].view("<u8")[:, 0] = np.arange(self.next, self.next + count)
        self.next += count
        appends["source"] = self.payloads.ctypes.data + np.arange(count) * self.payloads.shape[1]
        appends["size"] = self.payloads.shape[1]
        appends["segment"] = 0
        appends["topic_slot"], appends["topic_generation"] = topic.slot, topic.generation
        defaults = {
            "partition": 0,
            "record_count": 1,
            "last_offset_delta": 0,
            "producer_id": -1,
            "producer_epoch": -1,
            "base_sequence": -1,
            "max_timestamp": 0,
            "flags": 0,
        }
        for name, value in (defaults | fields).items():
            appends[name] = value[first : first + count] if isinstance(value, np.ndarray) else value
        appends["status"] = lib.STATUS_OK
        self.log.append(self.group, count)
        return appends.copy()


@dataclass(frozen=True, slots=True)
class Found:
    """One batch as a read gave it back."""

    base_offset: int
    leader_epoch: int
    payload: bytes


class Reader:
    """Room for reads of one log."""

    def __init__(self, log: Log, room: int = READ_ROOM, batches: int = 4096) -> None:
        self.log = log
        self.room = room
        self.buffer = ffi.new("uint8_t[]", room)
        self.target = int(ffi.cast("uintptr_t", self.buffer))
        self.batches = log.read_batches(batches)

    def read(
        self,
        topic: Topic,
        partition: int,
        offset: int,
        size_max: int | None = None,
        *,
        whole_first: bool = True,
        room: int | None = None,
        lent_size_min: int = NOTHING_LENT,
    ) -> tuple[Any, list[Found]]:
        size_max = self.room if size_max is None else size_max
        assert size_max <= self.room
        result = self.log.read(
            topic,
            partition,
            offset,
            self.target,
            size_max,
            batches=self.batches,
            whole_first=whole_first,
            room=room,
            lent_size_min=lent_size_min,
        )
        found, at = [], 0
        for index in range(result.count):
            batch = self.batches[index]
            copied = LENT_FRONT if batch.lent else batch.size
            lent = ffi.buffer(ffi.cast("uint8_t *", batch.lent), batch.size - copied)
            payload = bytes(ffi.buffer(self.buffer + at, copied)) + bytes(lent)
            found.append(Found(batch.base_offset, batch.leader_epoch, payload))
            at += copied
        assert at == result.copied
        assert sum(len(batch.payload) for batch in found) == result.size
        assert result.copied == result.size or lent_size_min < NOTHING_LENT
        self.log.give_back(result.pins)
        return result, found

    def read_all(self, topic: Topic, partition: int) -> list[Found]:
        """Everything in memory, from the log start or the memory start to the end of what is visible."""
        everything: list[Found] = []
        offset = self.log._bounds(topic, partition).memory_start_offset
        while True:
            result, found = self.read(topic, partition, offset)
            assert result.status == lib.STATUS_OK
            assert result.size_needed == 0, "the read room is too small"
            if everything and found and found[0].base_offset == everything[-1].base_offset:
                found = found[1:]  # the offset lies inside the last batch, which comes once more
            if not found:
                return everything
            everything += found
            offset = max(found[-1].base_offset, offset) + 1


def blocks_used(log: Log) -> int:
    memory = log.memory()
    return memory.blocks_total - memory.blocks_free


def settle(log: Log, now_ms: int = 0) -> None:
    """Upkeep until nothing is left to do."""
    while log.maintain(now_ms):
        pass


def join(log: Log, broker: int) -> Any:
    """One more handle on the region, as that broker."""
    error = ffi.new("int32_t *")
    core = lib.log_join(log.region.descriptor, log.region.size, layout.layout_id(), broker, error)
    assert core != ffi.NULL, error[0]
    return core


def peek(log: Log, position: int, size: int) -> bytes:
    """Region bytes as they stand."""
    target = ffi.new("uint8_t[]", size)
    assert lib.core_peek(log._core, position, target, size) == lib.STATUS_OK
    return bytes(ffi.buffer(target))


def peek_struct(log: Log, position: int, struct: str) -> Any:
    """A shared struct as it stands in the region."""
    value = ffi.new(f"struct {struct} *")
    assert lib.core_peek(log._core, position, ffi.cast("uint8_t *", value), ffi.sizeof(value[0])) == lib.STATUS_OK
    return value


def claimed_blocks(log: Log) -> list[tuple[int, int, int, int]]:
    """What the block table says of each claimed run's first block: (block, kind, blocks, topic slot)."""
    header, bitmap = peek_struct(log, 0, "region_header"), claimed_bits(log)
    runs, block = [], 0
    while block < header.block_count:
        if not bitmap >> block & 1:
            block += 1
            continue
        entry = peek_struct(log, header.block_table_position + block * ffi.sizeof("struct block_entry"), "block_entry")
        runs.append((block, entry.kind, entry.block_count, entry.topic_slot))
        block += max(entry.block_count, 1)
    return runs


def claimed_bits(log: Log) -> int:
    """A bit for each block, as the segment bitmap stands in the region."""
    header = peek_struct(log, 0, "region_header")
    ranges, blocks, position = header.range_count, header.block_count, header.bitmap_position
    if ranges == 0:
        return int.from_bytes(peek(log, position, (blocks + 7) // 8), "little")
    rest = blocks - (ranges - 1) * header.range_blocks
    stride = -(-rest // (8 * lib.LINE_SIZE)) * lib.LINE_SIZE
    found = 0
    for number in range(ranges):
        taken, returned = (
            int.from_bytes(peek(log, position + (2 * number + which) * stride, stride), "little") for which in (0, 1)
        )
        found |= (taken ^ returned) << number * header.range_blocks
    return found


def index_leaves(log: Log, root: int, first: int = 0) -> dict[int, int]:
    """The leaves of an index, number and page, from its root as it stands in a topic's or partition's line."""
    depth, page = root >> 32, root & 0xFFFFFFFF
    if page == 0 or depth == 0:
        return {first: page} if page else {}
    leaves: dict[int, int] = {}
    span = lib.REFERENCES_PER_PAGE ** (depth - 1)
    for number, reference in enumerate(references(log, page)):
        if reference:
            leaves |= index_leaves(log, (depth - 1) << 32 | int(reference), first + number * span)
    return leaves


def index_pages(log: Log, root: int) -> set[int]:
    """Leaves and inner pages."""
    depth, page = root >> 32, root & 0xFFFFFFFF
    if page == 0 or depth == 0:
        return {page} - {0}
    below = (index_pages(log, (depth - 1) << 32 | int(reference)) for reference in references(log, page) if reference)
    return {page}.union(*below)


def references(log: Log, page: int) -> npt.NDArray[Any]:
    return np.frombuffer(peek(log, page * lib.INDEX_PAGE_SIZE, lib.INDEX_PAGE_SIZE), dtype="<u4")


def topic_line(log: Log, topic: Topic) -> Any:
    size = ffi.sizeof("struct topic_entry") + lib.BROKERS_MAX * ffi.sizeof("struct topic_counter")
    return peek_struct(log, lib.TOPIC_TABLE_POSITION + topic.slot * size, "topic_entry")


def partition_lines(log: Log, topic: Topic) -> list[Any]:
    """The entries of the topic's partitions, in order."""
    entry, size = topic_line(log, topic), ffi.sizeof("struct partition_entry")
    rows = [extent.first + number for extent in entry.extents[0 : entry.extent_count] for number in range(extent.count)]
    return [peek_struct(log, lib.PARTITION_TABLE_POSITION + row * size, "partition_entry") for row in rows]


def idle_pages(log: Log, topic: Topic) -> list[str]:
    """Leaves of which everything was released, and which stand nevertheless; none has to, but for the one in use."""
    line, found = topic_line(log, topic), []
    width = lib.ENTRIES_PER_PAGE
    state, size = ffi.offsetof("struct order_entry", "state"), ffi.sizeof("struct order_entry")
    for leaf, page in index_leaves(log, line.index_root).items():
        content = peek(log, page * lib.INDEX_PAGE_SIZE, lib.INDEX_PAGE_SIZE)
        live = any(content[at * size + state] != lib.ENTRY_RELEASED for at in range(width))
        if leaf < line.entry_count // width and not live:
            found.append(f"order leaf {leaf}")
    for partition, row in enumerate(partition_lines(log, topic)):
        first = row.element_first // lib.ELEMENTS_PER_PAGE
        found += [f"leaf {leaf} of partition {partition}" for leaf in index_leaves(log, row.index_root) if leaf < first]
    return found


def left_when_empty(log: Log) -> list[tuple[int, int, int, int]]:
    """Deletes every topic, and returns what is claimed nevertheless, as `claimed_blocks` tells it: nothing has to be.

    What stays by design is left out: block 0, the reserve for deletions, the segment in which operations are recorded
    and the index pages of these records.
    """
    for topic in log.topics():
        log.delete_topic(topic)
    log.delete_topic(log.create_topic("last", id=topic_id(0), partitions=1))
    settle(log)
    header = peek_struct(log, 0, "region_header")
    roots = [
        peek_struct(log, lib.TOPIC_TABLE_POSITION, "topic_entry").index_root,
        peek_struct(log, lib.PARTITION_TABLE_POSITION, "partition_entry").index_root,
    ]
    pages = [page for root in roots for page in index_pages(log, root)]
    of_records = {(page * lib.INDEX_PAGE_SIZE - header.blocks_position) // lib.BLOCK_SIZE for page in pages}
    claimed = [run for run in claimed_blocks(log) if run[0] not in of_records | {0}]
    records = [run for run in claimed if (run[1], run[3]) == (lib.BLOCK_SEGMENT, 0)][:1]
    reserve = [run for run in claimed if run[1] == lib.BLOCK_INDEX][:RESERVE]
    assert len(reserve) == RESERVE
    return [run for run in claimed if run not in reserve + records]


class Numbers:
    """Reads of batches as `Bulk` writes them (8 bytes, a running number), without a Python object for each."""

    def __init__(self, log: Log, batches: int = 65_536) -> None:
        self.log = log
        self.buffer = np.zeros(batches, dtype="<u8")
        self.batches = log.read_batches(batches)
        self.described = np.frombuffer(ffi.buffer(self.batches._batches), dtype=READ_BATCH)

    def read(self, topic: Topic, partition: int, offset: int = 0) -> tuple[npt.NDArray[Any], npt.NDArray[Any]]:
        """(base offsets, numbers) from `offset` to the end, of batches of one record."""
        offsets, numbers = [], []
        while True:
            target = self.buffer.ctypes.data
            result = self.log.read(topic, partition, offset, target, self.buffer.nbytes, batches=self.batches)
            assert result.status == lib.STATUS_OK
            if result.count == 0:
                break
            assert result.size == 8 * result.count
            offsets.append(self.described["base_offset"][: result.count].copy())
            numbers.append(self.buffer[: result.count].copy())
            offset = int(offsets[-1][-1]) + 1
        empty = np.zeros(0, dtype="<i8")
        return (np.concatenate(offsets), np.concatenate(numbers)) if offsets else (empty, empty.astype("<u8"))
