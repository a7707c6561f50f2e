"""SyncGroup (key 14), versions 0-5.

Behaviour
- The leader brings the assignments; every member gets its own as soon as they are there, an empty one if the leader
  left it out. What the leader says of strangers is passed over. A repeated SyncGroup gets the stored assignment again.
- A member that does not sync within the longest rebalance timeout is removed, the leader as well.
- Errors: INVALID_GROUP_ID, UNKNOWN_MEMBER_ID (also for an unknown group), ILLEGAL_GENERATION, FENCED_INSTANCE_ID,
  REBALANCE_IN_PROGRESS when a new rebalance has begun, INCONSISTENT_GROUP_PROTOCOL when the protocol type or name is
  not the group's, or missing in version 5; UNKNOWN_SERVER_ERROR for assignments beyond a limit of
  `coordinators.groups`.

Version notes: 1: throttle time. 3: instance id. 4: compact lengths, tagged fields. 5: protocol type and name (KIP-559).
"""

from typing import TYPE_CHECKING, Any

from totalog.gateway.apis.api import ELEMENTS_GROUP_MAX, FRAME_SIZE_GROUP_MAX, Api, Request
from totalog.gateway.waiting import Later
from totalog.gateway.wire import codec
from totalog.gateway.wire.errors import ErrorCode

if TYPE_CHECKING:
    from totalog.gateway.broker import Broker
    from totalog.gateway.coordinators.members import SyncAnswer, SyncRequest

PROTOCOL_FROM = 5
"""First version with the protocol's type and name, which it must give."""


async def handle(broker: "Broker", request: Request, message: Any) -> Any:
    from totalog.gateway.coordinators.members import SyncAnswer

    if request.version >= PROTOCOL_FROM and (message.protocol_type is None or message.protocol_name is None):
        return _answer(request.version, SyncAnswer(ErrorCode.INCONSISTENT_GROUP_PROTOCOL))
    later: Later[SyncAnswer] = Later()
    version, group_id = request.version, message.group_id
    broker.groups.sync(_sync_request(version, message), later.set)
    del request, message  # they may be large, and the wait long
    return _answer(version, await broker.groups.answer(group_id, later))


def _sync_request(version: int, message: Any) -> "SyncRequest":
    from totalog.gateway.coordinators.members import SyncRequest

    return SyncRequest(
        group_id=message.group_id,
        generation_id=message.generation_id,
        member_id=message.member_id,
        instance_id=message.group_instance_id,
        protocol_type=message.protocol_type if version >= PROTOCOL_FROM else None,
        protocol_name=message.protocol_name if version >= PROTOCOL_FROM else None,
        assignments={assigned.member_id: bytes(assigned.assignment) for assigned in message.assignments},
    )


def _answer(version: int, answer: "SyncAnswer") -> Any:
    return codec.SyncGroupResponse(
        version=version,
        throttle_time_ms=0,
        error_code=answer.code,
        protocol_type=answer.protocol_type,
        protocol_name=answer.protocol_name,
        assignment=answer.assignment,
    )


API = Api(
    14, "SyncGroup", 0, 5, 4, handle, frame_size_max=FRAME_SIZE_GROUP_MAX, lets_go=True, elements_max=ELEMENTS_GROUP_MAX
)
