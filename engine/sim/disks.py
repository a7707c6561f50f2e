"""Scenarios with a data directory, whose replica is played by hand: what is ordered is seen when it is durable, goes
when it is durable, and leaves memory when it is archived. And a slow reader, where the view has holes.
"""

import struct

from totalog.engine.sim.host import VIEW, Topic, Violation
from totalog.engine.sim.world import EVERYTHING, World

ENTRIES_PER_PAGE = 32
TURNS, INVALIDATES = 100, 500
"""Reads, each of which is interrupted at another of so many places."""


def accept(status: int) -> None:
    if status != 0:
        raise Violation(f"an operation, or a batch, is answered with status {status}")


def create(world: World, name: bytes) -> Topic:
    wanted = Topic(0, 0, name, name * 16, 2, 5, -1, -1, b"", ())
    world.step(lambda host: accept(host.operate("create", wanted)))
    return world.topic(name)


def append(world: World, topic: Topic, *partitions: int, in_step: bool = True) -> None:
    batches = world.batches(*partitions)

    def run(host: object = None) -> None:
        for answer in world.writer.append(topic, batches):
            accept(answer.status)

    world.step(run) if in_step else run()


def trim(world: World, topic: Topic, partition: int, offset: int, *rows: tuple[int, int, int]) -> None:
    """`rows`: (partition, its new log start, bytes of all its batches below that), of what is archived."""
    known = b"".join(struct.pack("<QQII", start, size, part, 0) for part, start, size in rows)
    asked = topic._replace(settings=known)
    world.step(lambda host: accept(host.operate("trim", asked, partition=partition, offset=offset)), trims=True)


def frontier(world: World, durable: int, *, releasable: int, archived: int = 0, upkeep: bool = False) -> None:
    def move(_: object) -> None:
        world.writer.replicate(durable, releasable=releasable, archived=archived)
        if upkeep:
            world.writer.maintain(0)

    world.step(move)


def start_replica(world: World) -> None:
    """Others have looked at the region when there was no directory."""
    world.durable = True
    world.prefetch()
    world.writer.replicate(0, releasable=0)


def durability(world: World) -> None:
    """Batches are ordered, and seen when they are durable; what is trimmed before that stays in memory as long."""
    start_replica(world)
    topic = create(world, b"a")
    frontier(world, 1, releasable=0)  # all that is ordered, and others hold that: what is ordered next is not
    append(world, topic, *[0, 1] * 4)
    frontier(world, 4, releasable=2)
    append(world, topic, 1, 0)
    frontier(world, 9, releasable=4)
    trim(world, topic, 0, 4)
    trim(world, topic, VIEW, 2)
    frontier(world, EVERYTHING, releasable=8, upkeep=True)
    frontier(world, EVERYTHING, releasable=EVERYTHING, upkeep=True)
    append(world, topic, 0, 1)


def eviction(world: World) -> None:
    """Batches leave memory, over pages; then trims below the memory start, and above it."""
    start_replica(world)
    topic = create(world, b"a")
    for _ in range(4):
        append(world, topic, *[0, 1] * 9, in_step=False)
    for archived in (20, 41):
        frontier(world, EVERYTHING, releasable=EVERYTHING, archived=archived)
        world.step(lambda host: host.evict())
    append(world, topic, 0)
    trim(world, topic, 0, 6, (0, 6, 6 * 72))
    trim(world, topic, VIEW, 16, (0, 8, 8 * 72), (1, 8, 8 * 72))
    trim(world, topic, 1, 22)
    trim(world, topic, VIEW, 50)
    append(world, topic, 0, 1)


def holes(world: World) -> None:
    """A reader of the view in the middle of a read, while a partition is trimmed: a page of the index goes, and is used
    again for later batches of the topic, which lie in the segment that the reader has pinned."""
    topic = create(world, b"a")
    for _ in range(TURNS):
        meet_in_the_view(world, topic)


def meet_in_the_view(world: World, topic: Topic) -> None:
    lib = world.lib
    append(world, topic, *[0] * ENTRIES_PER_PAGE, *[1] * ENTRIES_PER_PAGE, *[0] * ENTRIES_PER_PAGE, in_step=False)
    before = world.topic(b"a").parts
    left = world.random.randrange(INVALIDATES)

    def meanwhile() -> None:
        nonlocal left
        left -= 1
        if left == 0:
            accept(world.writer.operate("trim", topic._replace(settings=b""), partition=1, offset=before[1].next))
            append(world, topic, *[0] * ENTRIES_PER_PAGE * 4, in_step=False)

    world.prefetch()
    lib.sim_hook(world.reader.number, lib.SIM_AT_INVALIDATES, world.callback(meanwhile))
    world.reader.read(topic.slot, topic.generation, VIEW, before[-1].start)
    lib.sim_hook(world.reader.number, 0, world.ffi.NULL)
    world.raise_failure()
    known = dict(before[-1].batches) | dict(world.topic(b"a").parts[-1].batches)
    found = world.reader.found()
    if [base for base, _ in found] != sorted({base for base, _ in found}):
        raise Violation(f"a reader of the view gets batches at {[base for base, _ in found]}")
    for base, payload in found:
        if payload != known.get(base):
            raise Violation(f"a reader of the view gets other bytes at {base}: {payload[:8].hex()}")
    end = world.topic(b"a").parts[-1].next
    accept(world.writer.operate("trim", topic._replace(settings=b""), partition=VIEW, offset=end))


def bounds(world: World) -> None:
    """Bounds of a topic of which not all is durable, asked for by a slow reader: meanwhile all of it becomes
    durable and is trimmed, and the only page of its index is used again by that of another topic."""
    start_replica(world)
    for partition in (VIEW, 0):
        moment = 0
        while meet_bounds(world, partition, moment):
            moment += 1


def meet_bounds(world: World, partition: int, moment: int) -> bool:
    """Whether the reader came to this moment, a number of invalidates."""
    lib, writer = world.lib, world.writer
    topic, other = plain_topic(world, b"a"), plain_topic(world, b"b")
    append(world, other, *[0] * 2 * ENTRIES_PER_PAGE, in_step=False)
    append(world, topic, *[0] * ENTRIES_PER_PAGE, in_step=False)
    writer.replicate(world.ordered() - 1, releasable=world.ordered() - 1)
    left = moment

    def meanwhile() -> None:
        nonlocal left
        left -= 1
        if left == -1:
            writer.replicate(EVERYTHING, releasable=EVERYTHING)
            trimming = topic._replace(settings=b"")
            accept(writer.operate("trim", trimming, partition=VIEW, offset=ENTRIES_PER_PAGE))
            append(world, other, *[0] * ENTRIES_PER_PAGE, in_step=False)

    world.prefetch()
    lib.sim_hook(world.reader.number, lib.SIM_AT_INVALIDATES, world.callback(meanwhile))
    found = world.reader.bounds(topic, partition)
    lib.sim_hook(world.reader.number, 0, world.ffi.NULL)
    world.raise_failure()
    if not ENTRIES_PER_PAGE - 1 <= found.next_offset <= found.end_offset == ENTRIES_PER_PAGE:
        raise Violation(f"a slow reader finds the end at {found.next_offset} of {found.end_offset}")
    for each in (topic, other):
        accept(writer.operate("delete", each._replace(settings=b"")))
    writer.replicate(0, releasable=EVERYTHING)
    writer.maintain(0)
    world.states += 1
    return left < 0


def plain_topic(world: World, name: bytes) -> Topic:
    accept(world.writer.operate("create", Topic(0, 0, name, name * 16, 1, 5, -1, -1, b"", ())))
    return world.topic(name)
