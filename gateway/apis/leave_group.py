"""LeaveGroup (key 13), versions 0-5.

Behaviour
- The member is gone at once and the others are told to join again by their next heartbeat. An id that was given but not
  used yet can be given back like a member's.
- An unknown member or group is UNKNOWN_MEMBER_ID: the answer's error up to version 2, one for each member from 3 on. An
  empty group id is INVALID_GROUP_ID.

Version notes: 1: throttle time. 3: several members, each named by its id, its instance id or both (KIP-345). 4: compact
lengths, tagged fields. 5: reason (KIP-800), not looked at.
"""

from typing import TYPE_CHECKING, Any

from totalog.gateway.apis.api import ELEMENTS_GROUP_MAX, Api, Request
from totalog.gateway.wire import codec
from totalog.gateway.wire.errors import ErrorCode

if TYPE_CHECKING:
    from totalog.gateway.broker import Broker

MEMBERS_FROM = 3
"""First version with a list of members."""


def handle(broker: "Broker", request: Request, message: Any) -> Any:
    version, response = request.version, codec.LeaveGroupResponse
    if not message.group_id:
        return response(version=version, throttle_time_ms=0, error_code=ErrorCode.INVALID_GROUP_ID, members=[])
    if version < MEMBERS_FROM:
        (code,) = broker.groups.leave(message.group_id, [(message.member_id, None)])
        return response(version=version, throttle_time_ms=0, error_code=code)
    leaving = [(member.member_id, member.group_instance_id) for member in message.members]
    members = [
        response.MemberResponse(version=version, member_id=member_id, group_instance_id=instance_id, error_code=code)
        for (member_id, instance_id), code in zip(leaving, broker.groups.leave(message.group_id, leaving), strict=True)
    ]
    return response(version=version, throttle_time_ms=0, error_code=ErrorCode.NONE, members=members)


API = Api(13, "LeaveGroup", 0, 5, 4, handle, elements_max=ELEMENTS_GROUP_MAX)
