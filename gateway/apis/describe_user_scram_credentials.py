"""DescribeUserScramCredentials (key 50), versions 0-0.

Behaviour: there is no SASL, so no user has credentials: asked for all (null, or none named), it tells none; a user who
is named is RESOURCE_NOT_FOUND, one who is named twice DUPLICATE_RESOURCE.
"""

from operator import attrgetter
from typing import TYPE_CHECKING, Any

from totalog.gateway.apis.api import Api, Request
from totalog.gateway.apis.named import TOO_MANY, Named
from totalog.gateway.lane import Steps
from totalog.gateway.wire import codec
from totalog.gateway.wire.cursor import Turn
from totalog.gateway.wire.errors import ErrorCode

if TYPE_CHECKING:
    from totalog.gateway.broker import Broker


def handle(broker: "Broker", request: Request, message: Any) -> Steps[Any]:
    response, turn = codec.DescribeUserScramCredentialsResponse, Turn()
    users, named = [] if message.users is None else message.users, Named[Any](attrgetter("name"))
    yield from named.count(users)
    results = codec.rows(response, request.version)
    for user, times in named.each(users):
        code = ErrorCode.RESOURCE_NOT_FOUND if times == 1 else ErrorCode.DUPLICATE_RESOURCE
        if times == TOO_MANY:
            code = ErrorCode.INVALID_REQUEST
        results.append(
            response.DescribeUserScramCredentialsResult(
                version=request.version,
                user=user.name,
                error_code=code,
                error_message=code.description,
                credential_infos=[],
            )
        )
        turn.name(user.name)
        if turn.over():
            yield
    return response(
        version=request.version, throttle_time_ms=0, error_code=ErrorCode.NONE, error_message=None, results=results
    )


API = Api(50, "DescribeUserScramCredentials", 0, 0, 0, handle, steps=True)
