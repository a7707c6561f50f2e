"""What is tried under the adversaries. Each scenario is a world of its own; `world.step` is one step of its writer."""

import functools
from collections.abc import Callable, Sequence

from totalog.engine.sim import disks, kills, rings
from totalog.engine.sim.child import in_child
from totalog.engine.sim.follower import late_directory, replicated, restored
from totalog.engine.sim.host import NOTHING_LENT, VIEW, Answer, Batch, Host, Topic, Violation
from totalog.engine.sim.world import BYSTANDER, COLLEAGUE, Adversary, World

ENTRIES_PER_PAGE, ELEMENTS_PER_PAGE = 32, 256
RAISED_EPOCH = 7
OPEN_BLOCKS = 4
"""Of the largest segment that is open, in a region as small as this."""
RANGES = 5
"""Of blocks, in a partitioned world: one for each broker that takes part."""

RANGE_END = 32
"""Blocks of a long range beyond those whose bits stand on its first line."""

Scenario = Callable[[World], None]


def topic_named(name: bytes, partitions: int = 1, **more: object) -> Topic:
    """A description to create a topic from."""
    fields = {"order_level": 5, "retention_bytes": -1, "retention_ms": -1, "settings": b""} | more
    return Topic(slot=0, generation=0, name=name, id=name[:1] * 16, partition_count=partitions, parts=(), **fields)  # type: ignore[arg-type]


def create(world: World, name: bytes, partitions: int = 1, *, by_writer: bool = False, **more: object) -> Topic:
    wanted = topic_named(name, partitions, **more)
    world.step(lambda host: accept(host.operate("create", wanted)), by_writer=by_writer, describes=True)
    return world.topic(name)


def delete(world: World, topic: Topic, *, by_writer: bool = False) -> None:
    wanted = topic._replace(settings=b"")
    world.step(lambda host: accept(host.operate("delete", wanted)), by_writer=by_writer, describes=True)


def accept(status: int) -> None:
    if status != 0:
        raise Violation(f"an operation is answered with status {status}")


def append(
    world: World,
    topic: Topic,
    *partitions: int,
    published_counts: bool = False,
    thorough: bool = False,
    **more: int,
) -> None:
    batches = world.batches(*partitions, **more)

    def run(host: Host) -> None:
        answers = host.append(topic, batches)
        if [answer.status for answer in answers] != [0] * len(batches):
            raise Violation(f"batches are answered {answers}")

    world.step(run, published_counts=published_counts, thorough=thorough)


def publishing(world: World) -> None:
    """Batches one by one, in groups, and from a reservation; an empty reservation goes back."""
    topic = create(world, b"a", 2)
    append(world, topic, 0)
    append(world, topic, 1, 0, 1, records=2, published_counts=True)
    append(world, topic, *[0, 1] * 5)
    batches = world.batches(0, 1, size=200)
    world.step(lambda host: host.append_reserved(topic, batches, 70_000))
    world.step(lambda host: host.append_reserved(topic, [], 70_000))
    append(world, topic, 0)


def operations(world: World) -> None:
    """Topics are created, altered and deleted, and their slots used again."""
    create(world, b"a", 2, settings=b"first" * 20)
    topic = create(world, b"b")
    append(world, world.topic(b"a"), 0, 1)
    append(world, topic, 0, 0)
    altered = topic._replace(partition_count=3, settings=b"second" * 30, retention_bytes=100_000)
    world.step(lambda host: accept(host.operate("alter", altered)))
    append(world, world.topic(b"b"), 0, 1, 2)
    delete(world, world.topic(b"a"))
    create(world, b"c", 2)
    append(world, world.topic(b"c"), 0, 1)
    delete(world, world.topic(b"c"))


def trim(world: World, topic: Topic, partition: int, offset: int) -> None:
    world.step(lambda host: accept(host.operate("trim", topic, partition=partition, offset=offset)), trims=True)


