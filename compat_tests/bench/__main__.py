"""`make bench`: what a start costs, what a small request costs, what each stage of the engine costs.

Tables to standard output; CSV and plots to build/bench. Quote medians and ratios of one run: machines are noisy.
"""

import argparse
from pathlib import Path

from compat_tests.bench import small, start, stats

TARGET = Path("build/bench")


def show(name: str, rows: list[stats.Summary], series: dict[str, list[float]], unit: str) -> None:
    """Prints a table, and keeps the numbers and a picture of them."""
    print(f"\n{name}\n{stats.table(rows)}", flush=True)
    TARGET.mkdir(parents=True, exist_ok=True)
    stats.write_csv(TARGET / f"{name}.csv", rows)
    if series:
        stats.plot(TARGET / f"{name}.png", series, unit=unit)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--idle", type=float, default=60.0, help="seconds for which the idle broker is watched")
    arguments = parser.parse_args()
    show("start", *start.run(arguments.idle), unit="ms")
    show("small", *small.run(), unit="us")
    print(f"\nCSV and plots: {TARGET}/")


if __name__ == "__main__":
    main()
