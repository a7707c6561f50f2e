"""InitProducerId (key 22), versions 0-5.

Behaviour
- An idempotent producer gets a producer id that nobody else got or will get in the life of the region (`producer_ids`),
  and epoch 0. The time-out is not looked at: clients send 0, -1 or the largest number there.
- The id leaves once the block that it is from is stored; not in time, or with no data directory left, the error is a
  retriable one (REQUEST_TIMED_OUT, NOT_ENOUGH_REPLICAS).
- A producer id and epoch in the request (version 3 on, KIP-360) ask for a fresh start: the answer is a new id, as from
  Kafka. One given without the other is INVALID_REQUEST, an empty transactional id too.
- A transactional id is refused with UNSUPPORTED_VERSION: transactions are not served. What counts is that clients give
  up and say why. The Java client, kafka-python and others treat every error that they do not know here as fatal and
  show its text ("the version of API is not supported"), where INVALID_REQUEST would speak of a malformed request.
  librdkafka is different: it stops at once only for errors that would be lies here (not authorized, time-out too
  large). With this one it warns "Failed to acquire transactional PID ...: API version not supported" every half second,
  and that is the error of init_transactions() when its time is over.
- Written by hand: idempotent producers ask this before their first record, which must not wait for the codec.

Version notes: 2: compact lengths and tagged fields. 3: producer id and epoch. 4, 5: further errors may be answered.

Not implemented: transactional ids, two-phase commit (version 6).
"""

from struct import pack, unpack_from
from typing import TYPE_CHECKING

from totalog.gateway.apis.api import Api, Frame, Request
from totalog.gateway.broker import AppendFailed
from totalog.gateway.wire.cursor import Cursor
from totalog.gateway.wire.encode import frame, tags
from totalog.gateway.wire.errors import ErrorCode

if TYPE_CHECKING:
    from totalog.gateway.broker import Broker

FLEXIBLE_FROM = 2


def handle(broker: "Broker", request: Request) -> Frame:
    cursor, flexible = Cursor(request.frame, request.body_at), request.version >= FLEXIBLE_FROM
    transactional_id = cursor.compact_nullable_string() if flexible else cursor.nullable_string()
    cursor.int32()  # the transaction's time-out
    producer_id, producer_epoch = (cursor.int64(), cursor.int16()) if request.version >= 3 else (-1, -1)
    if flexible:
        cursor.skip_tagged_fields()
    code, fresh_id, fresh_epoch = _fresh(broker, transactional_id, producer_id, producer_epoch)
    return _encode(request.correlation_id, flexible, code, fresh_id, fresh_epoch)


def _fresh(
    broker: "Broker", transactional_id: str | None, producer_id: int, producer_epoch: int
) -> tuple[ErrorCode, int, int]:
    """Error code, producer id and producer epoch."""
    if transactional_id == "" or (producer_id < 0) != (producer_epoch < 0):
        return ErrorCode.INVALID_REQUEST, -1, -1
    if transactional_id is not None:
        return ErrorCode.UNSUPPORTED_VERSION, -1, -1
    try:
        return ErrorCode.NONE, broker.producer_ids.take(), 0
    except AppendFailed as error:
        return error.code, -1, -1


def _encode(correlation_id: int, flexible: bool, code: ErrorCode, producer_id: int, producer_epoch: int) -> Frame:
    parts = [pack(">ihqh", 0, code, producer_id, producer_epoch), tags(flexible)]
    return frame(correlation_id, flexible, parts)


def not_stored(version: int, answer: Frame, code: ErrorCode) -> Frame:
    """The answer where it is not certain that the id stays this producer's."""
    (correlation_id,) = unpack_from(">i", answer, 4)
    return _encode(correlation_id, version >= FLEXIBLE_FROM, code, -1, -1)


API = Api(22, "InitProducerId", 0, 5, FLEXIBLE_FROM, handle, raw=True, not_stored=not_stored)
