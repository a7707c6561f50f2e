"""ElectLeaders (key 43), versions 0-2.

Behaviour
- There is one broker, which leads everything: ELECTION_NOT_NEEDED for each partition that there is, whichever election
  is asked for, UNKNOWN_TOPIC_OR_PARTITION for others. An election type that is none is INVALID_REQUEST.
- Asked for all partitions (null), it tells those whose leader has changed: none.

Version notes: 1: election types (KIP-460), top-level error. 2: compact lengths, tagged fields.
"""

from typing import TYPE_CHECKING, Any

from totalog.gateway.apis.api import Api, Request
from totalog.gateway.lane import Steps
from totalog.gateway.wire import codec
from totalog.gateway.wire.cursor import Turn
from totalog.gateway.wire.errors import ErrorCode

if TYPE_CHECKING:
    from totalog.gateway.broker import Broker

ELECTION_TYPES = (0, 1)
"""Of the preferred replica, and of any that is left."""


def handle(broker: "Broker", request: Request, message: Any) -> Steps[Any]:
    version, response, turn = request.version, codec.ElectLeadersResponse.ReplicaElectionResult, Turn()
    known = version < 1 or message.election_type in ELECTION_TYPES
    results = codec.rows(codec.ElectLeadersResponse, version)
    for asked in message.topic_partitions or ():
        topic, partitions = broker.topics.find(asked.topic), codec.rows(codec.ElectLeadersResponse, version)
        for partition in asked.partitions:
            code = ErrorCode.ELECTION_NOT_NEEDED if known else ErrorCode.INVALID_REQUEST
            if known and (topic is None or not topic.has_partition(partition)):
                code = ErrorCode.UNKNOWN_TOPIC_OR_PARTITION
            partitions.append(
                response.PartitionResult(
                    version=version, partition_id=partition, error_code=code, error_message=code.description
                )
            )
            if turn.over(1):
                yield
        results.append(response(version=version, topic=asked.topic, partition_result=partitions))
        turn.name(asked.topic)
        if turn.over():
            yield
    answer = codec.ElectLeadersResponse(version=version, throttle_time_ms=0, replica_election_results=results)
    if version >= 1:
        answer.error_code = ErrorCode.NONE if known else ErrorCode.INVALID_REQUEST
    return answer


API = Api(43, "ElectLeaders", 0, 2, 2, handle, steps=True)
