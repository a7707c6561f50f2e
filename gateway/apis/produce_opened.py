"""Produce, with the setting totalog.compression.validate: compressed batches are opened before they are ordered, and
refused as Apache Kafka refuses them.

Behaviour
- `Opener.open` comes before `handle_group`. It says of each compressed batch of a group what its records are found to
  be; the rest of the check, and the answer, are those of `produce`. Faults outside of the compressed records count
  before those inside.
- Records that do not decompress, and offsets that do not count up from 0, are UNKNOWN_SERVER_ERROR, as Apache Kafka's
  handler fails on them; another number of records than the header says, and bytes that are no records, INVALID_RECORD;
  timestamps and missing keys as in batches that are not compressed, with the numbers of the records (KIP-467). A
  record's own length is not looked at, nor is the largest timestamp in the header: the records' own counts.
- Apache Kafka opens a stream of any length. Here a batch whose records take more than `compression.OPENED_SIZE_MAX` is
  MESSAGE_TOO_LARGE: that is what a look-up by time opens, and a client that can splits such a batch and sends it again.
- Other differences: of two faults, damage is told before any fault of the records; the size and the checksum of an lz4
  frame's content, and the reserved flags of gzip, have to be right, which Apache Kafka does not look at.
- Where a topic is made or altered while batches are opened for it, they are NOT_LEADER_OR_FOLLOWER, which is retriable.

Cost
- Small batches are opened on the event loop, each into the same buffer, with other connections' turns between them;
  those that are larger, stored or opened, in a thread, where decompression holds no lock of Python's. The connection
  waits meanwhile, so its requests keep their order; the others go on.
- One batch costs OPENED_SIZE_MAX at most, and what its decompressor takes (zstd: a window of up to 128 MiB, in which
  only what was opened is touched), in at most `waiting.OPENING_THREADS_COUNT` threads at once.
"""

import struct
from collections.abc import Awaitable, Iterable, Iterator, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from totalog.gateway import waiting
from totalog.gateway.apis import produce
from totalog.gateway.apis.api import Request
from totalog.gateway.apis.produce import LONG_MIN, Answered, Appender, Fault, Group, Target
from totalog.gateway.settings import LONG_MAX
from totalog.gateway.wire import compression
from totalog.gateway.wire import produce as wire
from totalog.gateway.wire.batch import (
    BATCH_OVERHEAD,
    CODEC_BITS,
    TIMESTAMP_UNCHECKED,
    Codec,
    Rules,
    check_opened,
    stamp_append_time,
)
from totalog.gateway.wire.cursor import Turn
from totalog.gateway.wire.errors import ErrorCode, ProtocolViolation

if TYPE_CHECKING:
    from totalog.gateway.broker import Broker

AT_ONCE_STORED_SIZE_MAX: Final = 16 * 1024
AT_ONCE_OPENED_SIZE_MAX: Final = 128 * 1024
"""Bytes of a batch that is opened on the event loop: it takes a millisecond or two at most."""

TURN_SIZE: Final = 256 * 1024
"""Bytes opened on the event loop, after which all others get their turn: a few milliseconds. Those that were stored
count more, since they may open to nothing, in many small parts, and so does each batch."""
STORED_WEIGHT: Final = 32
BATCH_WEIGHT: Final = 4 * 1024

HEADER: Final = struct.Struct(">8xi4xB4xH4xq22xi")
"""Of a batch: length, magic, attributes, base timestamp, record count."""
LENGTH_BASE: Final = 12
MAGIC: Final = 2

ALTERED: Final = "the topic was altered while a batch was opened for it: send it again"
DAMAGED: Final = "the records do not decompress"
NOT_RECORDS: Final = "the decompressed bytes are not the records that the header says"
NOT_DENSE: Final = "the offsets of compressed records do not count up from 0"
OPENED_TOO_LARGE: Final = f"decompressed, the records take more than {compression.OPENED_SIZE_MAX} bytes"


class Opened(NamedTuple):
    """What is in a compressed batch that was opened for `target`."""

    target: Target
    fault: Fault | None
    max_timestamp: int = -1
    """Of the records."""


class Read(NamedTuple):
    """A request that was read before its turn."""

    message: wire.ProduceRequest | None
    """None: it names many partitions."""
    opened: dict[int, Opened]
    """By the places of the batches in the frame."""


