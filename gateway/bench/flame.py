"""Flame graphs: stacks, counted, as one picture. Each box is a function, as wide as the share of samples that have it
there in their stacks; what it called stands above it.
"""

import zlib
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from html import escape
from pathlib import Path

Stacks = Counter[tuple[str, ...]]
"""How often each stack was seen, outermost function first."""

WIDTH = 1200
ROW = 17
MARGIN = 10
NARROWEST = 0.4
"""Pixels; what would be narrower is left out, with all above it."""
LETTER = 6.6
"""Pixels of a letter, about."""


@dataclass(slots=True)
class _Box:
    count: int = 0
    above: dict[str, "_Box"] = field(default_factory=dict)


def top(stacks: Stacks, most: int) -> list[tuple[str, float]]:
    """The functions that were running most often themselves, and the share of all samples that each had."""
    own: Counter[str] = Counter()
    for stack, count in stacks.items():
        own[stack[-1]] += count
    return [(name, count / own.total()) for name, count in own.most_common(most)]


def write(path: Path, stacks: Stacks, title: str) -> None:
    """Draws an SVG; a box tells its name and share when it is pointed at. OSError."""
    root = _tree(stacks)
    boxes = list(_boxes(root, "all", 0.0, 0, root.count))
    height = (max(row for *_, row in boxes) + 1) * ROW + 2 * MARGIN + ROW
    drawn = [_drawn(name, box, left, height - MARGIN - (row + 1) * ROW, root.count) for name, box, left, row in boxes]
    path.write_text(
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH + 2 * MARGIN}" height="{height}"'
        ' font-family="monospace" font-size="11">\n<rect width="100%" height="100%" fill="#fff"/>\n'
        f'<text x="{MARGIN}" y="{MARGIN + 8}" font-size="13">{escape(title)}</text>\n' + "\n".join(drawn) + "\n</svg>\n"
    )


def _tree(stacks: Stacks) -> _Box:
    root = _Box(stacks.total())
    for stack, count in stacks.items():
        at = root
        for name in stack:
            at = at.above.setdefault(name, _Box())
            at.count += count
    return root


def _boxes(box: _Box, name: str, left: float, row: int, total: int) -> Iterator[tuple[str, _Box, float, int]]:
    """(name, box, left edge, row), those that are wide enough. Not by recursion: stacks are deep."""
    waiting = [(name, box, left, row)]
    while waiting:
        name, box, left, row = waiting.pop()
        if box.count * WIDTH / total < NARROWEST:
            continue
        yield name, box, left, row
        for above in sorted(box.above):
            waiting.append((above, box.above[above], left, row + 1))
            left += box.above[above].count * WIDTH / total


def _drawn(name: str, box: _Box, left: float, y: int, total: int) -> str:
    width = box.count * WIDTH / total
    share = f"{escape(name)}, {box.count / total:.1%}"
    shade = zlib.crc32(name.encode()) % 60
    text = name if len(name) * LETTER <= width - 4 else name[: max(int((width - 4) / LETTER) - 1, 0)]
    label = f'<text x="{MARGIN + left + 2:.1f}" y="{y + 12}">{escape(text)}</text>' if len(text) > 1 else ""
    return (
        f'<g><title>{share}</title><rect x="{MARGIN + left:.1f}" y="{y}" width="{width:.1f}" height="{ROW - 1}"'
        f' fill="rgb(250,{130 + shade},{60 + shade})"/>{label}</g>'
    )
