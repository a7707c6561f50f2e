"""Brokers that are killed, lose their memory, or have a disk at fault: sixty rounds and more, each fault in them."""

from pathlib import Path

import numpy as np
import pytest

from compat_tests.breaking import faults
from compat_tests.breaking.campaign import Campaign, Ledger
from compat_tests.breaking.judge import commits_kept, still_there
from compat_tests.checker import Seen, numbers

pytestmark = pytest.mark.totalog_only

SEEDS = (1, 2, 3)


@pytest.mark.parametrize("seed", SEEDS)
def test_nothing_that_was_promised_is_broken(seed: int, tmp_path: Path) -> None:
    ledger = Ledger(tmp_path / "ledger.jsonl")
    Campaign(tmp_path, seed, ledger).run(len(faults.FAULTS))
    struck = {row["fault"] for row in ledger.rows if "fault" in row}
    assert struck == {fault.name for fault in faults.FAULTS}
    assert ledger.rows[-1]["result"] == "nothing lost, nothing moved"
    assert Ledger(tmp_path / "ledger.jsonl").next_round(seed) == len(faults.FAULTS)


def test_the_seeds_make_sixty_rounds_with_and_without_the_region() -> None:
    rounds = [each for seed in SEEDS for each, _ in zip(faults.rounds(seed), faults.FAULTS, strict=False)]
    assert len(rounds) >= 60
    assert {each.region for each in rounds if each.fault.ends} == set(faults.REGIONS)


def view(identities: list[int], first: int = 0) -> Seen:
    count = len(identities)
    return Seen(np.zeros(count, dtype=np.int64), np.arange(first, first + count), numbers(identities))


@pytest.mark.parametrize(("committed", "kept"), [(400, True), (600, True), (399, False), (601, False), (0, False)])
def test_commits_that_went_back_are_found(committed: int, kept: bool) -> None:
    class Told:
        acknowledged, asked = 400, 600

        def committed(self) -> int:
            return committed

    assert (commits_kept(Told()) == []) == kept  # type: ignore[arg-type]


def test_what_vanished_is_found() -> None:
    assert still_there(view([5, 6, 7]), view([5, 6, 7, 8])) == []
    assert still_there(view([5, 6, 7]), view([5, 6])) != []
    assert still_there(view([5, 6, 7]), view([5, 7, 6, 8])) != []
    assert still_there(view([5, 6], first=1), view([5, 6, 7])) != []
