"""One host is killed while others live and go on: a broker, whose remains the sequencer buries, or the sequencer, in
whose place another host takes over while a broker waits for its answers.

At each fence of the victim, and for each state that memory may then be in, a child process goes on without it. The
victim's call is on the stack there: a broker's is never returned to; a sequencer's runs to its end as a ghost, which
reaches memory no more (sim_host_die), since the broker that waits stands below it on the stack.
"""

from collections.abc import Callable, Sequence

from totalog.engine.sim.child import end_child, start_child, wait_for_child
from totalog.engine.sim.host import Answer, Batch, Contents, Host, Topic, Violation
from totalog.engine.sim.world import COLLEAGUE, THOROUGH, World

Sent = Sequence[tuple[Topic, Batch]]


def each_kill(
    world: World,
    victim: Host,
    act: Callable[[], object],
    go_on: Callable[[], object],
    *,
    ghost: bool,
    thorough: bool = False,
) -> None:
    """Runs `act`, and for each moment at which the victim may be killed meanwhile, `go_on` in a child: right there, or,
    where the victim is to be a ghost, when `act` has ended. `thorough`: more states are tried than elsewhere."""
    lib = world.lib
    limit = max(world.adversary.subsets_max // 3, 2) * (THOROUGH if thorough else 1)
    fences = 0
    child_runs = False

    def look() -> None:
        nonlocal fences, child_runs
        fences += 1
        for number, _ in enumerate(world.memory_states(world.living(), limit)):
            world.states += 1
            child = start_child()
            if child is None:
                child_runs = True
                world.fall_back_on_own_memory(victim)
                if not ghost:
                    end_child(go_on)
                return
            _, failure = wait_for_child(child)
            if failure:
                raise Violation(f"killed at its fence {fences}, state {number}: {failure}")

    world.prefetch()
    lib.sim_hook(victim.number, lib.SIM_AT_FENCES, world.callback(look))
    failure: BaseException | None = None
    try:
        act()
    except Violation as violation:
        failure = violation
    if child_runs:
        end_child(lambda: finish(world, failure, go_on))
    lib.sim_hook(victim.number, 0, world.ffi.NULL)
    world.raise_failure()
    if failure is not None:
        raise failure


def finish(world: World, failure: BaseException | None, go_on: Callable[[], object]) -> None:
    world.raise_failure()
    if failure is not None:
        raise failure
    go_on()


def publish(world: World, broker: Host, topic: Topic, batches: Sequence[Batch]) -> None:
    """A broker publishes, and is killed at each of its fences. What it had published is ordered, and no more."""
    before = world.writer.contents()

    def go_on() -> None:
        world.lib.log_bury(world.writer.core, 1 << COLLEAGUE)
        world.check_nothing_unfenced(world.writer)
        world.colleague = None
        after = world.writer.contents()
        check_prefix(before, after, [(topic, batch) for batch in batches])
        if world.process_of(COLLEAGUE) != 0:
            raise Violation("a broker that is buried still has its process")
        world.expect_reader(after, "that a reader sees after a burial")
        live_on(world, world.join(COLLEAGUE))

    each_kill(world, broker, lambda: accept_all(broker.append(topic, batches)), go_on, ghost=False)


def lose_sequencer(world: World, broker: Host, topic: Topic, batches: Sequence[Batch]) -> None:
    """A broker waits for its answers, and the sequencer is killed at each of its fences. Each batch is there, once."""
    answers: list[Answer] = []

    def act() -> None:
        answers[:] = broker.append(topic, batches)
        accept_all(answers)

    def go_on() -> None:
        world.order()  # the broker may have had its answers before the kill
        after = world.writer.contents()
        check_answers(after, topic, batches, answers)
        world.check_nothing_unfenced(world.writer)
        world.expect_reader(after, "that a reader sees after a takeover")
        live_on(world, broker)

    each_kill(world, world.writer, act, go_on, ghost=True)


def lose_writer(world: World, broker: Host, act: Callable[[], object]) -> None:
    """The sequencer is killed at each fence of what it does of its own accord; the broker takes its part."""

    def go_on() -> None:
        world.take_part(broker)
        world.colleague = None
        after = world.writer.contents()
        world.expect_reader(after, "that a reader sees when a broker has become the sequencer")
        live_on(world, broker)

    each_kill(world, world.writer, act, go_on, ghost=False)


def live_on(world: World, broker: Host) -> None:
    """The broker writes to every partition, and deletes every topic; nothing is left."""
    for topic in world.writer.contents():
        for partition in range(topic.partition_count):
            answer = broker.append(topic, world.batches(partition, timestamp=-1))[0]
            if (answer.status, answer.base_offset) != (0, topic.parts[partition].next):
                raise Violation(f"the next batch of partition {partition} is answered {answer}")
    grown = world.writer.contents()
    world.expect_reader(grown, "that a reader sees of batches after a kill")
    for topic in grown:
        if broker.operate("delete", topic) != 0:
            raise Violation(f"topic {topic.slot} cannot be deleted")
    world.writer.maintain(0)
    world.check_emptied(world.writer)


def check_prefix(before: Contents, after: Contents, sent: Sent) -> None:
    """What came is the beginning of what was sent."""
    for old, new in zip(before, after, strict=True):
        here = [batch.payload for topic, batch in sent if topic.slot == old.slot]
        came = [payload for _, payload in new.parts[-1].batches[len(old.parts[-1].batches) :]]
        if came != here[: len(came)]:
            raise Violation(f"topic {old.slot}: {len(came)} batches came, and they are not the first that were sent")
        for part in old.parts[:-1]:
            if part.batches != new.parts[old.parts.index(part)].batches[: len(part.batches)]:
                raise Violation(f"topic {old.slot}: older batches changed")


def check_answers(contents: Contents, topic: Topic, batches: Sequence[Batch], answers: Sequence[Answer]) -> None:
    """Each batch stands once, where its answer says."""
    found = next(each for each in contents if each.slot == topic.slot)
    for batch, answer in zip(batches, answers, strict=True):
        for name, part, base in (
            ("partition", found.parts[batch.partition], answer.base_offset),
            ("view", found.parts[-1], answer.total_order),
        ):
            places = [at for at, payload in part.batches if payload == batch.payload]
            if places != [base]:
                raise Violation(f"a batch is answered with {base}, and stands at {places} of its {name}")


def accept_all(answers: Sequence[Answer]) -> None:
    if any(answer.status for answer in answers):
        raise Violation(f"batches are answered {answers}")
