"""A topic as the log describes it."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Topic:
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
