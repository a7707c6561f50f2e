"""DeleteTopics (key 20), versions 1-6.

Behaviour
- By name, from version 6 on by id too; a topic is gone for everyone when the answer leaves, and its memory with it. It
  stays gone: that is stored too; REQUEST_TIMED_OUT and NOT_ENOUGH_REPLICAS as with CreateTopics.
- Unknown names are UNKNOWN_TOPIC_OR_PARTITION, unknown ids UNKNOWN_TOPIC_ID. A topic named twice, by both name and id,
  or by neither, is INVALID_REQUEST for that entry, and stays.
- Views and internal topics cannot be deleted: INVALID_TOPIC_EXCEPTION.
- With `delete.topic.enable=false` every entry is TOPIC_DELETION_DISABLED (INVALID_REQUEST before version 3).

Version notes: 4: compact lengths, tagged fields. 5: error messages. 6: topic ids (KIP-516).
"""

from collections import deque
from collections.abc import Hashable
from typing import TYPE_CHECKING, Any
from uuid import UUID

from totalog.gateway import view
from totalog.gateway.apis.api import Api, Request
from totalog.gateway.apis.named import Named, check_once
from totalog.gateway.lane import Steps
from totalog.gateway.topics import Refused, TopicHandle
from totalog.gateway.wire import codec
from totalog.gateway.wire.errors import ErrorCode

if TYPE_CHECKING:
    from totalog.gateway.broker import Broker

TOPIC_IDS_FROM = 6
TOPICS_A_STEP = 16


def handle(broker: "Broker", request: Request, message: Any) -> Steps[Any]:
    asked = message.topics if request.version >= TOPIC_IDS_FROM else message.topic_names
    keys: deque[Hashable] = deque()

    def key_of(topic: Any) -> Hashable:
        name, topic_id = _named(topic)
        handle = _find(broker, name, topic_id)
        unknown = (name, topic_id) if name is not None and topic_id is not None else name or topic_id
        keys.append(handle.name if handle else unknown)
        return keys[-1]

    named = Named[Any](key_of)
    yield from named.count(asked)
    results = codec.rows(codec.DeleteTopicsResponse, request.version)
    for topic, times in named.each(asked, (keys.popleft() for _ in range(len(keys)))):
        name, topic_id = _named(topic)
        result = codec.DeleteTopicsResponse.DeletableTopicResult(version=request.version, name=name, topic_id=topic_id)
        try:
            _check(broker, request.version, name, topic_id, times)
            _delete(broker, _find(broker, name, topic_id), result)
        except Refused as refused:
            result.error_code, result.error_message = refused.code, refused.message
        results.append(result)
        if len(results) % TOPICS_A_STEP == 0:
            yield
    return codec.DeleteTopicsResponse(version=request.version, throttle_time_ms=0, responses=results)


def _named(topic: Any) -> tuple[str | None, UUID | None]:
    return (topic, None) if isinstance(topic, str) else (topic.name, topic.topic_id)


def _find(broker: "Broker", name: str | None, topic_id: UUID | None) -> TopicHandle | None:
    if topic_id is not None:
        return broker.topics.find_id(topic_id.bytes)
    return broker.topics.find(name) if name else None


def _check(broker: "Broker", version: int, name: str | None, topic_id: UUID | None, times: int) -> None:
    """Raises Refused where the entry is not a sound one, whatever it names; `times` is how often it stands there."""
    if not broker.config.boolean("delete.topic.enable"):
        code = ErrorCode.TOPIC_DELETION_DISABLED if version >= 3 else ErrorCode.INVALID_REQUEST
        raise Refused(code, "deleting topics is disabled: delete.topic.enable is false")
    if (name is None) == (topic_id is None):
        raise Refused(ErrorCode.INVALID_REQUEST, "a topic is deleted by its name or by its id, not both or neither")
    check_once(times, f"topic {name or topic_id}")


def _delete(broker: "Broker", handle: TopicHandle | None, result: Any) -> None:
    if handle is None:
        if result.name is None:
            raise Refused(ErrorCode.UNKNOWN_TOPIC_ID, "there is no topic with this id")
        raise Refused(ErrorCode.UNKNOWN_TOPIC_OR_PARTITION, f"topic {result.name} does not exist")
    result.name, result.topic_id = handle.name, UUID(bytes=handle.id)
    if handle.is_view:
        raise Refused(ErrorCode.INVALID_TOPIC_EXCEPTION, view.refusal(handle.name, "deleted"))
    if handle.topic.internal:
        raise Refused(ErrorCode.INVALID_TOPIC_EXCEPTION, f"{handle.name} is an internal topic")
    broker.topics.delete(handle)
    broker.appended.ring(handle.topic.slot)  # who waits for records of it learns that it is gone


def not_stored(version: int, answer: Any, code: ErrorCode) -> Any:
    """The answer where it is not certain that the topics stay deleted."""
    for result in answer.responses:
        if result.error_code == ErrorCode.NONE:
            result.error_code, result.error_message = code, code.description
    return answer


API = Api(20, "DeleteTopics", 1, 6, 4, handle, steps=True, not_stored=not_stored)
