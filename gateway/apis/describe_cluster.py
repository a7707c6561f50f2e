"""DescribeCluster (key 60), versions 0-2.

Behaviour
- One broker, which is the controller too. Authorized operations are told when asked for: everything, as without an
  authorizer.
- Endpoint type 1 is brokers. Controllers (2) are MISMATCHED_ENDPOINT_TYPE, since this listener serves brokers; any
  other number is UNSUPPORTED_ENDPOINT_TYPE.

Version notes: 1: endpoint type (KIP-919). 2: fenced brokers (KIP-1073); there are none.

Not implemented: racks.
"""

from typing import TYPE_CHECKING, Any

from totalog.gateway.apis.api import CLUSTER_OPERATIONS, Api, Request
from totalog.gateway.wire import codec
from totalog.gateway.wire.errors import ErrorCode

if TYPE_CHECKING:
    from totalog.gateway.broker import Broker

BROKERS, CONTROLLERS = 1, 2


def handle(broker: "Broker", request: Request, message: Any) -> Any:
    version = request.version
    answer = codec.DescribeClusterResponse(
        version=version, cluster_id=broker.cluster_id, controller_id=broker.node_id, endpoint_type=BROKERS
    )
    if message.endpoint_type != BROKERS:
        known = message.endpoint_type == CONTROLLERS
        answer.error_code = ErrorCode.MISMATCHED_ENDPOINT_TYPE if known else ErrorCode.UNSUPPORTED_ENDPOINT_TYPE
        answer.error_message = f"this listener serves brokers, not endpoint type {message.endpoint_type}"
        return answer
    answer.brokers = [
        codec.DescribeClusterResponse.DescribeClusterBroker(
            version=version, broker_id=broker.node_id, host=broker.host, port=broker.port
        )
    ]
    if message.include_cluster_authorized_operations:
        answer.authorized_operations = set(CLUSTER_OPERATIONS)
    return answer


API = Api(60, "DescribeCluster", 0, 2, 0, handle)
