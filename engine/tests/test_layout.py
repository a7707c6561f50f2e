"""The memory layout: pinned by a golden table, and the laws that can be read off it.

After a wanted change: `python -m totalog.engine.tests.memory_map` writes the golden table and the README's map anew.
"""

import re

import pytest

from totalog.engine import layout
from totalog.engine._core import ffi, lib
from totalog.engine.core_build import ROOT
from totalog.engine.tests import memory_map, writers

CORE = ROOT / "engine/core"
LINE = lib.LINE_SIZE


def test_golden_table() -> None:
    assert layout.table() == memory_map.GOLDEN.read_text()


def test_the_map_in_the_readme() -> None:
    readme = memory_map.README.read_text()
    assert readme == memory_map.with_map(readme)


def test_every_struct_and_constant_of_the_header_is_in_the_table() -> None:
    text = writers.HEADER.read_text()
    assert set(re.findall(r"^struct (\w+) \{", text, re.MULTILINE)) == set(layout.STRUCTS)
    code = re.sub(r"/\*.*?\*/", "", text, flags=re.DOTALL)
    names = set(re.findall(r"#define (\w+)", code))
    for enum in re.findall(r"enum \{(.*?)\}", code, re.DOTALL):
        names |= set(re.findall(r"(\w+) =", enum))
    assert names <= set(layout.CONSTANTS)


def test_every_change_gives_another_id() -> None:
    table = layout.table()
    ids = {layout.id_of(table)}
    lines = table.splitlines()
    for number, line in enumerate(lines):
        changed = [
            *lines[:number],
            re.sub(r"\d+", lambda found: str(int(found[0]) + 1), line, count=1) + "x",
            *lines[number + 1 :],
        ]
        ids.add(layout.id_of("\n".join(changed)))
        ids.add(layout.id_of("\n".join(lines[:number] + lines[number + 1 :])))
    assert len(ids) == 2 * len(lines) + 1
    assert layout.layout_id() == layout.id_of(table)


def test_fields_leave_no_gap_and_do_not_overlap() -> None:
    for struct in layout.STRUCTS:
        end = 0
        for field in layout.fields(struct):
            assert field.position == end, f"{struct}.{field.name}: padding is written out"
            end += field.size
        assert end == ffi.sizeof(f"struct {struct}")


def areas() -> list[tuple[str, int, int]]:
    """(name, position, size) of the parts of the fixed part."""
    size = ffi.sizeof
    per_topic = size("struct topic_entry") + lib.BROKERS_MAX * size("struct topic_counter")
    return [
        ("region header", 0, size("struct region_header")),
        ("control block", lib.CONTROL_POSITION, size("struct control")),
        ("broker table", lib.BROKER_TABLE_POSITION, lib.BROKERS_MAX * size("struct broker_entry")),
        ("pin table", lib.PIN_TABLE_POSITION, lib.BROKERS_MAX * lib.PINS_MAX * size("struct pin")),
        ("topic table", lib.TOPIC_TABLE_POSITION, lib.TOPICS_MAX * per_topic),
        ("partition table", lib.PARTITION_TABLE_POSITION, lib.PARTITIONS_MAX * size("struct partition_entry")),
        ("batch rings", lib.BATCH_RING_POSITION, lib.BROKERS_MAX * lib.RING_SLOTS * size("struct batch_header")),
        ("completions", lib.COMPLETION_POSITION, lib.BROKERS_MAX * lib.RING_SLOTS * size("struct completion")),
        ("order ring", lib.ORDER_RING_POSITION, lib.ORDER_RING_SLOTS * size("struct order_slot")),
        ("producer snapshots", lib.SNAPSHOT_POSITION, 2 * lib.SNAPSHOT_SIZE),
    ]


def test_areas_do_not_overlap() -> None:
    end = 0
    for name, position, size in areas():
        assert position >= end, name
        assert position % LINE == 0, name
        end = position + size
    assert end == lib.FIXED_SIZE
    assert lib.SNAPSHOT_SIZE >= ffi.sizeof("struct snapshot_header") + lib.PRODUCERS_MAX * ffi.sizeof(
        "struct producer_entry"
    )


STRUCTS = writers.read(writers.HEADER.read_text())
PARTS = {"extent", "producer_batch"}
"""Parts of other structs, whose lines have the writer."""


