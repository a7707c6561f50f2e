"""DescribeAcls (key 29), versions 1-3.

Behaviour: who may do what is not looked at, so there are no rules to tell: SECURITY_DISABLED, as Apache Kafka answers
where no authorizer is configured.

Version notes: 1: pattern types (KIP-290). 2: compact lengths, tagged fields. 3: resources of type USER (KIP-373).
"""

from typing import TYPE_CHECKING, Any

from totalog.gateway.apis.api import Api, Request
from totalog.gateway.lane import Steps
from totalog.gateway.wire import codec
from totalog.gateway.wire.cursor import Turn
from totalog.gateway.wire.errors import ErrorCode

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from totalog.gateway.broker import Broker


def handle(broker: "Broker", request: Request, message: Any) -> Any:
    return codec.DescribeAclsResponse(
        version=request.version,
        throttle_time_ms=0,
        error_code=ErrorCode.SECURITY_DISABLED,
        error_message=ErrorCode.SECURITY_DISABLED.description,
        resources=[],
    )


def refuse_each(response: Any, version: int, asked: "Iterable[Any]", row: "Callable[..., Any]") -> Steps[Any]:
    """The rows of an answer that refuses each of `asked`: also of CreateAcls and DeleteAcls."""
    rows, code, turn = codec.rows(response, version), ErrorCode.SECURITY_DISABLED, Turn()
    for _ in asked:
        rows.append(row(version=version, error_code=code, error_message=code.description))
        if turn.over(1):
            yield
    return rows


API = Api(29, "DescribeAcls", 1, 3, 2, handle)
