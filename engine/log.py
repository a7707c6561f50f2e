"""The log: the typed face of the C core.

One call is one bounded piece of work on shared memory, and never one per record. A `Log` is used by one thread at a
time.
"""

import os
import sys
import weakref
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, Self

from totalog.engine import layout
from totalog.engine._core import ffi, lib
from totalog.engine.appends import AppendGroup, Reservation
from totalog.engine.errors import EngineError, LimitReached, OffsetOutOfRange, OutOfMemory
from totalog.engine.reads import NOTHING_LENT, BatchAt, Read, ReadBatches, batch_at, read_of
from totalog.engine.region import Region, explain
from totalog.engine.topic import Topic, described_by, error_of, flags_of

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

VIEW = -1
"""As a partition: the topic in total order."""
_CORE_VIEW: int = lib.PARTITION_VIEW
_RUN_SIZE_MAX: int = lib.RUN_BLOCKS_MAX * lib.BLOCK_SIZE


class Bounds(NamedTuple):
    log_start_offset: int
    next_offset: int
    """End of what is visible: of a topic on disk, what is durable on as many data directories as it asks for."""
    leader_epoch: int
    end_offset: int
    """End of what is ordered."""


class Replica(NamedTuple):
    """One data directory, and how far its journal is."""

    path: Path
    replicated: int
    """Global position below which everything is durable there."""
    failure: str | None


class Frontiers(NamedTuple):
    """How far the stages are: headers published by this broker, global positions ordered, and replicated to disk."""

    written: int
    ordered: int
    replicated: int


class Memory(NamedTuple):
    blocks_total: int
    blocks_free: int
    block_size: int
    """Bytes."""


