"""A log that several processes use at once: each is a broker with a ring of its own, and one of them is the sequencer.

    with SharedLog.join(path) as log:        # a broker: creates topics, appends, reads
        log.append(group, count)             # waits until the sequencer's process has ordered it

    log.take_over()                          # becomes the sequencer as well, when no process is (any more)
    while True:
        log.sequence(0.1)                    # orders what the others publish, sleeps when there is nothing
        log.bury()                           # gives back what brokers that died left behind

An event loop listens instead of sleeping: `ordered_event` is readable when there is something new to read, or the
answers of a group that was published (`publish`, `collect`) are there, and `published_event` when there is something to
order. What waits gives up the GIL, and so goes through the second build of
the core.
"""

import os
from pathlib import Path
from typing import Any

from totalog.engine._core import ffi, lib
from totalog.engine._core_long import ffi as long_ffi
from totalog.engine._core_long import lib as long_lib
from totalog.engine.appends import AppendGroup
from totalog.engine.errors import Replaced
from totalog.engine.log import Log
from totalog.engine.region import Region, explain

NANOSECONDS = 1_000_000_000


class SharedLog(Log):
    """One process's part in a log. Make it with `join`."""

    _in_flight: AppendGroup | None = None
    """What was published and not collected."""
    _published = 0
    """Its batches."""

    @classmethod
    def join(cls, path: str | os.PathLike[str]) -> "SharedLog":
        """Becomes a broker of an existing region.

        Errors: RegionError (RegionInUse: all places are taken), OutOfMemory.
        """
        return cls(Region.join(Path(path)))

    def _open(self) -> Any:
        return self._join()

    @property
    def _long_core(self) -> Any:
        return long_ffi.cast("struct log *", int(ffi.cast("uintptr_t", self._core)))

    @property
    def broker(self) -> int:
        """Which of the region's brokers this process is."""
        return self.region.broker

    def take_over(self) -> None:
        """Becomes the sequencer: raises its epoch, reads the log's state from the region, and goes on.

        Errors: RegionInUse while a living process has that part; RegionDamaged, OutOfMemory.
        """
        self.region.take_sequencer()
        with self.region.dead_brokers() as dead:
            error = lib.log_take_over(self._core, dead)
        if error != lib.OPEN_OK:
            raise explain(error, self.region.path)

    def sequence(self, seconds_max: float) -> int:
        """Orders what brokers have published, and returns how many headers that were; where there is nothing, sleeps
        until one publishes or the time is over. For the process that took over.

        A batch that comes before what its producer sent by another broker is held for up to 200 ms (hold.c), and no
        event tells that this time is over: an event loop calls `sequence(0)` at least every 200 ms, or the batch and
        those behind it in its ring have no answer until another broker publishes. Sleeping in here needs no such care.

        Errors: Replaced.
        """
        handled = int(long_lib.log_sequence(self._long_core, int(seconds_max * NANOSECONDS)))
        if handled == lib.REPLACED:
            raise Replaced("another process has become the sequencer of this log")
        return handled

    def bury(self) -> list[int]:
        """Settles what brokers that died left: their rings are ordered to the end, their pins and unpublished blocks go
        back. Returns which. For the process that took over."""
        with self.region.dead_brokers() as dead:
            if dead:
                long_lib.log_bury(self._long_core, dead)
        return [broker for broker in range(lib.BROKERS_MAX) if dead >> broker & 1]

    def publish(self, group: AppendGroup, count: int) -> None:
        """The first half of `append`: does not wait. Until `collect` has said True the log may only be read.

        But for this: more of the same group may follow. What has STATUS_OK goes out, again where it was answered; what
        is in flight has STATUS_PENDING, and is left alone. So half of a group can be filled while the other is ordered.
        """
        assert 0 <= count <= min(group.capacity, lib.GROUP_MAX)
        self._assert_in_flight(group, count)
        self._in_flight, self._published = group, count
        lib.log_publish(self._core, group._appends, count)

    def collect(self, group: AppendGroup) -> bool:
        """Whether all of the published group is answered: `ordered_event` says when to look again. What is answered has
        its status, also where it is not all."""
        if lib.log_collect(self._core, group._appends, self._published):
            return False
        if self._reserved:
            self.note_published(group, self._published)
        self._in_flight, self._published = None, 0
        return True

    @property
    def ordered_event(self) -> int:
        """An eventfd that becomes readable when anything is ordered. Drain it (`os.eventfd_read`), then look: what
        comes after is told again. The first use starts the thread that tells, which lasts as long as the log.

        Errors: OSError where there is no descriptor or no thread for it.
        """
        return self._listen(lib.LISTEN_ORDERED)

    @property
    def published_event(self) -> int:
        """Likewise, readable when any broker publishes: for the process that took over."""
        return self._listen(lib.LISTEN_PUBLISHED)

    def _listen(self, what: int) -> int:
        descriptor = int(lib.log_listen(self._core, what))
        if descriptor < 0:
            raise OSError(ffi.errno, "the log cannot be listened to")
        return descriptor

    def _assert_in_flight(self, group: AppendGroup, count: int) -> None:
        """That nothing is, or this."""
        assert self._in_flight in (None, group), "one group at a time: collect the other first"
        assert self._published in (0, count), "the group is in flight with another count"

    def append(self, group: AppendGroup, count: int) -> None:
        assert 0 <= count <= group.capacity
        self._assert_in_flight(group, count)
        self._in_flight, self._published = None, 0
        long_lib.log_append(self._long_core, long_ffi.cast("struct append *", group.address), count)
        if self._reserved:
            self.note_published(group, count)

    @property
    def append_call(self) -> tuple[int, int]:
        raise NotImplementedError("another process is waited for: without the GIL, which `append` gives up")

    def _topic_operation(self, request: Any, settings: bytes) -> int:
        assert self._published == 0, "collect first"
        asked = long_ffi.cast("struct topic_request *", int(ffi.cast("uintptr_t", request)))
        return int(long_lib.log_topic_operation(self._long_core, asked, settings))

    def _reserve_done(self, segment: int, published: bool) -> None:
        assert not published or self._published == 0, "collect first"
        long_lib.log_reserve_done(self._long_core, segment, published)
