"""A log in plain Python with the face of `totalog.engine.Log`, as far as handlers of Kafka APIs use it.

Batches go in through `put`, unchecked, and come out as they went in. It keeps everything for ever. What it is for:
tests of handlers that need a full topic table, a limit or an error of the log without building one.
"""

import ctypes
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from types import SimpleNamespace

from totalog.engine import VIEW, BatchAt, Bounds, LimitReached, Memory, Topic, TopicExists, UnknownTopic


@dataclass
class Stored:
    """One batch: where it stands in its partition and its topic, and how many offsets it takes."""

    partition: int
    base_offset: int
    total_order: int
    count: int
    max_timestamp: int
    batch: bytes


@dataclass
class FakeLog:
    topics_max: int = 4096
    path: str | None = None
    topics_version: int = 0
    leader_epoch: int = 0
    _topics: dict[str, Topic] = field(default_factory=dict)
    _stored: dict[int, list[Stored]] = field(default_factory=dict)
    _generation: int = 0

    def topics(self) -> list[Topic]:
        return list(self._topics.values())

    def find_topic(self, name: str) -> Topic | None:
        return self._topics.get(name)

    def create_topic(self, name: str, *, id: bytes, partitions: int, **settings: object) -> Topic:
        if name in self._topics:
            raise TopicExists(name)
        if len(self._topics) >= self.topics_max:
            raise LimitReached("topics", self.topics_max)
        taken = {topic.slot for topic in self._topics.values()}
        slot = next(slot for slot in range(self.topics_max) if slot not in taken)
        self._generation += 1
        topic = Topic(slot=slot, generation=self._generation, name=name, id=id, partitions=partitions, **settings)
        self._topics[name], self._stored[slot] = topic, []
        self.topics_version += 1
        return topic

    def alter_topic(self, topic: Topic, **changes: object) -> Topic:
        altered = self._topics[self._live(topic).name] = replace(topic, **changes)
        self.topics_version += 1
        return altered

    def delete_topic(self, topic: Topic) -> None:
        del self._topics[self._live(topic).name]
        self.topics_version += 1

    def put(self, topic: Topic, partition: int, count: int, max_timestamp: int, batch: bytes = b"") -> None:
        """Stores a batch of `count` records."""
        stored = self._stored[topic.slot]
        base_offset = sum(other.count for other in stored if other.partition == partition)
        total_order = sum(other.count for other in stored)
        stored.append(Stored(partition, base_offset, total_order, count, max_timestamp, batch))

    def bounds(self, topic: Topic, partition: int) -> Bounds:
        return Bounds(0, sum(stored.count for stored in self._of(topic, partition)), self.leader_epoch)

    def size_bytes(self, topic: Topic, partition: int) -> int:
        return sum(len(stored.batch) for stored in self._of(topic, partition))

    def memory(self) -> Memory:
        return Memory(blocks_total=100, blocks_free=60, block_size=65536)

    def find_timestamp(self, topic: Topic, partition: int, timestamp_ms: int) -> BatchAt | None:
        stored = (stored for stored in self._of(topic, partition) if stored.max_timestamp >= timestamp_ms)
        return self._at(partition, next(stored, None))

    def find_max_timestamp(self, topic: Topic, partition: int) -> BatchAt | None:
        stored = self._of(topic, partition)
        return self._at(partition, max(stored, key=lambda batch: batch.max_timestamp, default=None))

    def read_batches(self, capacity: int) -> object:
        return SimpleNamespace(capacity=capacity)

    def read(self, topic: Topic, partition: int, offset: int, target: int, size_max: int, *, batches: object) -> object:
        for stored in self._of(topic, partition):
            at = stored.total_order if partition == VIEW else stored.base_offset
            if at <= offset < at + stored.count and len(stored.batch) <= size_max:
                ctypes.memmove(target, stored.batch, len(stored.batch))
                return SimpleNamespace(size=len(stored.batch), count=1)
        return SimpleNamespace(size=0, count=0)

    def _live(self, topic: Topic) -> Topic:
        if self._topics.get(topic.name) != topic:
            raise UnknownTopic(topic.name)
        return topic

    def _of(self, topic: Topic, partition: int) -> Sequence[Stored]:
        return [stored for stored in self._stored[topic.slot] if partition in (VIEW, stored.partition)]

    def _at(self, partition: int, stored: Stored | None) -> BatchAt | None:
        if stored is None:
            return None
        base = stored.total_order if partition == VIEW else stored.base_offset
        return BatchAt(base, len(stored.batch), stored.max_timestamp, self.leader_epoch, 0)
