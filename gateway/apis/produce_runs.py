"""Produce, the short way: runs of requests that are alike (`wire/alike.py`) are checked, ordered and answered by one
call of C for all of them.

A connection asks `repeat_of` about a request that `produce.py` has answered, and then hands what it receives, into its
buffer or into the region, to `answer` first. Whatever is not plainly of the same kind, or has any fault, is left for
`produce.py`: only there errors are answered, but for those that the log alone can see.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING

from totalog.gateway import waiting
from totalog.gateway.apis import produce
from totalog.gateway.apis.api import Run
from totalog.gateway.outbox import Owed
from totalog.gateway.settings import LONG_MAX
from totalog.gateway.wire import produce as wire
from totalog.gateway.wire.alike import Destination, Pattern
from totalog.gateway.wire.errors import ErrorCode

if TYPE_CHECKING:
    from totalog.engine import Reservation
    from totalog.gateway.apis.api import Request
    from totalog.gateway.broker import Broker
    from totalog.gateway.replication import Replication


@dataclass(slots=True, eq=False)
class Repeat:
    """A kind of request that a connection sends again and again, as the topics are now."""

    pattern: Pattern
    version: int
    topic: wire.TopicKey
    target: produce.Target
    acks_all: bool
    timeout_ms: int
    topics_version: int


def repeat_of(broker: "Broker", request: "Request") -> Repeat | None:
    """The kind of a request that was answered just now; None where it is not one that can be repeated the short way."""
    message = wire.parse(request.version, request.frame, request.body_at)
    if message is None or len(message.partitions) != 1 or message.acks not in (1, produce.ACKS_ALL):
        return None
    topic, _, at, size = message.partitions[0]
    if broker.appender.opens and produce.is_compressed(request, at, size):
        return None
    target = broker.appender.target(broker, topic)
    if target.partitions == 0 or not target.plain:
        return None
    compressed = not broker.appender.opens
    destination = Destination(target.slot, target.generation, target.partitions, target.size_max, compressed)
    pattern = Pattern.of(request.version, request.frame, message, destination)
    if pattern is None:
        return None
    acks_all, version = message.acks == produce.ACKS_ALL, broker.log.topics_version
    return Repeat(pattern, request.version, topic, target, acks_all, message.timeout_ms, version)


def begins(repeat: Repeat, frame: memoryview) -> bool:
    """Whether the start of a frame (without its size word) may be that of one of the kind."""
    return repeat.pattern.begins(frame)


def answer(broker: "Broker", repeat: Repeat, held: memoryview, reservation: "Reservation | None" = None) -> Run | None:
    """Answers the complete requests at the start of `held` that are of the kind; None where the first is not, or where
    the kind is not what it was. `reservation`: in which they lie, if they do not have to be copied."""
    target, pattern, log, acks_all = repeat.target, repeat.pattern, broker.log, repeat.acks_all
    if repeat.topics_version != log.topics_version or (acks_all and broker.replication.live < target.insync):
        return None
    timestamp_max = broker.clock.wall_ms() + target.ahead_ms_max
    if timestamp_max > LONG_MAX:
        timestamp_max = LONG_MAX
    segment = 0 if reservation is None else reservation.segment_for(target.slot, target.generation)
    ran = pattern.run(broker.appender.orderer, held, timestamp_max, segment)
    if ran is None:
        return None
    count, size, answers, stored, position = ran
    if segment:
        log.note_published(broker.appender.batches, count)
    if stored < count:
        batches = broker.appender.batches
        position = max(position, *(batches[index].global_position for index in range(stored, count)))
        answers += _answer_others(broker, repeat, stored, count)
    if target.visible_level == 0:
        broker.appended.ring(target.slot)
    elif position >= 0:
        first = broker.appender.batches[0].global_position
        broker.replication.hide(target.slot, target.visible_level, first, position)
    if position >= 0 and acks_all and not broker.replication.reached(position, target.ack_level):
        return count, size, OwedRun(broker, repeat, answers, count, position)
    return count, size, answers


def _answer_others(broker: "Broker", repeat: Repeat, first: int, end: int) -> bytes:
    """The answers from the first request on that the log refused."""
    batches, answers = broker.appender.batches, []
    for index, correlation_id in enumerate(broker.appender.orderer.correlation_ids(end)[first:], first):
        batch = batches[index]
        row: wire.PartitionAnswer
        if batch.status in produce.STORED:
            row = (repeat.topic, batch.partition, 0, batch.base_offset, -1, batch.log_start_offset, None)
        else:
            row = (repeat.topic, batch.partition, produce.refusal_code(batch.status, repeat.topic), -1, -1, -1, None)
        answers.append(wire.encode(repeat.version, correlation_id, [row]))
    return b"".join(answers)


class OwedRun(Owed):
    """The answers to a run whose batches are ordered and have to become durable: they share one write to disk, so they
    leave together."""

    def __init__(self, broker: "Broker", repeat: Repeat, answers: bytes, count: int, position: int) -> None:
        self._replication: Replication = broker.replication
        self._repeat = repeat
        self._answers = answers
        self._position = position
        self._deadline = waiting.now() + repeat.timeout_ms / 1000
        batches = broker.appender.batches
        self._requests = [
            (correlation_id, batches[index].partition)
            for index, correlation_id in enumerate(broker.appender.orderer.correlation_ids(count))
        ]

    @property
    def ready(self) -> bool:
        return self._replication.reached(self._position, self._repeat.target.ack_level)

    async def wait(self) -> None:
        target = self._repeat.target
        code = await self._replication.stored(self._position, target.ack_level, target.insync, self._deadline)
        if code is not ErrorCode.NONE:
            self._fail(code)

    def answer(self) -> bytes:
        return self._answers

    def _fail(self, code: ErrorCode) -> None:
        message = produce.uncertain(self._replication, code, self._repeat.timeout_ms, self._repeat.target)
        self._answers = b"".join(
            wire.encode(
                self._repeat.version,
                correlation_id,
                [(self._repeat.topic, partition, code, -1, -1, -1, message)],
            )
            for correlation_id, partition in self._requests
        )
