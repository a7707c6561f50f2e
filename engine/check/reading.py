"""Reads a log as its readers do, by `Log.read`, into columns for the checker."""

import numpy as np
import numpy.typing as npt

from totalog.engine._core import ffi, lib
from totalog.engine.check.histories import Numbers
from totalog.engine.log import Log
from totalog.engine.topic import Topic

ROOM = 4 << 20
BATCHES = 4096
_BATCH = np.dtype([("base_offset", "<i8"), ("size", "<u4"), ("leader_epoch", "<u4"), ("lent", "<u8")])


def read_heads(
    log: Log, topic: Topic, partition: int, head: np.dtype[np.void], span: int
) -> tuple[Numbers, npt.NDArray[np.void]]:
    """The base offset (total order in the view) of every batch from the log start to the end, and its first bytes.

    Every batch of the topic takes `span` offsets.
    """
    room = np.empty(ROOM, dtype=np.uint8)
    batches = log.read_batches(BATCHES)
    described = np.frombuffer(ffi.buffer(ffi.cast("char *", batches.address), BATCHES * _BATCH.itemsize), dtype=_BATCH)
    bounds = log.bounds(topic, partition)
    offset, offsets, heads = bounds.log_start_offset, [], []
    while offset < bounds.next_offset:
        result = log.read(topic, partition, offset, room.ctypes.data, len(room), batches=batches)
        if result.status != lib.STATUS_OK or result.count == 0:
            raise ValueError(f"nothing at offset {offset} of partition {partition}, {bounds} (status {result.status})")
        own = described[: result.count].copy()
        starts = np.cumsum(own["size"], dtype=np.int64) - own["size"]
        heads.append(room[starts[:, None] + np.arange(head.itemsize)].view(head).reshape(-1))
        offsets.append(own["base_offset"])
        offset = int(own["base_offset"][-1]) + span
    if not heads:
        return np.empty(0, dtype=np.int64), np.empty(0, dtype=head)
    return np.concatenate(offsets), np.concatenate(heads)
