"""Requests that are sound and mean nothing: each field has, at random, a value that it may have, and often one that is
on an edge."""

import uuid
from collections.abc import Mapping
from random import Random
from typing import Any

from totalog.gateway.tests.batches import build

STRINGS = ("", "orders", "orders.total-order", "nobody", "bad name", "x" * 250, "0", "retention.ms", "delete", "\u00e9")
BYTES = (b"", b"x", build(), build()[:-1])
SMALL = (-1, 0, 1, 2, 7)
KEPT_SMALL = ("num_partitions", "count")
"""What is made in that number."""
ELEMENTS_MAX = 3


def odd(random: Random, message: Any, version: int, own: Mapping[str, tuple[Any, ...]]) -> dict[str, Any]:
    """Fields for a message class of the library. `own`: values for fields of these names."""
    return {
        name: _value(random, name, field, version, own)
        for name, field in message._struct.fields.items()
        if field._versions[0] <= version <= field._versions[1] and field._tag is None
    }


def _value(random: Random, name: str, field: Any, version: int, own: Mapping[str, tuple[Any, ...]]) -> Any:
    nullable = field._nullable_versions
    if nullable is not None and nullable[0] <= version <= nullable[1] and random.random() < 0.2:
        return None
    count = random.randint(0, ELEMENTS_MAX)
    if field.is_struct_array():
        return [odd(random, field.data_class, version, own) for _ in range(count)]
    kind: str = field._type_str
    if kind.startswith("[]"):
        return [_scalar(random, name, kind[2:], own) for _ in range(count)]
    return _scalar(random, name, kind, own)


def _scalar(random: Random, name: str, kind: str, own: Mapping[str, tuple[Any, ...]]) -> Any:
    if name in own:
        return random.choice(own[name])
    if kind.startswith("int"):
        most = (1 << int(kind[3:]) - 1) - 1
        return random.choice(SMALL if name in KEPT_SMALL else (*SMALL, 0, 1, most, -most - 1))
    match kind:
        case "bool":
            return random.random() < 0.5
        case "string":
            return random.choice(STRINGS)
        case "uuid":
            return random.choice((None, uuid.UUID(int=1), uuid.UUID(int=5)))
        case "bytes" | "records":
            return random.choice(BYTES)
    raise AssertionError(f"{name}: {kind}")
