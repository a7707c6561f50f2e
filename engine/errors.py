"""What the engine raises. Messages are one line: what was found, what was expected, what to do."""

from pathlib import Path


class EngineError(Exception):
    """The log cannot do what was asked; nothing was changed."""


class TopicExists(EngineError):
    """A live topic has this name."""


class UnknownTopic(EngineError):
    """No live topic has this slot and generation (any more)."""


class LimitReached(EngineError):
    """A named limit of the region (engine/core/layout.h)."""

    def __init__(self, limit_name: str, limit: int) -> None:
        super().__init__(f"the region's limit of {limit} {limit_name} is reached")
        self.limit_name = limit_name
        self.limit = limit


class OutOfMemory(EngineError):
    """No free block, and nothing may be freed."""


class OffsetOutOfRange(EngineError):
    """The offset lies outside the log."""


class RegionError(EngineError):
    """The region cannot be used."""


class Replaced(EngineError):
    """Another process has become the sequencer: this one had lost its part, and is a broker like others."""


class NotARegion(RegionError):
    """The file is something else."""


class OtherLayout(RegionError):
    """A build with another memory layout made the region."""


class RegionDamaged(RegionError):
    """The region contradicts itself."""


class RegionInUse(RegionError):
    """Another process holds the region."""


class RegionRefused(RegionError):
    """The file's owner, mode or kind is not what a region's must be."""


class DirectoryError(EngineError):
    """A data directory cannot be used."""


class DirectoryInUse(DirectoryError):
    """Another broker holds the data directory."""

    def __init__(self, path: Path, process: int | None) -> None:
        holder = f"process {process}" if process else "another process"
        super().__init__(f"{path} is in use by {holder}: stop that broker, or name another data directory")
        self.process = process


class DirectoryRefused(DirectoryError):
    """The directory's owner, mode or content is not what a data directory's must be."""


class DirectoryMismatch(DirectoryError):
    """The directory belongs to another log, or another build made it."""


class JournalDamaged(DirectoryError):
    """What was durable once is not there any more, or another."""


class JournalFailed(DirectoryError):
    """The journal cannot be read or written."""
