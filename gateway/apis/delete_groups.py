"""DeleteGroups (key 42), versions 0-2.

Behaviour
- Deletes groups without members, and their committed offsets: their end is ordered in the log before the answer leaves.
- NON_EMPTY_GROUP, GROUP_ID_NOT_FOUND; COORDINATOR_NOT_AVAILABLE when the log has no room, or no data directory
  gives what was committed. A group named twice is
  answered once, as by Kafka.

Version notes: 2: compact lengths, tagged fields.
"""

from typing import TYPE_CHECKING, Any

from totalog.gateway.apis.api import Api, Request
from totalog.gateway.apis.named import TOO_MANY, Named
from totalog.gateway.broker import Unreadable
from totalog.gateway.lane import Steps
from totalog.gateway.wire import codec
from totalog.gateway.wire.errors import ErrorCode

if TYPE_CHECKING:
    from totalog.gateway.broker import Broker


GROUPS_A_STEP = 64


def handle(broker: "Broker", request: Request, message: Any) -> Steps[Any]:
    response = codec.DeleteGroupsResponse
    results, named = codec.rows(response, request.version), Named[str](str)
    yield from named.count(message.groups_names)
    for group_id, times in named.each(message.groups_names):
        try:
            code = ErrorCode.INVALID_REQUEST if times == TOO_MANY else (yield from broker.groups.delete(group_id))
        except Unreadable:
            code = ErrorCode.COORDINATOR_NOT_AVAILABLE
        results.append(response.DeletableGroupResult(version=request.version, group_id=group_id, error_code=code))
        if len(results) % GROUPS_A_STEP == 0:
            yield
    return response(version=request.version, throttle_time_ms=0, results=results)


def not_stored(version: int, answer: Any, code: ErrorCode) -> Any:
    """The answer where it is not certain that the groups stay deleted."""
    for result in answer.results:
        if result.error_code == ErrorCode.NONE:
            result.error_code = ErrorCode.COORDINATOR_NOT_AVAILABLE
    return answer


API = Api(42, "DeleteGroups", 0, 2, 2, handle, steps=True, not_stored=not_stored)
