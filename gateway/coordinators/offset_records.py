"""Committed offsets as records of the internal topic `__consumer_offsets`, byte for byte as Apache Kafka 4.3 writes
them.

Key: OffsetCommitKey (version 1): group, topic, partition. Value: OffsetCommitValue (version 4, flexible): offset,
leader epoch, metadata, commit timestamp, and the topic's id as tagged field 0; or no value, which takes the commit
back. So tools that read Kafka's offsets topic read this one, and an offset cannot outlive its topic by a topic of the
same name. Keys of other types and versions are other things' (group metadata, for one) and are passed over.
"""

import struct
from typing import NamedTuple

from totalog.gateway.wire import encode
from totalog.gateway.wire.cursor import Cursor

KEY_VERSION = 1
VALUE_VERSION = 4
TAG_TOPIC_ID = 0

_VALUE_HEAD = struct.Struct(">hqi")
_VALUE_TIMESTAMP = struct.Struct(">q")
_KEY_VERSION = struct.Struct(">h")
_KEY_PARTITION = struct.Struct(">i")


class Key(NamedTuple):
    """What an offset is committed for."""

    group_id: str
    topic: str
    partition: int


class Commit(NamedTuple):
    """A committed offset: the next record that the group wants to read."""

    offset: int
    leader_epoch: int
    """Of the last record read; -1: not known."""
    metadata: str
    timestamp_ms: int
    """When it was committed."""


def encode_key(key: Key) -> bytes:
    return b"".join(
        (
            _KEY_VERSION.pack(KEY_VERSION),
            encode.string(key.group_id, False),
            encode.string(key.topic, False),
            _KEY_PARTITION.pack(key.partition),
        )
    )


def decode_key(data: bytes) -> Key | None:
    """None: the record is about something else. Raises ProtocolViolation for a key that is cut off."""
    cursor = Cursor(memoryview(data))
    if cursor.int16() != KEY_VERSION:
        return None
    return Key(cursor.string(), cursor.string(), cursor.int32())


def encode_value(commit: Commit, topic_id: bytes) -> bytes:
    return b"".join(
        (
            _VALUE_HEAD.pack(VALUE_VERSION, commit.offset, commit.leader_epoch),
            encode.string(commit.metadata, True),
            _VALUE_TIMESTAMP.pack(commit.timestamp_ms),
            bytes((1, TAG_TOPIC_ID, len(topic_id))),
            topic_id,
        )
    )


def decode_value(data: bytes) -> tuple[Commit, bytes] | None:
    """The commit and its topic's id. None: another version. Raises ProtocolViolation for a value that is cut off."""
    cursor = Cursor(memoryview(data))
    if cursor.int16() != VALUE_VERSION:
        return None
    offset, leader_epoch = cursor.int64(), cursor.int32()
    metadata, timestamp_ms = cursor.compact_string(), cursor.int64()
    topic_id = bytes(16)
    for _ in range(cursor.varint()):
        tag, size = cursor.varint(), cursor.varint()
        start = cursor.skip(size)
        if tag == TAG_TOPIC_ID:
            topic_id = data[start : start + size]
    return Commit(offset, leader_epoch, metadata, timestamp_ms), topic_id
