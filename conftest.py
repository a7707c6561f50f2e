"""Says at the end of a run what each suite did, and names what was skipped; in CI a suite that did not run fails it.

A suite is a test file: one whose every test was skipped, or that was found in none of the folders, did not run.

`make test` has several workers (pytest-xdist), each of which takes a suite at a time, so that what a suite shares is
made once. The long ones go first: the last to be taken then is a short one, and no worker waits long for another.

What pytest makes of the tests' assertions is kept, also where the environment asks for no bytecode: that is more than
half of what collecting them takes, and each worker collects all of them.
"""

import ctypes
import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

# How long an example takes says how busy the machine is.
settings.register_profile("whatever the machine", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("whatever the machine")

sys.dont_write_bytecode = False

# Tests open logs by the thousand, each with tables of 17 MB that stay empty. The C library gets them from the kernel as
# zeros, which take time only where they are used; but once it has had such a block back, it clears the next by hand.
M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3  # malloc.h
libc = ctypes.CDLL(None)
if hasattr(libc, "mallopt"):
    libc.mallopt(M_MMAP_THRESHOLD, 1 << 20)
    libc.mallopt(M_TRIM_THRESHOLD, 64 << 20)

OUTCOMES = ("passed", "failed", "error", "skipped", "xfailed")
LONG = (
    "compat_tests/test_restart.py",
    "engine/tests/test_sim.py",
    "compat_tests/test_breaking.py",
    "engine/tests/test_crash.py",
    "compat_tests/test_durable.py",
    "engine/tests/test_native.py",
    "engine/tests/test_kills.py",
    "compat_tests/test_groups.py",
    "compat_tests/test_memory.py",
    "engine/tests/test_journal.py",
    "gateway/tests/test_fuzz.py",
    "compat_tests/test_view.py",
    "gateway/tests/test_elements.py",
    "compat_tests/test_wheel.py",
    "engine/tests/test_processes.py",
    "compat_tests/test_produce.py",
    "compat_tests/test_hostile.py",
    "engine/tests/test_model.py",
    "compat_tests/test_load.py",
    "engine/tests/test_check.py",
    "engine/tests/test_durable.py",
    "compat_tests/test_idempotence.py",
    "compat_tests/test_examples.py",
    "compat_tests/test_demo.py",
    "gateway/tests/test_apis_hostile.py",
    "gateway/tests/test_batch.py",
)
"""The longest first, what computes and what waits in turn. A name that is missing here costs time and nothing else."""


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--every-suite", action="store_true", help="fail when a test file of testpaths had no test passed")


def pytest_configure(config: pytest.Config) -> None:
    """Each worker begins to collect elsewhere: where it comes later, others have been, and the asserts are ready."""
    worker = getattr(config, "workerinput", None)
    if worker and config.args == config.getini("testpaths"):
        suites = [suite for folder in config.args for suite in suites_in(config, folder)]
        first = int(worker["workerid"].removeprefix("gw")) * len(suites) // worker["workercount"]
        config.args = suites[first:] + suites[:first]


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if hasattr(config, "workerinput"):
        places = {suite: place for place, suite in enumerate(LONG)}

        def place(item: pytest.Item) -> tuple[int, str]:
            suite = suite_of(item.nodeid)
            return places.get(suite, len(places)), suite

        items.sort(key=place)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    counts = outcomes_by_suite(terminalreporter)
    terminalreporter.section("suites")
    for folder in config.getini("testpaths"):
        total = sum((count for suite, count in counts.items() if suite.startswith(f"{folder}/")), Counter[str]())
        words = ", ".join(f"{total[outcome]} {outcome}" for outcome in OUTCOMES if total[outcome])
        terminalreporter.line(f"{folder:<16} {words or 'nothing ran'}")
    skipped = {suite: count["skipped"] for suite, count in sorted(counts.items()) if count["skipped"]}
    terminalreporter.line(f"skipped: {sum(skipped.values())} tests in {len(skipped)} suites")
    for suite, number in skipped.items():
        whole = "" if counts[suite]["passed"] else " (the whole suite)"
        terminalreporter.line(f"  {suite}: {number}{whole}")
    for suite in missing_suites(config, counts):
        terminalreporter.line(f"DID NOT RUN: {suite}", red=True)


@pytest.hookimpl(trylast=True)
def pytest_sessionfinish(session: pytest.Session) -> None:
    reporter = session.config.pluginmanager.get_plugin("terminalreporter")
    if isinstance(reporter, pytest.TerminalReporter) and missing_suites(session.config, outcomes_by_suite(reporter)):
        session.exitstatus = session.exitstatus or pytest.ExitCode.TESTS_FAILED


def outcomes_by_suite(reporter: pytest.TerminalReporter) -> dict[str, Counter[str]]:
    counts: dict[str, Counter[str]] = {}
    for outcome in OUTCOMES:
        for report in reporter.stats.get(outcome, []):
            counts.setdefault(suite_of(report.nodeid), Counter())[outcome] += 1
    return counts


def suite_of(nodeid: str) -> str:
    return nodeid.partition("::")[0]


def missing_suites(config: pytest.Config, counts: dict[str, Counter[str]]) -> Sequence[str]:
    """Test files without one passed test, and folders without a test file; none unless --every-suite asks."""
    if not config.getoption("--every-suite"):
        return ()
    missing = []
    for folder in config.getini("testpaths"):
        suites = suites_in(config, folder) or [folder]
        missing += [suite for suite in suites if not counts.get(suite, Counter())["passed"]]
    return missing


def suites_in(config: pytest.Config, folder: str) -> list[str]:
    files = sorted(Path(config.rootpath, folder).rglob("test_*.py"))
    return [str(file.relative_to(config.rootpath)) for file in files]
