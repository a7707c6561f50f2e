"""The log as plain Python says it has to be: lists of batches, and rules that fit a page."""

from dataclasses import dataclass, field

from totalog.engine import VIEW, Topic
from totalog.engine._core import lib
from totalog.engine.tests.driver import Batch

SEQUENCES = 2**31
EVERYTHING = 1 << 60
"""A global position that nothing reaches."""


@dataclass
class Limits:
    """What the replicas say, as global positions."""

    visible: int = EVERYTHING
    releasable: int = EVERYTHING


@dataclass
class Stored:
    """One batch that was ordered."""

    partition: int
    base_offset: int
    total_order: int
    span: int
    payload: bytes
    max_timestamp: int
    flags: int
    bytes_before: int
    """In its topic."""
    position: int
    """Global."""
    live: bool = True
    in_memory: bool = True
    """Where it is live: else the archive alone keeps it."""

    def start(self, partition: int) -> int:
        return self.total_order if partition == VIEW else self.base_offset

    def end(self, partition: int) -> int:
        return self.start(partition) + self.span


@dataclass
class Producer:
    """A producer's last five batches in one partition: (base sequence, last sequence, base offset, total order)."""

    epoch: int
    batches: list[tuple[int, int, int, int, int]] = field(default_factory=list)


@dataclass
class Expected:
    """What one append is answered."""

    status: int
    base_offset: int = -1
    total_order: int = -1
    global_position: int = -1
    log_start_offset: int = -1