def trims(world: World) -> None:
    """Log starts move, over pages of both indexes."""
    topic = create(world, b"a", 2)
    for _ in range(4):
        append(world, topic, *[0, 1] * 9)
    trimming = topic._replace(settings=b"")
    for partition, offset in ((0, 5), (VIEW, 20), (1, 30), (VIEW, 70), (VIEW, 72)):
        trim(world, trimming, partition, offset)
    append(world, topic, 0, 1)


def retention(world: World) -> None:
    """By size, in both order levels, and by time."""
    for name, level in ((b"a", 5), (b"b", 0)):
        topic = create(world, name, 2, order_level=level, retention_bytes=72 * 6, retention_ms=1000)
        append(world, topic, *[0, 1] * 6, timestamp=10)
        append(world, topic, 0, 0, 1, timestamp=500)
        append(world, topic, *[0] * 5, timestamp=900)
    world.step(lambda host: host.maintain(1700))
    world.step(lambda host: host.maintain(5000))


def reuse(world: World) -> None:
    """Segments fill, are released and used again: what a host remembers of a line is from another life of its block."""
    topic = create(world, b"a", 1, retention_bytes=150_000)
    for _ in range(8):
        append(world, topic, 0, size=40_000)
    other = create(world, b"b", 1)
    append(world, other, 0, 0)
    delete(world, topic)
    append(world, other, 0, size=70_000)


def producers(world: World) -> None:
    """Idempotent batches over several snapshots: what comes twice is answered as before, also by a successor."""
    topic = create(world, b"a", 2)
    for number in range(7):
        first = number * 9
        group = [
            Batch(partition, world.payload(), producer_id=5 + partition, base_sequence=first + index)
            for index in range(9)
            for partition in (0, 1)
        ]
        answers: list[Answer] = []

        def run(host: Host, group: list[Batch] = group, answers: list[Answer] = answers) -> None:
            answers += host.append(topic, group)

        world.step(run)
        if any(answer.status for answer in answers):
            raise Violation(f"batches of producers are answered {answers}")
        world.answered = [(topic, batch, answer) for batch, answer in zip(group, answers, strict=True)][-10:]


def order_ring(world: World) -> None:
    """The ring of order goes round: a slot is used again when a snapshot has what stood there."""
    topic = create(world, b"a", retention_bytes=72 * 20)
    while world.ordered() + 12 < world.lib.SIM_ORDER_SLOTS:
        accept_all(world.writer.append(topic, world.batches(*[0] * 12)))
    for _ in range(4):
        append(world, topic, *[0] * 6)


def beginnings(world: World) -> None:
    """A page of entries is full, and all of them are gone: the index begins anew, on a page that was used before.
    Or it is full, and none is gone: the index grows."""
    topic = create(world, b"a")
    accept_all(world.writer.append(topic, world.batches(*[0] * ENTRIES_PER_PAGE)))
    accept(world.writer.operate("trim", topic._replace(settings=b""), partition=VIEW, offset=ENTRIES_PER_PAGE))
    append(world, topic, 0, thorough=True)
    append(world, topic, 0, 0)
    other = create(world, b"b")
    accept_all(world.writer.append(other, world.batches(*[0] * ENTRIES_PER_PAGE)))
    append(world, other, 0, thorough=True)


def accept_all(answers: Sequence[Answer]) -> None:
    for answer in answers:
        accept(answer.status)


def colleagues(world: World) -> None:
    """One host is a broker, another orders what it publishes."""
    topic = create(world, b"a", 2)
    world.colleague = world.join(COLLEAGUE)
    append(world, topic, 0)
    append(world, topic, 1, 0, 1, records=2)
    create(world, b"b", 1, settings=b"of b")
    append(world, world.topic(b"b"), 0, 0, size=20_000)
    append(world, world.topic(b"b"), 0, 0, 0, size=30_000)
    world.step(lambda host: accept(host.operate("trim", topic, partition=VIEW, offset=3)))
    delete(world, topic)
    append(world, world.topic(b"b"), 0)


