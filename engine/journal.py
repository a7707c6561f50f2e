"""The journal of one data directory, opened: read to its end, its torn tail cut, damage named.

Reading is a long call of the core, in a thread of its own, so that whoever waits is told how far it is.
"""

import os
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

from totalog.engine._core_long import ffi, lib
from totalog.engine.directory import NEW, Directory
from totalog.engine.errors import DirectoryError, DirectoryMismatch, JournalDamaged, JournalFailed, OutOfMemory

SILENCE_S_MAX: Final = 2.0
"""Seconds that reading may take before anything is said, and between two lines then."""

COPY_STEP: Final = 64 << 20
"""Bytes copied from one file into another by one call."""


class Journal:
    """An open journal. `core` belongs to the replica once that has it."""

    def __init__(self, directory: Directory, core: Any, end: int, cut: int) -> None:
        self.directory = directory
        self.core = core
        self.end = end
        """It holds the global positions below it, those of memory topics left out."""
        self.cut = cut
        """Bytes of a torn tail that were taken off."""

    @classmethod
    def open(cls, directory: Directory, file_size: int, tell: Callable[[str], None]) -> "Journal":
        """Errors: JournalDamaged, DirectoryMismatch, JournalFailed, OutOfMemory."""
        assert directory.log_id is not None
        report = ffi.new("struct journal_report *")
        core = _watched(
            lambda: lib.journal_open(directory.descriptor, directory.log_id, file_size, report),
            lambda seconds: tell(_progress(directory.path, report, seconds)),
        )
        if core == ffi.NULL:
            raise _explain(report, directory)
        return cls(directory, core, report.end, report.cut_bytes)

    def close(self) -> None:
        """Idempotent; nothing is written."""
        if self.core is not None:
            core, self.core = self.core, None
            lib.journal_close(core)

    def identity_at(self, position: int) -> tuple[int, ...] | None:
        """What the journals of one log must have in common about the batch at a global position; None: not kept."""
        record = ffi.new("struct journal_record *")
        if lib.journal_record_at(self.core, position, record) != lib.JOURNAL_OK:
            return None
        entry = record.entry
        same = (entry.global_position, record.kind, record.topic_slot, record.topic_generation, record.payload_crc)
        return (*same, entry.partition, entry.base_offset, entry.total_order, entry.leader_epoch)


def _watched(call: Callable[[], Any], tell: Callable[[float], None]) -> Any:
    """The result of a long call, and a word now and then while it lasts."""
    results: list[Any] = []
    thread = threading.Thread(target=lambda: results.append(call()), name="journal", daemon=True)
    thread.start()
    waited = 0.0
    while not results:
        thread.join(SILENCE_S_MAX)
        waited += SILENCE_S_MAX
        if thread.is_alive():
            tell(waited)
    return results[0]


def _progress(path: Path, report: Any, seconds: float) -> str:
    done, total = report.bytes_done >> 20, report.bytes_total >> 20
    return f"reading the journal in {path}: {done:,} of {total:,} MiB after {seconds:.0f} s"


def _explain(report: Any, directory: Directory) -> DirectoryError | OutOfMemory:
    file = directory.path / f"journal-{report.file:020}.log"
    match report.error:
        case lib.JOURNAL_DAMAGED:
            return JournalDamaged(
                f"{file} is damaged at byte {report.byte}, global position {report.position}: {_DAMAGES[report.damage]}"
                f"{_topics(report)}. Take the file from a backup; or start with another data directory of this log"
                " alone, then add this one again, emptied; or move this file and all later ones away, which gives up"
                " what they hold"
            )
        case lib.JOURNAL_OTHER_FORMAT:
            return DirectoryMismatch(
                f"{file} has format {report.format}, this build knows {lib.JOURNAL_VERSION}:"
                " use the build that wrote it"
            )
        case lib.JOURNAL_OTHER_LOG:
            return DirectoryMismatch(f"{file} belongs to another log than {directory.path}: take it out of there")
        case lib.JOURNAL_NO_MEMORY:
            return OutOfMemory(f"no memory to read the journal in {directory.path}")
        case _:
            return JournalFailed(f"{file} cannot be read or written: {os.strerror(report.saved_errno)}")


_DAMAGES: Final = {
    lib.DAMAGE_HEADER: "its header is not what was written",
    lib.DAMAGE_CHECKPOINT: "its checkpoint is not what was written",
    lib.DAMAGE_RECORD: "a batch that was durable is missing or changed",
    lib.DAMAGE_FOOTER: "its footer is not what was written",
    lib.DAMAGE_NOT_SEALED: "it ends too early",
    lib.DAMAGE_MISSING_FILE: "a file before it is missing",
    lib.DAMAGE_ORDER: "its batches do not follow each other",
}


def _topics(report: Any) -> str:
    names = [ffi.string(report.topics[i].name).decode(errors="replace") for i in range(report.topic_count)]
    return f", which concerns {', '.join(names)}" if names else ""


def copy_files(source: Directory, target: Directory, *, sealed_only: bool) -> None:
    """The target's journal becomes that of the source. `sealed_only`: someone writes the source's newest file.

    The old files go when all new ones are complete, newest first, and the new ones take their places oldest first: so a
    kill leaves a journal that is merely short. Errors: JournalFailed.
    """
    try:
        names = source.journal_files()[: -1 if sealed_only else None]
        for name in names:
            _copy_file(source, target, name)
        for name in reversed(target.journal_files()):
            os.unlink(name, dir_fd=target.descriptor)
        os.fsync(target.descriptor)
        for name in names:
            os.rename(name + NEW, name, src_dir_fd=target.descriptor, dst_dir_fd=target.descriptor)
            os.fsync(target.descriptor)
    except OSError as error:
        raise JournalFailed(f"{target.path} cannot be filled from {source.path}: {error.strerror}") from error


def _copy_file(source: Directory, target: Directory, name: str) -> None:
    reader = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=source.descriptor)
    try:
        flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC
        writer = os.open(name + NEW, flags, 0o600, dir_fd=target.descriptor)
        try:
            while os.copy_file_range(reader, writer, COPY_STEP):
                pass
            os.fsync(writer)
        finally:
            os.close(writer)
    finally:
        os.close(reader)
