"""A log that a power cut does not take: a region for speed, and data directories that hold all of it.

    with open_log([Path("/var/lib/totalog")], size=1 << 30) as log:     # a Log, and more

How it is opened, whatever ended the last process:

1. every directory is held, and all belong to one log;
2. every journal is read to its end: the torn tail is cut, damage refused, and those that went apart are refused;
3. the region that the last process left is used if it can be trusted (place.py): nothing that was ordered is lost. Else
   a new one is rebuilt from the journal that reaches furthest, and all leader epochs rise;
4. a directory that lacks what the region no longer holds gets the files of one that does not;
5. one replica a directory follows the log from where its journal ends.

Each step may be cut off by a kill, and is then done again.
"""

import os
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Final

from totalog.engine import place
from totalog.engine._core import ffi, lib
from totalog.engine._core_long import ffi as long_ffi
from totalog.engine._core_long import lib as long_lib
from totalog.engine.archive import Archive
from totalog.engine.directory import LOG_ID_SIZE, Directory
from totalog.engine.errors import DirectoryError, DirectoryMismatch, RegionDamaged
from totalog.engine.journal import Journal, copy_files
from totalog.engine.log import Log, Replica
from totalog.engine.reads import BatchAt, Read, ReadBatches, batch_at, read_of
from totalog.engine.region import Region, explain
from totalog.engine.replicas import Replicas
from totalog.engine.topic import Topic
from totalog.engine.upkeep import Upkeep

JOURNAL_SIZE: Final = 64 << 20
"""Bytes of one journal file, about: what retention takes away at once, and what a restart has to read at most."""

CLOSE_S_MAX: Final = 10.0
"""Seconds that a clean stop waits for the disks."""

Tell = Callable[[str], None]
Size = int | Callable[[Path], int]
"""Bytes for batches and indexes, or what knows them once it is known where the region will lie."""


def _say_nothing(line: str) -> None:
    del line


def open_log(
    directories: Sequence[Path],
    *,
    size: Size,
    region: Path | None = None,
    tell: Tell = _say_nothing,
    journal_size: int | None = None,
) -> "DurableLog":
    """The log that these directories hold; a new one where all are empty.

    `region` is where the region is made, if it has to be; `tell` gets a line for what an operator should know.
    Errors: DirectoryError, RegionError, OutOfMemory.
    """
    if len({path.absolute() for path in directories}) < len(directories):
        raise DirectoryMismatch("a data directory is named twice")
    if not 1 <= len(directories) <= lib.DIRECTORIES_MAX:
        raise DirectoryMismatch(f"a log has 1 to {lib.DIRECTORIES_MAX} data directories, not {len(directories)}")
    with ExitStack() as undo:
        held = [_hold(path, undo) for path in directories]
        _belong_together(held)
        opening = _Opening(held, size, region, tell, journal_size or JOURNAL_SIZE, undo)
        log = opening.open()
        undo.pop_all()
        return log


def _hold(path: Path, undo: ExitStack) -> Directory:
    directory = Directory.hold(path)
    undo.callback(directory.close)
    return directory


def _belong_together(directories: Sequence[Directory]) -> None:
    """All of one log, the empty ones join it."""
    known = {directory.log_id: directory for directory in directories if directory.log_id is not None}
    if len(known) > 1:
        first, second, *_ = known.values()
        raise DirectoryMismatch(f"{first.path} and {second.path} belong to different logs: name directories of one")
    log_id = next(iter(known), None) or os.urandom(LOG_ID_SIZE)
    for directory in directories:
        if directory.log_id is None:
            directory.join(log_id)


