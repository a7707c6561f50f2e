"""A log with data directories, its replicas stepped by hand: for tests of replica, archive and restore."""

import errno
import os
from pathlib import Path
from typing import Any

from totalog.engine import Log, Topic
from totalog.engine._core import ffi as short_ffi
from totalog.engine._core import lib as short_lib
from totalog.engine._core_long import ffi, lib
from totalog.engine.tests.driver import Found

LOG_ID = bytes(range(100, 116))
FILE_SIZE = 64 << 10
RUN_IDLE: int = lib.RUN_IDLE
VIEW = 0xFFFFFFFF


def core_of(log: Log) -> Any:
    return ffi.cast("struct log *", int(short_ffi.cast("uintptr_t", log._core)))


class Store:
    """The directories of one log. Opens and attaches all of them; what each replica does is the test's to say."""

    def __init__(
        self,
        log: Log,
        folders: list[Path],
        *,
        file_size: int = FILE_SIZE,
        restore: bool = False,
    ) -> None:
        self.log, self.folders, self.file_size = log, folders, file_size
        self.core = core_of(log)
        self.descriptors = [os.open(folder, os.O_RDONLY | os.O_DIRECTORY) for folder in folders]
        self.reports = [ffi.new("struct journal_report *") for _ in folders]
        journals = [self.open_journal(index) for index in range(len(folders))]
        if restore:
            assert lib.restore_region(self.core, journals[0]) == lib.OPEN_OK
            for other in journals[1:]:
                lib.restore_follow(other)
        self.eventfd = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self.replicas = lib.replicas_new(self.core, len(folders), self.eventfd)
        self.disks = []
        for index, journal in enumerate(journals):
            self.disks.append(lib.journal_disk(journal))
            assert lib.replica_attach(self.replicas, index, journal) == 0
        self.archives: dict[int, Any] = {}

    def open_journal(self, index: int) -> Any:
        report = self.reports[index]
        journal = lib.journal_open(self.descriptors[index], LOG_ID, self.file_size, report)
        assert journal != ffi.NULL, (report.error, report.saved_errno, report.damage, report.byte, report.position)
        return journal

    def run(self, index: int = 0, nanoseconds_max: int = 0) -> int:
        return int(lib.replica_run(self.replicas, index, nanoseconds_max))

    def run_all(self) -> None:
        for index in range(len(self.folders)):
            assert self.run(index) == RUN_IDLE

    def rotate(self, index: int = 0) -> None:
        lib.replica_rotate(self.replicas, index)
        assert self.run(index) == RUN_IDLE

    def status(self, index: int = 0) -> Any:
        status = ffi.new("struct replica_status *")
        lib.replica_look(self.replicas, index, status)
        return status

    def told(self) -> bool:
        """Whether the eventfd was written since it was asked last."""
        try:
            return os.eventfd_read(self.eventfd) > 0
        except BlockingIOError:
            return False

    def fault(self, call: int, times: int, error: int = errno.EIO, *, index: int = 0, nanoseconds: int = 0) -> None:
        lib.disk_fault(self.disks[index], call, 0, times, error, 0, nanoseconds)

    def control(self) -> Any:
        control = short_ffi.new("struct control *")
        target = short_ffi.cast("uint8_t *", control)
        size = short_ffi.sizeof("struct control")
        assert short_lib.core_peek(self.log._core, short_lib.CONTROL_POSITION, target, size) == 0
        return control

    def files(self, index: int = 0) -> list[Path]:
        return sorted(self.folders[index].glob("journal-*.log"))

    def verify(self, index: int = 0) -> None:
        """Every file is what its checksums say, and every checkpoint what the records before it lead to."""
        disk = lib.disk_open(self.descriptors[index])
        report = self.reports[index]
        try:
            error = lib.journal_verify(disk, LOG_ID, report)
            assert error == lib.JOURNAL_OK, (error, report.damage, report.file, report.byte, report.position)
        finally:
            lib.disk_close(disk)

    def archive(self, index: int = 0) -> Any:
        if index not in self.archives:
            self.archives[index] = lib.archive_open(self.core, self.descriptors[index], LOG_ID)
            assert self.archives[index] != ffi.NULL
        return self.archives[index]

    def read(
        self,
        topic: Topic,
        partition: int,
        offset: int,
        size_max: int = 1 << 20,
        batches_max: int = 4096,
        *,
        index: int = 0,
    ) -> tuple[Any, list[Found]]:
        """What the archive says, in the words of `driver.Reader.read`."""
        room, batches = ffi.new("uint8_t[]", size_max), ffi.new("struct read_batch[]", batches_max)
        result = ffi.new("struct read_result *")
        address, described = (int(ffi.cast("uintptr_t", pointer)) for pointer in (room, batches))
        at = (topic.slot, topic.generation, partition & VIEW, offset)
        lib.archive_read(self.archive(index), *at, address, size_max, True, described, batches_max, result)
        found, position = [], 0
        for batch in batches[0 : result.count]:
            content = bytes(ffi.buffer(room + position, batch.size))
            found.append(Found(batch.base_offset, batch.leader_epoch, content))
            position += batch.size
        assert position == result.size
        return result, found

    def read_all(self, topic: Topic, partition: int, **options: int) -> list[Found]:
        """Everything that the archive has, from the log start on."""
        everything: list[Found] = []
        offset = self.log.bounds(topic, partition).log_start_offset
        while True:
            result, found = self.read(topic, partition, offset, **options)
            assert (result.status, result.size_needed) == (lib.STATUS_OK, 0)
            if everything and found and found[0].base_offset == everything[-1].base_offset:
                found = found[1:]
            if not found:
                return everything
            everything += found
            offset = max(found[-1].base_offset, offset) + 1

    def close_archives(self) -> None:
        """What was loaded of footers is forgotten."""
        for archive in self.archives.values():
            lib.archive_close(archive)
        self.archives = {}

    def close(self, *, seal: bool = False) -> None:
        """The log stays. `seal`: as a clean stop does."""
        self.close_archives()
        for index in range(len(self.folders)):
            if seal:
                lib.replica_stop(self.replicas, index, True)
                assert self.run(index) == lib.RUN_STOPPED
                assert lib.replica_seal(self.replicas, index) == 0
        lib.replicas_delete(self.replicas)
        for descriptor in [*self.descriptors, self.eventfd]:
            os.close(descriptor)
