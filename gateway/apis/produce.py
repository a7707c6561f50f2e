"""Produce (key 0), versions 3-13.

Behaviour
- All complete Produce requests of one receive buffer are one group: each batch is checked by one C call, and one call
  of the log orders them all, in the order in which they came.
- acks 0 has no answer, and an error in it closes the connection, as from Kafka; 1 is answered when the batch is
  ordered; every other number than these and -1 is INVALID_REQUIRED_ACKS.
- acks -1 (all) is answered when every batch of the request is durable on its level (`replication`): the topic's
  replication factor, or its min.insync.replicas where that is more, or all data directories that are alive. Without
  data directories, and for topics in memory, that is when it is ordered. Such an answer is owed: other requests of the
  connection, and all other connections, are ordered meanwhile and share the write to disk.
- Fewer live data directories than min.insync.replicas: NOT_ENOUGH_REPLICAS, and nothing is stored. When that becomes so
  while the answer is owed: NOT_ENOUGH_REPLICAS_AFTER_APPEND; when the request's time runs out: REQUEST_TIMED_OUT. These
  two say that nothing is certain: the batch is ordered, acks=1 would have been answered, and it will be durable if the
  directory comes back; or it is lost together with the region. An idempotent producer sends it again and gets the
  original's answer, once that is durable.
- Errors are per partition, with base offset and log start offset -1: unknown topic or partition 3, unknown topic id
  100, what the check of a batch or the log says, records null INVALID_RECORD, zstd below version 7
  UNSUPPORTED_COMPRESSION_TYPE. A duplicate is answered like the original, with the original's offset, and with acks -1
  when the original is durable.
- A topic may ask more of records: timestamps that are not too old either, and keys, where it is compacted. The numbers
  of those that do not keep to it are told (KIP-467). Compressed records are not opened for it: the largest timestamp in
  the header counts, and keys are not looked for. With totalog.compression.validate they are: see `produce_opened`.
- With `message.timestamp.type=LogAppendTime` a batch gets the broker's time, and a new CRC, before it is stored; the
  answer says which.
- Views and internal topics are not produced to: INVALID_TOPIC_EXCEPTION. Topics are created by Metadata, not here.
- What was received straight into the region stays where it is, but for batches of another topic than the first there:
  they are copied, since a segment belongs to one topic.
- A request of many partitions is handled in steps (`produce_steps`).

Version notes: 7: zstd (KIP-110). 13: topic ids (KIP-516). The others change the answer only: see `wire/produce.py`.

Not implemented: transactions. A transactional id is UNSUPPORTED_VERSION, as in InitProducerId; a transactional batch
without one TRANSACTIONAL_ID_AUTHORIZATION_FAILED, as from Kafka.
"""

from collections.abc import Awaitable, Iterator, Sequence
from typing import TYPE_CHECKING, Final, NamedTuple, TypeAlias

from totalog.gateway import view, waiting
from totalog.gateway.apis.api import Api, Request
from totalog.gateway.outbox import Owed
from totalog.gateway.settings import LONG_MAX
from totalog.gateway.wire import produce as wire
from totalog.gateway.wire._batch import ffi, lib
from totalog.gateway.wire.alike import Orderer
from totalog.gateway.wire.batch import (
    ATTRIBUTES_AT,
    CODEC_BITS,
    TIMESTAMP_UNCHECKED,
    TRANSACTIONAL_BIT,
    Codec,
    check,
    error_code,
    faults,
    stamp_append_time,
)
from totalog.gateway.wire.errors import ErrorCode, ProtocolViolation

if TYPE_CHECKING:
    from totalog.engine import AppendGroup
    from totalog.gateway.broker import Broker
    from totalog.gateway.replication import Replication
    from totalog.gateway.topics import TopicHandle

BATCHES_MAX: Final = 1024
"""Batches that one call of the log orders; a group of more takes several calls."""

RUN_COUNT_MAX: Final = 512
"""Requests of one run (`produce_runs`)."""

PARTITIONS_A_GROUP: Final = 1024
"""Of requests that are handled together, before others get their turn."""

FRAME_SIZE_MAX: Final = 100 * 1024 * 1024
"""Bytes of one request, Kafka's default."""

ACKS_ALL: Final = -1
ACKS: Final = (0, 1, ACKS_ALL)

CODEC_ZSTD: Final = int(Codec.ZSTD)

