"""Every API in every version: a request goes in, an answer comes out that the library can read."""

import struct
import uuid
from collections.abc import Iterator
from random import Random
from typing import Any

import pytest

from totalog.engine import Log
from totalog.gateway import apis
from totalog.gateway.apis.api import Api
from totalog.gateway.broker import Broker
from totalog.gateway.tests.harness import (
    CORRELATION_ID,
    REGION_SIZE,
    build,
    dispatch,
    encode_request,
    make_broker,
    make_request,
    parse_request,
)
from totalog.gateway.tests.odd import STRINGS, odd
from totalog.gateway.wire import codec
from totalog.gateway.wire.errors import ProtocolViolation

VERSIONS = [(api, version) for api in apis.TABLE.values() for version in range(api.min_version, api.max_version + 1)]
EACH = pytest.mark.parametrize(("api", "version"), VERSIONS, ids=lambda value: getattr(value, "name", value))

KAFKAS_VERSIONS = {
    0: (0, 13), 1: (4, 18), 2: (1, 11), 3: (0, 13), 8: (2, 10), 9: (1, 10), 10: (0, 6), 11: (0, 9), 12: (0, 4),
    13: (0, 5), 14: (0, 5), 15: (0, 6), 16: (0, 5), 18: (0, 4), 19: (2, 7), 20: (1, 6), 22: (0, 5), 32: (1, 4),
    21: (0, 2), 23: (2, 4), 33: (0, 2), 35: (1, 5), 37: (0, 3), 42: (0, 2), 44: (0, 1), 60: (0, 2),
    43: (0, 2), 45: (0, 1), 46: (0, 0), 47: (0, 0), 48: (0, 1), 50: (0, 0), 74: (0, 1), 29: (1, 3), 30: (1, 3),
    31: (1, 3),
}  # fmt: skip
"""What Apache Kafka 4.3 advertises for the APIs that are served here."""

HIGHEST_MINIMUM = {
    0: 7, 1: 4, 2: 1, 3: 1, 8: 2, 9: 1, 10: 0, 11: 2, 12: 0, 13: 0, 14: 0, 15: 2, 16: 1, 18: 0, 19: 2, 20: 1, 22: 0,
    21: 2, 23: 2, 32: 1, 33: 1, 44: 0, 35: 2, 37: 1, 42: 2, 60: 0,
    43: 1, 45: 0, 46: 0, 47: 0, 48: 0, 50: 0, 74: 0, 29: 1, 30: 1, 31: 1,
}  # fmt: skip
"""The lowest version that any of ten stock clients was seen to send: a minimum above it breaks that client."""

FIELDS: dict[str, dict[str, Any]] = {
    "ApiVersions": {"client_software_name": "tester", "client_software_version": "1.0"},
    "Metadata": {"topics": None},
    "Produce": {"acks": 1},
    "DescribeLogDirs": {"topics": None},
}
"""Where the defaults of the message would not be a request that a client sends."""


ODD_COUNT = 30


@pytest.fixture(scope="module")
def shared() -> Iterator[Broker]:
    with Log.create(size=REGION_SIZE) as log:
        broker = make_broker(log)
        broker.topics.create("orders", partitions=3)
        yield broker


@EACH
def test_a_default_request_is_answered(shared: Broker, api: Api, version: int) -> None:
    request = build(getattr(codec, f"{api.name}Request"), version, FIELDS.get(api.name, {}))
    frame = dispatch(shared, parse_request(encode_request(request)))
    answer = getattr(codec, f"{api.name}Response").decode(frame, version=version, header=True)
    assert answer.header.correlation_id == CORRELATION_ID
    answer.with_header(CORRELATION_ID)
    assert bytes(answer.encode(header=True)) == frame, "bytes of the answer that the library does not know"


