"""Fetch (key 1), versions 4-18.

Behaviour
- Long poll: the answer leaves when `min_bytes` are there (of each partition, at most what it may send), when any
  partition has an error, when no more could come, or when the time is over; the wait is capped by WAIT_S_MAX. Waiting
  costs nothing: an append or the deletion of a topic rings its bell. Where all long polls together would wait for
  POLLED_MAX partitions, the answer leaves at once.
- Sizes: partitions are served in the order of the request, each with whole batches up to its own and the common maximum
  (`max_bytes`, `fetch.max.bytes`, ANSWER_SIZE_MAX). The first batch of the first partition that has any is sent whole,
  whatever its size (KIP-74), so that a consumer always gets on. Kafka cuts the last batch off; nothing of it goes here.
- What is durable on its topic's level is what there is (`replication`): fetch limit and high watermark are one number.
  Long polls are woken when it moves. Topics in memory, and those with `totalog.visibility=ordered`, show what is
  ordered.
- Where something can be sent at once, each partition takes one read (`AtOnce`), and nothing is waited for. Batches of
  LENT_SIZE_MIN bytes or more are then sent from where they lie: the log lends them until the socket has taken them, or
  until the answer would have to wait.
- A request that names many topics or partitions is read from a copy of its frame each time that they are gone through,
  in steps: to check it, to look what there is, and to answer. It takes three times its frame at most, and its records.
- What has left memory comes from the journals, in a thread, so that nobody else waits for the disk. Where no directory
  can be read that is KAFKA_STORAGE_ERROR for the partition.
- Views are read like topics: partition 0 is the topic in total order, and batches carry it as their base offsets.
- Errors are per partition, with high watermark -1: unknown topic or partition 3, unknown topic id 100, an offset
  outside of the log 1, a leader epoch that is too new 75 or too old 74.
- No sessions: the answer's session id is always 0. A full fetch (epoch 0 or -1) is answered whatever its session id is,
  as Kafka does when it has no room for a session; any other epoch is FETCH_SESSION_ID_NOT_FOUND (KIP-227).
- read_committed is read_uncommitted as long as there are no transactions: the last stable offset is the high watermark.
  The list of aborted transactions is empty, or null, where Kafka's is.

Version notes: see `wire/fetch.py`.

Not implemented: fetching as a replica, diverging epochs (only replicas send the last fetched epoch), racks.
"""

import logging
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Final

from totalog.engine import EngineError, ReadBatches
from totalog.gateway import lane, waiting
from totalog.gateway.apis.api import Api, Request
from totalog.gateway.limits import STEP_COUNT_MAX
from totalog.gateway.wire import fetch as wire
from totalog.gateway.wire._batch import lib
from totalog.gateway.wire.answer import BUFFER_SIZE_MIN, Answer, Buffer, BufferPool
from totalog.gateway.wire.batch import error_code, lent, lent_places, stamp
from totalog.gateway.wire.cursor import Turn
from totalog.gateway.wire.errors import ErrorCode, of_leader_epoch

if TYPE_CHECKING:
    from totalog.engine import Log, Read, Topic
    from totalog.gateway.broker import Broker
    from totalog.gateway.lane import Steps
    from totalog.gateway.topics import TopicHandle

WAIT_S_MAX: Final = 60.0
"""Of one long poll, whatever the client asks: then it gets an answer, empty if need be, and asks again."""

ANSWER_SIZE_MAX: Final = 4 * 1024 * 1024
"""Bytes of records in one answer, besides a first batch that is larger. It bounds the memory that slow readers hold and
the time that the event loop spends on one of them; a consumer asks again in less time than these bytes take. It is also
what Linux takes for one socket at once (tcp_wmem): of a larger answer the rest would have to be copied to wait."""

ANSWER_SIZE_PRESSED: Final = 32 * 1024
"""The same while many answers have not been taken: with what is around the records, a buffer of the smallest size."""

LENT_SIZE_MIN: Final = 16 * 1024
"""Bytes of a batch from which on it is sent from where it lies. Below, its copy costs less than one more part of an
answer."""

LENT_COUNT_MAX: Final = ANSWER_SIZE_MAX // LENT_SIZE_MIN + 1

AT_ONCE_MAX: Final = 64
"""Partitions, and topics, of a request that is answered in one go. Where it turns out that there is nothing to
send, all of them are looked at again before it waits."""

LOOK_AGAIN_S: Final = 0.05
"""Until the next look, where something may have come behind the last one."""

