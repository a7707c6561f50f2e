"""ListConfigResources (key 74), versions 0-1.

Behaviour
- The names of what has settings: topics, internal ones too, but not total-order views; and the one broker. Its loggers,
  clients' metrics and groups have none here, so they are not listed.
- No type asks for all of them. A type that is none is UNSUPPORTED_VERSION, and nothing is listed.

Version notes: 0: clients' metrics only (KIP-714). 1: other types (KIP-1142).
"""

from typing import TYPE_CHECKING, Any

from totalog.gateway.apis.api import Api, Request
from totalog.gateway.apis.describe_configs import (
    BROKER_RESOURCE,
    CLIENT_METRICS_RESOURCE,
    GROUP_RESOURCE,
    TOPIC_RESOURCE,
)
from totalog.gateway.lane import Steps
from totalog.gateway.wire import codec
from totalog.gateway.wire.cursor import Turn
from totalog.gateway.wire.errors import ErrorCode

if TYPE_CHECKING:
    from totalog.gateway.broker import Broker

BROKER_LOGGER_RESOURCE = 8
TYPES = frozenset({TOPIC_RESOURCE, BROKER_RESOURCE, BROKER_LOGGER_RESOURCE, CLIENT_METRICS_RESOURCE, GROUP_RESOURCE})


def handle(broker: "Broker", request: Request, message: Any) -> Steps[Any]:
    version, response = request.version, codec.ListConfigResourcesResponse
    types = TYPES if version >= 1 else frozenset({CLIENT_METRICS_RESOURCE})
    if version >= 1 and len(message.resource_types):
        types = frozenset(message.resource_types)
    if not types <= TYPES:
        return response(
            version=version, throttle_time_ms=0, error_code=ErrorCode.UNSUPPORTED_VERSION, config_resources=[]
        )
    resources, turn = codec.rows(response, version), Turn()
    if BROKER_RESOURCE in types:
        resources.append(
            response.ConfigResource(version=version, resource_name=str(broker.node_id), resource_type=BROKER_RESOURCE)
        )
    for topic in list(broker.topics.all()) if TOPIC_RESOURCE in types else ():
        resources.append(
            response.ConfigResource(version=version, resource_name=topic.name, resource_type=TOPIC_RESOURCE)
        )
        turn.name(topic.name)
        if turn.over():
            yield
    return response(version=version, throttle_time_ms=0, error_code=ErrorCode.NONE, config_resources=resources)


API = Api(74, "ListConfigResources", 0, 1, 0, handle, steps=True)
