"""Fetch: an answer is put together, at once (`AtOnce`) or in steps (`Assembly`), from what the log says of each
partition (`look`).

Both write into one buffer from front to back, so a partition is read when those before it are written. `fetch` says
when an answer is due and how much it may hold; `fetch_repeats` answers the short way, with the same `Reader`.
"""

import logging
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Final

from totalog.engine import EngineError, ReadBatches
from totalog.gateway import waiting
from totalog.gateway.apis.api import Request
from totalog.gateway.wire import fetch as wire
from totalog.gateway.wire._batch import lib
from totalog.gateway.wire.answer import BUFFER_SIZE_MIN, Answer, Buffer, BufferPool
from totalog.gateway.wire.batch import error_code, lent, lent_places, stamp
from totalog.gateway.wire.cursor import Turn
from totalog.gateway.wire.errors import ErrorCode, of_leader_epoch

if TYPE_CHECKING:
    from totalog.engine import Log, Read, Topic
    from totalog.gateway.broker import Broker
    from totalog.gateway.topics import TopicHandle

ANSWER_SIZE_MAX: Final = 4 * 1024 * 1024
"""Bytes of records in one answer, besides a first batch that is larger. It bounds the memory that slow readers hold and
the time that the event loop spends on one of them; a consumer asks again in less time than these bytes take. It is also
what Linux takes for one socket at once (tcp_wmem): of a larger answer the rest would have to be copied to wait."""

LENT_SIZE_MIN: Final = 16 * 1024
"""Bytes of a batch from which on it is sent from where it lies. Below, its copy costs less than one more part of an
answer."""

LENT_COUNT_MAX: Final = ANSWER_SIZE_MAX // LENT_SIZE_MIN + 1

BATCHES_MAX: Final = 16_384
"""Batches of one partition in one answer."""

DISK_BATCHES_MAX: Final = 4096
"""The same of a partition that is read from disk: each such read has its own room for them."""

READ_UNCOMMITTED: Final = 0

STATUS_OK: Final[int] = lib.STATUS_OK
STATUS_ON_DISK: Final[int] = lib.STATUS_ON_DISK
STATUS_UNKNOWN_TOPIC: Final[int] = lib.STATUS_UNKNOWN_TOPIC


log = logging.getLogger("totalog")


@dataclass(slots=True, eq=False)
class Part:
    """One partition of a request, looked at: an error, or what there is to read."""

    partition: int
    error_code: int = 0
    aborted_null: bool = False
    high_watermark: int = -1
    log_start_offset: int = -1
    topic: "Topic | None" = None
    read_partition: int = 0
    """The number under which the log reads it."""
    fetch_offset: int = 0
    size: int = 0
    """Bytes from the fetch offset to the end, at most what the partition may send."""

    def tell(self, writer: wire.AnswerWriter) -> None:
        """Writes the partition without records."""
        writer.partition(
            self.partition,
            self.error_code,
            self.high_watermark,
            self.log_start_offset,
            aborted_null=self.aborted_null,
        )

    @property
    def name(self) -> str:
        assert self.topic is not None
        return f"{self.topic.name}-{self.partition}"


def look(log: "Log", handle: "TopicHandle | None", key: wire.TopicKey, null: bool, asked: wire.PartitionFetch) -> Part:
    """A partition of a request, nothing of it copied yet."""
    partition, _, offset, most = asked
    if handle is None:
        return Part(partition, int(_unknown_topic(key)))
    if not 0 <= partition < handle.partitions:
        return Part(partition, int(ErrorCode.UNKNOWN_TOPIC_OR_PARTITION))
    read_partition = handle.read_partition(partition)
    bounds = log.bounds(handle.topic, read_partition)
    error = _refusal(asked, bounds.leader_epoch, bounds.log_start_offset, bounds.next_offset)
    if error is not ErrorCode.NONE:
        return Part(partition, int(error), aborted_null=True)
    size = 0
    if offset < bounds.next_offset:
        size = min(log.available(handle.topic, read_partition, offset), max(most, 1))
    return Part(
        partition,
        0,
        null,
        bounds.next_offset,
        bounds.log_start_offset,
        handle.topic,
        read_partition,
        offset,
        size,
    )


