"""Mutation of the seam: each flush, fence and invalidate that the core calls is deleted, or moved to the next line, and
a scenario has to fail; or the mutant stands in equivalents.py with the reason why nothing changes.

A mutant runs in a process of its own: it may crash the core, or send it round in circles (which a count of steps ends).
"""

import contextlib
import functools
import os
import pickle
import re
import resource
import signal
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from totalog.engine.sim import build
from totalog.engine.sim.equivalents import EQUIVALENTS
from totalog.engine.sim.scenarios import SCENARIOS
from totalog.engine.sim.world import Adversary, World

ADVERSARY = Adversary(seed=1, subsets_max=10, follow_one_in=5)
CPU_SECONDS_MAX = 240
OPERATIONS = ("flush", "fence", "invalidate")
KINDS = {"flush": ("deleted", "redirected"), "fence": ("deleted",), "invalidate": ("deleted", "redirected")}
SWITCH = {"deleted": 1, "redirected": 2, "unfenced": 3}
FUNCTION = re.compile(r"^[a-z][\w \*]*?(\w+)\(", re.MULTILINE)


class Site(NamedTuple):
    """A place in the core where the seam is called. Its name holds no line number, so it survives edits elsewhere."""

    number: int
    name: str
    line: int
    operation: str


class Mutant(NamedTuple):
    site: Site
    kind: str

    @property
    def name(self) -> str:
        return f"{self.site.name} {self.kind}"


@dataclass(frozen=True)
class Outcome:
    mutant: Mutant
    killed_by: str
    """The scenario and how it failed; empty when all of them passed."""
    seconds: float


@functools.cache
def sites() -> tuple[Site, ...]:
    module = build.core()
    site = module.ffi.new("struct sim_site *")
    found = []
    for number in range(module.lib.sim_site_count()):
        module.lib.sim_site_get(number, site)
        found.append((module.ffi.string(site.file).decode(), site.line, OPERATIONS[site.operation], number))
    counts: dict[str, int] = {}
    named = []
    for file, line, operation, number in sorted(found):
        name = f"{Path(file).stem} {function_at(file, line)} {operation}"
        counts[name] = counts.get(name, 0) + 1
        named.append(Site(number, f"{name} {counts[name]}", line, operation))
    return tuple(named)


@functools.cache
def source(file: str) -> tuple[str, ...]:
    return tuple(Path(file).read_text().splitlines())


def function_at(file: str, line: int) -> str:
    for text in reversed(source(file)[:line]):
        match = FUNCTION.match(text)
        if match and not text.endswith(";"):
            return match[1]
    raise AssertionError(f"no function around {file}:{line}")


def mutants() -> list[Mutant]:
    return [Mutant(site, kind) for site in sites() for kind in KINDS[site.operation]]


def run_scenario(name: str) -> None:
    """Errors: Violation."""
    world = World(ADVERSARY)
    SCENARIOS[name](world)


def in_child(function: Callable[[], object]) -> tuple[object, str]:
    """(what it returned, how it failed), from a process of its own."""
    read_end, write_end = os.pipe()
    child = os.fork()
    if child == 0:
        with open(os.devnull, "w") as nowhere:
            os.dup2(nowhere.fileno(), 1)
            os.dup2(nowhere.fileno(), 2)
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        resource.setrlimit(resource.RLIMIT_CPU, (CPU_SECONDS_MAX, CPU_SECONDS_MAX))
        try:
            answer: tuple[object, str] = (function(), "")
        except BaseException as failure:  # noqa: BLE001 - any failure kills the mutant, and says how
            answer = (None, f"{type(failure).__name__}: {failure}")
        os.write(write_end, pickle.dumps((answer[0], answer[1][:2000])))
        os._exit(0)
    os.close(write_end)
    with open(read_end, "rb") as stream:
        data = stream.read()
    _, status = os.waitpid(child, 0)
    if os.WIFSIGNALED(status):
        return None, signal.Signals(os.WTERMSIG(status)).name
    answer = pickle.loads(data)
    return answer


