"""CreatePartitions (key 37), versions 0-3.

Behaviour
- `count` is the new total. No more than there are is INVALID_PARTITIONS, an unknown topic UNKNOWN_TOPIC_OR_PARTITION, a
  topic named twice INVALID_REQUEST for that name. The partitions exist for everyone when the answer leaves, and are
  stored; REQUEST_TIMED_OUT and NOT_ENOUGH_REPLICAS as with CreateTopics.
- Manual assignments name this broker for each new partition, else INVALID_REPLICA_ASSIGNMENT.
- Views have one partition for ever, internal topics as many as the broker gave them: INVALID_TOPIC_EXCEPTION.
- A limit of the region is POLICY_VIOLATION with a message that names it.

Version notes: 2: compact lengths, tagged fields. 3: THROTTLING_QUOTA_EXCEEDED may be answered (never is).
"""

from operator import attrgetter
from typing import TYPE_CHECKING, Any

from totalog.gateway import view
from totalog.gateway.apis.api import Api, Request
from totalog.gateway.apis.create_topics import check_assignments
from totalog.gateway.apis.named import Named, check_once
from totalog.gateway.lane import Steps
from totalog.gateway.topics import Refused, TopicHandle
from totalog.gateway.wire import codec
from totalog.gateway.wire.errors import ErrorCode

if TYPE_CHECKING:
    from totalog.gateway.broker import Broker

TOPICS_A_STEP = 16


def handle(broker: "Broker", request: Request, message: Any) -> Steps[Any]:
    named = Named[Any](attrgetter("name"))
    yield from named.count(message.topics)
    results = codec.rows(codec.CreatePartitionsResponse, request.version)
    for topic, times in named.each(message.topics):
        result = codec.CreatePartitionsResponse.CreatePartitionsTopicResult(
            version=request.version, name=topic.name, error_code=ErrorCode.NONE, error_message=None
        )
        try:
            check_once(times, f"topic {topic.name}")
            found = yield from _check(broker, topic)
            if not message.validate_only:
                broker.topics.add_partitions(found, topic.count)
        except Refused as refused:
            result.error_code, result.error_message = refused.code, refused.message
        results.append(result)
        if len(results) % TOPICS_A_STEP == 0:
            yield
    return codec.CreatePartitionsResponse(version=request.version, throttle_time_ms=0, results=results)


def _check(broker: "Broker", topic: Any) -> Steps[TopicHandle]:
    """The topic that may get this many partitions. Raises Refused."""
    found = broker.topics.find(topic.name)
    if found is None:
        raise Refused(ErrorCode.UNKNOWN_TOPIC_OR_PARTITION, f"topic {topic.name} does not exist")
    if found.is_view:
        raise Refused(ErrorCode.INVALID_TOPIC_EXCEPTION, view.refusal(topic.name, "given partitions"))
    if found.topic.internal:
        raise Refused(ErrorCode.INVALID_TOPIC_EXCEPTION, f"{topic.name} is an internal topic")
    if topic.count <= found.partitions:
        message = f"topic {topic.name} has {found.partitions} partitions; {topic.count} would not be more"
        raise Refused(ErrorCode.INVALID_PARTITIONS, message)
    if topic.assignments is not None:
        added = topic.count - found.partitions
        if len(topic.assignments) != added:
            message = f"{len(topic.assignments)} assignments for {added} new partitions"
            raise Refused(ErrorCode.INVALID_REPLICA_ASSIGNMENT, message)
        yield from check_assignments(broker, topic.assignments)
    return found


def not_stored(version: int, answer: Any, code: ErrorCode) -> Any:
    """The answer where it is not certain that the new partitions are stored."""
    for result in answer.results:
        if result.error_code == ErrorCode.NONE:
            result.error_code, result.error_message = code, code.description
    return answer


API = Api(37, "CreatePartitions", 0, 3, 2, handle, steps=True, not_stored=not_stored)