POLLED_MAX: Final = 500_000
"""Partitions, or topics, that all long polls together wait for; each takes up to 200 bytes, and is looked at again
whenever something comes. Who asks for more is answered at once."""

BATCHES_MAX: Final = 16_384
"""Batches of one partition in one answer."""

DISK_BATCHES_MAX: Final = 4096
"""The same of a partition that is read from disk: each such read has its own room for them."""

FRAME_SIZE_MAX: Final = 2 * 1024 * 1024
"""Bytes of one request: it names as many partitions as a region holds."""

FULL_FETCH_EPOCHS: Final = (0, wire.NO_SESSION_EPOCH)
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


def _look(log: "Log", handle: "TopicHandle | None", key: wire.TopicKey, null: bool, asked: wire.PartitionFetch) -> Part:
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


class Survey:
    """What a request would get now, before any record is copied."""

    __slots__ = ("failed", "large", "size", "size_most", "slots")

    def __init__(self) -> None:
        """Empty: `look` fills it."""
        self.slots: set[int] = set()
        """Slots of the topics, whose bells tell when it is worth looking again."""
        self.failed = False
        self.size = 0
        """Bytes of records."""
        self.size_most = 0
        """Bytes of records if every partition sends all that it may."""
        self.large = False
        """It was made in several steps, so something may have come behind the first of them."""

    def look(self, broker: "Broker", message: wire.FetchRequest) -> "Steps[Survey]":
        null, turn = message.isolation_level == READ_UNCOMMITTED, Turn()
        for key, partitions in message.topics:
            turn.name(key)
            handle = find(broker, key)
            if handle is not None:
                self.slots.add(handle.topic.slot)
            for asked in partitions:
                if turn.over(1):
                    self.large = True
                    yield
                    handle = find(broker, key)
                part = _look(broker.log, handle, key, null, asked)
                self.failed |= part.error_code != 0
                self.size += part.size
                self.size_most += max(asked[3], 1)  # no room at all still gets a first batch
            if turn.over():
                self.large = True
                yield
        return self


def find(broker: "Broker", key: wire.TopicKey) -> "TopicHandle | None":
    return broker.topics.find(key) if isinstance(key, str) else broker.topics.find_id(key)


async def _survey(broker: "Broker", message: wire.FetchRequest) -> Survey:
    """One of many partitions takes its time, in turn with others that do."""
    steps = Survey().look(broker, message)
    if len(message.topics) + message.partition_count <= STEP_COUNT_MAX:
        return lane.finish(steps)
    return await broker.lane.run(steps, message.overhead)


def _name(part: Part) -> str:
    assert part.topic is not None
    return f"{part.topic.name}-{part.partition}"


def _unknown_topic(key: wire.TopicKey) -> ErrorCode:
    return ErrorCode.UNKNOWN_TOPIC_OR_PARTITION if isinstance(key, str) else ErrorCode.UNKNOWN_TOPIC_ID


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

    def __init__(self, reader: Reader, log: "Log", request: Request, message: wire.FetchRequest, size_max: int) -> None:
        self._reader = reader
        self._log = log
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

    def answer(self, broker: "Broker", message: wire.FetchRequest) -> Answer | None:
        """None: there is nothing to send, or some of it is on disk."""
        writer, done = self._writer, False
        try:
            for key, partitions in message.topics:
                handle = find(broker, key)
                writer.topic(key, len(partitions))
                for asked in partitions:
                    if handle is None or self._left <= 0 or not 0 <= asked[0] < handle.partitions:
                        self._tell(_look(self._log, handle, key, self._null, asked))
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
        self._writer.partition(
            part.partition,
            part.error_code,
            part.high_watermark,
            part.log_start_offset,
            aborted_null=part.aborted_null,
        )

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
            self._tell(_look(self._log, handle, key, self._null, asked))
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
    """One answer being put together in steps: up to `size_max` bytes of records, as there are when it is their turn."""

    def __init__(
        self, broker: "Broker", request: Request, message: wire.FetchRequest, survey: Survey, size_max: int
    ) -> None:
        self._broker = broker
        self._reader = broker.reader
        self._log = broker.log
        self._message = message
        self._left = min(survey.size, size_max)
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
                part = _look(self._log, find(self._broker, key), key, null, asked)
                if part.size and self._left > 0:
                    if not self._add_from_memory(key, part):
                        await self._add_from_disk(key, part)
                else:
                    writer.partition(
                        part.partition,
                        part.error_code,
                        part.high_watermark,
                        part.log_start_offset,
                        aborted_null=part.aborted_null,
                    )
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
            log.error("%s cannot be read at offset %d: %s", _name(part), part.fetch_offset, fault)
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


