"""OffsetCommit (key 8), versions 2-10.

Behaviour
- What is accepted is ordered in the log, and stored, before the answer leaves: as one batch, or as several where it is
  much, between which others get their turn. A batch is stored whole or not at all. Offsets are not compared with the
  log's; any number is accepted, as by Kafka. Views are committed like topics: partition 0, offsets of the total order.
- For each partition: UNKNOWN_TOPIC_OR_PARTITION (UNKNOWN_TOPIC_ID where the topic is named by id), the group's error,
  or OFFSET_METADATA_TOO_LARGE beyond offset.metadata.max.bytes, which counts characters, as in Kafka.
- The group's errors: UNKNOWN_MEMBER_ID, also for a commit without a generation while the group has members;
  ILLEGAL_GENERATION; FENCED_INSTANCE_ID; REBALANCE_IN_PROGRESS between the join and the assignment, but not before it:
  a member must be able to commit before it gives up its partitions. A group that does not exist comes into being by a
  commit without a generation; with one it is GROUP_ID_NOT_FOUND, before version 9 ILLEGAL_GENERATION.
- Where a long group id is repeated for so many partitions that the records would pass TEXT_SIZE_MAX, nothing is stored:
  INVALID_COMMIT_OFFSET_SIZE, as from Kafka for what does not fit into one batch.
- No room in the log, no data directory left, not stored in time, or earlier commits that no data directory gives, is
  COORDINATOR_NOT_AVAILABLE, which clients retry; too many commits altogether POLICY_VIOLATION.

Version notes: 2-4: a retention time, not looked at (KIP-211). 3: throttle time. 6: leader epoch. 7: instance id. 8:
compact lengths, tagged fields. 9: GROUP_ID_NOT_FOUND (KIP-848). 10: topic ids (KIP-848).

Not implemented: versions 0 and 1, which Kafka gave up too; member epochs of KIP-848.
"""

from typing import TYPE_CHECKING, Any

from totalog.gateway.apis.api import FRAME_SIZE_GROUP_MAX, Api, Request
from totalog.gateway.broker import AppendFailed, CommitsFull, Unreadable
from totalog.gateway.coordinators.offset_records import Commit
from totalog.gateway.lane import Steps
from totalog.gateway.limits import COMMIT_BATCH_COUNT_MAX, COMMIT_BATCH_SIZE_MAX
from totalog.gateway.topics import TopicHandle
from totalog.gateway.wire import codec
from totalog.gateway.wire.errors import ErrorCode

if TYPE_CHECKING:
    from totalog.gateway.broker import Broker
    from totalog.gateway.wire.rows import Rows

TEXT_SIZE_MAX = 32 << 20
"""Bytes of group id and topic names in the records of one request, a record for each partition: enough for every
partition of a region under ordinary names."""

TOPICS_A_STEP = 1024
GROUP_NOT_FOUND_FROM = 9
TOPIC_ID_FROM = 10


def handle(broker: "Broker", request: Request, message: Any) -> Steps[Any]:
    version, response = request.version, codec.OffsetCommitResponse.OffsetCommitResponseTopic
    text_size = yield from _text_size(message)
    commits = Commits(broker, version, message, text_size > TEXT_SIZE_MAX)
    topics = codec.rows(codec.OffsetCommitResponse, version)
    for topic in message.topics:
        handle, unknown = _find(broker, version, topic)
        partitions = codec.rows(codec.OffsetCommitResponse, version)
        for asked in topic.partitions:
            if commits.full:
                commits.store()
                yield
                handle, unknown = _find(broker, version, topic)
            partition = response.OffsetCommitResponsePartition(version=version, partition_index=asked.partition_index)
            commits.add(partition, partitions, handle, unknown, asked)
        named = response(version=version, name=topic.name, topic_id=topic.topic_id, partitions=partitions)
        commits.end_topic(named, topics)
        if commits.full:
            commits.store()
            yield
    commits.store()
    return codec.OffsetCommitResponse(version=version, throttle_time_ms=0, topics=topics)


