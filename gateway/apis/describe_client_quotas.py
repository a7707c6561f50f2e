"""DescribeClientQuotas (key 48), versions 0-1.

Behaviour
- There are no quotas, so none is found. What is asked for is checked all the same: entity types are `user`, `client-id`
  and `ip`, each once, `ip` alone; an unknown one is UNSUPPORTED_VERSION, the rest INVALID_REQUEST. So is a match that
  lacks its name, or has one that it does not take.

Version notes: 1: compact lengths, tagged fields.

Not implemented: quotas, and so AlterClientQuotas.
"""

from typing import TYPE_CHECKING, Any

from totalog.gateway.apis.api import Api, Request
from totalog.gateway.topics import Refused
from totalog.gateway.wire import codec
from totalog.gateway.wire.errors import ErrorCode

if TYPE_CHECKING:
    from collections.abc import Iterable

    from totalog.gateway.broker import Broker

IP = "ip"
ENTITY_TYPES = frozenset({"user", "client-id", IP})
MATCH_EXACT, MATCH_DEFAULT, MATCH_ANY = range(3)


def handle(broker: "Broker", request: Request, message: Any) -> Any:
    answer = codec.DescribeClientQuotasResponse(
        version=request.version, throttle_time_ms=0, error_code=ErrorCode.NONE, error_message=None, entries=[]
    )
    try:
        _check(message.components)
    except Refused as refused:
        answer.error_code, answer.error_message, answer.entries = refused.code, refused.message, None
    return answer


def _check(components: "Iterable[Any]") -> None:
    """Raises Refused. Since each type may stand once, it looks at few components, however many there are."""
    types: set[str] = set()
    for component in components:
        if not component.entity_type:
            raise Refused(ErrorCode.INVALID_REQUEST, "an entity type is empty")
        if component.entity_type not in ENTITY_TYPES:
            raise Refused(ErrorCode.UNSUPPORTED_VERSION, f"there is no entity type {component.entity_type[:80]}")
        if component.entity_type in types:
            raise Refused(ErrorCode.INVALID_REQUEST, f"entity type {component.entity_type} stands twice in the request")
        types.add(component.entity_type)
        if component.match_type not in (MATCH_EXACT, MATCH_DEFAULT, MATCH_ANY):
            raise Refused(ErrorCode.INVALID_REQUEST, f"there is no match type {component.match_type}")
        if (component.match_type == MATCH_EXACT) is (component.match is None):
            raise Refused(ErrorCode.INVALID_REQUEST, "a name is matched exactly, and nothing else has a name")
    if IP in types and len(types) > 1:
        raise Refused(ErrorCode.INVALID_REQUEST, "an ip has no user and no client id")


API = Api(48, "DescribeClientQuotas", 0, 1, 1, handle)
