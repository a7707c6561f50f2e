"""What every bench does with its numbers: a table to standard output, CSV and plot to build/bench."""

import os
import platform
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
    print(f"\n{machine()}\nCSV and plots: {TARGET}/")


def machine() -> str:
    """What the numbers come from: cores, processor, kernel, Python."""
    fields = (line.partition(":") for line in Path("/proc/cpuinfo").read_text().splitlines())
    model = next((value.strip() for name, _, value in fields if name.strip() == "model name"), platform.machine())
    cores = len(os.sched_getaffinity(0))
    release = ".".join(platform.release().split(".")[:2])
    system = f"Linux {release}, Python {platform.python_version()}"
    return f"{cores} core{'s' if cores > 1 else ''} of {model}, {system}"
