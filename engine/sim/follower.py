"""A disk replica on a host of its own: it follows what A orders into a journal on real files, and what an archive on
another host finds there is compared with what A says."""

import os
import tempfile
from collections.abc import Callable
from typing import Any

from totalog.engine.sim.host import READ_ROOM, VIEW, Contents, Topic, Violation
from totalog.engine.sim.world import World

LOG_ID = bytes(range(16))
FILE_SIZE = 16 << 10
IN_MEMORY = b"m"
"""The topic that is not journalled."""
ALTERED = 40
"""How often, so that a topic's record lies on another page than the first ones."""
MEANWHILE = 3
"""Groups that A orders while the replica is in the middle of a pass."""


class Follower:
    def __init__(self, world: World, folder: str) -> None:
        self.world, self.lib, self.ffi = world, world.lib, world.ffi
        self.host, self.looker = world.open_reader(), world.open_reader()
        self.descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
        self.replicas = self.lib.replicas_new(self.host.core, 1, -1)
        world.check_nothing_unfenced(self.host)
        self.journal = self.open()
        if self.lib.replica_attach(self.replicas, 0, self.journal) != 0:
            raise Violation("a replica cannot be attached")
        self.archive = self.lib.archive_open(self.looker.core, self.descriptor, LOG_ID)

    def open(self) -> Any:
        report = self.ffi.new("struct journal_report *")
        journal = self.lib.journal_open(self.descriptor, LOG_ID, FILE_SIZE, report)
        if journal == self.ffi.NULL:
            raise Violation(f"the journal is refused: JOURNAL_* {report.error}, DAMAGE_* {report.damage}")
        return journal

    def close(self) -> None:
        self.lib.archive_close(self.archive)
        self.lib.replicas_delete(self.replicas)
        os.close(self.descriptor)

    def prefetch(self) -> None:
        """It holds copies of everything as it was before A goes on, and of the lines that A will write next."""
        lib, number = self.lib, self.host.number
        lib.sim_prefetch(number)
        lib.sim_prefetch(self.looker.number)
        slot = self.world.ordered() % lib.SIM_ORDER_SLOTS
        lib.sim_prefetch_range(number, lib.ORDER_RING_POSITION + slot * lib.LINE_SIZE, 32 * lib.LINE_SIZE)

    def follow(self, meanwhile: Callable[[], None] | None = None) -> None:
        """Passes until all is durable. `meanwhile` runs at some of the moments at which it looks at something anew."""
        lib, left = self.lib, MEANWHILE

        def hook() -> None:
            nonlocal left
            if meanwhile is not None and left > 0 and self.world.random.random() < 0.1:
                left -= 1
                meanwhile()

        lib.sim_hook(self.host.number, lib.SIM_AT_INVALIDATES, self.world.callback(hook))
        result = lib.replica_run(self.replicas, 0, 0)
        lib.sim_hook(self.host.number, 0, self.ffi.NULL)
        self.world.raise_failure()
        if result != lib.RUN_IDLE:
            status = self.ffi.new("struct replica_status *")
            lib.replica_look(self.replicas, 0, status)
            raise Violation(f"the replica fails: RUN_* {result}, {os.strerror(status.saved_errno)}")
        self.world.check_nothing_unfenced(self.host)
        ordered, replicated = self.world.writer.frontiers()[1:]
        if ordered != replicated:
            raise Violation(f"{ordered} positions are ordered, and A sees {replicated} of them durable")
        self.world.states += 1

    def read(self, topic: Topic, partition: int, start: int) -> tuple[tuple[int, bytes], ...]:
        """All batches of the sealed files, from there on. Errors: Refused."""
        lib, host = self.lib, self.looker
        found: list[tuple[int, bytes]] = []
        offset = start
        while True:
            place = (topic.slot, topic.generation, partition, offset)
            lib.archive_read(self.archive, *place, host.target, READ_ROOM, True, host.batches_at, 64, host.result)
            if host.result.status != lib.STATUS_OK:
                raise Refused(host.result.status)
            if host.result.count == 0:
                return tuple(found)
            found += host.found()
            offset = found[-1][0] + 1

    def refuses(self, topic: Topic, partition: int, offset: int, status: int) -> None:
        try:
            self.read(topic, partition, offset)
        except Refused as refused:
            if refused.status == status:
                return
            raise
        raise Violation(f"the archive knows offset {offset} of topic {topic.name!r}, {partition}, which A does not")

    def rotate(self) -> None:
        self.prefetch()
        self.lib.replica_rotate(self.replicas, 0)
        self.follow()

    def check(self) -> None:
        """The archive holds what A holds, and the newest checkpoint says where A's log starts are."""
        self.rotate()
        for topic in self.world.writer.contents():
            for number, part in zip((*range(topic.partition_count), VIEW), topic.parts, strict=True):
                expected = () if topic.name == IN_MEMORY else part.batches
                if self.read(topic, number, part.start) != expected:
                    raise Violation(f"the archive of topic {topic.name!r}, {number}, is another than A's")
                if topic.name != IN_MEMORY and self.start(topic, number) != part.start:
                    raise Violation(f"the checkpoint says that {topic.name!r}, {number}, starts at another place")

    def start(self, topic: Topic, partition: int) -> int:
        """A log start as the journal's state has it."""
        row, line = self.ffi.new("struct journal_topic *"), self.ffi.new("struct journal_partition *")
        if partition == VIEW:
            assert self.lib.journal_topic_at(self.journal, topic.slot, row)
            return int(row.log_start_total_order)
        assert self.lib.journal_partition_at(self.journal, topic.slot, partition, line)
        return int(line.log_start_offset)