class Commits:
    """What one request commits, taken in and stored piece by piece."""

    def __init__(self, broker: "Broker", version: int, message: Any, too_large: bool) -> None:
        self._broker = broker
        self._version = version
        self._message = message
        self._too_large = too_large
        self._group_code = self._check_group()
        self._accepted: list[tuple[TopicHandle, int, Commit]] = []
        self._answered: list[Any] = []
        """Of each that is accepted, its part of the answer."""
        self._told: list[tuple[Any, Rows]] = []
        """Parts of the answer since the last store, each with where it goes."""
        self._count = self._size = 0
        """Partitions and topics since the last store, and bytes of what is accepted."""

    @property
    def full(self) -> bool:
        return self._count >= COMMIT_BATCH_COUNT_MAX or self._size >= COMMIT_BATCH_SIZE_MAX

    def add(self, partition: Any, target: "Rows", handle: TopicHandle | None, unknown: ErrorCode, asked: Any) -> None:
        self._count += 1
        self._told.append((partition, target))
        code, metadata = self._group_code, asked.committed_metadata or ""
        if handle is None or not handle.has_partition(asked.partition_index):
            code = unknown
        elif code is ErrorCode.NONE and len(metadata) > self._broker.config.integer("offset.metadata.max.bytes"):
            code = ErrorCode.OFFSET_METADATA_TOO_LARGE
        elif code is ErrorCode.NONE:
            leader_epoch = asked.committed_leader_epoch if self._version >= 6 else -1
            commit = Commit(asked.committed_offset, leader_epoch, metadata, self._broker.clock.wall_ms())
            self._accepted.append((handle, asked.partition_index, commit))
            self._answered.append(partition)
            self._size += len(self._message.group_id) + len(handle.name) + len(metadata)
        partition.error_code = code

    def end_topic(self, topic: Any, target: "Rows") -> None:
        self._count += 1
        self._told.append((topic, target))

    def store(self) -> None:
        """Orders what is accepted. The group is looked at again afterwards: its members may change meanwhile."""
        code = self._store()
        for partition in self._answered:
            partition.error_code = code
        for part, target in self._told:
            target.append(part)
        self._accepted, self._answered, self._told = [], [], []
        self._count = self._size = 0
        self._group_code = self._check_group()

    def _store(self) -> ErrorCode:
        try:
            self._broker.offsets.commit(self._message.group_id, self._accepted)
        except (AppendFailed, Unreadable):
            return ErrorCode.COORDINATOR_NOT_AVAILABLE
        except CommitsFull:
            return ErrorCode.POLICY_VIOLATION
        return ErrorCode.NONE

    def _check_group(self) -> ErrorCode:
        message = self._message
        try:
            code = self._broker.groups.check_commit(
                message.group_id, message.generation_id_or_member_epoch, message.member_id, message.group_instance_id
            )
        except Unreadable:
            return ErrorCode.COORDINATOR_NOT_AVAILABLE
        if code is ErrorCode.GROUP_ID_NOT_FOUND and self._version < GROUP_NOT_FOUND_FROM:
            return ErrorCode.ILLEGAL_GENERATION
        if code is ErrorCode.NONE and self._too_large:
            return ErrorCode.INVALID_COMMIT_OFFSET_SIZE
        return code


def _text_size(message: Any) -> Steps[int]:
    """Bytes of the ids and names in all records that the request would become."""
    group_size, size = len(message.group_id), 0
    for number, topic in enumerate(message.topics, 1):
        size += (group_size + len(topic.name or "")) * len(topic.partitions)
        if number % TOPICS_A_STEP == 0:
            yield
    return size


def _find(broker: "Broker", version: int, topic: Any) -> tuple[TopicHandle | None, ErrorCode]:
    """The topic, and the error of its partitions that do not exist."""
    if version < TOPIC_ID_FROM:
        return broker.topics.find(topic.name), ErrorCode.UNKNOWN_TOPIC_OR_PARTITION
    handle = None if topic.topic_id is None else broker.topics.find_id(topic.topic_id.bytes)
    unknown = ErrorCode.UNKNOWN_TOPIC_ID if handle is None else ErrorCode.UNKNOWN_TOPIC_OR_PARTITION
    return handle, unknown


def not_stored(version: int, answer: Any, code: ErrorCode) -> Any:
    """The answer where it is not certain that the commits are stored."""
    for topic in answer.topics:
        for partition in topic.partitions:
            if partition.error_code == ErrorCode.NONE:
                partition.error_code = ErrorCode.COORDINATOR_NOT_AVAILABLE
    return answer


API = Api(8, "OffsetCommit", 2, 10, 8, handle, frame_size_max=FRAME_SIZE_GROUP_MAX, steps=True, not_stored=not_stored)
