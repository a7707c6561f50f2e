"""The journal on real files, as Python calls it; and power cuts, by the native program over a model of a disk."""

import errno
import os
import random
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from totalog.engine._core_long import ffi, lib
from totalog.engine.tests.test_native import ADDRESS, NATIVE, Variant, build

LOG_ID = bytes(range(16))
OTHER_ID = bytes(16)
FILE_SIZE = 64 << 10


class Writer:
    """What a sequencer would order: one topic of `partitions` partitions in slot 1, one record a batch."""

    def __init__(self, folder: Path, *, file_size: int = FILE_SIZE) -> None:
        self.folder = folder
        self.descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
        self.file_size = file_size
        self.journal: Any = None
        self.report = ffi.new("struct journal_report *")

    def open(self, log_id: bytes = LOG_ID) -> int:
        """Opens the journal, and begins its next file where that can be done; the report's error."""
        self.journal = lib.journal_open(self.descriptor, log_id, self.file_size, self.report)
        if self.journal == ffi.NULL:
            return int(self.report.error)
        assert lib.journal_begin(self.journal) == 0
        return int(lib.JOURNAL_OK)

    def close(self) -> None:
        if self.journal not in (None, ffi.NULL):
            lib.journal_close(self.journal)
        self.journal = None

    def create(self, partitions: int = 2, name: bytes = b"orders") -> None:
        operation = ffi.new("struct topic_operation *")
        operation.operation, operation.partition_count, operation.order_level = lib.OPERATION_CREATE, partitions, 5
        operation.retention_bytes = operation.retention_ms = -1
        operation.name_size = len(name)
        operation.name[0 : len(name)] = name
        content = bytes(ffi.buffer(operation))
        assert self.add(0, 0, content, base_sequence=1, producer_id=1) == 0

    def add(self, slot: int, partition: int, content: bytes, *, position: int | None = None, **fields: int) -> int:
        """Appends a batch where its topic and partition go on; the answer."""
        topic, row = ffi.new("struct journal_topic *"), ffi.new("struct journal_partition *")
        assert lib.journal_topic_at(self.journal, slot, topic)
        assert lib.journal_partition_at(self.journal, slot, partition, row)
        entry = ffi.new("struct order_entry *")
        entry.global_position = self.next if position is None else position
        entry.total_order, entry.base_offset = topic.next_total_order, row.next_offset
        entry.topic_bytes, entry.partition_bytes = topic.bytes_appended, row.bytes_appended
        entry.max_timestamp = entry.topic_max_timestamp = entry.partition_max_timestamp = entry.global_position
        entry.size, entry.partition, entry.record_count = len(content), partition, 1
        entry.producer_id, entry.base_sequence, entry.producer_epoch = -1, -1, -1
        for name, value in fields.items():
            setattr(entry, name, value)
        return int(lib.journal_append(self.journal, slot, 1, entry, content))

    @property
    def next(self) -> int:
        return int(lib.journal_next(self.journal))

    def sync(self) -> None:
        assert lib.journal_sync(self.journal) == 0
        assert lib.journal_durable(self.journal) == self.next

    def next_offsets(self) -> list[int]:
        row = ffi.new("struct journal_partition *")
        return [int(row.next_offset) for i in range(2) if lib.journal_partition_at(self.journal, 1, i, row)]

    def files(self) -> list[Path]:
        return sorted(self.folder.glob("journal-*.log"))

    def verify(self) -> int:
        disk = lib.disk_open(self.descriptor)
        try:
            return int(lib.journal_verify(disk, LOG_ID, self.report))
        finally:
            lib.disk_close(disk)


@pytest.fixture
def writer(tmp_path: Path) -> Iterator[Writer]:
    made = Writer(tmp_path)
    yield made
    made.close()
    os.close(made.descriptor)