def elsewhere(world: World) -> None:
    """Topics come, change and go by one host's hand, while another holds copies of what was, and uses them."""
    create(world, b"a")
    world.colleague = world.join(COLLEAGUE)
    topic = create(world, b"b", 2, by_writer=True)
    append(world, topic, 0)
    altered = topic._replace(partition_count=3, settings=b"changed" * 30)
    world.step(lambda host: accept(host.operate("alter", altered)), by_writer=True)
    append(world, world.topic(b"b"), 2)
    before = world.writer.blocks_used()
    append(world, world.topic(b"a"), 0, size=60_000)
    delete(world, world.topic(b"a"), by_writer=True)
    append(world, world.topic(b"b"), 1)
    world.step(lambda host: host.maintain(0), by_writer=True)
    if world.writer.blocks_used() > before:
        raise Violation(f"{world.writer.blocks_used()} blocks are in use, and {before} were before what is deleted")
    create(world, b"c", by_writer=True)
    append(world, world.topic(b"c"), 0)


def collecting(world: World) -> None:
    """A broker publishes, does something else, and takes its answers later."""
    topic = create(world, b"a", 2)
    broker = world.colleague = world.join(COLLEAGUE)
    for _ in range(2):
        world.prefetch()
        batches = world.batches(0, 1, 1)
        collect = broker.append_later(topic, batches)
        world.order()  # the first time it finds a ring that it did not know
        world.order()
        given = collect()
        accept_all(given)
        kills.check_answers(world.writer.contents(), topic, batches, given)
        world.check_nothing_unfenced(broker)
    append(world, topic, 0)


def leaving(world: World) -> None:
    """A broker ends in good order: its place is free, and its segments are nobody's."""
    topic = create(world, b"a", 2)
    before = world.writer.blocks_used()
    world.colleague = leaver = world.join(COLLEAGUE)
    append(world, topic, 0, 1)
    world.step(lambda host: host.leave())
    if world.process_of(COLLEAGUE) != 0:
        raise Violation("a broker that has left still has its process")
    leaver.end()
    world.colleague = None
    world.step(lambda _: world.order())
    trim(world, topic, VIEW, 2)
    world.step(lambda host: host.maintain(0))
    if world.writer.blocks_used() > before:
        raise Violation(f"{world.writer.blocks_used()} blocks are in use, and {before} were before the broker came")


def burial(world: World) -> None:
    """A broker is killed while it publishes, and the sequencer, which lives, buries it."""
    topic = create(world, b"a", 2)
    world.join(BYSTANDER)
    broker = world.colleague = world.join(COLLEAGUE)
    kills.publish(world, broker, topic, world.batches(0))
    kills.publish(world, broker, topic, world.batches(1, 0, 1, size=30_000))


def succession(world: World) -> None:
    """The sequencer is killed while a broker waits for it: another host takes over, and the broker is answered."""
    topic = create(world, b"a", 2)
    broker = world.colleague = world.join(COLLEAGUE)
    kills.lose_sequencer(world, broker, topic, world.batches(0))
    kills.lose_sequencer(world, broker, topic, world.batches(1, 0, 1, size=30_000))


def promotion(world: World) -> None:
    """The sequencer is killed at its own work: a broker that has looked on takes over."""
    topic = create(world, b"a", 2, retention_bytes=100_000)
    broker = world.colleague = world.join(COLLEAGUE)
    kills.lose_writer(world, broker, lambda: accept_all(world.writer.append(topic, world.batches(0, 1))))
    accept_all(broker.append(topic, world.batches(0, 1, size=30_000)))
    kills.lose_writer(world, broker, lambda: accept_all(world.writer.append(topic, world.batches(0, 1, size=60_000))))
    wanted = topic_named(b"b", 2)
    kills.lose_writer(world, broker, lambda: accept(world.writer.operate("create", wanted)))
    trimming = topic._replace(settings=b"")
    kills.lose_writer(world, broker, lambda: accept(world.writer.operate("trim", trimming, partition=VIEW, offset=5)))


