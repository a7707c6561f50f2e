"""FindCoordinator (key 10), versions 0-6.

Behaviour
- Every group, of any name and existing or not, is coordinated by this broker, from its first moment on.
- Transactional ids are refused, since transactions are not served, with CLUSTER_AUTHORIZATION_FAILED and a message that
  says so. It is the one error with which librdkafka gives up at once and shows the message; with UNSUPPORTED_VERSION,
  or any other that is not about permissions, it asks again for ever and says nothing. Java's client shows the message
  with either.
- Share group keys and unknown key types are INVALID_REQUEST with a message.

Version notes: 1: key types, error message. 3: compact lengths, tagged fields. 4: a list of keys (KIP-699). 6: share
group keys (KIP-932).

Not implemented: coordinators of transactions and share groups.
"""

from typing import TYPE_CHECKING, Any, NamedTuple

from totalog.gateway.apis.api import Api, Request
from totalog.gateway.lane import Steps
from totalog.gateway.wire import codec
from totalog.gateway.wire.errors import ErrorCode

if TYPE_CHECKING:
    from totalog.gateway.broker import Broker

GROUP, TRANSACTION, SHARE = 0, 1, 2
KEYS_A_STEP = 256


class Found(NamedTuple):
    """The coordinator of every key of one type, or why there is none."""

    code: ErrorCode
    message: str
    node_id: int = -1
    host: str = ""
    port: int = -1


def handle(broker: "Broker", request: Request, message: Any) -> Steps[Any]:
    version, response = request.version, codec.FindCoordinatorResponse
    found = _find(broker, message.key_type)
    if version < 4:
        return response(
            version=version,
            throttle_time_ms=0,
            error_code=found.code,
            error_message=found.message or "NONE",
            node_id=found.node_id,
            host=found.host,
            port=found.port,
        )
    coordinators = codec.rows(response, version)
    for key in message.coordinator_keys:
        coordinators.append(
            response.Coordinator(
                version=version,
                key=key,
                node_id=found.node_id,
                host=found.host,
                port=found.port,
                error_code=found.code,
                error_message=found.message,
            )
        )
        if len(coordinators) % KEYS_A_STEP == 0:
            yield
    return response(version=version, throttle_time_ms=0, coordinators=coordinators)


def _find(broker: "Broker", key_type: int) -> Found:
    if key_type == GROUP:
        return Found(ErrorCode.NONE, "", broker.node_id, broker.host, broker.port)
    if key_type == TRANSACTION:
        return Found(ErrorCode.CLUSTER_AUTHORIZATION_FAILED, "transactions are not served by this broker")
    if key_type == SHARE:
        return Found(ErrorCode.INVALID_REQUEST, "share groups are not served by this broker")
    return Found(ErrorCode.INVALID_REQUEST, f"coordinator key type {key_type} is not known")


API = Api(10, "FindCoordinator", 0, 6, 3, handle, steps=True)
