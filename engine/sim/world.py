"""A world: simulated memory, the host that writes (A), a host that reads (B), and hosts that take over (C, D).

`World.step` runs one step of A and shows every state that memory may be in meanwhile to B and to a successor, within
the limits of the adversary. What they saw is judged when the step is done, against what A holds before and after it.
"""

import contextlib
import itertools
import mmap
import os
import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

from totalog.engine.sim import build
from totalog.engine.sim.host import LAYOUT_ID, Answer, Batch, Contents, Host, Part, Topic, Violation
from totalog.engine.sim.judge import judge, judge_complete

BLOCKS = 192
"""Of the region, so few that all have memory from the start (no committer thread)."""
REGION_ID = b"sixteen bytes id"
UNFENCED_MAX = 4096
FORMATTER = 0
"""The first host of a world, by its number in the simulation."""
COLLEAGUE, SUCCESSOR, BYSTANDER = 2, 3, 4
BROKERS = (0, COLLEAGUE, SUCCESSOR)
"""That publish; 1 is the reader."""
TOPICS_AHEAD, HEADERS_AHEAD = 4, 24
"""How far a prefetcher goes beyond what was written."""
EVERYTHING = 1 << 60
"""A global position that nothing reaches."""
STEPS_MAX = 60_000_000
THOROUGH = 6
STEP_SIZE = 72
"""Bytes of a payload where nothing else is asked for: two lines."""


@dataclass(frozen=True)
class Adversary:
    """How much of what may happen is tried."""

    seed: int
    subsets_max: int = 64
    """States of memory tried at one fence: all there are, or that many of them."""
    evict_one_in: int = 0
    """A line of a cache is evicted at one of so many steps; 0: never."""
    follow_one_in: int = 16
    """A successor is followed (appends, its own crash, its own successor, an empty log) at one of so many states."""
    nested_one_in: int = 48
    """The start of a successor is itself cut short at one of so many states."""


@dataclass
class Step:
    """One step of A while it runs, and what others saw of it."""

    before: Contents
    answered: tuple[tuple[int, ...], int]
    """Headers of each broker that were answered, and the version of the topics, when it began."""
    describes: bool
    seen: dict[tuple[bool, int, int, Contents], None] = field(default_factory=dict)
    """(whether a successor, headers published, global positions ordered, contents)."""
    states: int = 0


