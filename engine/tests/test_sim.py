"""Each scenario of the simulator: a sample of the states of memory, from a fixed seed; and a sample of the mutants of
the seam, each of which a scenario has to see.

More of both: python -m totalog.engine.sim --seeds 10, and make mutants.
"""

import pytest

from totalog.engine.sim import score
from totalog.engine.sim.__main__ import run
from totalog.engine.sim.equivalents import EQUIVALENTS, UNPROVEN
from totalog.engine.sim.mutants import mutants, try_mutant
from totalog.engine.sim.scenarios import RANGES, SCENARIOS
from totalog.engine.sim.world import Adversary, World

STATES_MAX = 2
EVICT_ONE_IN = 5
SAMPLE = {
    "read log_topic_settings invalidate 1 deleted": "slow_reader",
    "append write_record flush 1 redirected": "replicated",
    "bitmap bitmap_say flush 1 deleted": "late_pins",
    "wait completed invalidate 1 redirected": "claims",
    "open region_format flush 1 deleted": "late_pins",
    "read log_topic_settings invalidate 1 unfenced": "slow_reader",
    "read open_cursor invalidate 1 unfenced": "durability",
    "delegation delegation_seal_dead invalidate 1 unfenced": "elsewhere",
    "producers producers_snapshot flush 1 redirected": "long_partition",
    "read view_leader_epoch invalidate 1 redirected": "epochs",
    "append log_topics_version invalidate 1 deleted": "slow_reader",
    "read directory_count invalidate 1 unfenced": "durability",
}
"""Mutants, drawn at random once, and the scenario that is known to kill each. The sample finds what becomes weaker, and
proves nothing of the rest."""


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


@pytest.mark.parametrize("name", SAMPLE)
def test_a_mutant_of_the_sample_is_killed(name: str) -> None:
    (mutant,) = (each for each in mutants() if each.name == name)
    assert try_mutant(mutant, [SAMPLE[name]]).killed_by, f"{name} survives {SAMPLE[name]}"


def test_what_is_said_of_mutants_is_said_of_mutants_there_are() -> None:
    assert score.gone() == []
    assert not any(name.startswith(beginning) for name in EQUIVALENTS for beginning in UNPROVEN)


def test_the_readme_counts_the_sites_and_mutants_of_today() -> None:
    """After a change of what is flushed: python -m totalog.engine.sim.score --facts"""
    readme = score.README.read_text()
    assert score.with_facts(readme) == readme
