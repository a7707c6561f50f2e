"""The offsets that groups have committed: kept here, and as records of the internal topic `__consumer_offsets`.

Invariants
- The log is the truth: a commit is answered when its record is ordered, and what stands here is the fold of the
  records, in their order. So whoever attaches the region again finds every commit that was answered.
- A commit belongs to one topic or view by its id. When that is gone, so is the commit, here at the next look and in the
  log when it is trimmed: a topic that is made again under the name starts without it.
- `_live` stands in the order of the log: its first entry is the oldest record that is still needed, and everything
  before that may be trimmed. The topic stays short because the oldest live records are written again, a few with each
  append, as soon as dead ones outnumber the live DEAD_FACTOR to one. So no commit ever waits for a snapshot of all
  others.
"""

import logging
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple

from totalog.engine import EngineError, OutOfMemory
from totalog.engine.errors import DirectoryError
from totalog.gateway.broker import AppendFailed, CommitsFull, Unreadable
from totalog.gateway.coordinators.offset_records import (
    Commit,
    Key,
    decode_key,
    decode_value,
    encode_key,
    encode_value,
)
from totalog.gateway.lane import Steps
from totalog.gateway.limits import COMMIT_BATCH_COUNT_MAX, COMMIT_BATCH_SIZE_MAX
from totalog.gateway.topics import Refused, TopicHandle
from totalog.gateway.wire import records
from totalog.gateway.wire._batch import lib
from totalog.gateway.wire.answer import Buffer
from totalog.gateway.wire.errors import ProtocolViolation

if TYPE_CHECKING:
    from totalog.gateway.broker import Broker

TOPIC = "__consumer_offsets"

COMMITS_SIZE_MAX = 256 << 20
"""Bytes that all commits together may take here. A commit that would go beyond is a POLICY_VIOLATION."""

COMMIT_OVERHEAD_SIZE = 640
"""Bytes of one commit beside its texts: objects and its share of the tables."""

DEAD_FACTOR = 4
DEAD_COUNT_MIN = 4096
"""Records that may lie between log start and end beside DEAD_FACTOR times the live ones, before old ones are carried
on."""

CARRY_FACTOR = 2
"""Live records that are carried on with each new one."""

DEAD_SIZE_MIN = 16 << 20
"""The same in bytes, since a record has fifty of them or as many thousands."""

TRIM_COUNT_MIN = 512
TRIM_SIZE_MIN = 4 << 20
"""Records, or bytes beside the live ones, that the log start moves over at once: moving it is an ordered operation."""

READ_SIZE = 1 << 20
READ_BATCHES_COUNT = 256
STATUS_ON_DISK: int = lib.STATUS_ON_DISK

log = logging.getLogger("totalog")


class _Live(NamedTuple):
    commit: Commit
    topic_id: bytes
    log_offset: int
    """Of its record in the offsets topic."""


