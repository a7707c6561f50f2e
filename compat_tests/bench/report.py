"""What every bench does with its numbers: a table to standard output, CSV and plot to build/bench."""

from collections.abc import Sequence
from pathlib import Path

from totalog.gateway.bench import stats

TARGET = Path("build/bench")

Series = dict[str, list[float]]


def show(name: str, rows: Sequence[stats.Summary], series: Series, unit: str) -> None:
    """Prints a table, and keeps the numbers and a picture of them."""
    print(f"\n{name}\n{stats.table(rows)}", flush=True)
    keep(name, rows, series, unit)


def keep(name: str, rows: Sequence[stats.Summary], series: Series, unit: str) -> None:
    TARGET.mkdir(parents=True, exist_ok=True)
    stats.write_csv(TARGET / f"{name}.csv", rows)
    if series:
        stats.plot(TARGET / f"{name}.png", series, unit=unit)


def tell_where() -> None:
    print(f"\nCSV and plots: {TARGET}/")
