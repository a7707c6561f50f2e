"""The region's layout as Python sees it: read from the compiled core, so that it cannot disagree with it."""

import functools
import hashlib
from typing import NamedTuple

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
    "trim_row",
)
LIMIT_ENDINGS = ("_MAX", "_SIZE", "_SLOTS", "_POSITION", "_BATCHES", "_PER_PAGE")
NOT_IN_A_REGION = ("OPEN_", "LIMIT_", "JOURNAL_", "DAMAGE_", "DISK_")
LIMITS = tuple(name for name in dir(lib) if name.endswith(LIMIT_ENDINGS) and not name.startswith(NOT_IN_A_REGION))
CONSTANTS = tuple(name for name in dir(lib) if name.isupper() and not name.startswith(NOT_IN_A_REGION))
"""All that may stand in a region or decide where something stands: the limits, and the values of the enums."""


class Field(NamedTuple):
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


def table() -> str:
    """One line for each constant, struct and field: all that two builds must agree on to share a region."""
    lines = [f"{name} = {getattr(lib, name)}" for name in CONSTANTS]
    for struct in STRUCTS:
        size = ffi.sizeof(f"struct {struct}")
        lines.append(f"struct {struct}: {size} bytes")
        lines += [f"  {field.position:>4} {field.size:>4} {field.type} {field.name}" for field in fields(struct)]
    return "\n".join(lines) + "\n"


@functools.cache
def layout_id() -> int:
    """64 bits over the table. A region that another layout made has another id."""
    return id_of(table())


def id_of(table: str) -> int:
    return int.from_bytes(hashlib.blake2b(table.encode(), digest_size=8).digest(), "little")
