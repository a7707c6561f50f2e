"""AlterPartitionReassignments (key 45), versions 0-1.

Behaviour
- Clients see one broker, so a partition can only be assigned to it, where it is already: nothing moves. Other replicas
  are INVALID_REPLICA_ASSIGNMENT; to end a reassignment (null) is NO_REASSIGNMENT_IN_PROGRESS.
- UNKNOWN_TOPIC_OR_PARTITION.

Version notes: 1: whether the replication factor may change; it does not.
"""

from itertools import islice
from typing import TYPE_CHECKING, Any

from totalog.gateway.apis.api import Api, Request
from totalog.gateway.lane import Steps
from totalog.gateway.wire import codec
from totalog.gateway.wire.cursor import Turn
from totalog.gateway.wire.errors import ErrorCode

if TYPE_CHECKING:
    from totalog.gateway.broker import Broker
    from totalog.gateway.topics import TopicHandle

REPLICAS_TOLD = 8


def handle(broker: "Broker", request: Request, message: Any) -> Steps[Any]:
    version, response = request.version, codec.AlterPartitionReassignmentsResponse
    responses, turn = codec.rows(response, version), Turn()
    for topic in message.topics:
        found, partitions = broker.topics.find(topic.name), codec.rows(response, version)
        for asked in topic.partitions:
            code, text = _check(broker, found, asked)
            partitions.append(
                response.ReassignableTopicResponse.ReassignablePartitionResponse(
                    version=version, partition_index=asked.partition_index, error_code=code, error_message=text
                )
            )
            if turn.over(1):
                yield
        responses.append(response.ReassignableTopicResponse(version=version, name=topic.name, partitions=partitions))
        turn.name(topic.name)
        if turn.over():
            yield
    answer = response(version=version, throttle_time_ms=0, error_code=ErrorCode.NONE, responses=responses)
    if version >= 1:
        answer.allow_replication_factor_change = message.allow_replication_factor_change
    return answer


def _check(broker: "Broker", topic: "TopicHandle | None", asked: Any) -> tuple[ErrorCode, str | None]:
    """The error code of one partition, and what it means."""
    if topic is None or not topic.has_partition(asked.partition_index):
        return ErrorCode.UNKNOWN_TOPIC_OR_PARTITION, ErrorCode.UNKNOWN_TOPIC_OR_PARTITION.description
    if asked.replicas is None:
        return ErrorCode.NO_REASSIGNMENT_IN_PROGRESS, ErrorCode.NO_REASSIGNMENT_IN_PROGRESS.description
    replicas = list(islice(asked.replicas, REPLICAS_TOLD))
    if replicas != [broker.node_id]:
        return ErrorCode.INVALID_REPLICA_ASSIGNMENT, f"replicas {replicas}: the only broker is {broker.node_id}"
    return ErrorCode.NONE, None


API = Api(45, "AlterPartitionReassignments", 0, 1, 0, handle, steps=True)
