"""Flips bits in the index pages of a region, one at a time, and uses what is left: each use is a process of its own.

python -m totalog.engine.tests.flips PATH SEED COUNT     prints each flip after which a process died or hung
"""

import os
import random
import signal
import sys
from pathlib import Path

from totalog.engine import VIEW, EngineError, Log, RegionDamaged, Topic
from totalog.engine._core import ffi, lib
from totalog.engine.tests import driver
from totalog.engine.tests.driver import Batch

SECONDS_MAX = 20
ORDER_LEVELS = (0, 5)
REFUSED, USED = 0, 1


def make(path: Path) -> list[int]:
    """A region whose indexes have inner pages, holes and released heads. Returns the positions of its index pages."""
    with Log.create(path, size=driver.SIZE_SMALL) as log:
        for level in ORDER_LEVELS:
            topic = log.create_topic(f"of level {level}", id=driver.topic_id(level), partitions=2, order_level=level)
            for _ in range(5):
                payloads = [driver.payload(number) for number in range(120)]
                batches = [Batch(topic, at % 2, payload, max_timestamp=at) for at, payload in enumerate(payloads)]
                driver.append(log, batches)
            log.trim(topic, 1, 150)
            log.trim(topic, VIEW, 100)
        return [page * lib.INDEX_PAGE_SIZE for topic in log.topics() for page in pages_of(log, topic)]


def pages_of(log: Log, topic: Topic) -> list[int]:
    roots = [driver.topic_line(log, topic).index_root, *(row.index_root for row in driver.partition_lines(log, topic))]
    return sorted(page for root in roots for page in driver.index_pages(log, root))


def use(path: Path) -> int:
    """Whether the region is refused; else everything that walks its indexes is done once."""
    try:
        log = Log.attach(path)
    except RegionDamaged:
        return REFUSED
    with log:
        for topic in log.topics():
            exercise(log, driver.Reader(log), topic)
    return USED


def exercise(log: Log, reader: driver.Reader, topic: Topic) -> None:
    try:
        driver.append(log, [Batch(topic, partition, b"more") for partition in (0, 1)])
        for partition in (0, 1, VIEW):
            bounds = log.bounds(topic, partition)
            for offset in range(bounds.log_start_offset, bounds.next_offset, 37):
                reader.read(topic, partition, offset)
            log.find_timestamp(topic, partition, 60)
            log.find_max_timestamp(topic, partition)
        altered = log.alter_topic(topic, retention_bytes=5000, retention_ms=50)
        log.maintain(120)
        for partition in (0, 1, VIEW):
            log.trim(altered, partition, log.bounds(topic, partition).next_offset)
        log.delete_topic(altered)
        driver.settle(log)
    except EngineError:
        pass


def in_a_process(path: Path) -> int:
    """The exit status of a child that uses the region, as `os.waitstatus_to_exitcode` gives it."""
    child = os.fork()
    if child == 0:
        signal.alarm(SECONDS_MAX)
        os._exit(use(path))
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def main(path: Path, seed: int, count: int) -> int:
    chance = random.Random(seed)
    pages = make(path)
    whole = extents(path)
    outcomes: dict[int, int] = {}
    for _ in range(count):
        position, bit = chance.choice(pages) + chance.randrange(lib.INDEX_PAGE_SIZE), chance.randrange(8)
        with path.open("r+b") as file:
            file.seek(position)
            byte = file.read(1)[0]
            file.seek(position)
            file.write(bytes([byte ^ 1 << bit]))
        outcome = in_a_process(path)
        outcomes[outcome] = outcomes.get(outcome, 0) + 1
        if outcome not in (REFUSED, USED):
            within = position % ffi.sizeof("struct order_entry")
            print(f"seed {seed}: bit {bit} of the byte at {position} ({within} of an entry): {outcome}")
        with path.open("r+b") as file:
            for at, content in whole:
                file.seek(at)
                file.write(content)
    print(f"seed {seed}: {outcomes.get(REFUSED, 0)} refused, {outcomes.get(USED, 0)} used, of {count}")
    return 0 if set(outcomes) <= {REFUSED, USED} else 1


def extents(path: Path) -> list[tuple[int, bytes]]:
    """What the file holds, without its holes."""
    found, at = [], 0
    with path.open("rb") as file:
        end = file.seek(0, os.SEEK_END)
        while at < end:
            try:
                at = os.lseek(file.fileno(), at, os.SEEK_DATA)
            except OSError:
                break
            hole = os.lseek(file.fileno(), at, os.SEEK_HOLE)
            found.append((at, os.pread(file.fileno(), hole - at, at)))
            at = hole
    return found


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])))
