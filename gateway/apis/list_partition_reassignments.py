"""ListPartitionReassignments (key 46), versions 0-0.

Behaviour: partitions stay where they are, on the one broker, so none is being moved. Topics that there are not are no
error, as in Kafka.
"""

from typing import TYPE_CHECKING, Any

from totalog.gateway.apis.api import Api, Request
from totalog.gateway.wire import codec
from totalog.gateway.wire.errors import ErrorCode

if TYPE_CHECKING:
    from totalog.gateway.broker import Broker


def handle(broker: "Broker", request: Request, message: Any) -> Any:
    return codec.ListPartitionReassignmentsResponse(
        version=request.version, throttle_time_ms=0, error_code=ErrorCode.NONE, error_message=None, topics=[]
    )


API = Api(46, "ListPartitionReassignments", 0, 0, 0, handle)
