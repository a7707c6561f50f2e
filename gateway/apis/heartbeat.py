"""Heartbeat (key 12), versions 0-4.

Behaviour
- Keeps the member's session alive and tells it of a rebalance: REBALANCE_IN_PROGRESS while one is prepared. While the
  leader works out the assignments the answer is no error.
- Errors: INVALID_GROUP_ID, UNKNOWN_MEMBER_ID (also for an unknown group), ILLEGAL_GENERATION, FENCED_INSTANCE_ID.

Version notes: 1: throttle time. 3: instance id. 4: compact lengths, tagged fields.
"""

from typing import TYPE_CHECKING, Any

from totalog.gateway.apis.api import Api, Request
from totalog.gateway.wire import codec

if TYPE_CHECKING:
    from totalog.gateway.broker import Broker


def handle(broker: "Broker", request: Request, message: Any) -> Any:
    code = broker.groups.heartbeat(
        message.group_id, message.generation_id, message.member_id, message.group_instance_id
    )
    return codec.HeartbeatResponse(version=request.version, throttle_time_ms=0, error_code=code)


API = Api(12, "Heartbeat", 0, 4, 4, handle)