class Refused(Exception):
    def __init__(self, status: int) -> None:
        super().__init__(f"the archive answers with status {status}")
        self.status = status


def replicated(world: World) -> None:
    """A replica on a host of its own, with stale copies of everything, also of what A writes while it looks."""
    with tempfile.TemporaryDirectory(prefix="totalog-sim-") as folder:
        world.lib.sim_keep_stale()
        follower = Follower(world, folder)
        try:
            follow_a_topic(world, follower)
            follow_operations(world, follower)
        finally:
            follower.close()
        # Another takes its place, on a host that looked at the region before there was a replica.
        append(world, b"c", 0, 0)
        follower = Follower(world, folder)
        try:
            world.lib.sim_forget_stale()
            follower.follow()
            follower.check()
        finally:
            follower.close()


def late_directory(world: World) -> None:
    """A log gets its first data directory, from a host that has not looked at the region for long: what was ordered
    before has perhaps been released, and no directory can have it."""
    operate_plainly(world, named(b"a", 1))
    host = world.open_reader()
    world.lib.sim_prefetch(host.number)
    append(world, b"a", 0, 0)
    topic = world.topic(b"a")
    segment = world.writer.segment_of(topic, 0)
    replicas = world.lib.replicas_new(host.core, 1, -1)
    world.check_nothing_unfenced(host)
    releasable = world.word(world.lib.CONTROL_POSITION, "control", "releasable")
    if releasable != world.ordered():
        raise Violation(f"{world.ordered()} positions were ordered without a directory, {releasable} count as gone")
    world.lib.replicas_delete(replicas)
    world.writer.append(topic, world.batches(0))
    if world.writer.operate("trim", topic._replace(settings=b""), partition=VIEW, offset=3) != 0:
        raise Violation("a topic cannot be trimmed")
    if world.writer.first_entry(topic) != 2:
        raise Violation(
            "a batch was released that no directory has: their first one came when the sequencer had looked"
        )
    if world.writer.operate("delete", topic._replace(settings=b"")) != 0:
        raise Violation("a topic cannot be deleted")
    world.writer.maintain(0)
    if not world.claimed(segment):
        raise Violation("what no directory has went back: their first one came when the sequencer had looked last")
    world.states += 1


def restored(world: World) -> None:
    """A region is lost, and made again from the journal by one host; another has looked at it when it was empty."""
    with tempfile.TemporaryDirectory(prefix="totalog-sim-") as folder:
        follower = Follower(world, folder)
        fill_a_journal(world, follower)
        lost = world.writer.contents()
        follower.close()
        world.close()
        world.begin()
        restore(world, folder, lost)


def fill_a_journal(world: World, follower: Follower) -> None:
    """Topics with settings, whose records lie on two pages; one that is gone; and a trim that no checkpoint knows."""
    for name, partitions in ((b"a", 2), (b"b", 1), (b"c", 1)):
        operate(world, follower, "create", named(name, partitions))
        append(world, name, *range(partitions), *[0] * 40)
    for number in range(ALTERED):
        operate(world, follower, "alter", world.topic(b"c")._replace(retention_ms=number))
    operate(world, follower, "delete", world.topic(b"b")._replace(settings=b""))
    follower.rotate()
    append(world, b"a", 0, 1)
    operate(world, follower, "trim", world.topic(b"a")._replace(settings=b""), partition=VIEW, offset=10)
    follower.follow()


