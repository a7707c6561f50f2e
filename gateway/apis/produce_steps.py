"""Produce, the long way: a request of many partitions is handled in steps, between which all others get their turn.

Its partitions are read from its frame, some at a time, and their batches ordered as those of a small request are
(`produce.Group`); their rows of the answer are encoded at once. So it takes its frame, its answer, and not much more.
Between two steps batches of others may be ordered. Where the request is refused as a whole it is so before the first
step that orders anything; with acks 0 an error ends the connection, but only behind the last partition.
"""

from array import array
from typing import TYPE_CHECKING

from totalog.gateway import waiting
from totalog.gateway.apis import produce
from totalog.gateway.limits import STEP_COUNT_MAX
from totalog.gateway.outbox import Owed
from totalog.gateway.wire import produce as wire
from totalog.gateway.wire.cursor import Turn
from totalog.gateway.wire.errors import ErrorCode, ProtocolViolation

if TYPE_CHECKING:
    from totalog.gateway.apis.api import Request
    from totalog.gateway.broker import Broker
    from totalog.gateway.lane import Steps
    from totalog.gateway.replication import Replication


def handle(broker: "Broker", request: "Request", group: produce.Group) -> "Steps[bytearray | Owed | None]":
    """The answer, as `produce.handle_group` has it. `group` makes others, for a step each. Raises ProtocolViolation."""
    message = yield from wire.parse_in_steps(request.version, request.frame, request.body_at)
    answering = _Answering(broker, request, message, group)
    turn = Turn()
    for topic, partitions in message.topics:
        turn.name(topic)
        if len(partitions):
            answering.topic(topic, len(partitions))
        for partition, at, size in partitions:
            answering.partition(topic, partition, at, size)
            if turn.over(1):
                answering.order()
                yield
        if turn.over():
            answering.order()
            yield
    answering.order()
    return answering.finish()


class _Answering:
    """One request, and what is answered to it so far."""

    def __init__(
        self, broker: "Broker", request: "Request", message: wire.LargeProduceRequest, group: produce.Group
    ) -> None:
        self._broker = broker
        self._group = group
        self._request = request
        self._message = message
        self._writer = wire.AnswerWriter(request.version, request.correlation_id, message.answered)
        self._topics: list[tuple[int, wire.TopicKey, int]] = []
        """Before which of the partitions that wait a topic begins, the topic, and how many partitions it has."""
        self._partitions: list[wire.PartitionRecords] = []
        """They wait to be ordered."""
        self._debts = OwedRows()
        self._violation = ""
        """The text of the first one, since an exception that is kept would hold this."""

    def topic(self, topic: wire.TopicKey, partition_count: int) -> None:
        self._topics.append((len(self._partitions), topic, partition_count))

    def partition(self, topic: wire.TopicKey, partition: int, at: int, size: int) -> None:
        self._partitions.append((topic, partition, at, size))

    def order(self) -> None:
        """Has the batches that wait ordered, and answers their partitions."""
        partitions, self._partitions = self._partitions, []
        if not partitions:
            return
        topics, self._topics = self._topics, []
        message, group = self._message, self._group.another()
        acks = message.acks or 1  # what 0 does not allow is found below
        some = wire.ProduceRequest(message.transactional_id, acks, message.timeout_ms, partitions)
        group.add(self._request, some)
        group.order()
        rows, debts = group.last
        if message.acks == 0:
            self._look_for_errors(rows)
            return
        owed = {number: (position, target) for number, position, target in debts}
        begins = iter(topics)
        begin = next(begins, None)
        for number, row in enumerate(rows):
            while begin is not None and begin[0] == number:
                self._writer.topic(*begin[1:])
                begin = next(begins, None)
            extent = self._writer.row(row)
            if number in owed:
                self._debts.add(extent, *owed[number])
        assert begin is None, "a topic without partitions"

    def _look_for_errors(self, rows: produce.Rows) -> None:
        try:
            produce.no_errors(rows)
        except ProtocolViolation as fault:
            self._violation = self._violation or str(fault)

    def finish(self) -> "bytearray | Owed | None":
        if self._violation:
            raise ProtocolViolation(self._violation)
        if self._message.acks == 0:
            return None
        frame = self._writer.finish()
        if not self._debts:
            return frame
        return OwedLarge(self._broker.replication, self._request.version, self._message.timeout_ms, frame, self._debts)


class OwedRows:
    """Rows of one frame that are answered when global positions are durable."""

    def __init__(self) -> None:
        self.targets: list[produce.Target] = []
        self.positions_max: list[int] = []
        """What goes to topics with the same demands: one of them, and the last position of all."""
        self._kinds: dict[tuple[int, int], int] = {}
        # Of each row: where it begins and ends, its position, and to which of the above it belongs.
        self.begins, self.ends, self.positions, self.kinds = array("I"), array("I"), array("q"), array("I")

    def __len__(self) -> int:
        return len(self.begins)

    def add(self, extent: tuple[int, int], position: int, target: produce.Target) -> None:
        kind = self._kinds.setdefault((target.ack_level, target.insync), len(self.targets))
        if kind == len(self.targets):
            self.targets.append(target)
            self.positions_max.append(position)
        self.positions_max[kind] = max(self.positions_max[kind], position)
        self.begins.append(extent[0])
        self.ends.append(extent[1])
        self.positions.append(position)
        self.kinds.append(kind)


class OwedLarge(Owed):
    """`produce.OwedAnswer` of many rows, which are encoded already."""

    def __init__(
        self, replication: "Replication", version: int, timeout_ms: int, frame: bytearray, debts: OwedRows
    ) -> None:
        self._replication = replication
        self._version = version
        self._timeout_ms = timeout_ms
        self._deadline = waiting.now() + timeout_ms / 1000
        self._frame = frame
        self._debts = debts

    @property
    def ready(self) -> bool:
        reached = self._replication.reached
        wanted = zip(self._debts.positions_max, self._debts.targets, strict=True)
        return all(reached(position, target.ack_level) for position, target in wanted)

    async def wait(self) -> None:
        codes = [
            await self._replication.stored(position, target.ack_level, target.insync, self._deadline)
            for position, target in zip(self._debts.positions_max, self._debts.targets, strict=True)
        ]
        if any(code is not ErrorCode.NONE for code in codes):
            await self._fail(codes)

    def answer(self) -> bytearray:
        return self._frame

    async def _fail(self, codes: list[ErrorCode]) -> None:
        """Puts another row in place of each that is not durable, though it is not known to be lost."""
        debts, frame, at = self._debts, bytearray(), 0
        for number, (begin, end) in enumerate(zip(debts.begins, debts.ends, strict=True), 1):
            if number % STEP_COUNT_MAX == 0:
                await waiting.yield_once()
            kind = debts.kinds[number - 1]
            code, target = codes[kind], debts.targets[kind]
            if code is ErrorCode.NONE or self._replication.reached(debts.positions[number - 1], target.ack_level):
                continue
            frame += self._frame[at:begin]
            partition = int.from_bytes(self._frame[begin : begin + 4], "big", signed=True)
            message = produce.uncertain(self._replication, code, self._timeout_ms, target)
            frame += wire.row(self._version, ("", partition, code, -1, -1, -1, message))
            at = end
        frame += self._frame[at:]
        wire.sized(frame)
        self._frame = frame