@pytest.mark.parametrize("struct", [name for name in layout.STRUCTS if name not in PARTS])
def test_one_writer_per_line(struct: str) -> None:
    read = STRUCTS[struct]
    fields = layout.fields(struct)
    assert [name for name, _ in read.fields] == [field.name for field in fields]
    lines: dict[int, set[str | None]] = {}
    for field, (_, section) in zip(fields, read.fields, strict=True):
        for line in range(field.position // LINE, (field.position + field.size - 1) // LINE + 1):
            lines.setdefault(line, set()).add(section if read.sections else read.default)
            assert read.writer(line) is not None, f"{struct}.{field.name} has no writer"
    for line, found in lines.items():
        assert found == {read.writer(line)}, f"line {line} of {struct}"


def test_parts_stand_in_structs_that_have_writers() -> None:
    types = {field.type.split("[")[0] for struct in layout.STRUCTS for field in layout.fields(struct)}
    assert {f"struct {part}" for part in PARTS} <= types


def test_entries_of_different_writers_share_no_line() -> None:
    for name, struct, count in (
        ("one broker's pins", "pin", lib.PINS_MAX),
        ("one topic's counters", "topic_counter", 1),
    ):
        assert ffi.sizeof(f"struct {struct}") * count % LINE == 0, name
    whole_lines = set(layout.STRUCTS) - PARTS - {"pin", "partition_element", "topic_operation", "trim_row"}
    for struct in whole_lines:
        assert ffi.sizeof(f"struct {struct}") % LINE == 0, struct


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("struct a {\n/* line 0. W: one */\nuint64_t b;\n/* line 0. W: two */\nuint64_t c;\n};", "two writers"),
        ("/* no one */\nstruct a {\nuint64_t b;\n};", "None"),
    ],
)
def test_the_reader_of_writers_bites(text: str, message: str) -> None:
    try:
        found = str(writers.read(text)["a"].writer(0))
    except ValueError as error:
        found = str(error)
    assert message in found


# -- the seam: only mem.h and mem_*.c touch region bytes

SEAM = re.compile(
    r"\bvolatile\b|__atomic|__sync|\b_mm_|\b_Atomic\b|\batomic_|stdatomic|\basm\b|__asm__|__builtin_ia32"
    r"|\bmem_at\b|\bmem_machine_|\bmem\.base\b|->base\b|\bmem_reserved\([^;]*\)\s*[\[+]|\bmem_pages\([^;]*\)\s*[\[+]"
    r"|\b(?:s|l|m)fence\b|\bclflush|\bclwb\b|\bdsb\b|\bdc c"
)


def code_of(path: str) -> str:
    """The C text without comments and strings."""
    text = (CORE / path).read_text()
    return re.sub(r'/\*.*?\*/|"(?:[^"\\]|\\.)*"', "", text, flags=re.DOTALL)


OUTSIDE = sorted(path.name for path in CORE.glob("*.[ch]") if not path.name.startswith(("mem", "crc32c.")))
"""(The processor's instruction for checksums needs assembly, and sees no region.)"""


@pytest.mark.parametrize("path", OUTSIDE)
def test_seam(path: str) -> None:
    found = [match[0] for match in SEAM.finditer(code_of(path))]
    assert found == []


def test_the_seam_is_where_the_pattern_finds_it() -> None:
    words = {match[0] for path in ("mem.h", "mem_x86_64.c", "mem_arm64.c") for match in SEAM.finditer(code_of(path))}
    assert {"__atomic", "mem_at", "->base", "_mm_", "__asm__", "mem_machine_", "volatile"} <= words


@pytest.mark.parametrize("path", OUTSIDE)
def test_numbers_become_addresses_only_for_the_callers_own_memory(path: str) -> None:
    """A cast from a number to a pointer is the one other way into the region: the casts that there are, by heart."""
    casts = re.findall(r"\([a-z_0-9 ]+\*\)\(uintptr_t\)([\w>.-]+|\([^)]*\))", code_of(path))
    allowed = {
        "append.c": {"append->source"},
        "archive.c": {"batches", "target"},
        "read.c": {"(copy->target + result->copied)", "batches"},
    }
    assert set(casts) <= allowed.get(path, set())