def handle(broker: "Broker", request: Request) -> Answer | Awaitable[Answer]:
    """The answer, whose buffer goes back to its pool when the connection releases it."""
    message = wire.parse(request.version, request.frame, request.body_at)
    if message is None:
        return _answer_large(broker, replace(request, frame=memoryview(bytes(request.frame))))
    if message.session_epoch not in FULL_FETCH_EPOCHS:
        return _no_session(broker, request)
    size_max = size_max_of(broker, message)
    if message.min_bytes <= 1 and not broker.unsent.full:
        answer = _at_once(broker, request, message, size_max)
        if answer is not None:
            return answer
    return _answer(broker, request, message, size_max)


def _no_session(broker: "Broker", request: Request) -> Answer:
    return broker.reader.refuse(request, ErrorCode.FETCH_SESSION_ID_NOT_FOUND)


async def _answer_large(broker: "Broker", request: Request) -> Answer:
    """To a request with a frame of its own: what it names is read from there, again and again."""
    steps = wire.parse_in_steps(request.version, request.frame, request.body_at)
    message = await broker.lane.run(steps, len(request.frame))
    if message.session_epoch not in FULL_FETCH_EPOCHS:
        return _no_session(broker, request)
    return await _answer(broker, request, message, size_max_of(broker, message))


def size_max_of(broker: "Broker", message: wire.FetchRequest) -> int:
    """Bytes of records in the answer, at most."""
    return max(1, min(message.max_bytes, broker.config.integer("fetch.max.bytes"), ANSWER_SIZE_MAX))


def pressed(broker: "Broker", size_max: int) -> int:
    """The same, as things are: less while many answers have not been taken."""
    return broker.unsent.answer_size_max(min(ANSWER_SIZE_PRESSED, size_max), size_max)


def cramped(read: "Read", size_max: int, room: int) -> bool:
    """Whether there may be more in a read of so many bytes if it had more room than it had."""
    return read.size_needed > 0 or (read.size < min(read.available, size_max) and room - read.copied < LENT_SIZE_MIN)


def _at_once(broker: "Broker", request: Request, message: wire.FetchRequest, size_max: int) -> Answer | None:
    """The answer, if there is something to send, and all of it can be: from memory, and of not too many partitions."""
    if len(message.topics) > AT_ONCE_MAX or message.partition_count > AT_ONCE_MAX:
        return None
    size_max = pressed(broker, size_max)
    return AtOnce(broker.reader, broker.log, request, message, size_max).answer(broker, message)


async def _answer(broker: "Broker", request: Request, message: wire.FetchRequest, size_max: int) -> Answer:
    """Does not look at the request's frame, unless the message does."""
    survey = await _wait(broker, message, size_max)
    if broker.unsent.full:
        await broker.unsent.room()
        survey = await _survey(broker, message)
    answer = _at_once(broker, request, message, size_max) if survey.size else None
    if answer is not None:
        return answer
    size_max = pressed(broker, size_max)
    return await Assembly(broker, request, message, survey, size_max).answer()


async def _wait(broker: "Broker", message: wire.FetchRequest, size_max: int) -> Survey:
    """What there is to send once it is enough, or the time is over."""
    deadline: float | None = None
    count = max(len(message.topics), message.partition_count)
    seen = _progress(broker)
    survey = await _survey(broker, message)
    while not survey.failed and survey.size < min(message.min_bytes, size_max, survey.size_most):
        if deadline is None:
            deadline = waiting.now() + min(message.max_wait_ms / 1000, WAIT_S_MAX)
        if broker.reader.polled + count > POLLED_MAX:
            return survey
        end = deadline
        if survey.large and _progress(broker) != seen:
            end = min(deadline, waiting.now() + LOOK_AGAIN_S)
        slots = survey.slots
        del survey  # of many partitions it is large, and there may be many that wait
        broker.reader.polled += count
        try:
            rung = await broker.appended.wait(slots, end - waiting.now())
        finally:
            broker.reader.polled -= count
        seen = _progress(broker)
        survey = await _survey(broker, message)
        if not rung and end == deadline:
            break
    return survey


def _progress(broker: "Broker") -> tuple[int, ...]:
    """Changes whenever there may be something new to read."""
    engine = broker.log
    levels = range(1, broker.replication.directories + 1)
    return engine.frontiers().ordered, *(engine.replicated(level) for level in levels)


API = Api(1, "Fetch", 4, 18, wire.FLEXIBLE_VERSION, handle, raw=True, copies=True, frame_size_max=FRAME_SIZE_MAX)
