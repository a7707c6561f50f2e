"""Metadata (key 3), versions 0-13.

Behaviour
- Lists all topics, none, or those named by name or id. Total-order views are answered when they are asked for, never in
  "all topics"; internal topics are in it, as in Kafka.
- One broker, which leads every partition, is its only replica and the controller. The data directories on which a
  topic stands are no replicas in the sense of this answer: clients would look for brokers of these numbers.
- An unknown topic is created where both the broker (`auto.create.topics.enable`) and the request allow it, and is in
  the answer at once: Kafka answers UNKNOWN_TOPIC_OR_PARTITION first and creates behind it, so its clients ask again. A
  name that no topic may have gets INVALID_TOPIC_EXCEPTION. A view whose topic does not exist, and an internal topic
  that was not needed yet, are just unknown: nothing is created for them, and consumers that wait for them go on asking.
- Of more than NAMES_MAX topics that are named each is INVALID_REQUEST.
- An answer in which a topic was created leaves when the topic is stored. Where that is not certain, or nothing can be
  stored, the answer is LEADER_NOT_AVAILABLE for it, as while Kafka creates one: clients ask again.
- Written by hand: the first request of every client must not wait for the codec, and a list of 1,000 topics costs a
  fraction of what the library takes. Tests compare with the library byte for byte.

Version notes
- 0: an empty list asks for all topics; from 1 on null does, and an empty list asks for none.
- 4: allow_auto_topic_creation (KIP-204). 7: leader epoch (KIP-320). 8: authorized operations (KIP-430).
- 9: compact lengths and tagged fields. 10: topic ids (KIP-516). 12: topics may be asked by id alone; with both the id
  counts. Before that a request with an id is INVALID_REQUEST, for all its topics.
- 11: the cluster's authorized operations moved to DescribeCluster. 13: a top-level error code.

Not implemented: racks, offline replicas; there are none.
"""

from collections.abc import Iterator
from functools import cache
from struct import Struct, pack
from typing import TYPE_CHECKING, NamedTuple

from totalog.gateway import view
from totalog.gateway.apis.api import CLUSTER_OPERATIONS, TOPIC_OPERATIONS, VIEW_OPERATIONS, Api, Frame, Request, bits
from totalog.gateway.apis.named import NAMES_A_STEP, TOO_MANY, Named
from totalog.gateway.lane import Steps
from totalog.gateway.limits import ELEMENTS_COUNT_MAX
from totalog.gateway.topics import Refused, TopicHandle, check_name, is_hidden, is_reserved
from totalog.gateway.wire import codec
from totalog.gateway.wire.cursor import Cursor
from totalog.gateway.wire.encode import count, frame_around, string, tags
from totalog.gateway.wire.errors import ErrorCode, ProtocolViolation

if TYPE_CHECKING:
    from totalog.gateway.broker import Broker

COST_A_STEP = 2048
CREATION_COST = 128
"""Against that of one partition."""

LEADER_EPOCH_FROM = 7
FLEXIBLE_FROM = 9
TOPIC_IDS_FROM = 10
BY_ID_FROM = 12
"""First version in which a topic may be asked for by its id."""
NO_ID = bytes(16)
NOT_ASKED = -(2**31)


class Asked(NamedTuple):
    """A request's body."""

    topics: "TopicsAsked | None"
    """None asks for all of them."""
    ids_too_early: bool
    """It has a topic's id, in a version in which that is refused."""
    may_create: bool
    cluster_operations: bool
    topic_operations: bool


class TopicsAsked:
    """The topics that a request names, each by its id, or, where that is zero, by its name. They are read from the
    frame each time."""

    def __init__(self, cursor: Cursor, version: int, count: int) -> None:
        self._frame, self._at = cursor.buffer, cursor.position
        self._version = version
        self._count = count

    def __len__(self) -> int:
        return self._count

    def __iter__(self) -> Iterator[tuple[bytes, str | None]]:
        cursor = Cursor(self._frame, self._at)
        for _ in range(self._count):
            yield _parse_topic(cursor, self._version)


def handle(broker: "Broker", request: Request) -> Steps[Frame]:
    version, flexible = request.version, request.version >= FLEXIBLE_FROM
    asked = yield from parse(request)
    topics_count, topics = yield from (_all if asked.topics is None else _named)(broker, version, asked)
    before = [pack(">i", 0)] if version >= 3 else []
    before += [count(1, flexible), pack(">i", broker.node_id), string(broker.host, flexible), pack(">i", broker.port)]
    if version >= 1:
        before.append(string(None, flexible))  # rack
    before.append(tags(flexible))
    if version >= 2:
        before.append(string(broker.cluster_id, flexible))
    if version >= 1:
        before.append(pack(">i", broker.node_id))  # controller
    before.append(count(topics_count, flexible))
    behind = []
    if 8 <= version <= 10:
        behind.append(pack(">i", bits(CLUSTER_OPERATIONS) if asked.cluster_operations else NOT_ASKED))
    if version >= 13:
        behind.append(pack(">h", ErrorCode.NONE))
    behind.append(tags(flexible))
    return frame_around(request.correlation_id, flexible, before, topics, behind)