APPEND_TIME: Final = "LogAppendTime"
LONG_MIN: Final = -(2**63)

STATUS_OK: Final[int] = lib.STATUS_OK
STATUS_BAD_TIMESTAMP: Final[int] = lib.STATUS_BAD_TIMESTAMP
STORED: Final = (lib.STATUS_OK, lib.STATUS_DUPLICATE)


Answered: TypeAlias = bytes | bytearray | Owed | None

Rows: TypeAlias = list[wire.PartitionAnswer]

Fault: TypeAlias = tuple[ErrorCode, wire.Rejection | None]
"""Why a batch is refused."""

BAD_TIMESTAMPS: Final = "records have timestamps outside of what the topic takes:"
APPEND_TIME_CLAIMED: Final = "a producer does not set the timestamp type to LogAppendTime"
APPEND_TIME_FAULT: Final[Fault] = ErrorCode.INVALID_TIMESTAMP, wire.Rejection(APPEND_TIME_CLAIMED, ())
NO_KEYS: Final = "the topic is compacted, and records have no keys"


class Target(NamedTuple):
    """Where the records of one topic go, and what they must keep to. Where they cannot go: no partitions, and why."""

    partitions: int
    error_code: ErrorCode = ErrorCode.UNKNOWN_TOPIC_OR_PARTITION
    """For a partition that is not there."""
    message: str | None = None
    slot: int = 0
    generation: int = 0
    size_max: int = 0
    ahead_ms_max: int = 0
    behind_ms_max: int = LONG_MAX
    """How far a timestamp may lie ahead of the clock, and behind it."""
    append_time: bool = False
    """Records have the broker's time, whatever their producer says."""
    needs_key: bool = False
    """The topic is compacted: a record without a key would have no meaning."""
    ack_level: int = 0
    """On which acks=all is answered, and on which consumers see a batch; 0: when it is ordered."""
    visible_level: int = 0
    insync: int = 0
    """Live data directories without which acks=all is refused."""

    @property
    def plain(self) -> bool:
        """`check` alone says whether a batch is taken, and it is stored as it came."""
        return not (self.append_time or self.needs_key or self.behind_ms_max < LONG_MAX)


Debts: TypeAlias = list[tuple[int, int, Target]]
"""Rows that are answered when a global position is durable, each with where its records went."""

UNKNOWN_NAME: Final = Target(0)
UNKNOWN_ID: Final = Target(0, ErrorCode.UNKNOWN_TOPIC_ID)


class Appender:
    """The produce path of one broker: what is made once and serves every group."""

    def __init__(self, broker: "Broker", batches_max: int = BATCHES_MAX) -> None:
        self.batches: AppendGroup = broker.log.group(batches_max)
        self.batches_max = batches_max
        self.orderer = Orderer(broker.log.append_call, self.batches.address, min(batches_max, RUN_COUNT_MAX))
        self.opens = broker.config.boolean("totalog.compression.validate")
        """Compressed batches are opened before they come here."""
        self._targets: dict[wire.TopicKey, Target] = {}
        self._targets_version = -1

    def append(
        self, broker: "Broker", requests: Sequence[Request], group: "Group | None" = None
    ) -> Iterator[Answered | Awaitable[Answered]]:
        """See `handle_group`."""
        group, violation = group or self.group(broker), None
        assert group.opens == self.opens, "compressed batches are opened, or not, by one setting"
        parse, add, left = group.parse, group.add, PARTITIONS_A_GROUP
        try:
            for request in requests:
                message = parse(request.version, request.frame, request.body_at)
                if message is None:
                    if group.empty:
                        return self._later(broker, request, group)
                    break
                add(request, message)
                left -= len(message.partitions)
                if left <= 0:
                    break
        except ProtocolViolation as fault:
            violation = str(fault)  # what came before it is stored and answered
        group.order()
        return group.answers(violation)

    def _later(self, broker: "Broker", request: Request, group: "Group") -> Iterator[Awaitable[Answered]]:
        from totalog.gateway.apis import produce_steps

        yield broker.lane.run(produce_steps.handle(broker, request, group), len(request.frame))

    def group(self, broker: "Broker") -> "Group":
        """A new one, which knows the topics as they are now."""
        self.refresh(broker)
        return Group(broker, self)

    def refresh(self, broker: "Broker") -> None:
        """Forget what topics were, if they may be other ones by now."""
        if broker.log.topics_version != self._targets_version:
            self._targets_version = broker.log.topics_version
            self._targets.clear()

    def target(self, broker: "Broker", key: wire.TopicKey) -> Target:
        target = self._targets.get(key)
        if target is None:
            handle = broker.topics.find_key(key)
            if handle is None:  # not remembered, since a client can think of any number of names
                return UNKNOWN_NAME if isinstance(key, str) else UNKNOWN_ID
            target = self._targets[key] = _target(broker, handle)
        return target


