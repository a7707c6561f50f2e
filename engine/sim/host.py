"""One simulated host: a handle of the core on the simulated memory, and what it says the log holds."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from totalog.engine.sim import build

VIEW = 0xFFFFFFFF
"""As a partition: the topic in total order."""
LAYOUT_ID = 1
READ_ROOM = 1 << 20
NOTHING_LENT = (1 << 64) - 1
BATCHES_MAX = 4096
BLOCKS_MAX = 1 << 20
OPERATIONS = {"create": 1, "alter": 2, "delete": 3, "trim": 4}


class Violation(Exception):
    """The log broke a promise."""


class Batch(NamedTuple):
    partition: int
    payload: bytes
    records: int = 1
    timestamp: int = 0
    producer_id: int = -1
    base_sequence: int = -1


class Answer(NamedTuple):
    status: int
    base_offset: int
    total_order: int
    global_position: int


class Part(NamedTuple):
    """A partition, or the view."""

    start: int
    """Of what is in memory: the log start, or the memory start where the archive alone keeps more."""
    next: int
    batches: tuple[tuple[int, bytes], ...]
    """(base offset or total order, payload) from the log start to the end."""
    size: int = 0
    """Of payload, as the log counts it."""
    latest: tuple[int, int] | None = None
    """(base, timestamp) of the batch with the largest timestamp."""
    last: tuple[int, int, bytes] = (-1, -1, b"")
    """What a read near the end finds first: (offset that was asked for, base, payload); base -1: nothing."""
    log_start: int = 0
    end: int = 0
    """Of what is ordered, seen or not."""


class Topic(NamedTuple):
    slot: int
    generation: int
    name: bytes
    id: bytes
    partition_count: int
    order_level: int
    retention_bytes: int
    retention_ms: int
    settings: bytes
    parts: tuple[Part, ...]
    """The partitions, then the view."""


Contents = tuple[Topic, ...]


class Host:
    """A handle, by its number in the simulation."""

    def __init__(self, core: Any) -> None:
        module = build.core()
        self.lib, self.ffi = module.lib, module.ffi
        self.core = core
        self.number = int(self.lib.sim_host_of(core))
        self.room = self.ffi.new("uint8_t[]", READ_ROOM)
        self.target = int(self.ffi.cast("uintptr_t", self.room))
        self.batches = self.ffi.new("struct read_batch[]", BATCHES_MAX)
        self.batches_at = int(self.ffi.cast("uintptr_t", self.batches))
        self.result = self.ffi.new("struct read_result *")
        self.info = self.ffi.new("struct topic_info *")

    def leave(self) -> None:
        """The process ends its part. What its cache still holds alone can be looked at until `end`."""
        self.lib.log_close(self.core)
        self.core = self.ffi.NULL

    def end(self) -> None:
        """The process is gone, with all that its cache held alone."""
        if self.core is not None:
            self.lib.sim_host_end(self.number, self.core)
            self.core = None

    def peek(self, position: int, size: int) -> bytes:
        """Of the region, as this host's cache has it."""
        target = self.ffi.new("uint8_t[]", size)
        self.lib.core_peek(self.core, position, target, size)
        return bytes(self.ffi.buffer(target))

    # -- writing

    def operate(self, operation: str, topic: Topic, *, partition: int = 0, offset: int = 0, flags: int = 0) -> int:
        """The status. What is not a field of the request does not matter to the operation."""
        request = self.ffi.new("struct topic_request *")
        request.operation = OPERATIONS[operation]
        request.topic_slot, request.topic_generation = topic.slot, topic.generation
        request.partition_count, request.order_level = topic.partition_count, topic.order_level
        request.flags = flags
        request.retention_bytes, request.retention_ms = topic.retention_bytes, topic.retention_ms
        request.trim_partition, request.trim_offset = partition, offset
        request.name_size, request.settings_size = len(topic.name), len(topic.settings)
        self.ffi.memmove(request.id, topic.id, len(topic.id))
        self.ffi.memmove(request.name, topic.name, len(topic.name))
        return int(self.lib.log_topic_operation(self.core, request, topic.settings))

    def group(self, topic: Topic, batches: Sequence[Batch]) -> Any:
        """What the core takes. The sources live as long as it does."""
        group = self.ffi.new("struct append[]", len(batches))
        for append, batch in zip(group, batches, strict=True):
            source = self.ffi.from_buffer(batch.payload)
            append.source, append.size = int(self.ffi.cast("uintptr_t", source)), len(batch.payload)
            fill(append, topic, batch)
        return group

    def append(self, topic: Topic, batches: Sequence[Batch]) -> list[Answer]:
        """One group."""
        group = self.group(topic, batches)
        self.lib.log_append(self.core, group, len(batches))
        return answers(group)

    def append_later(self, topic: Topic, batches: Sequence[Batch]) -> Callable[[], list[Answer]]:
        """Publishes one group. Its answers come when they are asked for, once they are there."""
        group = self.group(topic, batches)
        self.lib.log_publish(self.core, group, len(batches))

        def collect() -> list[Answer]:
            left = self.lib.log_collect(self.core, group, len(batches))
            if left:
                raise Violation(f"{left} headers that were ordered have no answer")
            return answers(group)

        return collect

    def append_reserved(self, topic: Topic, batches: Sequence[Batch], size: int) -> list[Answer]:
        """The payloads are received into a reservation of `size` bytes; what is left of it goes back."""
        address = self.ffi.new("uint64_t *")
        segment = self.lib.log_reserve(self.core, size, address)
        assert segment != 0
        group = self.ffi.new("struct append[]", max(len(batches), 1))
        at = address[0]
        for append, batch in zip(group, batches, strict=False):
            self.ffi.memmove(self.ffi.cast("uint8_t *", at), batch.payload, len(batch.payload))
            append.source, append.size, append.segment = at, len(batch.payload), segment
            fill(append, topic, batch)
            at += len(batch.payload)
        self.lib.log_append(self.core, group, len(batches))
        self.lib.log_reserve_done(self.core, segment, bool(batches))
        return answers(group[0 : len(batches)])

    def replicate(self, durable: int, *, releasable: int, archived: int = 0) -> None:
        """Says in the replicas' place how far the one data directory is."""
        numbers = self.ffi.new("uint64_t[]", self.lib.DIRECTORIES_MAX)
        numbers[0] = durable
        self.lib.core_replicate(self.core, 1, releasable, archived, numbers)

    def evict(self) -> None:
        self.lib.log_evict(self.core, BLOCKS_MAX)

    def maintain(self, now_ms: int) -> None:
        while self.lib.log_maintain(self.core, now_ms):
            pass

    # -- reading

    def version(self) -> int:
        """Of the table of topics."""
        return int(self.lib.log_topics_version(self.core))

    def frontiers(self) -> tuple[int, int, int]:
        """(headers published by this broker, global positions ordered, replicated)."""
        found = self.ffi.new("struct frontiers *")
        self.lib.log_frontiers(self.core, found)
        return found.written, found.ordered, found.replicated

    def durable(self) -> int:
        """Global positions that one data directory holds at least; where there is none, all that are ordered."""
        return int(self.lib.log_replicated(self.core, 1))

    def contents(self) -> Contents:
        """Every topic, from its log starts to its ends."""
        topics, slot = [], 1
        while self.lib.log_topic(self.core, slot, self.info) == 0 or self.info.generation:
            if self.info.state == self.lib.TOPIC_LIVE:
                topics.append(self.topic())
            slot += 1
        return tuple(topics)

    def topic(self) -> Topic:
        info, ffi = self.info, self.ffi
        slot, generation, partitions = info.slot, info.generation, info.partition_count
        settings = ffi.new("uint8_t[]", info.settings_size)
        status = self.lib.log_topic_settings(self.core, slot, generation, settings, info.settings_size)
        if status != 0:
            raise Violation(f"the settings of topic {slot}/{generation} cannot be read: status {status}")
        if partitions > 64:
            raise Violation(f"topic {slot}/{generation} shows {partitions} partitions")
        return Topic(
            slot,
            generation,
            bytes(ffi.buffer(info.name, info.name_size)),
            bytes(ffi.buffer(info.id)),
            partitions,
            info.order_level,
            info.retention_bytes,
            info.retention_ms,
            bytes(ffi.buffer(settings)),
            tuple(self.part(slot, generation, number) for number in (*range(partitions), VIEW)),
        )

    def again(self, known: Topic) -> Topic | None:
        """A topic that is known already, its batches asked for at once, as a consumer does. None: there is no such."""
        parts = []
        for number, part in zip((*range(known.partition_count), VIEW), known.parts, strict=True):
            last = self.batch_at(known.slot, known.generation, number, part.next - 1)
            if self.result.status == self.lib.STATUS_UNKNOWN_TOPIC:
                return None
            parts.append(self.part(known.slot, known.generation, number, last))
        return known._replace(parts=tuple(parts))

    def settings_of(self, known: Topic) -> bytes | None:
        """Of a topic whose size of settings is known already. None: there is no such topic, or it is another size."""
        settings = self.ffi.new("uint8_t[]", len(known.settings))
        status = self.lib.log_topic_settings(self.core, known.slot, known.generation, settings, len(known.settings))
        return bytes(self.ffi.buffer(settings)) if status == self.lib.STATUS_OK else None

    def batch_at(self, slot: int, generation: int, partition: int, offset: int) -> tuple[int, int, bytes]:
        """As `Part.last`."""
        self.read(slot, generation, partition, offset)
        found = self.found()
        return (offset, *found[0]) if found else (offset, -1, b"")

    def part(self, slot: int, generation: int, partition: int, last: tuple[int, int, bytes] | None = None) -> Part:
        bounds = self.ffi.new("struct bounds *")
        status = self.lib.log_bounds(self.core, slot, generation, partition, bounds)
        if status != 0:
            raise Violation(f"topic {slot}/{generation} has no partition {partition}: status {status}")
        start, end, kept = bounds.memory_start_offset, bounds.next_offset, bounds.bytes
        last = last or self.batch_at(slot, generation, partition, end - 1)
        self.read(slot, generation, partition, start)
        result = self.result
        if result.status != 0 or result.next_offset != end:
            raise Violation(f"a read of topic {slot}/{generation} partition {partition} at {start}: {result.status}")
        found = self.found()
        batch = self.ffi.new("struct batch_at *")
        status = self.lib.log_find_max_timestamp(self.core, slot, generation, partition, batch)
        latest = (batch.base_offset, batch.max_timestamp) if status == 0 else None
        return Part(start, end, found, kept, latest, last, bounds.log_start_offset, bounds.end_offset)

    def read(self, slot: int, generation: int, partition: int, offset: int, lent_size_min: int = NOTHING_LENT) -> None:
        """What it lends is to be given back (`give_back`), and can be looked at (`found`) until then."""
        self.lib.log_read(
            self.core,
            slot,
            generation,
            partition,
            offset,
            self.target,
            READ_ROOM,
            READ_ROOM,
            True,
            lent_size_min,
            self.batches_at,
            BATCHES_MAX,
            self.result,
        )

    def found(self) -> tuple[tuple[int, bytes], ...]:
        """(base, payload) of each batch that the last read found."""
        found, at = [], 0
        content = bytes(self.ffi.buffer(self.room, self.result.copied))
        for index in range(self.result.count):
            batch = self.batches[index]
            copied = self.lib.LENT_FRONT if batch.lent else batch.size
            lent = self.ffi.buffer(self.ffi.cast("uint8_t *", batch.lent), batch.size - copied) if batch.lent else b""
            found.append((batch.base_offset, content[at : at + copied] + bytes(lent)))
            at += copied
        return tuple(found)

    def give_back(self) -> None:
        """What the last read lent."""
        self.lib.log_return(self.core, self.result.pins)

    def bounds(self, topic: Topic, partition: int) -> Any:
        bounds = self.ffi.new("struct bounds *")
        if self.lib.log_bounds(self.core, topic.slot, topic.generation, partition, bounds) != 0:
            raise Violation(f"topic {topic.slot} has no partition {partition}")
        return bounds

    def leader_epoch(self, topic: Topic, partition: int) -> int:
        return int(self.bounds(topic, partition).leader_epoch)

    def segment_of(self, topic: Topic, number: int) -> int:
        """Where the batch lies that is this many batches after the topic's first."""
        entry = self.ffi.new("struct order_entry *")
        target = self.ffi.cast("uint8_t *", entry)
        assert self.lib.log_entries(self.core, topic.slot, topic.generation, number, 1, target) == 1
        return int(entry.segment)

    def first_entry(self, topic: Topic) -> int:
        """Entries of the topic below it are released."""
        first, end = self.ffi.new("uint64_t *"), self.ffi.new("uint64_t *")
        self.lib.log_entry_range(self.core, topic.slot, topic.generation, first, end)
        return int(first[0])

    def blocks_used(self) -> int:
        total, used, committed = (self.ffi.new("uint64_t *") for _ in range(3))
        self.lib.log_blocks(self.core, total, used, committed)
        return int(used[0])


def answers(group: Any) -> list[Answer]:
    return [Answer(each.status, each.base_offset, each.total_order, each.global_position) for each in group]


def fill(append: Any, topic: Topic, batch: Batch) -> None:
    append.topic_slot, append.topic_generation, append.partition = topic.slot, topic.generation, batch.partition
    append.record_count, append.last_offset_delta = batch.records, batch.records - 1
    append.producer_id, append.base_sequence = batch.producer_id, batch.base_sequence
    append.producer_epoch = 0 if batch.producer_id >= 0 else -1
    append.max_timestamp = batch.timestamp