def parse(request: Request) -> Steps[Asked]:
    """Raises ProtocolViolation."""
    cursor, version = Cursor(request.frame, request.body_at), request.version
    flexible = version >= FLEXIBLE_FROM
    if flexible:
        number = cursor.compact_nullable_array_count(18 if version >= TOPIC_IDS_FROM else 2)
    else:
        number = cursor.nullable_array_count(2) if version >= 1 else cursor.array_count(2) or None
    topics = None if number is None else TopicsAsked(cursor, version, number)
    if number is not None and number > ELEMENTS_COUNT_MAX:
        raise ProtocolViolation(f"{number} topics in one Metadata request, limit {ELEMENTS_COUNT_MAX}")
    ids_too_early = False
    for place in range(number or 0):
        topic_id, _ = _parse_topic(cursor, version)
        ids_too_early |= topic_id != NO_ID and version < BY_ID_FROM
        if place % NAMES_A_STEP == NAMES_A_STEP - 1:
            yield
    may_create = cursor.int8() != 0 if version >= 4 else True
    cluster_operations = cursor.int8() != 0 if 8 <= version <= 10 else False
    topic_operations = cursor.int8() != 0 if version >= 8 else False
    if flexible:
        cursor.skip_tagged_fields()
    return Asked(topics, ids_too_early, may_create, cluster_operations, topic_operations)


def _parse_topic(cursor: Cursor, version: int) -> tuple[bytes, str | None]:
    if version < FLEXIBLE_FROM:
        return NO_ID, cursor.string()
    if version < TOPIC_IDS_FROM:
        asked: tuple[bytes, str | None] = (NO_ID, cursor.compact_string())
    else:
        topic_id, name = cursor.uuid(), cursor.compact_nullable_string()
        asked = (NO_ID, name) if topic_id == NO_ID else (topic_id, None)
    cursor.skip_tagged_fields()
    return asked


def _all(broker: "Broker", version: int, asked: Asked) -> Steps[tuple[int, bytearray]]:
    """How many entries, and the entries."""
    entries = Entries(broker, version, asked)
    answers, answers_count = bytearray(), 0
    for handle in broker.topics.all():
        entry = yield from entries.topic(handle)
        if entry is not None:
            answers = _behind(answers, entry)
            answers_count += 1
    return answers_count, answers


def _named(broker: "Broker", version: int, asked: Asked) -> Steps[tuple[int, bytearray]]:
    """One entry for each different topic that was asked for."""
    assert asked.topics is not None
    entries, named = Entries(broker, version, asked), Named[tuple[bytes, str | None]](tuple)
    yield from named.count(asked.topics)
    answers, answers_count = bytearray(), 0
    for (topic_id, name), times in named.each(asked.topics):
        found: TopicHandle | ErrorCode
        topics_version = broker.log.topics_version
        if times == TOO_MANY or asked.ids_too_early:
            found = ErrorCode.INVALID_REQUEST
        elif topic_id != NO_ID:
            found = broker.topics.find_id(topic_id) or ErrorCode.UNKNOWN_TOPIC_ID
        else:
            found = _find_or_create(broker, asked, name or "")
        entry = None if isinstance(found, ErrorCode) else (yield from entries.topic(found))
        if entry is None:
            gone = ErrorCode.UNKNOWN_TOPIC_OR_PARTITION if topic_id == NO_ID else ErrorCode.UNKNOWN_TOPIC_ID
            entry = _error(version, found if isinstance(found, ErrorCode) else gone, topic_id, name)
        answers = _behind(answers, entry)
        answers_count += 1
        created = broker.log.topics_version != topics_version
        yield from entries.count(CREATION_COST if created else 1)
    return answers_count, answers


def _behind(entries: bytearray, entry: bytearray) -> bytearray:
    """Both, one behind the other: the first entry, which may be large, is not copied."""
    if not entries:
        return entry
    entries += entry
    return entries


