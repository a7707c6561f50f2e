"""The segment bitmap: every block belongs to one claim at a time, from any number of threads, and none is lost. Under
both policies: shared by atomics, and partitioned, where each broker claims in a range of its own."""

import contextlib
import os
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from totalog.engine import Log, layout, region
from totalog.engine._core import ffi, lib
from totalog.engine._core_long import ffi as long_ffi
from totalog.engine._core_long import lib as long_lib
from totalog.engine.errors import RegionError
from totalog.engine.tests import driver

RESERVE = 8
"""Blocks that a sequencer keeps back."""
STEP = 256
"""Blocks that a broker claims until it begins at the bottom again."""


@pytest.fixture(params=[0, 1], ids=["shared", "partitioned"])
def log(request: pytest.FixtureRequest) -> Iterator[Log]:
    """A log whose one broker may claim everything."""
    with Log.create(size=driver.SIZE_SMALL, ranges=request.param) as log:
        yield log


def race(threads: int, rounds: int, blocks: int, ranges: int = 0, hands_over: bool = False) -> tuple[int, int, int]:
    """(collisions, claims, blocks in use afterwards beyond those before), in calls that leave the GIL."""
    ffi, long = long_ffi, long_lib
    made = region.Region.create(None, 2048 * lib.BLOCK_SIZE, True, ranges=ranges)
    error, claims, nanoseconds = ffi.new("int32_t *"), ffi.new("uint64_t *"), ffi.new("double *")
    core = long.log_open(made.descriptor, made.size, layout.layout_id(), 0, error)
    assert core != ffi.NULL

    def used() -> int:
        total, used, committed = (ffi.new("uint64_t *") for _ in range(3))
        long.log_blocks(core, total, used, committed)
        return int(used[0])

    before = used()
    collisions = long.core_bitmap_race(core, threads, rounds, blocks, hands_over, claims, nanoseconds)
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


@pytest.mark.parametrize("blocks", [1, 64, 100])
@pytest.mark.parametrize("threads", [1, 3])
@pytest.mark.parametrize("hands_over", [False, True], ids=["freed by brokers", "freed by the sequencer too"])
def test_claims_of_brokers_with_ranges_do_not_overlap(threads: int, blocks: int, hands_over: bool) -> None:
    """Each thread is a broker; the test's own is the sequencer."""
    rounds = 5_000 // blocks + 50
    collisions, claims, left = race(threads, rounds, blocks, threads + 1, hands_over)
    assert (collisions, claims, left) == (0, threads * rounds, 0)


@pytest.mark.parametrize("ranges", [0, 1, 3])
@pytest.mark.parametrize("blocks", [1, 2, 63, 64, 65, 128, 130])
def test_runs_start_anywhere(blocks: int, ranges: int) -> None:
    """A run is claimed at each place in its word, and comes back from there."""
    with Log.create(size=1024 * max(ranges, 1) * lib.BLOCK_SIZE, ranges=ranges) as log:
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


@pytest.mark.parametrize("ranges", [0, 2])
def test_a_broker_that_is_not_told_what_comes_free_uses_few_blocks(ranges: int) -> None:
    with Log.create(size=8 * STEP * lib.BLOCK_SIZE, ranges=ranges) as log:
        core = driver.join(log, 1)
        used = set()
        for _ in range(4 * STEP):
            block = lib.core_claim(core, 1)
            used.add(block)
            lib.core_free(log._core, block, 1)
        assert 0 not in used
        assert len(used) <= STEP


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


def test_a_broker_claims_in_its_own_range_and_nowhere_else() -> None:
    """The last range has what is left besides; a broker without a range does not join."""
    with Log.create(size=200 * lib.BLOCK_SIZE, ranges=3) as log:
        header = driver.peek_struct(log, 0, "region_header")
        size = header.range_blocks
        assert size * 3 <= header.block_count < size * 3 + 3
        for broker in (1, 2):
            core = driver.join(log, broker)
            claimed = set()
            while block := lib.core_claim(core, 1):
                claimed.add(block)
            assert claimed == set(range(broker * size, size * 2 if broker == 1 else header.block_count))
        assert log.memory().blocks_free == size - 1 - RESERVE
        error = ffi.new("int32_t *")
        assert lib.log_join(log.region.descriptor, log.region.size, layout.layout_id(), 3, error) == ffi.NULL


@pytest.mark.parametrize(("blocks", "ranges"), [(95, 3), (1056, 33), (1024, -1)])
def test_too_many_ranges_are_refused(blocks: int, ranges: int) -> None:
    with pytest.raises(RegionError, match="ranges"):
        Log.create(size=blocks * lib.BLOCK_SIZE, ranges=ranges)