def _target(broker: "Broker", handle: "TopicHandle") -> Target:
    if handle.is_view:
        return Target(0, ErrorCode.INVALID_TOPIC_EXCEPTION, view.refusal(handle.name, "produced to"))
    if handle.topic.internal:
        return Target(0, ErrorCode.INVALID_TOPIC_EXCEPTION, f"{handle.name} is an internal topic")
    insync = broker.config.topic_integer("min.insync.replicas", handle.config)
    ack_level = broker.replication.ack_level(handle.topic, insync)
    append_time = broker.config.topic_value("message.timestamp.type", handle.config) == APPEND_TIME
    policy = broker.config.topic_value("cleanup.policy", handle.config)
    assert isinstance(policy, tuple)
    behind_ms_max = broker.config.topic_integer("message.timestamp.before.max.ms", handle.config)
    return Target(
        handle.partitions,
        append_time=append_time,
        behind_ms_max=LONG_MAX if append_time else behind_ms_max,
        needs_key="compact" in policy,
        slot=handle.topic.slot,
        generation=handle.topic.generation,
        size_max=broker.config.topic_integer("max.message.bytes", handle.config),
        ahead_ms_max=broker.config.topic_integer("message.timestamp.after.max.ms", handle.config),
        ack_level=ack_level,
        visible_level=broker.replication.visible_level(handle.topic),
        insync=insync if ack_level else 0,
    )


