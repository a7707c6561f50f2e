"""The segment bitmap: every block belongs to one claim at a time, from any number of threads, and none is lost."""

from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from totalog.engine import Log, layout, region
from totalog.engine._core import lib
from totalog.engine._core_long import ffi as long_ffi
from totalog.engine._core_long import lib as long_lib
from totalog.engine.tests import driver


@pytest.fixture
def log() -> Iterator[Log]:
    with Log.create(size=driver.SIZE_SMALL) as log:
        yield log


def race(threads: int, rounds: int, blocks: int) -> tuple[int, int, int]:
    """(collisions, claims, blocks in use afterwards beyond those before), in calls that leave the GIL."""
    ffi, long = long_ffi, long_lib
    made = region.Region.create(None, 2048 * lib.BLOCK_SIZE, True)
    error, claims, nanoseconds = ffi.new("int32_t *"), ffi.new("uint64_t *"), ffi.new("double *")
    core = long.log_open(made.descriptor, made.size, layout.layout_id(), 0, error)
    assert core != ffi.NULL

    def used() -> int:
        total, used, committed = (ffi.new("uint64_t *") for _ in range(3))
        long.log_blocks(core, total, used, committed)
        return int(used[0])

    before = used()
    collisions = long.core_bitmap_race(core, threads, rounds, blocks, claims, nanoseconds)
    found = (collisions, claims[0], used() - before)
    long.log_close(core)
    made.close()
    return found


@pytest.mark.parametrize("blocks", [1, 17, 64, 65, 300])
@pytest.mark.parametrize("threads", [1, 2, 4])
def test_claims_of_threads_do_not_overlap(threads: int, blocks: int) -> None:
    rounds = 20_000 // blocks + 50
    collisions, claims, left = race(threads, rounds, blocks)
    assert collisions == 0
    assert claims == threads * rounds
    assert left == 0


@pytest.mark.parametrize("blocks", [1, 2, 63, 64, 65, 128, 130])
def test_runs_start_anywhere(blocks: int) -> None:
    """A run is claimed at each place in its word, and comes back from there."""
    with Log.create(size=1024 * lib.BLOCK_SIZE) as log:
        core = log._core
        before = driver.blocks_used(log)
        starts = set()
        for offset in range(64):
            spacer = lib.core_claim(core, 64 + offset)
            run = lib.core_claim(core, blocks)
            assert run > 0
            assert not set(range(run, run + blocks)) & set(range(spacer, spacer + 64 + offset))
            assert driver.blocks_used(log) == before + blocks + 64 + offset
            starts.add(run % 64)
            lib.core_free(core, spacer, 64 + offset)
            lib.core_free(core, run, blocks)
        assert driver.blocks_used(log) == before
        assert len(starts) > 30 or blocks <= 2


def test_newest_freed_first(log: Log) -> None:
    core = log._core
    runs = [lib.core_claim(core, blocks) for blocks in (1, 4, 1, 1, 2, 1)]
    sizes = dict(zip(runs, (1, 4, 1, 1, 2, 1), strict=True))
    for run in runs:
        lib.core_free(core, run, sizes[run])
    assert lib.core_claim(core, 2) == runs[4], "the newest that is large enough"
    assert [lib.core_claim(core, 1) for _ in range(3)] == [runs[5], runs[3], runs[2]]
    assert lib.core_claim(core, 3) == runs[1]
    assert lib.core_claim(core, 1) == runs[1] + 3, "and what is left of it"
    assert lib.core_claim(core, 1) == runs[0]


def test_newest_freed_first_after_an_older_one_was_taken(log: Log) -> None:
    core = log._core
    sizes = (4, 1, 1, 1)
    runs = [lib.core_claim(core, blocks) for blocks in sizes]
    for run, blocks in zip(runs, sizes, strict=True):
        lib.core_free(core, run, blocks)
    assert lib.core_claim(core, 4) == runs[0]
    assert [lib.core_claim(core, 1) for _ in range(3)] == [runs[3], runs[2], runs[1]]


def test_full_and_freed(log: Log) -> None:
    core = log._core
    before = driver.blocks_used(log)
    claimed = []
    while block := lib.core_claim(core, 1):
        claimed.append(block)
    assert len(set(claimed)) == len(claimed)
    assert log.memory().blocks_free == 0
    assert lib.core_claim(core, 1) == 0
    assert log.counters()["out_of_memory"] == 2
    for block in claimed[::2]:
        lib.core_free(core, block, 1)
    assert lib.core_claim(core, 2) == 0, "every second block is free, and no two are neighbours"
    for block in claimed[1::2]:
        lib.core_free(core, block, 1)
    assert driver.blocks_used(log) == before
    assert lib.core_claim(core, 200) > 0


def test_more_freed_runs_than_are_remembered(log: Log) -> None:
    core = log._core
    before = driver.blocks_used(log)
    for _ in range(3):
        runs = [lib.core_claim(core, 1) for _ in range(200)]
        assert 0 not in runs
        for run in runs:
            lib.core_free(core, run, 1)
    assert driver.blocks_used(log) == before


class BitmapMachine(RuleBasedStateMachine):
    """Claims and frees, next to a set of free blocks."""

    def __init__(self) -> None:
        super().__init__()
        self.log = Log.create(size=driver.SIZE_SMALL)
        self.core: Any = self.log._core
        used = {block + i for block, _, count, _ in driver.claimed_blocks(self.log) for i in range(count)}
        self.free = set(range(self.log.memory().blocks_total)) - used
        self.runs: list[tuple[int, int]] = []

    def fits(self, count: int) -> bool:
        return any(all(first + i in self.free for i in range(count)) for first in self.free)

    @rule(count=st.one_of(st.integers(1, 8), st.sampled_from([63, 64, 65, 100])))
    def claim(self, count: int) -> None:
        first = lib.core_claim(self.core, count)
        if first == 0:
            assert not self.fits(count)
            return
        blocks = set(range(first, first + count))
        assert blocks <= self.free
        self.free -= blocks
        self.runs.append((first, count))

    @precondition(lambda self: self.runs)
    @rule(data=st.data())
    def give_back(self, data: st.DataObject) -> None:
        first, count = self.runs.pop(data.draw(st.integers(0, len(self.runs) - 1)))
        lib.core_free(self.core, first, count)
        self.free |= set(range(first, first + count))

    @invariant()
    def counts_agree(self) -> None:
        assert self.log.memory().blocks_free == len(self.free)

    def teardown(self) -> None:
        self.log.close()


TestBitmapAgainstASet = BitmapMachine.TestCase
TestBitmapAgainstASet.settings = settings(max_examples=40, stateful_step_count=40, deadline=None)
