"""A topic as the log describes it, what the core's structs say of it, and why an operation on it was refused."""

from typing import Any, NamedTuple

from totalog.engine._core import lib
from totalog.engine.errors import (
    EngineError,
    LimitReached,
    OffsetOutOfRange,
    OutOfMemory,
    TopicExists,
    UnknownTopic,
)


class Topic(NamedTuple):
    """One live topic. `slot` and `generation` together name it for ever: a slot is used again, a generation never."""

    slot: int
    generation: int
    name: str
    id: bytes
    """16 bytes."""
    partitions: int
    order_level: int = 5
    """5: total order over all partitions; 0: order inside partitions only."""
    retention_bytes: int = -1
    """Of one partition; -1: no limit."""
    retention_ms: int = -1
    """-1: no limit."""
    internal: bool = False
    settings: bytes = b""
    """Opaque to the engine."""
    memory: bool = False
    """Its batches are never written to a data directory. Fixed when the topic is made."""
    visible_when_ordered: bool = False
    """Readers see a batch as soon as it is ordered, before it is durable."""
    replication: int = 1
    """Data directories that a batch must be durable on, 1 to 15; fewer where there are fewer."""


def flags_of(topic: Topic) -> int:
    """The topic's TOPIC_FLAG_* and replication, in one word."""
    assert 1 <= topic.replication <= lib.TOPIC_REPLICATION_MASK
    flags = topic.replication << lib.TOPIC_REPLICATION_SHIFT
    flags |= lib.TOPIC_FLAG_INTERNAL if topic.internal else 0
    flags |= lib.TOPIC_FLAG_MEMORY if topic.memory else 0
    return int(flags | (lib.TOPIC_FLAG_VISIBLE_ORDERED if topic.visible_when_ordered else 0))


def described_by(flags: int) -> dict[str, Any]:
    """The fields of a `Topic` that such a word says."""
    return {
        "internal": bool(flags & lib.TOPIC_FLAG_INTERNAL),
        "memory": bool(flags & lib.TOPIC_FLAG_MEMORY),
        "visible_when_ordered": bool(flags & lib.TOPIC_FLAG_VISIBLE_ORDERED),
        "replication": max(flags >> lib.TOPIC_REPLICATION_SHIFT & lib.TOPIC_REPLICATION_MASK, 1),
    }


def error_of(status: int, topic: Topic, limit: int = 0) -> EngineError:
    """What a STATUS_* other than STATUS_OK is raised as; `limit`: a LIMIT_*."""
    match status:
        case lib.STATUS_TOPIC_EXISTS:
            return TopicExists(f"a topic {topic.name!r} exists")
        case lib.STATUS_UNKNOWN_TOPIC:
            return UnknownTopic(f"there is no topic {topic.name!r} in slot {topic.slot}, generation {topic.generation}")
        case lib.STATUS_OUT_OF_MEMORY:
            return OutOfMemory("no free block is left, and nothing may be freed")
        case lib.STATUS_OFFSET_OUT_OF_RANGE:
            return OffsetOutOfRange(f"the offset lies outside topic {topic.name!r}")
        case lib.STATUS_LIMIT_REACHED:
            return LimitReached(*_LIMITS[limit])
        case _:
            return EngineError(f"the operation on topic {topic.name!r} is not valid (status {status})")


_LIMITS = {
    lib.LIMIT_TOPICS: ("topics", lib.TOPICS_MAX - 1),
    lib.LIMIT_PARTITIONS: ("partitions", lib.PARTITIONS_MAX - 1),
    lib.LIMIT_EXTENTS: ("extensions of one topic", lib.EXTENTS_MAX),
    lib.LIMIT_SETTINGS: ("bytes of topic settings", lib.SETTINGS_SIZE_MAX),
    lib.LIMIT_NAME: ("bytes of a topic name", lib.TOPIC_NAME_SIZE - 1),
}