class Group:
    """One group on its way: requests are added, their batches ordered, their answers given, each once."""

    opens = False
    """It knows what is in compressed batches."""
    parse = staticmethod(wire.parse)

    def __init__(self, broker: "Broker", appender: Appender) -> None:
        self._broker = broker
        self._appender = appender
        self._address: int = appender.batches.address
        self._now_ms = broker.clock.wall_ms()
        self._requests: list[tuple[Request, wire.ProduceRequest, Rows, Debts]] = []
        """Request, what it says, one row for each of its partitions, and those that are answered later."""
        self._places: list[tuple[Rows, int, wire.TopicKey, int, Target, Debts | None]] = []
        """Of each batch that waits to be ordered: where its row stands, its topic and partition, where its records go,
        and, with acks=all, where it is told that the row is answered later."""

    def another(self) -> "Group":
        """For the next batches of a request that is handled in steps."""
        return self._appender.group(self._broker)

    @property
    def empty(self) -> bool:
        """No request was added."""
        return not self._requests

    @property
    def last(self) -> tuple[Rows, Debts]:
        """Rows of the last message, and which of them are answered later; complete when all is ordered."""
        return self._requests[-1][2:]

    def add(self, request: Request, message: wire.ProduceRequest) -> None:
        """Checks the batches that `message` names, all or some of those in the frame of the request. Raises
        ProtocolViolation: there are errors although acks is 0."""
        refusal = _refusal(message)
        source = int(ffi.cast("uintptr_t", ffi.from_buffer(request.frame)))
        rows: Rows = []
        debts: Debts = []
        self._requests.append((request, message, rows, debts))
        acks_all = message.acks == ACKS_ALL
        live = self._broker.replication.live
        for topic, partition, at, size in message.partitions:
            target = self._appender.target(self._broker, topic)
            if not 0 <= partition < target.partitions:
                rows.append((topic, partition, target.error_code, -1, -1, -1, target.message))
            elif refusal is not None:
                rows.append((topic, partition, refusal[0], -1, -1, -1, refusal[1]))
            elif size < 0:
                rows.append((topic, partition, ErrorCode.INVALID_RECORD, -1, -1, -1, "records are null"))
            elif acks_all and live < target.insync:
                message_text = f"{live} data directories are written, min.insync.replicas is {target.insync}"
                rows.append((topic, partition, ErrorCode.NOT_ENOUGH_REPLICAS, -1, -1, -1, message_text))
            else:
                fault = self._check(request, target, partition, source, at, size)
                if fault:
                    rows.append((topic, partition, fault[0], -1, -1, -1, fault[1]))
                else:
                    later = debts if acks_all and target.ack_level else None
                    self._places.append((rows, len(rows), topic, partition, target, later))
                    rows.append(_WAITING)
        if message.acks == 0:
            no_errors(rows)

    def _check(self, request: Request, target: Target, partition: int, source: int, at: int, size: int) -> Fault | None:
        """Puts one batch at the end of those that wait, or says what is wrong with it."""
        if len(self._places) == self._appender.batches_max:
            self.order()
        held = request.reservation
        status = check(
            self._address,
            len(self._places),
            source + at,
            size,
            target.size_max,
            0 if held is None else held.segment_for(target.slot, target.generation),
            target.slot,
            target.generation,
            partition,
            TIMESTAMP_UNCHECKED if target.append_time else self._newest(target),
        )
        if status == STATUS_BAD_TIMESTAMP:
            return self._bad_timestamps(target)
        if status != STATUS_OK:
            return error_code(status), None
        attributes = request.frame[at + ATTRIBUTES_AT]
        if attributes & TRANSACTIONAL_BIT:
            return ErrorCode.TRANSACTIONAL_ID_AUTHORIZATION_FAILED, None
        if attributes & CODEC_BITS == CODEC_ZSTD and request.version < wire.ZSTD_VERSION:
            return ErrorCode.UNSUPPORTED_COMPRESSION_TYPE, None
        return None if target.plain else self._check_more(target)

    def _newest(self, target: Target) -> int:
        """The largest timestamp that a record may have."""
        return min(self._now_ms + target.ahead_ms_max, LONG_MAX)

    def _oldest(self, target: Target) -> int:
        return max(self._now_ms - target.behind_ms_max, LONG_MIN)

    def _bad_timestamps(self, target: Target) -> Fault | None:
        """Names the records of the last batch whose timestamps the topic does not take, if there are any."""
        oldest, newest = self._oldest(target), self._newest(target)
        count, records = faults(self._address, len(self._places), oldest, newest, False)
        if not count:
            return APPEND_TIME_FAULT
        return ErrorCode.INVALID_TIMESTAMP, wire.Rejection(f"{BAD_TIMESTAMPS} {oldest} to {newest}", records)

    def _check_more(self, target: Target) -> Fault | None:
        """What `check` does not look at. A batch that is taken gets the broker's time here, where it lies."""
        place = self._address, len(self._places)
        if target.behind_ms_max < LONG_MAX and faults(*place, self._oldest(target), TIMESTAMP_UNCHECKED, False)[0]:
            return self._bad_timestamps(target)
        if target.needs_key:
            count, records = faults(*place, LONG_MIN, TIMESTAMP_UNCHECKED, True)
            if count:
                return ErrorCode.INVALID_RECORD, wire.Rejection(NO_KEYS, records)
        if target.append_time:
            stamp_append_time(*place, self._now_ms)
        return None

    def order(self) -> None:
        """Has the log order the batches that wait, fills their rows, and wakes who waits for them, now or later."""
        places, self._places = self._places, []
        if not places:
            return
        batches = self._appender.batches
        self._broker.log.append(batches, len(places))
        visible = set()
        hidden: dict[int, tuple[int, int, int]] = {}
        """By topic slot: level, first and last global position."""
        for index, (rows, row, topic, partition, target, debts) in enumerate(places):
            batch = batches[index]
            status = batch.status
            if status not in STORED:
                rows[row] = (topic, partition, refusal_code(status, topic), -1, -1, -1, None)
                continue
            append_time_ms = self._now_ms if target.append_time else -1
            rows[row] = (topic, partition, 0, batch.base_offset, append_time_ms, batch.log_start_offset, None)
            if target.visible_level == 0:
                visible.add(target.slot)
            elif status == STATUS_OK:
                position = batch.global_position
                known = hidden.get(target.slot)
                hidden[target.slot] = target.visible_level, position if known is None else known[1], position
            if debts is not None:
                debts.append((row, batch.global_position, target))
        for slot in visible:
            self._broker.appended.ring(slot)
        for slot, (level, first, last) in hidden.items():
            self._broker.replication.hide(slot, level, first, last)

    def answers(self, violation: str | None) -> Iterator[Answered]:
        for request, message, rows, debts in self._requests:
            if message.acks == 0:
                no_errors(rows)
                yield None
            elif debts:
                yield OwedAnswer(self._broker.replication, request, message.timeout_ms, rows, debts)
            else:
                yield wire.encode(request.version, request.correlation_id, rows)
        if violation is not None:
            raise ProtocolViolation(violation)


