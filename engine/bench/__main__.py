"""`python -m totalog.engine.bench [FILE.csv]`: the engine's stages in both modes of memory, beside memcpy.

`make bench` shows the same with distributions, among the benches of everything else.
"""

import csv
import statistics
import sys

from totalog.engine.bench import stages

COLUMNS = ("memory", "stage", "median ns", "of memcpy 1024 KiB")


def rows() -> list[tuple[str, str, str, str]]:
    """One row per stage. The last column says how often a copy of 1 MiB fits into the time, where both move 1 MiB."""
    made = []
    for memory, coherent in (("coherent", True), ("non-coherent", False)):
        medians = {cost.name: statistics.median(cost.seconds) * 1e9 for cost in stages.costs(coherent)}
        copy = medians["memcpy 1024 KiB"]
        for name, median in medians.items():
            moves_1_mib = "1 MiB" in name or "1024 KiB" in name
            made.append((memory, name, f"{median:.1f}", f"{median / copy:.2f}" if moves_1_mib else ""))
    return made


def main() -> None:
    table = rows()
    for row in (COLUMNS, *table):
        print(f"{row[0]:<14}{row[1]:<36}{row[2]:>16}{row[3]:>22}")
    if len(sys.argv) > 1:
        with open(sys.argv[1], "w", newline="") as target:
            writer = csv.writer(target, lineterminator="\n")
            writer.writerow(COLUMNS)
            writer.writerows(table)


if __name__ == "__main__":
    main()
