"""`totalog bench` against a broker that it knows nothing of but the address."""

import csv
import os
import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree

import pytest

from compat_tests.clients.face import Client

QUICK = ("--iterations", "3", "--seconds", "0.05")


# A perf that knows nothing of any process, and ends, as the real one does, when it is interrupted: also where the tests
# run in the background of a shell, whose children ignore that.
WAIT = f"exec {sys.executable} -c 'import signal, time; signal.signal(signal.SIGINT, signal.SIG_DFL); time.sleep(60)'"
PERF = """#!/bin/sh
for word; do
    [ "$last" = -o ] && target=$word
    [ "$last" = -p ] && echo "$word" > "$0.pid"
    last=$word
done
case $1 in
stat) printf '%s\\n' '# started on Monday' '4000000,,instructions:u,1,100.00,,' \\
      '<not supported>,,cache-misses,0,100.00,,' '250.5,msec,task-clock,1,100.00,,' > "$target"; @wait@;;
record) echo samples > "$target"; @wait@;;
script) printf '%s\\n' 'broker ' '\t 1f <inner & own>' '\t 2f outer' '' \\
        'broker ' '\t 3f alone' '' 'broker ' '\t 3f alone' '';;
esac
""".replace("@wait@", WAIT)


def bench(*arguments: str, path: Path | None = None) -> "subprocess.CompletedProcess[str]":
    """`path`: the only folder where programs are found; those of the system are besides, where it is not empty."""
    command = [sys.executable, "-m", "totalog.gateway", "bench", *arguments]
    environment = dict(os.environ)
    if path is not None:
        environment["PATH"] = f"{path}:/bin:/usr/bin" if any(path.iterdir()) else str(path)
    return subprocess.run(command, capture_output=True, text=True, timeout=120, check=False, env=environment)


def table_of(path: Path) -> dict[str, dict[str, str]]:
    return {row["name"].strip(): row for row in csv.DictReader(path.read_text().splitlines())}


@pytest.mark.parametrize("acks", ["1", "all"])
def test_one_size_is_measured(address: str, admin: Client, acks: str, tmp_path: Path) -> None:
    table = tmp_path / "rates.csv"
    done = bench(address, "--batch-size", "16k", "--acks", acks, "--partitions", "2", "--csv", str(table), *QUICK)
    assert done.returncode == 0, done.stderr
    rows = table_of(table)
    assert list(rows) == [
        "MB/s of values, batches of 16 KiB",
        "records/s, batches of 16 KiB",
        "one record, sent and acknowledged",
    ]
    rate, records = (rows[name] for name in list(rows)[:2])
    assert int(rate["iterations"]) == 3
    assert float(rate["median"]) * 1e6 == pytest.approx(float(records["median"]) * 1024)
    assert not [name for name in admin.topics() if name.startswith("totalog-bench-")]


def test_the_best_size_is_found_and_the_curve_shown(address: str, tmp_path: Path) -> None:
    plot = tmp_path / "curve.svg"
    done = bench(address, "--record-size", "10k", "--plot", str(plot), *QUICK)
    assert done.returncode == 0, done.stderr
    sizes = ["64 KiB", "128 KiB", "256 KiB", "512 KiB", "1 MiB", "2 MiB", "4 MiB"]
    assert all(f"batches of {size}" in plot.read_text() for size in sizes)
    assert "MB/s: median, least, most" in plot.read_text()
    curve = [line for line in done.stdout.splitlines() if line.startswith("batches of ") and "MB/s" in line]
    assert [line.partition(":")[0] for line in curve[:7]] == [f"batches of {size}" for size in sizes]
    assert "MB/s of values, batches of " in done.stdout


def test_what_does_not_answer_is_said_in_one_line() -> None:
    done = bench("127.0.0.1:1", *QUICK)
    assert done.returncode == 1
    assert len(done.stderr.splitlines()) == 1
    assert "127.0.0.1:1" in done.stderr


def test_the_broker_is_profiled(address: str, tmp_path: Path) -> None:
    tools, table, graph = tmp_path / "tools", tmp_path / "rates.csv", tmp_path / "flame.svg"
    tools.mkdir()
    perf, spy = tools / "perf", tools / "py-spy"
    perf.write_text(PERF)
    spy.write_text("#!/bin/sh\necho 'not permitted: ptrace' >&2; exit 1\n")
    for tool in (perf, spy):
        tool.chmod(0o755)
    asked = ("--profile", "--pid", str(os.getpid()), "--flame-graph", str(graph), "--csv", str(table))
    done = bench(address, "--batch-size", "16k", "--iterations", "3", "--seconds", "0.2", *asked, path=tools)
    assert done.returncode == 0, done.stderr
    assert (tools / "perf.pid").read_text().strip() == str(os.getpid())
    rows = table_of(table)
    per_record = 250.5e6 / float(rows["processor time, each record"]["median"])
    assert float(rows["instructions, each record"]["median"]) * per_record == pytest.approx(4_000_000)
    assert "cache-misses, each record" not in rows
    assert "this machine does not count cache-misses" in done.stdout
    assert "py-spy record: not permitted: ptrace" in done.stdout
    shares = [line.split(None, 1) for line in done.stdout.splitlines() if line.startswith("  ") and "%" in line]
    assert shares == [["66.7%", "alone"], ["33.3%", "<inner & own>"]]
    boxes = [title.text for title in ElementTree.parse(graph).iter("{http://www.w3.org/2000/svg}title")]
    assert sorted(map(str, boxes)) == [
        "<inner & own>, 33.3%",
        "all, 100.0%",
        "alone, 66.7%",
        "broker, 100.0%",
        "outer, 33.3%",
    ]


def test_without_tools_a_profile_costs_nothing_else(address: str, tmp_path: Path) -> None:
    tools = tmp_path / "tools"
    tools.mkdir()
    done = bench(address, "--batch-size", "16k", "--profile", "--pid", "1", *QUICK, path=tools)
    assert done.returncode == 0, done.stderr
    assert "perf is not installed" in done.stdout
    assert "py-spy is not installed" in done.stdout
    assert "MB/s of values, batches of 16 KiB" in done.stdout


@pytest.mark.totalog_only
def test_what_the_engine_waited_for_is_told(address: str, tmp_path: Path) -> None:
    table = tmp_path / "rates.csv"
    done = bench(address, "--batch-size", "16k", "--contention", "--csv", str(table), *QUICK)
    assert done.returncode == 0, done.stderr
    rows = table_of(table)
    assert float(rows["batches appended"]["median"]) > 0
    for name in (
        "fetch_or that another was faster with, tried again",
        "ring-full waits: a group was larger than the ring takes at once",
        "that waited to get it back",
    ):
        assert rows[name]["unit"] == "count"
        assert float(rows[name]["median"]) >= 0
