"""The list of known gaps names tests that exist, and matches them as it says."""

import ast

import pytest

from compat_tests import known_gaps
from compat_tests.clients.process import ROOT
from compat_tests.known_gaps import Gap


def test_every_gap_names_a_test() -> None:
    for gap in known_gaps.GAPS:
        file, _, name = gap.test.partition("::")
        tree = ast.parse((ROOT / "compat_tests" / file).read_text())
        assert name.partition("[")[0] in {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}, gap
        assert gap.reason


def test_a_gap_is_a_whole_test_or_one_of_its_cases(monkeypatch: pytest.MonkeyPatch) -> None:
    gaps = (Gap("test_a.py::test_all", "all"), Gap("test_a.py::test_one[this]", "one"))
    monkeypatch.setattr(known_gaps, "GAPS", gaps)
    assert known_gaps.reason_for("test_a.py::test_all[anything]") == "all"
    assert known_gaps.reason_for("test_a.py::test_all") == "all"
    assert known_gaps.reason_for("test_a.py::test_one[this]") == "one"
    assert known_gaps.reason_for("test_a.py::test_one[that]") is None
    assert known_gaps.reason_for("test_b.py::test_all") is None
