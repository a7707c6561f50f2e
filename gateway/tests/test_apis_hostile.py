"""Requests of every API with bytes changed at random: an answer or the end of the connection, never a crash of ours."""

from collections.abc import Iterator
from contextlib import suppress
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from totalog.engine import Log
from totalog.gateway import apis
from totalog.gateway.apis.api import Api
from totalog.gateway.broker import Broker
from totalog.gateway.tests.harness import REGION_SIZE, dispatch, make_broker, make_request
from totalog.gateway.tests.test_codec import SMALL, bodies
from totalog.gateway.waiting import Stopped
from totalog.gateway.wire import codec
from totalog.gateway.wire.errors import ProtocolViolation

APIS = list(apis.TABLE.values())
BYTES = st.sampled_from([0, 1, 2, 5, 0x7F, 0x80, 0xFE, 0xFF]) | st.integers(0, 255)


@st.composite
def changed(draw: st.DrawFn, api: Api) -> tuple[int, bytes]:
    """A version of the API, and a request body with some bytes replaced, and perhaps cut off."""
    version = draw(st.integers(api.min_version, api.max_version))
    body = bytearray(draw(st.sampled_from(bodies(api, version, SMALL))))
    for _ in range(draw(st.integers(0, 3))):
        if body:
            body[draw(st.integers(0, len(body) - 1))] = draw(BYTES)
    return version, bytes(body[: draw(st.integers(0, len(body)))] if draw(st.booleans()) else body)


@pytest.fixture(scope="module")
def shared() -> Iterator[Broker]:
    with Log.create(size=REGION_SIZE) as log:
        yield make_broker(log)


@pytest.mark.parametrize("api", APIS, ids=lambda api: api.name)
@given(data=st.data())
@settings(
    max_examples=40,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
def test_no_request_breaks_a_handler(shared: Broker, api: Api, data: st.DataObject) -> None:
    version, body = data.draw(changed(api))
    with suppress(ProtocolViolation, Stopped):
        dispatch(shared, make_request(api.key, version, body))


def nulls(struct: Any, message: Any, version: int) -> Iterator[str]:
    """Names of fields that are null though the schema does not allow it."""
    for field in struct.untagged_fields(version):
        value = getattr(message, field.name)
        if value is None:
            if field.type_str not in ("uuid", "bitfield") and not field.nullable_for_version_q(version):
                yield field.name
        elif field.is_struct_array():
            for item in value:
                yield from nulls(field.array_of, item, version)


@pytest.mark.parametrize("api", [api for api in APIS if not api.raw], ids=lambda api: api.name)
@given(data=st.data())
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_what_passes_the_guard_has_no_null_where_none_is_allowed(api: Api, data: st.DataObject) -> None:
    version, body = data.draw(changed(api))
    try:
        message = codec.decode(api.key, version, memoryview(body))
    except ProtocolViolation:
        return
    assert list(nulls(type(message)._struct, message, version)) == []
