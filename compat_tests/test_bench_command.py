"""`totalog bench` against a broker that it knows nothing of but the address."""

import csv
import subprocess
import sys
from pathlib import Path

import pytest

from compat_tests.clients.face import Client

QUICK = ("--iterations", "3", "--seconds", "0.05")


def bench(*arguments: str) -> "subprocess.CompletedProcess[str]":
    command = [sys.executable, "-m", "totalog.gateway", "bench", *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)


@pytest.mark.parametrize("acks", ["1", "all"])
def test_one_size_is_measured(address: str, admin: Client, acks: str, tmp_path: Path) -> None:
    table = tmp_path / "rates.csv"
    done = bench(address, "--batch-size", "16k", "--acks", acks, "--partitions", "2", "--csv", str(table), *QUICK)
    assert done.returncode == 0, done.stderr
    rows = {row["name"]: row for row in csv.DictReader(table.read_text().splitlines())}
    assert list(rows) == [
        "MB/s of values, batches of 16 KiB",
        "records/s, batches of 16 KiB",
        "one record, sent and acknowledged",
    ]
    rate, records = (rows[name] for name in list(rows)[:2])
    assert int(rate["iterations"]) == 3
    assert float(rate["median"]) * 1e6 == pytest.approx(float(records["median"]) * 1024)
    assert not [name for name in admin.topics() if name.startswith("totalog-bench-")]


def test_the_best_size_is_found_and_the_curve_shown(address: str) -> None:
    done = bench(address, "--record-size", "10k", *QUICK)
    assert done.returncode == 0, done.stderr
    curve = [line for line in done.stdout.splitlines() if line.startswith("batches of ") and "MB/s" in line]
    assert [line.split()[2] for line in curve[:7]] == ["64", "128", "256", "512", "1024", "2048", "4096"]
    assert "MB/s of values, batches of " in done.stdout


def test_what_does_not_answer_is_said_in_one_line() -> None:
    done = bench("127.0.0.1:1", *QUICK)
    assert done.returncode == 1
    assert len(done.stderr.splitlines()) == 1
    assert "127.0.0.1:1" in done.stderr