class OffsetStore:
    def __init__(self, broker: "Broker") -> None:
        """Folds what the offsets topic holds. Raises Unreadable."""
        self._broker = broker
        self._live: dict[Key, _Live] = {}
        self._groups: dict[str, dict[str, dict[int, Commit]]] = {}
        self._committers: dict[str, set[str]] = {}
        """By topic the groups that have committed offsets of it."""
        self._topic_ids: dict[str, bytes] = {}
        """Of the same topics."""
        self._topics_version = broker.log.topics_version
        self._gone_count, _ = broker.topics.gone_since(0)
        self._log_start = self._log_end = 0
        self.size = 0
        topic = broker.topics.find(TOPIC)
        if topic is not None:
            self._fold(topic)

    # Looking

    def fetch(self, group_id: str, topic: str, partition: int) -> Commit | None:
        self._drop_deleted()
        return self._groups.get(group_id, {}).get(topic, {}).get(partition)

    def fetch_all(self, group_id: str) -> Mapping[str, Mapping[int, Commit]]:
        """By topic and partition; empty for a group that has committed nothing."""
        self._drop_deleted()
        return self._groups.get(group_id, {})

    def group_ids(self) -> list[str]:
        """The groups that have commits."""
        self._drop_deleted()
        return list(self._groups)

    def has_group(self, group_id: str) -> bool:
        self._drop_deleted()
        return group_id in self._groups

    def __len__(self) -> int:
        """Commits."""
        return len(self._live)

    # Changing

    def commit(self, group_id: str, commits: Sequence[tuple[TopicHandle, int, Commit]]) -> None:
        """Store (topic or view, partition, commit) for the group as one batch, all or nothing; of two for one partition
        the later one counts. Whoever has more of them than COMMIT_BATCH_COUNT_MAX and
        COMMIT_BATCH_SIZE_MAX calls several times. Raises AppendFailed and CommitsFull."""
        self._drop_deleted()
        changes: dict[Key, tuple[Commit, bytes] | None] = {}
        for topic, partition, commit in commits:
            changes[Key(group_id, topic.name, partition)] = commit, topic.id
        growth = sum(_size(key, change[0]) for key, change in changes.items() if change is not None)
        if self.size + growth > COMMITS_SIZE_MAX:
            # What is replaced goes, so only now is it worth looking at.
            growth -= sum(_size(key, self._live[key].commit) for key in changes if key in self._live)
            if self.size + growth > COMMITS_SIZE_MAX:
                raise CommitsFull(f"committed offsets take {COMMITS_SIZE_MAX} bytes, the limit")
        self._append(changes)

    def delete_group(self, group_id: str) -> Steps[int]:
        """Take back all commits of the group, in batches, behind each of which others may get their turn; how many.
        Raises AppendFailed."""
        return self._remove(self._keys(group_id))

    def delete(self, group_id: str, partitions: Iterable[tuple[str, int]]) -> Steps[int]:
        """Take back what the group committed for these (topic, partition), as `delete_group` does."""
        self._drop_deleted()
        return self._remove(Key(group_id, topic, partition) for topic, partition in partitions)

    def expire(self, group_id: str, before_ms: int) -> Steps[int]:
        """Take back what the group committed before a time of day, as `delete_group` does."""
        old = (key for key in self._keys(group_id) if self._live[key].commit.timestamp_ms < before_ms)
        return self._remove(old)

    def _keys(self, group_id: str) -> Iterator[Key]:
        for topic, commits in self._groups.get(group_id, {}).items():
            for partition in commits:
                yield Key(group_id, topic, partition)

    def _remove(self, keys: Iterator[Key]) -> Steps[int]:
        count, left = 0, iter(list(keys))
        while ended := self._first_of(left, COMMIT_BATCH_COUNT_MAX):
            self._append(dict.fromkeys(ended))
            count += len(ended)
            yield
        return count

    def _first_of(self, keys: Iterator[Key], count_max: int) -> list[Key]:
        """The next of the keys that are of live records, as many as go into one batch."""
        taken: list[Key] = []
        size = 0
        while len(taken) < count_max and size < COMMIT_BATCH_SIZE_MAX and (key := next(keys, None)) is not None:
            if key in self._live:
                taken.append(key)
                size += _size(key, self._live[key].commit)
        return taken

    # The log

    def _append(self, changes: Mapping[Key, tuple[Commit, bytes] | None]) -> None:
        """Order one batch of records, with some old ones that are carried on, and take them over."""
        if not changes:
            return
        topic = self._topic()
        written = dict(changes)
        for key in self._to_carry(topic, changes):
            written[key] = self._live[key].commit, self._live[key].topic_id
        batch = records.build_batch(
            [(encode_key(key), encode_value(*change) if change else None) for key, change in written.items()],
            self._broker.clock.wall_ms(),
        )
        base_offset = self._broker.append_internal(topic, 0, batch)
        for log_offset, (key, change) in enumerate(written.items(), base_offset):
            self._apply(key, change, log_offset)
        self._log_end = base_offset + len(written)
        self._trim(topic)

    def _to_carry(self, topic: TopicHandle, changes: Mapping[Key, object]) -> list[Key]:
        """The oldest live records, when the log has become too long for what is alive in it."""
        too_many = self._log_end - self._log_start > DEAD_FACTOR * len(self._live) + DEAD_COUNT_MIN
        if not too_many and self._kept(topic) <= DEAD_FACTOR * self.size + DEAD_SIZE_MIN:
            return []
        oldest = self._first_of(iter(self._live), min(CARRY_FACTOR * len(changes), COMMIT_BATCH_COUNT_MAX))
        return [key for key in oldest if key not in changes]

    def _trim(self, topic: TopicHandle) -> None:
        oldest = next(iter(self._live.values()), None)
        if oldest is None or oldest.log_offset == self._log_start:
            return
        few = oldest.log_offset - self._log_start < TRIM_COUNT_MIN
        if few and self._kept(topic) < self.size + TRIM_SIZE_MIN:
            return
        try:
            self._broker.log.trim(topic.topic, 0, oldest.log_offset)
        except (OutOfMemory, DirectoryError):
            return  # the next append tries again
        self._log_start = oldest.log_offset

    def _kept(self, topic: TopicHandle) -> int:
        """Bytes between log start and end."""
        return self._broker.log.size_bytes(topic.topic, 0)

    def _topic(self) -> TopicHandle:
        topic = self._broker.topics.find(TOPIC)
        if topic is None:
            try:
                topic = self._broker.topics.create(TOPIC, partitions=1, internal=True)
            except Refused as refused:
                raise AppendFailed(refused.code, TOPIC) from refused
        return topic

    def _fold(self, topic: TopicHandle) -> None:
        bounds = self._broker.log.bounds(topic.topic, 0)
        self._log_start, self._log_end = bounds.log_start_offset, bounds.next_offset
        for log_offset, record in self._read(topic):
            try:
                self._fold_record(record, log_offset)
            except ProtocolViolation as damage:
                log.warning("record %d of %s is passed over: %s", log_offset, TOPIC, damage)

    def _fold_record(self, record: records.Record, log_offset: int) -> None:
        key = None if record.key is None else decode_key(record.key)
        if key is None:
            return
        if record.value is None:
            self._apply(key, None, log_offset)
            return
        value = decode_value(record.value)
        if value is not None:
            handle = self._broker.topics.find(key.topic)
            exists = handle is not None and handle.id == value[1]
            self._apply(key, value if exists else None, log_offset)

    def _read(self, topic: TopicHandle) -> Iterator[tuple[int, records.Record]]:
        """The records between log start and end, with their offsets. Where they have left memory this waits for a disk:
        once in the life of the broker, since then the topic is short; where it fails, each time that it is tried.
        Raises Unreadable."""
        engine, buffer = self._broker.log, Buffer(READ_SIZE)
        batches = engine.read_batches(READ_BATCHES_COUNT)
        offset = self._log_start
        while offset < self._log_end:
            read = engine.read(topic.topic, 0, offset, buffer.address, buffer.size, batches=batches)
            if read.status == STATUS_ON_DISK:
                try:
                    read = engine.archive_read(topic.topic, 0, offset, buffer.address, buffer.size, batches=batches)
                except EngineError as fault:
                    raise self._unreadable(offset, str(fault)) from fault
            if read.size_needed:
                buffer = Buffer(read.size_needed)
                continue
            assert read.count, f"{TOPIC} has no batch at {offset}"
            position = 0
            for index in range(read.count):
                batch = batches[index]
                for record in records.read_records(buffer.view[position : position + batch.size]):
                    log_offset = batch.base_offset + record.offset_delta
                    if log_offset >= offset:
                        yield log_offset, record
                        offset = log_offset + 1
                position += batch.size

    def _unreadable(self, offset: int, why: str) -> Unreadable:
        text = f"committed offsets cannot be read: record {offset} of {TOPIC} is on disk, {why}"
        self._broker.complaints.tell(TOPIC, text, logging.ERROR)
        return Unreadable(text)

    # The fold

    def _apply(self, key: Key, change: tuple[Commit, bytes] | None, log_offset: int) -> None:
        """Take over one record: a commit, or the end of one."""
        self._forget(key)
        if change is None:
            return
        commit, topic_id = change
        self._live[key] = _Live(commit, topic_id, log_offset)
        self.size += _size(key, commit)
        self._groups.setdefault(key.group_id, {}).setdefault(key.topic, {})[key.partition] = commit
        self._committers.setdefault(key.topic, set()).add(key.group_id)
        self._topic_ids[key.topic] = topic_id

    def _forget(self, key: Key) -> None:
        live = self._live.pop(key, None)
        if live is None:
            return
        self.size -= _size(key, live.commit)
        group = self._groups[key.group_id]
        commits = group[key.topic]
        del commits[key.partition]
        if not commits:
            del group[key.topic]
            if not group:
                del self._groups[key.group_id]
            committers = self._committers[key.topic]
            committers.remove(key.group_id)
            if not committers:
                del self._committers[key.topic], self._topic_ids[key.topic]

    def _drop_deleted(self) -> None:
        """Forget the commits of topics that are gone, also those that came back as others. Their records need no end: a
        fold passes over what was committed for an id that is not there any more."""
        version = self._broker.log.topics_version
        if version == self._topics_version:
            return
        self._topics_version = version
        self._gone_count, names = self._broker.topics.gone_since(self._gone_count)
        for name in list(self._topic_ids) if names is None else names:
            topic_id = self._topic_ids.get(name)
            if topic_id is None:
                continue
            handle = self._broker.topics.find(name)
            if handle is not None and handle.id == topic_id:
                continue
            for group_id in list(self._committers[name]):
                for partition in list(self._groups[group_id][name]):
                    self._forget(Key(group_id, name, partition))


def _size(key: Key, commit: Commit) -> int:
    return COMMIT_OVERHEAD_SIZE + len(key.group_id) + len(key.topic) + len(commit.metadata)
