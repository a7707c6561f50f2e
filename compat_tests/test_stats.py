"""The benches' statistics, against numpy and by hand."""

import csv
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from totalog.gateway.bench import stats

values_of_a_bench = st.lists(st.floats(min_value=0, max_value=1e6), min_size=2, max_size=300)


@given(values_of_a_bench)
def test_summary_equals_numpy(values: list[float]) -> None:
    summary = stats.summarize("x", values)
    expected = [np.mean(values), np.median(values), np.std(values, ddof=1), *np.percentile(values, [95, 99])]
    found = [summary.mean, summary.median, summary.stddev, summary.p95, summary.p99]
    np.testing.assert_allclose(found, expected, rtol=1e-9, atol=1e-6)


def test_summary_by_hand() -> None:
    summary = stats.summarize("append", [0.004, 0.002, 0.006], unit="us", per=2)
    assert summary.iterations == 3
    assert summary.unit == "us"
    assert summary.median == pytest.approx(2000)
    assert summary.mean == pytest.approx(2000)
    assert summary.stddev == pytest.approx(1000)
    assert summary.p95 == pytest.approx(2900)


def test_other_units_are_taken_as_they_stand() -> None:
    assert stats.summarize("memory", [5.0, 7.0], unit="MiB").mean == 6


def test_one_value_has_no_deviation_and_none_is_refused() -> None:
    summary = stats.summarize("once", [3.0])
    assert (summary.mean, summary.median, summary.stddev, summary.p99) == (3, 3, 0, 3)
    with pytest.raises(ValueError, match="never: no values"):
        stats.summarize("never", [])


def test_measure_counts_only_what_comes_after_the_warmup() -> None:
    calls = []
    times = stats.measure(lambda: calls.append(len(calls)), iterations=7, warmup=3)
    assert len(calls) == 10
    assert len(times) == 7
    assert all(time >= 0 for time in times)


def test_measure_ends_after_a_time_with_one_value_at_least() -> None:
    calls: list[int] = []
    assert len(stats.measure(lambda: calls.append(1), iterations=7, warmup=3, seconds_max=0.0)) == 1
    assert len(calls) == 2


def test_table_is_aligned() -> None:
    lines = stats.table([stats.summarize("a", [1.0]), stats.summarize("much longer", [123456.7])]).splitlines()
    assert lines[0].split() == list(stats.COLUMNS)
    assert lines[2].split() == ["much", "longer", "s", "1", "123457", "123457", "0", "123457", "123457"]
    assert len({len(line) for line in lines}) == 1


def test_csv_reads_back(tmp_path: Path) -> None:
    summaries = [stats.summarize("a, b", [0.1, 0.2]), stats.summarize("c", [3.0], unit="ms")]
    stats.write_csv(tmp_path / "out.csv", summaries)
    with (tmp_path / "out.csv").open(newline="") as source:
        rows = list(csv.DictReader(source))
    assert [row["name"] for row in rows] == ["a, b", "c"]
    assert float(rows[0]["mean"]) == summaries[0].mean
    assert float(rows[1]["p99"]) == 3000


def test_plot_draws_an_image(tmp_path: Path) -> None:
    assert stats.plot(tmp_path / "out.png", {"a": [0.1, 0.2, 0.2], "b": [0.3]}, unit="ms")
    assert (tmp_path / "out.png").read_bytes().startswith(b"\x89PNG")


def test_a_curve_is_drawn_above(tmp_path: Path) -> None:
    series = {"64 KiB": [0.1, 0.2, 0.2], "128 KiB": [0.3]}
    assert stats.plot(tmp_path / "out.svg", series, unit="MB/s", curve=series)
    assert "MB/s: median, least, most" in (tmp_path / "out.svg").read_text()
    assert stats.why_no_plot(tmp_path / "out.SVG") is None
    assert stats.why_no_plot(tmp_path / "out") is None, "matplotlib writes a PNG then"
    assert "svg" in str(stats.why_no_plot(tmp_path / "out.doc"))


def test_plot_says_when_matplotlib_is_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    assert not stats.plot(tmp_path / "out.png", {"a": [1.0]}, unit="s")
    assert not (tmp_path / "out.png").exists()
    assert stats.why_no_plot(tmp_path / "out.png") == "matplotlib is not installed"
