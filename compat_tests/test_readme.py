"""What the README names is there, and its table of clients is what the tests say."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

from compat_tests.bench import figure, readme
from compat_tests.matrix import SECTION
from totalog.gateway.bench import stats

ROOT = Path(__file__).resolve().parent.parent
README = (ROOT / "README.md").read_text()
LINKS = sorted({link for link in re.findall(r"\]\(([^)#]+)", README) if "://" not in link})
COMMANDS = sorted(set(re.findall(r"\bmake ([a-z]+)", README)))


@pytest.mark.parametrize("link", LINKS)
def test_link_leads_somewhere(link: str) -> None:
    assert (ROOT / link).exists()


@pytest.mark.parametrize("command", COMMANDS)
def test_make_knows_the_command(command: str) -> None:
    assert re.search(rf"^{command}:", (ROOT / "Makefile").read_text(), re.MULTILINE)


def test_figures_are_those_of_the_run_that_is_kept() -> None:
    rows, machine = readme.kept()
    match = readme.SECTION.search(README)
    assert match is not None
    assert match[0] == match[1] + readme.section(rows, machine) + match[2]
    assert readme.FIGURE.read_text() == readme.drawn(rows, machine)
    assert readme.FIGURE.stat().st_size < 50_000


def test_ratios_that_are_kept_are_those_of_medians_that_are_kept() -> None:
    rows = {row.name: row for row in readme.kept()[0]}
    ratios = [row for row in rows.values() if row.unit == "ratio"]
    assert len(ratios) >= 13
    for row in ratios:
        match = readme.RATIO.fullmatch(row.name)
        assert match is not None
        ours, theirs = (rows[f"{match['load']}: {who}"] for who in ("gateway", match["peer"]))
        assert row.median == pytest.approx(ours.median / theirs.median)
        assert min(ours.iterations, theirs.iterations) >= 5


def test_rows_are_kept_as_they_were(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(readme, "KEPT", tmp_path / "rows.csv")
    rows = [
        stats.summarize("fetch, 8: gateway", [3.25, 1 / 3], unit="MB/s"),
        stats.summarize("fetch, 8: gateway / bare (medians)", [0.5], unit="ratio"),
    ]
    readme.keep(rows, "2 cores of something, else")
    assert readme.kept() == (rows, "2 cores of something, else")
    assert readme.ratios(rows) == {"fetch, 8": {"a bare trio server": 0.5}}


def test_what_no_broker_in_memory_may_do_is_told_and_no_peer() -> None:
    rows = [
        stats.summarize("fetch, 8: gateway", [2400.0], unit="MB/s"),
        stats.summarize("fetch, 8: bare by reference", [5000.0], unit="MB/s"),
        stats.summarize("fetch, 8: gateway / bare by reference (medians)", [0.48], unit="ratio"),
    ]
    assert readme.ratios(rows) == {}
    told = " ".join(readme.section(rows, "a machine").split())
    assert "A bare server that does so reaches 5,000 MB/s in fetch, 8." in told


def test_a_bar_begins_at_one_and_is_as_long_as_the_logarithm() -> None:
    drawn = figure.draw({"one": {"a": 2.0, "b": 0.5}, "two": {"b": 4.0}}, ["a", "b"], "t", "n")
    bars = re.findall(r'<rect x="([\d.]+)" y="[\d.]+" width="([\d.]+)" height="10" fill="(#\w+)"/>', drawn)[2:]
    (twice, half, fourfold) = [(float(x), float(width), colour) for x, width, colour in bars]
    assert twice[0] == fourfold[0] == pytest.approx(half[0] + half[1], abs=0.2)
    assert twice[1] == pytest.approx(half[1], abs=0.2)
    assert fourfold[1] == pytest.approx(2 * twice[1], abs=0.2)
    assert half[2] == fourfold[2] != twice[2]
    with pytest.raises(ValueError, match="ratios"):
        figure.draw({}, ["a"], "t", "n")


def test_the_table_of_clients_is_made_from_the_tests() -> None:
    match = SECTION.search(README)
    assert match is not None
    made = subprocess.run([sys.executable, "-m", "compat_tests.matrix"], cwd=ROOT, stdout=subprocess.PIPE, text=True)
    assert match[0] == match[1] + made.stdout + match[2]
