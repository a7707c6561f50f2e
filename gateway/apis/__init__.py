"""The Kafka APIs that are served, and how a request finds its handler.

`TABLE` is what ApiVersions advertises: an API is added by writing its module and naming it here.
"""

from collections.abc import Awaitable
from inspect import isawaitable
from typing import TYPE_CHECKING, Any, cast

from totalog.gateway import lane
from totalog.gateway.apis import (
    alter_configs,
    alter_partition_reassignments,
    api_versions,
    create_acls,
    create_partitions,
    create_topics,
    delete_acls,
    delete_groups,
    delete_records,
    delete_topics,
    describe_acls,
    describe_client_quotas,
    describe_cluster,
    describe_configs,
    describe_groups,
    describe_log_dirs,
    describe_user_scram_credentials,
    elect_leaders,
    fetch,
    find_coordinator,
    heartbeat,
    incremental_alter_configs,
    init_producer_id,
    join_group,
    leave_group,
    list_config_resources,
    list_groups,
    list_offsets,
    list_partition_reassignments,
    metadata,
    offset_commit,
    offset_delete,
    offset_fetch,
    offset_for_leader_epoch,
    produce,
    sync_group,
)
from totalog.gateway.apis.api import Api, Dispatched, Frame, Request
from totalog.gateway.limits import ELEMENTS_COUNT_MAX
from totalog.gateway.replication import PROMISE_S_MAX, Promise
from totalog.gateway.wire import codec
from totalog.gateway.wire.errors import ErrorCode, ProtocolViolation

if TYPE_CHECKING:
    from totalog.gateway.broker import Broker
    from totalog.gateway.lane import Steps

_MODULES = (
    alter_configs,
    alter_partition_reassignments,
    api_versions,
    create_acls,
    create_partitions,
    create_topics,
    delete_acls,
    delete_groups,
    delete_records,
    delete_topics,
    describe_acls,
    describe_client_quotas,
    describe_cluster,
    describe_configs,
    describe_groups,
    describe_log_dirs,
    describe_user_scram_credentials,
    elect_leaders,
    fetch,
    find_coordinator,
    heartbeat,
    incremental_alter_configs,
    init_producer_id,
    join_group,
    leave_group,
    list_config_resources,
    list_groups,
    list_offsets,
    list_partition_reassignments,
    metadata,
    offset_commit,
    offset_delete,
    offset_fetch,
    offset_for_leader_epoch,
    produce,
    sync_group,
)

TABLE: dict[int, Api] = {module.API.key: module.API for module in _MODULES}

api_versions.advertise(TABLE.values())


def dispatch(broker: "Broker", request: Request) -> "Dispatched | Awaitable[Dispatched]":
    """The answer to one request: a complete frame, None where none is due, or an awaitable of either. Many handlers
    never wait, and what they return can be sent at once.

    An answer that promises something stored is owed until all that its handler ordered is, in this one place: handlers
    order, and what they order with says so (`Replication.promise`).

    Raises ProtocolViolation where Kafka closes the connection: an API or version that is not advertised (only
    ApiVersions answers those), or a body that does not parse. The frame's size was checked before it was received.
    """
    api = TABLE.get(request.key)
    if api is None:
        raise ProtocolViolation(f"API key {request.key} is not served")
    if not api.serves(request.version):
        if api is api_versions.API:
            return api_versions.fallback(request.correlation_id)
        raise ProtocolViolation(f"{api.name} version {request.version} is not served")
    if api.steps:
        return _in_steps(broker, request, api)
    promises = api.not_stored is not None and broker.replication.durable
    if api.raw:
        if not promises:
            return cast("Dispatched", api.handle(broker, request))
        broker.replication.take_promise()
        return _when_stored(broker, api, request, api.handle(broker, request), broker.replication.take_promise())
    assert not promises, "what promises something and is not raw is done in steps"
    if api.elements_max == ELEMENTS_COUNT_MAX and len(request.frame) > lane.SMALL_SIZE_MAX:
        return _answer_later(broker, api, request)
    message = codec.decode(request.key, request.version, request.body, api.elements_max)
    answer = api.handle(broker, request, message)
    if isawaitable(answer):
        return _encode_later(answer, request.correlation_id)
    return codec.encode(answer, request.correlation_id)


def _when_stored(
    broker: "Broker",
    api: Api,
    request: Request,
    answer: "Frame",
    promised: tuple[int, int],
    timeout_s: float = PROMISE_S_MAX,
) -> "Dispatched":
    replication, key, version, correlation_id = broker.replication, api.key, request.version, request.correlation_id
    position, level = promised

    def encode(code: ErrorCode) -> "Frame":
        assert api.not_stored is not None
        if code is ErrorCode.NONE:
            return answer
        if api.raw:
            return cast("Frame", api.not_stored(version, answer, code))
        return codec.encode(api.not_stored(version, codec.decode_answer(key, version, answer), code), correlation_id)

    if replication.reached(position, level):
        return answer
    return Promise(replication, position, level, timeout_s, encode)


def _in_steps(broker: "Broker", request: Request, api: Api) -> "Dispatched | Awaitable[Dispatched]":
    size = len(request.frame)
    steps = _steps(broker, request, api)
    if size <= lane.SMALL_SIZE_MAX:
        for answer in lane.start(steps):
            return answer
    return broker.lane.run(steps, size)


def _steps(broker: "Broker", request: Request, api: Api) -> "Steps[Dispatched]":
    timeout_s = PROMISE_S_MAX
    if api.raw:
        steps = api.handle(broker, request)
    else:
        message = yield from codec.decode_in_steps(request.key, request.version, request.body, api.elements_max)
        timeout_s = getattr(message, "timeout_ms", PROMISE_S_MAX * 1000) / 1000
        steps = api.handle(broker, request, message)
    if api.not_stored is not None and broker.replication.durable:
        answer, promised = yield from broker.replication.promised_by(steps)
        frame = answer if api.raw else codec.encode(answer, request.correlation_id)
        return _when_stored(broker, api, request, frame, promised, timeout_s)
    answer = yield from steps
    return cast("Dispatched", answer if api.raw else codec.encode(answer, request.correlation_id))


async def _answer_later(broker: "Broker", api: Api, request: Request) -> Dispatched:
    """A request that is decoded when it is its turn."""
    decoding = codec.decode_in_steps(request.key, request.version, request.body)
    answer = api.handle(broker, request, await broker.lane.run(decoding, len(request.frame)))
    return codec.encode(await answer if isawaitable(answer) else answer, request.correlation_id)


async def _encode_later(answer: Awaitable[Any], correlation_id: int) -> Dispatched:
    return codec.encode(await answer, correlation_id)
