"""The README's table of Kafka APIs is the table of handlers.

To write it anew: python -m totalog.gateway.tests.test_readme
"""

import re
from pathlib import Path

from totalog.gateway import apis

README = Path(__file__).resolve().parents[2] / "README.md"
SECTION = re.compile(r"(<!-- apis: .*? -->\n).*?(<!-- /apis -->)", re.DOTALL)
COLUMNS = 3


def table() -> str:
    """Three APIs in a row, by key."""
    cells = [f"{api.name} | {api.min_version}-{api.max_version}" for _, api in sorted(apis.TABLE.items())]
    cells += [" | "] * (-len(cells) % COLUMNS)
    height = len(cells) // COLUMNS
    rows = [" | ".join(cells[row::height]) for row in range(height)]
    lines = [" | ".join(["API | versions"] * COLUMNS), "|".join(["---"] * 2 * COLUMNS), *rows]
    return "".join(f"| {line} |\n" if line[0] != "-" else f"|{line}|\n" for line in lines)


def test_table_of_apis_is_the_table_of_handlers() -> None:
    match = SECTION.search(README.read_text())
    assert match is not None
    assert match[0] == match[1] + table() + match[2]


if __name__ == "__main__":
    README.write_text(SECTION.sub(lambda match: match[1] + table() + match[2], README.read_text()))