class BitmapMachine(RuleBasedStateMachine):
    """Runs that brokers claim and give back, that the sequencer gives back, and that the dead leave, next to a set of
    free blocks. Broker 0 is the sequencer as well."""

    ranges = 0
    brokers = 3

    def __init__(self) -> None:
        super().__init__()
        self.log = Log.create(size=driver.SIZE_SMALL, ranges=self.ranges)
        self.header = driver.peek_struct(self.log, 0, "region_header")
        self.cores = self.join_all()
        self.gone: list[Any] = []
        self.logs_gone: list[Log] = []
        self.runs: list[tuple[int, int, int]] = []
        """(broker, first block, blocks)."""
        used = driver.claimed_bits(self.log)
        self.free = {block for block in range(self.header.block_count) if not used >> block & 1}

    def join_all(self) -> list[Any]:
        return [self.log._core, *(driver.join(self.log, broker) for broker in range(1, self.brokers))]

    def mine(self, broker: int) -> range:
        """Where the broker may claim."""
        if self.ranges == 0:
            return range(self.header.block_count)
        ends = [number * self.header.range_blocks for number in range(self.ranges)] + [self.header.block_count]
        return range(ends[broker], ends[broker + 1])

    def fits(self, broker: int, count: int) -> bool:
        run = 0
        for block in self.mine(broker):
            run = run + 1 if block in self.free else 0
            if run == count:
                return True
        return False

    @contextlib.contextmanager
    def stores_of(self, broker: int) -> Iterator[None]:
        """Each bitmap of a range has one writer: `taken` its broker, `returned` the sequencer."""
        before = self.bitmaps()
        yield
        changed = {place for place, bitmap in self.bitmaps().items() if bitmap != before[place]}
        own = {(broker, "taken")}
        if broker == 0:
            own |= {(number, "returned") for number in range(1, self.ranges)}
        assert changed <= own

    def bitmaps(self) -> dict[tuple[int, str], bytes]:
        """Each on lines of its own."""
        size, at = lib.LINE_SIZE, self.header.bitmap_position
        assert at % size == 0
        places = [(number, name) for number in range(self.ranges) for name in ("taken", "returned")]
        return {place: driver.peek(self.log, at + size * number, size) for number, place in enumerate(places)}

    @rule(broker=st.integers(0, 2), count=st.one_of(st.integers(1, 8), st.sampled_from([31, 32, 63, 64, 65])))
    def claim(self, broker: int, count: int) -> None:
        address = ffi.new("uint64_t *")
        with self.stores_of(broker):
            first = lib.log_reserve(self.cores[broker], count * lib.BLOCK_SIZE, address)
        if first == 0:
            assert not self.fits(broker, count)
            return
        blocks = set(range(first, first + count))
        assert blocks <= self.free & set(self.mine(broker))
        self.free -= blocks
        self.runs.append((broker, first, count))

    @precondition(lambda self: self.runs)
    @rule(data=st.data(), by_sequencer=st.booleans())
    def give_back(self, data: st.DataObject, by_sequencer: bool) -> None:
        broker, first, count = self.runs.pop(data.draw(st.integers(0, len(self.runs) - 1)))
        with self.stores_of(0 if by_sequencer else broker):
            if by_sequencer:
                lib.core_free(self.log._core, first, count)
            else:
                lib.log_reserve_done(self.cores[broker], first, False)
        self.free |= set(range(first, first + count))

    @rule(broker=st.integers(1, 2))
    def kill(self, broker: int) -> None:
        """What it had goes back, and another process takes its place."""
        self.gone.append(self.cores[broker])
        with self.stores_of(0):
            lib.log_bury(self.log._core, 1 << broker)
        self.forget(broker)
        self.cores[broker] = driver.join(self.log, broker)

    @rule()
    def kill_all(self) -> None:
        """A sequencer that comes later finds nothing of theirs left. Its reserve may lie elsewhere."""
        self.gone += self.cores
        self.logs_gone.append(self.log)
        self.log._core = None
        self.log = Log(region.Region(os.dup(self.log.region.descriptor), self.log.region.size, None))
        for broker in range(self.brokers):
            self.forget(broker)
        self.cores = self.join_all()
        used = driver.claimed_bits(self.log)
        self.free, before = {block for block in range(self.header.block_count) if not used >> block & 1}, self.free
        assert len(self.free) == len(before)

    def forget(self, broker: int) -> None:
        for _, first, count in (run for run in self.runs if run[0] == broker):
            self.free |= set(range(first, first + count))
        self.runs = [run for run in self.runs if run[0] != broker]

    @invariant()
    def counts_agree(self) -> None:
        assert self.log.memory().blocks_free == len(self.free)

    def teardown(self) -> None:
        for core in [*self.gone, *self.cores[1:]]:
            lib.log_close(core)
        for log in self.logs_gone:
            log.region.close()
        self.log.close()


class PartitionedBitmapMachine(BitmapMachine):
    ranges = 3


TestBitmapAgainstASet = BitmapMachine.TestCase
TestBitmapAgainstASet.settings = settings(max_examples=20, stateful_step_count=40, deadline=None)
TestPartitionedBitmapAgainstASet = PartitionedBitmapMachine.TestCase
TestPartitionedBitmapAgainstASet.settings = settings(max_examples=20, stateful_step_count=40, deadline=None)
