"""What may strike a broker, and what may happen to its region before it starts again."""

import random
from collections.abc import Iterator
from dataclasses import dataclass

PUBLISH_POINTS = (
    "CLAIMED",
    "COPIED",
    "HEADERS",
    "WRITTEN",
    "ENTRIES",
    "ORDERED",
    "LINES",
    "COMPLETIONS",
    "COMPLETED",
    "PINNED",
)
REPLICA_POINTS = ("COPIED", "WRITTEN", "SYNCED", "FRONTIER")


@dataclass(frozen=True, slots=True)
class Fault:
    """One strike."""

    name: str
    command: str = ""
    """What the victim is told; empty: nothing."""
    signals: tuple[str, ...] = ()
    """What it is sent, one after the other."""
    ends: bool = True
    """The broker ends by it, or by the last signal; else it has to go on serving."""


KILL = Fault("killed", signals=("SIGKILL",))
FAULTS: tuple[Fault, ...] = (
    KILL,
    Fault("stopped, then killed", signals=("SIGSTOP", "SIGKILL")),
    Fault("stopped cleanly", signals=("SIGTERM",)),
    *(Fault(f"killed at {point.lower()}", f"publish {point}") for point in PUBLISH_POINTS),
    *(Fault(f"killed at replica {point.lower()}", f"replica {point}") for point in REPLICA_POINTS),
    Fault("a sync fails, then killed", "disk SYNC EIO 1 0", ("SIGKILL",)),
    Fault("a write fails, then killed", "disk WRITE EIO 1 0", ("SIGKILL",)),
    Fault("the disk is full for a while", "disk WRITE ENOSPC 2 0", ends=False),
    Fault("a sync takes long", "disk SYNC OK 0 300", ends=False),
    Fault("stopped for a while", signals=("SIGSTOP", "SIGCONT"), ends=False),
)

KEPT, REMOVED, CUT, GARBAGE = "kept", "removed", "cut short", "overwritten"
REGIONS = (KEPT, KEPT, KEPT, REMOVED, REMOVED, CUT, GARBAGE)
"""What happens to the region file; where it is not kept, the log is rebuilt from the journal."""


@dataclass(frozen=True, slots=True)
class Round:
    number: int
    fault: Fault
    region: str
    load_s: float
    """Of load before the fault strikes."""


def rounds(seed: int) -> Iterator[Round]:
    """For ever: all faults in turn, in an order that the seed gives, so that none is left out."""
    source = random.Random(seed)
    number = 0
    while True:
        for fault in source.sample(FAULTS, len(FAULTS)):
            region = source.choice(REGIONS) if fault.ends else KEPT
            yield Round(number, fault, region, source.uniform(0.02, 0.25))
            number += 1
