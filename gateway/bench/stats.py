"""What every bench makes of its measurements: one summary, one CSV, one plot.

    times = stats.measure(lambda: log.append(group, 8), iterations=1_000)
    print(stats.table([stats.summarize("append of 8", times)]))

Values are floats of one unit, named where they are summarized (seconds unless said otherwise).
"""

import csv
import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import astuple, dataclass, fields
from pathlib import Path

SCALES = {"s": 1.0, "ms": 1e3, "us": 1e6, "ns": 1e9}


@dataclass(frozen=True, slots=True)
class Summary:
    """One row: everything but the name and the number of iterations is in `unit`."""

    name: str
    unit: str
    iterations: int
    mean: float
    median: float
    stddev: float  # of the sample (divided by n - 1); 0 for one value
    p95: float
    p99: float


COLUMNS = tuple(field.name for field in fields(Summary))


def measure(
    action: Callable[[], object], *, iterations: int, warmup: int = 10, seconds_max: float = math.inf
) -> list[float]:
    """Seconds that each call takes, after `warmup` calls that do not count. After `seconds_max` no further one begins
    but the first that counts."""
    end = time.perf_counter() + seconds_max
    for _ in range(warmup):
        action()
        if time.perf_counter() > end:
            break
    times: list[float] = []
    while len(times) < iterations and (not times or time.perf_counter() < end):
        start = time.perf_counter_ns()
        action()
        times.append((time.perf_counter_ns() - start) / 1e9)
    return times


def summarize(name: str, values: Sequence[float], *, unit: str = "s", per: float = 1.0) -> Summary:
    """Summary of seconds, shown in `unit` (s, ms, us or ns) and divided by `per`, the operations in one value.

    Any other unit (bytes, records/s, a ratio) takes the values as they stand. ValueError when there are none.
    """
    if not values:
        raise ValueError(f"{name}: no values")
    scale = SCALES.get(unit, 1.0) / per
    ordered = sorted(value * scale for value in values)
    mean = math.fsum(ordered) / len(ordered)
    return Summary(
        name=name,
        unit=unit,
        iterations=len(ordered),
        mean=mean,
        median=percentile(ordered, 50),
        stddev=math.sqrt(math.fsum((value - mean) ** 2 for value in ordered) / max(len(ordered) - 1, 1)),
        p95=percentile(ordered, 95),
        p99=percentile(ordered, 99),
    )


def percentile(ordered: Sequence[float], percent: float) -> float:
    """Linear between the two nearest of the sorted values, as numpy.percentile by default."""
    place = (len(ordered) - 1) * percent / 100
    low = math.floor(place)
    high = min(low + 1, len(ordered) - 1)
    return ordered[low] + (ordered[high] - ordered[low]) * (place - low)


def table(summaries: Sequence[Summary]) -> str:
    """Aligned text, one line per summary under one line of column names: words to the left, numbers to the right."""
    rows = [COLUMNS, *(tuple(show(value) for value in astuple(summary)) for summary in summaries)]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    alignments = [str.ljust, str.ljust, *[str.rjust] * (len(COLUMNS) - 2)]
    return "\n".join(
        "  ".join(align(cell, width) for align, cell, width in zip(alignments, row, widths, strict=True))
        for row in rows
    )


def show(value: str | float) -> str:
    """Four digits are as many as a bench can promise."""
    if isinstance(value, float):
        return f"{value:.0f}" if abs(value) >= 1000 else f"{value:.4g}"
    return str(value)


def write_csv(path: Path, summaries: Sequence[Summary]) -> None:
    """One header line, one line per summary, full precision."""
    with path.open("w", newline="") as target:
        writer = csv.writer(target, lineterminator="\n")
        writer.writerow(COLUMNS)
        writer.writerows(astuple(summary) for summary in summaries)


def why_no_plot(path: Path) -> str | None:
    """Why `plot` cannot draw there, before there is anything to draw; None where it can."""
    try:
        from matplotlib.figure import Figure
    except ImportError:
        return "matplotlib is not installed"
    kinds = sorted(Figure().canvas.get_supported_filetypes())
    kind = path.suffix.removeprefix(".").lower()
    return None if not kind or kind in kinds else f"{path.suffix} is not one of {', '.join(kinds)}"


def plot(
    path: Path, series: Mapping[str, Sequence[float]], *, unit: str, curve: Mapping[str, Sequence[float]] | None = None
) -> bool:
    """Draws each series' distribution (share of values at or below) to an image, and above it, where there is a
    `curve`, the median of each of its points between the least and the most. False where matplotlib is missing."""
    try:
        from matplotlib.figure import Figure
    except ImportError:
        return False
    heights = [4.0, max(5.0, 0.25 * len(series))] if curve else [max(5.0, 0.25 * len(series))]
    figure = Figure(figsize=(8, sum(heights)), layout="constrained")
    *above, axes = figure.subplots(len(heights), height_ratios=heights, squeeze=False)[:, 0]
    if curve:
        names, points = list(curve), [sorted(each) for each in curve.values()]
        above[0].plot(names, [percentile(ordered, 50) for ordered in points], marker="o")
        above[0].fill_between(names, [at[0] for at in points], [at[-1] for at in points], alpha=0.2)
        above[0].set_ylabel(f"{unit}: median, least, most")
        above[0].set_ylim(bottom=0)
    for name, values in series.items():
        ordered = sorted(value * SCALES.get(unit, 1.0) for value in values)
        axes.step(ordered, [(index + 1) / len(ordered) for index in range(len(ordered))], where="post", label=name)
    axes.set_xlabel(unit)
    axes.set_ylabel("share of values at or below")
    axes.legend(fontsize="small", loc="center left", bbox_to_anchor=(1, 0.5))
    figure.savefig(path)
    return True
