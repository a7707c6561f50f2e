"""Each example runs as a newcomer runs it."""

import os
import subprocess
import sys

import pytest

from compat_tests.clients.process import ROOT

TIME_MAX_S = 120


def run(*command: str) -> str:
    """What the program printed; it must end well and say nothing on standard error."""
    done = subprocess.run(
        [sys.executable, *command],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=TIME_MAX_S,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, ""), done.stdout + done.stderr
    return done.stdout


def test_produce_consume(address: str) -> None:
    for _ in range(2):
        lines = run("examples/produce_consume.py", address).splitlines()
        assert [line.rpartition(": ")[2] for line in lines] == ["Hello, Ada", "Hello, Grace", "Hello, Barbara"] * 2


@pytest.mark.totalog_only
def test_total_order(address: str) -> None:
    for _ in range(2):
        partitions, view = run("examples/total_order.py", address).splitlines()
        assert view.endswith(str([(0, at, f"order {at}") for at in range(12)]))
        assert all(f"order {at}" in partitions for at in range(12))


def test_the_total_order_takes_thirty_lines() -> None:
    assert len((ROOT / "examples/total_order.py").read_text().splitlines()) <= 30


@pytest.mark.totalog_only
def test_in_pytest() -> None:
    """With no settings of this project, since it stands for a test of somebody else's."""
    assert "1 passed" in run("-m", "pytest", "-p", "no:cacheprovider", "-c", os.devnull, "examples/in_pytest.py")


@pytest.mark.totalog_only
def test_engine_only() -> None:
    lines = run("examples/engine_only.py").splitlines()
    assert "total order: a record goes round and comes back" in lines


def test_every_example_is_run_here() -> None:
    tested = {"produce_consume.py", "total_order.py", "in_pytest.py", "engine_only.py"}
    assert {name for name in os.listdir(ROOT / "examples") if name.endswith(".py")} == tested
