"""What another host may see of a step that is being done, and what a successor may find of one that was cut short."""

import itertools

from totalog.engine.sim.host import Contents, Part, Topic, Violation

Key = tuple[int, int]


def by_key(contents: Contents) -> dict[Key, Topic]:
    return {(topic.slot, topic.generation): topic for topic in contents}


def judge(found: Contents, before: Contents, after: Contents, *, settled: bool) -> None:
    """Every number lies between those before and after the step, and what both bounds allow is there, byte for byte.

    `settled` is what a successor made of it: then partitions and view agree. A reader may look at a topic whose batches
    are just being released: those may be there or not, in any pattern.
    """
    now, old, new = by_key(found), by_key(before), by_key(after)
    if not old.keys() & new.keys() <= now.keys() <= old.keys() | new.keys():
        raise Violation(f"topics {sorted(now)} between {sorted(old)} and {sorted(new)}")
    for key, topic in now.items():
        judge_topic(topic, old.get(key), new.get(key), settled=settled)


def judge_complete(found: Contents, after: Contents, *, trims: bool) -> None:
    """The step was ordered: its topics are there as it left them, and end where it ended them; where it `trims`, they
    begin there as well. (What retention cuts is not ordered.)"""
    if [topic[:-1] for topic in found] != [topic[:-1] for topic in after]:
        raise Violation("an operation that was ordered is not there")
    for topic, wanted in zip(found, after, strict=True):
        if [part.next for part in topic.parts] != [part.next for part in wanted.parts]:
            raise Violation(f"batches of topic {topic.slot} that were ordered are not there")
        if trims and [part.log_start for part in topic.parts] != [part.log_start for part in wanted.parts]:
            raise Violation(f"a trim of topic {topic.slot} that was ordered is not carried out")


def judge_topic(now: Topic, before: Topic | None, after: Topic | None, *, settled: bool) -> None:
    known = [topic for topic in (before, after) if topic is not None]
    for field in Topic._fields[:-1]:
        if getattr(now, field) not in [getattr(topic, field) for topic in known]:
            raise Violation(f"{field} of topic {now.slot} is {getattr(now, field)!r}")
    if settled and now[:-1] not in [topic[:-1] for topic in known]:
        raise Violation(f"topic {now.slot} is described by two records at once: {now[:-1]!r}")
    shown: list[tuple[int, bytes]] = []
    for number, part in enumerate(now.parts):
        view = number == len(now.parts) - 1
        try:
            judge_part(part, part_of(before, number, view), part_of(after, number, view), view, settled)
        except Violation as problem:
            raise Violation(f"topic {now.slot} {'view' if view else f'partition {number}'}: {problem}") from None
        if not view:
            shown += part.batches
    in_view = [payload for _, payload in now.parts[-1].batches]
    if now.parts[-1].log_start < now.parts[-1].start:  # some have left memory, perhaps not of all partitions yet
        shown = [batch for batch in shown if batch[1] in in_view]
    if settled and sorted(payload for _, payload in shown) != sorted(in_view):
        raise Violation(f"topic {now.slot}: the view does not show what the partitions show")


def part_of(topic: Topic | None, number: int, view: bool) -> Part | None:
    if topic is None:
        return None
    if view:
        return topic.parts[-1]
    return topic.parts[number] if number < topic.partition_count else Part(0, 0, ())


def judge_part(now: Part, before: Part | None, after: Part | None, view: bool, settled: bool) -> None:
    low = before or Part(0, 0, ())
    high = after or Part(low.next, low.next, (), log_start=low.next)  # a topic that goes: everything may be gone
    if not low.log_start <= now.log_start <= high.log_start:
        raise Violation(f"log start {now.log_start} between {low.log_start} and {high.log_start}")
    if not low.start <= now.start <= high.start or not low.next <= now.next <= high.next:
        raise Violation(f"{now.start}..{now.next} between {low.start}..{low.next} and {high.start}..{high.next}")
    ends = sorted({base for base, _ in low.batches + high.batches} | {high.next})
    end_of = dict(itertools.pairwise(ends))
    known = dict(low.batches + high.batches)
    in_range = {base for base in known if base < now.next and end_of[base] > now.start}
    stays = in_range
    if view or not settled:  # partitions have no holes once a successor has settled them
        stays = {base for base in in_range if (base, known[base]) in high.batches}
        end_shown = max((base for base, _ in now.batches), default=-1)
        if not settled:  # the end has moved in the line, and what it ends has not been counted there yet
            stays -= {base for base in stays if base > end_shown and (base, known[base]) not in low.batches}
    bases = [base for base, _ in now.batches]
    if bases != sorted(set(bases)) or not stays <= set(bases) <= in_range:
        raise Violation(f"batches at {bases}, where {sorted(stays)} have to be, and {sorted(in_range)} may")
    all_there = now.log_start == now.start and now.next == now.end
    if settled and all_there and now.size != sum(len(payload) for _, payload in now.batches):
        raise Violation(f"{now.size} bytes are counted, where batches are {[len(batch) for _, batch in now.batches]}")
    for base, payload in now.batches:
        if payload != known[base]:
            raise Violation(f"the batch at {base} holds {payload[:16].hex()}, not {known[base][:16].hex()}")
    asked, base, payload = now.last
    there = [base for base in bases if now.start <= asked < end_of[base]]
    if base != (there[0] if there else -1):
        raise Violation(f"a read at {asked} finds the batch at {base}, where batches are at {bases}")
    if base >= 0 and payload != known[base]:
        raise Violation(f"the batch at {base} holds {payload[:16].hex()} alone, not {known[base][:16].hex()}")
