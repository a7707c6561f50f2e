"""Several rings: a gap in a producer's sequence that another living broker may fill, and a broker that claims blocks
while another is buried. The sequencer's host holds copies of how each of them was before."""

import functools
from collections.abc import Sequence

from totalog.engine.sim import kills
from totalog.engine.sim.child import in_child
from totalog.engine.sim.host import Answer, Batch, Host, Topic, Violation
from totalog.engine.sim.world import BYSTANDER, COLLEAGUE, SUCCESSOR, World, broker_position

PRODUCER = 7
HOLD_NANOSECONDS = 1 << 30
"""More than the sequencer holds a ring."""
MANY = 40
"""Headers, more than may wait behind a gap."""
LINE_BLOCKS = 512
"""Whose bits stand on one line."""
CROSSING = 2
"""Blocks of a run."""
SETTLING = range(76, 96)
"""Invalidates of a takeover; in the middle, it comes to a block that nobody has described."""
LOOK_AT_ALL = 16
"""Of those that belong to a look at what all brokers say, as many as come after those that say something here."""
BURIAL_BEGUN = 40
"""Invalidates of a sequencer that buries a broker: by then it has looked at every broker, and at no block."""


def accept(status: int) -> None:
    if status != 0:
        raise Violation(f"an operation, or a batch, is answered with status {status}")


def create(world: World, name: bytes) -> Topic:
    accept(world.writer.operate("create", Topic(0, 0, name, name * 16, 1, 5, -1, -1, b"", ())))
    return world.topic(name)


def sent(world: World, *sequences: int) -> list[Batch]:
    return [Batch(0, world.payload(), producer_id=PRODUCER, base_sequence=sequence) for sequence in sequences]


def check(answers: Sequence[Answer], statuses: Sequence[int]) -> None:
    if [answer.status for answer in answers] != list(statuses):
        raise Violation(f"batches of a producer are answered {answers}, not with {statuses}")


class Sleep:
    """What happens when the sequencer waits: once at most. In the end its clock says that it has waited long enough."""

    def __init__(self, world: World, *meanwhile: Host) -> None:
        self.world, self.count, self.left = world, 0, list(meanwhile)
        self.batches: list[Batch] = []
        self.topic: Topic | None = None
        self.hook = world.callback(self.sleep)

    def sleep(self) -> None:
        self.count += 1
        if self.left:
            assert self.topic is not None
            self.left.pop().append_later(self.topic, self.batches)
        else:
            self.world.lib.sim_clock(self.count * HOLD_NANOSECONDS)

    def during(self, topic: Topic, batches: list[Batch]) -> None:
        """From here on, it is this that the broker publishes meanwhile."""
        self.topic, self.batches = topic, batches
        self.world.lib.sim_wait_hook(self.hook)


def gaps(world: World) -> None:
    """The sequencer waits for what a living broker may bring, no longer than until it comes, and for no broker that has
    left; and it sees when more headers wait behind the gap than it holds back."""
    lib = world.lib
    topic = create(world, b"a")
    filler = world.join(COLLEAGUE)
    check(world.writer.append(topic, sent(world, 0)), [0])
    world.order()

    sleep = Sleep(world, filler)
    sleep.during(topic, sent(world, 1))
    check(world.writer.append(topic, sent(world, 2)), [0])
    world.raise_failure()
    if sleep.count != 1:
        raise Violation(f"the sequencer slept {sleep.count} times for a gap that was filled the first time")

    other = world.join(BYSTANDER)
    world.order()
    published = [other.append_later(topic, sent(world, 4))]
    sleep = Sleep(world, other)
    sleep.during(topic, sent(world, *range(5, 5 + MANY)))
    lib.log_sequence(world.writer.core, 0)
    world.raise_failure()
    if sleep.count != 1:
        raise Violation("the sequencer sleeps although more headers wait behind a gap than it holds back")
    lib.log_sequence(world.writer.core, 0)
    if world.completed(BYSTANDER) == 0:
        raise Violation("a batch with a gap before it is held although more headers wait than may")
    lib.sim_clock(HOLD_NANOSECONDS)
    lib.log_sequence(world.writer.core, 0)
    if world.completed(BYSTANDER) != 1 + MANY:
        raise Violation("batches with a gap before them are held for ever")
    del published

    world.prefetch()
    for leaver in (filler, other):
        leaver.leave()
        leaver.end()
    sleep = Sleep(world)
    sleep.during(topic, [])
    check(world.writer.append(topic, sent(world, 50)), [lib.STATUS_OUT_OF_ORDER_SEQUENCE])
    world.raise_failure()
    if sleep.count != 0:
        raise Violation("the sequencer waits for a broker that has left")
    world.states += 1


