"""A log with data directories: what is there again after a clean stop, a kill, and the loss of the region."""

import errno
import json
import os
import random
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from totalog.engine import (
    VIEW,
    DirectoryError,
    DirectoryInUse,
    DirectoryMismatch,
    JournalDamaged,
    JournalFailed,
    Log,
    RegionError,
    Topic,
    place,
)
from totalog.engine._core import lib
from totalog.engine._core_long import lib as long_lib
from totalog.engine.durable import DurableLog, open_log
from totalog.engine.journal import Journal
from totalog.engine.tests import driver
from totalog.engine.tests.driver import Batch
from totalog.engine.tests.durable_steps import (
    JOURNAL_SIZE,
    PARTITIONS,
    SIZE,
    TOPIC,
    Kept,
    everything,
    opened,
    read_all,
    wait_for,
    wait_until_all_durable,
    wait_until_durable,
)

TIME_MAX_S = 100


@pytest.fixture
def region(tmp_path: Path) -> Path:
    return tmp_path / "region"


@pytest.fixture
def data(tmp_path: Path) -> Path:
    return tmp_path / "data"


def write(log: Log, topic: Topic, count: int, size: int = 100, partition: int | None = None) -> list[driver.Answer]:
    """Batches whose payload nobody else has, over the partitions in turn."""
    first = log.frontiers().ordered
    batches = [
        Batch(topic, number % topic.partitions if partition is None else partition, driver.payload(number, size))
        for number in range(first, first + count)
    ]
    answers = driver.append(log, batches)
    assert {answer.status for answer in answers} == {lib.STATUS_OK}
    return answers


def make_topic(log: Log, name: str = TOPIC, **options: object) -> Topic:
    number = len(log.topics())
    return log.create_topic(name, id=driver.topic_id(number), partitions=PARTITIONS, settings=b"s", **options)  # type: ignore[arg-type]


