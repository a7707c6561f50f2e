"""The file behind a region: made, opened, refused, locked, and short of memory."""

import contextlib
import fcntl
import os
import resource
import signal
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from totalog.engine import (
    Log,
    NotARegion,
    OtherLayout,
    OutOfMemory,
    RegionDamaged,
    RegionError,
    RegionInUse,
    RegionRefused,
    region,
)
from totalog.engine._core import ffi, lib
from totalog.engine.tests import driver

SIZE = driver.SIZE_SMALL
MIB = 1 << 20


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "region"


@pytest.fixture
def made(path: Path) -> Path:
    """A region file that holds one batch."""
    with Log.create(path, size=SIZE) as log:
        topic = log.create_topic("kept", id=driver.topic_id(0), partitions=1)
        assert driver.append_one(log, driver.Batch(topic, 0, b"bytes")).status == lib.STATUS_OK
    return path


def test_a_file_is_private_and_goes_on(made: Path) -> None:
    assert stat.S_IMODE(made.stat().st_mode) == 0o600
    with Log.attach(made) as log:
        topic = log.find_topic("kept")
        assert topic is not None
        assert [found.payload for found in driver.Reader(log).read_all(topic, 0)] == [b"bytes"]


def test_the_mode_does_not_depend_on_the_umask(path: Path) -> None:
    before = os.umask(0o777)
    try:
        Log.create(path, size=SIZE).close()
    finally:
        os.umask(before)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_create_takes_no_file_that_exists(path: Path) -> None:
    path.write_bytes(b"mine")
    with pytest.raises(RegionError, match="cannot be created: File exists"):
        Log.create(path, size=SIZE)
    assert path.read_bytes() == b"mine"


@pytest.mark.parametrize("exists", [False, True])
def test_create_follows_no_link(path: Path, tmp_path: Path, exists: bool) -> None:
    target = tmp_path / "target"
    if exists:
        target.write_bytes(b"mine")
    path.symlink_to(target)
    with pytest.raises(RegionError, match="cannot be created"):
        Log.create(path, size=SIZE)
    assert target.exists() == exists


def test_attach_follows_no_link(made: Path, tmp_path: Path) -> None:
    link = tmp_path / "link"
    link.symlink_to(made)
    with pytest.raises(RegionRefused, match="is a symbolic link: name the region file itself"):
        Log.attach(link)


def test_attach_wants_an_existing_file(path: Path) -> None:
    with pytest.raises(RegionError, match="cannot be opened: No such file or directory"):
        Log.attach(path)


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o666])
def test_attach_refuses_what_others_may_use(made: Path, mode: int) -> None:
    made.chmod(mode)
    with pytest.raises(RegionRefused, match=f"has mode {mode:04o}: others may use it; chmod 0600 it"):
        Log.attach(made)


