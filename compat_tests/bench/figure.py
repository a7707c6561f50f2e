"""A picture of ratios, drawn as SVG text: for each row one bar a peer, from 1 to the right where we are faster, to the
left where the peer is. The scale is logarithmic, so twice as fast and half as fast are bars of the same length.
"""

import math
from collections.abc import Mapping, Sequence
from html import escape

WIDTH, LABELS, MARGIN = 860, 330, 12
BAR, GAP, AXIS = 11, 9, 24
LETTER = 6.7
"""Pixels of a letter, about."""
COLOURS = ("#4269d0", "#efb118", "#3ca951", "#ff725c")
TICKS = (0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 50, 100)

Rows = Mapping[str, Mapping[str, float]]
"""What was measured -> peer -> ratio."""


def draw(rows: Rows, peers: Sequence[str], title: str, note: str) -> str:
    """`peers` in the order of their colours. ValueError where there is nothing to draw."""
    ratios = [ratio for row in rows.values() for ratio in row.values()]
    if not ratios or min(ratios) <= 0:
        raise ValueError("ratios are above 0, and there is at least one")
    ticks = _ticks(min(*ratios, 0.5), max(*ratios, 2.0))
    scale = _Scale(ticks[0], ticks[-1])
    parts, y = list(_legend(peers, title)), 3 * AXIS
    top = y
    for name, row in rows.items():
        height = len(row) * BAR
        parts.append(_text(LABELS - 8, y + height / 2 + 4, name, anchor="end"))
        for place, (peer, ratio) in enumerate(row.items()):
            parts.append(scale.bar(ratio, y + place * BAR, COLOURS[peers.index(peer)]))
        y += height + GAP
    grid = [scale.tick(tick, top - 4, y) for tick in ticks]
    height = y + 2 * AXIS
    parts.append(_text(MARGIN, height - 10, note, size=11))
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH}" height="{height:.0f}" font-family="sans-serif"'
        ' font-size="12">\n<rect width="100%" height="100%" fill="#fff"/>\n' + "\n".join(grid + parts) + "\n</svg>\n"
    )


class _Scale:
    def __init__(self, low: float, high: float) -> None:
        self.low, self.span = math.log(low), math.log(high) - math.log(low)

    def x(self, ratio: float) -> float:
        return LABELS + (math.log(ratio) - self.low) / self.span * (WIDTH - LABELS - 5 * MARGIN)

    def bar(self, ratio: float, y: float, colour: str) -> str:
        left, right = sorted((self.x(1), self.x(ratio)))
        return (
            f'<rect x="{left:.1f}" y="{y:.1f}" width="{max(right - left, 1):.1f}" height="{BAR - 1}" fill="{colour}"/>'
            + _text(right + 4, y + BAR - 2, show(ratio), size=10)
        )

    def tick(self, ratio: float, top: float, bottom: float) -> str:
        x, colour = self.x(ratio), "#333" if ratio == 1 else "#ddd"
        return f'<line x1="{x:.1f}" y1="{top:.1f}" x2="{x:.1f}" y2="{bottom:.1f}" stroke="{colour}"/>' + _text(
            x, bottom + 14, f"{ratio:g}", size=10, anchor="middle"
        )


def show(ratio: float) -> str:
    return f"{ratio:.3g}" if ratio < 100 else f"{ratio:.0f}"


def _ticks(low: float, high: float) -> list[float]:
    """Those that hold everything between them."""
    first = max((at for at, tick in enumerate(TICKS) if tick <= low), default=0)
    last = min((at for at, tick in enumerate(TICKS) if tick >= high), default=len(TICKS) - 1)
    ticks = list(TICKS[first : last + 1])
    return [min(low, ticks[0]), *ticks[1:-1], max(high, ticks[-1])]


def _legend(peers: Sequence[str], title: str) -> list[str]:
    parts, x = [_text(MARGIN, AXIS, title, size=14)], float(LABELS)
    for peer, colour in zip(peers, COLOURS, strict=False):
        parts.append(f'<rect x="{x:.1f}" y="{2 * AXIS - 10}" width="10" height="10" fill="{colour}"/>')
        parts.append(_text(x + 15, 2 * AXIS - 1, peer))
        x += 35 + len(peer) * LETTER
    return parts


def _text(x: float, y: float, text: str, *, size: int = 12, anchor: str = "start") -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" font-size="{size}" text-anchor="{anchor}">{escape(text)}</text>'
