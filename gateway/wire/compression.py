"""Compressed records, opened: into memory of bounded size, whatever they say of themselves.

A few hundred bytes can open to gigabytes. So there is room for OPENED_SIZE_MAX and no more, pages of it cost memory
only once they are written, and all of it goes back at the end.

Sources: RFC 1952 (gzip); snappy-java's stream format; the LZ4 frame format; RFC 8878 (zstd). What Apache Kafka 4.3.1
takes was asked of it, byte by byte.
"""

from __future__ import annotations

import mmap
import os
import struct
from contextlib import contextmanager
from typing import TYPE_CHECKING, Final

from totalog.gateway.wire._batch import ffi, lib
from totalog.gateway.wire.batch import Codec

if TYPE_CHECKING:
    import zlib
    from collections.abc import Iterator

__all__ = [
    "MARK_SIZE",
    "OPENED_SIZE_MAX",
    "Damaged",
    "TooLarge",
    "address_of",
    "load",
    "lz4_frame",
    "open_into",
    "opened",
]

OPENED_SIZE_MAX: Final = 64 << 20
"""Bytes that the records of one compressed batch may take when opened."""


MARK_SIZE: Final = 8
"""Bytes behind the room for records, in which one sees that there were too many."""
_MARK: Final = os.urandom(MARK_SIZE)

_GZIP_WINDOW_BITS: Final = 31  # the largest window, and gzip's header and trailer
_GZIP_MAGIC: Final = b"\x1f\x8b\x08"
_GZIP_PIECE_SIZE: Final = 8 << 10  # what zlib does not want of a piece is copied each time
_OPENED_PIECE_SIZE: Final = 256 << 10
_GZIP_IGNORED_SIZE_MAX: Final = 18  # behind a member: less than another one has
_SNAPPY_STREAM: Final = b"\x82SNAPPY\x00"
_SNAPPY_STREAM_HEAD_SIZE: Final = 16  # the magic, then the version and the oldest compatible version
_SNAPPY_LENGTH: Final = struct.Struct(">i")
_SNAPPY_RATIO_MAX: Final = 22  # three bytes stand for 64 at most


class Damaged(Exception):
    """The bytes do not decompress; the text says why."""


class TooLarge(Exception):
    """The records take more than there is room for."""


def load() -> None:
    """Import what opens everything but gzip, which takes some 10 ms. Raises ImportError."""
    import cramjam  # noqa: F401


@contextmanager
def opened(codec: int, stored: memoryview) -> Iterator[memoryview]:
    """The records that were compressed to `stored`. The view ends with the context. Raises Damaged and TooLarge."""
    memory = mmap.mmap(-1, OPENED_SIZE_MAX + MARK_SIZE, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    with memory, memoryview(memory) as target, target[: open_into(codec, stored, target)] as records:
        yield records


def open_into(codec: int, stored: memoryview, target: memoryview) -> int:
    """Opens `stored` to the start of `target`, which has MARK_SIZE bytes more than the records may take: how many they
    take. Raises Damaged and TooLarge."""
    limit = len(target) - MARK_SIZE
    if codec == Codec.GZIP:
        return _open_gzip(stored, target, limit)
    import cramjam  # here, because most brokers never need it

    target[limit:] = _MARK
    try:
        match codec:
            case Codec.SNAPPY:
                size = _open_snappy(stored, target)
            case Codec.LZ4:
                size = cramjam.lz4.decompress_into(stored, target)
            case Codec.ZSTD:
                size = cramjam.zstd.decompress_into(stored, target) if stored else 0
            case _:
                raise Damaged(f"unknown codec ({codec})")
    except cramjam.DecompressionError as error:
        if target[limit:] != _MARK:
            raise TooLarge from None
        raise Damaged(str(error)) from error
    if size > limit:
        raise TooLarge
    return int(size)


def _open_gzip(stored: memoryview, target: memoryview, limit: int) -> int:
    """All members. As for Java, what follows the first is dropped unless it begins as another one does."""
    import zlib

    size = at = 0
    while True:
        member = zlib.decompressobj(_GZIP_WINDOW_BITS)
        while not member.eof:
            piece = stored[at : at + _GZIP_PIECE_SIZE]
            if not piece:
                raise Damaged("the gzip stream is cut off")
            at += len(piece)
            try:
                size = _inflate(member, piece, target, size, limit)
            except zlib.error as error:
                raise Damaged(str(error)) from None
        at -= len(member.unused_data)
        if len(stored) - at <= _GZIP_IGNORED_SIZE_MAX or bytes(stored[at : at + len(_GZIP_MAGIC)]) != _GZIP_MAGIC:
            return size


def _inflate(member: zlib._Decompress, piece: bytes | memoryview, target: memoryview, size: int, limit: int) -> int:
    """Opens all of `piece` behind the first `size` bytes of `target`: how many there are now."""
    while True:
        room = limit - size
        size_max = min(_OPENED_PIECE_SIZE, room + 1)  # one byte more than there is room for tells whether there is one
        plain = member.decompress(piece, size_max)
        if len(plain) > room:
            raise TooLarge
        target[size : size + len(plain)] = plain
        size += len(plain)
        if len(plain) < size_max:
            return size
        piece = member.unconsumed_tail


def _open_snappy(stored: memoryview, target: memoryview) -> int:
    """Either one raw block (librdkafka and others) or the stream of blocks that snappy-java writes."""
    if bytes(stored[: len(_SNAPPY_STREAM)]) != _SNAPPY_STREAM:
        return _open_snappy_block(stored, target)
    if len(stored) < _SNAPPY_STREAM_HEAD_SIZE:
        raise Damaged("a snappy stream ends inside of its head")
    size = 0
    position = _SNAPPY_STREAM_HEAD_SIZE
    while len(stored) - position >= _SNAPPY_LENGTH.size:
        if bytes(stored[position : position + len(_SNAPPY_STREAM)]) == _SNAPPY_STREAM:  # another stream: they are one
            position += _SNAPPY_STREAM_HEAD_SIZE
            continue
        (block_size,) = _SNAPPY_LENGTH.unpack_from(stored, position)
        position += _SNAPPY_LENGTH.size
        if not 0 < block_size <= len(stored) - position:
            raise Damaged("a snappy block is longer than its stream, or empty")
        with target[size:] as left:
            size += _open_snappy_block(stored[position : position + block_size], left)
        position += block_size
    return size


def _open_snappy_block(stored: memoryview, target: memoryview) -> int:
    import cramjam

    size = cramjam.snappy.decompress_raw_len(stored)
    if size > len(stored) * _SNAPPY_RATIO_MAX:
        raise Damaged("a snappy block says that it holds more than it can")
    if size > len(target):
        raise TooLarge
    return int(cramjam.snappy.decompress_raw_into(stored, target))


def lz4_frame(stored: memoryview) -> memoryview:
    """The one frame that Apache Kafka reads: what stands behind it is dropped. Raises Damaged where there is none whose
    blocks can be opened one by one."""
    size = lib.lz4_frame_size(address_of(stored), len(stored))
    if size == 0:
        raise Damaged("no whole lz4 frame of independent blocks")
    return stored[:size]


def address_of(view: memoryview) -> int:
    with ffi.from_buffer(view) as data:
        return int(ffi.cast("uintptr_t", data))
