"""ApiVersions: the list, the fallback, and the names of clients."""

import struct
import subprocess
import sys

import pytest

from totalog.gateway import apis
from totalog.gateway.broker import Broker
from totalog.gateway.tests.harness import (
    CORRELATION_ID,
    REGION_SIZE,
    ask,
    dispatch,
    encode_request,
    make_request,
    parse_request,
)
from totalog.gateway.wire import codec
from totalog.gateway.wire.errors import ErrorCode

SERVED = {(api.key, api.min_version, api.max_version) for api in apis.TABLE.values()}


@pytest.mark.parametrize("version", range(5))
def test_the_list_is_the_table(broker: Broker, version: int) -> None:
    named = {"client_software_name": "some-client.1", "client_software_version": "0.9-a"} if version >= 3 else {}
    answer = ask(broker, "ApiVersions", version, **named)
    assert answer.error_code == ErrorCode.NONE
    assert {(entry.api_key, entry.min_version, entry.max_version) for entry in answer.api_keys} == SERVED
    assert answer.finalized_features in (None, [])
    assert answer.supported_features in (None, [])


@pytest.mark.parametrize("version", [5, 99, -1])
def test_an_unknown_version_is_answered_in_version_0(broker: Broker, version: int) -> None:
    frame = dispatch(broker, make_request(18, version, b"whatever"))
    assert frame == struct.pack(">ihihhh", CORRELATION_ID, ErrorCode.UNSUPPORTED_VERSION, 1, 18, 0, 4)


@pytest.mark.parametrize("version", [3, 4])
@pytest.mark.parametrize(
    ("name", "software"), [("", "1"), ("client", ""), ("-client", "1"), ("cli ent", "1"), ("client", "1-"), ("ü", "1")]
)
def test_a_bad_client_name_is_an_invalid_request(broker: Broker, version: int, name: str, software: str) -> None:
    request = codec.ApiVersionsRequest(version=version, client_software_name=name, client_software_version=software)
    frame = dispatch(broker, parse_request(encode_request(request)))
    # Error, an empty list, throttle time and no tagged fields: the library reads an error in version 0 only.
    assert frame == struct.pack(">ihBiB", CORRELATION_ID, ErrorCode.INVALID_REQUEST, 1, 0, 0)


def test_one_letter_is_a_name(broker: Broker) -> None:
    answer = ask(broker, "ApiVersions", 3, client_software_name="x", client_software_version="1")
    assert answer.error_code == ErrorCode.NONE


def test_the_first_answers_need_no_codec() -> None:
    """The first requests of an idempotent producer must not wait for the import of the library."""
    script = f"""
import sys
from totalog.engine import Log
from totalog.gateway import apis
from totalog.gateway.apis.api import Request
from totalog.gateway.broker import Broker, SystemClock
from totalog.gateway.config import Config

with Log.create(size={REGION_SIZE}) as log:
    broker = Broker(log, Config(), clock=SystemClock(), host="localhost", port=9092)
    for key, version, body in ((18, 0, b""), (3, 1, bytes([255] * 4)), (22, 0, bytes([255] * 2 + [0] * 4))):
        frame = memoryview(body)
        assert apis.dispatch(broker, Request(key, version, 1, None, frame, 0, "localhost"))
sys.exit("kafka" in sys.modules)
"""
    assert subprocess.run([sys.executable, "-c", script], check=False).returncode == 0
