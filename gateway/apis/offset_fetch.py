"""OffsetFetch (key 9), versions 1-10.

Behaviour
- Never fails for a group or topic that does not exist: offset -1, leader epoch -1, metadata "" say that nothing was
  committed. Topics null (version 2 on): everything that the group has committed.
- A group named twice is answered once, and so is a partition that something was committed for: an answer is never
  larger than what is stored, and some bytes for each partition that is named. Of more than NAMES_MAX groups each is
  INVALID_REQUEST.
- COORDINATOR_NOT_AVAILABLE, for each group (before version 8 for the request, in version 1 for each partition), where
  what was committed left memory and no data directory gives it.
- Commits are stable when they are made, there being no transactions, so `require_stable` changes nothing.

Version notes: 2: null topics, top-level error. 3: throttle time. 5: leader epoch. 6: compact lengths, tagged fields.
7: require_stable (KIP-447). 8: several groups (KIP-709). 9: member id and epoch of KIP-848, not looked at. 10: topic
ids; an unknown one is UNKNOWN_TOPIC_ID.

Not implemented: version 0, which Kafka gave up too.
"""

from collections.abc import Iterable
from operator import attrgetter
from typing import TYPE_CHECKING, Any
from uuid import UUID

from totalog.gateway.apis.api import FRAME_SIZE_GROUP_MAX, Api, Request
from totalog.gateway.apis.named import TOO_MANY, Named
from totalog.gateway.broker import Unreadable
from totalog.gateway.coordinators.offset_records import Commit
from totalog.gateway.lane import Steps
from totalog.gateway.wire import codec
from totalog.gateway.wire.errors import ErrorCode

if TYPE_CHECKING:
    from totalog.gateway.broker import Broker
    from totalog.gateway.wire.rows import Rows

ERROR_FROM = 2
"""First version with an error for the whole answer."""
GROUPS_FROM = 8
"""First version with several groups in one request, each with its error."""
TOPIC_ID_FROM = 10

PARTITIONS_A_STEP = 512

NOTHING = Commit(-1, -1, "", -1)


def handle(broker: "Broker", request: Request, message: Any) -> Steps[Any]:
    version, response = request.version, codec.OffsetFetchResponse
    code = ErrorCode.NONE
    try:
        broker.offsets  # noqa: B018 (from here on they are there)
    except Unreadable:
        code = ErrorCode.COORDINATOR_NOT_AVAILABLE
    if version < GROUPS_FROM and code is not ErrorCode.NONE:
        return (yield from _unavailable(version, message))
    if version < GROUPS_FROM:
        topics = yield from Answers(broker, version, message.group_id).topics(message.topics)
        return response(version=version, throttle_time_ms=0, topics=topics, error_code=ErrorCode.NONE)
    groups, named = codec.rows(response, version), Named[Any](attrgetter("group_id"))
    yield from named.count(message.groups)
    for group, times in named.each(message.groups):
        if times == TOO_MANY or code is not ErrorCode.NONE:
            groups.append(_failed(version, group.group_id, code or ErrorCode.INVALID_REQUEST))
            if len(groups) % PARTITIONS_A_STEP == 0:
                yield
            continue
        topics = yield from Answers(broker, version, group.group_id).topics(group.topics)
        groups.append(
            response.OffsetFetchResponseGroup(
                version=version, group_id=group.group_id, topics=topics, error_code=ErrorCode.NONE
            )
        )
        yield
    return response(version=version, throttle_time_ms=0, groups=groups)


def _unavailable(version: int, message: Any) -> Steps[Any]:
    """The answer of versions before GROUPS_FROM."""
    response, code = codec.OffsetFetchResponse, ErrorCode.COORDINATOR_NOT_AVAILABLE
    answered, topics, count = response.OffsetFetchResponseTopic, codec.rows(response, version), 0
    for topic in message.topics if version < ERROR_FROM else ():
        partitions = codec.rows(response, version)
        for partition in topic.partition_indexes:
            count += 1
            if count % PARTITIONS_A_STEP == 0:
                yield
            partitions.append(
                answered.OffsetFetchResponsePartition(
                    version=version,
                    partition_index=partition,
                    committed_offset=NOTHING.offset,
                    metadata=NOTHING.metadata,
                    error_code=code,
                )
            )
        count += 1
        if count % PARTITIONS_A_STEP == 0:
            yield
        topics.append(answered(version=version, name=topic.name, partitions=partitions))
    return response(version=version, throttle_time_ms=0, topics=topics, error_code=code)


