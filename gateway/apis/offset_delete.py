"""OffsetDelete (key 47), versions 0-0.

Behaviour
- Takes back what a group committed for single partitions. Their end is ordered in the log, and stored, before the
  answer leaves. What was not committed is no error.
- For each partition: UNKNOWN_TOPIC_OR_PARTITION, and GROUP_SUBSCRIBED_TO_TOPIC while a member is subscribed to the
  topic. Views are topics here, too.
- For all: INVALID_GROUP_ID for an empty one, GROUP_ID_NOT_FOUND, NON_EMPTY_GROUP for members that are no consumers;
  COORDINATOR_NOT_AVAILABLE when the log has no room, or no data directory gives what was committed.
"""

from typing import TYPE_CHECKING, Any

from totalog.gateway.apis.api import Api, Request
from totalog.gateway.broker import AppendFailed, Unreadable
from totalog.gateway.lane import Steps
from totalog.gateway.wire import codec
from totalog.gateway.wire.cursor import Turn
from totalog.gateway.wire.errors import ErrorCode

if TYPE_CHECKING:
    from totalog.gateway.broker import Broker


def handle(broker: "Broker", request: Request, message: Any) -> Steps[Any]:
    version, group_id = request.version, message.group_id
    try:
        code = broker.groups.check_delete_offsets(group_id) if group_id else ErrorCode.INVALID_GROUP_ID
        if code is not ErrorCode.NONE:
            return _refusal(version, code)
        ended: list[tuple[str, int]] = []
        topics = yield from _look_at(broker, version, message, ended)
        yield from broker.offsets.delete(group_id, ended)
    except (AppendFailed, Unreadable):
        return _refusal(version, ErrorCode.COORDINATOR_NOT_AVAILABLE)
    return codec.OffsetDeleteResponse(version=version, error_code=code, throttle_time_ms=0, topics=topics)


def _look_at(broker: "Broker", version: int, message: Any, ended: list[tuple[str, int]]) -> Steps[Any]:
    """The answer's topics; `ended` becomes the partitions that are taken back."""
    response, turn = codec.OffsetDeleteResponse.OffsetDeleteResponseTopic, Turn()
    names = set()
    for topic in message.topics:
        names.add(topic.name)
        turn.name(topic.name)
        if turn.over():
            yield
    subscribed = yield from broker.groups.subscribed(message.group_id, names)
    topics = codec.rows(codec.OffsetDeleteResponse, version)
    for topic in message.topics:
        found, partitions = broker.topics.find(topic.name), codec.rows(codec.OffsetDeleteResponse, version)
        for asked in topic.partitions:
            code = ErrorCode.NONE
            if found is None or not found.has_partition(asked.partition_index):
                code = ErrorCode.UNKNOWN_TOPIC_OR_PARTITION
            elif topic.name in subscribed:
                code = ErrorCode.GROUP_SUBSCRIBED_TO_TOPIC
            else:
                ended.append((topic.name, asked.partition_index))
            partitions.append(
                response.OffsetDeleteResponsePartition(
                    version=version, partition_index=asked.partition_index, error_code=code
                )
            )
            if turn.over(1):
                yield
        topics.append(response(version=version, name=topic.name, partitions=partitions))
        turn.name(topic.name)
        if turn.over():
            yield
    return topics


def _refusal(version: int, code: ErrorCode) -> Any:
    return codec.OffsetDeleteResponse(version=version, error_code=code, throttle_time_ms=0, topics=[])


def not_stored(version: int, answer: Any, code: ErrorCode) -> Any:
    """The answer where it is not certain that the offsets stay deleted."""
    return _refusal(version, ErrorCode.COORDINATOR_NOT_AVAILABLE)


API = Api(47, "OffsetDelete", 0, 0, 1, handle, steps=True, not_stored=not_stored)