class World:
    def __init__(self, adversary: Adversary, ranges: int = 0, blocks: int = BLOCKS) -> None:
        module = build.core()
        self.lib, self.ffi = module.lib, module.ffi
        self.adversary = adversary
        self.ranges = ranges
        """0: blocks are claimed by atomics; else of each broker's own, without any."""
        self.blocks = blocks
        self.random = random.Random(adversary.seed)
        self.payloads = itertools.count(1)
        self.states = 0
        self.begin()

    def begin(self) -> None:
        """Memory that nobody has seen yet, a region there, and its first two hosts; all others are gone."""
        self.topic_size = self.ffi.sizeof("struct topic_entry")
        self.topic_size += self.lib.BROKERS_MAX * self.ffi.sizeof("struct topic_counter")
        self.size = (self.lib.FIXED_SIZE // self.lib.BLOCK_SIZE + self.blocks + 5) * self.lib.BLOCK_SIZE
        self.descriptor = os.memfd_create("totalog-sim", os.MFD_CLOEXEC)
        os.ftruncate(self.descriptor, self.size)
        self.map = mmap.mmap(self.descriptor, self.size)
        self.lib.sim_begin(int(self.ffi.cast("uintptr_t", self.ffi.from_buffer(self.map))), self.size)
        self.lib.sim_limit(STEPS_MAX)
        self.failure: BaseException | None = None
        self.hooks: dict[int, Any] = {}
        self.waiting = self.ffi.callback("void(void)", self.order)
        self.answered: list[tuple[Topic, Batch, Answer]] = []
        """The newest batches of idempotent producers."""
        self.lib.sim_evict(self.adversary.seed, self.adversary.evict_one_in)
        self.durable = False
        """Whether there is a data directory."""
        self.colleague: Host | None = None
        self.ordering = False
        self.dead: set[int] = set()
        """Hosts that were killed, and whose numbers are not used again."""
        self.writer, self.reader = self.format()

    def close(self) -> None:
        self.lib.sim_evict(0, 0)
        self.map.close() if not self.map.closed else None
        os.close(self.descriptor)

    # -- hosts

    def open(self) -> Host:
        """A host that takes the sequencer's part."""
        error = self.ffi.new("int32_t *")
        core = self.lib.log_open(self.descriptor, self.size, LAYOUT_ID, 0, error)
        if core == self.ffi.NULL:
            raise Violation(f"a successor cannot open the region: OPEN_* {error[0]}")
        host = Host(core)
        self.check_nothing_unfenced(host)
        return host

    def join(self, broker: int) -> Host:
        """A host that is a broker and no sequencer; A orders what it publishes whenever it waits for that."""
        error = self.ffi.new("int32_t *")
        core = self.lib.log_join(self.descriptor, self.size, LAYOUT_ID, broker, error)
        if core == self.ffi.NULL:
            raise Violation(f"a broker cannot join: OPEN_* {error[0]}")
        self.lib.sim_wait_hook(self.waiting)
        host = Host(core)
        self.check_nothing_unfenced(host)
        return host

    def order(self) -> None:
        """Whoever has the sequencer's part works; where it was killed, a new host takes its part first."""
        if self.ordering:
            return  # it waits itself, for more
        self.ordering = True
        if self.writer.number in self.dead:
            self.take_part(self.join(SUCCESSOR))
        self.lib.log_sequence(self.writer.core, 0)
        self.ordering = False

    def take_part(self, host: Host) -> None:
        """The host becomes the sequencer while the colleague lives."""
        alive = 0 if self.colleague is None else 1 << COLLEAGUE
        error = self.lib.log_take_over(host.core, 0xFFFFFFFF & ~alive)
        if error != self.lib.OPEN_OK:
            raise Violation(f"a living host cannot take over: OPEN_* {error}")
        self.writer = host

    def living(self) -> list[int]:
        """The hosts that store."""
        return [host.number for host in (self.writer, self.colleague) if host is not None]

    def fall_back_on_own_memory(self, victim: Host) -> None:
        """In a child process: nothing changes the world of the parent, and the victim changes nothing at all."""
        self.lib.sim_private(self.descriptor)
        self.lib.sim_host_die(victim.number)
        self.dead.add(victim.number)

    def open_reader(self) -> Host:
        core = self.lib.sim_reader(self.descriptor, self.size, 1)
        return Host(core)

    def format(self) -> tuple[Host, Host]:
        """Formats on one host, and opens on another, which had looked before there was anything."""
        self.lib.sim_hook_next(self.lib.SIM_AT_FENCES, self.callback(self.look_at_format))
        self.lib.sim_keep_stale_range(0, self.lib.TOPIC_TABLE_POSITION)
        for position in (self.lib.TOPIC_TABLE_POSITION, self.lib.PARTITION_TABLE_POSITION):
            self.lib.sim_keep_stale_range(position, self.lib.LINE_SIZE * 10)
        status = self.lib.region_format(
            self.descriptor, self.size, self.lib.COHERENCE_NONCOHERENT, self.ranges, LAYOUT_ID, REGION_ID
        )
        self.lib.sim_host_end(FORMATTER, self.ffi.NULL)
        self.raise_failure()
        assert status == self.lib.OPEN_OK
        writer = self.open()
        self.lib.sim_forget_stale()
        self.check_new(writer)
        self.check_nothing_unfenced(writer)
        return writer, self.open_reader()

    def check_new(self, host: Host) -> None:
        """Of a host that has opened a region without topics."""
        if host.blocks_used() != 1 + self.lib.SIM_RESERVE:
            raise Violation(f"a new log uses {host.blocks_used()} blocks")
        if host.peek(self.ffi.offsetof("struct region_header", "region_id"), len(REGION_ID)) != REGION_ID:
            raise Violation("a new log has another id")
        self.expect(host.contents(), (), "of a new region")
        records = host.part(0, 1, 0)
        if (records.start, records.next, records.batches) != (0, 0, ()):
            raise Violation(f"the records of a new log are {records}")

    def look_at_format(self) -> None:
        """A region half formatted is no region, or a whole one."""
        for _ in self.memory_states([FORMATTER], self.adversary.subsets_max):
            if int.from_bytes(self.map[0:8], "little") != 0:
                host = self.open()
                try:
                    self.check_new(host)
                finally:
                    host.end()

    # -- states of memory

    def memory_states(self, hosts: list[int], limit: int) -> Iterator[tuple[int, ...]]:
        """Each state that memory may be in, given what the hosts have stored; it is there in the loop's body."""
        unfenced = [[versions for _, versions in self.unfenced(host)] for host in hosts]
        for chosen in choices([versions for of_host in unfenced for versions in of_host], limit, self.random):
            mark, at = self.lib.sim_mark(), 0
            for host, of_host in zip(hosts, unfenced, strict=True):
                self.lib.sim_write_back(host, list(chosen[at : at + len(of_host)]), len(of_host))
                at += len(of_host)
            yield chosen
            self.lib.sim_undo(mark)

    def unfenced(self, host: int) -> list[tuple[int, int]]:
        """(line, versions that memory may hold instead of its own) of what is not surely in memory."""
        lines, versions = self.ffi.new("uint64_t[]", UNFENCED_MAX), self.ffi.new("uint32_t[]", UNFENCED_MAX)
        count = self.lib.sim_unfenced(host, lines, versions, UNFENCED_MAX)
        assert count <= UNFENCED_MAX
        return [(lines[index], versions[index]) for index in range(count)]

    @contextlib.contextmanager
    def branch(self) -> Iterator[None]:
        """What is done to memory in here is taken back."""
        mark = self.lib.sim_mark()
        try:
            yield
        finally:
            self.lib.sim_undo(mark)

    def word(self, position: int, struct: str, name: str) -> int:
        """A word of memory as it stands there."""
        at = position + self.ffi.offsetof(f"struct {struct}", name)
        return int.from_bytes(self.map[at : at + 8], "little")

    def poke(self, position: int, struct: str, name: str, value: int) -> None:
        """Four bytes of memory, changed by nobody's store. Of what no living host has stored to."""
        at = position + self.ffi.offsetof(f"struct {struct}", name)
        self.map[at : at + 4] = value.to_bytes(4, "little")

    def partition_position(self, topic: Topic, partition: int) -> int:
        """Of a topic whose partitions lie side by side."""
        entry = self.lib.TOPIC_TABLE_POSITION + topic.slot * self.topic_size
        first = self.word(entry, "topic_entry", "extents") & 0xFFFFFFFF
        size = self.ffi.sizeof("struct partition_entry")
        return int(self.lib.PARTITION_TABLE_POSITION + (first + partition) * size)

    def published(self) -> int:
        """Headers of broker 0 that memory shows."""
        return self.word(self.lib.BROKER_TABLE_POSITION, "broker_entry", "written")

    def ordered(self) -> int:
        """Global positions that memory shows as decided."""
        return self.word(self.lib.CONTROL_POSITION, "control", "ordered")

    def answers(self) -> tuple[tuple[int, ...], int]:
        """(headers of each broker that memory shows as answered, version of the topics there)."""
        version = self.word(self.lib.CONTROL_POSITION, "control", "topics_version")
        return tuple(self.completed(broker) for broker in BROKERS), version

    def completed(self, broker: int) -> int:
        """Headers of that broker that memory shows as answered."""
        return self.word(broker_position(self, broker), "broker_entry", "completed")

    def process_of(self, broker: int) -> int:
        """The process that memory shows in that broker's place."""
        return self.word(broker_position(self, broker), "broker_entry", "process_id") & 0xFFFFFFFF

    def claimed(self, block: int) -> bool:
        """Whether the bitmap says so."""
        at = self.word(0, "region_header", "bitmap_position")
        if self.ranges == 0:
            return bool(self.map[at + block // 8] >> block % 8 & 1)
        assert self.blocks == BLOCKS  # one line holds the bits of a range
        blocks = self.word(0, "region_header", "range_blocks") & 0xFFFFFFFF
        number = min(block // blocks, self.ranges - 1)
        block -= number * blocks
        at += 2 * number * self.lib.LINE_SIZE + block // 8
        return bool((self.map[at] ^ self.map[at + self.lib.LINE_SIZE]) >> block % 8 & 1)

    def generation(self, block: int) -> int:
        """Of the segment that begins there."""
        table = self.word(0, "region_header", "block_table_position")
        return self.word(table + block * self.ffi.sizeof("struct block_entry"), "block_entry", "generation")

    def kind(self, block: int) -> int:
        """A BLOCK_*, as memory shows it."""
        table = self.word(0, "region_header", "block_table_position")
        word = self.word(table + block * self.ffi.sizeof("struct block_entry"), "block_entry", "kind")
        return word & 0xFFFFFFFF

    # -- hooks

    def callback(self, function: Callable[[], None]) -> Any:
        """As C calls it. The first exception is kept; the hook does nothing after it."""

        def run() -> None:
            if self.failure is None:
                try:
                    function()
                except BaseException as failure:  # noqa: BLE001 - it is raised again when C has returned
                    self.failure = failure

        made = self.ffi.callback("void(void)", run)
        self.hooks[id(function)] = made
        self.hooks = dict(list(self.hooks.items())[-8:])
        return made

    def raise_failure(self) -> None:
        failure, self.failure = self.failure, None
        if failure is not None:
            raise failure

    # -- steps

    def payload(self, size: int = STEP_SIZE) -> bytes:
        """Bytes that no other batch has."""
        return (next(self.payloads).to_bytes(8, "little") * (size // 8 + 1))[:size]

    def batches(self, *partitions: int, size: int = STEP_SIZE, **more: Any) -> list[Batch]:
        return [Batch(partition, self.payload(size), **more) for partition in partitions]

    def topic(self, name: bytes) -> Topic:
        return next(topic for topic in self.writer.contents() if topic.name == name)

    def prefetch(self) -> None:
        """Every host holds copies of what there is, and of lines that will be written next."""
        lib = self.lib
        for host in filter(None, (self.writer, self.reader, self.colleague)):
            lib.sim_prefetch(host.number)
            lib.sim_prefetch_range(host.number, lib.TOPIC_TABLE_POSITION, TOPICS_AHEAD * self.topic_size)
            lib.sim_prefetch_range(
                host.number, lib.PARTITION_TABLE_POSITION, TOPICS_AHEAD * self.ffi.sizeof("struct partition_entry")
            )
            for broker in BROKERS:
                ahead = self.word(broker_position(self, broker), "broker_entry", "written") % lib.RING_SLOTS
                first = (broker * lib.RING_SLOTS + ahead) * lib.LINE_SIZE
                for position in (lib.BATCH_RING_POSITION, lib.COMPLETION_POSITION):
                    lib.sim_prefetch_range(host.number, position + first, HEADERS_AHEAD * lib.LINE_SIZE)

    def step(
        self,
        action: Callable[[Host], object],
        *,
        published_counts: bool = False,
        by_writer: bool = False,
        thorough: bool = False,
        trims: bool = False,
        describes: bool = False,
    ) -> None:
        """Runs the action on A (on its colleague, where it has one), under the adversary, and judges.

        What is ordered has to be found by a successor.

        `published_counts`: so has what is only published. (It may be dropped where it is the first of its segment.)
        `by_writer`: A does it itself, while its colleague looks on.
        `thorough`: more states are tried than elsewhere, since one of few lines matters.
        `trims`: it is one trim, which a successor carries out when it is ordered.
        `describes`: it changes a description: who was answered finds another version of the topics.
        """
        writer, reader, lib = self.writer, self.reader, self.lib
        step = Step(writer.contents(), self.answers(), describes)
        self.prefetch()
        lib.sim_keep_stale()
        published, ordered = self.published(), self.ordered()
        storing = [writer] if self.colleague is None else [writer, self.colleague]
        limit = self.adversary.subsets_max * (THOROUGH if thorough else 1)
        look = self.callback(lambda: self.look(step, [host.number for host in storing], limit))
        for host in storing:
            lib.sim_hook(host.number, lib.SIM_AT_FENCES, look)
        action(writer if by_writer else self.colleague or writer)
        for host in storing:
            lib.sim_hook(host.number, 0, self.ffi.NULL)
        self.raise_failure()
        for host in storing:
            self.check_nothing_unfenced(host)
        after = writer.contents()
        for settled, headers, positions, found in step.seen:
            complete = positions == self.ordered() > ordered or (
                published_counts and headers == self.published() > published
            )
            try:
                judge(found, step.before, after, settled=settled)
                if complete and settled:
                    judge_complete(found, after, trims=trims)
            except Violation as problem:
                who = "a successor" if settled else "a reader"
                raise Violation(f"{who}, {headers} headers published, {positions} ordered: {problem}") from None
        self.expect_reader(after, "that a reader sees when it is done")
        with self.cache_kept():
            frontiers = reader.frontiers()
        with self.cache_kept():
            if reader.durable() != writer.durable():
                raise Violation("a reader takes another part for durable when a step is done")
        if reader.version() != writer.version() or frontiers[1:] != writer.frontiers()[1:]:
            raise Violation("a reader sees an older version of the topics, or an older frontier, when it is done")
        reader.contents()
        self.check_nothing_unfenced(reader)
        with self.branch():
            self.follow(after, "done")
        if self.nested():
            with self.branch():
                self.cut_short(after, after)
        lib.sim_forget_stale()
        self.states += step.states

    def nested(self) -> bool:
        return self.adversary.nested_one_in > 0

    def look(self, step: Step, storing: list[int], limit: int) -> None:
        """At a fence of A: each state that memory may be in, seen by B and found by C."""
        for number, _ in enumerate(self.memory_states(storing, limit)):
            step.states += 1
            stands = self.published(), self.ordered()
            answers, version = self.answers()
            if step.describes and answers != step.answered[0] and version == step.answered[1]:
                raise Violation("an operation is answered, and the version of the topics is the old one")
            with self.cache_kept():
                step.seen.setdefault((False, *stands, self.reader.contents()))
            with self.cache_kept():
                step.seen.setdefault((False, *stands, self.known_to_reader(step.before)))
            found = self.take_over()
            step.seen.setdefault((True, *stands, found))
            if self.adversary.follow_one_in and number % self.adversary.follow_one_in == 0:
                with self.branch():
                    self.follow(found, "cut short")

    def take_over(self) -> Contents:
        """What a successor finds. It is gone again, and what it did to memory as well."""
        _, known = self.answers()
        with self.branch():
            host = self.open()
            try:
                if self.answers()[1] == known:
                    raise Violation(f"what a successor finds changed has the version {known} that others know")
                return host.contents()
            finally:
                host.end()

    def follow(self, expected: Contents, when: str) -> None:
        """A successor finds it, goes on, and dies; its own successor finds all that, and can empty the log."""
        host = self.open()
        try:
            self.expect(host.contents(), expected, f"that a successor finds ({when})")
            self.check_nothing_unfenced(host)
            self.expect_reader(expected, f"that a reader sees after a takeover ({when})")
            if self.durable:
                host.replicate(EVERYTHING, releasable=EVERYTHING)
                expected = host.contents()
            self.check_duplicates(host, expected)
            for topic in expected:
                for partition in range(topic.partition_count):
                    answer = host.append(topic, self.batches(partition, timestamp=-1))[0]
                    if (answer.status, answer.base_offset) != (0, topic.parts[partition].next):
                        raise Violation(f"a successor orders the next batch of partition {partition} as {answer}")
            grown = host.contents()
        finally:
            host.end()
        for old, new in zip(expected, grown, strict=True):
            self.check_grown(old, new)
        self.expect_reader(grown, f"that a reader sees of a successor's batches ({when})")
        second = self.open()
        try:
            self.expect(second.contents(), grown, f"that the second successor finds ({when})")
            for topic in grown:
                if second.operate("delete", topic) != 0:
                    raise Violation(f"topic {topic.slot} cannot be deleted")
            second.maintain(0)
            self.check_emptied(second)
        finally:
            second.end()

    def check_duplicates(self, host: Host, contents: Contents) -> None:
        """What producers send once more is answered as it was the first time, where it is among the last five there."""
        shown = {payload for topic in contents for part in topic.parts[:-1] for _, payload in part.batches[-5:]}
        for topic, batch, first in self.answered:
            if batch.payload not in shown:
                continue
            again = host.append(topic, [batch])[0]
            if again != first._replace(status=self.lib.STATUS_DUPLICATE):
                raise Violation(f"a batch that was answered {first} is answered {again} when it comes again")

    def check_grown(self, old: Topic, new: Topic) -> None:
        """By one batch for each partition; retention may have taken some from the head."""
        for before, after in zip(old.parts[:-1], new.parts[:-1], strict=True):
            if after.next != before.next + 1 or not after.batches:
                raise Violation(f"a batch after {before.next} left the end at {after.next}")
            kept = after.batches[:-1]
            if before.latest is not None and before.latest[0] in dict(kept) and after.latest != before.latest:
                raise Violation(f"the latest batch is {after.latest}, and was {before.latest}")
            if kept != before.batches[len(before.batches) - len(kept) :]:
                raise Violation("a batch that a successor ordered displaced older ones")

    def check_emptied(self, host: Host) -> None:
        """Blocks of a log without topics: the reserve, and what the operations' own records take."""
        used = host.blocks_used()
        if used > 1 + self.lib.SIM_RESERVE + 3:
            raise Violation(f"{used} blocks are in use when everything is deleted")

    @contextlib.contextmanager
    def cache_kept(self) -> Iterator[None]:
        """What the reader's cache holds after this is what it held before: it may have looked now, or not."""
        self.lib.sim_keep_cache(self.reader.number)
        try:
            yield
        finally:
            self.lib.sim_restore_cache(self.reader.number)

    def known_to_reader(self, known: Contents) -> Contents:
        """Those of these topics that there are, as the reader finds them without looking for topics first."""
        return tuple(topic for topic in map(self.reader.again, known) if topic is not None)

    def expect_reader(self, expected: Contents, what: str) -> None:
        with self.cache_kept():
            self.expect(self.reader.contents(), expected, what)
        with self.cache_kept():
            self.expect(self.known_to_reader(expected), expected, f"{what} who knows the topics")
        with self.cache_kept():
            if [self.reader.settings_of(topic) for topic in expected] != [topic.settings for topic in expected]:
                raise Violation(f"settings are not those {what}")

    def expect(self, found: Contents, expected: Contents, what: str) -> None:
        if found != expected:
            raise Violation(f"not what was expected {what}: {difference(found, expected)}")

    def check_nothing_unfenced(self, host: Host) -> None:
        """When a call has returned, nothing of what it stored is only in the cache of its host."""
        stored = [line for line, versions in self.unfenced(host.number) if versions]
        if stored:
            places = ", ".join(str(line * self.lib.LINE_SIZE) for line in stored[:8])
            raise Violation(f"{len(stored)} lines are not surely in memory when the call has returned: at {places}")

    def cut_short(self, before: Contents, after: Contents) -> None:
        """A successor dies at each fence of its start, whatever of its lines is in memory; the next one finds all."""

        def look() -> None:
            successor = number[0]
            for _ in self.memory_states([successor], max(self.adversary.subsets_max // 8, 4)):
                judge(self.take_over(), before, after, settled=True)
                self.expect_reader(after, "that a reader sees while a successor starts")

        number = [next_free_host(self)]
        self.lib.sim_hook_next(self.lib.SIM_AT_FENCES, self.callback(look))
        host = self.open()
        host.end()
        self.raise_failure()


def broker_position(world: World, broker: int) -> int:
    return int(world.lib.BROKER_TABLE_POSITION) + broker * int(world.ffi.sizeof("struct broker_entry"))


def next_free_host(world: World) -> int:
    """The number that the next host will have."""
    host = world.open_reader()
    host.end()
    return host.number


def choices(versions: list[int], limit: int, chance: random.Random) -> Iterator[tuple[int, ...]]:
    """Which version of each line is in memory (0: none of the new ones): all combinations, or `limit` of them."""
    total = 1
    for count in versions:
        total *= count + 1
        if total > limit:
            break
    if total <= limit:
        yield from itertools.product(*(range(count + 1) for count in versions))
        return
    none, newest = [0] * len(versions), list(versions)
    made = [tuple(none), tuple(newest)]
    for index, count in enumerate(versions):
        if count == 0:
            continue
        made.append((*none[:index], count, *none[index + 1 :]))
        made.append((*newest[:index], 0, *newest[index + 1 :]))
    if len(made) > limit // 2 + 2:
        made = made[:2] + chance.sample(made[2:], limit // 2)
    while len(made) < limit:
        made.append(tuple(chance.choice((0, count, chance.randint(0, count))) for count in versions))
    yield from dict.fromkeys(made)


def difference(found: Contents, expected: Contents) -> str:
    if len(found) != len(expected):
        return f"{len(found)} topics, not {len(expected)}"
    for one, other in zip(found, expected, strict=True):
        for name in Topic._fields[:-1]:
            if getattr(one, name) != getattr(other, name):
                return f"topic {other.slot}: {name} {getattr(one, name)!r}, not {getattr(other, name)!r}"
        for number, (part, wanted) in enumerate(zip(one.parts, other.parts, strict=True)):
            if part != wanted:
                return f"topic {other.slot} part {number}: {describe(part)}, not {describe(wanted)}"
    return "nothing"


def describe(part: Part) -> str:
    held = [(base, payload[:2].hex()) for base, payload in part.batches]
    return f"{part.start}..{part.next} with {held}, {part.size}, {part.latest}"
