"""OffsetFetch (key 9), versions 1-10.

Behaviour
- Never fails for a group or topic that does not exist: offset -1, leader epoch -1, metadata "" say that nothing was
  committed. Topics null (version 2 on): everything that the group has committed.
- A group, topic or partition named twice is answered once, so that an answer is never larger than what is stored.
- Commits are stable when they are made, there being no transactions, so `require_stable` changes nothing.

Version notes: 2: null topics, top-level error. 3: throttle time. 5: leader epoch. 6: compact lengths, tagged fields.
7: require_stable (KIP-447). 8: several groups (KIP-709). 9: member id and epoch of KIP-848, not looked at. 10: topic
ids; an unknown one is UNKNOWN_TOPIC_ID.

Not implemented: version 0, which Kafka gave up too.
"""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, NamedTuple
from uuid import UUID

from totalog.gateway.apis.api import FRAME_SIZE_GROUP_MAX, Api, Request
from totalog.gateway.coordinators.offset_records import Commit
from totalog.gateway.wire import codec
from totalog.gateway.wire.errors import ErrorCode

if TYPE_CHECKING:
    from totalog.gateway.broker import Broker

GROUPS_FROM = 8
"""First version with several groups in one request."""
TOPIC_ID_FROM = 10

NOTHING = Commit(-1, -1, "", -1)


class Found(NamedTuple):
    """What a group has committed for one topic, by partition."""

    topic: dict[str, str | UUID | None]
    """The field that names the topic in this version."""
    commits: Mapping[int, Commit]
    code: ErrorCode = ErrorCode.NONE


def handle(broker: "Broker", request: Request, message: Any) -> Any:
    version, response = request.version, codec.OffsetFetchResponse
    if version < GROUPS_FROM:
        topic = response.OffsetFetchResponseTopic
        found = _look_up(broker, version, message.group_id, message.topics)
        topics = _answers(version, topic, topic.OffsetFetchResponsePartition, found)
        return response(version=version, throttle_time_ms=0, topics=topics, error_code=ErrorCode.NONE)
    answer = response.OffsetFetchResponseGroup
    topic, groups = answer.OffsetFetchResponseTopics, []
    for group in {group.group_id: group for group in message.groups}.values():
        found = _look_up(broker, version, group.group_id, group.topics)
        topics = _answers(version, topic, topic.OffsetFetchResponsePartitions, found)
        groups.append(answer(version=version, group_id=group.group_id, topics=topics, error_code=ErrorCode.NONE))
    return response(version=version, throttle_time_ms=0, groups=groups)


def _look_up(broker: "Broker", version: int, group_id: str, asked: Any) -> list[Found]:
    by_id = version >= TOPIC_ID_FROM
    if asked is None:
        return [
            Found({"topic_id": _topic_id(broker, name)} if by_id else {"name": name}, dict(sorted(commits.items())))
            for name, commits in broker.offsets.fetch_all(group_id).items()
        ]
    found = []
    for topic in {topic.topic_id if by_id else topic.name: topic for topic in asked}.values():
        name = _topic_name(broker, topic.topic_id) if by_id else topic.name
        commits = {
            partition: (broker.offsets.fetch(group_id, name, partition) if name else None) or NOTHING
            for partition in topic.partition_indexes
        }
        code = ErrorCode.UNKNOWN_TOPIC_ID if name is None else ErrorCode.NONE
        found.append(Found({"topic_id": topic.topic_id} if by_id else {"name": topic.name}, commits, code))
    return found


def _topic_name(broker: "Broker", topic_id: UUID | None) -> str | None:
    handle = None if topic_id is None else broker.topics.find_id(topic_id.bytes)
    return None if handle is None else handle.name


def _topic_id(broker: "Broker", name: str) -> UUID | None:
    handle = broker.topics.find(name)
    return None if handle is None else UUID(bytes=handle.id)


def _answers(version: int, topic: Any, partition: Any, found: list[Found]) -> list[Any]:
    """`topic` and `partition` are the classes of the version's answer."""
    return [
        topic(
            version=version,
            **each.topic,
            partitions=[
                partition(
                    version=version,
                    partition_index=index,
                    committed_offset=commit.offset,
                    committed_leader_epoch=commit.leader_epoch,
                    metadata=commit.metadata,
                    error_code=each.code,
                )
                for index, commit in each.commits.items()
            ],
        )
        for each in found
    ]


API = Api(9, "OffsetFetch", 1, 10, 6, handle, frame_size_max=FRAME_SIZE_GROUP_MAX)
