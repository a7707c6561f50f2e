"""`make bench`: what a start costs, what a small request costs, what each stage of the engine costs, what writers get.

Tables to standard output; CSV and plots to build/bench. Quote medians and ratios of one run: machines are noisy.
"""

import argparse

from compat_tests.bench import small, start
from compat_tests.bench.report import show, tell_where
from totalog.engine.bench import stages, writers
from totalog.gateway.bench import stats


def engine() -> tuple[list[stats.Summary], dict[str, list[float]]]:
    """The engine's stages in both modes of memory, and what 1 MiB costs beside a plain copy of it."""
    rows: list[stats.Summary] = []
    series: dict[str, list[float]] = {}
    for mode, coherent in (("coherent", True), ("non-coherent", False)):
        costs = {cost.name: cost.seconds for cost in stages.costs(coherent)}
        summaries = {name: stats.summarize(f"{mode}: {name}", seconds, unit="ns") for name, seconds in costs.items()}
        rows += summaries.values()
        series |= {f"{mode}: {name}": seconds for name, seconds in costs.items() if "100 B" in name or "claim" in name}
        copy = summaries["memcpy 1024 KiB"].median
        for name in ("append 1 MiB, alone", "read 1024 KiB in total order"):
            ratio = copy / summaries[name].median
            rows.append(stats.summarize(f"{mode}: memcpy / {name} (medians)", [ratio], unit="ratio"))
    return rows, series


def several() -> tuple[list[stats.Summary], dict[str, list[float]]]:
    """Append + order of several writer processes, beside copies of as much by the same processes."""
    rows: list[stats.Summary] = []
    series: dict[str, list[float]] = {}
    for rate in writers.rates():
        for name, values in (("append + order", rate.appended), ("copy", rate.copied)):
            series[f"{rate.name}: {name}"] = [value / 1e9 for value in values]
            rows.append(stats.summarize(f"{rate.name}: {name}", series[f"{rate.name}: {name}"], unit="GB/s"))
        rows.append(stats.summarize(f"{rate.name}: append + order / copy", rate.ratios, unit="ratio"))
    return rows, {name: values for name, values in series.items() if "512 KiB" in name and "warm" in name}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--idle", type=float, default=60.0, help="seconds for which the idle broker is watched")
    arguments = parser.parse_args()
    show("start", *start.run(arguments.idle), unit="ms")
    show("small", *small.run(), unit="us")
    show("engine", *engine(), unit="ns")
    show("writers", *several(), unit="GB/s")
    tell_where()


if __name__ == "__main__":
    main()
