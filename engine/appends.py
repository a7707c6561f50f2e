"""What an append is made of: descriptions of batches, and memory that their bytes are received into."""

import warnings
from typing import TYPE_CHECKING, Any

from totalog.engine._core import ffi

if TYPE_CHECKING:
    from totalog.engine.log import Log


class AppendGroup:
    """Room for some `struct append`: filled by the caller (at `address`, or by index), answered by `Log.append`."""

    def __init__(self, capacity: int) -> None:
        self.capacity = capacity
        self._appends = ffi.new("struct append[]", capacity)
        self.address = int(ffi.cast("uintptr_t", self._appends))

    def __getitem__(self, index: int) -> Any:
        return self._appends[index]

    def __len__(self) -> int:
        return self.capacity


class Reservation:
    """Blocks of this process's own, private until batches in them are appended.

    `close` is idempotent: what was appended stays in the log, all of it goes back otherwise. The buffer, and what was
    cut out of it, must not be used after that.
    """

    def __init__(self, log: "Log", segment: int, address: int, size: int) -> None:
        self.segment = segment
        self.address = address
        self.size = size
        self.published = False
        """Set by `Log.append` when a batch of this reservation was ordered."""
        self.buffer = memoryview(ffi.buffer(ffi.cast("uint8_t *", address), size))
        self._topic: tuple[int, int] | None = None
        self._log: Log | None = log

    def segment_for(self, topic_slot: int, topic_generation: int) -> int:
        """The segment for batches of this topic that lie here; 0 where it was given out for another one's, since a
        segment belongs to one topic: they are to be copied."""
        if self._topic is None:
            self._topic = topic_slot, topic_generation
        return self.segment if self._topic == (topic_slot, topic_generation) else 0

    def close(self) -> None:
        log = self._log
        if log is None:
            return
        self.buffer.release()  # BufferError while someone receives into it: then it is still open
        self._log = None
        log._reservations.pop(self.segment, None)
        log._reserved -= 1
        log._reserve_done(self.segment, self.published)

    def __enter__(self) -> "Reservation":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __del__(self) -> None:
        if getattr(self, "_log", None) is not None:
            warnings.warn(f"a reservation of {self.size} bytes was dropped, not closed", ResourceWarning, stacklevel=2)
            self.close()
