"""ListGroups (key 16), versions 0-5.

Behaviour
- All groups: those with members, those that had some, and those of which there are only committed offsets.
- COORDINATOR_NOT_AVAILABLE where committed offsets left memory and no data directory gives them.
- Filters for states and types ignore case; an unknown state or type fits no group. All groups are of type "classic".

Version notes: 1: throttle time. 3: compact lengths, tagged fields. 4: states and a filter for them (KIP-518). 5: types
and a filter for them (KIP-848).
"""

from typing import TYPE_CHECKING, Any

from totalog.gateway.apis.api import ELEMENTS_GROUP_MAX, Api, Request
from totalog.gateway.broker import Unreadable
from totalog.gateway.wire import codec
from totalog.gateway.wire.errors import ErrorCode

if TYPE_CHECKING:
    from totalog.gateway.broker import Broker

TYPE = "classic"
"""Kafka's name for the group protocol of JoinGroup and SyncGroup."""


def handle(broker: "Broker", request: Request, message: Any) -> Any:
    version, response = request.version, codec.ListGroupsResponse
    states = {state.lower() for state in message.states_filter or ()}
    types = {type.lower() for type in message.types_filter or ()}
    try:
        listed = broker.groups.all()
    except Unreadable:
        return response(version=version, throttle_time_ms=0, error_code=ErrorCode.COORDINATOR_NOT_AVAILABLE, groups=[])
    groups = [
        response.ListedGroup(
            version=version,
            group_id=group.group_id,
            protocol_type=group.protocol_type,
            group_state=group.state.value,
            group_type=TYPE,
        )
        for group in listed
        if (not states or group.state.value.lower() in states) and (not types or TYPE in types)
    ]
    return response(version=version, throttle_time_ms=0, error_code=ErrorCode.NONE, groups=groups)


API = Api(16, "ListGroups", 0, 5, 3, handle, elements_max=ELEMENTS_GROUP_MAX)
