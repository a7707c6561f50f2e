"""AlterConfigs (key 33), versions 0-2.

Behaviour
- Gives a topic exactly the settings that are named: what it had and is not named is back at its default. Settings that
  only count at creation stay as they are; naming one with another value is INVALID_CONFIG, as unknown names and values
  that do not fit are.
- Topics only. A total-order view and internal topics are INVALID_TOPIC_EXCEPTION, unknown topics
  UNKNOWN_TOPIC_OR_PARTITION; the broker's settings are given when it starts, so its resource, and all others, are
  INVALID_REQUEST. So are a resource or a setting that is named twice, and a value of null. A request that leaves the
  broker without dynamic settings changes nothing, and is no error: tools send it to be sure.
- What is changed counts from the next batch on, for everyone, when the answer leaves, and is stored.

Version notes: 2: compact lengths, tagged fields.

Not implemented: dynamic settings of brokers, broker loggers, client metrics, groups.
"""

from collections import Counter
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from totalog.gateway import view
from totalog.gateway.apis.api import Api, Request
from totalog.gateway.apis.create_topics import CONFIGS_MAX
from totalog.gateway.apis.describe_configs import BROKER_RESOURCE, TOPIC_RESOURCE
from totalog.gateway.apis.named import Named, check_once, resource_key
from totalog.gateway.config import parse_topic_settings
from totalog.gateway.lane import Steps
from totalog.gateway.setting import InvalidConfig
from totalog.gateway.settings import TOPIC
from totalog.gateway.topics import Refused, TopicHandle, check_name
from totalog.gateway.wire import codec
from totalog.gateway.wire.errors import ErrorCode

if TYPE_CHECKING:
    from totalog.gateway.broker import Broker

RESOURCES_A_STEP = 16

SET, DELETE, APPEND, SUBTRACT = range(4)
"""Operations of IncrementalAlterConfigs; all that AlterConfigs names is set."""

Change = Callable[["Broker", Mapping[str, str], Any], dict[str, str]]
"""change(broker, own settings, resource) -> what they become. Raises Refused and InvalidConfig."""


def alter(broker: "Broker", response: Any, version: int, message: Any, change: Change) -> Steps[Any]:
    """What this API and IncrementalAlterConfigs have in common; `response` is the class of the answer."""
    named = Named[Any](resource_key)
    yield from named.count(message.resources)
    results = codec.rows(response, version)
    for resource, times in named.each(message.resources):
        result = response.AlterConfigsResourceResponse(
            version=version,
            error_code=ErrorCode.NONE,
            error_message=None,
            resource_type=resource.resource_type,
            resource_name=resource.resource_name,
        )
        try:
            check_once(times, resource.resource_name)
            _alter_one(broker, resource, change, validate_only=message.validate_only)
        except Refused as refused:
            result.error_code, result.error_message = refused.code, refused.message
        results.append(result)
        if len(results) % RESOURCES_A_STEP == 0:
            yield
    return response(version=version, throttle_time_ms=0, responses=results)


def _alter_one(broker: "Broker", resource: Any, change: Change, *, validate_only: bool) -> None:
    topic = None if _is_broker(broker, resource) else _find(broker, resource)
    if len(resource.configs) > CONFIGS_MAX:
        raise Refused(ErrorCode.INVALID_REQUEST, f"{len(resource.configs)} settings, more than there are")
    for name, count in Counter(config.name for config in resource.configs).items():
        if count > 1:
            raise Refused(ErrorCode.INVALID_REQUEST, f"{name} stands twice in the request")
    if topic is None:
        if any(getattr(config, "config_operation", SET) != DELETE for config in resource.configs):
            raise _fixed(resource)
        return
    try:
        own = change(broker, topic.config, resource)
        _check_unchanged(broker, topic, own)
    except InvalidConfig as error:
        raise Refused(ErrorCode.INVALID_CONFIG, str(error)) from None
    if not validate_only and own != topic.config:
        broker.topics.alter(topic, own)


def _is_broker(broker: "Broker", resource: Any) -> bool:
    """This broker, or (the empty name) all of the cluster: neither has dynamic settings."""
    return resource.resource_type == BROKER_RESOURCE and resource.resource_name in ("", str(broker.node_id))


def _fixed(resource: Any) -> Refused:
    message = f"resources of type {resource.resource_type} cannot be changed while the broker runs"
    return Refused(ErrorCode.INVALID_REQUEST, message)


def _find(broker: "Broker", resource: Any) -> TopicHandle:
    name = resource.resource_name
    if resource.resource_type != TOPIC_RESOURCE:
        raise _fixed(resource)
    topic = broker.topics.find(name)
    if topic is None:
        check_name(name)
        raise Refused(ErrorCode.UNKNOWN_TOPIC_OR_PARTITION, f"topic {name} does not exist")
    if topic.is_view:
        raise Refused(ErrorCode.INVALID_TOPIC_EXCEPTION, view.refusal(name, "given settings"))
    if topic.topic.internal:
        raise Refused(ErrorCode.INVALID_TOPIC_EXCEPTION, f"{name} is an internal topic")
    return topic


def _check_unchanged(broker: "Broker", topic: TopicHandle, own: Mapping[str, str]) -> None:
    """Raises InvalidConfig where a setting that counts at creation only would get another value."""
    for name, setting in TOPIC.items():
        if not setting.changeable and (name in own or name in topic.config):
            before, after = (broker.config.topic_value(name, settings) for settings in (topic.config, own))
            if before != after:
                raise InvalidConfig(f"{name} has its value from the topic's creation on")


def no_value(name: str) -> Refused:
    return Refused(ErrorCode.INVALID_REQUEST, f"{name[:80]} has no value")


def _replaced(_: "Broker", own: Mapping[str, str], resource: Any) -> dict[str, str]:
    for config in resource.configs:
        if config.value is None:
            raise no_value(config.name)
    kept = {name: value for name, value in own.items() if not TOPIC[name].changeable}
    return kept | parse_topic_settings((config.name, config.value) for config in resource.configs)


def handle(broker: "Broker", request: Request, message: Any) -> Steps[Any]:
    return alter(broker, codec.AlterConfigsResponse, request.version, message, _replaced)


def not_stored(version: int, answer: Any, code: ErrorCode) -> Any:
    """The answer where it is not certain that the new settings are stored."""
    for result in answer.responses:
        if result.error_code == ErrorCode.NONE:
            result.error_code, result.error_message = code, code.description
    return answer


API = Api(33, "AlterConfigs", 0, 2, 2, handle, steps=True, not_stored=not_stored)