class Worker:
    """A process of durable_worker."""

    def __init__(self, what: object, region: Path, *directories: Path) -> None:
        command = [sys.executable, "-m", "totalog.engine.tests.durable_worker", str(what), str(region)]
        self.process = subprocess.Popen(
            [*command, *map(str, directories)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )

    def wait_for(self, word: str) -> int:
        """The number that it says with the word."""
        assert self.process.stdout is not None
        for line in self.process.stdout:
            if line.split()[0] == word:
                return int(line.split()[1])
        raise AssertionError(f"the worker ended with {self.process.wait()} and never said {word}")

    def kill(self) -> list[str]:
        """What it said besides."""
        self.process.send_signal(signal.SIGKILL)
        said, _ = self.process.communicate(timeout=TIME_MAX_S)
        return said.splitlines()


def killed(what: object, word: str, region: Path, *directories: Path) -> int:
    """A worker that is killed once it says the word; the number that came with it."""
    worker = Worker(what, region, *directories)
    number = worker.wait_for(word)
    worker.kill()
    return number


# A clean stop


def test_a_clean_stop_leaves_everything_in_the_journal(region: Path, data: Path) -> None:
    with opened(region, data) as log:
        topic = make_topic(log, retention_ms=5, retention_bytes=1 << 40)
        write(log, topic, 1000, size=700)
        log.trim(topic, 1, 5)
        log.delete_topic(make_topic(log, "gone"))
        make_topic(log, "empty")
        before = everything_durable(log)
        assert region.exists()
    assert not region.exists()
    assert not (data / "region.json").exists()
    assert len(list(data.glob("journal-*.log"))) > 5
    with opened(region, data) as log:
        assert everything(log) == before
        answers = write(log, topic, PARTITIONS)
        ends = [log.bounds(topic, partition).end_offset for partition in range(PARTITIONS)]
        assert [end - 1 for end in ends] == [end for _, end in before[TOPIC].bounds[:PARTITIONS]]
        assert sorted(answer.base_offset for answer in answers) == sorted(end - 1 for end in ends)


def everything_durable(log: DurableLog) -> dict[str, Kept]:
    wait_until_all_durable(log)
    return everything(log)


def test_log_starts_that_moved_last_come_back_after_a_clean_stop(region: Path, data: Path) -> None:
    """Retention is no operation in the order: the journal knows it from its checkpoints."""
    with opened(region, data) as log:
        topic = make_topic(log, retention_bytes=1000)
        write(log, topic, 60)
        wait_until_all_durable(log)
        driver.settle(log, -1)
        before = everything(log)
        assert before[TOPIC].bounds[0][0] > 0
    with opened(region, data) as log:
        assert everything(log) == before


def test_restarts_that_write_nothing_change_nothing(region: Path, data: Path) -> None:
    with opened(region, data) as log:
        write(log, make_topic(log), 10)
        before = everything_durable(log)
    for _ in range(3):
        with opened(region, data) as log:
            assert everything(log) == before


def test_an_empty_log_comes_back_empty(region: Path, data: Path) -> None:
    for _ in range(2):
        with opened(region, data) as log:
            assert log.topics() == []
            assert [replica.path for replica in log.replicas()] == [data]


def test_close_twice_and_the_directory_is_free(region: Path, data: Path) -> None:
    log = opened(region, data)
    with pytest.raises(DirectoryInUse, match=f"process {os.getpid()}"):
        opened(region.with_name("other"), data)
    log.close()
    log.close()
    opened(region, data).close()


# A kill


def test_a_kill_with_the_region_alive_loses_nothing_that_was_ordered(region: Path, data: Path) -> None:
    ordered = killed(500, "filled", region, data)
    with opened(region, data) as log:
        (kept,) = everything_durable(log).values()
        assert [payload for _, payload in kept.view] == [expected(number) for number in range(ordered)]
        assert {log.bounds(kept.topic, partition).leader_epoch for partition in range(PARTITIONS)} == {0}


def expected(number: int) -> bytes:
    return driver.payload(number, 72 + number % 500)


def test_a_kill_and_the_loss_of_the_region_lose_nothing_that_was_durable(region: Path, data: Path) -> None:
    worker = Worker(500, region, data)
    durable, ordered = worker.wait_for("durable"), worker.wait_for("filled")
    worker.kill()
    region.unlink()
    with opened(region, data) as log:
        (kept,) = everything_durable(log).values()
        assert durable <= len(kept.view) <= ordered
        assert kept.view == [(number, expected(number)) for number in range(len(kept.view))]
        for partition in range(PARTITIONS):
            offsets = [offset for offset, _ in kept.partitions[partition]]
            assert offsets == list(range(len(offsets)))
            assert log.bounds(kept.topic, partition).leader_epoch == 1
        assert log.bounds(kept.topic, VIEW).leader_epoch == 1


@pytest.mark.parametrize("lose", [False, True], ids=["region alive", "region lost"])
def test_kill_after_kill(region: Path, data: Path, lose: bool) -> None:
    """Each life goes on where what is durable ended, and the last one is stopped and read."""
    number = 0
    for _ in range(4):
        worker = Worker("write", region, data)
        for _ in range(40):
            number = worker.wait_for("durable")
        said = worker.kill()
        number = max([number, *(int(line.split()[1]) for line in said[:-1])])  # the last one may be cut off
        if lose:
            region.unlink()
    with opened(region, data) as log:
        (kept,) = everything_durable(log).values()
        assert len(kept.view) >= number
        assert kept.view == [(number, expected(number)) for number in range(len(kept.view))]


def test_a_kill_inside_recovery(region: Path, data: Path) -> None:
    seed = random.randrange(1 << 32)
    print("seed", seed)
    random.seed(seed)
    worker = Worker(3000, region, data)
    durable = worker.wait_for("durable")
    worker.kill()
    for turn in range(6):
        region.unlink(missing_ok=True)
        worker = Worker("open", region, data)
        if turn % 3 == 2:
            worker.wait_for("opened")
        else:
            with pytest.raises(subprocess.TimeoutExpired):
                worker.process.wait(random.uniform(0.05, 0.25))
        worker.kill()
    with opened(region, data) as log:
        (kept,) = everything_durable(log).values()
        assert len(kept.view) >= durable
        assert kept.view == [(number, expected(number)) for number in range(len(kept.view))]


# Which region is trusted


def test_after_the_machine_started_anew(region: Path, data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    durable = killed(100, "durable", region, data)
    monkeypatch.setattr(place, "boot_id", lambda: "another boot")
    with opened(region, data) as log:
        (kept,) = everything_durable(log).values()
        assert len(kept.view) >= durable
        assert log.bounds(kept.topic, 0).leader_epoch == 1


def points_elsewhere(region: Path, data: Path) -> None:
    note = json.loads((data / "region.json").read_text())
    elsewhere = region.with_name("elsewhere")
    Log.create(elsewhere, size=SIZE).close()
    (data / "region.json").write_text(json.dumps(note | {"path": str(elsewhere)}))
    region.unlink()


def truncated(region: Path, data: Path) -> None:
    os.truncate(region, 1 << 20)


def emptied(region: Path, data: Path) -> None:
    os.truncate(region, 0)
    region.rename(data / "region")
    note = json.loads((data / "region.json").read_text())
    (data / "region.json").write_text(json.dumps(note | {"path": str(data / "region")}))


def open_to_others(region: Path, data: Path) -> None:
    region.chmod(0o644)


def not_complete(region: Path, data: Path) -> None:
    note = json.loads((data / "region.json").read_text())
    (data / "region.json").write_text(json.dumps(note | {"complete": False}))


def flipped(region: Path, data: Path) -> None:
    with region.open("r+b") as file:  # the number of topics that there ever were
        file.seek(lib.CONTROL_POSITION + 64 + 32)
        file.write(b"\xff\xff\xff\xff")


@pytest.mark.parametrize("spoil", [points_elsewhere, truncated, emptied, open_to_others, not_complete, flipped])
def test_a_region_that_is_not_trusted_is_made_anew(
    region: Path, data: Path, spoil: Callable[[Path, Path], None]
) -> None:
    durable = killed(100, "durable", region, data)
    spoil(region, data)
    with opened(region, data) as log:
        (kept,) = everything_durable(log).values()
        assert len(kept.view) >= durable
        assert log.bounds(kept.topic, 0).leader_epoch == 1
    assert region.with_name("elsewhere").exists() == (spoil is points_elsewhere)
    assert not region.exists()


def test_the_region_of_another_user(region: Path, data: Path) -> None:
    if os.geteuid() != 0:
        pytest.skip("only root can give a file away")
    durable = killed(100, "durable", region, data)
    os.chown(region, 65534, 65534)
    said: list[str] = []
    with opened(region.with_name("other"), data, tell=said.append) as log:
        assert len(read_all(log, log.topics()[0], VIEW)) >= durable
    assert region.exists()
    assert any("belongs to user 65534" in line for line in said)


def test_a_file_that_is_in_the_regions_place_is_left_alone(region: Path, data: Path) -> None:
    region.write_text("a thesis")
    with pytest.raises(RegionError, match="exists and is not this log's region"):
        opened(region, data)
    assert region.read_text() == "a thesis"


def test_the_region_lies_where_memory_is_shared_unless_something_else_is_said(data: Path) -> None:
    with open_log([data], size=SIZE, journal_size=JOURNAL_SIZE) as log:
        path = log.region.path
        assert path is not None
        assert path.parent == Path("/dev/shm") or path == data / "region"
        assert path.stat().st_mode & 0o777 == 0o600
    assert not path.exists()


# Several directories


@pytest.fixture
def pair(tmp_path: Path) -> tuple[Path, Path]:
    return tmp_path / "a", tmp_path / "b"


def test_every_directory_has_everything(region: Path, pair: tuple[Path, Path]) -> None:
    with opened(region, *pair) as log:
        write(log, make_topic(log, replication=2), 300)
        before = everything_durable(log)
    for directory in pair:
        with opened(region, directory) as log:
            assert everything(log) == before


@pytest.mark.parametrize("lose", [False, True], ids=["region alive", "region lost"])
def test_an_empty_second_directory_gets_everything(region: Path, pair: tuple[Path, Path], lose: bool) -> None:
    ordered = killed(400, "filled", region, pair[0])
    if lose:
        region.unlink()
    said: list[str] = []
    with opened(region, *pair, tell=said.append) as log:
        before = everything_durable(log)
        (kept,) = before.values()
        assert len(kept.view) == ordered or lose
    assert any("is behind" in line for line in said)
    with opened(region, pair[1]) as log:
        assert everything(log) == before


def test_a_directory_that_is_far_behind_gets_the_files_of_its_sibling(region: Path, pair: tuple[Path, Path]) -> None:
    with opened(region, *pair) as log:
        topic = make_topic(log)
        write(log, topic, 100)
        wait_until_all_durable(log)
    with opened(region, pair[0]) as log:
        write(log, topic, 2000)
        before = everything_durable(log)
    said: list[str] = []
    with opened(region, *pair, tell=said.append) as log:
        assert everything(log) == before
    assert [line for line in said if "is behind" in line] == [f"{pair[1]} is behind: it gets the files of {pair[0]}"]
    with opened(region, pair[1]) as log:
        assert everything(log) == before


def test_directories_of_two_logs(region: Path, pair: tuple[Path, Path]) -> None:
    for directory in pair:
        opened(region, directory).close()
    with pytest.raises(DirectoryMismatch, match="belong to different logs"):
        opened(region, *pair)


def test_directories_that_went_apart(region: Path, pair: tuple[Path, Path]) -> None:
    with opened(region, *pair) as log:
        topic = make_topic(log)
        write(log, topic, 10)
        wait_until_all_durable(log)
    for count, directory in zip((10, 20), pair, strict=True):
        with opened(region, directory) as log:
            write(log, topic, count, size=50 + count)
            wait_until_all_durable(log)
    with pytest.raises(DirectoryMismatch, match="went apart before global position"):
        opened(region, *pair)


def test_a_directory_named_twice(region: Path, data: Path) -> None:
    with pytest.raises(DirectoryMismatch, match="named twice"):
        opened(region, data, data)


def test_an_open_that_fails_leaves_nothing_held(region: Path, pair: tuple[Path, Path]) -> None:
    opened(region, pair[0]).close()
    pair[1].mkdir()
    (pair[1] / "stranger").touch()
    with pytest.raises(DirectoryError):
        opened(region, *pair)
    opened(region, pair[0]).close()


# Disks that fail


@pytest.fixture
def disks(monkeypatch: pytest.MonkeyPatch) -> dict[str, object]:
    """The disk of each directory that is opened from here on, by the directory's name."""
    found: dict[str, object] = {}
    attach = Journal.open.__func__  # type: ignore[attr-defined]

    def remember(cls: type[Journal], *arguments: object) -> Journal:
        journal: Journal = attach(cls, *arguments)
        found[journal.directory.path.name] = long_lib.journal_disk(journal.core)
        return journal

    monkeypatch.setattr(Journal, "open", classmethod(remember))
    return found


def test_a_failed_sync_fences_the_replica(region: Path, data: Path, disks: dict[str, object]) -> None:
    with opened(region, data) as log:
        topic = make_topic(log)
        write(log, topic, 10)
        wait_until_all_durable(log)
        long_lib.disk_fault(disks["data"], long_lib.DISK_SYNC, 0, 1, errno.EIO, 0, 0)
        (answer,) = write(log, topic, 1)
        wait_for(log, lambda: log.replicas()[0].failure is not None)
        assert "a write failed (Input/output error)" in (log.replicas()[0].failure or "")
        (later,) = write(log, topic, 1)
        assert not log.acknowledged(answer.global_position, 2)  # never retried into success
        assert log.acknowledged(later.global_position, 1)
        log.revive(data)
        wait_until_durable(log, later.global_position)
        assert log.replicas()[0].failure is None
        before = everything_durable(log)
    with opened(region, data) as log:
        assert everything(log) == before


def test_a_fenced_log_that_is_stopped_leaves_its_region(region: Path, data: Path, disks: dict[str, object]) -> None:
    with opened(region, data) as log:
        topic = make_topic(log)
        wait_until_all_durable(log)
        long_lib.disk_fault(disks["data"], long_lib.DISK_SYNC, 0, 1000, errno.EIO, 0, 0)
        write(log, topic, 5)
        wait_for(log, lambda: log.replicas()[0].failure is not None)
    assert region.exists()
    with opened(region, data) as log:
        wait_until_all_durable(log)
        assert len(read_all(log, topic, VIEW)) == 5


def test_one_directory_of_two_fails(region: Path, pair: tuple[Path, Path], disks: dict[str, object]) -> None:
    with opened(region, *pair) as log:
        topic = make_topic(log)
        wait_until_all_durable(log)
        long_lib.disk_fault(disks["b"], long_lib.DISK_WRITE, 0, 1, errno.EIO, 0, 0)
        answers = write(log, topic, 3000)
        wait_until_durable(log, answers[-1].global_position)
        wait_for(log, lambda: log.replicas()[1].failure is not None)
        assert log.replicas()[0].failure is None
        log.revive(pair[1])
        before = everything_durable(log)
    for directory in pair:
        with opened(region, directory) as log:
            assert everything(log) == before


def test_a_full_disk_goes_on_when_it_has_space(region: Path, data: Path, disks: dict[str, object]) -> None:
    with opened(region, data) as log:
        topic = make_topic(log)
        wait_until_all_durable(log)
        long_lib.disk_fault(disks["data"], long_lib.DISK_WRITE, 0, 1 << 31, errno.ENOSPC, 100, 0)
        answers = write(log, topic, 10)
        wait_for(log, lambda: "disk is full" in (log.replicas()[0].failure or ""))
        assert not log.acknowledged(answers[-1].global_position, 2)
        long_lib.disk_fault(disks["data"], long_lib.DISK_WRITE, 0, 0, 0, 0, 0)
        wait_until_durable(log, answers[-1].global_position)
        assert log.replicas()[0].failure is None
        before = everything_durable(log)
    with opened(region, data) as log:
        assert everything(log) == before


# Journals that a power cut, or a disk, has changed


def newest(data: Path) -> Path:
    return max(data.glob("journal-*.log"))


def test_a_torn_tail_is_cut(region: Path, data: Path) -> None:
    killed(300, "durable", region, data)
    region.unlink()
    with newest(data).open("r+b") as file:
        file.seek(0, os.SEEK_END)
        file.write(os.urandom(5000))
    with opened(region, data) as log:
        (kept,) = everything_durable(log).values()
        assert len(kept.view) >= 300


@contextmanager
def damage_of_a_sealed_file(region: Path, data: Path) -> Iterator[None]:
    with opened(region, data) as log:
        write(log, make_topic(log), 1000)
        wait_until_all_durable(log)
    files = sorted(data.glob("journal-*.log"))
    assert len(files) > 2
    yield
    with pytest.raises(JournalDamaged) as caught:
        opened(region, data)
    said = str(caught.value)
    assert "\n" not in said
    assert str(data) in said
    assert "Take the file from a backup" in said


def test_a_missing_file_is_told(region: Path, data: Path) -> None:
    with damage_of_a_sealed_file(region, data):
        sorted(data.glob("journal-*.log"))[1].unlink()


def test_a_flipped_bit_below_what_was_durable_is_told(region: Path, data: Path) -> None:
    """In the newest file, which is not sealed: the only one that a start reads as a whole."""
    worker = Worker("write", region, data)
    while worker.wait_for("durable") < 100:  # each is written after the one before is durable, and so says it is
        pass
    worker.kill()
    region.unlink()
    path = newest(data)
    content = bytearray(path.read_bytes())
    at = content.index(expected(50))
    content[at] ^= 1
    path.write_bytes(content)
    with pytest.raises(JournalDamaged, match=f"global position.*a batch that was durable.*concerns {TOPIC}") as caught:
        opened(region, data)
    byte = int(str(caught.value).split("at byte ")[1].split(",")[0])
    assert byte <= at < byte + 1000


# What else comes back


def test_topics_in_memory_are_not_kept(region: Path, data: Path) -> None:
    with opened(region, data) as log:
        memory, disk = make_topic(log, "memory", memory=True), make_topic(log, "disk")
        for _ in range(20):
            write(log, memory, 3)
            write(log, disk, 3)
        assert len(read_all(log, memory, VIEW)) == 60
        wait_until_all_durable(log)
    kept = b"".join(file.read_bytes() for file in data.glob("journal-*.log"))
    assert driver.payload(5, 100) in kept  # the first of the other topic
    assert driver.payload(2, 100) not in kept
    with opened(region, data) as log:
        assert len(read_all(log, disk, VIEW)) == 60
        found = log.find_topic("memory")
        assert found is not None
        assert read_all(log, found, VIEW) == []
        write(log, found, 3)
        assert len(read_all(log, found, VIEW)) == 3


def test_producers_are_known_again(region: Path, data: Path) -> None:
    with opened(region, data) as log:
        topic = make_topic(log)
        batch = driver.with_sequence(Batch(topic, 0, driver.payload(1)), 7, 0, 0)
        first = driver.append_one(log, batch)
        wait_until_all_durable(log)
    with opened(region, data) as log:
        again = driver.append_one(log, batch)
        assert (again.status, again.base_offset) == (lib.STATUS_DUPLICATE, first.base_offset)
        assert again.global_position == first.global_position
        following = driver.with_sequence(Batch(topic, 0, driver.payload(2)), 7, 0, 1)
        assert driver.append_one(log, following).base_offset == first.base_offset + 1


@pytest.mark.parametrize("journal_size", [JOURNAL_SIZE, 1 << 30])
def test_more_than_memory_holds(region: Path, data: Path, journal_size: int) -> None:
    """A log of 16 MiB takes 64 MiB, and everything is read back, from the archive and from memory; also where a file
    may be larger than memory."""
    count, size = 64, 1 << 20
    with open_log([data], size=SIZE, region=region, journal_size=journal_size) as log:
        topic = make_topic(log)
        for number in range(count):
            batch = Batch(topic, 0, driver.payload(number, size))
            while (answer := driver.append_one(log, batch)).status == lib.STATUS_OUT_OF_MEMORY:
                wait_until_all_durable(log)
                log.maintain(-1)
            assert answer.status == lib.STATUS_OK
        wait_until_all_durable(log)
        assert log.archived(topic, 0)
        found = read_all(log, topic, 0)
        assert [offset for offset, _ in found] == list(range(count))
        assert all(payload == driver.payload(offset, size) for offset, payload in found)
        assert read_all(log, topic, VIEW) == found


def test_what_no_directory_gives_is_told(region: Path, data: Path) -> None:
    with opened(region, data) as log:
        write(log, make_topic(log), 10)
    with opened(region, data) as log:
        topic, batches = log.topics()[0], log.read_batches(1)
        assert log.archived(topic, 0)
        sealed = min(data.glob("journal-*.log"))
        sealed.write_bytes(bytes(sealed.stat().st_size))
        with pytest.raises(JournalFailed, match=sealed.name):
            log.archive_read(topic, 0, 0, 0, 0, batches=batches)
        with pytest.raises(JournalFailed, match=sealed.name):
            log.archive_find_timestamp(topic, 0, 0)


def size_of(data: Path) -> int:
    """Bytes of its journal, from which upkeep may remove files meanwhile."""
    size = 0
    for file in data.glob("journal-*.log"):
        with suppress(FileNotFoundError):
            size += file.stat().st_size
    return size


def test_retention_removes_files(region: Path, data: Path) -> None:
    with opened(region, data) as log:
        topic = make_topic(log, retention_bytes=100_000)
        for _ in range(30):
            write(log, topic, 300, size=1000)
            wait_until_all_durable(log)
            driver.settle(log, -1)

        def small() -> bool:
            driver.settle(log, -1)
            return size_of(data) < 3 << 20  # of 10 MiB; a round of upkeep is some rounds late, and files go as a whole

        wait_for(log, small)
        before = everything_durable(log)
    with opened(region, data) as log:
        assert everything(log) == before


def test_directories_may_come_and_go(region: Path, pair: tuple[Path, Path]) -> None:
    with opened(region, *pair) as log:
        topic = make_topic(log, replication=2)
        write(log, topic, 10)
        before = everything_durable(log)
    for file in pair[1].iterdir():
        file.unlink()
    with opened(region, *pair) as log:
        assert everything(log) == before
        (answer,) = write(log, topic, 1)
        wait_until_durable(log, answer.global_position, replication=2)