def _find_or_create(broker: "Broker", asked: Asked, name: str) -> TopicHandle | ErrorCode:
    handle = broker.topics.find(name)
    if handle is not None and not is_hidden(name):
        return handle
    try:
        if view.is_view_name(name) or is_reserved(name):
            return ErrorCode.UNKNOWN_TOPIC_OR_PARTITION
        if not (asked.may_create and broker.config.boolean("auto.create.topics.enable")):
            check_name(name)
            return ErrorCode.UNKNOWN_TOPIC_OR_PARTITION
        return broker.topics.create(name, partitions=broker.config.integer("num.partitions"))
    except Refused as refused:
        return ErrorCode.LEADER_NOT_AVAILABLE if refused.code is ErrorCode.NOT_ENOUGH_REPLICAS else refused.code


def _error(version: int, code: ErrorCode, topic_id: bytes, name: str | None) -> bytearray:
    """The entry of a topic that there is not. A topic asked for by name has one, and before version 12 all others
    too."""
    if name is None and (version < 12 or topic_id == NO_ID):
        name = ""
    return _entry(version, code, name, topic_id, False, 0, bytearray(), NOT_ASKED)


class Entries:
    """Entries of topics, made in steps: what costs time is counted."""

    def __init__(self, broker: "Broker", version: int, asked: Asked) -> None:
        self._broker = broker
        self._version = version
        self._operations = asked.topic_operations
        self._cost = 0

    def count(self, cost: int) -> Steps[None]:
        self._cost += cost
        if self._cost >= COST_A_STEP:
            self._cost = 0
            yield

    def topic(self, handle: TopicHandle) -> Steps[bytearray | None]:
        """None when the topic is gone before its entry is complete."""
        found: TopicHandle | None = handle
        partitions = bytearray()
        for start in range(0, handle.partitions, COST_A_STEP):
            yield from self.count(min(handle.partitions - start, COST_A_STEP))
            found = self._broker.topics.find_id(handle.id)
            if found is None:
                return None
            self._add(partitions, found, range(start, min(handle.partitions, start + COST_A_STEP)))
        operations = NOT_ASKED
        if self._operations:
            operations = bits(VIEW_OPERATIONS if handle.is_view else TOPIC_OPERATIONS)
        internal = handle.topic.internal
        named = handle.name, handle.id, internal
        return _entry(self._version, ErrorCode.NONE, *named, handle.partitions, partitions, operations)

    def _add(self, partitions: bytearray, handle: TopicHandle, numbers: range) -> None:
        node_id, topic, bounds = self._broker.node_id, handle.topic, self._broker.log.bounds
        layout, tail = _partition_layout(self._version, node_id)
        if self._version < LEADER_EPOCH_FROM:
            for index in numbers:
                partitions += layout.pack(0, index, node_id, *tail)
            return
        for index in numbers:
            leader_epoch = bounds(topic, handle.read_partition(index)).leader_epoch
            partitions += layout.pack(0, index, node_id, leader_epoch, *tail)


def _entry(
    version: int,
    code: ErrorCode,
    name: str | None,
    topic_id: bytes,
    internal: bool,
    partition_count: int,
    partitions: bytearray,
    operations: int,
) -> bytearray:
    """The entry around its partitions, which become part of it."""
    flexible = version >= FLEXIBLE_FROM
    head = pack(">h", code) + string(name, flexible)
    if version >= TOPIC_IDS_FROM:
        head += topic_id
    if version >= 1:
        head += pack(">?", internal)
    partitions[:0] = head + count(partition_count, flexible)
    if version >= 8:
        partitions += pack(">i", operations)
    partitions += tags(flexible)
    return partitions


@cache
def _partition_layout(version: int, node_id: int) -> tuple[Struct, tuple[int, ...]]:
    """How a partition without error is packed: error 0, index, leader, leader epoch from version 7 on, and then always
    the same: one replica, which is in sync, and none offline."""
    flexible = version >= FLEXIBLE_FROM
    one, number = ("B", 2) if flexible else ("i", 1)
    tail = [number, node_id, number, node_id]
    layout = f">hii{'i' if version >= 7 else ''}{one}i{one}i"
    if version >= 5:
        layout += one
        tail.append(number - 1)
    if flexible:
        layout += "B"
        tail.append(0)
    return Struct(layout), tuple(tail)


def not_stored(version: int, answer: Frame, code: ErrorCode) -> Frame:
    """The answer where it is not certain that what was created for it is stored: ask again for all of it."""
    message = codec.MetadataResponse.decode(bytes(answer[4:]), version=version, header=True)
    for topic in message.topics:
        if topic.error_code == ErrorCode.NONE:
            topic.error_code, topic.partitions = ErrorCode.LEADER_NOT_AVAILABLE, []
    return codec.encode(message, message.header.correlation_id)


API = Api(3, "Metadata", 0, 13, FLEXIBLE_FROM, handle, raw=True, steps=True, not_stored=not_stored)