class _Opening:
    """One start, step by step; what it opens is undone if a later step fails."""

    def __init__(
        self, held: list[Directory], size: Size, region: Path | None, tell: Tell, journal_size: int, undo: ExitStack
    ) -> None:
        self.held = held
        self.size = size
        self.region = region.absolute() if region is not None else None
        self.tell = tell
        self.journal_size = journal_size
        self.undo = undo
        self.epochs_raised = False

    def open(self) -> "DurableLog":
        journals = [self.read(directory) for directory in self.held]
        _check_one_history(journals)
        longest = max(journals, key=lambda journal: journal.end)
        log = self.attach(longest) or self.rebuild(longest)
        # From the longest on, so that whoever lacks something finds it in the files of one that is attached.
        for index in sorted(range(len(journals)), key=lambda index: -journals[index].end):
            self.follow(log, index, journals[index], longest)
        for index in range(len(journals)):
            log._replicas.start(index)
        return log

    def read(self, directory: Directory) -> Journal:
        journal = Journal.open(directory, self.journal_size, self.tell)
        self.undo.callback(journal.close)
        if journal.cut:
            self.tell(
                f"{directory.path}: {journal.cut:,} bytes that a kill or a power cut left unfinished were cut off"
            )
        return journal

    def attach(self, longest: Journal) -> "DurableLog | None":
        region = place.attach(self.held, longest.end, self.tell)
        if region is None:
            return None
        try:
            log = DurableLog(region, self.held, self.journal_size)
        except RegionDamaged as error:
            self.tell(f"{error}; the log is rebuilt from its journal instead")
            return None
        self.undo.callback(log._let_go)
        assert region.path is not None
        if self.region not in (None, region.path):
            self.tell(f"the region stays at {region.path} until the broker has stopped cleanly")
        place.share_note(self.held, region.path)
        return log

    def rebuild(self, longest: Journal) -> "DurableLog":
        lost = place.remove_old(self.held, self.tell)
        path = self.region or place.default_path(self.held[0])
        region, note = place.create(self.held, path, self.size if isinstance(self.size, int) else self.size(path))
        log = DurableLog(region, self.held, self.journal_size)
        self.undo.callback(log._let_go)
        if longest.end:
            error = long_lib.restore_region(log._long_core, longest.core)
            if error != lib.OPEN_OK:
                raise explain(error, path)
            self.epochs_raised = True
            if lost:
                self.tell(f"the log was rebuilt from {longest.directory.path}, up to global position {longest.end:,}")
        place.complete(self.held, note)
        return log

    def follow(self, log: "DurableLog", index: int, journal: Journal, longest: Journal) -> None:
        """The replica of a directory goes on where its journal ends, after that has got what it lacks."""
        if self.epochs_raised and journal is not longest:
            long_lib.restore_follow(journal.core)
        if log._replicas.attach(index, journal):
            return
        if journal is longest:
            raise DirectoryMismatch(
                f"{journal.directory.path} lacks batches that the region no longer holds:"
                " start with all data directories of this log"
            )
        self.tell(f"{journal.directory.path} is behind: it gets the files of {longest.directory.path}")
        journal.close()
        copy_files(longest.directory, journal.directory, sealed_only=True)
        again = self.read(journal.directory)
        if self.epochs_raised:
            long_lib.restore_follow(again.core)
        if not log._replicas.attach(index, again):
            raise DirectoryError(f"{journal.directory.path} could not be filled from {longest.directory.path}")


def _check_one_history(journals: Sequence[Journal]) -> None:
    """A directory that was used without the others may hold other batches at the same positions: nobody can tell which
    of them clients were promised."""
    longest = max(journals, key=lambda journal: journal.end)
    for journal in journals:
        if journal is longest or journal.end == 0:
            continue
        own, other = (each.identity_at(journal.end - 1) for each in (journal, longest))
        if own is not None and other is not None and own != other:
            raise DirectoryMismatch(
                f"{journal.directory.path} and {longest.directory.path} went apart before global position"
                f" {journal.end}, each was used alone: start with one of them, and an empty directory for the other"
            )


