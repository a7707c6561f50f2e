"""Each scenario of the simulator: a sample of the states of memory, from a fixed seed; and a sample of the mutants of
the seam, each of which a scenario has to see.

More of both: python -m totalog.engine.sim --seeds 10, and make mutants.
"""

import random

import pytest

from totalog.engine.sim import score
from totalog.engine.sim.__main__ import run
from totalog.engine.sim.equivalents import EQUIVALENTS, UNPROVEN
from totalog.engine.sim.mutants import mutants, try_mutant
from totalog.engine.sim.scenarios import RANGES, SCENARIOS
from totalog.engine.sim.world import Adversary, World

STATES_MAX = 2
EVICT_ONE_IN = 5
SAMPLE_SEED, SAMPLE_SIZE = 183633, 12
"""The seed is one whose sample was known to be killed: it finds what becomes weaker, and proves nothing of the rest."""
QUICK_FIRST = (
    "bounds",
    "late_pins",
    "replicated",
    "long_partition",
    "slow_reader",
    "claims",
    "collecting",
    "epochs",
    "durability",
    "leaving",
    "burial",
    "beginnings",
    "succession",
    "elsewhere",
    "publishing",
)
"""Scenarios that kill much in little time."""
KILLERS = {"delegation delegation_seal_dead invalidate 1 unfenced": "elsewhere"}
"""Of mutants that those before would let live, after a long time: what is known to kill them is tried first."""


@pytest.mark.parametrize("name", SCENARIOS)
def test_no_state_of_memory_breaks_a_promise(name: str) -> None:
    assert run(name, Adversary(seed=1, subsets_max=STATES_MAX)) > 0


def test_lines_may_be_evicted_at_any_moment() -> None:
    assert run("publishing", Adversary(seed=2, subsets_max=STATES_MAX, evict_one_in=EVICT_ONE_IN)) > 0


def test_who_follows_one_that_was_killed_as_it_evicted_is_followed_too() -> None:
    """In as many states of memory as it takes to have the lines of some partitions there, and not those of others."""
    assert run("eviction", Adversary(seed=1, subsets_max=2 * STATES_MAX, follow_one_in=1)) > 0


@pytest.mark.parametrize("name", ["delegation ring_put flush 1 deleted", "append delegate_one flush 1 deleted"])
def test_a_missing_flush_is_seen(name: str) -> None:
    """The canary: what proves nothing without a flush may not pass for a proof."""
    (mutant,) = (each for each in mutants() if each.name == name)
    assert try_mutant(mutant, ["publishing"]).killed_by


@pytest.mark.parametrize(("ranges", "atomics"), [(0, True), (RANGES, False)])
def test_atomics_of_allocation_are_counted(ranges: int, atomics: bool) -> None:
    """What the partitioned scenarios hold to be none is some where blocks are shared."""
    world = World(Adversary(seed=1, subsets_max=STATES_MAX), ranges)
    try:
        used = world.writer.blocks_used()
        assert world.lib.core_claim(world.writer.core, 1) != 0
        assert world.writer.blocks_used() == used + 1
        assert (world.lib.sim_allocation_atomics() > 0) == atomics
    finally:
        world.close()


def sample() -> list[str]:
    provable = [
        mutant.name for mutant in mutants() if mutant.name not in EQUIVALENTS and not score.unproven(mutant.name)
    ]
    return random.Random(SAMPLE_SEED).sample(provable, SAMPLE_SIZE)


@pytest.mark.parametrize("name", sample())
def test_a_mutant_of_the_sample_is_killed(name: str) -> None:
    (mutant,) = (each for each in mutants() if each.name == name)
    first = [KILLERS[name]] if name in KILLERS else []
    order = list(dict.fromkeys([*first, *QUICK_FIRST, *SCENARIOS]))
    assert try_mutant(mutant, order).killed_by, f"survives: {name} (seed {SAMPLE_SEED})"


def test_what_is_said_of_mutants_is_said_of_mutants_there_are() -> None:
    assert score.gone() == []
    assert not any(name.startswith(beginning) for name in EQUIVALENTS for beginning in UNPROVEN)


def test_the_readme_counts_the_sites_and_mutants_of_today() -> None:
    """After a change of what is flushed: python -m totalog.engine.sim.score --facts"""
    readme = score.README.read_text()
    assert score.with_facts(readme) == readme