class ModelTopic:
    def __init__(self, topic: Topic, limits: Limits) -> None:
        self.topic = topic
        self.limits = limits
        self.stored: list[Stored] = []
        self.bytes_appended = 0
        self.next = {VIEW: 0}
        self.log_start = {VIEW: 0}
        self.memory_start = {VIEW: 0}
        self.add_partitions()

    def add_partitions(self) -> None:
        for partition in range(self.topic.partitions):
            self.next.setdefault(partition, 0)
            self.log_start.setdefault(partition, 0)
            self.memory_start.setdefault(partition, 0)

    def live(self, partition: int) -> list[Stored]:
        return [batch for batch in self.stored if batch.live and partition in (VIEW, batch.partition)]

    def hidden(self, partition: int) -> Stored | None:
        """The first batch that is ordered, and not visible yet."""
        return next(
            (b for b in self.stored if b.position >= self.limits.visible and partition in (VIEW, b.partition)), None
        )

    def visible_end(self, partition: int) -> int:
        hidden = self.hidden(partition)
        end = self.next[partition] if hidden is None else hidden.start(partition)
        return max(end, self.log_start[partition])

    def shown(self, partition: int) -> list[Stored]:
        """What a reader finds in memory."""
        return [b for b in self.live(partition) if b.in_memory and b.position < self.limits.visible]

    def archived(self, partition: int) -> bool:
        return self.log_start[partition] < self.memory_start[partition]

    def evict(self, below: int) -> None:
        for batch in self.live(VIEW):
            if batch.in_memory and batch.position < below:
                batch.in_memory = False
                for partition in (VIEW, batch.partition):
                    self.memory_start[partition] = batch.end(partition)

    def size(self, partition: int) -> int:
        return sum(len(batch.payload) for batch in self.live(partition))

    def store(self, batch: Batch, position: int) -> Stored:
        stored = Stored(
            batch.partition,
            self.next[batch.partition],
            self.next[VIEW],
            batch.records,
            batch.payload,
            batch.max_timestamp,
            batch.flags,
            self.bytes_appended,
            position,
        )
        self.stored.append(stored)
        self.next[batch.partition] += batch.records
        self.next[VIEW] += batch.records
        self.bytes_appended += len(batch.payload)
        return stored

    def release(self, batch: Stored) -> None:
        """Its partition's log start moves behind it; the view's to the oldest that is left."""
        batch.live = False
        self.raise_start(batch.partition, batch.base_offset + batch.span)
        self.raise_view()

    def raise_view(self) -> None:
        """Where the archive alone keeps some of it, the view's log start stays until it keeps nothing."""
        if self.archived(VIEW) and not any(map(self.archived, range(self.topic.partitions))):
            self.log_start[VIEW] = self.memory_start[VIEW]
        if not self.archived(VIEW):
            left = self.live(VIEW)
            self.raise_start(VIEW, left[0].total_order if left else self.next[VIEW])

    def raise_start(self, partition: int, offset: int) -> None:
        self.log_start[partition] = max(self.log_start[partition], offset)

    def trim(self, partition: int, offset: int) -> None:
        for batch in self.live(partition):
            if batch.end(partition) <= offset:
                self.release(batch)
        self.raise_start(partition, offset)
        self.raise_view()

    def rows(self, partition: int, offset: int) -> list[tuple[int, int, int]]:
        """What the archive knows of a trim: (partition, its new log start, bytes of all its batches below that)."""
        known = []
        for number in range(self.topic.partitions) if partition == VIEW else [partition]:
            of_it = [batch for batch in self.stored if batch.partition == number]
            kept = [b for b in of_it if b.end(partition) > offset and b.end(number) > self.log_start[number]]
            start = offset if partition != VIEW else kept[0].base_offset if kept else self.next[number]
            start = max(start, self.log_start[number])
            known.append((number, start, sum(len(b.payload) for b in of_it if b.end(number) <= start)))
        return known

    def cuts(self) -> list[tuple[int, int]]:
        """(partition or VIEW, bytes it may keep): where retention cuts this topic."""
        if self.topic.order_level == 5:
            return [(VIEW, self.topic.retention_bytes * self.topic.partitions)]
        return [(partition, self.topic.retention_bytes) for partition in range(self.topic.partitions)]

    def retain_by_size(self, partitions: set[int]) -> None:
        """Kafka's rule: the oldest goes while what is left without it still reaches the limit."""
        if self.topic.retention_bytes < 0:
            return
        for partition, limit in self.cuts():
            if partition != VIEW and partition not in partitions:
                continue
            for batch in [] if self.archived(partition) else self.live(partition):
                if self.size(partition) <= limit or self.size(partition) - len(batch.payload) < limit:
                    break
                if batch.position >= self.limits.releasable:
                    break
                self.release(batch)

    def retain_by_time(self, now_ms: int) -> None:
        if self.topic.retention_ms < 0:
            return
        for partition, _ in self.cuts():
            for batch in [] if self.archived(partition) else self.live(partition):
                if batch.max_timestamp >= now_ms - self.topic.retention_ms:
                    break
                if batch.position >= self.limits.releasable:
                    break
                self.release(batch)

    def read(self, partition: int, offset: int, size_max: int, batches_max: int) -> tuple[int, list[Stored], int]:
        """(status, batches, size needed)."""
        if not self.log_start[partition] <= offset <= self.next[partition]:
            return lib.STATUS_OFFSET_OUT_OF_RANGE, [], 0
        if offset < self.memory_start[partition]:
            return lib.STATUS_ON_DISK, [], 0
        found: list[Stored] = []
        for batch in self.shown(partition):
            if batch.end(partition) <= offset or len(found) == batches_max:
                continue
            if len(batch.payload) > size_max:
                return lib.STATUS_OK, found, 0 if found else len(batch.payload)
            size_max -= len(batch.payload)
            found.append(batch)
        return lib.STATUS_OK, found, 0

    def available(self, partition: int, offset: int) -> int:
        """In the view, batches that were trimmed count where batches before them are left."""
        if not self.log_start[partition] <= offset <= self.next[partition]:
            return -1
        left = [batch for batch in self.shown(partition) if batch.end(partition) > offset]
        found = sum(len(batch.payload) for batch in left)
        if partition == VIEW and left:
            hidden = self.hidden(VIEW)
            found = (self.bytes_appended if hidden is None else hidden.bytes_before) - left[0].bytes_before
        return 1 if found == 0 and offset < self.memory_start[partition] else found

    def find_timestamp(self, partition: int, timestamp: int) -> Stored | None:
        return next((batch for batch in self.shown(partition) if batch.max_timestamp >= timestamp), None)

    def find_max_timestamp(self, partition: int) -> Stored | None:
        found = max(self.shown(partition), key=lambda batch: batch.max_timestamp, default=None)
        return found if found is not None and found.max_timestamp >= 0 else None


