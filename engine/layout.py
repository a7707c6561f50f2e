"""The region's layout as Python sees it: read from the compiled core, so that it cannot disagree with it."""

import hashlib
from dataclasses import dataclass

from totalog.engine._core import ffi, lib

STRUCTS = (
    "region_header",
    "control",
    "broker_entry",
    "pin",
    "extent",
    "topic_entry",
    "topic_counter",
    "partition_entry",
    "batch_header",
    "completion",
    "order_slot",
    "order_entry",
    "partition_element",
    "block_entry",
    "producer_batch",
    "producer_entry",
    "snapshot_header",
    "topic_operation",
)
LIMIT_ENDINGS = ("_MAX", "_SIZE", "_SLOTS", "_POSITION", "_BATCHES", "_PER_PAGE")
LIMITS = tuple(name for name in dir(lib) if name.endswith(LIMIT_ENDINGS))


@dataclass(frozen=True, slots=True)
class Field:
    struct: str
    name: str
    position: int
    """Bytes from the start of the struct."""
    size: int
    type: str


def fields(struct: str) -> list[Field]:
    """Every field of a shared struct, in order."""
    described = ffi.typeof(f"struct {struct}").fields
    assert described is not None
    return [Field(struct, name, field.offset, ffi.sizeof(field.type), field.type.cname) for name, field in described]


def layout_id() -> int:
    """64 bits over every field and every limit. A region that another layout made has another id."""
    text = [f"{limit}={getattr(lib, limit)}" for limit in LIMITS]
    text += [repr(field) for struct in STRUCTS for field in fields(struct)]
    return int.from_bytes(hashlib.blake2b("\n".join(text).encode(), digest_size=8).digest(), "little")
