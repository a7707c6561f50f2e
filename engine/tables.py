"""Index pages as numpy structured arrays, for tools, benches and checks. Never imported by a serving process."""

from typing import Any

import numpy as np
import numpy.typing as npt

from totalog.engine import layout
from totalog.engine._core import ffi, lib
from totalog.engine.topic import Topic

_TYPES = {"uint64_t": "<u8", "int64_t": "<i8", "uint32_t": "<u4", "int32_t": "<i4", "uint16_t": "<u2", "int16_t": "<i2"}
CHUNK = 65_536
"""Entries copied in one call."""


def entry_type() -> np.dtype[np.void]:
    """The dtype of `struct order_entry`, read from the compiled core."""
    described = layout.fields("order_entry")
    return np.dtype(
        {
            "names": [field.name for field in described],
            "formats": [_TYPES[field.type] for field in described],
            "offsets": [field.position for field in described],
            "itemsize": ffi.sizeof("struct order_entry"),
        }
    )


def entries(core: Any, topic: Topic) -> npt.NDArray[np.void]:
    """Every order entry of the topic that is still there, oldest first."""
    first, end = ffi.new("uint64_t *"), ffi.new("uint64_t *")
    lib.log_entry_range(core, topic.slot, topic.generation, first, end)
    kind = entry_type()
    parts: list[npt.NDArray[np.void]] = []
    number = first[0]
    while number < end[0]:
        part = np.empty(min(CHUNK, end[0] - number), dtype=kind)
        target = ffi.cast("uint8_t *", part.ctypes.data)
        count = lib.log_entries(core, topic.slot, topic.generation, number, len(part), target)
        parts.append(part[:count])
        # A page that is gone: the next one begins at a multiple of the page's entries.
        number += count or lib.ENTRIES_PER_PAGE - number % lib.ENTRIES_PER_PAGE
    return np.concatenate(parts) if parts else np.empty(0, dtype=kind)