class OpenedGroup(Group):
    """One group whose compressed batches were opened."""

    opens = True

    def __init__(self, broker: "Broker", appender: Appender, read: Iterable[Read | None]) -> None:
        super().__init__(broker, appender)
        self._read = iter(read)
        self._of_request: dict[int, Opened] = {}
        self._batch: Opened | None = None
        """What is in the batch that is checked just now."""

    def parse(self, version: int, frame: memoryview, position: int) -> wire.ProduceRequest | None:
        """The next request."""
        read = next(self._read)
        if read is None:
            return wire.parse(version, frame, position)
        self._of_request = read.opened
        return read.message

    def another(self) -> "OpenedGroup":
        self._appender.refresh(self._broker)
        group = OpenedGroup(self._broker, self._appender, ())
        group._of_request = self._of_request
        return group

    def _check(self, request: Request, target: Target, partition: int, source: int, at: int, size: int) -> Fault | None:
        self._batch = self._of_request.get(at)
        fault = super()._check(request, target, partition, source, at, size)
        if fault is None and produce.is_compressed(request, at, size):
            return self._check_opened(target, self._batch)
        return fault

    def _check_opened(self, target: Target, opened: Opened | None) -> Fault | None:
        """What the header of a compressed batch cannot say."""
        if opened is None or opened.target != target:
            return ErrorCode.NOT_LEADER_OR_FOLLOWER, wire.Rejection(ALTERED, ())
        if opened.fault is not None:
            return opened.fault
        index = len(self._places)
        self._appender.batches[index].max_timestamp = opened.max_timestamp
        if target.append_time:
            stamp_append_time(self._address, index, self._now_ms)
        return None

    # Of opened records their own timestamps count, and what the topic asks of them was looked at.

    def _newest(self, target: Target) -> int:
        return super()._newest(target) if self._batch is None else TIMESTAMP_UNCHECKED

    def _bad_timestamps(self, target: Target) -> Fault | None:
        return super()._bad_timestamps(target) if self._batch is None else produce.APPEND_TIME_FAULT

    def _check_more(self, target: Target) -> Fault | None:
        return super()._check_more(target) if self._batch is None else None


def handle_group(
    broker: "Broker", requests: Sequence[Request], read: Iterable[Read | None]
) -> Iterator[Answered | Awaitable[Answered]]:
    """As `produce.handle_group`, for requests of which `Opener.open` gave `read`."""
    broker.appender.refresh(broker)
    return produce.handle_group(broker, requests, OpenedGroup(broker, broker.appender, read))


class Batch(NamedTuple):
    """A compressed batch, as its header says."""

    codec: int
    stored: memoryview
    """What its records were compressed to."""
    record_count: int
    base_timestamp: int
    target: Target
    rules: Rules


class Opener:
    """Opens the compressed batches of one broker's producers."""

    def __init__(self) -> None:
        self._room = memoryview(bytearray(AT_ONCE_OPENED_SIZE_MAX + compression.MARK_SIZE))
        self._address = compression.address_of(self._room)
        self._turn_size = 0

    async def open(self, broker: "Broker", requests: Sequence[Request]) -> Sequence[Read | None]:
        """What is in the compressed batches of each request, for `handle_group`. None where one does not parse, and
        behind it."""
        read: list[Read | None] = [None] * len(requests)
        try:
            for index, request in enumerate(requests):
                message = wire.parse(request.version, request.frame, request.body_at)
                read[index] = one = Read(message, {})
                if message is not None:
                    for topic, partition, at, size in message.partitions:
                        await self._open_batch(broker, request, one, topic, partition, at, size)
                else:
                    await self._open_many(broker, request, one)
        except ProtocolViolation:
            pass  # is told in its turn
        return read

    async def _open_many(self, broker: "Broker", request: Request, read: Read) -> None:
        """The batches of a request that is handled in steps."""
        parsing = wire.parse_in_steps(request.version, request.frame, request.body_at)
        message = await broker.lane.run(parsing, len(request.frame))
        turn = Turn()
        for topic, partitions in message.topics:
            turn.name(topic)
            for partition, at, size in partitions:
                await self._open_batch(broker, request, read, topic, partition, at, size)
                if turn.over(1):
                    await waiting.yield_once()
            if turn.over():
                await waiting.yield_once()

    async def _open_batch(
        self, broker: "Broker", request: Request, read: Read, topic: wire.TopicKey, partition: int, at: int, size: int
    ) -> None:
        broker.appender.refresh(broker)
        target = broker.appender.target(broker, topic)
        if 0 <= partition < target.partitions:
            batch = _compressed(broker, request, target, at, size)
            if batch is not None:
                read.opened[at] = await self._opened(batch)

    async def _opened(self, batch: Batch) -> Opened:
        opened = self._open_at_once(batch)
        if opened is None:
            return await waiting.in_opening_thread(partial(open_in_thread, batch))
        if self._turn_size >= TURN_SIZE:
            self._turn_size = 0
            await waiting.yield_once()
        return opened

    def _open_at_once(self, batch: Batch) -> Opened | None:
        """None: it is too large for that."""
        if len(batch.stored) > AT_ONCE_STORED_SIZE_MAX:
            return None
        size = AT_ONCE_OPENED_SIZE_MAX
        try:
            size = compression.open_into(batch.codec, _read_by_kafka(batch), self._room)
            return _judged(batch, self._address, size)
        except compression.Damaged:
            return _refused(batch, ErrorCode.UNKNOWN_SERVER_ERROR, DAMAGED)
        except compression.TooLarge:
            return None
        finally:
            self._turn_size += size + STORED_WEIGHT * len(batch.stored) + BATCH_WEIGHT


