"""JoinGroup (key 11), versions 0-9.

Behaviour
- The answer comes when the rebalance that the join begins or takes part in ends: when every member has joined again, or
  the longest rebalance timeout is over. A follower that joins again unchanged is answered at once with the generation
  there is.
- Errors: INVALID_GROUP_ID for an empty group id, INVALID_SESSION_TIMEOUT outside of group.min/max.session.timeout.ms,
  INCONSISTENT_GROUP_PROTOCOL without protocols or without one that all members support, UNKNOWN_MEMBER_ID,
  GROUP_MAX_SIZE_REACHED, FENCED_INSTANCE_ID, POLICY_VIOLATION at a limit of `coordinators.groups`.
- A new member of version 4 or later that is not static gets MEMBER_ID_REQUIRED with its id and joins again (KIP-394).
- The first join of an empty group waits for group.initial.rebalance.delay.ms, 0 unless set, and at most half a second
  for others that have just been given an id (`coordinators.group.PENDING_HOLD_S`).
- A static member (KIP-345) that starts again takes its predecessor's place: in a stable group at once, with the
  generation there is, unless the members would choose another protocol with it. If it leads it is told not to assign;
  before version 9, that its predecessor leads. The predecessor's id is FENCED_INSTANCE_ID from then on.

Version notes
- 1: rebalance timeout; version 0 uses the session timeout. 2: throttle time. 5: instance id. 6: compact lengths, tagged
  fields. 7: protocol type, nullable protocol name (KIP-559). 8: reason (KIP-800), not looked at. 9: the leader may be
  told not to assign (KIP-814).
"""

from typing import TYPE_CHECKING, Any

from totalog.gateway.apis.api import ELEMENTS_GROUP_MAX, FRAME_SIZE_GROUP_MAX, Api, Request
from totalog.gateway.waiting import Later
from totalog.gateway.wire import codec

if TYPE_CHECKING:
    from totalog.gateway.broker import Broker
    from totalog.gateway.coordinators.members import JoinAnswer, JoinRequest

MEMBER_ID_FROM = 4
"""First version in which a new member is told its id before it joins."""
SKIP_FROM = 9
"""First version in which a leader can be told that it need not assign."""


async def handle(broker: "Broker", request: Request, message: Any) -> Any:
    later: Later[JoinAnswer] = Later()
    version, group_id = request.version, message.group_id
    broker.groups.join(_join_request(request, message), later.set)
    del request, message  # they may be large, and the wait long
    return _answer(version, await broker.groups.answer(group_id, later))


def _join_request(request: Request, message: Any) -> "JoinRequest":
    from totalog.gateway.coordinators.members import JoinRequest

    rebalance_timeout_ms = message.rebalance_timeout_ms if request.version >= 1 else -1
    if rebalance_timeout_ms < 0:
        rebalance_timeout_ms = message.session_timeout_ms
    protocols: dict[str, bytes] = {}
    for protocol in message.protocols:
        protocols.setdefault(protocol.name, bytes(protocol.metadata))
    return JoinRequest(
        group_id=message.group_id,
        member_id=message.member_id,
        instance_id=message.group_instance_id,
        client_id=request.client_id or "",
        client_host=f"/{request.client_host}",  # with the slash that Kafka's tools take away again
        session_timeout_s=message.session_timeout_ms / 1000,
        rebalance_timeout_s=rebalance_timeout_ms / 1000,
        protocol_type=message.protocol_type,
        protocols=protocols,
        takes_member_id=request.version >= MEMBER_ID_FROM,
        takes_skip=request.version >= SKIP_FROM,
    )


def _answer(version: int, answer: "JoinAnswer") -> Any:
    response = codec.JoinGroupResponse
    return response(
        version=version,
        throttle_time_ms=0,
        error_code=answer.code,
        generation_id=answer.generation_id,
        protocol_type=answer.protocol_type,
        protocol_name=answer.protocol_name if version >= 7 else answer.protocol_name or "",
        leader=answer.leader_id,
        skip_assignment=answer.skip_assignment,
        member_id=answer.member_id,
        members=[
            response.JoinGroupResponseMember(
                version=version,
                member_id=member.member_id,
                group_instance_id=member.instance_id,
                metadata=member.metadata,
            )
            for member in answer.members
        ],
    )


API = Api(
    11, "JoinGroup", 0, 9, 6, handle, frame_size_max=FRAME_SIZE_GROUP_MAX, lets_go=True, elements_max=ELEMENTS_GROUP_MAX
)
