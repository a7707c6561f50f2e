"""One process of a shared log, for tests: `python process_worker.py ROLE PATH JSON`. It tells what it saw as output.

append    appends batches whose bytes say who wrote them and as the how-manieth, one group at a time; writes an `ACK`
          for each that was acknowledged, after the log said so
sequence  is the sequencer: takes over as soon as nobody is, orders, buries the dead, until it is killed
read      reads one partition, or the view, again and again, and checks that what it saw before has not changed
"""

import hashlib
import json
import os
import signal
import struct
import sys
import time
from collections.abc import Callable, Sequence
from typing import Any

from totalog.engine import RegionInUse, Topic
from totalog.engine._core import ffi, lib
from totalog.engine.shared import SharedLog

ACK = struct.Struct("<IIIIqqqi4xqq")
"""Writer, number, topic slot, partition, global position, total order, base offset, status, when sent and answered."""
GROUP = 8
"""Batches that a writer appends in one call."""
SPAN = 2
"""Offsets of each batch."""
BATCH = struct.Struct("<QII")
"""What a batch holds: a mark, writer, number; then filler."""
MARK = 0x6863746162
READY = b"ready\n"


class Appender:
    def __init__(self, log: SharedLog, writer: int, topics: Sequence[Topic], size: int, producer_id: int) -> None:
        self.log = log
        self.writer = writer
        self.topics = topics
        self.size = size
        self.producer_id = producer_id
        self.number = 0
        self.group = log.group(GROUP)
        self._payload = [bytearray(size) for _ in range(GROUP)]
        self._sources = [ffi.from_buffer(payload) for payload in self._payload]

    def place(self, number: int) -> tuple[Topic, int]:
        topic = self.topics[number % len(self.topics)]
        return topic, (number // len(self.topics) + self.writer) % topic.partitions

    def append(self, count: int) -> bytes:
        """One group; the acknowledgements."""
        for index in range(count):
            self._fill(index, self.number + index)
        sent = time.monotonic_ns()
        self.log.append(self.group, count)
        answered = time.monotonic_ns()
        acks = b"".join(self._ack(index, self.number + index, sent, answered) for index in range(count))
        self.number += count
        return acks

    def _fill(self, index: int, number: int) -> None:
        topic, partition = self.place(number)
        BATCH.pack_into(self._payload[index], 0, MARK, self.writer, number)
        append = self.group[index]
        append.source = int(ffi.cast("uintptr_t", self._sources[index]))
        append.size, append.segment, append.status = self.size, 0, lib.STATUS_OK
        append.topic_slot, append.topic_generation, append.partition = topic.slot, topic.generation, partition
        append.record_count, append.last_offset_delta, append.max_timestamp, append.flags = SPAN, SPAN - 1, number, 0
        append.producer_id, append.producer_epoch, append.base_sequence = self.producer_id, 0, -1
        if self.producer_id >= 0:
            append.base_sequence = number // (len(self.topics) * topic.partitions) * SPAN

    def _ack(self, index: int, number: int, sent: int, answered: int) -> bytes:
        topic, partition = self.place(number)
        answer = self.group[index]
        return ACK.pack(
            self.writer,
            number,
            topic.slot,
            partition,
            answer.global_position,
            answer.total_order,
            answer.base_offset,
            answer.status,
            sent,
            answered,
        )


def tell(what: bytes) -> None:
    os.write(1, what)


def arm(log: SharedLog, fail_at: int, stops: bool) -> None:
    (lib.core_stop if stops else lib.core_fail)(log._core, fail_at)


def pause() -> None:
    os.kill(os.getpid(), signal.SIGSTOP)


def append(path: str, writer: int, topics: list[str], fail_at: int, healthy: int, limit: int, **options: Any) -> None:
    """`healthy` groups, then the fail point is armed; `limit` groups in all. `stops`: the process stops when it is
    armed, and at the point, once."""
    log = SharedLog.join(path)
    found = [log.find_topic(name) for name in topics]
    appender = Appender(log, writer, [topic for topic in found if topic], options["size"], options["producer_id"])
    ended = []
    signal.signal(signal.SIGTERM, lambda *_: ended.append(True))
    tell(READY)
    for group in range(limit):
        if ended:
            break
        if group == healthy:
            if options["stops"]:
                pause()
            arm(log, fail_at, options["stops"])
        tell(appender.append(GROUP))
        with log.reserve(options["reserved"]) if options["reserved"] else open(os.devnull):
            pass  # claimed and given back
        if options["reads"]:
            read_once(log, appender.topics[0], 0)
    log.close()


def read_once(log: SharedLog, topic: Topic, partition: int) -> bytes:
    room = bytearray(1 << 20)
    address = int(ffi.cast("uintptr_t", ffi.from_buffer(room)))
    batches = log.read_batches(4096)
    offset = max(log.bounds(topic, partition).log_start_offset, 0)
    result = log.read(topic, partition, offset, address, len(room), batches=batches)
    return bytes(room[: result.size])


def sequence(path: str, fail_at: int, healthy: int, stops: bool, seconds_max: float) -> None:
    """`healthy` headers, then the fail point is armed, and told. Sleeps so long at most while there is nothing."""
    log = SharedLog.join(path)
    tell(READY)
    while True:
        try:
            log.take_over()
            break
        except RegionInUse:
            time.sleep(0.002)
    tell(b"took over\n")
    handled, armed = 0, False
    while True:
        if handled >= healthy and not armed:
            arm(log, fail_at, stops)
            armed = True
            tell(b"armed\n")
        handled += log.sequence(seconds_max)
        log.bury()


def read(path: str, topic: str, partition: int, until: int) -> None:
    """Reads until `until` batches are there; tells the digest of them all."""
    log = SharedLog.join(path)
    found = log.find_topic(topic)
    assert found is not None
    tell(READY)
    room = bytearray(1 << 20)
    address = int(ffi.cast("uintptr_t", ffi.from_buffer(room)))
    batches = log.read_batches(1024)
    digest, count, offset = hashlib.blake2b(digest_size=16), 0, 0
    while count < until:
        result = log.read(found, partition, offset, address, len(room), batches=batches)
        assert result.status == lib.STATUS_OK, result
        at = 0
        for index in range(min(result.count, until - count)):
            batch = batches[index]
            assert batch.base_offset == offset, "offsets are dense"
            assert BATCH.unpack_from(room, at)[0] == MARK
            digest.update(bytes(room[at : at + BATCH.size]))
            at, offset, count = at + batch.size, offset + SPAN, count + 1
    tell(f"{partition} {digest.hexdigest()}\n".encode())
    log.close()


if __name__ == "__main__":
    role, region, options = sys.argv[1:]
    roles: dict[str, Callable[..., None]] = {"append": append, "sequence": sequence, "read": read}
    roles[role](region, **json.loads(options))