class DurableLog(Log):
    """A log with data directories. Make it with `open_log`."""

    durable = True

    def __init__(self, region: Region, directories: Sequence[Directory], journal_size: int) -> None:
        """Takes over the region; who makes it attaches and starts the replicas."""
        super().__init__(region)
        try:
            self._replicas = Replicas(self._long_core, directories)
        except BaseException:
            super().close()
            raise
        self.directories = len(directories)
        self._journal_size = journal_size
        self._archive = Archive(self._long_core, directories, self._replicas.best_first)
        self._upkeep = Upkeep(self._archive, self._replicas)

    @property
    def _long_core(self) -> Any:
        return long_ffi.cast("struct log *", int(ffi.cast("uintptr_t", self._core)))

    # -- durability

    @property
    def replica_descriptor(self) -> int:
        return self._replicas.descriptor

    def replicas(self) -> tuple[Replica, ...]:
        return self._replicas.look()

    def revive(self, path: Path) -> None:
        """A fenced replica reads its journal again, gets what it lacks, and follows the log once more. May take long.

        Errors: DirectoryError.
        """
        index = [directory.path for directory in self._replicas.directories].index(path.absolute())
        self._replicas.detach(index)
        try:
            self._attach_or_fill(index)
        except BaseException:
            self._replicas.detach(index)
            raise
        self._replicas.start(index)

    def _attach_or_fill(self, index: int) -> None:
        if self._attach_again(index):
            return
        source, directories = self._live_besides(index), self._replicas.directories
        self._replicas.hold(index, source)
        copy_files(directories[source], directories[index], sealed_only=True)
        if not self._attach_again(index):
            raise DirectoryError(f"{directories[index].path} could not be filled from {directories[source].path}")

    def _attach_again(self, index: int) -> bool:
        journal = Journal.open(self._replicas.directories[index], self._journal_size, _say_nothing)
        try:
            return self._replicas.attach(index, journal)
        finally:
            journal.close()

    def _live_besides(self, index: int) -> int:
        for other, replica in enumerate(self.replicas()):
            if other != index and replica.failure is None:
                return other
        raise DirectoryError("no other data directory has what this one lacks")

    # -- what left memory

    def archive_read(
        self,
        topic: Topic,
        partition: int,
        offset: int,
        target: int,
        size_max: int,
        *,
        batches: ReadBatches,
        whole_first: bool = True,
    ) -> Read:
        """As `read`, where that says STATUS_ON_DISK; from any thread, and it waits for the disk. Errors: JournalFailed
        when no directory can be read."""
        result = self._archive.read(
            topic, partition, offset, target, size_max, batches.address, batches.capacity, whole_first
        )
        return read_of(result)

    def archive_find_timestamp(self, topic: Topic, partition: int, timestamp_ms: int) -> BatchAt | None:
        """As `find_timestamp`, of what is in the archive; from any thread. Errors: UnknownTopic, JournalFailed."""
        return batch_at(*self._archive.find_timestamp(topic, partition, timestamp_ms), topic)

    def archive_find_max_timestamp(self, topic: Topic, partition: int) -> BatchAt | None:
        """As `find_max_timestamp`, of what is in the archive; from any thread. Errors: UnknownTopic, JournalFailed."""
        return batch_at(*self._archive.find_max_timestamp(topic, partition), topic)

    def trim(self, topic: Topic, partition: int, offset: int, *, rows: Sequence[tuple[int, int, int]] = ()) -> None:
        """As in memory; where the new log start is only in the archive, that is asked. Errors: also JournalFailed."""
        if not rows and self.archived(topic, partition) and offset < self._bounds(topic, partition).memory_start_offset:
            rows = self._archive.trim_rows(topic, partition, offset)
        super().trim(topic, partition, offset, rows=rows)

    def maintain(self, now_ms: int) -> bool:
        """Also evicts what is on disk, cuts what left memory by retention, and removes journal files nobody needs."""
        self._upkeep.turn(self, now_ms, self.frontiers().ordered)
        return super().maintain(now_ms)

    # -- the end

    def close(self) -> None:
        """A clean stop: what is ordered is written, the journals are sealed, and the region goes when they hold all of
        it. Where a disk does not answer in time the region stays, for the next start. Idempotent."""
        if self._core is None:
            return
        self._close_reservations()
        self._upkeep.stop()
        stopped = self._replicas.stop(CLOSE_S_MAX, catch_up=True)
        whole = stopped and self._seal()
        if stopped:
            self._archive.close()
            self._replicas.close()
            super().close()
            if whole and self.region.path is not None:
                self.region.path.unlink(missing_ok=True)
        self._core = None
        for directory in self._replicas.directories:
            if whole:
                directory.forget_region()
            directory.close()

    def _seal(self) -> bool:
        """Whether one directory has all that was ordered."""
        ordered = self.frontiers().ordered
        whole = False
        for index, replica in enumerate(self.replicas()):
            whole |= self._replicas.seal(index) and replica.replicated >= ordered
            self._replicas.detach(index)
        return whole

    def _let_go(self) -> None:
        """The end of a start that failed: nothing is written, the region stays for the next one."""
        if self._core is not None and self._replicas.stop(CLOSE_S_MAX, catch_up=False):
            for index in range(self.directories):
                self._replicas.detach(index)
            self._archive.close()
            self._replicas.close()
            super().close()
