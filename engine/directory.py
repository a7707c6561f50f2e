"""A data directory: made, checked, held by one process, and its two small files that say what it belongs to.

    lock             an open-file-description lock on it is what holding the directory means; the holder's process id
    log.json         which log this is, the same in all of its directories; written once, before anything else
    region.json      the region in use; there while a broker runs, and after one that did not stop cleanly
    journal-*.log    the journal (engine/core/journal.h)
    *.new            what was being written when a process died

Invariants
 - Nothing is read or written before the lock is held, except the holder's process id for who did not get it.
 - A small file is replaced whole: written beside it, synced, renamed, and the directory synced. It is the old one or
   the new one after any kill and any power cut; but a note of a region that no power cut survives is not synced.
 - A region is trusted only when region.json names it as complete, its id is the one noted, and the machine has not
   started since: a file on a disk holds anything after a power cut, and nothing on a tmpfs survives one.
"""

import errno
import fcntl
import json
import os
import stat
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from totalog.engine.errors import DirectoryError, DirectoryInUse, DirectoryMismatch, DirectoryRefused

FORMAT: Final = 1
"""Of a data directory as a whole; grows when an older build could not use one rightly."""

LOG_ID_SIZE: Final = 16
"""Bytes."""

NEW: Final = ".new"
"""Ends the name of what is being written and not yet in its place."""

_LOCK, _LOG, _REGION = "lock", "log.json", "region.json"
_JOURNAL_PREFIX, _JOURNAL_SUFFIX = "journal-", ".log"
_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")
_NOT_OURS_BUT_HARMLESS = "lost+found"
"""What a file system puts into its root: a directory may be one."""


@dataclass(frozen=True, slots=True)
class RegionNote:
    """What region.json says."""

    path: Path
    region_id: bytes
    boot_id: str
    complete: bool
    """It holds all that the journal did when it was made."""


class Directory:
    """A data directory that this process holds. `log_id` is None until the directory belongs to a log."""

    def __init__(self, path: Path, descriptor: int, lock: int) -> None:
        self.path = path
        self.descriptor = descriptor
        self.log_id: bytes | None = None
        self._lock = lock

    @classmethod
    def hold(cls, path: Path) -> "Directory":
        """Makes the directory if it is missing, checks whose it is, and takes its lock.

        Errors: DirectoryInUse, DirectoryRefused, DirectoryMismatch, DirectoryError.
        """
        path = path.absolute()
        try:
            descriptor = _open_or_make(path)
        except OSError as error:
            raise DirectoryError(f"{path} cannot be used as a data directory: {error.strerror}") from error
        try:
            mode = _check_owner(descriptor, path)
            directory = cls(path, descriptor, _lock(descriptor, path))
        except BaseException:
            os.close(descriptor)
            raise
        try:
            directory.log_id = directory._load_log(mode)
        except BaseException:
            directory.close()
            raise
        return directory

    def close(self) -> None:
        """Gives the lock back."""
        os.close(self._lock)
        os.close(self.descriptor)

    # -- which log

    def join(self, log_id: bytes) -> None:
        """The directory belongs to this log from here on; it belonged to none."""
        assert self.log_id is None
        assert len(log_id) == LOG_ID_SIZE
        self._replace(_LOG, {"format": FORMAT, "log_id": log_id.hex()}, sync=True)
        self.log_id = log_id

    def _load_log(self, mode: int) -> bytes | None:
        said = self._load(_LOG)
        if said is None:
            self._check_empty()
            os.fchmod(self.descriptor, 0o700)
            return None
        if mode & 0o077:
            raise DirectoryRefused(f"{self.path} has mode {mode:04o}: others may look into it; chmod 0700 it")
        if said.get("format") != FORMAT:
            raise DirectoryMismatch(
                f"{self.path} has format {said.get('format')!r}, this build knows {FORMAT}: use the build that made it"
            )
        try:
            log_id = bytes.fromhex(said["log_id"])
        except (KeyError, TypeError, ValueError):
            log_id = b""
        if len(log_id) != LOG_ID_SIZE:
            raise DirectoryMismatch(f"{self.path / _LOG} does not say which log it belongs to: put the file back")
        return log_id

    def _check_empty(self) -> None:
        """Nobody's files get mixed with ours, and a journal without log.json is not taken for an empty directory."""
        names = sorted(
            name
            for name in os.listdir(self.descriptor)
            if name not in (_LOCK, _NOT_OURS_BUT_HARMLESS) and not name.endswith(NEW)
        )
        if any(name.startswith(_JOURNAL_PREFIX) for name in names):
            raise DirectoryMismatch(f"{self.path} has a journal and no {_LOG}: put the file back")
        if names:
            raise DirectoryRefused(
                f"{self.path} holds files that are not a log's ({names[0]}): name an empty directory, or a new one"
            )

    # -- the region in use

    def region(self) -> RegionNote | None:
        """What the last process noted, unless it stopped cleanly. A note that cannot be read is none."""
        said = self._load(_REGION) or {}
        try:
            return RegionNote(
                Path(said["path"]), bytes.fromhex(said["region_id"]), str(said["boot_id"]), said["complete"] is True
            )
        except (KeyError, TypeError, ValueError):
            return None

    def note_region(self, note: RegionNote, *, sync: bool) -> None:
        """`sync`: the note is there after a power cut; the old one or the new one is there after a kill in any case."""
        said = {"path": str(note.path), "region_id": note.region_id.hex(), "boot_id": note.boot_id}
        self._replace(_REGION, {**said, "complete": note.complete}, sync)

    def forget_region(self) -> None:
        try:
            os.unlink(_REGION, dir_fd=self.descriptor)
        except FileNotFoundError:
            return

    # -- the journal's files

    def journal_files(self) -> list[str]:
        """Names, oldest first."""
        return sorted(
            name
            for name in os.listdir(self.descriptor)
            if name.startswith(_JOURNAL_PREFIX) and name.endswith(_JOURNAL_SUFFIX)
        )

    # -- small files

    def _load(self, name: str) -> dict[str, Any] | None:
        try:
            descriptor = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=self.descriptor)
        except FileNotFoundError:
            return None
        except OSError as error:
            raise DirectoryError(f"{self.path / name} cannot be read: {error.strerror}") from error
        with open(descriptor, "rb") as file:
            try:
                said = json.load(file)
            except ValueError:
                said = None
        return said if isinstance(said, dict) else {}

    def _replace(self, name: str, said: dict[str, object], sync: bool) -> None:
        try:
            self._write(name + NEW, json.dumps(said).encode() + b"\n", sync)
            os.rename(name + NEW, name, src_dir_fd=self.descriptor, dst_dir_fd=self.descriptor)
            if sync:
                os.fsync(self.descriptor)
        except OSError as error:
            raise DirectoryError(f"{self.path / name} cannot be written: {error.strerror}") from error

    def _write(self, name: str, text: bytes, sync: bool) -> None:
        flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC
        descriptor = os.open(name, flags, 0o600, dir_fd=self.descriptor)
        with open(descriptor, "wb") as file:
            file.write(text)
            file.flush()
            if sync:
                os.fsync(descriptor)