def claims(world: World) -> None:
    """A broker is buried that had said of a block that it takes it, and has it no more; meanwhile another claims it."""
    lib = world.lib
    topic = create(world, b"a")
    victim, other = world.join(COLLEAGUE), world.join(BYSTANDER)
    for broker in (victim, other):
        check(broker.append(topic, world.batches(0)), [0])
    # It has the rest of memory, but for one block, which it took and gave back.
    address, block = world.ffi.new("uint64_t *"), 0
    while (segment := lib.log_reserve(victim.core, 1, address)) != 0:
        block = segment
    lib.log_reserve_done(victim.core, block, False)
    assert lib.core_claim(victim.core, 1) == block
    lib.core_free(victim.core, block, 1)
    world.check_nothing_unfenced(victim)
    victim.end()
    left, taken = BURIAL_BEGUN, 0

    def meanwhile() -> None:
        nonlocal left, taken
        left -= 1
        if left == 0:
            taken = lib.core_claim(other.core, 1)

    world.prefetch()
    lib.sim_hook(world.writer.number, lib.SIM_AT_INVALIDATES, world.callback(meanwhile))
    lib.log_bury(world.writer.core, 1 << COLLEAGUE)
    lib.sim_hook(world.writer.number, 0, world.ffi.NULL)
    world.raise_failure()
    assert taken == block
    if not world.claimed(block):
        raise Violation("a block that a living broker has just claimed went back when another broker was buried")
    world.check_nothing_unfenced(world.writer)
    world.states += 1


def nothing_left(world: World) -> None:
    """A broker is buried that had claimed nothing: its place is free for sure, and the next one in it begins anew."""
    broker = world.join(COLLEAGUE)
    world.order()
    broker.end()
    world.prefetch()
    lib = world.lib
    lib.log_bury(world.writer.core, 1 << COLLEAGUE)
    world.check_nothing_unfenced(world.writer)
    if world.process_of(COLLEAGUE) != 0:
        raise Violation("a broker that is buried still has its process")
    world.states += 1


def first_place(world: World) -> None:
    """The sequencer is not the first broker: who reads in the first place has pins as well."""
    lib = world.lib
    topic = create(world, b"a")
    successor = world.join(COLLEAGUE)
    world.writer.end()
    world.take_part(successor)
    check(world.writer.append(topic, world.batches(0)), [0])
    segment = world.writer.segment_of(topic, 0)
    reader = Host(lib.sim_reader(world.descriptor, world.size, 0))
    world.prefetch()
    held = lib.core_pin(reader.core, segment)
    accept(world.writer.operate("delete", topic._replace(settings=b"")))
    world.writer.maintain(0)
    if not world.claimed(segment):
        raise Violation("a segment that a reader in the first place pinned went back")
    lib.core_unpin(reader.core, held)
    world.writer.maintain(0)
    if world.claimed(segment):
        raise Violation("nobody pins a segment, and it stays")
    world.states += 1


def returns(world: World) -> None:
    """A broker gives back the only free block. As soon as it is free another claims it, and the first one is killed."""
    lib = world.lib
    address = world.ffi.new("uint64_t *")
    other = world.colleague = world.join(COLLEAGUE)
    block = lib.log_reserve(world.writer.core, 1, address)
    while lib.log_reserve(other.core, 1, address) != 0:
        pass

    def go_on() -> None:
        taken = lib.core_claim(other.core, 1)
        world.take_part(world.join(SUCCESSOR))
        if taken != 0 and not (world.claimed(taken) and world.kind(taken) == lib.BLOCK_FREE):
            raise Violation("a block that a living broker has just claimed went to the successor of the sequencer")

    act = functools.partial(lib.log_reserve_done, world.writer.core, block, False)
    kills.each_kill(world, world.writer, act, go_on, ghost=False)


def refused(world: World) -> None:
    """A batch that comes again, and behind it a new one: the sequencer is killed when it has ordered that, and answered
    neither. Its successor, which looked at the ring before either stood there, answers both."""
    lib = world.lib
    topic = create(world, b"a")
    broker, successor = world.join(COLLEAGUE), world.join(SUCCESSOR)
    again, new = sent(world, 0, 1)
    world.colleague = broker
    check(broker.append(topic, [again]), [0])
    for world.colleague in (successor, broker):
        world.prefetch()
    collect = broker.append_later(topic, [again, new])

    def go_on() -> None:
        world.take_part(successor)
        lib.log_sequence(successor.core, 0)
        check(collect(), [lib.STATUS_DUPLICATE, 0])

    kills.each_kill(world, world.writer, lambda: lib.log_sequence(world.writer.core, 0), go_on, ghost=False)