def fill(writer: Writer, batches: int, size: int = 1000) -> None:
    for number in range(batches):
        assert writer.add(1, number % 2, number.to_bytes(4, "little") * (size // 4)) == 0


def test_what_was_appended_is_there_again(writer: Writer) -> None:
    assert writer.open() == lib.JOURNAL_OK
    assert (writer.next, writer.report.file_count) == (0, 0)
    writer.create()
    fill(writer, 300)
    writer.sync()
    writer.close()
    assert len(writer.files()) == 6
    assert {path.stat().st_mode & 0o777 for path in writer.files()} == {0o600}
    assert writer.verify() == lib.JOURNAL_OK
    assert writer.open() == lib.JOURNAL_OK
    assert (writer.next, writer.report.end, writer.report.cut_bytes) == (301, 301, 0)
    assert writer.next_offsets() == [150, 150]
    fill(writer, 10)
    assert writer.next_offsets() == [155, 155]


def test_a_body_larger_than_the_buffer(writer: Writer) -> None:
    writer.open()
    writer.create()
    body = os.urandom(5 << 20) + b"end"
    assert writer.add(1, 0, body) == 0
    assert writer.add(1, 1, b"behind it") == 0
    writer.sync()
    writer.close()
    assert writer.verify() == lib.JOURNAL_OK
    assert writer.report.end == 3
    assert body in b"".join(path.read_bytes() for path in writer.files())
    with open(writer.files()[0], "r+b") as file:
        file.seek(3 << 20)
        file.write(b"damaged")
    assert writer.verify() == lib.JOURNAL_DAMAGED


def test_another_log_and_another_format_are_refused(writer: Writer) -> None:
    writer.open()
    writer.close()
    assert writer.open(OTHER_ID) == lib.JOURNAL_OTHER_LOG
    assert writer.open() == lib.JOURNAL_OK


def test_positions_of_memory_topics_are_skipped(writer: Writer) -> None:
    writer.open()
    writer.create()
    assert lib.journal_skip(writer.journal, 10) == 0
    assert writer.add(1, 0, b"ten") == 0
    writer.sync()
    assert lib.journal_skip(writer.journal, 20) == 0
    assert lib.journal_durable(writer.journal) == 20
    assert lib.journal_mark(writer.journal) == 0
    writer.close()
    writer.open()
    assert writer.next == 20
    record = ffi.new("struct journal_record *")
    assert lib.journal_record_at(writer.journal, 10, record) == 0
    assert (record.topic_slot, record.entry.global_position, record.payload_size) == (1, 10, 3)
    assert lib.journal_record_at(writer.journal, 11, record) == errno.ENOENT


def test_what_does_not_follow_is_not_written(writer: Writer) -> None:
    writer.open()
    writer.create()
    writer.sync()
    assert writer.add(1, 0, b"x", base_offset=1) == errno.EILSEQ
    assert writer.add(1, 0, b"x") == errno.EILSEQ  # the first failure ends it
    assert lib.journal_failure(writer.journal) == errno.EILSEQ
    writer.close()
    writer.open()
    assert (writer.next, writer.next_offsets()) == (1, [0, 0])


@pytest.mark.parametrize("call", ["WRITE", "SYNC"])
@pytest.mark.parametrize("error", [errno.EIO, errno.ENOSPC])
@pytest.mark.parametrize("partly", [0, 700])
def test_a_failed_call_ends_the_writer(writer: Writer, call: str, error: int, partly: int) -> None:
    writer.open()
    writer.create()
    fill(writer, 5)
    writer.sync()
    fill(writer, 5)
    lib.disk_fault(lib.journal_disk(writer.journal), getattr(lib, f"DISK_{call}"), 0, 1, error, partly, 0)
    assert lib.journal_sync(writer.journal) == error
    assert lib.journal_durable(writer.journal) == 6
    assert lib.journal_sync(writer.journal) == error
    assert writer.add(1, 0, b"x") == error
    writer.close()
    assert writer.open() == lib.JOURNAL_OK
    assert writer.next >= 6


def test_no_file_can_be_made(writer: Writer) -> None:
    writer.open()
    writer.create()
    lib.disk_fault(lib.journal_disk(writer.journal), lib.DISK_SYNC_NAMES, 0, 1, errno.EIO, 0, 0)
    answers = [writer.add(1, 0, bytes(1000)) for _ in range(60)]
    written = answers.index(errno.EIO)
    assert set(answers[:written]) == {0}
    assert set(answers[written:]) == {errno.EIO}
    writer.close()
    assert writer.open() == lib.JOURNAL_OK
    assert writer.next == 1 + written  # the file before it was sealed


KINDS = ("in-recovery", "torn", "spoilt", "told", "lost", "failures", "removed")


@pytest.mark.parametrize(
    ("variant", "cuts", "one_in"), [(NATIVE, 5_000, 2), (ADDRESS, 75, 20)], ids=["native", "address"]
)
def test_power_cuts(variant: Variant, cuts: int, one_in: int) -> None:
    """journal_cases.c says what has to hold after each of them. Opening is slow under a sanitizer."""
    command = [*build(variant), "cuts", str(random.randrange(1 << 32)), str(cuts), str(one_in)]
    print(" ".join(command))
    environment = {**os.environ, "ASAN_OPTIONS": "quarantine_size_mb=1", "UBSAN_OPTIONS": "print_stacktrace=1"}
    finished = subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=350)
    assert (finished.returncode, finished.stderr) == (0, "")
    found = dict(re.findall(r"([a-z-]+) (\d+)", finished.stdout))
    assert int(found["cuts"]) >= cuts
    if variant is NATIVE:
        assert [kind for kind in KINDS if int(found[kind]) == 0] == []