class OwedAnswer(Owed):
    """The answer to a request whose batches are ordered and have to become durable."""

    def __init__(
        self, replication: "Replication", request: Request, timeout_ms: int, rows: Rows, debts: "Debts"
    ) -> None:
        self._replication = replication
        self._version, self._correlation_id = request.version, request.correlation_id
        self._timeout_ms = timeout_ms
        self._deadline = waiting.now() + timeout_ms / 1000
        self._rows = rows
        self._debts = debts

    @property
    def ready(self) -> bool:
        reached = self._replication.reached
        return all(reached(position, target.ack_level) for _, position, target in self._debts)

    async def wait(self) -> None:
        for row, position, target in self._debts:
            code = await self._replication.stored(position, target.ack_level, target.insync, self._deadline)
            if code is not ErrorCode.NONE:
                topic, partition, *_ = self._rows[row]
                message = uncertain(self._replication, code, self._timeout_ms, target)
                self._rows[row] = (topic, partition, code, -1, -1, -1, message)

    def answer(self) -> bytes:
        return wire.encode(self._version, self._correlation_id, self._rows)


def uncertain(replication: "Replication", code: ErrorCode, timeout_ms: int, target: Target) -> str:
    """What is said with an error after which nothing is certain."""
    if code is ErrorCode.REQUEST_TIMED_OUT:
        return f"not durable within {timeout_ms} ms: it may become so, or be lost"
    return f"min.insync.replicas is {target.insync}, {replication.live} data directories are written"


def is_compressed(request: Request, at: int, size: int) -> bool:
    """Whether the batch of `size` bytes at `at` says so."""
    return size > ATTRIBUTES_AT and request.frame[at + ATTRIBUTES_AT] & CODEC_BITS != 0


def no_errors(rows: Rows) -> None:
    """Raises ProtocolViolation where a row is an error: with acks 0 that ends the connection."""
    for topic, partition, code, *_ in rows:
        if code:
            name = topic if isinstance(topic, str) else topic.hex()
            raise ProtocolViolation(f"produce with acks=0 to {name}-{partition}: error {int(code)}")


def refusal_code(status: int, topic: wire.TopicKey) -> ErrorCode:
    """What a batch is answered that the log refused."""
    code = error_code(status)
    if code is ErrorCode.UNKNOWN_TOPIC_OR_PARTITION and isinstance(topic, bytes):
        return ErrorCode.UNKNOWN_TOPIC_ID  # deleted while the batch was on its way
    return code


_WAITING: Final[wire.PartitionAnswer] = ("", 0, 0, -1, -1, -1, None)


def _refusal(message: wire.ProduceRequest) -> tuple[ErrorCode, str] | None:
    """Why nothing of a request is stored."""
    if message.transactional_id is not None:
        return ErrorCode.UNSUPPORTED_VERSION, "transactions are not served"
    if message.acks not in ACKS:
        return ErrorCode.INVALID_REQUIRED_ACKS, f"acks is {message.acks}, allowed are 0, 1 and -1"
    return None


def handle_group(
    broker: "Broker", requests: Sequence[Request], group: Group | None = None
) -> Iterator[Answered | Awaitable[Answered]]:
    """The answers to the first of `requests`, at least to one, in their order: complete frames, None where acks is 0,
    and what is owed where acks is all and something is not durable yet. An answer that has to be awaited comes alone:
    the request names many partitions, and they are ordered in steps.

    All else is ordered when this returns. Where a request ends the connection, the iteration raises ProtocolViolation
    behind the answers of those before it; those behind it are not served.

    Where compressed batches are opened, `group` knows what is in them (`produce_opened.handle_group`).
    """
    return broker.appender.append(broker, requests, group)


def handle(broker: "Broker", request: Request) -> Answered | Awaitable[Answered]:
    (answer,) = handle_group(broker, [request])
    return answer


API = Api(0, "Produce", 3, 13, wire.FLEXIBLE_VERSION, handle, raw=True, frame_size_max=FRAME_SIZE_MAX)
