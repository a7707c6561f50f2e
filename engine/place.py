"""Where the region of a durable log lies: found again after a kill, trusted or not, made anew.

A region that another process left is used only when a directory's note names it, says that it was complete, its id is
the one noted, and the machine has not started since (directory.py). Anything else is rebuilt from the journal, and what
was ours of the old one is removed; a file that is not ours stays where it is.

The note is written before the file is made, and once more when the region holds all that the journal said: so a kill at
any moment leaves neither a file that no note names nor a trusted region that is half rebuilt.
"""

import os
import stat
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

from totalog.engine.directory import Directory, RegionNote, boot_id
from totalog.engine.errors import RegionError, RegionInUse
from totalog.engine.region import Region, ordered_of, region_id

SHARED_MEMORY = Path("/dev/shm")
ROOM_MIN = 256 << 20
"""Bytes that must be free where memory is meant to be shared; a container often has 64 MiB there."""

_MOUNTS = Path("/proc/self/mounts")
_IN_DIRECTORY = "region"


def default_path(directory: Directory, room: int = ROOM_MIN) -> Path:
    """A fresh name where memory is shared, if that has room; else a file in the data directory."""
    if _is_tmpfs(SHARED_MEMORY) and os.access(SHARED_MEMORY, os.W_OK):
        space = os.statvfs(SHARED_MEMORY)
        if space.f_bavail * space.f_frsize >= room:
            return SHARED_MEMORY / f"totalog-{os.geteuid()}-{os.urandom(8).hex()}.region"
    return directory.path / _IN_DIRECTORY


def _is_tmpfs(path: Path) -> bool:
    try:
        mounts = _MOUNTS.read_text().splitlines()
    except OSError:
        return False
    return any(words[1] == str(path) and words[2] == "tmpfs" for words in map(str.split, mounts))


def attach(directories: Sequence[Directory], end: int, tell: Callable[[str], None]) -> Region | None:
    """The region that the last process left, if it can be trusted. `end`: the journals hold the positions below it.

    Errors: RegionInUse.
    """
    for note in _notes(directories):
        if not note.complete or note.boot_id != boot_id() or region_id(note.path) != note.region_id:
            continue
        if ordered_of(note.path) < end:
            tell(f"{note.path} knows less than the journal, so it is not used")
            continue
        try:
            region = Region.attach(note.path)
        except RegionInUse:
            raise
        except RegionError as error:
            tell(f"{error}; the log is rebuilt from its journal instead")
        else:
            return region
    return None


def remove_old(directories: Sequence[Directory], tell: Callable[[str], None]) -> bool:
    """What is left of regions that are not trusted goes, as far as it is ours, and the notes with it. Whether there was
    any: after a clean stop there is none."""
    notes = _notes(directories)
    for note in notes:
        if _is_ours(note, directories):
            note.path.unlink()
        elif os.path.lexists(note.path):
            tell(f"{note.path} is not the region that was noted, so it stays as it is")
    for directory in directories:
        directory.forget_region()
    return bool(notes)


def create(directories: Sequence[Directory], path: Path, size: int) -> tuple[Region, RegionNote]:
    """A new, empty region at `path`, and the note to write when it is complete. Errors: RegionError, OutOfMemory."""
    if path == directories[0].path / _IN_DIRECTORY:
        path.unlink(missing_ok=True)
    elif os.path.lexists(path):
        raise RegionError(f"{path} exists and is not this log's region: remove it, or name another file")
    note = RegionNote(path, os.urandom(16), boot_id(), complete=False)
    _note_all(directories, note)
    return Region.create(path, size, coherent=True, region_id=note.region_id), note


def complete(directories: Sequence[Directory], note: RegionNote) -> None:
    """The region holds all that the journal did: it is what a restart goes on with."""
    _note_all(directories, replace(note, complete=True))


def share_note(directories: Sequence[Directory], path: Path) -> None:
    """Directories that did not know of the region that is in use note it as well."""
    note = next(note for note in _notes(directories) if note.path == path)
    _note_all(directories, note)


def _note_all(directories: Sequence[Directory], note: RegionNote) -> None:
    for directory in directories:
        if directory.region() != note:
            # What a power cut takes away with the file need not outlive it.
            directory.note_region(note, sync=note.path.parent != SHARED_MEMORY)


def _notes(directories: Sequence[Directory]) -> list[RegionNote]:
    """Different ones, in the order of the directories."""
    return list(dict.fromkeys(note for directory in directories if (note := directory.region()) is not None))


def _is_ours(note: RegionNote, directories: Sequence[Directory]) -> bool:
    """Whether the file may be removed: it bears the noted id, or is what our own name, or a making cut short, left."""
    try:
        status = note.path.lstat()
    except OSError:
        return False
    if not stat.S_ISREG(status.st_mode) or status.st_uid != os.geteuid():
        return False
    found = region_id(note.path)
    if found is not None:
        return found == note.region_id
    own_name = note.path.parent == SHARED_MEMORY and note.path.name.startswith(f"totalog-{os.geteuid()}-")
    return own_name or not note.complete or note.path in [each.path / _IN_DIRECTORY for each in directories]