class Log:
    """A region, opened: topics, appends in one total order, and reads by partition or by total order."""

    topics_max: int = lib.TOPICS_MAX - 1
    partitions_max: int = lib.PARTITIONS_MAX - 1
    """That a region has, the partitions of all topics together."""

    def __init__(self, region: Region) -> None:
        """Takes over an open region; see `create` and `attach`."""
        self.region = region
        self._core: Any = self._open()
        self._reservations: weakref.WeakValueDictionary[int, Reservation] = weakref.WeakValueDictionary()
        self._reserved = 0
        """How many are open."""
        self._result = ffi.new("struct read_result *")
        self._topics: dict[str, Topic] = {}
        self._topics_version = -1

    def _open(self) -> Any:
        """Takes the parts of a broker and of the sequencer."""
        core = self._join()
        with self.region.dead_brokers() as dead:
            error = lib.log_take_over(core, dead)
        if error != lib.OPEN_OK:
            lib.log_close(core)
            self.region.close()
            raise explain(error, self.region.path)
        return core

    def _join(self) -> Any:
        """Takes the part of a broker."""
        region, error = self.region, ffi.new("int32_t *")
        core = lib.log_join(region.descriptor, region.size, layout.layout_id(), region.broker, error)
        if core == ffi.NULL:
            region.close()
            raise explain(error[0], region.path)
        return core

    @classmethod
    def create(
        cls, path: str | os.PathLike[str] | None = None, *, size: int, coherent: bool = True, ranges: int = 0
    ) -> "Log":
        """A new region with `size` bytes for batches and indexes: a sealed memfd, or a file that must not exist.

        The file gets mode 0600. The tables of the region come on top and take memory as they are used.

        `ranges`: 0 where all brokers are processes of one coherent host, which share the memory. Where they run on
        several hosts, without atomics across them: how many brokers there will be at most. Each allocates from an
        equal part of the memory, of 2 MiB or more, all of which is committed at once.

        Errors: RegionError, OutOfMemory.
        """
        region = Region.create(None if path is None else Path(path), size, coherent, ranges=ranges)
        try:
            return cls(region)
        except BaseException:
            if region.path is not None:
                region.path.unlink()
            raise

    @classmethod
    def attach(cls, path: str | os.PathLike[str]) -> "Log":
        """Goes on with what an existing region holds, whatever ended the process before.

        Errors: RegionError, OutOfMemory.
        """
        return cls(Region.attach(Path(path)))

    def close(self) -> None:
        """Idempotent. Buffers of open reservations must not be used any more; any other call raises TypeError."""
        if self._core is None:
            return
        self._close_reservations()
        core, self._core = self._core, None
        lib.log_close(core)
        self.region.close()

    def _close_reservations(self) -> None:
        for reservation in list(self._reservations.values()):
            reservation.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    # -- topics

    @property
    def topics_version(self) -> int:
        """Grows when any topic was created, altered or deleted."""
        version: int = lib.log_topics_version(self._core)
        return version

    def topics(self) -> list[Topic]:
        return list(self._current_topics().values())

    def find_topic(self, name: str) -> Topic | None:
        return self._current_topics().get(name)

    def create_topic(
        self,
        name: str,
        *,
        id: bytes,
        partitions: int,
        order_level: int = 5,
        retention_bytes: int = -1,
        retention_ms: int = -1,
        internal: bool = False,
        settings: bytes = b"",
        memory: bool = False,
        visible_when_ordered: bool = False,
        replication: int = 1,
    ) -> Topic:
        """Ordered like a batch; visible everywhere when this returns.

        Errors: TopicExists, LimitReached, OutOfMemory.
        """
        assert len(id) == lib.TOPIC_ID_SIZE
        topic = Topic(
            slot=0,
            generation=0,
            name=name,
            id=id,
            partitions=partitions,
            order_level=order_level,
            retention_bytes=retention_bytes,
            retention_ms=retention_ms,
            internal=internal,
            settings=settings,
            memory=memory,
            visible_when_ordered=visible_when_ordered,
            replication=replication,
        )
        return self._operate(lib.OPERATION_CREATE, topic)

    def alter_topic(
        self,
        topic: Topic,
        *,
        partitions: int | None = None,
        retention_bytes: int | None = None,
        retention_ms: int | None = None,
        settings: bytes | None = None,
        visible_when_ordered: bool | None = None,
        replication: int | None = None,
    ) -> Topic:
        """What is not given stays; `partitions` is the new total.

        Errors: UnknownTopic, LimitReached, OutOfMemory; EngineError for fewer partitions.
        """
        changes = {
            "partitions": partitions,
            "retention_bytes": retention_bytes,
            "retention_ms": retention_ms,
            "settings": settings,
            "visible_when_ordered": visible_when_ordered,
            "replication": replication,
        }
        wanted: Topic = topic._replace(**{name: value for name, value in changes.items() if value is not None})  # type: ignore[arg-type]
        return self._operate(lib.OPERATION_ALTER, wanted)

    def delete_topic(self, topic: Topic) -> None:
        """Batches in flight get STATUS_UNKNOWN_TOPIC from here on; the memory comes back by and by.

        Errors: UnknownTopic.
        """
        self._operate(lib.OPERATION_DELETE, topic._replace(settings=b""))

    def trim(self, topic: Topic, partition: int, offset: int, *, rows: Sequence[tuple[int, int, int]] = ()) -> None:
        """Moves the log start up to `offset` (VIEW: a total order).

        Where that lies below the memory start, `rows` brings what the archive knows: (partition, its new log start,
        bytes of all its batches below that) of each partition that it moves.

        Errors: UnknownTopic, OffsetOutOfRange, LimitReached.
        """
        if offset < 0:
            raise OffsetOutOfRange(f"offset {offset} of topic {topic.name!r} is negative")
        known = ffi.new("struct trim_row[]", [(start, size, part, 0) for part, start, size in rows])
        asked = topic._replace(settings=bytes(ffi.buffer(known)))
        self._operate(lib.OPERATION_TRIM, asked, partition=partition, offset=offset)

    def _current_topics(self) -> dict[str, Topic]:
        version = self.topics_version
        if version != self._topics_version:
            self._topics = {topic.name: topic for topic in self._load_topics()}
            self._topics_version = version
        return self._topics

    def _load_topics(self) -> Iterator[Topic]:
        info = ffi.new("struct topic_info *")
        known = {(topic.slot, topic.generation): topic for topic in self._topics.values()}
        slot = 1
        while lib.log_topic(self._core, slot, info) == lib.STATUS_OK or info.generation:
            if info.state == lib.TOPIC_LIVE:
                yield self._topic_of(info, known.get((slot, info.generation)))
            slot += 1

    def _topic_of(self, info: Any, known: Topic | None) -> Topic:
        settings = ffi.new("uint8_t[]", info.settings_size)
        status = lib.log_topic_settings(self._core, info.slot, info.generation, settings, info.settings_size)
        if status != lib.STATUS_OK:
            raise EngineError(f"the settings of the topic in slot {info.slot} cannot be read (status {status})")
        topic = Topic(
            slot=info.slot,
            generation=info.generation,
            name=bytes(ffi.buffer(info.name, info.name_size)).decode(),
            id=bytes(ffi.buffer(info.id)),
            partitions=info.partition_count,
            order_level=info.order_level,
            retention_bytes=info.retention_bytes,
            retention_ms=info.retention_ms,
            settings=bytes(ffi.buffer(settings)),
            **described_by(info.flags),
        )
        return known if topic == known and known is not None else topic

    def _operate(self, operation: int, topic: Topic, partition: int = 0, offset: int = 0) -> Topic:
        name = topic.name.encode()
        request = ffi.new("struct topic_request *")
        request.operation = operation
        request.topic_slot, request.topic_generation = topic.slot, topic.generation
        request.partition_count, request.order_level = topic.partitions, topic.order_level
        request.flags = flags_of(topic)
        request.retention_bytes, request.retention_ms = topic.retention_bytes, topic.retention_ms
        request.trim_partition, request.trim_offset = partition & _CORE_VIEW, offset
        request.name_size, request.settings_size = len(name), len(topic.settings)
        ffi.memmove(request.id, topic.id, min(len(topic.id), lib.TOPIC_ID_SIZE))
        ffi.memmove(request.name, name, min(len(name), lib.TOPIC_NAME_SIZE))
        status = self._topic_operation(request, topic.settings)
        if status != lib.STATUS_OK:
            raise error_of(status, topic, request.limit)
        answered = topic._replace(slot=request.topic_slot, generation=request.topic_generation)
        if operation != lib.OPERATION_TRIM and self.topics_version == self._topics_version + 1:
            self._take_over(answered)
        return answered

    def _take_over(self, changed: Topic) -> None:
        """Nothing but the operation that was just made here came in: only its topic is read again."""
        info = ffi.new("struct topic_info *")
        lib.log_topic(self._core, changed.slot, info)
        if info.state == lib.TOPIC_LIVE:
            self._topics[changed.name] = self._topic_of(info, None)  # a topic that was altered keeps its place
        else:
            self._topics.pop(changed.name, None)
        self._topics_version += 1

    # -- writing

    def group(self, capacity: int) -> AppendGroup:
        return AppendGroup(capacity)

    def append(self, group: AppendGroup, count: int) -> None:
        """Orders the first `count` batches of the group and fills the answers; one batch's fault is its own status."""
        assert 0 <= count <= group.capacity
        lib.log_append(self._core, group._appends, count)
        if self._reserved:
            self.note_published(group, count)

    @property
    def append_call(self) -> tuple[int, int]:
        """`append` for a caller in C: addresses of `void (*)(void *log, struct append *, uint32_t count)` and of its
        log, good until the log is closed. Where batches lie in reservations, `note_published` has to follow."""
        call = ffi.cast("uintptr_t", ffi.addressof(lib, "log_append"))
        return int(call), int(ffi.cast("uintptr_t", self._core))

    # What waits for the sequencer, as `append` does, where that is another process: see `shared.py`.

    def _topic_operation(self, request: Any, settings: bytes) -> int:
        return int(lib.log_topic_operation(self._core, request, settings))

    def _reserve_done(self, segment: int, published: bool) -> None:
        lib.log_reserve_done(self._core, segment, published)

    def note_published(self, group: AppendGroup, count: int) -> None:
        """What of the group was ordered keeps the reservations that it lies in."""
        for index in range(count):
            append = group._appends[index]
            if append.segment and append.status == lib.STATUS_OK:
                self._reservations[append.segment].published = True

    def reserve(self, size: int) -> Reservation:
        """Blocks for a body of `size` bytes (at least one) that is received straight into the region.

        Errors: LimitReached, OutOfMemory.
        """
        assert size > 0
        if size > _RUN_SIZE_MAX:
            raise LimitReached("bytes in one reservation", _RUN_SIZE_MAX)
        address = ffi.new("uint64_t *")
        segment = lib.log_reserve(self._core, size, address)
        if segment == 0:
            raise OutOfMemory(f"no run of blocks for {size} bytes is free")
        reservation = Reservation(self, segment, address[0], size)
        self._reservations[segment] = reservation
        self._reserved += 1
        return reservation

    # -- durability: what is true of a log without data directories; `DurableLog` knows more

    durable = False
    """Whether there are data directories."""
    directories = 0
    """How many."""

    @property
    def replica_descriptor(self) -> int | None:
        """Readable when a replicated frontier, or a replica's health, has changed; emptied by `os.eventfd_read`."""
        return None

    def replicas(self) -> tuple[Replica, ...]:
        return ()

    def replicated(self, replication: int = 1) -> int:
        """Global position below which all is durable on so many data directories, or on all that there are; what is
        ordered where there are none."""
        assert replication >= 1
        return int(lib.log_replicated(self._core, replication))

    def acknowledged(self, global_position: int, ack_level: int, replication: int = 1) -> bool:
        """Whether the batch has reached the level: 0 always, 1 ordered, 2 replicated (the same without replicas)."""
        assert ack_level in (0, 1, 2)
        match ack_level:
            case 0:
                return True
            case 1:
                return global_position < self.frontiers().ordered
            case _:
                return global_position < self.replicated(replication)

    def archived(self, topic: Topic, partition: int) -> bool:
        """Whether some of it left memory, and is found in the archive alone. Errors: UnknownTopic."""
        bounds = self._bounds(topic, partition)
        return bool(bounds.log_start_offset < bounds.memory_start_offset)

    # What has left memory, read by a `DurableLog` from its files. These wait for a disk; any thread may call them.

    def archive_read(
        self,
        topic: Topic,
        partition: int,
        offset: int,
        target: int,
        size_max: int,
        *,
        batches: ReadBatches,
        whole_first: bool = True,
    ) -> Read:
        """As `read`, where that says STATUS_ON_DISK. Errors: EngineError when no directory can be read."""
        raise EngineError("nothing has left memory: there are no data directories")

    def archive_find_timestamp(self, topic: Topic, partition: int, timestamp_ms: int) -> BatchAt | None:
        """As `find_timestamp`, in the archive alone. Errors: as `archive_read`."""
        raise EngineError("nothing has left memory: there are no data directories")

    def archive_find_max_timestamp(self, topic: Topic, partition: int) -> BatchAt | None:
        """As `find_max_timestamp`, in the archive alone. Errors: as `archive_read`."""
        raise EngineError("nothing has left memory: there are no data directories")

    # -- reading

    def read_batches(self, capacity: int) -> ReadBatches:
        return ReadBatches(capacity)

    def read(
        self,
        topic: Topic,
        partition: int,
        offset: int,
        target: int,
        size_max: int,
        *,
        batches: ReadBatches,
        whole_first: bool = True,
        room: int | None = None,
        lent_size_min: int = NOTHING_LENT,
    ) -> Read:
        """Whole batches, from the one that holds `offset`, `size_max` bytes at most; with `whole_first` that one may be
        larger. They are copied to the address `target`, where there are `room` bytes (`size_max` if it is not given).
        Where that is not enough for the first one, `size_needed` says how much is.

        Batches of `lent_size_min` bytes or more are lent: only their first LENT_FRONT bytes are copied, the others
        stay where they are until `give_back` (`lent` in `struct read_batch`). They hold up the release of their memory.

        Base offsets in the copies are those of the producer: `batches` says what they have to be.
        """
        result = self._result
        lib.log_read(
            self._core,
            topic.slot,
            topic.generation,
            partition & _CORE_VIEW,
            offset,
            target,
            size_max if room is None else room,
            size_max,
            whole_first,
            lent_size_min,
            batches.address,
            batches.capacity,
            result,
        )
        return read_of(result)

    def give_back(self, pins: int) -> None:
        """What a read has lent, once; nobody looks at it any more."""
        if pins:
            lib.log_return(self._core, pins)

    def available(self, topic: Topic, partition: int, offset: int) -> int:
        """Bytes from the batch that holds `offset` to the end; 0 at the end; -1 where offset or topic are not there."""
        return int(lib.log_available(self._core, topic.slot, topic.generation, partition & _CORE_VIEW, offset))

    def bounds(self, topic: Topic, partition: int) -> Bounds:
        """Errors: UnknownTopic."""
        bounds = self._bounds(topic, partition)
        return Bounds(bounds.log_start_offset, bounds.next_offset, bounds.leader_epoch, bounds.end_offset)

    def size_bytes(self, topic: Topic, partition: int) -> int:
        """Payload kept, in bytes, in memory or not. Errors: UnknownTopic."""
        return int(self._bounds(topic, partition).bytes)

    def _bounds(self, topic: Topic, partition: int) -> Any:
        bounds = ffi.new("struct bounds *")
        status = lib.log_bounds(self._core, topic.slot, topic.generation, partition & _CORE_VIEW, bounds)
        if status != lib.STATUS_OK:
            raise error_of(status, topic)
        return bounds

    def find_timestamp(self, topic: Topic, partition: int, timestamp_ms: int) -> BatchAt | None:
        """The first batch whose largest timestamp is at least `timestamp_ms`. Errors: UnknownTopic."""
        found = ffi.new("struct batch_at *")
        status = lib.log_find_timestamp(
            self._core, topic.slot, topic.generation, partition & _CORE_VIEW, timestamp_ms, found
        )
        return batch_at(status, found, topic)

    def find_max_timestamp(self, topic: Topic, partition: int) -> BatchAt | None:
        """The first batch that holds the largest timestamp. Errors: UnknownTopic."""
        found = ffi.new("struct batch_at *")
        status = lib.log_find_max_timestamp(self._core, topic.slot, topic.generation, partition & _CORE_VIEW, found)
        return batch_at(status, found, topic)

    def entries(self, topic: Topic) -> "npt.NDArray[np.void]":
        """The order index of the topic, oldest first, as a structured array with the fields of `struct order_entry`.

        Entries that were released (below the log start, or trimmed) and whose page is gone are left out.
        """
        from totalog.engine import tables

        return tables.entries(self._core, topic)

    # -- upkeep

    def maintain(self, now_ms: int) -> bool:
        """Retention by size and time, and what is left of deleted topics. True while there is more to do at once."""
        return bool(lib.log_maintain(self._core, now_ms))

    def frontiers(self) -> Frontiers:
        frontiers = ffi.new("struct frontiers *")
        lib.log_frontiers(self._core, frontiers)
        return Frontiers(frontiers.written, frontiers.ordered, frontiers.replicated)

    def counters(self) -> dict[str, int]:
        """What this process has counted: the fields of `struct log_counters`, and how often calls of the engine gave up
        the GIL (`gil_calls`), had to wait for it afterwards (`gil_waits`), and how long
        (`gil_wait_nanoseconds`)."""
        counters = ffi.new("struct log_counters *")
        lib.log_counters(self._core, counters)
        return _fields(ffi, "struct log_counters", counters) | _gil_counters()

    def memory(self) -> Memory:
        total, used, committed = (ffi.new("uint64_t *") for _ in range(3))
        lib.log_blocks(self._core, total, used, committed)
        return Memory(total[0], total[0] - used[0], lib.BLOCK_SIZE)


def _fields(of: Any, struct: str, filled: Any) -> dict[str, int]:
    described = of.typeof(struct).fields
    assert described is not None
    return {name: getattr(filled, name) for name, _ in described}


def _gil_counters() -> dict[str, int]:
    """Only calls of the long core give it up, and a log that needs none never loads that."""
    long_core = sys.modules.get("totalog.engine._core_long")
    if long_core is None:
        return dict.fromkeys(("gil_calls", "gil_waits", "gil_wait_nanoseconds"), 0)
    counters = _fields(long_core.ffi, "struct gil_counters", long_core.lib.gil_counters)
    return {f"gil_{name}": value for name, value in counters.items()}
