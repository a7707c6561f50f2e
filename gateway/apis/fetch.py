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
- Where something can be sent at once, each partition takes one read, and nothing is waited for (`fetch_answers`).
  Batches of LENT_SIZE_MIN bytes or more are then sent from where they lie: the log lends them until the socket has
  taken them, or until the answer would have to wait.
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

from collections.abc import Awaitable
from dataclasses import replace
from typing import TYPE_CHECKING, Final

from totalog.gateway import lane, waiting
from totalog.gateway.apis.api import Api, Request
from totalog.gateway.apis.fetch_answers import ANSWER_SIZE_MAX, READ_UNCOMMITTED, Assembly, AtOnce, look
from totalog.gateway.limits import STEP_COUNT_MAX
from totalog.gateway.wire import fetch as wire
from totalog.gateway.wire.answer import Answer
from totalog.gateway.wire.cursor import Turn
from totalog.gateway.wire.errors import ErrorCode

if TYPE_CHECKING:
    from totalog.gateway.broker import Broker
    from totalog.gateway.lane import Steps

WAIT_S_MAX: Final = 60.0
"""Of one long poll, whatever the client asks: then it gets an answer, empty if need be, and asks again."""

ANSWER_SIZE_PRESSED: Final = 32 * 1024
"""Bytes of records in one answer while many have not been taken: with what is around them, a buffer of the smallest
size."""

AT_ONCE_MAX: Final = 64
"""Partitions, and topics, of a request that is answered in one go. Where it turns out that there is nothing to
send, all of them are looked at again before it waits."""

LOOK_AGAIN_S: Final = 0.05
"""Until the next look, where something may have come behind the last one."""

POLLED_MAX: Final = 500_000
"""Partitions, or topics, that all long polls together wait for; each takes up to 200 bytes, and is looked at again
whenever something comes. Who asks for more is answered at once."""

FRAME_SIZE_MAX: Final = 2 * 1024 * 1024
"""Bytes of one request: it names as many partitions as a region holds."""

FULL_FETCH_EPOCHS: Final = (0, wire.NO_SESSION_EPOCH)


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
            handle = broker.topics.find_key(key)
            if handle is not None:
                self.slots.add(handle.topic.slot)
            for asked in partitions:
                if turn.over(1):
                    self.large = True
                    yield
                    handle = broker.topics.find_key(key)
                part = look(broker.log, handle, key, null, asked)
                self.failed |= part.error_code != 0
                self.size += part.size
                self.size_most += max(asked[3], 1)  # no room at all still gets a first batch
            if turn.over():
                self.large = True
                yield
        return self


async def _survey(broker: "Broker", message: wire.FetchRequest) -> Survey:
    """One of many partitions takes its time, in turn with others that do."""
    steps = Survey().look(broker, message)
    if len(message.topics) + message.partition_count <= STEP_COUNT_MAX:
        return lane.finish(steps)
    return await broker.lane.run(steps, message.overhead)


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


def _at_once(broker: "Broker", request: Request, message: wire.FetchRequest, size_max: int) -> Answer | None:
    """The answer, if there is something to send, and all of it can be: from memory, and of not too many partitions."""
    if len(message.topics) > AT_ONCE_MAX or message.partition_count > AT_ONCE_MAX:
        return None
    size_max = pressed(broker, size_max)
    return AtOnce(broker, request, message, size_max).answer()


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
    return await Assembly(broker, request, message, min(survey.size, size_max)).answer()


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
