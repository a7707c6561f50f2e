"""Checks a request body against its schema before the library decodes it.

Invariants, each one a way in which a decoder without them can be hurt:
- a varint ends within 5 bytes (without this limit, n bytes of 0xff cost n squared);
- a declared length or count fits into the bytes that are left, a count at the least size of its elements, before
  anything is allocated for it;
- all arrays of a message together have at most ELEMENTS_COUNT_MAX elements, since a few bytes become an object each;
- a string has at most STRING_SIZE_MAX bytes, in either encoding: what comes in by one may go out by the other;
- a string is UTF-8;
- null stands only where the schema allows it, and -1 is the only negative length;
- at most TAGGED_FIELDS_COUNT_MAX tagged fields in one message, since the library copies the rest of the frame for each.

Bytes behind the message are not looked at: Kafka ignores them, and librdkafka sends some.

From the schema of one API and version a flat Python function is generated, as the library does for its decoders: a
walker over a description of the schema took nine times as long as the decoding that follows. The position `at` only
grows, and reading a length beyond the end raises, so that one comparison at the end of the message finds whatever was
cut off. It goes in steps, and tells where arrays end, for those who read the message element by element (`elements`).
"""

import struct
from array import array
from collections.abc import Callable, Generator
from dataclasses import dataclass
from functools import partial
from typing import Any, NoReturn, TypeAlias

from totalog.gateway.limits import ELEMENTS_COUNT_MAX, STRING_SIZE_MAX, TAGGED_FIELDS_COUNT_MAX, VARINT_SIZE_MAX
from totalog.gateway.wire.errors import ProtocolViolation

SIZES = {"bool": 1, "int8": 1, "int16": 2, "uint16": 2, "int32": 4, "int64": 8, "float64": 8, "uuid": 16, "bitfield": 4}
"""Bytes of the types of fixed size."""

TAGS, ELEMENTS = 0, 1

ELEMENTS_A_STEP = 1024

Ends: TypeAlias = "array[int]"
"""For each array whose elements differ in size, in the order in which they begin: the position behind it, and how many
of these numbers there were by then."""

Check = Callable[[memoryview, int, int, list[int]], int]
"""check(body, at, end, left) -> the position past what was checked. How many tagged fields and array elements may still
come counts down in left[TAGS] and left[ELEMENTS]."""


@dataclass(frozen=True, slots=True)
class Checked:
    """A sound message."""

    size: int
    """Bytes of the body that are the message."""
    elements: int
    """Of all arrays in it."""
    ends: Ends


Guard = Callable[..., Generator[None, None, Checked]]
"""guard(body, elements_max=ELEMENTS_COUNT_MAX): goes in steps, and raises ProtocolViolation."""


def guard_of(message: Any, version: int, flexible: bool) -> Guard:
    """The check of one message class (its StructField in the library) in one version."""
    code = _Code(version, flexible, flexible, whole=True)
    check: Any = code.check_of(message.name, partial(_Code.struct, message=message))

    def guard(body: memoryview, elements_max: int = ELEMENTS_COUNT_MAX) -> Generator[None, None, Checked]:
        end, left, ends = len(body), [TAGGED_FIELDS_COUNT_MAX, elements_max], array("I")
        try:
            at = yield from check(body, 0, end, left, ends)
        except (IndexError, struct.error):
            at = end + 1
        except _TooMany:
            raise ProtocolViolation(f"more than {elements_max} array elements in one message") from None
        except UnicodeDecodeError as error:
            raise ProtocolViolation(f"{message.name} does not parse: {error}") from None
        if at > end:
            raise ProtocolViolation(f"{message.name} is cut off, or declares more than its {end} bytes")
        return Checked(at, elements_max - left[ELEMENTS], ends)

    return guard


