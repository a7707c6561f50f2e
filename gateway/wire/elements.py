"""Arrays of a request that are read from its frame element by element, so that a message of many small elements is
never there as objects all at once.

`reader_of` makes the reader of one message class in one version, a flat Python function as the guard's are, for bodies
that the guard has let pass: nothing is checked a second time. A message that it reads is the library's data class, but
that its arrays are `Elements`; those inside an element, too. The frame must not change as long as they are in use.

Where an array ends that is not walked yet was told by the guard (`Ends`).
"""

import struct
from collections.abc import Callable, Iterable, Iterator, Sized
from functools import partial
from typing import Any, Final, Protocol, TypeVar
from uuid import UUID

from totalog.gateway.wire.guard import SIZES, Ends, varint

Read = Callable[[memoryview, int, int, Ends], tuple[Any, int, int]]
"""read(body, at, slot, ends) -> what stands there, the position past it, and the next slot of `ends`."""

FORMATS: Final = {"bool": "?", "int8": "b", "int16": "h", "uint16": "H", "int32": "i", "int64": "q", "float64": "d"}
NO_UUID: Final = bytes(16)


T_co = TypeVar("T_co", covariant=True)


class Array(Sized, Iterable[T_co], Protocol[T_co]):
    """An array of a request."""


class Elements:
    """An array that is read each time it is iterated over."""

    __slots__ = ("_count", "_read")

    def __init__(self, count: int, read: Callable[[], Iterator[Any]]) -> None:
        self._count = count
        self._read = read

    def __len__(self) -> int:
        return self._count

    def __iter__(self) -> Iterator[Any]:
        return self._read()

    def __repr__(self) -> str:
        return f"<{self._count} elements>"


def _each(read: Read, body: memoryview, at: int, slot: int, ends: Ends, count: int) -> Iterator[Any]:
    for _ in range(count):
        element, at, slot = read(body, at, slot, ends)
        yield element


def _numbers(layout: struct.Struct, body: memoryview, at: int, count: int) -> Iterator[Any]:
    for (number,) in layout.iter_unpack(body[at : at + count * layout.size]):
        yield number


def reader_of(message: Any, version: int, flexible: bool, data_class: Any) -> Read:
    """The reader of a message class (its StructField in the library) in one version."""
    return _Code(version, flexible).reader_of(message, data_class)


class _Code:
    def __init__(self, version: int, flexible: bool) -> None:
        self.version, self.flexible = version, flexible
        self.lines = ["def read(body, at, slot, ends):"]
        self.names: dict[str, Any] = {
            "Elements": Elements,
            "each": _each,
            "new": object.__new__,
            "numbers": _numbers,
            "partial": partial,
            "uuid": _uuid,
            "varint": varint,
            "int16": struct.Struct(">h").unpack_from,
            "int32": struct.Struct(">i").unpack_from,
        }

    def reader_of(self, message: Any, data_class: Any) -> Read:
        self.names["data_class"] = data_class
        self.add("item = new(data_class)")
        self.add(f"item._version = {self.version}; item.tags = None; item.unknown_tags = None")
        run: list[Any] = []
        for field in message.untagged_fields(self.version):
            if field.type_str in FORMATS and not field.is_array():
                run.append(field)
                continue
            self.fixed(run)
            run = []
            self.field(field, f"item.{field.name}")
        self.fixed(run)
        if self.flexible:
            assert not message.tagged_fields(self.version)._fields, "no request that is read so has known tagged fields"
            self.tags()
        return self.compiled("item", message.name)

    def compiled(self, result: str, name: str) -> Read:
        self.add(f"return {result}, at, slot")
        exec(compile("\n".join(self.lines), f"<reader of {name} version {self.version}>", "exec"), self.names)
        read: Read = self.names["read"]
        return read

    def add(self, line: str) -> None:
        self.lines.append("    " + line)

    def name(self, value: Any) -> str:
        name = f"name_{len(self.names)}"
        self.names[name] = value
        return name

    def fixed(self, run: list[Any]) -> None:
        """Fields of fixed size that follow each other."""
        if run:
            layout = struct.Struct(">" + "".join(FORMATS[field.type_str] for field in run))
            targets = ", ".join(f"item.{field.name}" for field in run)
            self.add(f"{targets}, = {self.name(layout.unpack_from)}(body, at); at += {layout.size}")

    def field(self, field: Any, target: str) -> None:
        if field.is_array():
            self.array(field, target)
        elif field.type_str == "uuid":
            self.add(f"{target} = uuid(body, at); at += 16")
        elif field.type_str == "string":
            self.length("int16")
            self.add(f"{target} = None if size < 0 else str(body[at : at + size], 'utf-8')")
            self.add("if size > 0: at += size")
        else:
            assert field.type_str in ("bytes", "records"), f"{field.name} has the type {field.type_str}"
            self.length("int32")
            self.add(f"{target} = None if size < 0 else bytes(body[at : at + size])")
            self.add("if size > 0: at += size")

    def length(self, width: str) -> None:
        if self.flexible:
            self.add("size = body[at] - 1; at += 1")
            self.add("if size > 126: size, at = varint(body, at - 1); size -= 1")
        else:
            self.add(f"size, = {width}(body, at); at += {int(width[3:]) // 8}")

    def array(self, field: Any, target: str) -> None:
        self.length("int32")
        element = field.array_of
        if element.type_str in SIZES and not element.is_struct():
            layout = self.name(struct.Struct(">" + FORMATS[element.type_str]))
            made = f"Elements(size, partial(numbers, {layout}, body, at, size))"
            self.add(f"{target} = None if size < 0 else {made}")
            self.add(f"if size > 0: at += size * {SIZES[element.type_str]}")
            return
        inner = _Code(self.version, self.flexible)
        if element.is_struct():
            read = inner.reader_of(element, element.data_class)
        else:
            inner.field(element, "item")
            read = inner.compiled("item", field.name)
        made = f"Elements(size, partial(each, {self.name(read)}, body, at, slot + 2, ends, size))"
        self.add(f"{target} = None if size < 0 else {made}")
        self.add("at, slot = ends[slot], ends[slot + 1]")

    def tags(self) -> None:
        """Unknown tagged fields are passed over."""
        self.add("count, at = varint(body, at)")
        self.add("for _ in range(count):")
        self.add("    _, at = varint(body, at)")
        self.add("    size, at = varint(body, at)")
        self.add("    at += size")


def _uuid(body: memoryview, at: int) -> UUID | None:
    found = bytes(body[at : at + 16])
    return None if found == NO_UUID else UUID(bytes=found)