def slow_reader(world: World) -> None:
    """A reader in the middle of a read, while the writer takes away what it reads and uses its memory again."""
    topic = create(world, b"a", 2)
    for turn in range(60):
        meet_slow_reader(world, topic, turn)


def unpinned_reader(world: World) -> None:
    """The same, when all pins of the reader's broker are taken."""
    topic = create(world, b"a", 2)
    for _ in range(world.lib.PINS_MAX):
        assert world.lib.core_pin(world.reader.core, 1) >= 0
    for turn in range(60):
        meet_slow_reader(world, topic, turn)


def meet_slow_reader(world: World, topic: Topic, turn: int) -> None:
    lib = world.lib
    trimming = topic._replace(settings=b"")
    batches = world.batches(0, 1, 0, 1, size=30_000)
    accept_all(world.writer.append(topic, batches))
    before = world.topic(b"a")
    number = (0, 1, 2)[turn % 3]
    left = turn // 3 * 2

    def meanwhile() -> None:
        nonlocal left
        left -= 1
        if left == 0:
            accept(world.writer.operate("trim", trimming, partition=VIEW, offset=before.parts[-1].next))
            accept_all(world.writer.append(topic, world.batches(0, 1, 0, 1, size=30_000)))

    world.prefetch()
    offset = before.parts[number].start
    lib.sim_hook(world.reader.number, lib.SIM_AT_INVALIDATES, world.callback(meanwhile))
    lent_size_min = NOTHING_LENT if turn % 2 else 1
    world.reader.read(topic.slot, topic.generation, VIEW if number == 2 else number, offset, lent_size_min)
    lib.sim_hook(world.reader.number, 0, world.ffi.NULL)
    world.raise_failure()
    status = world.reader.result.status
    if status not in (lib.STATUS_OK, lib.STATUS_OFFSET_OUT_OF_RANGE):
        raise Violation(f"a slow reader is answered with status {status}")
    known = dict(before.parts[number].batches) | dict(world.topic(b"a").parts[number].batches)
    found = world.reader.found()
    for base, payload in found:
        if payload != known.get(base):
            raise Violation(f"a slow reader at {offset} gets other bytes at {base}: {payload[:8].hex()}")
    if status == lib.STATUS_OK and (not found or found[0][0] != offset):
        raise Violation(f"a slow reader at {offset} is not told that this is gone: it gets {len(found)} batches")
    world.reader.give_back()
    world.check_nothing_unfenced(world.reader)
    accept(world.writer.operate("trim", trimming, partition=VIEW, offset=world.topic(b"a").parts[-1].next))


def pins(world: World) -> None:
    """A reader pins a segment at each moment of its release: it learns that it came too late, or the segment stays."""
    topic = create(world, b"a")
    accept_all(world.writer.append(topic, world.batches(0)))
    moment, moments = 0, 1
    while moment < moments:
        answer, failure = in_child(functools.partial(pin_at, world, topic, moment))
        if failure:
            raise Violation(f"at moment {moment} of a release: {failure}")
        assert isinstance(answer, int)
        moments = answer
        moment += 1
    world.states += moments


