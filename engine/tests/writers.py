"""Who writes which line of the shared structs, read from the comments of layout.h."""

import re
from dataclasses import dataclass, field

from totalog.engine.core_build import ROOT

HEADER = ROOT / "engine/core/layout.h"
TOKEN = re.compile(
    r"/\*(?P<comment>.*?)\*/|struct (?P<struct>\w+) \{|(?P<end>\};)|(?P<field>[\w ]+? \w+(?:\[\w+\])?);", re.DOTALL
)
LINES = re.compile(r"lines? (\d+)(?:-(\d+))?\. W: ([^.]+)")
WRITER = re.compile(r"W: ([^.-]+)")


@dataclass
class Struct:
    name: str
    default: str | None
    """Who writes all of it, where no comment of its own says more."""
    sections: dict[int, str] = field(default_factory=dict)
    """By line of 64 bytes."""
    fields: list[tuple[str, str | None]] = field(default_factory=list)
    """Name of each field, and the writer that the comment above it names."""

    def writer(self, line: int) -> str | None:
        return self.sections.get(line, None if self.sections else self.default)


def read(text: str) -> dict[str, Struct]:
    """The structs of the header by name."""
    structs: dict[str, Struct] = {}
    current: Struct | None = None
    heading: str | None = None
    section: str | None = None
    for token in TOKEN.finditer(text):
        comment = " ".join((token["comment"] or "").split())
        if token["struct"]:
            section = None
            current = structs.setdefault(token["struct"], Struct(token["struct"], heading))
        elif token["end"]:
            current = None
        elif comment and current is None:
            found = WRITER.search(comment)
            heading = " ".join(found[1].split()) if found else None
        elif comment and current is not None:
            section = read_section(current, comment) or section
        elif token["field"] and current is not None:
            current.fields.append((token["field"].split()[-1].split("[")[0], section))
    return structs


def read_section(struct: Struct, comment: str) -> str | None:
    found = LINES.match(comment)
    if found is None:
        return None
    for line in range(int(found[1]), int(found[2] or found[1]) + 1):
        if line in struct.sections:
            raise ValueError(f"{struct.name}: line {line} has two writers: {struct.sections[line]}; {found[3]}")
        struct.sections[line] = found[3].strip()
    return found[3].strip()


def explained_constants(text: str) -> list[tuple[str, str]]:
    """Each #define and the comment behind it."""
    found = re.findall(r"^#define (\w+) +\S+(?: +/\* (.*?) \*/)?$", text, re.MULTILINE)
    return [(name, comment) for name, comment in found]