class _Code:
    """The source of one check. `tagged` None means an empty section of tagged fields, as the library writes them inside
    tagged structs. `whole`: of a whole message, which goes in steps and tells ends."""

    def __init__(self, version: int, compact: bool, tagged: bool | None, *, whole: bool = False) -> None:
        self.version, self.compact, self.tagged, self.whole = version, compact, tagged, whole
        self.lines: list[str] = []
        self.indent = 0
        self.names: dict[str, Any] = {
            "int16": struct.Struct(">h").unpack_from,
            "int32": struct.Struct(">i").unpack_from,
            "varint": varint,
            "tags": _tags,
            "refuse": _refuse,
            "too_many": _too_many,
        }

    def check_of(self, name: str, write: "Callable[[_Code], None]") -> Check:
        """Compiles what `write` writes."""
        self.add("def check(body, at, end, left, ends):" if self.whole else "def check(body, at, end, left):")
        self.indent = 1
        if self.whole:
            self.add("turn = 0")
            self.add("if False: yield")
        write(self)
        self.add("return at")
        exec(compile("\n".join(self.lines), f"<guard of {name} version {self.version}>", "exec"), self.names)
        check: Check = self.names["check"]
        return check

    def add(self, line: str) -> None:
        self.lines.append("    " * self.indent + line)

    def struct(self, message: Any) -> None:
        fixed = 0
        for field in message.untagged_fields(self.version):
            if field.type_str in SIZES and not field.is_array():
                fixed += SIZES[field.type_str]
                continue
            self.skip(fixed)
            fixed = 0
            self.field(field)
        self.skip(fixed)
        if self.tagged is not False:
            self.tag_section(message)

    def skip(self, size: int) -> None:
        if size:
            self.add(f"at += {size}")

    def field(self, field: Any) -> None:
        if field.is_array():
            self.array(field)
        elif field.is_struct():
            self.nullable_struct(field) if field.nullable_for_version_q(self.version) else self.struct(field)
        elif field.type_str in SIZES:
            self.skip(SIZES[field.type_str])
        else:
            self.length(field, "int16" if field.type_str == "string" else "int32")
            if self.compact and field.type_str == "string":
                self.add(f"if size > {STRING_SIZE_MAX}: refuse({field.name!r}, size)")
            if field.type_str == "string":
                self.add("str(body[at : at + size], 'utf-8')")
            self.add("at += size")

    def length(self, field: Any, width: str) -> None:
        """Reads a length or count into `size`; null becomes 0 where it is allowed."""
        if self.compact:
            self.add("size = body[at] - 1; at += 1")
            self.add("if size > 126: size, at = varint(body, at - 1); size -= 1")
        else:
            self.add(f"size, = {width}(body, at); at += {int(width[3:]) // 8}")
        if field.nullable_for_version_q(self.version):
            self.add(f"if size < 0: size = 0 if size == -1 else refuse({field.name!r}, size)")
        else:
            self.add(f"if size < 0: refuse({field.name!r}, size)")

    def array(self, field: Any) -> None:
        self.length(field, "int32")
        element = field.array_of
        self.add(f"if size * {self.size_min(element)} > end - at: refuse({field.name!r}, size)")
        self.add(f"left[{ELEMENTS}] -= size")
        self.add(f"if left[{ELEMENTS}] < 0: too_many()")
        if element.type_str in SIZES and not element.is_struct():
            self.add(f"at += size * {SIZES[element.type_str]}")
            return
        slot = f"slot_{self.indent}"
        if self.whole:
            self.add(f"{slot} = len(ends); ends.append(0); ends.append(0)")
        self.add("for _ in range(size):")
        self.indent += 1
        if self.whole:
            self.add("turn += 1")
            self.add(f"if not turn % {ELEMENTS_A_STEP}: yield")
        self.struct(element) if element.is_struct() else self.field(element)
        self.indent -= 1
        if self.whole:
            self.add(f"ends[{slot}] = at; ends[{slot} + 1] = len(ends)")

    def nullable_struct(self, field: Any) -> None:
        """A byte in front says whether the struct is there (KIP-893)."""
        self.add("at += 1")
        self.add("if body[at - 1] != 0xFF:")
        self.indent += 1
        self.struct(field)
        self.indent -= 1

    def tag_section(self, message: Any) -> None:
        known = f"known_{len(self.names)}"
        self.names[known] = {}
        for field in message.tagged_fields(self.version)._fields if self.tagged else ():
            contents = _Code(self.version, True, None)
            self.names[known][field.tag] = contents.check_of(field.name, partial(_Code.field, field=field))
        self.add("at += 1")
        self.add(f"if body[at - 1]: at = tags(body, at - 1, end, left, {known})")

    def size_min(self, field: Any) -> int:
        """Least bytes that a field takes."""
        if field.is_struct() and not field.nullable_for_version_q(self.version):
            inside = sum(self.size_min(inner) for inner in field.untagged_fields(self.version))
            return inside + (self.tagged is not False)
        if field.type_str in SIZES and not field.is_array():
            return SIZES[field.type_str]
        if self.compact or field.is_struct():
            return 1
        return 2 if field.type_str == "string" and not field.is_array() else 4


def _refuse(name: str, length: int) -> NoReturn:
    raise ProtocolViolation(f"{name} has the length {length}")


class _TooMany(Exception):
    """Array elements, of all arrays."""


def _too_many() -> NoReturn:
    raise _TooMany


def varint(body: memoryview, at: int) -> tuple[int, int]:
    """The value of an unsigned varint, and the position past it. Raises IndexError where it is cut off."""
    value = 0
    for index in range(VARINT_SIZE_MAX):
        byte = body[at + index]
        value |= (byte & 0x7F) << 7 * index
        if byte < 0x80:
            return value, at + index + 1
    raise ProtocolViolation(f"a varint is longer than {VARINT_SIZE_MAX} bytes")


def _tags(body: memoryview, at: int, end: int, left: list[int], known: dict[int, Check]) -> int:
    """Checks a section of tagged fields that is not empty."""
    count, at = varint(body, at)
    left[TAGS] -= count
    if left[TAGS] < 0:
        raise ProtocolViolation(f"more than {TAGGED_FIELDS_COUNT_MAX} tagged fields")
    for _ in range(count):
        tag, at = varint(body, at)
        size, at = varint(body, at)
        past = at + size
        if past > end:
            _refuse(f"tagged field {tag}", size)
        if tag in known and known[tag](body, at, past, left) != past:
            raise ProtocolViolation(f"tagged field {tag} does not have the {size} bytes that it declares")
        at = past
    return at