def pin_at(world: World, topic: Topic, moment: int) -> int:
    """In a child. How many moments there are: a reader pins at this one."""
    lib = world.lib
    lib.sim_private(world.descriptor)
    segment = world.writer.segment_of(topic, 0)
    generation, left, held, alive = world.generation(segment), moment, -1, True

    def meanwhile() -> None:
        nonlocal left, held, alive
        left -= 1
        if left == -1:
            alive = world.generation(segment) == generation  # else the pin is of whatever comes next in its blocks
            held = lib.core_pin(world.reader.core, segment)

    world.prefetch()
    hook = world.callback(meanwhile)
    lib.sim_hook(world.writer.number, lib.SIM_AT_INVALIDATES | lib.SIM_AT_FENCES, hook)
    accept(world.writer.operate("delete", topic._replace(settings=b"")))
    world.writer.maintain(0)
    lib.sim_hook(world.writer.number, 0, world.ffi.NULL)
    world.raise_failure()
    world.check_nothing_unfenced(world.reader)
    claimed = world.claimed(segment)
    if held >= 0:
        if alive and not claimed:
            raise Violation("a segment that a reader pinned went back")
        lib.core_unpin(world.reader.core, held)
        world.check_nothing_unfenced(world.reader)
        world.writer.maintain(0)
        claimed = world.claimed(segment)
    if claimed:
        raise Violation("nobody pins a segment, and it stays")
    return moment - left


def late_pins(world: World) -> None:
    """A segment is released at each moment of a reader's pinning it: the same the other way round."""
    lib = world.lib
    number, moments = 0, 1
    while number < moments:
        topic = plain_topic(world, b"a")
        accept_all(world.writer.append(topic, world.batches(0)))
        segment = world.writer.segment_of(topic, 0)
        left = number

        def meanwhile(topic: Topic = topic) -> None:
            nonlocal left
            left -= 1
            if left == -1:
                accept(world.writer.operate("delete", topic._replace(settings=b"")))
                world.writer.maintain(0)

        world.prefetch()
        lib.sim_hook(world.reader.number, lib.SIM_AT_INVALIDATES | lib.SIM_AT_FENCES, world.callback(meanwhile))
        held = lib.core_pin(world.reader.core, segment)
        lib.sim_hook(world.reader.number, 0, world.ffi.NULL)
        world.raise_failure()
        world.check_nothing_unfenced(world.reader)
        moments = number - left
        if held >= 0:
            if 0 < number and left < 0 and not world.claimed(segment):  # at moment 0 it had not looked yet
                raise Violation(f"a reader holds a segment that went back at moment {number} of its pinning")
            lib.core_unpin(world.reader.core, held)
        if left >= 0:
            accept(world.writer.operate("delete", topic._replace(settings=b"")))
        world.writer.maintain(0)
        if world.claimed(segment):
            raise Violation(f"nobody pins a segment, and it stays: moment {number}")
        number += 1
        world.states += 1
    for _ in range(2):  # the second time the reader remembers another life of the blocks
        topic = plain_topic(world, b"a")
        accept_all(world.writer.append(topic, world.batches(0)))
        held = lib.core_pin(world.reader.core, world.writer.segment_of(topic, 0))
        if held < 0:
            raise Violation("a pin is refused of a segment that nobody releases")
        lib.core_unpin(world.reader.core, held)
        accept(world.writer.operate("delete", topic._replace(settings=b"")))
        world.writer.maintain(0)


def epochs(world: World) -> None:
    """Leader epochs were raised, as a restore does it: a reader that holds older lines answers the new ones."""
    topic = create(world, b"a", 2)
    append(world, topic, 0, 1)
    world.prefetch()
    world.writer.end()
    for partition in range(2):
        world.poke(world.partition_position(topic, partition), "partition_entry", "leader_epoch", RAISED_EPOCH)
    world.writer = world.open()
    for number in (VIEW, 0, 1):
        epoch = world.reader.leader_epoch(topic, number)
        if epoch != RAISED_EPOCH:
            raise Violation(f"leader epoch {epoch} is answered, where {RAISED_EPOCH} is")
    append(world, topic, 0, 1)