def open_in_thread(batch: Batch) -> Opened:
    """Takes as much time as the batch does, and its own memory."""
    from totalog.gateway.wire._batch_long import ffi, lib

    try:
        with compression.opened(batch.codec, _read_by_kafka(batch)) as records:
            return _judged(batch, compression.address_of(records), len(records), (ffi, lib))
    except compression.Damaged:
        return _refused(batch, ErrorCode.UNKNOWN_SERVER_ERROR, DAMAGED)
    except compression.TooLarge:
        return _refused(batch, ErrorCode.MESSAGE_TOO_LARGE, OPENED_TOO_LARGE)


def _compressed(broker: "Broker", request: Request, target: Target, at: int, size: int) -> Batch | None:
    """The batch of `size` bytes at `at`; None where it is not compressed, or is refused for what its header says."""
    if size < BATCH_OVERHEAD:
        return None
    length, magic, attributes, base_timestamp, record_count = HEADER.unpack_from(request.frame, at)
    codec = attributes & CODEC_BITS
    batch_size = length + LENGTH_BASE
    if magic != MAGIC or not Codec.GZIP <= codec <= Codec.ZSTD or record_count <= 0:
        return None
    if not BATCH_OVERHEAD <= batch_size <= min(size, target.size_max):
        return None
    stored = request.frame[at + BATCH_OVERHEAD : at + batch_size]
    return Batch(codec, stored, record_count, base_timestamp, target, _rules(target, broker.clock.wall_ms()))


def _rules(target: Target, now_ms: int) -> Rules:
    if target.append_time:
        return Rules(LONG_MIN, TIMESTAMP_UNCHECKED, target.needs_key)
    oldest, newest = max(now_ms - target.behind_ms_max, LONG_MIN), min(now_ms + target.ahead_ms_max, LONG_MAX)
    return Rules(oldest, newest, target.needs_key)


def _read_by_kafka(batch: Batch) -> memoryview:
    return compression.lz4_frame(batch.stored) if batch.codec == Codec.LZ4 else batch.stored


def _judged(batch: Batch, address: int, size: int, *native: tuple[Any, Any]) -> Opened:
    found = check_opened(address, size, batch.record_count, batch.base_timestamp, batch.rules, *native)
    if found.status == produce.STATUS_BAD_TIMESTAMP:
        said = f"{produce.BAD_TIMESTAMPS} {batch.rules.timestamp_min} to {batch.rules.timestamp_max}"
        return Opened(batch.target, (ErrorCode.INVALID_TIMESTAMP, wire.Rejection(said, found.fault_numbers)))
    if found.status != produce.STATUS_OK:
        return _refused(batch, ErrorCode.INVALID_RECORD, NOT_RECORDS)
    if found.fault_count:
        return Opened(batch.target, (ErrorCode.INVALID_RECORD, wire.Rejection(produce.NO_KEYS, found.fault_numbers)))
    if not found.dense:
        return _refused(batch, ErrorCode.UNKNOWN_SERVER_ERROR, NOT_DENSE)
    return Opened(batch.target, None, found.max_timestamp)


def _refused(batch: Batch, code: ErrorCode, text: str) -> Opened:
    return Opened(batch.target, (code, wire.Rejection(text, ())))