def _refusal(asked: wire.PartitionFetch, leader_epoch: int, log_start_offset: int, next_offset: int) -> ErrorCode:
    """Why a partition with these bounds does not answer; NONE: it does."""
    _, epoch_asked, offset, _ = asked
    refusal = of_leader_epoch(epoch_asked, leader_epoch)
    if refusal is ErrorCode.NONE and not log_start_offset <= offset <= next_offset:
        return ErrorCode.OFFSET_OUT_OF_RANGE
    return refusal


def _unknown_topic(key: wire.TopicKey) -> ErrorCode:
    return ErrorCode.UNKNOWN_TOPIC_OR_PARTITION if isinstance(key, str) else ErrorCode.UNKNOWN_TOPIC_ID


def cramped(read: "Read", size_max: int, room: int) -> bool:
    """Whether there may be more in a read of so many bytes if it had more room than it had."""
    return read.size_needed > 0 or (read.size < min(read.available, size_max) and room - read.copied < LENT_SIZE_MIN)


class Reader:
    """The fetch path of one broker: what is made once and serves every answer."""

    def __init__(self, log: "Log") -> None:
        self._log = log
        self.batches = log.read_batches(BATCHES_MAX)
        self.pool = BufferPool()
        self.places = lent_places(LENT_COUNT_MAX)
        self.copied = 0
        """Bytes of records that answers copied lately: room for as many is taken at once."""
        self.polled = 0
        """Partitions of all long polls that wait."""

    def take(self, overhead: int, size_max: int) -> Buffer:
        """A buffer for an answer with `overhead` bytes around up to `size_max` bytes of records: large enough for what
        had to be copied lately."""
        return self.pool.take(overhead + min(self.copied, size_max))

    def read(
        self, topic: "Topic", partition: int, offset: int, target: int, size_max: int, room: int, whole_first: bool
    ) -> "Read":
        return self._log.read(
            topic,
            partition,
            offset,
            target,
            size_max,
            batches=self.batches,
            whole_first=whole_first,
            room=room,
            lent_size_min=LENT_SIZE_MIN,
        )

    def stamp(self, address: int, read: "Read") -> list[tuple[int, memoryview]]:
        """Stamps the batches of the last read, which begin at `address`. Of each that is lent: how many of the others
        stand before it, and its bytes."""
        count = stamp(address, self.batches.address, read.count, self.places, LENT_COUNT_MAX)
        return lent(self.places, count) if count else []

    def put(self, writer: wire.AnswerWriter, partition: int, at: int, read: "Read", aborted_null: bool) -> None:
        """Writes a partition around the records of the last read, which begin at `at`: they are stamped here."""
        writer.partition(
            partition,
            0,
            read.next_offset,
            read.log_start_offset,
            aborted_null=aborted_null,
            records_at=at,
            records_size=read.size,
            lent=self.stamp(writer.buffer.address + at, read),
        )

    def finish(self, parts: list[memoryview], buffer: Buffer, lent_size: int, copied: int, pins: int) -> Answer:
        """The answer, of whose records `copied` bytes were copied, and others lent."""
        self.copied = max(copied, self.copied // 2)
        give_back = partial(self._log.give_back, pins) if pins else None
        return Answer(parts, buffer, lent_size, give_back)

    def refuse(self, request: Request, error_code: ErrorCode) -> Answer:
        """An error for the request as a whole."""
        writer = wire.AnswerWriter(request.version, self.pool.take(wire.HEAD_SIZE_MAX))
        writer.head(request.correlation_id, int(error_code), 0)
        return Answer(writer.finish(), writer.buffer)


class AtOnce:
    """An answer that is put together in one go, each partition by one read."""

    def __init__(self, broker: "Broker", request: Request, message: wire.FetchRequest, size_max: int) -> None:
        self._broker = broker
        self._reader = reader = broker.reader
        self._log = broker.log
        self._message = message
        self._null = message.isolation_level == READ_UNCOMMITTED
        self._left = size_max
        self._overhead = message.overhead
        self._copied = 0
        self._pins = 0
        self._found = False
        """Something is to be told: a record, or an error."""
        self._read_any = False
        self._writer = wire.AnswerWriter(request.version, reader.take(self._overhead, size_max))
        self._writer.head(request.correlation_id, 0, len(message.topics))

    def answer(self) -> Answer | None:
        """None: there is nothing to send, or some of it is on disk."""
        writer, done = self._writer, False
        try:
            for key, partitions in self._message.topics:
                handle = self._broker.topics.find_key(key)
                writer.topic(key, len(partitions))
                for asked in partitions:
                    if handle is None or self._left <= 0 or not 0 <= asked[0] < handle.partitions:
                        self._tell(look(self._log, handle, key, self._null, asked))
                    elif not self._add(handle, key, asked):
                        return None
                writer.end_topic()
            done = self._found
        finally:
            if not done:
                self._log.give_back(self._pins)
                writer.buffer.release()
        if not done:
            return None
        return self._reader.finish(writer.finish(), writer.buffer, writer.lent_size, self._copied, self._pins)

    def _tell(self, part: Part) -> None:
        self._found |= part.error_code != 0
        part.tell(self._writer)

    def _add(self, handle: "TopicHandle", key: wire.TopicKey, asked: wire.PartitionFetch) -> bool:
        """False: it is on disk."""
        size_max = min(max(asked[3], 1), self._left)
        at = self._writer.records_at(size_max)
        read = self._read(handle, asked, at, size_max)
        if read.status == STATUS_ON_DISK:
            return False
        if cramped(read, size_max, self._room()):
            self._log.give_back(read.pins)
            self._grow(max(read.size_needed, min(read.available, size_max)))
            read = self._read(handle, asked, at, size_max)
        self._pins |= read.pins
        if read.status == STATUS_UNKNOWN_TOPIC:
            self._tell(Part(asked[0], int(_unknown_topic(key))))
        elif (
            read.status != STATUS_OK
            or _refusal(asked, read.leader_epoch, read.log_start_offset, read.next_offset) is not ErrorCode.NONE
        ):
            self._tell(look(self._log, handle, key, self._null, asked))
        else:
            self._finish(asked, at, read)
        return True

    def _finish(self, asked: wire.PartitionFetch, at: int, read: "Read") -> None:
        if read.size:
            self._left -= read.size
            self._copied += read.copied
            self._found = self._read_any = True
        self._reader.put(self._writer, asked[0], at, read, self._null)

    def _read(self, handle: "TopicHandle", asked: wire.PartitionFetch, at: int, size_max: int) -> "Read":
        target, first = self._writer.buffer.address + at, not self._read_any
        read_partition = handle.read_partition(asked[0])
        return self._reader.read(handle.topic, read_partition, asked[2], target, size_max, self._room(), first)

    def _room(self) -> int:
        """Bytes of records that can be copied besides those that are."""
        return self._writer.buffer.size - self._overhead - self._copied

    def _grow(self, room: int) -> None:
        old = self._writer.buffer
        self._writer.move(self._reader.pool.take(self._overhead + self._copied + room))
        old.release()


class Assembly:
    """An answer that is put together in steps: `size_max` bytes of records at most, of what there is in their turn."""

    def __init__(self, broker: "Broker", request: Request, message: wire.FetchRequest, size_max: int) -> None:
        self._broker = broker
        self._reader = broker.reader
        self._log = broker.log
        self._message = message
        self._left = size_max
        self._size = message.overhead + self._left
        self._first = True
        """No partition has sent a record yet."""
        self._writer = wire.AnswerWriter(request.version, self._take(self._size))
        self._writer.head(request.correlation_id, 0, len(message.topics))

    async def answer(self) -> Answer:
        writer, null, turn = self._writer, self._message.isolation_level == READ_UNCOMMITTED, Turn()
        for key, partitions in self._message.topics:
            turn.name(key)
            writer.topic(key, len(partitions))
            for asked in partitions:
                if turn.over(1):
                    await waiting.yield_once()
                part = look(self._log, self._broker.topics.find_key(key), key, null, asked)
                if part.size and self._left > 0:
                    if not self._add_from_memory(key, part):
                        await self._add_from_disk(key, part)
                else:
                    part.tell(writer)
            writer.end_topic()
            if turn.over():
                await waiting.yield_once()
        return Answer(writer.finish(), writer.buffer)

    def _take(self, size: int) -> Buffer:
        """Of no pool where much stands around records: that is rare, and what a pool gives may be twice as large."""
        return Buffer(size) if self._message.overhead > BUFFER_SIZE_MIN else self._reader.pool.take(size)

    def _add_from_memory(self, key: wire.TopicKey, part: Part) -> bool:
        """False: it is on disk."""
        room = min(part.size, self._left)
        at = self._writer.records_at(room)
        read = self._read(part, at, room)
        if self._first and read.size_needed > room:
            self._grow(read.size_needed)
            at = self._writer.records_at(read.size_needed)
            read = self._read(part, at, read.size_needed)
        if read.status == STATUS_ON_DISK:
            return False
        self._add(key, part, at, read, self._reader.batches)
        return True

    async def _add_from_disk(self, key: wire.TopicKey, part: Part) -> None:
        room = min(part.size, self._left)
        batches = self._log.read_batches(DISK_BATCHES_MAX)
        try:
            at = self._writer.records_at(room)
            read = await waiting.in_thread(self._disk_read(part, at, room, batches))
            if self._first and read.size_needed > room:
                self._grow(read.size_needed)
                at = self._writer.records_at(read.size_needed)
                read = await waiting.in_thread(self._disk_read(part, at, read.size_needed, batches))
        except EngineError as fault:
            log.error("%s cannot be read at offset %d: %s", part.name, part.fetch_offset, fault)
            self._writer.partition(part.partition, int(ErrorCode.KAFKA_STORAGE_ERROR), -1, -1)
            return
        bounds = replace(read, next_offset=part.high_watermark, log_start_offset=part.log_start_offset)
        self._add(key, part, at, bounds, batches)

    def _add(self, key: wire.TopicKey, part: Part, at: int, read: "Read", batches: ReadBatches) -> None:
        writer = self._writer
        if read.status != STATUS_OK:
            code = _unknown_topic(key) if read.status == STATUS_UNKNOWN_TOPIC else error_code(read.status)
            writer.partition(part.partition, int(code), -1, -1)
            return
        if read.size:
            stamp(writer.buffer.address + at, batches.address, read.count, self._reader.places, 0)
            self._left -= read.size
            self._first = False
        writer.partition(
            part.partition,
            0,
            read.next_offset,
            read.log_start_offset,
            aborted_null=part.aborted_null,
            records_at=at,
            records_size=read.size,
        )

    def _disk_read(self, part: Part, at: int, room: int, batches: ReadBatches) -> "Callable[[], Read]":
        """To be called in a thread. The address stays good: whoever waits for the thread holds the buffer."""
        assert part.topic is not None
        return partial(
            self._log.archive_read,
            part.topic,
            part.read_partition,
            part.fetch_offset,
            self._writer.buffer.address + at,
            room,
            batches=batches,
            whole_first=self._first,
        )

    def _read(self, part: Part, at: int, room: int) -> "Read":
        assert part.topic is not None
        return self._log.read(
            part.topic,
            part.read_partition,
            part.fetch_offset,
            self._writer.buffer.address + at,
            room,
            batches=self._reader.batches,
            whole_first=self._first,
        )

    def _grow(self, size_needed: int) -> None:
        """Makes room for a first batch that is larger than what was asked for."""
        old = self._writer.buffer
        self._writer.move(self._take(self._size + size_needed))
        old.release()
