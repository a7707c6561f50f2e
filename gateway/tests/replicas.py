"""A log with data directories that are not there: how far each of them is, and how well, tests say by hand.

It keeps the promises of a durable log that the gateway relies on: the numbers stand in the region, where visible ends
are made of them; `replicated(level)` is the durable position of the `level`th of the directories, or of the last that
is alive, and never goes back; the descriptor, an eventfd, becomes readable with every move and change of health; what
was evicted is STATUS_ON_DISK in memory and is read by any thread.
"""

import os
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from totalog.engine import BatchAt, Log, Read, ReadBatches, Replica, Topic
from totalog.engine._core import ffi, lib
from totalog.engine.region import Region
from totalog.gateway.broker import Broker
from totalog.gateway.tests.harness import REGION_SIZE, make_broker

STATUS_ON_DISK: int = lib.STATUS_ON_DISK


class ReplicaLog(Log):
    durable = True

    def __init__(self, region: Region, directories: int = 1) -> None:
        super().__init__(region)
        self.directories = directories
        self._durable = [0] * directories
        self._failures: list[str | None] = [None] * directories
        self._levels = [0] * directories
        self._descriptor = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self._memory_starts: dict[tuple[int, int], int] = {}
        self.disk_reads: list[int] = []
        """Offsets that were read in the archive."""
        self.disk_fault: Exception | None = None
        self._publish()

    @classmethod
    def make(cls, directories: int = 1, size: int = REGION_SIZE) -> "ReplicaLog":
        return cls(Region.create(None, size, True), directories)

    def close(self) -> None:
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1
        super().close()

    # What tests say

    def store(self, directory: int = 0, position: int | None = None) -> None:
        """All that is ordered, or what lies below a global position, is durable in a directory."""
        assert self._failures[directory] is None
        self._durable[directory] = self.frontiers().ordered if position is None else position
        self._publish()

    def fail(self, directory: int = 0, failure: str | None = "Input/output error") -> None:
        """A directory is fenced; None: it is alive again."""
        self._failures[directory] = failure
        self._publish()

    def evict(self, topic: Topic, partition: int, offset: int) -> None:
        """What lies below `offset` has left memory."""
        self._memory_starts[topic.slot, partition] = offset

    def _publish(self) -> None:
        live = max(sum(failure is None for failure in self._failures), 1)
        furthest = sorted(self._durable, reverse=True)
        self._levels = [
            max(before, furthest[min(level, live) - 1]) for level, before in enumerate(self._levels, start=1)
        ]
        numbers = ffi.new("uint64_t[]", [*self._levels, *[0] * (lib.DIRECTORIES_MAX - self.directories)])
        lib.core_replicate(self._core, self.directories, self._levels[-1], 0, numbers)
        os.eventfd_write(self._descriptor, 1)

    # What the gateway asks

    @property
    def replica_descriptor(self) -> int | None:
        return self._descriptor

    def replicas(self) -> tuple[Replica, ...]:
        return tuple(
            Replica(Path(f"/data/{index}"), durable, failure)
            for index, (durable, failure) in enumerate(zip(self._durable, self._failures, strict=True))
        )

    def replicated(self, replication: int = 1) -> int:
        return self._levels[replication - 1]

    def archived(self, topic: Topic, partition: int) -> bool:
        return self._memory_starts.get((topic.slot, partition), 0) > self.bounds(topic, partition).log_start_offset

    def read(self, topic: Topic, partition: int, offset: int, *arguments: Any, **options: Any) -> Read:
        if offset < self._memory_starts.get((topic.slot, partition), 0):
            return Read(STATUS_ON_DISK, 0, 0, 0, -1, -1)
        return super().read(topic, partition, offset, *arguments, **options)

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
        if self.disk_fault is not None:
            raise self.disk_fault
        self.disk_reads.append(offset)
        read = super().read(topic, partition, offset, target, size_max, batches=batches, whole_first=whole_first)
        return replace(read, log_start_offset=-1, next_offset=-1)

    def find_timestamp(self, topic: Topic, partition: int, timestamp_ms: int) -> BatchAt | None:
        found = super().find_timestamp(topic, partition, timestamp_ms)
        if found is not None and found.base_offset < self._memory_starts.get((topic.slot, partition), 0):
            raise AssertionError("the memory was asked for what it does not hold any more")
        return found

    def archive_find_timestamp(self, topic: Topic, partition: int, timestamp_ms: int) -> BatchAt | None:
        found = super().find_timestamp(topic, partition, timestamp_ms)
        return found if self._in_archive(topic, partition, found) else None

    def archive_find_max_timestamp(self, topic: Topic, partition: int) -> BatchAt | None:
        found = super().find_max_timestamp(topic, partition)
        return found if self._in_archive(topic, partition, found) else None

    def _in_archive(self, topic: Topic, partition: int, found: BatchAt | None) -> bool:
        return found is not None and found.base_offset < self._memory_starts.get((topic.slot, partition), 0)


def durable_broker(directories: int = 1, settings: Mapping[str, str] | None = None) -> tuple[Broker, ReplicaLog]:
    """A broker on such a log; what it made for itself is stored already."""
    log = ReplicaLog.make(directories)
    broker = make_broker(log, settings)
    for directory in range(directories):
        log.store(directory)
    broker.replication.moved()
    return broker, log
