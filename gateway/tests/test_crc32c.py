"""CRC-32C by each way that this machine has, against known vectors and another implementation."""

from __future__ import annotations

from typing import Final

import crc32c as crc32c_package
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from totalog.gateway.tests.batches import (
    FENCE,
)
from totalog.gateway.wire import batch
from totalog.gateway.wire._batch import lib

WAYS: Final = [way for way in range(4) if lib.batch_crc32c_ways() >> way & 1]


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize(
    ("data", "crc"),
    [
        (b"", 0),
        (b"123456789", 0xE3069283),  # the catalogue's check value
        (bytes(32), 0x8A9136AA),  # RFC 3720, B.4
        (b"\xff" * 32, 0x62A8AB43),
        (bytes(range(32)), 0x46DD794E),
        (bytes(reversed(range(32))), 0x113FDB5C),
    ],
)
def test_crc_of_known_vectors(way: int, data: bytes, crc: int) -> None:
    assert lib.batch_crc32c(way, FENCE.before_end(data), len(data)) == crc
    assert batch.crc32c(data) == crc


def sizes_at_boundaries() -> list[int]:
    """Around the word, what is folded (64), the short block (3 x 128), the long block (3 x 4096), and both together."""
    blocks = (0, 8, 64, 128, 192, 384, 768, 12_288, 12_288 + 384, 3 * 12_288 + 2 * 384 + 8)
    return sorted({max(0, size + more) for size in blocks for more in (-9, -8, -7, -1, 0, 1, 7, 8, 9)})


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("start", [0, 1, 3, 7])
def test_crc_of_all_ways_is_that_of_the_package(way: int, start: int) -> None:
    data = bytes(index * 131 + index // 251 & 255 for index in range(40_000))
    for size in sizes_at_boundaries():
        piece = data[start : start + size]
        assert lib.batch_crc32c(way, FENCE.before_end(piece), size) == crc32c_package.crc32c(piece), size
        assert lib.batch_crc32c(way, FENCE.from_start(piece), size) == crc32c_package.crc32c(piece), size


@settings(deadline=None)
@given(st.binary(max_size=2000))
def test_crc_of_any_bytes(data: bytes) -> None:
    expected = crc32c_package.crc32c(data)
    assert [lib.batch_crc32c(way, FENCE.before_end(data), len(data)) for way in WAYS] == [expected] * len(WAYS)


def test_the_best_way_is_one_that_the_machine_has() -> None:
    assert lib.batch_crc32c_best_way() in WAYS


def test_a_way_that_is_missing_is_answered_by_table() -> None:
    data = b"123456789"
    assert [lib.batch_crc32c(way, FENCE.before_end(data), 9) for way in (4, 31, 32, 1 << 31)] == [0xE3069283] * 4
