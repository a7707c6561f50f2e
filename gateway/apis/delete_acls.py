"""DeleteAcls (key 31), versions 1-3.

Behaviour: SECURITY_DISABLED for each filter (see `describe_acls`).

Version notes: 1: pattern types (KIP-290). 2: compact lengths, tagged fields. 3: resources of type USER (KIP-373).
"""

from functools import partial
from typing import TYPE_CHECKING, Any

from totalog.gateway.apis.api import Api, Request
from totalog.gateway.apis.describe_acls import refuse_each
from totalog.gateway.lane import Steps
from totalog.gateway.wire import codec

if TYPE_CHECKING:
    from totalog.gateway.broker import Broker


def handle(broker: "Broker", request: Request, message: Any) -> Steps[Any]:
    version, response = request.version, codec.DeleteAclsResponse
    row = partial(response.DeleteAclsFilterResult, matching_acls=[])
    results = yield from refuse_each(response, version, message.filters, row)
    return response(version=version, throttle_time_ms=0, filter_results=results)


API = Api(31, "DeleteAcls", 1, 3, 2, handle, steps=True)