@pytest.mark.parametrize("seed", range(2))
@pytest.mark.parametrize("api", apis.TABLE.values(), ids=lambda api: api.name)
def test_requests_that_mean_nothing_are_answered(api: Api, seed: int) -> None:
    """None is answered that something unforeseen went wrong."""
    random = Random(f"{api.name} {seed}")
    with Log.create(size=REGION_SIZE) as log:
        broker = make_broker(log)
        topic = broker.topics.create("orders", partitions=3)
        for number in range(ODD_COUNT):
            version = random.randint(api.min_version, api.max_version)
            own = {
                "topic_id": (None, uuid.UUID(bytes=topic.id), uuid.UUID(int=5)),
                **dict.fromkeys(("topic", "name"), ("orders",) * len(STRINGS) + STRINGS),
                "acks": (-1, 1, 2),  # 0 has no answer
                "client_software_name": ("tester",),  # the library reads every error of ApiVersions as of version 0
                "client_software_version": ("1.0",),
                "group_id": ("", f"group {number}"),  # of one member: where there are others a join waits for them
            }
            message = getattr(codec, f"{api.name}Request")
            request = build(message, version, odd(random, message, version, own))
            frame = dispatch(broker, parse_request(encode_request(request)))
            answer = getattr(codec, f"{api.name}Response").decode(frame, version=version, header=True)
            assert "error_code=-1" not in repr(answer), request


@EACH
def test_a_cut_off_request_ends_the_connection(shared: Broker, api: Api, version: int) -> None:
    request = build(getattr(codec, f"{api.name}Request"), version, FIELDS.get(api.name, {}))
    body = bytes(parse_request(encode_request(request)).body)
    for size in range(len(body)):
        with pytest.raises(ProtocolViolation):
            dispatch(shared, make_request(api.key, version, body[:size]))


@pytest.mark.parametrize("api", apis.TABLE.values(), ids=lambda api: api.name)
def test_versions_that_are_not_served_end_the_connection(shared: Broker, api: Api) -> None:
    for version in (api.min_version - 1, api.max_version + 1, 32767):
        if api.key == 18:
            continue
        with pytest.raises(ProtocolViolation, match="is not served"):
            dispatch(shared, make_request(api.key, version, b""))


@pytest.mark.parametrize("key", [-1, 4, 24, 68, 1000])
def test_apis_that_are_not_served_end_the_connection(shared: Broker, key: int) -> None:
    with pytest.raises(ProtocolViolation, match=f"API key {key} is not served"):
        dispatch(shared, make_request(key, 0, b""))


def test_the_versions_served_are_within_kafkas() -> None:
    for api in apis.TABLE.values():
        low, high = KAFKAS_VERSIONS[api.key]
        assert low <= api.min_version <= api.max_version <= high, api.name


def test_no_minimum_breaks_a_stock_client() -> None:
    for api in apis.TABLE.values():
        assert api.min_version <= HIGHEST_MINIMUM[api.key], api.name


def test_topic_ids_are_served_together() -> None:
    """Produce 13 or Fetch 13 without Metadata 10 breaks clients, and so does Fetch 12 with Metadata 10."""
    produce, fetch, metadata = (apis.TABLE[key].max_version for key in (0, 1, 3))
    assert (produce >= 13) == (fetch >= 13) == (metadata >= 10)


def test_each_module_serves_one_api() -> None:
    assert len(apis.TABLE) == len(apis._MODULES)
    for module in apis._MODULES:
        assert f"{module.API.name} (key {module.API.key})" in (module.__doc__ or ""), module.__name__
        versions = f"{module.API.min_version}-{module.API.max_version}"
        assert versions in (module.__doc__ or "").splitlines()[0].replace(" to ", "-"), module.__name__


def test_the_header_of_an_answer_is_flexible_where_the_request_is(shared: Broker) -> None:
    """Except for ApiVersions, whose answer a client must read before it knows what the broker speaks."""
    for api, version in VERSIONS:
        request = build(getattr(codec, f"{api.name}Request"), version, FIELDS.get(api.name, {}))
        frame = dispatch(shared, parse_request(encode_request(request)))
        assert struct.unpack_from(">i", frame)[0] == CORRELATION_ID
        if version >= api.flexible_from and api.key != 18:
            assert frame[4] == 0, f"{api.name} {version}: no tagged fields in the header"