def boot_id() -> str:
    """Another one each time the machine starts; in a container, that of its host."""
    return _BOOT_ID.read_text().strip()


def _open_or_make(path: Path) -> int:
    flags = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
    try:
        return os.open(path, flags)
    except FileNotFoundError:
        pass
    for folder in (*reversed(path.parents), path):
        try:
            os.mkdir(folder, 0o700)
        except FileExistsError:
            continue
        except OSError as error:
            if error.errno in (errno.EACCES, errno.EROFS) and folder.is_dir():
                continue  # a folder that is there and not ours to write in
            raise
        _sync_folder(folder.parent)
    return os.open(path, flags)


def _sync_folder(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _check_owner(descriptor: int, path: Path) -> int:
    """The directory's mode; DirectoryRefused where it is another user's."""
    status = os.fstat(descriptor)
    if status.st_uid != os.geteuid():
        raise DirectoryRefused(f"{path} belongs to user {status.st_uid}, not to user {os.geteuid()} who runs this")
    return stat.S_IMODE(status.st_mode)


def _lock(descriptor: int, path: Path) -> int:
    """The locked file, with our process id in it."""
    try:
        lock = os.open(_LOCK, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600, dir_fd=descriptor)
    except OSError as error:
        raise DirectoryError(f"{path / _LOCK} cannot be opened: {error.strerror}") from error
    try:
        fcntl.fcntl(lock, fcntl.F_OFD_SETLK, struct.pack("hhqqi4x", fcntl.F_WRLCK, os.SEEK_SET, 0, 0, 0))
        os.ftruncate(lock, 0)
        os.pwrite(lock, b"%d\n" % os.getpid(), 0)
    except OSError as error:
        holder = os.pread(lock, 20, 0).strip()
        os.close(lock)
        if error.errno in (errno.EAGAIN, errno.EACCES):
            raise DirectoryInUse(path, int(holder) if holder.isdigit() else None) from error
        raise DirectoryError(f"{path / _LOCK} cannot be locked: {error.strerror}") from error
    except BaseException:
        os.close(lock)
        raise
    return lock
