"""ListConfigResources (key 74), versions 0-1.

Behaviour
- The names of what has settings: topics, internal ones too, but not total-order views; the one broker, and the same
  once more for its log levels. Clients' metrics and groups have no settings here, so none are listed.
- No type asks for all of them. A type that is none is UNSUPPORTED_VERSION, and nothing is listed.

Version notes: 0: clients' metrics only (KIP-714). 1: other types (KIP-1142).
"""

from typing import TYPE_CHECKING, Any

from totalog.gateway.apis.api import Api, Request
from totalog.gateway.lane import Steps
from totalog.gateway.wire import codec
from totalog.gateway.wire.cursor import Turn
from totalog.gateway.wire.errors import ErrorCode

if TYPE_CHECKING:
    from totalog.gateway.broker import Broker

TOPIC, BROKER, BROKER_LOGGER, CLIENT_METRICS, GROUP = 2, 4, 8, 16, 32
TYPES = frozenset({TOPIC, BROKER, BROKER_LOGGER, CLIENT_METRICS, GROUP})


def handle(broker: "Broker", request: Request, message: Any) -> Steps[Any]:
    version, response = request.version, codec.ListConfigResourcesResponse
    types = TYPES if version >= 1 else frozenset({CLIENT_METRICS})
    if version >= 1 and len(message.resource_types):
        types = frozenset(message.resource_types)
    if not types <= TYPES:
        return response(
            version=version, throttle_time_ms=0, error_code=ErrorCode.UNSUPPORTED_VERSION, config_resources=[]
        )
    resources, turn = codec.rows(response, version), Turn()
    for type in sorted(types & {BROKER, BROKER_LOGGER}):
        resources.append(
            response.ConfigResource(version=version, resource_name=str(broker.node_id), resource_type=type)
        )
    for topic in list(broker.topics.all()) if TOPIC in types else ():
        resources.append(response.ConfigResource(version=version, resource_name=topic.name, resource_type=TOPIC))
        turn.name(topic.name)
        if turn.over():
            yield
    return response(version=version, throttle_time_ms=0, error_code=ErrorCode.NONE, config_resources=resources)


API = Api(74, "ListConfigResources", 0, 1, 0, handle, steps=True)
