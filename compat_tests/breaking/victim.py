"""A broker that does what it is told to its harm: `totalog serve`, and commands on standard input.

publish POINT           dies at this step of publishing, ordering or reading (FAIL_* of the core)
replica POINT           dies at this step of a replica (REPLICA_FAIL_*)
disk CALL ERROR TIMES MS    calls of this kind (DISK_*) fail with this errno, or come so much later

python -m compat_tests.breaking.victim DIRECTORY MEMORY PORT JOURNAL_SIZE
"""

import errno
import sys
import threading
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from totalog.engine import Log, durable
from totalog.engine._core import lib
from totalog.engine._core_long import lib as long_lib
from totalog.engine.durable import DurableLog
from totalog.engine.journal import Journal
from totalog.gateway import start
from totalog.gateway.config import Config
from totalog.gateway.storage import Storage

NANOSECONDS_OF_MS = 1_000_000


class Victim:
    def __init__(self) -> None:
        self.log: DurableLog | None = None
        self.disks: list[Any] = []

    def obey(self) -> None:
        for line in sys.stdin:
            command, *words = line.split()
            getattr(self, command)(*words)
            print("obeyed", flush=True)

    def publish(self, point: str) -> None:
        assert self.log is not None
        lib.core_fail(self.log._core, getattr(lib, f"FAIL_{point}"))

    def replica(self, point: str) -> None:
        assert self.log is not None
        long_lib.replica_fail(self.log._replicas.core, 0, getattr(long_lib, f"REPLICA_FAIL_{point}"), 0)

    def disk(self, call: str, error: str, times: str, ms: str) -> None:
        kind, number = getattr(long_lib, f"DISK_{call}"), getattr(errno, error, 0)
        for disk in self.disks:
            long_lib.disk_fault(disk, kind, 0, int(times), number, 0, int(ms) * NANOSECONDS_OF_MS)


def watched(victim: Victim, storage: Storage) -> Storage:
    """The same storage; the victim gets hold of what is opened."""
    open_journal = Journal.open

    def open_watched(*arguments: Any) -> Journal:
        journal = open_journal(*arguments)
        victim.disks.append(long_lib.journal_disk(journal.core))
        return journal

    Journal.open = staticmethod(open_watched)  # type: ignore[method-assign, assignment]

    class Watched(Storage):
        def open(self, tell: Callable[[str], None]) -> tuple[Log, str]:
            opened, line = super().open(tell)
            assert isinstance(opened, DurableLog)
            victim.log = opened
            return opened, line

    return Watched(storage.data_dirs, storage.region, storage.memory)


def main(directory: str, memory: str, port: str, journal_size: str) -> None:
    durable.JOURNAL_SIZE = int(journal_size)  # type: ignore[misc]
    victim = Victim()
    threading.Thread(target=victim.obey, daemon=True).start()
    storage = watched(victim, Storage((Path(directory),), None, int(memory)))
    start.serve(Config({}), "127.0.0.1", int(port), None, storage, partial(print, flush=True))


if __name__ == "__main__":
    main(*sys.argv[1:])
