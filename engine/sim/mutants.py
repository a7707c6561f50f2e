"""Mutation of the seam: each flush, fence and invalidate that the core calls is deleted, or moved to the next line, or
loses its fence (an invalidate, whose loads may then run ahead of it), and a scenario has to fail; or the mutant stands
in equivalents.py with the reason why no one can tell.

A mutant runs in a process of its own: it may crash the core, or send it round in circles (which a count of steps ends).
"""

import functools
import re
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from totalog.engine.sim import build
from totalog.engine.sim.child import in_child
from totalog.engine.sim.scenarios import SCENARIOS, run_scenario
from totalog.engine.sim.world import Adversary

ADVERSARY = Adversary(seed=1, subsets_max=8, follow_one_in=8)
OPERATIONS = ("flush", "fence", "invalidate")
KINDS = {"flush": ("deleted", "redirected"), "fence": ("deleted",), "invalidate": ("deleted", "redirected", "unfenced")}
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
    name: str
    """Of the mutant."""
    killed_by: str
    """The scenario; empty when all of them passed."""
    how: str
    """What it said."""
    seconds: float


@dataclass(frozen=True)
class Baseline:
    """What the scenarios do with the core as it is."""

    hits: dict[str, list[int]]
    """For each scenario, how often each site was reached."""
    seconds: dict[str, float]

    def reach(self, site: Site) -> list[str]:
        """The scenarios that come by, quick ones first."""
        return sorted((name for name in self.hits if self.hits[name][site.number]), key=lambda name: self.seconds[name])


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


def hits_of(name: str) -> list[int]:
    run_scenario(name, ADVERSARY)
    module = build.core()
    site = module.ffi.new("struct sim_site *")
    hits = []
    for number in range(module.lib.sim_site_count()):
        module.lib.sim_site_get(number, site)
        hits.append(int(site.hits))
    return hits


def baseline() -> Baseline:
    hits, seconds = {}, {}
    for name in SCENARIOS:
        start = time.monotonic()
        answer, failure = in_child(functools.partial(hits_of, name))
        if failure:
            raise SystemExit(f"scenario {name} fails without any mutant: {failure}")
        assert isinstance(answer, list)
        hits[name], seconds[name] = answer, time.monotonic() - start
    return Baseline(hits, seconds)


def mutated(mutant: Mutant, scenario: str) -> None:
    build.core().lib.sim_mutate(mutant.site.number, SWITCH[mutant.kind])
    run_scenario(scenario, ADVERSARY)


def try_mutant(mutant: Mutant, scenarios: Sequence[str]) -> Outcome:
    """Runs the scenarios in this order until one fails."""
    start = time.monotonic()
    for scenario in scenarios:
        _, failure = in_child(functools.partial(mutated, mutant, scenario))
        if failure:
            return Outcome(mutant.name, scenario, failure, time.monotonic() - start)
    return Outcome(mutant.name, "", "", time.monotonic() - start)
