"""OffsetCommit (key 8), versions 2-10.

Behaviour
- What is accepted is ordered in the log as one batch before the answer leaves. Offsets are not compared with the log's;
  any number is accepted, as by Kafka. Views are committed like topics: partition 0, offsets of the total order.
- For each partition: UNKNOWN_TOPIC_OR_PARTITION (UNKNOWN_TOPIC_ID where the topic is named by id), the group's error,
  or OFFSET_METADATA_TOO_LARGE beyond offset.metadata.max.bytes, which counts characters, as in Kafka.
- The group's errors: UNKNOWN_MEMBER_ID, also for a commit without a generation while the group has members;
  ILLEGAL_GENERATION; FENCED_INSTANCE_ID; REBALANCE_IN_PROGRESS between the join and the assignment, but not before it:
  a member must be able to commit before it gives up its partitions. A group that does not exist comes into being by a
  commit without a generation; with one it is GROUP_ID_NOT_FOUND, before version 9 ILLEGAL_GENERATION.
- No room in the log is COORDINATOR_NOT_AVAILABLE, which clients retry; too many commits altogether POLICY_VIOLATION.

Version notes: 2-4: a retention time, not looked at (KIP-211). 3: throttle time. 6: leader epoch. 7: instance id. 8:
compact lengths, tagged fields. 9: GROUP_ID_NOT_FOUND (KIP-848). 10: topic ids (KIP-848).

Not implemented: versions 0 and 1, which Kafka gave up too; member epochs of KIP-848.
"""

from typing import TYPE_CHECKING, Any

from totalog.gateway.apis.api import FRAME_SIZE_GROUP_MAX, Api, Request
from totalog.gateway.broker import AppendFailed
from totalog.gateway.coordinators.offset_records import Commit
from totalog.gateway.coordinators.offsets import CommitsFull
from totalog.gateway.topics import TopicHandle
from totalog.gateway.wire import codec
from totalog.gateway.wire.errors import ErrorCode

if TYPE_CHECKING:
    from totalog.gateway.broker import Broker

GROUP_NOT_FOUND_FROM = 9
TOPIC_ID_FROM = 10


def handle(broker: "Broker", request: Request, message: Any) -> Any:
    version, response = request.version, codec.OffsetCommitResponse.OffsetCommitResponseTopic
    group_code = _check_group(broker, version, message)
    accepted: list[tuple[TopicHandle, int, Commit]] = []
    answered: list[Any] = []
    topics = []
    for topic in message.topics:
        handle, unknown = _find(broker, version, topic)
        partitions = []
        for asked in topic.partitions:
            code = ErrorCode.NONE
            if handle is None or not handle.has_partition(asked.partition_index):
                code = unknown
            elif group_code is not ErrorCode.NONE:
                code = group_code
            elif len(asked.committed_metadata or "") > broker.config.integer("offset.metadata.max.bytes"):
                code = ErrorCode.OFFSET_METADATA_TOO_LARGE
            else:
                accepted.append((handle, asked.partition_index, _commit(broker, version, asked)))
            partition = response.OffsetCommitResponsePartition(
                version=version, partition_index=asked.partition_index, error_code=code
            )
            partitions.append(partition)
            if code is ErrorCode.NONE:
                answered.append(partition)
        topics.append(response(version=version, name=topic.name, topic_id=topic.topic_id, partitions=partitions))
    code = _store(broker, message.group_id, accepted)
    for partition in answered:
        partition.error_code = code
    return codec.OffsetCommitResponse(version=version, throttle_time_ms=0, topics=topics)


def _check_group(broker: "Broker", version: int, message: Any) -> ErrorCode:
    code = broker.groups.check_commit(
        message.group_id, message.generation_id_or_member_epoch, message.member_id, message.group_instance_id
    )
    if code is ErrorCode.GROUP_ID_NOT_FOUND and version < GROUP_NOT_FOUND_FROM:
        return ErrorCode.ILLEGAL_GENERATION
    return code


def _find(broker: "Broker", version: int, topic: Any) -> tuple[TopicHandle | None, ErrorCode]:
    """The topic, and the error of its partitions that do not exist."""
    if version < TOPIC_ID_FROM:
        return broker.topics.find(topic.name), ErrorCode.UNKNOWN_TOPIC_OR_PARTITION
    handle = None if topic.topic_id is None else broker.topics.find_id(topic.topic_id.bytes)
    unknown = ErrorCode.UNKNOWN_TOPIC_ID if handle is None else ErrorCode.UNKNOWN_TOPIC_OR_PARTITION
    return handle, unknown


def _commit(broker: "Broker", version: int, asked: Any) -> Commit:
    leader_epoch = asked.committed_leader_epoch if version >= 6 else -1
    return Commit(asked.committed_offset, leader_epoch, asked.committed_metadata or "", broker.clock.wall_ms())


def _store(broker: "Broker", group_id: str, accepted: list[tuple[TopicHandle, int, Commit]]) -> ErrorCode:
    try:
        broker.offsets.commit(group_id, accepted)
    except AppendFailed:
        return ErrorCode.COORDINATOR_NOT_AVAILABLE
    except CommitsFull:
        return ErrorCode.POLICY_VIOLATION
    return ErrorCode.NONE


API = Api(8, "OffsetCommit", 2, 10, 8, handle, frame_size_max=FRAME_SIZE_GROUP_MAX)
