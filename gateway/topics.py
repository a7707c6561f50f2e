"""The topics of the log as Kafka sees them: looked up by name and id, views included; created, altered and deleted.

The log is the truth. What stands here is a copy of its topic table, made anew when the table's version moved by more
than the change that was just made here.

A topic's own settings (those that its creator gave, in Kafka's names) travel as the engine's opaque `settings`: names
and values in turn, each ended by a zero byte.
"""

import os
import re
from collections import deque
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import islice

from totalog.engine import VIEW, LimitReached, Log, OutOfMemory, Topic, TopicExists, UnknownTopic
from totalog.engine.errors import DirectoryError
from totalog.gateway import view
from totalog.gateway.config import Config
from totalog.gateway.replication import Replication
from totalog.gateway.wire.errors import ErrorCode

NAME = re.compile(r"[a-zA-Z0-9._-]+")
RESERVED = {"__consumer_offsets", "__transaction_state"}
"""Internal topics of Kafka, which the broker makes itself; other names may begin with underscores too."""

HIDDEN_PREFIX = "__totalog"
"""Internal topics of our own: clients are never told of them, as Kafka never tells of its `__cluster_metadata`."""


RESERVED_TOPICS = 8
RESERVED_PARTITIONS = 256
"""Of the region's limits: left for internal topics, which are made when they are needed. Whoever fills the region with
topics shall not keep every group from committing."""

MESSAGE_LENGTH_MAX = 1000
"""Characters of a message to a client, which may quote what the client sent: that can be as long as any string, and
with a word more it would be too long for an answer."""


GONE_COUNT_MAX = 1024


class Refused(Exception):
    """What a client asked is refused: the error code and a sentence for it."""

    def __init__(self, code: ErrorCode, message: str) -> None:
        super().__init__(message)
        self.code = code
        self.message = message[:MESSAGE_LENGTH_MAX]


@dataclass(frozen=True, slots=True)
class TopicHandle:
    """One topic or view under one name. Valid until the topic is altered or deleted: look up again for each request."""

    topic: Topic
    name: str
    id: bytes
    partitions: int
    is_view: bool = False
    config: Mapping[str, str] = field(default_factory=dict)
    """The settings given for this topic alone; all others are the broker's. Look values up in the broker's Config."""

    def read_partition(self, partition: int) -> int:
        """The partition number under which the log reads this one."""
        return VIEW if self.is_view else partition

    def has_partition(self, partition: int) -> bool:
        return 0 <= partition < self.partitions


def pack_settings(config: Mapping[str, str]) -> bytes:
    return b"".join(f"{name}\0{value}\0".encode() for name, value in sorted(config.items()))


def unpack_settings(settings: bytes) -> dict[str, str]:
    parts = settings.decode().split("\0")[:-1]
    return dict(zip(parts[::2], parts[1::2], strict=True))


def is_hidden(name: str) -> bool:
    return name.startswith(HIDDEN_PREFIX)


def is_reserved(name: str) -> bool:
    """True for names that only internal topics have."""
    return name in RESERVED or is_hidden(name)


def check_name(name: str) -> None:
    """Raises Refused for what is no topic name by Kafka's rules."""
    problem = None
    if not name:
        problem = "a topic name cannot be empty"
    elif name in {".", ".."}:
        problem = f"a topic cannot be named {name!r}"
    elif len(name) > view.NAME_SIZE_MAX:
        problem = f"a topic name has at most {view.NAME_SIZE_MAX} characters, this one has {len(name)}"
    elif not NAME.fullmatch(name):
        problem = f"topic name {name!r} has characters other than a-z, A-Z, 0-9, '.', '_' and '-'"
    if problem:
        raise Refused(ErrorCode.INVALID_TOPIC_EXCEPTION, problem)


def check_new_name(name: str, *, internal: bool = False) -> None:
    """Raises Refused for a name that no new topic may have: no topic name, one of a view, or, unless it is to be an
    internal topic, one of those."""
    check_name(name)
    if view.is_view_name(name):
        message = f"names that end in {view.SUFFIX} are those of total-order views and cannot be created"
        raise Refused(ErrorCode.INVALID_TOPIC_EXCEPTION, message)
    if is_reserved(name) and not internal:
        message = f"{name} is an internal topic: the broker makes it when it is needed"
        raise Refused(ErrorCode.INVALID_TOPIC_EXCEPTION, message)


def _collision_key(name: str) -> str:
    """Names with the same key would be the same name in metrics, where '.' and '_' are one: Kafka refuses the
    second."""
    return name.replace(".", "_")


