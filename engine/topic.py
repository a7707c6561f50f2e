"""A topic as the log describes it."""

from typing import NamedTuple


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