def test_attach_refuses_another_users_file(made: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = os.fstat

    def fstat(descriptor: int) -> os.stat_result:
        status = list(real(descriptor))
        status[stat.ST_UID] = os.geteuid() + 1
        return os.stat_result(status)

    monkeypatch.setattr(os, "fstat", fstat)
    with pytest.raises(RegionRefused, match=f"belongs to user {os.geteuid() + 1}, not to user {os.geteuid()}"):
        Log.attach(made)


def test_attach_refuses_what_is_no_file(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe", 0o600)
    with pytest.raises(RegionRefused, match="is not a regular file"):
        Log.attach(tmp_path / "pipe")
    with pytest.raises(RegionError, match="cannot be opened: Is a directory"):
        Log.attach(tmp_path)


def test_only_one_at_a_time(made: Path) -> None:
    with Log.attach(made), pytest.raises(RegionInUse, match=rf"in use by process {os.getpid()}: stop that broker"):
        Log.attach(made)
    Log.attach(made).close()


def test_a_new_file_is_locked_at_once(path: Path) -> None:
    with Log.create(path, size=SIZE), pytest.raises(RegionInUse):
        Log.attach(path)


def test_the_lock_goes_with_a_killed_process(made: Path) -> None:
    script = (
        "import sys\nfrom totalog.engine import Log\nlog = Log.attach(sys.argv[1])\nprint('open', flush=True)\n"
        "sys.stdin.read()\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", script, str(made)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "open\n"
        with pytest.raises(RegionInUse, match=f"by process {process.pid}"):
            Log.attach(made)
        process.kill()
        process.wait()
        Log.attach(made).close()


# -- what a file may be instead of a region


@pytest.mark.parametrize("content", [b"", b"short", bytes(8192), b"no region" * 1000])
def test_something_else_is_no_region(path: Path, content: bytes) -> None:
    path.touch(0o600)
    path.write_bytes(content)
    with pytest.raises(NotARegion, match=r"is not a region \(no magic\)"):
        Log.attach(path)


def patch(path: Path, position: int, value: bytes) -> None:
    with path.open("r+b") as file:
        file.seek(position)
        file.write(value)


def test_half_formatted_is_no_region(made: Path) -> None:
    """The magic is stored last: without it the format was cut short."""
    patch(made, ffi.offsetof("struct region_header", "magic"), bytes(8))
    with pytest.raises(NotARegion):
        Log.attach(made)


def test_another_layout_is_refused(made: Path) -> None:
    patch(made, ffi.offsetof("struct region_header", "layout_id"), b"otherlay")
    with pytest.raises(OtherLayout, match="made by a build with another memory layout: use that build, or a new file"):
        Log.attach(made)


@pytest.mark.parametrize("change", [-lib.BLOCK_SIZE, -1, 1, lib.BLOCK_SIZE])
def test_another_size_is_refused(made: Path, change: int) -> None:
    os.truncate(made, made.stat().st_size + change)
    with pytest.raises(RegionDamaged, match="does not have the size that its header states"):
        Log.attach(made)


def test_truncated_to_almost_nothing(made: Path) -> None:
    os.truncate(made, 200)
    with pytest.raises(RegionDamaged):
        Log.attach(made)
    os.truncate(made, 100)
    with pytest.raises(NotARegion):
        Log.attach(made)


HEADER_FIELDS = ("coherence", "block_count", "bitmap_position", "block_table_position", "blocks_position")


@pytest.mark.parametrize("field", HEADER_FIELDS)
def test_a_header_that_contradicts_itself(made: Path, field: str) -> None:
    patch(made, ffi.offsetof("struct region_header", field), b"\x07")
    with pytest.raises(RegionDamaged, match="contradicts itself"):
        Log.attach(made)


CONTROL_FIELDS = {"ordered": 0, "applied": 2**40, "order_trimmed": 2**40, "topic_slots": 2**31, "checkpoint": 2**40}


@pytest.mark.parametrize("field", CONTROL_FIELDS)
def test_a_control_block_that_contradicts_itself(made: Path, field: str) -> None:
    size = ffi.sizeof("uint32_t" if field == "topic_slots" else "uint64_t")
    position = lib.CONTROL_POSITION + ffi.offsetof("struct control", field)
    patch(made, position, CONTROL_FIELDS[field].to_bytes(size, "little"))
    with pytest.raises(RegionDamaged, match="contradicts itself"):
        Log.attach(made)


def bytes_of(value: int, type: str) -> bytes:
    return value.to_bytes(ffi.sizeof(type), "little")


def in_struct(position: int, struct: str, field: str) -> int:
    return position + int(ffi.offsetof(f"struct {struct}", field))


COUNTERS_SIZE = lib.BROKERS_MAX * ffi.sizeof("struct topic_counter")
TOPIC = lib.TOPIC_TABLE_POSITION + ffi.sizeof("struct topic_entry") + COUNTERS_SIZE
PARTITION = lib.PARTITION_TABLE_POSITION + ffi.sizeof("struct partition_entry")
DAMAGES = {
    "more memory than there is": (in_struct(lib.CONTROL_POSITION, "control", "committed_blocks"), 2**40, "uint64_t"),
    "a ring too far ahead": (in_struct(lib.BROKER_TABLE_POSITION, "broker_entry", "written"), 2**40, "uint64_t"),
    "completions of nothing": (in_struct(lib.BROKER_TABLE_POSITION, "broker_entry", "completed"), 2**40, "uint64_t"),
    "the last broker epoch": (
        in_struct(lib.BROKER_TABLE_POSITION, "broker_entry", "broker_epoch"),
        2**32 - 1,
        "uint32_t",
    ),
    "no such state": (in_struct(TOPIC, "topic_entry", "state"), 9, "uint32_t"),
    "no extents": (in_struct(TOPIC, "topic_entry", "extent_count"), 0, "uint32_t"),
    "too many extents": (in_struct(TOPIC, "topic_entry", "extent_count"), 99, "uint32_t"),
    "an extent outside": (in_struct(TOPIC, "topic_entry", "extents"), 2**31, "uint32_t"),
    "a name too long": (in_struct(TOPIC, "topic_entry", "name_size"), 257, "uint32_t"),
    "entries that were never ordered": (in_struct(TOPIC, "topic_entry", "entry_count"), 2**40, "uint64_t"),
    "a head behind its tail": (in_struct(TOPIC, "topic_entry", "entry_first"), 2**40, "uint64_t"),
    "an index page outside": (in_struct(TOPIC, "topic_entry", "index_root"), 2**31, "uint64_t"),
    "an index page in the tables": (in_struct(TOPIC, "topic_entry", "index_root"), 1, "uint64_t"),
    "a tree too deep": (in_struct(TOPIC, "topic_entry", "index_root") + 4, 5, "uint32_t"),
    "a log start behind the end": (in_struct(TOPIC, "topic_entry", "log_start_total_order"), 2**40, "uint64_t"),
    "elements that were never ordered": (in_struct(PARTITION, "partition_entry", "element_count"), 2**40, "uint64_t"),
    "elements that are missing": (in_struct(PARTITION, "partition_entry", "element_count"), 0, "uint64_t"),
    "an offset too large": (in_struct(PARTITION, "partition_entry", "next_offset"), 2**63, "uint64_t"),
    "a partition page outside": (in_struct(PARTITION, "partition_entry", "index_root"), 2**31, "uint64_t"),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_tables_that_contradict_themselves(made: Path, damage: str) -> None:
    position, value, type = DAMAGES[damage]
    patch(made, position, bytes_of(value, type))
    with pytest.raises(RegionDamaged, match="contradicts itself"):
        Log.attach(made)


def test_two_indexes_with_one_page(made: Path) -> None:
    with made.open("rb") as file:
        file.seek(in_struct(TOPIC, "topic_entry", "index_root"))
        root = file.read(8)
    patch(made, in_struct(PARTITION, "partition_entry", "index_root"), root)
    with pytest.raises(RegionDamaged, match="contradicts itself"):
        Log.attach(made)


def test_blocks_in_use_that_no_one_claimed(made: Path) -> None:
    with Log.attach(made) as log:
        position = driver.peek_struct(log, 0, "region_header").bitmap_position
    patch(made, position, bytes(32))
    with pytest.raises(RegionDamaged, match="contradicts itself"):
        Log.attach(made)


def test_a_snapshot_that_is_missing(made: Path) -> None:
    """The order ring is trimmed up to the checkpoint: without its snapshot the producers are lost."""
    for field in ("order_trimmed", "checkpoint"):
        patch(made, in_struct(lib.CONTROL_POSITION, "control", field), bytes_of(1, "uint64_t"))
    with pytest.raises(RegionDamaged, match="contradicts itself"):
        Log.attach(made)


def test_a_refused_file_is_left_as_it_was_and_unlocked(made: Path) -> None:
    patch(made, ffi.offsetof("struct region_header", "layout_id"), b"otherlay")
    before = made.read_bytes()[: lib.BROKER_TABLE_POSITION]
    for _ in range(2):
        with pytest.raises(OtherLayout):
            Log.attach(made)
    assert made.read_bytes()[: lib.BROKER_TABLE_POSITION] == before


def test_a_memfd_is_sealed() -> None:
    with Log.create(size=SIZE) as log:
        seals = fcntl.fcntl(log.region.descriptor, fcntl.F_GET_SEALS)
        assert seals == fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SEAL
        assert fcntl.fcntl(log.region.descriptor, fcntl.F_GETFD) & fcntl.FD_CLOEXEC
        for size in (0, 2 * SIZE):
            with pytest.raises(PermissionError):
                os.ftruncate(log.region.descriptor, size)


def test_a_region_has_a_least_size() -> None:
    with pytest.raises(RegionError, match=r"4 MiB.*not 1 MiB: give more memory"):
        Log.create(size=MIB)
    with Log.create(size=region.SIZE_MIN) as log:
        log.create_topic("a", id=driver.topic_id(0), partitions=1)


def test_close_is_idempotent_and_a_closed_log_does_nothing() -> None:
    log = Log.create(size=SIZE)
    log.close()
    log.close()
    with pytest.raises(TypeError):
        log.topics()


# -- memory behind the file, ahead of use


def test_memory_comes_in_steps_ahead_of_use() -> None:
    with Log.create(size=1 << 30) as log:

        def allocated() -> int:
            return os.fstat(log.region.descriptor).st_blocks * 512

        def committed() -> int:
            position = lib.CONTROL_POSITION + ffi.offsetof("struct control", "committed_blocks")
            return int.from_bytes(driver.peek(log, position, 8), "little")

        assert allocated() < 40 * MIB
        claimed = 0
        seen = {committed()}
        while claimed < 2000:
            first = lib.core_claim(log._core, 16)
            assert first > 0
            claimed = first + 16
            assert committed() >= claimed
            seen.add(committed())
        assert all(blocks % 256 == 0 for blocks in seen)
        assert allocated() >= 2000 * lib.BLOCK_SIZE
        assert log.counters()["commit_steps"] >= 7


# -- full file systems: an error, never a signal


def mount(folder: Path, size: int) -> bool:
    command = ["mount", "-t", "tmpfs", "-o", f"size={size}", "none", str(folder)]
    with contextlib.suppress(OSError):
        return os.geteuid() == 0 and subprocess.run(command, capture_output=True, check=False).returncode == 0
    return False


@pytest.fixture
def small_file_system(tmp_path: Path) -> Iterator[Path]:
    folder = tmp_path / "small"
    folder.mkdir()
    if not mount(folder, 24 * MIB):
        pytest.skip("a small tmpfs cannot be mounted here: not root, or mounting is not allowed")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


def fill_up(log: Log, name: str = "a") -> int:
    """Appends until memory runs out; how many batches were stored."""
    topic = log.create_topic(name, id=driver.topic_id(0), partitions=1)
    for number in range(10_000):
        answer = driver.append_one(log, driver.Batch(topic, 0, driver.payload(number, 50_000)))
        if answer.status == lib.STATUS_OUT_OF_MEMORY:
            assert [found.payload for found in driver.Reader(log, 1 << 30).read_all(topic, 0)] == [
                driver.payload(stored, 50_000) for stored in range(number)
            ]
            return number
        assert answer.status == lib.STATUS_OK
    raise AssertionError("memory never ran out")


def test_a_full_file_system_is_out_of_memory(small_file_system: Path) -> None:
    with Log.create(small_file_system / "region", size=256 * MIB) as log:
        assert fill_up(log) > 100
        with pytest.raises(OutOfMemory):
            log.reserve(8 * MIB)


def test_a_log_on_a_full_file_system_can_be_emptied_and_used_again(small_file_system: Path) -> None:
    with Log.create(small_file_system / "region", size=256 * MIB) as log:
        stored = fill_up(log)
    (small_file_system / "filler").write_bytes(bytes(os.statvfs(small_file_system).f_bavail * 4096))
    with Log.attach(small_file_system / "region") as log:
        topic = log.find_topic("a")
        assert topic is not None
        assert len(driver.Reader(log, 1 << 30).read_all(topic, 0)) == stored
        with pytest.raises(OutOfMemory):
            for number in range(1, 5000):  # their places in the tables need memory, too
                log.create_topic(str(number), id=driver.topic_id(number), partitions=20)
        log.delete_topic(topic)
        driver.settle(log)
        assert fill_up(log, "b") > stored / 2


def test_no_room_for_a_new_region(small_file_system: Path) -> None:
    filler = small_file_system / "filler"
    filler.write_bytes(bytes(20 * MIB))
    with pytest.raises(OutOfMemory, match="its file system or this container is full"):
        Log.create(small_file_system / "region", size=256 * MIB)
    assert [path.name for path in small_file_system.iterdir()] == ["filler"]


def test_no_room_at_any_moment_of_creation(small_file_system: Path) -> None:
    """Every amount of free memory, down from what is enough: an error and no file, or a region that works."""
    filler = small_file_system / "filler"
    outcomes = set()
    for free in range(24 * MIB, 15 * MIB, -lib.BLOCK_SIZE * 4):
        filler.write_bytes(bytes(24 * MIB - free))
        try:
            log = Log.create(small_file_system / "region", size=SIZE)
        except OutOfMemory:
            outcomes.add("refused")
        else:
            outcomes.add("made")
            log.close()
            Log.attach(small_file_system / "region").close()
            (small_file_system / "region").unlink()
        filler.unlink()
        assert list(small_file_system.iterdir()) == []
    assert outcomes == {"made", "refused"}


def test_a_file_size_limit_is_an_error(path: Path) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    before = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (64 * MIB, hard))
    try:
        with pytest.raises(RegionError, match=r"cannot be made \d+ bytes long: File too large"):
            Log.create(path, size=256 * MIB)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        signal.signal(signal.SIGXFSZ, before)
    assert not path.exists()
