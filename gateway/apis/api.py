"""What every Kafka API of the gateway is made of: requests, what is answered to them, and one row of the API table.

A module of this package serves one Kafka API and ends in `API = Api(...)`; `totalog.gateway.apis` collects the rows,
and ApiVersions answers from them, so that what is advertised and what is served cannot drift apart.
"""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias

from totalog.gateway.limits import ELEMENTS_COUNT_MAX
from totalog.gateway.wire.errors import ErrorCode
from totalog.gateway.wire.frame import Request as Request

if TYPE_CHECKING:
    from totalog.gateway.outbox import Owed
    from totalog.gateway.wire.answer import Answer

FRAME_SIZE_MAX = 256 * 1024
"""Bytes of one request frame, unless the API says otherwise: far above what clients send to the APIs that keep it."""

FRAME_SIZE_GROUP_MAX = 4 * 1024 * 1024
"""Bytes of a frame that carries subscriptions, assignments or offsets of a whole group."""

ELEMENTS_GROUP_MAX = 4096
"""Of all arrays in a request about the members of one group, which is decoded at once: more than a group has members,
with those that were handed an id and have not joined yet."""

TOPIC_OPERATIONS = frozenset({3, 4, 5, 6, 7, 8, 10, 11})
"""Kafka's AclOperation numbers of what a client may do with a topic (KIP-430): read, write, create, delete, alter,
describe, describe configs, alter configs."""

VIEW_OPERATIONS = frozenset({3, 8, 10})
"""Of these, what a client may do with a total-order view: read, describe, describe configs."""

CLUSTER_OPERATIONS = frozenset({5, 7, 8, 9, 10, 11, 12})
"""Create, alter, describe, cluster action, describe configs, alter configs, idempotent write."""

Frame: TypeAlias = bytes | bytearray | memoryview
"""A complete answer, the size word included."""

Dispatched: TypeAlias = "Frame | Answer | Owed | None"
"""What a connection sends: an Answer is one in several parts, and one that is owed leaves when it is ready. None: the
request has no answer (Produce with acks=0)."""


Run: TypeAlias = tuple[int, int, "Frame | Answer | Owed"]
"""Requests that were answered together, or one that was answered like others before: how many, bytes of their frames,
and all their answers, one behind the other. A tuple, because one is made for each receive, and a class costs half a
microsecond each time."""


class Api(NamedTuple):
    """One row of the API table. Versions are inclusive, and are those really served."""

    key: int
    name: str
    """Kafka's name, without Request or Response."""
    min_version: int
    max_version: int
    flexible_from: int
    """First version with compact lengths and tagged fields (KIP-482): from it on the request header is version 2."""
    handle: Callable[..., Any]
    """raw: handle(broker, request) -> Dispatched; else: handle(broker, request, message) -> answer message. May be
    async, or go in steps."""
    raw: bool = False
    frame_size_max: int = FRAME_SIZE_MAX
    elements_max: int = ELEMENTS_COUNT_MAX
    """Of all arrays of a request that is decoded at once. Where it is less than the default, that is always so."""
    steps: bool = False
    """`handle` is a generator function that yields where others may get their turn (`lane.Steps`). Not async."""
    copies: bool = False
    """raw: what is async in `handle` begins when all that it needs of the frame has been copied."""
    lets_go: bool = False
    """The handler waits, and has let go of the request and the message before it does."""
    not_stored: Callable[[int, Any, ErrorCode], Any] | None = None
    """The answer may promise something stored: it leaves once all that was ordered for it is. Where that fails, this
    makes another one of it: not_stored(version, answer, code), of what `handle` returned."""

    def serves(self, version: int) -> bool:
        return self.min_version <= version <= self.max_version


def bits(operations: frozenset[int]) -> int:
    """A set of operations as the number that goes over the wire."""
    return sum(1 << operation for operation in operations)
