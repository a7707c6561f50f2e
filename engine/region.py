"""The file behind a region: made, opened, checked and locked.

Each part is one byte of the file, under an open-file-description lock: byte 0 the sequencer's, byte 1 + i that of
broker i. The kernel gives a lock back when the process dies, so a part can be taken over at once; and whoever gets the
lock of a part knows for sure that nobody has it.
"""

import contextlib
import errno
import fcntl
import os
import stat
import struct
from collections.abc import Iterator
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

REGION_ID_SIZE = 16
"""Bytes."""

SIZE_MIN = 64 * lib.BLOCK_SIZE
"""Bytes of blocks: what the smallest log that is worth having takes."""


RANGE_SIZE_MIN = lib.RANGE_BLOCKS_MIN * lib.BLOCK_SIZE
"""Bytes of blocks that each broker has at least, where they are cut into ranges."""


def file_size(size: int, ranges: int = 0) -> int:
    """Bytes of a region with `size` bytes of blocks: its tables come on top, and take memory only as they are used."""
    blocks = size // lib.BLOCK_SIZE + 1  # block 0 is never used
    bitmaps = 2 * (blocks // 8 + 2 * lib.LINE_SIZE * ranges) if ranges else blocks // 8
    tables: int = lib.FIXED_SIZE + bitmaps + blocks * ffi.sizeof("struct block_entry") + 2 * lib.BLOCK_SIZE
    size_in_blocks: int = tables // lib.BLOCK_SIZE + blocks
    return size_in_blocks * int(lib.BLOCK_SIZE)


class Region:
    """An open, locked region file. `path` is None for an anonymous one (memfd)."""

    def __init__(self, descriptor: int, size: int, path: Path | None, broker: int = 0) -> None:
        self.descriptor = descriptor
        self.size = size
        self.path = path
        self.broker = broker
        """Which broker this process is."""

    @classmethod
    def create(
        cls, path: Path | None, size: int, coherent: bool, region_id: bytes | None = None, ranges: int = 0
    ) -> "Region":
        """A new region with `size` bytes of blocks. A file gets mode 0600 and must not exist; a memfd is sealed.

        `ranges`: 0, and every broker claims blocks anywhere, by atomics; or the number of brokers that it may have,
        each of which gets an equal range of the blocks and claims there by plain stores (partitioned.c).
        """
        if size < SIZE_MIN:
            raise RegionError(f"a log needs {SIZE_MIN >> 20} MiB or more, not {size / 2**20:.3g} MiB: give more memory")
        if not 0 <= ranges <= lib.BROKERS_MAX or size < ranges * RANGE_SIZE_MIN:
            raise RegionError(
                f"{ranges} ranges in {size / 2**20:.3g} MiB: each takes {RANGE_SIZE_MIN >> 20} MiB or more, and there"
                f" are {lib.BROKERS_MAX} at most"
            )
        size = file_size(size, ranges)
        descriptor = _new_memfd(size) if path is None else _new_file(path, size)
        try:
            error = lib.region_format(
                descriptor,
                size,
                lib.COHERENCE_COHERENT if coherent else lib.COHERENCE_NONCOHERENT,
                ranges,
                layout.layout_id(),
                region_id or os.urandom(REGION_ID_SIZE),
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
        """The region in an existing file, for who will be its sequencer and a broker; RegionError says why not."""
        descriptor = _open_existing(path)
        try:
            _lock_sequencer(descriptor, path)
            size = _check_file(descriptor, path)
            broker = _take_broker(descriptor, path, also_of_dead=True)
        except BaseException:
            os.close(descriptor)
            raise
        return cls(descriptor, size, path, broker)

    @classmethod
    def join(cls, path: Path) -> "Region":
        """The region in an existing file, for one more broker."""
        descriptor = _open_existing(path)
        try:
            size = _check_file(descriptor, path)
            broker = _take_broker(descriptor, path, also_of_dead=False)
        except BaseException:
            os.close(descriptor)
            raise
        return cls(descriptor, size, path, broker)

    def take_sequencer(self) -> None:
        """Errors: RegionInUse while another process has that part."""
        _lock_sequencer(self.descriptor, self.path)

    @contextlib.contextmanager
    def dead_brokers(self) -> Iterator[int]:
        """A bit for each broker that a process claims to be and none is; none becomes one of them inside the block."""
        others = [broker for broker in range(lib.BROKERS_MAX) if broker != self.broker]
        dead = [
            broker for broker in others if _process_of(self.descriptor, broker) and _lock(self.descriptor, 1 + broker)
        ]
        try:
            yield sum(1 << broker for broker in dead)
        finally:
            for broker in dead:
                _unlock(self.descriptor, 1 + broker)

    def close(self) -> None:
        """Gives the locks back with the file."""
        os.close(self.descriptor)


def region_id(path: Path) -> bytes | None:
    """The id in the header of a region file; None where there is no file, or one that is no region."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError:
        return None
    try:
        header = os.pread(descriptor, ffi.sizeof("struct region_header"), 0)
    except OSError:
        return None
    finally:
        os.close(descriptor)
    if len(header) < ffi.sizeof("struct region_header") or int.from_bytes(header[:8], "little") != lib.REGION_MAGIC:
        return None
    at = ffi.offsetof("struct region_header", "region_id")
    return header[at : at + REGION_ID_SIZE]


def ordered_of(path: Path) -> int:
    """The global position below which everything in a region file is ordered; no process need have it open."""
    descriptor = _open_existing(path)
    try:
        word = os.pread(descriptor, 8, lib.CONTROL_POSITION + ffi.offsetof("struct control", "ordered"))
    finally:
        os.close(descriptor)
    return int.from_bytes(word, "little")


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
        _lock_sequencer(descriptor, path)
        _lock(descriptor, 1)
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


def _request(kind: int, byte: int) -> bytes:
    return struct.pack("hhqqi4x", kind, os.SEEK_SET, byte, 1, 0)


def _lock(descriptor: int, byte: int) -> bool:
    """Whether the part is ours now."""
    try:
        fcntl.fcntl(descriptor, fcntl.F_OFD_SETLK, _request(fcntl.F_WRLCK, byte))
    except OSError as error:
        if error.errno not in (errno.EAGAIN, errno.EACCES):
            raise
        return False
    return True


def _unlock(descriptor: int, byte: int) -> None:
    fcntl.fcntl(descriptor, fcntl.F_OFD_SETLK, _request(fcntl.F_UNLCK, byte))


def _lock_sequencer(descriptor: int, path: Path | None) -> None:
    if not _lock(descriptor, 0):
        process = next(filter(None, (_process_of(descriptor, broker) for broker in range(lib.BROKERS_MAX))), None)
        holder = f" by process {process}" if process else ""
        raise RegionInUse(f"{path or 'the region'} is in use{holder}: stop that broker, or name another file")


def _take_broker(descriptor: int, path: Path, also_of_dead: bool) -> int:
    """The first place that no process has, and, unless `also_of_dead`, of which nothing has to be settled."""
    brokers = _range_count(descriptor) or lib.BROKERS_MAX
    for broker in range(brokers):
        if not _lock(descriptor, 1 + broker):
            continue
        if also_of_dead or not _process_of(descriptor, broker):
            return broker
        _unlock(descriptor, 1 + broker)
    raise RegionInUse(f"{path} has {brokers} brokers already, the most that this region takes")


def _range_count(descriptor: int) -> int:
    """Of what the header says; the core refuses one that says too much."""
    at = ffi.offsetof("struct region_header", "range_count")
    return min(int.from_bytes(os.pread(descriptor, 4, at), "little"), int(lib.BROKERS_MAX))


def _process_of(descriptor: int, broker: int) -> int:
    """The process that says it is this broker; 0: none does."""
    entry = lib.BROKER_TABLE_POSITION + broker * ffi.sizeof("struct broker_entry")
    return int.from_bytes(os.pread(descriptor, 4, entry + ffi.offsetof("struct broker_entry", "process_id")), "little")
