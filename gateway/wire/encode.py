"""Kafka's primitive types on their way out, for the answers that are written by hand."""

from collections.abc import Sequence
from functools import cache
from struct import pack

from totalog.gateway.wire.cursor import encode_varint


def string(text: str | None, flexible: bool) -> bytes:
    """A string of either encoding; None is null, which the caller's schema must allow."""
    if text is None:
        return b"\x00" if flexible else b"\xff\xff"
    encoded = text.encode()
    return (encode_varint(len(encoded) + 1) if flexible else pack(">h", len(encoded))) + encoded


def count(number: int, flexible: bool) -> bytes:
    """How many elements an array has; -1 is null."""
    return encode_varint(number + 1) if flexible else pack(">i", number)


@cache
def tags(flexible: bool) -> bytes:
    """An empty section of tagged fields, where the version has them."""
    return b"\x00" if flexible else b""


def frame(correlation_id: int, flexible: bool, parts: Sequence[bytes | bytearray]) -> bytes:
    """The complete frame of an answer whose body is `parts`; flexible answers have a version 1 header."""
    head = pack(">i", correlation_id) + tags(flexible)
    size = len(head) + sum(map(len, parts))
    return b"".join((pack(">i", size), head, *parts))


def frame_around(
    correlation_id: int, flexible: bool, before: Sequence[bytes], rows: bytearray, behind: Sequence[bytes]
) -> bytearray:
    """The same of a body that is large because of `rows`: they become the frame, and are not there a second time."""
    head = b"".join((pack(">i", correlation_id), tags(flexible), *before))
    rows += b"".join(behind)
    rows[:0] = pack(">i", len(head) + len(rows)) + head
    return rows
