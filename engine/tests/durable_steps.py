"""Steps of tests of durable logs: opening with small files, waiting for disks, comparing all that a log holds."""

import os
import select
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from totalog.engine import VIEW, Log, Topic
from totalog.engine._core import ffi, lib
from totalog.engine.durable import DurableLog, open_log
from totalog.engine.tests import driver

SIZE = driver.SIZE_SMALL
JOURNAL_SIZE = 64 << 10
TOPIC = "t"
PARTITIONS = 3
TIME_MAX_S = 100.0
BATCHES_AT_ONCE = 512


def opened(
    region: Path, *directories: Path, tell: Callable[[str], None] = lambda line: None, size: int = SIZE
) -> DurableLog:
    return open_log(directories, size=size, region=region, journal_size=JOURNAL_SIZE, tell=tell)


def wait_for(log: DurableLog, true: Callable[[], bool]) -> None:
    """Until it is so; asks again whenever a replica has news."""
    deadline = time.monotonic() + TIME_MAX_S
    while not true():
        assert time.monotonic() < deadline, log.replicas()
        if select.select([log.replica_descriptor], [], [], 0.1)[0]:
            os.eventfd_read(log.replica_descriptor)


def wait_until_durable(log: DurableLog, position: int, replication: int = 1) -> None:
    wait_for(log, lambda: log.acknowledged(position, 2, replication))


def wait_until_all_durable(log: DurableLog) -> None:
    """In every directory."""
    ordered = log.frontiers().ordered
    wait_for(log, lambda: all(replica.replicated >= ordered for replica in log.replicas()))


class Kept(NamedTuple):
    """All that a reader could tell of one topic."""

    topic: Topic
    bounds: list[tuple[int, int]]
    """Of each partition, then of the view: log start and end."""
    partitions: list[list[tuple[int, bytes]]]
    view: list[tuple[int, bytes]]


def everything(log: Log) -> dict[str, Kept]:
    return {topic.name: kept(log, topic) for topic in log.topics()}


def kept(log: Log, topic: Topic) -> Kept:
    numbers = [*range(topic.partitions), VIEW]
    bounds = [log.bounds(topic, number) for number in numbers]
    *partitions, view = [read_all(log, topic, number) for number in numbers]
    return Kept(topic, [(each.log_start_offset, each.next_offset) for each in bounds], partitions, view)


def read_all(log: Log, topic: Topic, partition: int) -> list[tuple[int, bytes]]:
    """(base offset, payload) of every batch that is visible, from memory or from the archive."""
    room = ffi.new("uint8_t[]", driver.READ_ROOM)
    target = int(ffi.cast("uintptr_t", room))
    batches = log.read_batches(BATCHES_AT_ONCE)
    offset, end = log.bounds(topic, partition)[:2]
    found: list[tuple[int, bytes]] = []
    while offset < end:
        result = log.read(topic, partition, offset, target, driver.READ_ROOM, batches=batches)
        if result.status == lib.STATUS_ON_DISK:
            assert isinstance(log, DurableLog)
            result = log.archive_read(topic, partition, offset, target, driver.READ_ROOM, batches=batches)
        assert result.status == lib.STATUS_OK
        assert result.count > 0, f"nothing at offset {offset} of {topic.name} {partition}, which ends at {end}"
        at = 0
        for index in range(result.count):
            batch = batches[index]
            found.append((batch.base_offset, bytes(ffi.buffer(room + at, batch.size))))
            at += batch.size
        offset = found[-1][0] + 1
    return found