def _failed(version: int, group_id: str, code: ErrorCode) -> Any:
    return codec.OffsetFetchResponse.OffsetFetchResponseGroup(
        version=version, group_id=group_id, topics=[], error_code=code
    )


class Answers:
    """What one group has committed, as parts of the answer."""

    def __init__(self, broker: "Broker", version: int, group_id: str) -> None:
        self._broker = broker
        self._version = version
        self._by_id = version >= TOPIC_ID_FROM
        self._group_id = group_id
        response = codec.OffsetFetchResponse
        if version < GROUPS_FROM:
            self._topic = response.OffsetFetchResponseTopic
            self._partition = self._topic.OffsetFetchResponsePartition
        else:
            self._topic = response.OffsetFetchResponseGroup.OffsetFetchResponseTopics
            self._partition = self._topic.OffsetFetchResponsePartitions
        self._count = 0
        self._committed: dict[str, bytearray] = {}
        """A bit for each partition that a commit was told of, by topic."""

    def topics(self, asked: Any) -> Steps["Rows"]:
        """Of the topics that are asked for; None: all that were committed for."""
        topics = codec.rows(codec.OffsetFetchResponse, self._version)
        if asked is None:
            everything = self._broker.offsets.fetch_all(self._group_id)
            for name, partitions in [(name, sorted(commits)) for name, commits in everything.items()]:
                key = {"topic_id": _topic_id(self._broker, name)} if self._by_id else {"name": name}
                rows = yield from self._rows(name, partitions, only_committed=True)
                topics.append(self._topic(version=self._version, **key, partitions=rows))
            return topics
        for topic in asked:
            named = _topic_name(self._broker, topic.topic_id) if self._by_id else topic.name
            key = {"topic_id": topic.topic_id} if self._by_id else {"name": topic.name}
            rows = yield from self._rows(named, topic.partition_indexes)
            topics.append(self._topic(version=self._version, **key, partitions=rows))
        return topics

    def _rows(self, name: str | None, partitions: Iterable[int], *, only_committed: bool = False) -> Steps["Rows"]:
        """Of one topic; without a name: of one whose id nobody knows."""
        rows = codec.rows(codec.OffsetFetchResponse, self._version)
        code = ErrorCode.UNKNOWN_TOPIC_ID if name is None else ErrorCode.NONE
        self._count += 1
        if self._count >= PARTITIONS_A_STEP:
            self._count = 0
            yield
        for partition in partitions:
            self._count += 1
            if self._count >= PARTITIONS_A_STEP:
                self._count = 0
                yield
            commit = self._broker.offsets.fetch(self._group_id, name, partition) if name else None
            if commit is None:
                if only_committed:
                    continue  # taken back meanwhile
                commit = NOTHING
            elif self._told(name or "", partition):
                continue
            rows.append(
                self._partition(
                    version=self._version,
                    partition_index=partition,
                    committed_offset=commit.offset,
                    committed_leader_epoch=commit.leader_epoch,
                    metadata=commit.metadata,
                    error_code=code,
                )
            )
        return rows

    def _told(self, name: str, partition: int) -> bool:
        """Whether what is committed for a partition was told before; now it is."""
        told = self._committed.setdefault(name, bytearray())
        at, bit = divmod(partition, 8)
        if at >= len(told):
            told += bytes(at + 1 - len(told))
        known = bool(told[at] & 1 << bit)
        told[at] |= 1 << bit
        return known


def _topic_name(broker: "Broker", topic_id: UUID | None) -> str | None:
    handle = None if topic_id is None else broker.topics.find_id(topic_id.bytes)
    return None if handle is None else handle.name


def _topic_id(broker: "Broker", name: str) -> UUID | None:
    handle = broker.topics.find(name)
    return None if handle is None else UUID(bytes=handle.id)


API = Api(9, "OffsetFetch", 1, 10, 6, handle, frame_size_max=FRAME_SIZE_GROUP_MAX, steps=True)
