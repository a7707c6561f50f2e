"""The file behind a region: made, opened, checked and locked.

One process at a time: whoever holds the open-file-description lock has the sequencer's part. The kernel gives it back
when the process dies, so a region that a killed process left can be attached at once.
"""

import contextlib
import errno
import fcntl
import os
import stat
import struct
from pathlib import Path

from totalog.engine import layout
from totalog.engine._core import ffi, lib
from totalog.engine.errors import (
    NotARegion,
    OtherLayout,
    OutOfMemory,
    RegionDamaged,
    RegionError,
    RegionInUse,
    RegionRefused,
)

SIZE_MIN = 64 * lib.BLOCK_SIZE
"""Bytes of blocks: what the smallest log that is worth having takes."""


def file_size(size: int) -> int:
    """Bytes of a region with `size` bytes of blocks: its tables come on top, and take memory only as they are used."""
    blocks = size // lib.BLOCK_SIZE + 1  # block 0 is never used
    tables: int = lib.FIXED_SIZE + blocks // 8 + blocks * ffi.sizeof("struct block_entry") + 2 * lib.BLOCK_SIZE
    size_in_blocks: int = tables // lib.BLOCK_SIZE + blocks
    return size_in_blocks * int(lib.BLOCK_SIZE)


class Region:
    """An open, locked region file. `path` is None for an anonymous one (memfd)."""

    def __init__(self, descriptor: int, size: int, path: Path | None) -> None:
        self.descriptor = descriptor
        self.size = size
        self.path = path

    @classmethod
    def create(cls, path: Path | None, size: int, coherent: bool) -> "Region":
        """A new region with `size` bytes of blocks. A file gets mode 0600 and must not exist; a memfd is sealed."""
        if size < SIZE_MIN:
            raise RegionError(f"a log needs {SIZE_MIN >> 20} MiB or more, not {size / 2**20:.3g} MiB: give more memory")
        size = file_size(size)
        descriptor = _new_memfd(size) if path is None else _new_file(path, size)
        try:
            error = lib.region_format(
                descriptor,
                size,
                lib.COHERENCE_COHERENT if coherent else lib.COHERENCE_NONCOHERENT,
                layout.layout_id(),
                os.urandom(16),
            )
            if error != lib.OPEN_OK:
                raise explain(error, path)
        except BaseException:
            os.close(descriptor)
            if path is not None:
                path.unlink()
            raise
        return cls(descriptor, size, path)

    @classmethod
    def attach(cls, path: Path) -> "Region":
        """The region in an existing file; RegionError says why not."""
        descriptor = _open_existing(path)
        try:
            _lock(descriptor, path)
            size = _check_file(descriptor, path)
        except BaseException:
            os.close(descriptor)
            raise
        return cls(descriptor, size, path)

    def close(self) -> None:
        """Gives the lock back with the file."""
        os.close(self.descriptor)


def explain(error: int, path: Path | None) -> RegionError | OutOfMemory:
    """The exception for an OPEN_* answer of the core."""
    name = "the region" if path is None else str(path)
    match error:
        case lib.OPEN_NOT_A_REGION:
            return NotARegion(f"{name} is not a region (no magic): name another file, or one that does not exist yet")
        case lib.OPEN_OTHER_LAYOUT:
            return OtherLayout(f"{name} was made by a build with another memory layout: use that build, or a new file")
        case lib.OPEN_SIZE_MISMATCH:
            return RegionDamaged(f"{name} does not have the size that its header states: it was cut or extended")
        case lib.OPEN_DAMAGED:
            return RegionDamaged(f"{name} contradicts itself: its tables are damaged; use a new file")
        case lib.OPEN_NO_MEMORY:
            return OutOfMemory(f"no memory for {name}: its file system or this container is full")
        case _:
            reason = os.strerror(ffi.errno) if ffi.errno else "unknown reason"
            return RegionError(f"{name} cannot be mapped: {reason}")


def _new_memfd(size: int) -> int:
    descriptor = os.memfd_create("totalog", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    os.ftruncate(descriptor, size)
    # Nobody who is handed the descriptor can pull the memory away from under us.
    fcntl.fcntl(descriptor, fcntl.F_ADD_SEALS, fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SEAL)
    return descriptor


def _new_file(path: Path, size: int) -> int:
    flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    try:
        descriptor = os.open(path, flags, 0o600)
    except OSError as error:
        raise RegionError(f"{path} cannot be created: {error.strerror}") from error
    try:
        os.fchmod(descriptor, 0o600)
        _lock(descriptor, path)
        os.ftruncate(descriptor, size)
    except BaseException as error:
        os.close(descriptor)
        path.unlink()
        if isinstance(error, OSError):
            raise RegionError(f"{path} cannot be made {size} bytes long: {error.strerror}") from error
        raise
    return descriptor


def _open_existing(path: Path) -> int:
    try:
        return os.open(path, os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC)
    except OSError as error:
        if error.errno == errno.ELOOP:
            raise RegionRefused(f"{path} is a symbolic link: name the region file itself") from error
        raise RegionError(f"{path} cannot be opened: {error.strerror}") from error


def _check_file(descriptor: int, path: Path) -> int:
    status = os.fstat(descriptor)
    if not stat.S_ISREG(status.st_mode):
        raise RegionRefused(f"{path} is not a regular file")
    if status.st_uid != os.geteuid():
        raise RegionRefused(f"{path} belongs to user {status.st_uid}, not to user {os.geteuid()} who runs this")
    if stat.S_IMODE(status.st_mode) & 0o077:
        raise RegionRefused(f"{path} has mode {stat.S_IMODE(status.st_mode):04o}: others may use it; chmod 0600 it")
    return status.st_size


def _lock(descriptor: int, path: Path) -> None:
    request = struct.pack("hhqqi4x", fcntl.F_WRLCK, os.SEEK_SET, 0, 0, 0)
    try:
        fcntl.fcntl(descriptor, fcntl.F_OFD_SETLK, request)
    except OSError as error:
        if error.errno not in (errno.EAGAIN, errno.EACCES):
            raise
        raise RegionInUse(f"{path} is in use{_holder(descriptor)}: stop that broker, or name another file") from None


def _holder(descriptor: int) -> str:
    """Which process says that it is broker 0 of the region, for the message."""
    position = lib.BROKER_TABLE_POSITION + ffi.offsetof("struct broker_entry", "process_id")
    with contextlib.suppress(OSError):
        process_id = int.from_bytes(os.pread(descriptor, 4, position), "little")
        if process_id:
            return f" by process {process_id}"
    return ""
