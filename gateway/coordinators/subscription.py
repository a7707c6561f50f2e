"""What a member of a consumer group says it is subscribed to. To the broker a member's metadata are opaque, but for one
question: whether somebody still reads a topic whose committed offsets are to be deleted.

Source: Kafka's ConsumerProtocolSubscription, whose topics stand first in every version.
"""

from collections.abc import Set

from totalog.gateway.lane import Steps
from totalog.gateway.wire.cursor import Cursor, Turn
from totalog.gateway.wire.errors import ProtocolViolation

NAME_SIZE_MIN = 2
"""Bytes of a topic in an array of them: its length."""


def subscribed_of(metadata: bytes, topics: Set[str]) -> Steps[set[str]]:
    """Those of `topics` that stand in a member's metadata. Raises ProtocolViolation where they are no subscription."""
    cursor, turn = Cursor(memoryview(metadata)), Turn()
    if cursor.int16() < 0:
        raise ProtocolViolation("a subscription of a negative version")
    found = set()
    for _ in range(cursor.array_count(NAME_SIZE_MIN)):
        name = cursor.string()
        if name in topics:
            found.add(name)
        turn.name(name)
        if turn.over():
            yield
    return found
