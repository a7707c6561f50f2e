"""The README's table of what is tested with which client, from the tests' own marks.

A test marked `case(NAME)` belongs to the row NAME of `CASES`. A cell says "yes" where such tests run with that client,
and otherwise what the client lacks, or that it is a known gap.

    python -m compat_tests.matrix             prints it
    python -m compat_tests.matrix --write     writes it into the README
"""

import contextlib
import io
import re
import sys

import pytest

from compat_tests import known_gaps
from compat_tests.clients import KINDS
from compat_tests.clients.process import ROOT
from compat_tests.conftest import kinds_of, lacks_of

README = ROOT / "README.md"
SECTION = re.compile(r"(<!-- clients: .*? -->\n).*?(<!-- /clients -->)", re.DOTALL)
GAP = "[gap](compat_tests/known_gaps.py)"
CASES = (
    "acks 0, 1 and all",
    "gzip, snappy, lz4, zstd",
    "keys, headers, nulls, timestamps",
    "records without key and value",
    "batches of 1 byte to 10 MiB",
    "records over a topic's limit",
    "idempotent producers, forced retries",
    "transactions",
    "seek, first and end offsets, offsets for times",
    "long polls",
    "batches larger than the limits of a fetch",
    "large fetches through a small receive buffer",
    "slow readers that pause",
    "1,000 partitions, most of them empty",
    "groups share, and hand over",
    "members that are killed, or stop polling",
    "commits and resume",
    "patterns, topics and partitions that come later",
    "groups listed and described",
    "groups deleted",
    "static members",
    "groups of KIP-848",
    "topics made, altered, grown, deleted, made again",
    "records deleted",
    "sizes on disk",
    "the total order, the same for all readers",
    "seek and offsets in the total order",
    "a broker that ends and starts again",
)


class _Collector:
    """A pytest plugin that takes what was collected."""

    def __init__(self) -> None:
        self.items: list[pytest.Item] = []

    def pytest_collection_finish(self, session: pytest.Session) -> None:
        self.items = list(session.items)


def cells() -> dict[str, dict[str, str]]:
    """Case -> client -> what stands in the table. KeyError for a mark that names no case."""
    found: dict[str, dict[str, str]] = {case: {} for case in CASES}
    collector = _Collector()
    with contextlib.redirect_stdout(io.StringIO()) as said:
        files = [str(file) for file in sorted(ROOT.glob("compat_tests/test_*.py")) if ".mark.case(" in file.read_text()]
        code = pytest.main(["--collect-only", "-q", "--assert=plain", *files], plugins=[collector])
    if code != pytest.ExitCode.OK:
        raise RuntimeError(said.getvalue())
    for item in collector.items:
        mark = item.get_closest_marker("case")
        if mark is None:
            continue
        row, lacks = found[mark.args[0]], lacks_of(item)
        is_gap = known_gaps.reason_for(item.nodeid.removeprefix("compat_tests/")) is not None
        for kind in kinds_of(item):
            if kind in lacks:
                row.setdefault(kind, lacks[kind].removeprefix(f"{kind} "))
            elif is_gap:
                row[kind] = GAP
            elif row.get(kind) != GAP:
                row[kind] = "yes"
    return found


def table() -> str:
    rows = [[case, *(row[kind] for kind in KINDS)] for case, row in cells().items()]
    lines = [["", *KINDS], ["---"] * (1 + len(KINDS)), *rows]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def main() -> None:
    made = table()
    if "--write" in sys.argv:
        README.write_text(SECTION.sub(lambda match: match[1] + made + match[2], README.read_text()))
    else:
        print(made, end="")


if __name__ == "__main__":
    main()
