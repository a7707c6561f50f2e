"""DescribeGroups (key 15), versions 0-6.

Behaviour
- State, protocol type and members with their host as Kafka writes it ("/127.0.0.1"). The protocol and the members'
  metadata for it are told while the group is stable, as from Kafka; assignments are the last there were.
- A group that does not exist is GROUP_ID_NOT_FOUND with state "Dead" from version 6 on, before that "Dead" without an
  error.
- Where only committed offsets could tell whether there is a group, and no data directory gives them, it is
  COORDINATOR_NOT_AVAILABLE.
- A group named twice is answered once. Authorized operations, where asked for, are all that Kafka knows for a group,
  since nobody is kept from anything.

Version notes: 1: throttle time. 3: authorized operations (KIP-430). 4: instance ids. 5: compact lengths, tagged fields.
6: error message and GROUP_ID_NOT_FOUND (KIP-1043).
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

GROUP_NOT_FOUND_FROM = 6
GROUPS_A_STEP = 64
READ, DELETE, DESCRIBE, DESCRIBE_CONFIGS, ALTER_CONFIGS = 3, 6, 8, 10, 11
OPERATIONS = frozenset((READ, DELETE, DESCRIBE, DESCRIBE_CONFIGS, ALTER_CONFIGS))
"""Kafka's numbers of the operations that there are on a group."""


def handle(broker: "Broker", request: Request, message: Any) -> Steps[Any]:
    operations = set(OPERATIONS) if message.include_authorized_operations else None
    groups, named = codec.rows(codec.DescribeGroupsResponse, request.version), Named[str](str)
    yield from named.count(message.groups)
    for group_id, times in named.each(message.groups):
        if times == TOO_MANY:
            groups.append(_refused(request.version, group_id))
        else:
            groups.append(_group(broker, request.version, group_id, operations))
        if len(groups) % GROUPS_A_STEP == 0:
            yield
    return codec.DescribeGroupsResponse(version=request.version, throttle_time_ms=0, groups=groups)


def _refused(version: int, group_id: str) -> Any:
    return codec.DescribeGroupsResponse.DescribedGroup(
        version=version, error_code=ErrorCode.INVALID_REQUEST, error_message=None, group_id=group_id
    )


def _group(broker: "Broker", version: int, group_id: str, operations: set[int] | None) -> Any:
    from totalog.gateway.coordinators.group import State

    answer = codec.DescribeGroupsResponse.DescribedGroup
    try:
        group = broker.groups.describe(group_id)
    except Unreadable:
        return answer(version=version, error_code=ErrorCode.COORDINATOR_NOT_AVAILABLE, group_id=group_id)
    missing = group.state is State.DEAD and version >= GROUP_NOT_FOUND_FROM
    return answer(
        version=version,
        error_code=ErrorCode.GROUP_ID_NOT_FOUND if missing else ErrorCode.NONE,
        error_message=f"Group {group_id} not found." if missing else None,
        group_id=group_id,
        group_state=group.state.value,
        protocol_type=group.protocol_type,
        protocol_data=group.protocol_name,
        members=[
            answer.DescribedGroupMember(
                version=version,
                member_id=member.id,
                group_instance_id=member.instance_id,
                client_id=member.client_id,
                client_host=member.client_host,
                member_metadata=member.protocols[group.protocol_name] if group.protocol_name else b"",
                member_assignment=member.assignment,
            )
            for member in group.members
        ],
        authorized_operations=None if missing else operations,
    )


API = Api(15, "DescribeGroups", 0, 6, 5, handle, steps=True)