@contextmanager
def _refusals(name: str) -> Iterator[None]:
    """Turns the engine's errors about topic `name` into Kafka's."""
    try:
        yield
    except TopicExists:
        raise Refused(ErrorCode.TOPIC_ALREADY_EXISTS, f"topic {name} already exists") from None
    except UnknownTopic:
        raise Refused(ErrorCode.UNKNOWN_TOPIC_OR_PARTITION, f"topic {name} does not exist") from None
    except LimitReached as error:
        message = f"topic {name}: the limit {error.limit_name} of {error.limit} is reached"
        raise Refused(ErrorCode.POLICY_VIOLATION, message) from None
    except (OutOfMemory, DirectoryError) as error:
        raise Refused(ErrorCode.KAFKA_STORAGE_ERROR, f"topic {name}: {error}") from None


def _new_id() -> bytes:
    """A random UUID (version 4)."""
    random = bytearray(os.urandom(16))
    random[6] = random[6] & 0x0F | 0x40
    random[8] = random[8] & 0x3F | 0x80
    return bytes(random)


class Topics:
    def __init__(self, log: Log, config: Config, replication: Replication) -> None:
        self._log = log
        self._replication = replication
        self._config = config
        self._version = -1
        self._by_name: dict[str, TopicHandle] = {}
        self._by_id: dict[bytes, TopicHandle] = {}
        self._by_collision_key: dict[str, str] = {}
        self._count = self._partitions_count = 0
        """Topics that clients made, and their partitions."""
        self._gone: deque[str] = deque(maxlen=GONE_COUNT_MAX)
        """The last names that topics and views have lost by deletions made here."""
        self._gone_count = 0
        """Of all such names ever, and more where the whole table was read."""

    def find(self, name: str) -> TopicHandle | None:
        self._refresh()
        return self._by_name.get(name)

    def find_id(self, topic_id: bytes) -> TopicHandle | None:
        self._refresh()
        return self._by_id.get(topic_id)

    def find_key(self, key: str | bytes) -> TopicHandle | None:
        """By what a version of Produce or Fetch calls a topic: its name, or its id of 16 bytes (KIP-516)."""
        return self.find(key) if isinstance(key, str) else self.find_id(key)

    def gone_since(self, count: int) -> tuple[int, list[str] | None]:
        """Names that topics and views have lost since this said `count`, and what to say the next time. None: it may be
        any. A name may be another one's by now."""
        self._refresh()
        new = self._gone_count - count
        if new > len(self._gone):
            return self._gone_count, None
        return self._gone_count, list(islice(reversed(self._gone), new))

    def all(self) -> list[TopicHandle]:
        """Every topic that clients are told of, internal ones too; no views."""
        self._refresh()
        return [handle for handle in self._by_name.values() if not (handle.is_view or is_hidden(handle.name))]

    def check_creation(self, name: str, *, internal: bool = False) -> None:
        """Raises Refused where no topic of this name may be made: a bad name, one that exists, or one that collides."""
        check_new_name(name, internal=internal)
        self._refresh()
        if name in self._by_name:
            self._promise()  # who asks again because it is not sure may rely on it
            raise Refused(ErrorCode.TOPIC_ALREADY_EXISTS, f"topic {name} already exists")
        other = self._by_collision_key.get(_collision_key(name))
        if other is not None:
            raise Refused(
                ErrorCode.INVALID_TOPIC_EXCEPTION,
                f"topic {name} collides with topic {other}: '.' and '_' count as the same",
            )

    def create(
        self,
        name: str,
        *,
        partitions: int,
        replication: int | None = None,
        config: Mapping[str, str] | None = None,
        internal: bool = False,
    ) -> TopicHandle:
        """Makes a topic; it exists for everyone when this returns, and the answer being made promises that it is
        stored. `replication`: data directories, by default those of the broker's setting; never more than there are.
        `config`: checked settings of this topic alone.

        Internal topics are visible when they are ordered: the broker folds them itself, to their very end.
        """
        self.check_creation(name, internal=internal)
        self._check_directories(name)
        own = dict(config or {})
        retention_bytes, retention_ms = (-1, -1) if internal else self._config.topic_retention(own)
        if not internal:
            self._check_room(name, 1, partitions)
        with _refusals(name):
            topic = self._log.create_topic(
                name,
                id=_new_id(),
                partitions=partitions,
                order_level=0 if internal else self._config.topic_integer("totalog.order.level", own),
                retention_bytes=retention_bytes,
                retention_ms=retention_ms,
                internal=internal,
                settings=pack_settings(own),
                memory=self._config.topic_value("totalog.storage", own) == "memory",
                visible_when_ordered=internal or self._config.topic_value("totalog.visibility", own) == "ordered",
                replication=self.replication_of(replication, own),
            )
        self._changed(None, topic)
        return self._by_name[name]

    def replication_of(self, asked: int | None, own: Mapping[str, str]) -> int:
        """Data directories on which a topic with these settings stands: those asked for, as far as there are."""
        if self._config.topic_value("totalog.storage", own) == "memory":
            return 1
        wanted = self._config.integer("default.replication.factor") if asked is None else asked
        return min(wanted, max(self._replication.directories, 1))

    def add_partitions(self, handle: TopicHandle, total: int) -> TopicHandle:
        """Raises the number of partitions to `total`."""
        self._check_directories(handle.name)
        self._check_room(handle.name, 0, total - handle.partitions)
        with _refusals(handle.name):
            topic = self._log.alter_topic(handle.topic, partitions=total)
        self._changed(handle.topic, topic)
        return self._by_name[handle.name]

    def alter(self, handle: TopicHandle, config: Mapping[str, str]) -> TopicHandle:
        """Gives the topic these settings, checked ones, in place of those it has of its own."""
        self._check_directories(handle.name)
        retention_bytes, retention_ms = self._config.topic_retention(config)
        with _refusals(handle.name):
            topic = self._log.alter_topic(
                handle.topic,
                retention_bytes=retention_bytes,
                retention_ms=retention_ms,
                settings=pack_settings(config),
            )
        self._changed(handle.topic, topic)
        return self._by_name[handle.name]

    def trim(self, handle: TopicHandle, partition: int, offset: int) -> None:
        """Moves the log start of a partition up to `offset`. Raises OffsetOutOfRange besides."""
        self._check_directories(handle.name)
        with _refusals(handle.name):
            self._log.trim(handle.topic, partition, offset)
        self._promise(handle.topic.replication)

    def delete(self, handle: TopicHandle) -> None:
        self._check_directories(handle.name)
        with _refusals(handle.name):
            self._log.delete_topic(handle.topic)
        self._changed(handle.topic, None)

    def _check_room(self, name: str, topics: int, partitions: int) -> None:
        """Raises Refused where so many more would leave too few for internal topics."""
        self._refresh()
        for what, count, limit in (
            ("topics", self._count + topics, self._log.topics_max - RESERVED_TOPICS),
            ("partitions", self._partitions_count + partitions, self._log.partitions_max - RESERVED_PARTITIONS),
        ):
            if count > limit:
                raise Refused(ErrorCode.POLICY_VIOLATION, f"topic {name}: the limit {what} of {limit} is reached")

    def _refresh(self) -> None:
        version = self._log.topics_version
        if version == self._version:
            return
        self._by_name, self._by_id, self._by_collision_key = {}, {}, {}
        self._count = self._partitions_count = 0
        for topic in self._log.topics():
            self._learn(topic)
        self._version = version
        self._gone.clear()
        self._gone_count += 1

    def _check_directories(self, name: str) -> None:
        if self._replication.lost:
            message = f"topic {name}: no data directory can be written, so nothing was changed"
            raise Refused(ErrorCode.NOT_ENOUGH_REPLICAS, message)

    def _promise(self, level: int = 0) -> None:
        """The answer being made promises that everything so far is stored."""
        if self._replication.durable:
            self._replication.promise(self._log.frontiers().ordered - 1, level)

    def _changed(self, old: Topic | None, new: Topic | None) -> None:
        """Takes over one change made here. If the version moved by more, the next look-up reads the whole table."""
        self._promise(0 if new is None else new.replication)
        if old is not None:
            self._forget(old)
        if new is None and old is not None:
            self._gone += old.name, view.view_name(old.name)
            self._gone_count += 2
        if new is not None:
            self._learn(new)
        if self._log.topics_version == self._version + 1:
            self._version += 1

    def _learn(self, topic: Topic) -> None:
        config = unpack_settings(topic.settings)
        handle = TopicHandle(topic, topic.name, topic.id, topic.partitions, config=config)
        self._by_name[handle.name] = self._by_id[handle.id] = handle
        self._by_collision_key[_collision_key(handle.name)] = handle.name
        self._count_in(topic, 1)
        if view.has_view(topic):
            name, view_id = view.view_name(topic.name), view.view_id(topic.id)
            self._by_name[name] = self._by_id[view_id] = TopicHandle(topic, name, view_id, 1, True, config)

    def _count_in(self, topic: Topic, sign: int) -> None:
        if not topic.internal:
            self._count += sign
            self._partitions_count += sign * topic.partitions

    def _forget(self, topic: Topic) -> None:
        if topic.name in self._by_name:
            self._count_in(topic, -1)
        for name in (topic.name, view.view_name(topic.name)):
            handle = self._by_name.pop(name, None)
            if handle is not None:
                del self._by_id[handle.id]
        self._by_collision_key.pop(_collision_key(topic.name), None)
