"""`make bench-readme KAFKA=HOST:PORT`: the README's figure and table, made from one run of `make bench-wire`.

The run's rows are kept in `readme.csv` beside this file; figure and table are what those rows say, and a test holds
them to it. `--again` writes both anew from the rows that are kept, for who changes how they are shown.
"""

import argparse
import csv
import re
import textwrap
from collections.abc import Iterator, Sequence
from dataclasses import fields
from pathlib import Path

from compat_tests.bench import figure, report, wire
from totalog.gateway.bench import stats

HERE = Path(__file__).resolve().parent
KEPT, FIGURE = HERE / "readme.csv", HERE / "readme.svg"
README = HERE.parents[1] / "README.md"
SECTION = re.compile(r"(<!-- figures: .*? -->\n).*?(<!-- /figures -->)", re.DOTALL)
RATIO = re.compile(r"(?P<load>.*): gateway / (?P<peer>.*) \(medians\)")
OURS = ": gateway"
BY_REFERENCE = ": bare by reference"
PEERS = {"bare": "a bare trio server", "Apache Kafka": "Apache Kafka", "its partition": "its own partition"}
"""As `make bench-wire` names them, and as the README does."""

LINE_MAX = 120

Rows = list[stats.Summary]


def keep(rows: Sequence[stats.Summary], machine: str) -> None:
    """Rows as every bench writes them, under a line that says where they come from."""
    stats.write_csv(KEPT, rows)
    KEPT.write_text(f"# {machine}\n{KEPT.read_text()}")


def kept() -> tuple[Rows, str]:
    """The rows of the last run, and the machine that it was on."""
    first, *lines = KEPT.read_text().splitlines()
    types = [field.type for field in fields(stats.Summary)]
    rows = [[type_(cell) for type_, cell in zip(types, row, strict=True)] for row in list(csv.reader(lines))[1:]]  # type: ignore[operator]
    return [stats.Summary(*row) for row in rows], first.removeprefix("# ")


def ratios(rows: Rows) -> dict[str, dict[str, float]]:
    """Load -> peer -> how many times as fast as the peer the gateway is."""
    found: dict[str, dict[str, float]] = {}
    for row in rows:
        match = RATIO.fullmatch(row.name)
        if match is not None and match["peer"] in PEERS:
            found.setdefault(match["load"], {})[PEERS[match["peer"]]] = row.median
    return found


def drawn(rows: Rows, machine: str) -> str:
    note = f"{machine}. Right of 1: the gateway is faster."
    return figure.draw(ratios(rows), list(PEERS.values()), "The gateway's rate, as a multiple of a peer's", note)


def section(rows: Rows, machine: str) -> str:
    """What stands between the marks in the README."""
    rounds = max(row.iterations for row in rows)
    rows_at = KEPT.relative_to(README.parent)
    words = (
        f"Medians of {rounds} rounds of one run, in which the peers took turns, on {machine}; load and peers shared the"
        " machine. The bare trio server is the machine's limit for a broker in Python: it receives, checks the CRC,"
        " answers from a template, and keeps nothing. The gateway ran with `--ephemeral`: nobody waited for a disk"
        " here, as Apache Kafka answers acks=all without fdatasync; `make bench-disk` is about disks."
        f" `make bench-readme KAFKA=HOST:PORT` makes all of this anew, and [its rows]({rows_at}) hold the spread, too."
    )
    for row in rows:
        if row.name.endswith(BY_REFERENCE):
            load = row.name.removesuffix(BY_REFERENCE)
            words += (
                " As for fetches: Apache Kafka has the kernel send the pages of its files by reference (sendfile). A"
                f" bare server that does so reaches {row.median:,.0f} {row.unit} in {load}. A broker in memory has to"
                " copy: memory that is used again must not be sent so, since who has not read it yet would read what"
                " lies there by then."
            )
    filled = textwrap.fill(words, LINE_MAX, break_long_words=False, break_on_hyphens=False)
    shown = f"![The gateway's rate beside its peers']({FIGURE.relative_to(README.parent)})"
    return f"{shown}\n\n{filled}\n\n{''.join(_table(rows))}"


def _table(rows: Rows) -> Iterator[str]:
    ours = {row.name.removesuffix(OURS): row for row in rows if row.name.endswith(OURS)}
    yield f"| load | the gateway | {' | '.join(f'/ {peer}' for peer in PEERS.values())} |\n"
    yield f"|---|---:|{'---:|' * len(PEERS)}\n"
    for load, beside in ratios(rows).items():
        cells = [figure.show(beside[peer]) if peer in beside else "" for peer in PEERS.values()]
        yield f"| {load} | {ours[load].median:,.0f} {ours[load].unit} | {' | '.join(cells)} |\n"


def write() -> None:
    rows, machine = kept()
    FIGURE.write_text(drawn(rows, machine))
    README.write_text(SECTION.sub(lambda match: match[1] + section(rows, machine) + match[2], README.read_text()))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    how = parser.add_mutually_exclusive_group(required=True)
    how.add_argument("--kafka", metavar="HOST:PORT", help="the Apache Kafka to measure beside")
    how.add_argument("--again", action="store_true", help="without a run")
    arguments = parser.parse_args()
    if not arguments.again:
        host, _, port = arguments.kafka.rpartition(":")
        rows, series = wire.run((host, int(port)), "")
        report.keep("wire", rows, series, unit="MB/s, requests/s")
        keep(rows, report.machine())
    write()
    print(f"written: {KEPT}, {FIGURE}, and the section of {README.name} between its marks")


if __name__ == "__main__":
    main()
