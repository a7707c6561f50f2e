"""ApiVersions (key 18), versions 0-4.

Behaviour
- Answers the versions of every API in the table. Written by hand from constant bytes, so that the first answer of a
  fresh broker waits for no import.
- A version that is not served gets the version 0 answer with UNSUPPORTED_VERSION and the one entry of ApiVersions
  itself (KIP-511), and the connection goes on.
- From version 3 on, a client software name or version that does not match Kafka's pattern, empty ones too, gets
  INVALID_REQUEST in the layout of the version that was asked, with an empty list.

Version notes
- 3: compact lengths, features as tagged fields (KIP-482, KIP-584); the answer's header stays version 0.
- 4: features with minimum 0 may be listed (KIP-1022).

Not implemented: features. None is supported or finalized, `transaction.version` least of all: it would make clients use
transactions of version 2.
"""

import re
from collections.abc import Iterable
from struct import pack
from typing import TYPE_CHECKING

from totalog.gateway.apis.api import Api, Frame, Request
from totalog.gateway.wire.cursor import Cursor
from totalog.gateway.wire.errors import ErrorCode

if TYPE_CHECKING:
    from totalog.gateway.broker import Broker

KEY = 18
FLEXIBLE_FROM = 3
SOFTWARE_NAME = re.compile(r"[a-zA-Z0-9](?:[a-zA-Z0-9\-.]*[a-zA-Z0-9])?")

_bodies: dict[int, bytes] = {}


def advertise(table: Iterable[Api]) -> None:
    """Makes the answer of each version from the API table."""
    entries = sorted((api.key, api.min_version, api.max_version) for api in table)
    for version in range(API.min_version, API.max_version + 1):
        _bodies[version] = _body(version, ErrorCode.NONE, entries)


def handle(broker: "Broker", request: Request) -> Frame:
    if request.version >= FLEXIBLE_FROM and not _is_client_named(request):
        return _frame(request.correlation_id, _body(request.version, ErrorCode.INVALID_REQUEST, []))
    return _frame(request.correlation_id, _bodies[request.version])


def fallback(correlation_id: int) -> Frame:
    """The answer to a version that is not served, in the layout that every client can read."""
    entry = (KEY, API.min_version, API.max_version)
    return _frame(correlation_id, _body(0, ErrorCode.UNSUPPORTED_VERSION, [entry]))


def _is_client_named(request: Request) -> bool:
    cursor = Cursor(request.frame, request.body_at)
    name, version = cursor.compact_string(), cursor.compact_string()
    cursor.skip_tagged_fields()
    return bool(SOFTWARE_NAME.fullmatch(name) and SOFTWARE_NAME.fullmatch(version))


def _body(version: int, error: ErrorCode, entries: list[tuple[int, int, int]]) -> bytes:
    if version < FLEXIBLE_FROM:
        body = pack(">hi", error, len(entries)) + b"".join(pack(">hhh", *entry) for entry in entries)
        return body + (pack(">i", 0) if version >= 1 else b"")
    assert len(entries) < 127, "the count is written as a varint of one byte"
    body = pack(">hB", error, len(entries) + 1) + b"".join(pack(">hhhB", *entry, 0) for entry in entries)
    return body + pack(">iB", 0, 0)


def _frame(correlation_id: int, body: bytes) -> bytes:
    return pack(">ii", 4 + len(body), correlation_id) + body


API = Api(KEY, "ApiVersions", 0, 4, FLEXIBLE_FROM, handle, raw=True, frame_size_max=16 * 1024)
