"""Each scenario of the simulator, under each adversary: a sample of the states of memory, from a fixed seed.

More of them: python -m totalog.engine.sim --seeds 10
"""

import functools

import pytest

from totalog.engine.sim import mutants
from totalog.engine.sim.__main__ import run
from totalog.engine.sim.scenarios import SCENARIOS
from totalog.engine.sim.world import Adversary

STATES_MAX = 2
EVICT_ONE_IN = 5


@pytest.mark.parametrize("name", ["publishing", "operations", "trims", "retention", "producers"])
def test_no_state_of_memory_breaks_a_promise(name: str) -> None:
    assert name in SCENARIOS
    assert run(name, Adversary(seed=1, subsets_max=STATES_MAX)) > 0


def test_lines_may_be_evicted_at_any_moment() -> None:
    assert run("publishing", Adversary(seed=2, subsets_max=STATES_MAX, evict_one_in=EVICT_ONE_IN)) > 0


@pytest.mark.parametrize("name", ["delegation ring_put flush 1", "face delegate_one flush 1"])
def test_a_missing_flush_is_seen(name: str) -> None:
    """The canary: what proves nothing without a flush may not pass for a proof."""
    (mutant,) = (each for each in mutants.mutants() if each.site.name == name and each.kind == "deleted")
    _, failure = mutants.in_child(functools.partial(mutants.mutated, mutant, "publishing"))
    assert failure