def ranges(world: World) -> None:
    """A broker uses up its range of blocks, and again what the sequencer, another host, gave back to it meanwhile; then
    it becomes the sequencer itself."""
    topic = create(world, b"a", 1, retention_bytes=300_000)
    trimming = topic._replace(settings=b"")
    broker = world.colleague = world.join(COLLEAGUE)
    before = world.writer.blocks_used()
    for _ in range(50):
        accept_all(broker.append(topic, world.batches(0, size=60_000)))
    end = world.topic(b"a").parts[-1].next
    accept(world.writer.operate("trim", trimming, partition=VIEW, offset=end))
    append(world, topic, 0, size=60_000)
    world.step(lambda host: host.append_reserved(topic, [], 100_000))
    trim(world, trimming, VIEW, end + 1)
    if world.writer.blocks_used() > before + OPEN_BLOCKS + 1:
        raise Violation(f"{world.writer.blocks_used()} blocks are in use when all is trimmed, and {before} were before")
    kills.lose_writer(world, broker, lambda: accept_all(world.writer.append(topic, world.batches(0))))
    for size in (250_000, 20_000):  # so many blocks go back at once that it shows where they do not
        accept_all(broker.append(topic, world.batches(0, size=size)))
    end = world.topic(b"a").parts[-1].next
    kills.lose_writer(world, broker, lambda: accept(world.writer.operate("trim", trimming, partition=VIEW, offset=end)))


def without_atomics(scenario: Scenario) -> Scenario:
    def run(world: World) -> None:
        scenario(world)
        if world.lib.sim_allocation_atomics():
            raise Violation("blocks of a partitioned region are claimed or freed by atomics")

    return run


def long_partition(world: World) -> None:
    """A successor has a copy of the first line of an index page that is not the first, from before it was complete."""
    topic = plain_topic(world, b"a")
    accept_all(world.writer.append(topic, world.batches(*[0] * (ELEMENTS_PER_PAGE + 1))))
    world.lib.sim_keep_stale()
    accept_all(world.writer.append(topic, world.batches(0)))
    with world.branch():
        successor = world.open()
        world.expect(successor.contents(), world.writer.contents(), "that a successor finds on a second index page")
        successor.end()
    world.lib.sim_forget_stale()
    world.states += 1


def plain_topic(world: World, name: bytes) -> Topic:
    """Made without an adversary."""
    accept(world.writer.operate("create", topic_named(name)))
    return world.topic(name)


SCENARIOS: dict[str, Scenario] = {
    function.__name__: function
    for function in (
        publishing,
        operations,
        trims,
        retention,
        reuse,
        producers,
        order_ring,
        beginnings,
        colleagues,
        elsewhere,
        collecting,
        leaving,
        burial,
        succession,
        promotion,
        pins,
        late_pins,
        epochs,
        slow_reader,
        unpinned_reader,
        replicated,
        late_directory,
        restored,
        disks.durability,
        disks.eviction,
        disks.holes,
        disks.bounds,
        rings.gaps,
        rings.claims,
        rings.nothing_left,
        rings.first_place,
        rings.returns,
        rings.refused,
        rings.described_meanwhile,
        rings.claimed_at_once,
        long_partition,
    )
}
PARTITIONED: dict[str, Scenario] = {
    f"partitioned_{function.__name__}": without_atomics(function)
    for function in (ranges, burial, promotion, rings.returns_to_range)
}
SCENARIOS |= PARTITIONED | {"long_range": without_atomics(rings.long_range)}
LONG = {"ranges": 1, "blocks": rings.LINE_BLOCKS + RANGE_END}
WORLDS: dict[str, dict[str, int]] = {name: {"ranges": RANGES} for name in PARTITIONED} | {"long_range": LONG}
"""Of what kind, where it is not the usual one."""


def run_scenario(name: str, adversary: Adversary) -> World:
    """The world that it leaves; to be closed. Errors: Violation."""
    world = World(adversary, **WORLDS.get(name, {}))
    try:
        SCENARIOS[name](world)
    except BaseException:
        world.close()
        raise
    return world
