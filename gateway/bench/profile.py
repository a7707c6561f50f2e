"""Where the time of a broker on this machine goes while it works: linux-perf and py-spy, where they are installed.

perf counts (cache misses, branch misses, instructions, cycles) and samples stacks. For stacks of Python functions
py-spy is asked; perf knows them, too, where the broker was started with PYTHONPERFSUPPORT=1 on a Python 3.12 or later
that was built with frame pointers.

Sources: the manual pages perf-stat(1), perf-record(1) and perf-script(1); `py-spy record --help`.
"""

import os
import shutil
import signal
import subprocess
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterable
from pathlib import Path

from totalog.gateway.bench.flame import Stacks

Counts = dict[str, float | None]
"""By perf's names of events; task-clock in milliseconds. None: this machine does not count that."""

COUNTERS = ("cache-misses", "branch-misses", "instructions", "cycles")
"""What only hardware counts; a virtual machine often has none of it."""
EVENTS = (*COUNTERS, "task-clock", "context-switches", "page-faults")
SAMPLES_PER_S = 199
"""Not a divisor of what else happens at regular times."""
STACK_SIZE = 16384
"""Bytes of a stack that perf keeps of each sample: functions without frame pointers are found in these afterwards."""
ATTACH_S = 0.5
"""Seconds that a tool gets to attach itself; the broker idles meanwhile, so nothing is counted that should not be."""
END_S_MAX = 60.0
PYTHON_FUNCTION = "py::"
"""How names begin that Python gives its functions for perf."""
HOW_TO_INSTALL = {
    "perf": "perf is not installed: no counters, no functions of C (Debian: apt install linux-perf)",
    "py-spy": "py-spy is not installed: no functions of Python (pip install py-spy)",
}


class CannotProfile(Exception):
    """Why a tool told nothing, in one line."""


def installed() -> list[str]:
    return [tool for tool in HOW_TO_INSTALL if shutil.which(tool) is not None]


def missing() -> list[str]:
    """What is not installed, and what that costs; one line each."""
    return [line for tool, line in HOW_TO_INSTALL.items() if shutil.which(tool) is None]


def count(pid: int, work: Callable[[], int]) -> tuple[Counts, int]:
    """The process's events during `work`, and what that returned. Raises CannotProfile."""
    with tempfile.TemporaryDirectory(prefix="totalog-perf-") as folder:
        told = Path(folder, "stat")
        command = ["perf", "stat", "-x", ",", "-e", ",".join(EVENTS), "-o", str(told), "-p", str(pid)]
        result = _beside(command, work, told)
        return parse_counts(told.read_text().splitlines()), result


def parse_counts(lines: Iterable[str]) -> Counts:
    """What `perf stat -x ,` wrote: value, unit, event, ... Raises CannotProfile."""
    found: Counts = {}
    for line in lines:
        words = line.split(",")
        event = words[2].partition(":")[0] if len(words) > 2 else ""
        if event in EVENTS:
            found[event] = None if words[0].startswith("<") else float(words[0])
    if not found:
        raise CannotProfile("perf stat told nothing")
    return found


def sample(pid: int, work: Callable[[], int]) -> Stacks:
    """Stacks of the process during `work`, as perf sees them. Raises CannotProfile."""
    if Path(f"/tmp/perf-{pid}.map").exists():
        # The code of Python's trampoline is described nowhere: only frame pointers lead through it, if there are any.
        stacks = _sample(pid, work, "fp")
        if any(function.startswith(PYTHON_FUNCTION) for stack in stacks for function in stack):
            return stacks
    return _sample(pid, work, f"dwarf,{STACK_SIZE}")


def _sample(pid: int, work: Callable[[], int], call_graph: str) -> Stacks:
    with tempfile.TemporaryDirectory(prefix="totalog-perf-") as folder:
        recorded = Path(folder, "data")
        command = ["perf", "record", "-q", "-F", str(SAMPLES_PER_S), "--call-graph", call_graph]
        _beside([*command, "-o", str(recorded), "-p", str(pid)], work, recorded)
        command = ["perf", "script", "--no-inline", "-F", "comm,ip,sym", "-i", str(recorded)]
        done = subprocess.run(command, capture_output=True, text=True, errors="replace", check=False)
    if done.returncode:
        raise CannotProfile(f"perf script: {_last_line(done.stderr)}")
    return parse_script(done.stdout.splitlines())


def parse_script(lines: Iterable[str]) -> Stacks:
    """What `perf script -F comm,ip,sym` wrote: for each sample the thread's name, and its functions on lines of their
    own, the innermost first; an empty line ends it. Raises CannotProfile."""
    stacks: Stacks = Counter()
    thread, functions = "", []
    for line in [*lines, ""]:
        if line[:1].isspace():
            _, _, function = line.strip().partition(" ")
            functions.append(function or "[unknown]")
        elif line:
            thread = line.strip()
        elif functions:
            stacks[thread, *reversed(functions)] += 1
            functions = []
    if not stacks:
        raise CannotProfile("perf took no samples")
    return stacks


def sample_python(pid: int, work: Callable[[], int]) -> Stacks:
    """The same of Python functions, as py-spy sees them; what C does counts for who called it. Raises CannotProfile."""
    with tempfile.TemporaryDirectory(prefix="totalog-py-spy-") as folder:
        told = Path(folder, "stacks")
        command = ["py-spy", "record", "--format", "raw", "--function", "--rate", str(SAMPLES_PER_S)]
        _beside([*command, "--output", str(told), "--pid", str(pid)], work, told)
        return parse_folded(told.read_text().splitlines())


def parse_folded(lines: Iterable[str]) -> Stacks:
    """Lines of `outermost;...;innermost count`. Raises CannotProfile."""
    stacks: Stacks = Counter()
    for line in lines:
        stack, _, number = line.rpartition(" ")
        if stack and number.isdigit():
            stacks[tuple(stack.split(";"))] += int(number)
    if not stacks:
        raise CannotProfile("py-spy took no samples")
    return stacks


def _beside(command: list[str], work: Callable[[], int], written: Path) -> int:
    """`work`, while a tool looks on that ends, and writes a file, when it is interrupted. Raises CannotProfile."""
    name = " ".join(command[:2])
    environment = {**os.environ, "LC_ALL": "C"}
    with tempfile.TemporaryFile("w+") as said:
        try:
            tool = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=said, env=environment)
        except OSError as fault:
            raise CannotProfile(f"{name}: {fault.strerror}") from None
        try:
            time.sleep(ATTACH_S)
            result = None if tool.poll() is not None else work()
            tool.send_signal(signal.SIGINT)
            tool.wait(END_S_MAX)
        except subprocess.TimeoutExpired:
            raise CannotProfile(f"{name} does not end") from None
        finally:
            tool.kill()
            tool.wait()
        said.seek(0)
        if result is None or not written.exists() or not written.stat().st_size:
            raise CannotProfile(f"{name}: {_last_line(said.read())}")
    return result


def _last_line(text: str) -> str:
    return next((line.strip() for line in reversed(text.splitlines()) if line.strip()), "it said nothing")
