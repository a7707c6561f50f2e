"""What left memory, read from the sealed journal files of the data directories.

Invariants
 - Any thread may read, several at once: a handle of the core is lent to one of them at a time, and there are as many as
   were ever wanted together.
 - Every directory has everything, so a file that cannot be read in one is looked for in the next.
 - Handles look into the region's mapping: `close` waits until none is lent.
"""

import os
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Final, TypeVar

from totalog.engine._core_long import ffi, lib
from totalog.engine.directory import Directory
from totalog.engine.errors import JournalFailed
from totalog.engine.replicas import Replicas
from totalog.engine.topic import Topic

Answer = TypeVar("Answer")

TRIM_ROWS_MAX: Final[int] = lib.SETTINGS_SIZE_MAX // ffi.sizeof("struct trim_row")
_VIEW: Final[int] = lib.PARTITION_VIEW


class Archive:
    """The archive of one log. `core` is the log's handle, as the long core knows it; `order` says in which directory,
    by its number, to look first."""

    def __init__(self, core: Any, directories: Sequence[Directory], order: Callable[[], Sequence[int]]) -> None:
        self._core = core
        self._directories = directories
        self._order = order
        self._free: list[list[Any]] = [[] for _ in directories]
        self._lent = 0
        self._changed = threading.Condition()

    def close(self) -> None:
        """For who is sure that no new reads begin."""
        with self._changed:
            self._changed.wait_for(lambda: self._lent == 0)
            for handle in (handle for free in self._free for handle in free):
                lib.archive_close(handle)
            self._free = [[] for _ in self._directories]

    # -- reading

    def read(
        self,
        topic: Topic,
        partition: int,
        offset: int,
        target: int,
        size_max: int,
        batches: int,
        batches_max: int,
        whole_first: bool,
    ) -> Any:
        """A `struct read_result`. Errors: JournalFailed."""
        result = ffi.new("struct read_result *")
        room = (target, size_max, whole_first, batches, batches_max, result)

        def call(handle: Any) -> bool:
            lib.archive_read(handle, *_place(topic, partition), offset, *room)
            return bool(result.status != lib.STATUS_ARCHIVE_FAILED)

        self._ask(call)
        return result

    def find_timestamp(self, topic: Topic, partition: int, timestamp_ms: int) -> tuple[int, Any]:
        """(STATUS_*, a `struct batch_at`). Errors: JournalFailed."""
        found = ffi.new("struct batch_at *")
        place = _place(topic, partition)
        return self._status(lambda handle: lib.archive_find_timestamp(handle, *place, timestamp_ms, found)), found

    def find_max_timestamp(self, topic: Topic, partition: int) -> tuple[int, Any]:
        """(STATUS_*, a `struct batch_at`). Errors: JournalFailed."""
        found = ffi.new("struct batch_at *")
        place = _place(topic, partition)
        return self._status(lambda handle: lib.archive_find_max_timestamp(handle, *place, found)), found

    # -- retention

    def cut(self, topic: Topic, partition: int, now_ms: int) -> int:
        """Where the topic's retention ends in the archive (an offset, or a total order of the view); -1: nothing goes.

        `now_ms` -1: by size alone. Errors: JournalFailed.
        """
        offset = ffi.new("int64_t *")
        place = _place(topic, partition)
        status = self._status(lambda handle: lib.archive_cut(handle, *place, now_ms, offset))
        return int(offset[0]) if status == lib.STATUS_OK else -1

    def trim_rows(self, topic: Topic, partition: int, offset: int) -> list[tuple[int, int, int]]:
        """What a trim to an offset that is only in the archive has to say besides: of each partition that it moves,
        (partition, new log start, bytes of all its batches below that). Errors: JournalFailed."""
        rows = ffi.new("struct trim_row[]", TRIM_ROWS_MAX)
        counts: list[int] = []

        def call(handle: Any) -> bool:
            count = lib.archive_trim_rows(handle, *_place(topic, partition), offset, rows, TRIM_ROWS_MAX)
            counts.append(count)
            return bool(count >= 0)

        self._ask(call)
        return [(row.partition, row.log_start_offset, row.bytes) for row in rows[0 : counts[-1]]]

    def drop(self, replicas: Replicas, index: int) -> None:
        """Removes the files of a directory that nobody needs. Errors: JournalFailed."""
        with self._handle(index) as handle:
            if lib.archive_drop(handle, replicas.core, index) < 0:
                raise self._failed(handle, index)

    # -- handles

    def _status(self, call: Callable[[Any], int]) -> int:
        statuses: list[int] = []

        def answered(handle: Any) -> bool:
            statuses.append(call(handle))
            return bool(statuses[-1] != lib.STATUS_ARCHIVE_FAILED)

        self._ask(answered)
        return statuses[-1]

    def _ask(self, call: Callable[[Any], bool]) -> None:
        """Until a directory knows the answer. Errors: JournalFailed of the last one."""
        for index in self._order():
            with self._handle(index) as handle:
                if call(handle):
                    return
                failure = self._failed(handle, index)
        raise failure

    @contextmanager
    def _handle(self, index: int) -> Iterator[Any]:
        with self._changed:
            free = self._free[index]
            handle = free.pop() if free else self._open(self._directories[index])
            self._lent += 1
        try:
            yield handle
        finally:
            with self._changed:
                self._free[index].append(handle)
                self._lent -= 1
                self._changed.notify_all()

    def _open(self, directory: Directory) -> Any:
        handle = lib.archive_open(self._core, directory.descriptor, directory.log_id)
        if handle == ffi.NULL:
            raise JournalFailed(f"the journal files in {directory.path} cannot be opened: {os.strerror(ffi.errno)}")
        return handle

    def _failed(self, handle: Any, index: int) -> JournalFailed:
        failure = ffi.new("struct archive_failure *")
        lib.archive_why(handle, failure)
        file = self._directories[index].path / f"journal-{failure.file:020}.log"
        if failure.damaged:
            return JournalFailed(f"{file} is damaged at byte {failure.byte}, global position {failure.position}")
        return JournalFailed(f"{file} cannot be read: {os.strerror(failure.saved_errno)}")


def _place(topic: Topic, partition: int) -> tuple[int, int, int]:
    return topic.slot, topic.generation, partition & _VIEW