class Model:
    """All topics, and the producers."""

    def __init__(self) -> None:
        self.topics: dict[tuple[int, int], ModelTopic] = {}
        self.producers: dict[tuple[int, int, int, int], Producer] = {}
        self.ordered = 0
        self.limits = Limits()

    def add(self, topic: Topic) -> None:
        self.topics[topic.slot, topic.generation] = ModelTopic(topic, self.limits)

    def of(self, topic: Topic) -> ModelTopic | None:
        return self.topics.get((topic.slot, topic.generation))

    def append(self, batches: list[Batch]) -> list[Expected]:
        """One group: every batch is answered, then retention follows."""
        answers = [self.append_one(batch) for batch in batches]
        for key, model in self.topics.items():
            touched = {
                batch.partition
                for batch, answer in zip(batches, answers, strict=True)
                if (batch.topic.slot, batch.topic.generation) == key and answer.status == lib.STATUS_OK
            }
            if touched:
                model.retain_by_size(touched)
        return answers

    def append_one(self, batch: Batch) -> Expected:
        model = self.of(batch.topic)
        if model is None or batch.partition >= model.topic.partitions:
            return Expected(lib.STATUS_UNKNOWN_TOPIC)
        start = model.log_start[batch.partition]
        if batch.producer_id >= 0:
            original = self.check_producer(batch)
            if isinstance(original, int):
                return Expected(original, log_start_offset=start)
            if original is not None:
                return Expected(lib.STATUS_DUPLICATE, *original[2:], log_start_offset=start)
        stored = model.store(batch, self.ordered)
        position, self.ordered = self.ordered, self.ordered + 1
        if batch.producer_id >= 0:
            self.remember(batch, stored, position)
        return Expected(lib.STATUS_OK, stored.base_offset, stored.total_order, position, start)

    def producer(self, batch: Batch) -> Producer | None:
        return self.producers.get((batch.producer_id, batch.topic.slot, batch.topic.generation, batch.partition))

    def check_producer(self, batch: Batch) -> tuple[int, int, int, int, int] | int | None:
        """An error, the original of a duplicate, or None where the batch is next."""
        known = self.producer(batch)
        if known is None:
            return None
        if batch.producer_epoch < known.epoch:
            return int(lib.STATUS_INVALID_PRODUCER_EPOCH)
        if batch.producer_epoch > known.epoch:
            return None if batch.base_sequence == 0 else int(lib.STATUS_OUT_OF_ORDER_SEQUENCE)
        last = (batch.base_sequence + batch.records - 1) % SEQUENCES
        for original in known.batches:
            if original[:2] == (batch.base_sequence, last):
                return original
        if batch.base_sequence != (known.batches[-1][1] + 1) % SEQUENCES:
            return int(lib.STATUS_OUT_OF_ORDER_SEQUENCE)
        return None

    def remember(self, batch: Batch, stored: Stored, position: int) -> None:
        key = (batch.producer_id, batch.topic.slot, batch.topic.generation, batch.partition)
        known = self.producers.setdefault(key, Producer(batch.producer_epoch))
        if known.epoch != batch.producer_epoch:
            self.producers[key] = known = Producer(batch.producer_epoch)
        last = (batch.base_sequence + batch.records - 1) % SEQUENCES
        known.batches.append((batch.base_sequence, last, stored.base_offset, stored.total_order, position))
        del known.batches[:-5]

    def maintain(self, now_ms: int) -> None:
        for model in self.topics.values():
            model.retain_by_size(set(range(model.topic.partitions)))
            model.retain_by_time(now_ms)