def described_meanwhile(world: World) -> None:
    """The same, and the other says what the block is, and then no more that it takes it, while the successor settles.
    Or it even gives the block back by then, and a third broker takes it."""
    lib = world.lib
    address = world.ffi.new("uint64_t *")
    other, third = world.join(COLLEAGUE), world.join(BYSTANDER)
    world.colleague = other
    block = lib.log_reserve(world.writer.core, 1, address)
    while lib.log_reserve(other.core, 1, address) != 0:
        pass

    def go_on() -> None:
        said = world.word(broker_position(world, 0), "broker_entry", "claim")
        if said == 0 or lib.core_claim(other.core, 1) == 0:
            return
        successor = world.join(SUCCESSOR)
        for moment in SETTLING:
            for brokers in ([other], [other, third]):
                _, failure = in_child(functools.partial(take_over_at, world, successor, brokers, block, moment))
                if failure:
                    raise Violation(f"at moment {moment} of a takeover, {len(brokers)} brokers: {failure}")

    act = functools.partial(lib.log_reserve_done, world.writer.core, block, False)
    kills.each_kill(world, world.writer, act, go_on, ghost=False)


def take_over_at(world: World, successor: Host, brokers: Sequence[Host], block: int, moment: int) -> None:
    """In a child."""
    lib = world.lib
    left, taken = moment, True

    def meanwhile() -> None:
        nonlocal left, taken
        left -= 1
        if left == -1:
            lib.sim_describe(brokers[0].core, block)
        elif left == -LOOK_AT_ALL and len(brokers) > 1:
            lib.log_reserve_done(brokers[0].core, block, False)
            while (found := lib.core_claim(brokers[1].core, 1)) not in (0, block):
                pass  # what the successor has given back by now comes first
            taken = found == block

    world.prefetch()
    if len(brokers) == 1:
        lib.sim_prefetch(successor.number)  # else its copies are those of its own first look
    lib.sim_hook(successor.number, lib.SIM_AT_INVALIDATES, world.callback(meanwhile))
    error = lib.log_take_over(successor.core, 0xFFFFFFFF & ~(1 << COLLEAGUE | 1 << BYSTANDER))
    lib.sim_hook(successor.number, 0, world.ffi.NULL)
    world.raise_failure()
    if error != lib.OPEN_OK or left > -LOOK_AT_ALL:
        raise Violation(f"a takeover ends with OPEN_* {error} after {moment - left} moments")
    kind = lib.BLOCK_RUN if len(brokers) == 1 else lib.BLOCK_FREE
    if taken and not (world.claimed(block) and world.kind(block) == kind):
        raise Violation("a block that a living broker has just taken goes back")


def returns_to_range(world: World) -> None:
    """A broker is killed while it gives back a block of its own range: it is free when a successor has taken over."""
    block = world.lib.log_reserve(world.writer.core, 1, world.ffi.new("uint64_t *"))
    world.colleague = world.join(COLLEAGUE)

    def go_on() -> None:
        world.take_part(world.join(SUCCESSOR))
        if world.claimed(block):
            raise Violation("a block that a dead broker was giving back stays")

    act = functools.partial(world.lib.log_reserve_done, world.writer.core, block, False)
    kills.each_kill(world, world.writer, act, go_on, ghost=False, thorough=True)


def long_range(world: World) -> None:
    """A broker is killed while it takes a run of blocks whose bits stand on two lines: a successor has all of them."""
    lib = world.lib
    address = world.ffi.new("uint64_t *")
    first = LINE_BLOCKS - CROSSING // 2
    assert lib.core_claim(world.writer.core, first - world.writer.blocks_used()) != 0

    def act() -> None:
        if lib.log_reserve(world.writer.core, CROSSING * lib.BLOCK_SIZE, address) != first:
            raise Violation(f"a run of {CROSSING} blocks is not where the others end")

    def go_on() -> None:
        world.check_new(world.open())

    kills.each_kill(world, world.writer, act, go_on, ghost=False, thorough=True)


def claimed_at_once(world: World) -> None:
    """The sequencer takes back the only free block. As soon as it is free another broker takes it, and the sequencer is
    killed."""
    lib = world.lib
    address = world.ffi.new("uint64_t *")
    topic = create(world, b"a")
    check(world.writer.append(topic, world.batches(0)), [0])
    segment = world.writer.segment_of(topic, 0)
    other = world.colleague = world.join(COLLEAGUE)
    while lib.log_reserve(other.core, 1, address) != 0:
        pass

    def act() -> None:
        accept(world.writer.operate("delete", topic._replace(settings=b"")))
        world.writer.maintain(0)
        if world.claimed(segment):
            raise Violation("a segment of a deleted topic stays")

    def go_on() -> None:
        taken = lib.log_reserve(other.core, 1, address)
        world.take_part(world.join(SUCCESSOR))
        if taken != 0 and not (world.claimed(taken) and world.kind(taken) == lib.BLOCK_RUN):
            raise Violation("a block that a living broker has just taken goes back")

    kills.each_kill(world, world.writer, act, go_on, ghost=False)