def restore(world: World, folder: str, lost: Contents) -> None:
    lib, writer = world.lib, world.writer
    world.prefetch()
    lib.sim_keep_stale()
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    report = world.ffi.new("struct journal_report *")
    journal = lib.journal_open(descriptor, LOG_ID, FILE_SIZE, report)
    if journal == world.ffi.NULL or lib.restore_region(writer.core, journal) != lib.OPEN_OK:
        raise Violation("a region cannot be restored from its journal")
    lib.journal_close(journal)
    os.close(descriptor)
    world.check_nothing_unfenced(writer)
    found = writer.contents()
    for old, new in zip(lost, found, strict=True):
        if old._replace(parts=()) != new._replace(parts=()) or ends(old) != ends(new):
            raise Violation(f"topic {old.slot} is restored as another: {new}")
    world.expect_reader(found, "that a reader sees of a restored region")
    if world.reader.frontiers()[1:] != writer.frontiers()[1:]:
        raise Violation("a reader of a restored region sees older frontiers")
    with world.branch():
        world.follow(found, "restored")
    lib.sim_forget_stale()
    world.states += 1


def ends(topic: Topic) -> list[tuple[int, int]]:
    """Log starts and ends; those of a restored region are all that is left of its batches."""
    return [(part.log_start, part.next) for part in topic.parts]


def operate_plainly(world: World, topic: Topic) -> None:
    if world.writer.operate("create", topic) != 0:
        raise Violation("a topic is refused")


def named(name: bytes, partitions: int, **more: int) -> Topic:
    topic = Topic(0, 0, name, name * 16, partitions, 5, -1, -1, b"settings of " + name, ())
    return topic._replace(**more)  # type: ignore[arg-type]


def append(world: World, name: bytes, *partitions: int, size: int = 72) -> None:
    answers = world.writer.append(world.topic(name), world.batches(*partitions, size=size))
    if any(answer.status for answer in answers):
        raise Violation("a batch is refused")


def operate(world: World, follower: Follower, operation: str, topic: Topic, **more: int) -> None:
    follower.prefetch()
    if world.writer.operate(operation, topic, **more) != 0:
        raise Violation(f"the operation {operation} is refused")


def follow_a_topic(world: World, follower: Follower) -> None:
    def meanwhile() -> None:
        append(world, b"a", 0, 1)

    operate(world, follower, "create", named(b"a", 2))
    follower.follow()
    for round_number in range(12):
        follower.prefetch()
        append(world, b"a", *[0, 1] * 4, size=72 + 500 * (round_number % 3))
        follower.follow(meanwhile)
        follower.prefetch()
        follower.follow()
    follower.check()


def follow_operations(world: World, follower: Follower) -> None:
    lib = world.lib
    trimming = world.topic(b"a")._replace(settings=b"")
    for partition, offset in ((0, 10), (VIEW, 40), (1, 30)):
        operate(world, follower, "trim", trimming, partition=partition, offset=offset)
        follower.refuses(trimming, partition, offset - 1, lib.STATUS_OFFSET_OUT_OF_RANGE)
    follower.check()
    # Retention is not ordered: only the region knows its log starts.
    operate(world, follower, "alter", world.topic(b"a")._replace(retention_bytes=4000))
    follower.follow()
    follower.prefetch()
    world.writer.maintain(-1)
    follower.check()
    operate(world, follower, "create", named(b"b", 1))
    append(world, b"b", *[0] * 40)
    follower.check()
    gone = world.topic(b"b")._replace(settings=b"")
    operate(world, follower, "delete", gone)
    follower.refuses(gone, 0, 0, lib.STATUS_UNKNOWN_TOPIC)
    operate(world, follower, "create", named(IN_MEMORY, 1), flags=lib.TOPIC_FLAG_MEMORY)
    operate(world, follower, "create", named(b"c", 1))
    for _ in range(3):
        follower.prefetch()
        append(world, IN_MEMORY, 0)
        append(world, b"c", 0, size=3000)
        follower.follow()
    follower.check()
