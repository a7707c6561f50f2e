"""`make bench-harm`: how long a good client waits while others mean harm, beside how long it waits when it is alone.

A turn writes one record and reads it back. Calm and harm alternate on one broker for each kind of harm.
"""

from functools import partial

from compat_tests.bench import report
from compat_tests.harm import HARMS, SETTINGS, TOPIC, Good, calm, memory
from totalog.gateway.bench import stats
from totalog.gateway.testing import broker

ROUNDS = 5
TURNS = 200
"""Of each round."""
WARM_UP = 100
MIB = 1 << 20


def run() -> tuple[list[stats.Summary], dict[str, list[float]]]:
    rows: list[stats.Summary] = []
    series: dict[str, list[float]] = {}
    for name, harm in HARMS.items():
        with broker(memory="256m", settings=SETTINGS) as running:
            most: list[int] = []
            good = Good(running.address, TOPIC, partial(_look, running.pid, most))
            calm(running.address, good, WARM_UP)
            quiet: list[float] = []
            harmed: list[float] = []
            before = most[-1]
            for _ in range(ROUNDS):
                for times, others in ((quiet, calm), (harmed, harm)):
                    good.times_s.clear()
                    others(running.address, good, TURNS)
                    times += good.times_s
            good.close()
        summaries = [
            stats.summarize(f"calm, in turn with {name}", quiet, unit="us"),
            stats.summarize(f"beside {name}", harmed, unit="us"),
        ]
        rows += summaries
        rows.append(stats.summarize("their p99s", [summaries[1].p99 / summaries[0].p99], unit="ratio"))
        rows.append(stats.summarize("memory at most, above calm", [(max(most) - before) / MIB], unit="MiB"))
        series |= {summary.name: values for summary, values in zip(summaries, (quiet, harmed), strict=True)}
    return rows, series


def _look(pid: int, seen: list[int]) -> None:
    seen.append(memory(pid))


def main() -> None:
    rows, series = run()
    report.show("harm", rows, series, unit="us")
    report.tell_where()


if __name__ == "__main__":
    main()
