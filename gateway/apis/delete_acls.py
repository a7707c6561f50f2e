"""DeleteAcls (key 31), versions 1-3.

Behaviour: SECURITY_DISABLED for each filter (see `describe_acls`).

Version notes: 1: pattern types (KIP-290). 2: compact lengths, tagged fields. 3: resources of type USER (KIP-373).
"""

from typing import TYPE_CHECKING, Any

from totalog.gateway.apis.api import Api, Request
from totalog.gateway.lane import Steps
from totalog.gateway.wire import codec
from totalog.gateway.wire.cursor import Turn
from totalog.gateway.wire.errors import ErrorCode

if TYPE_CHECKING:
    from totalog.gateway.broker import Broker


def handle(broker: "Broker", request: Request, message: Any) -> Steps[Any]:
    response, code, turn = codec.DeleteAclsResponse, ErrorCode.SECURITY_DISABLED, Turn()
    results = codec.rows(response, request.version)
    for _ in message.filters:
        results.append(
            response.DeleteAclsFilterResult(
                version=request.version, error_code=code, error_message=code.description, matching_acls=[]
            )
        )
        if turn.over(1):
            yield
    return response(version=request.version, throttle_time_ms=0, filter_results=results)


API = Api(31, "DeleteAcls", 1, 3, 2, handle, steps=True)
