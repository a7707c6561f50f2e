"""Checks a request body against its schema before the library decodes it.

Invariants, each one a way in which a decoder without them can be hurt:
- a varint ends within 5 bytes (without this limit, n bytes of 0xff cost n squared);
- a declared length or count fits into the bytes that are left, a count at the least size of its elements, before
  anything is allocated for it;
- null stands only where the schema allows it, and -1 is the only negative length;
- at most TAGGED_FIELDS_COUNT_MAX tagged fields in one message, since the library copies the rest of the frame for each.

Bytes behind the message are not looked at: Kafka ignores them, and librdkafka sends some.

A schema becomes a plan once per API and version: a list of steps that one small walker follows. The walker reads
lengths and skips contents, so that it costs less than the decoding that follows.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from totalog.gateway.limits import TAGGED_FIELDS_COUNT_MAX, VARINT_SIZE_MAX
from totalog.gateway.wire.errors import ProtocolViolation

SIZES = {"bool": 1, "int8": 1, "int16": 2, "uint16": 2, "int32": 4, "int64": 8, "float64": 8, "uuid": 16, "bitfield": 4}


@dataclass(frozen=True, slots=True)
class Skip:
    """Fields of fixed size."""

    size: int


@dataclass(frozen=True, slots=True)
class Run:
    """A length and that many bytes: a string, bytes or records."""

    name: str
    width: int
    """Bytes of the length; 0: a varint of the length plus one."""
    nullable: bool


@dataclass(frozen=True, slots=True)
class Array:
    name: str
    width: int
    nullable: bool
    element_size: int | None
    """Bytes of each element, where all have the same size."""
    element: "Plan"


@dataclass(frozen=True, slots=True)
class Nullable:
    """A struct that a byte in front of it may declare absent (KIP-893)."""

    plan: "Plan"


@dataclass(frozen=True, slots=True)
class Tags:
    known: "dict[int, Plan]"


Plan = list[Skip | Run | Array | Nullable | Tags]


def guard_of(struct: Any, version: int, flexible: bool) -> Callable[[memoryview], int]:
    """The check of one message class (its StructField in the library) in one version: it takes a body, returns how many
    bytes of it are the message, and raises ProtocolViolation."""
    plan = _plan_struct(struct, version, flexible, flexible)
    return lambda body: Walker(body).walk(plan, 0)


def _plan_struct(struct: Any, version: int, compact: bool, tagged: bool | None) -> Plan:
    """The plan of a StructField of the library. `tagged` None: an empty tag section, as inside tagged structs."""
    plan: Plan = []
    for field in struct.untagged_fields(version):
        _plan_field(plan, field, version, compact, tagged)
    if tagged:
        known: dict[int, Plan] = {}
        for field in struct.tagged_fields(version)._fields:
            _plan_field(known.setdefault(field.tag, []), field, version, True, None)
        plan.append(Tags(known))
    elif tagged is None:
        plan.append(Tags({}))
    return plan


def _plan_field(plan: Plan, field: Any, version: int, compact: bool, tagged: bool | None) -> None:
    nullable = field.nullable_for_version_q(version)
    if field.is_array():
        element: Plan = []
        _plan_field(element, field.array_of, version, compact, tagged)
        fixed = element[0].size if len(element) == 1 and isinstance(element[0], Skip) else None
        plan.append(Array(field.name, 0 if compact else 4, nullable, fixed, element))
    elif field.is_struct():
        inside = _plan_struct(field, version, compact, tagged)
        if nullable:
            plan.append(Nullable(inside))
        else:
            plan.extend(inside)
    elif field.type_str in SIZES:
        size = SIZES[field.type_str]
        if plan and isinstance(plan[-1], Skip):
            size += plan.pop().size  # type: ignore[union-attr]
        plan.append(Skip(size))
    else:
        width = 0 if compact else 2 if field.type_str == "string" else 4
        plan.append(Run(field.name, width, nullable))


def size_min(plan: Plan) -> int:
    """Least bytes that a message of this plan takes."""
    return sum(step.size if isinstance(step, Skip) else _width_min(step) for step in plan)


def _width_min(step: Run | Array | Nullable | Tags) -> int:
    return (step.width or 1) if isinstance(step, Run | Array) else 1


class Walker:
    """Follows a plan through one body. Raises ProtocolViolation at the first thing that does not fit."""

    __slots__ = ("body", "end", "tags_left")

    def __init__(self, body: memoryview) -> None:
        self.body = body
        self.end = len(body)
        self.tags_left = TAGGED_FIELDS_COUNT_MAX

    def walk(self, plan: Plan, at: int) -> int:
        """The position past the message that starts at `at`."""
        for step in plan:
            if isinstance(step, Skip):
                at = self._skip(at, step.size)
            elif isinstance(step, Run):
                size, at = self._length(step, at)
                at = self._skip(at, size)
            elif isinstance(step, Array):
                at = self._array(step, at)
            elif isinstance(step, Nullable):
                present = self._skip(at, 1)
                at = present if self.body[at] == 0xFF else self.walk(step.plan, present)
            else:
                at = self._tags(step, at)
        return at

    def _skip(self, at: int, size: int) -> int:
        if size > self.end - at:
            raise ProtocolViolation(f"{size} bytes are declared where {self.end - at} are left")
        return at + size

    def _array(self, step: Array, at: int) -> int:
        count, at = self._length(step, at)
        if step.element_size is not None:
            return self._skip(at, count * step.element_size)
        if count * size_min(step.element) > self.end - at:
            raise ProtocolViolation(f"{step.name} declares {count} elements where {self.end - at} bytes are left")
        for _ in range(count):
            at = self.walk(step.element, at)
        return at

    def _length(self, step: Run | Array, at: int) -> tuple[int, int]:
        """The declared length or count (0 for null) and where the contents start."""
        if step.width:
            past = self._skip(at, step.width)
            length = int.from_bytes(self.body[at:past], "big", signed=True)
        else:
            length, past = self._varint(at)
            length -= 1
        if length < 0:
            if length != -1 or not step.nullable:
                raise ProtocolViolation(f"{step.name} has the length {length}")
            length = 0
        return length, past

    def _varint(self, at: int) -> tuple[int, int]:
        value = 0
        for index in range(VARINT_SIZE_MAX):
            if at + index >= self.end:
                raise ProtocolViolation("the request ends inside a varint")
            byte = self.body[at + index]
            value |= (byte & 0x7F) << 7 * index
            if byte < 0x80:
                return value, at + index + 1
        raise ProtocolViolation(f"a varint is longer than {VARINT_SIZE_MAX} bytes")

    def _tags(self, step: Tags, at: int) -> int:
        count, at = self._varint(at)
        self.tags_left -= count
        if self.tags_left < 0:
            raise ProtocolViolation(f"more than {TAGGED_FIELDS_COUNT_MAX} tagged fields")
        for _ in range(count):
            tag, at = self._varint(at)
            size, at = self._varint(at)
            past = self._skip(at, size)
            if tag in step.known and self.walk(step.known[tag], at) != past:
                raise ProtocolViolation(f"tagged field {tag} does not have the {size} bytes that it declares")
            at = past
        return at
