"""The disk replicas of a log: for each data directory a thread that spends its life inside one long call of the core.

Invariants
 - A journal has one owner: who opened it, until `attach`; then the replica, until it is detached.
 - The threads hold pointers into the region's mapping, so the log is closed after they have ended, or never.
 - Whether a replica is live is known to the core alone; here it is only put into words.
"""

import errno
import os
import threading
import time
from collections.abc import Sequence
from typing import Any, Final

from totalog.engine._core_long import ffi, lib
from totalog.engine.directory import Directory
from totalog.engine.errors import DirectoryError
from totalog.engine.journal import Journal
from totalog.engine.log import Replica

FOR_EVER: Final = -1
"""Nanoseconds that a replica's call may last."""

ROTATION_S: Final = 0.01
"""Seconds between two looks at whether a file is sealed: the eventfd has its reader already."""


class Replicas:
    """All replicas of one log. `core` is the log's handle, as the long core knows it."""

    def __init__(self, core: Any, directories: Sequence[Directory]) -> None:
        self.directories = tuple(directories)
        self.descriptor = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        """Readable when a frontier or a replica's health has changed."""
        self.core = lib.replicas_new(core, len(self.directories), self.descriptor)
        if self.core == ffi.NULL:
            os.close(self.descriptor)
            raise MemoryError("no memory for the replicas of the log")
        self._threads: list[threading.Thread | None] = [None] * len(self.directories)

    def attach(self, index: int, journal: Journal) -> bool:
        """The replica goes on from the journal's end, in a new file. False: the region no longer holds what comes next
        (then the journal stays with the caller). A disk that refuses the new file shows in the replica's status."""
        answer = lib.replica_attach(self.core, index, journal.core)
        if answer == errno.ESTALE:
            return False
        journal.core = None
        return True

    def start(self, index: int) -> None:
        """Not waited for at exit: a call that hangs in the kernel must not keep the process."""
        name = f"replica {self.directories[index].path}"
        thread = threading.Thread(target=self._follow, args=(index,), name=name, daemon=True)
        self._threads[index] = thread
        thread.start()

    def _follow(self, index: int) -> None:
        lib.replica_run(self.core, index, FOR_EVER)

    def step(self, index: int) -> int:
        """One pass, here and now, for who has not started the thread. How it ended: a REPLICA_*."""
        assert self._threads[index] is None
        return int(lib.replica_run(self.core, index, 0))

    def stop(self, seconds_max: float, *, catch_up: bool) -> bool:
        """Ends all threads. False: one does not end in time, or never will."""
        deadline = time.monotonic() + seconds_max
        for index in range(len(self.directories)):
            lib.replica_stop(self.core, index, catch_up)
        for index, thread in enumerate(self._threads):
            if thread is not None:
                thread.join(max(deadline - time.monotonic(), 0))
                if thread.is_alive():
                    return False
            self._threads[index] = None
        return True

    def seal(self, index: int) -> bool:
        """For a replica that was stopped: its journal gets its last footer. False: it could not."""
        return int(lib.replica_seal(self.core, index)) == 0

    def detach(self, index: int) -> None:
        """The replica is no longer counted, its journal is closed. Ends its thread first, if need be."""
        thread, self._threads[index] = self._threads[index], None
        if thread is not None:
            lib.replica_stop(self.core, index, False)
            thread.join()
        lib.replica_detach(self.core, index)

    def hold(self, index: int, source: int) -> None:
        """Until `index` is attached, the region releases nothing more, and the files of `source` that are sealed hold
        all that it released before. Errors: DirectoryError."""
        held = lib.replica_hold(self.core, index)
        while self.status(source).sealed < held:
            if self.status(source).state != lib.REPLICA_LIVE:
                raise DirectoryError(f"{self.directories[source].path} failed while its files were wanted")
            lib.replica_rotate(self.core, source)
            time.sleep(ROTATION_S)

    def status(self, index: int) -> Any:
        """A `struct replica_status`."""
        status = ffi.new("struct replica_status *")
        lib.replica_look(self.core, index, status)
        return status

    def look(self) -> tuple[Replica, ...]:
        return tuple(self._replica(index, directory) for index, directory in enumerate(self.directories))

    def best_first(self) -> list[int]:
        """All of them: those that are live before those that may lack something."""
        return sorted(range(len(self.directories)), key=lambda index: self.status(index).state != lib.REPLICA_LIVE)

    def _replica(self, index: int, directory: Directory) -> Replica:
        status = self.status(index)
        return Replica(directory.path, status.replicated, _failure(status))

    def close(self) -> None:
        """For who has stopped them."""
        assert not any(self._threads)
        lib.replicas_delete(self.core)
        os.close(self.descriptor)


def _failure(status: Any) -> str | None:
    match status.state:
        case lib.REPLICA_LIVE:
            return None
        case lib.REPLICA_FULL:
            return "the disk is full: it goes on by itself when there is space"
        case lib.REPLICA_FENCED:
            return f"a write failed ({os.strerror(status.saved_errno)}): nothing is written there until it is revived"
        case lib.REPLICA_STOPPED:
            return "it was stopped"
        case _:
            return "it takes no part"