def hits_of(name: str) -> list[int]:
    run_scenario(name)
    module = build.core()
    site = module.ffi.new("struct sim_site *")
    hits = []
    for number in range(module.lib.sim_site_count()):
        module.lib.sim_site_get(number, site)
        hits.append(int(site.hits))
    return hits


def baseline() -> dict[str, tuple[float, list[int]]]:
    """For each scenario, on the core as it is: seconds, and how often each site was reached."""
    found = {}
    for name in SCENARIOS:
        start = time.monotonic()
        hits, failure = in_child(functools.partial(hits_of, name))
        if failure:
            raise SystemExit(f"scenario {name} fails without any mutant: {failure}")
        assert isinstance(hits, list)
        found[name] = (time.monotonic() - start, hits)
    return dict(sorted(found.items(), key=lambda item: item[1][0]))


def mutated(mutant: Mutant, scenario: str) -> None:
    build.core().lib.sim_mutate(mutant.site.number, SWITCH[mutant.kind])
    run_scenario(scenario)


def try_mutant(mutant: Mutant, base: dict[str, tuple[float, list[int]]]) -> Outcome:
    start = time.monotonic()
    killed_by = ""
    for scenario, (_, hits) in base.items():
        if hits[mutant.site.number] == 0:
            continue
        _, failure = in_child(functools.partial(mutated, mutant, scenario))
        if failure:
            killed_by = f"{scenario}: {failure}"
            break
    return Outcome(mutant, killed_by, time.monotonic() - start)


def try_all(chosen: Sequence[Mutant]) -> Iterator[Outcome]:
    """Each of the mutants, on all processors."""
    base = baseline()
    workers = len(os.sched_getaffinity(0))
    pipes = []
    for worker in range(workers):
        read_end, write_end = os.pipe()
        if os.fork() == 0:
            with open(write_end, "wb") as stream:
                for mutant in chosen[worker::workers]:
                    pickle.dump(try_mutant(mutant, base), stream)
                    stream.flush()
            os._exit(0)
        os.close(write_end)
        pipes.append(os.fdopen(read_end, "rb"))
    for pipe in pipes:
        with pipe, contextlib.suppress(EOFError):
            while True:
                yield pickle.load(pipe)
    for _ in range(workers):
        os.wait()


def report(outcomes: Iterable[Outcome], every: bool) -> int:
    """Prints what survived and the score. Returns how many survived without a reason, or were listed and died."""
    count = killed = equivalent = wrong = 0
    for outcome in outcomes:
        count += 1
        name = outcome.mutant.name
        if outcome.killed_by:
            killed += 1
            if name in EQUIVALENTS:
                wrong += 1
                print(f"listed as equivalent, but killed: {name} by {outcome.killed_by}")
        elif name in EQUIVALENTS:
            equivalent += 1
        else:
            wrong += 1
            print(f"survived: {name} (line {outcome.mutant.site.line}, {outcome.seconds:.1f} s)", flush=True)
    known = {mutant.name for mutant in mutants()}
    for name in sorted(set(EQUIVALENTS) - known):
        wrong += 1
        print(f"listed as equivalent, but there is no such mutant: {name}")
    whole = "all" if every else "a sample"
    print(f"{count} mutants ({whole}): {killed} killed, {equivalent} equivalent with a reason, {wrong} wrong")
    return wrong


def main(arguments: Sequence[str]) -> int:
    """No argument: all mutants. `--sample N`: every N-th. Otherwise words that the mutant's name has to hold."""
    chosen = mutants()
    every = not arguments
    if arguments[:1] == ["--sample"]:
        chosen = [mutant for mutant in chosen if mutant.name not in EQUIVALENTS][:: int(arguments[1])]
    elif arguments:
        chosen = [mutant for mutant in chosen if " ".join(arguments) in mutant.name]
    return 1 if report(try_all(chosen), every) else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
