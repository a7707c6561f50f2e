"""Replicas on real files: stepped by hand, with failures, a full disk, several directories, and as threads."""

import errno
import select
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from totalog.engine import Log, Topic
from totalog.engine._core_long import lib
from totalog.engine.tests import driver
from totalog.engine.tests.stores import FILE_SIZE, RUN_IDLE, Store


@pytest.fixture(params=[True, False], ids=["coherent", "noncoherent"])
def log(request: pytest.FixtureRequest) -> Iterator[Log]:
    with Log.create(size=driver.SIZE_SMALL, coherent=request.param) as log:
        yield log


@pytest.fixture
def open_store(log: Log, tmp_path: Path) -> Iterator[Callable[..., Store]]:
    opened: list[Store] = []

    def open_store(directories: int = 1, file_size: int = FILE_SIZE) -> Store:
        folders = [tmp_path / str(number) for number in range(directories)]
        for folder in folders:
            folder.mkdir(exist_ok=True)
        opened.append(Store(log, folders, file_size=file_size))
        return opened[-1]

    yield open_store
    for store in opened:
        store.close()


def fill(log: Log, topic: Topic, count: int, first: int = 0, size: int = 1000) -> int:
    """The global position after the last of them."""
    batches = [
        driver.Batch(topic, number % topic.partitions, driver.payload(number, size), max_timestamp=number)
        for number in range(first, first + count)
    ]
    return driver.append(log, batches)[-1].global_position + 1


def test_what_is_ordered_becomes_durable_in_one_sync(log: Log, open_store: Callable[..., Store]) -> None:
    store = open_store()
    assert store.run() == RUN_IDLE
    store.told()
    topic = log.create_topic("a", id=driver.topic_id(0), partitions=3)
    end = fill(log, topic, 20)
    assert store.control().replicated[0] == 0
    assert store.run() == RUN_IDLE
    control, status = store.control(), store.status()
    assert list(control.replicated) == [end] * lib.DIRECTORIES_MAX
    assert (control.releasable, control.directories, control.directories_live) == (end, 1, 1)
    assert (status.replicated, status.batches, status.syncs, status.state) == (end, 21, 1, lib.REPLICA_LIVE)
    assert store.told()
    assert store.run() == RUN_IDLE
    assert not store.told()
    store.verify()


def test_files_roll_and_what_is_sealed_is_archived(log: Log, open_store: Callable[..., Store]) -> None:
    store = open_store()
    topic = log.create_topic("a", id=driver.topic_id(0), partitions=2)
    end = fill(log, topic, 200)
    store.run_all()
    assert len(store.files()) == 4
    archived = store.control().archived
    assert 0 < archived < end
    assert store.status().sealed == archived
    store.rotate()
    assert store.control().archived == end
    assert store.status().files == 4
    store.verify()


def test_memory_topics_are_not_journalled(log: Log, open_store: Callable[..., Store]) -> None:
    store = open_store()
    kept = log.create_topic("kept", id=driver.topic_id(0), partitions=1)
    memory = log.create_topic("memory", id=driver.topic_id(1), partitions=1, memory=True)
    store.run_all()
    syncs = store.status().syncs
    end = fill(log, memory, 5)
    store.run_all()
    assert store.control().releasable == end
    assert store.status().syncs - syncs <= 1
    end = max(fill(log, kept, 3), fill(log, memory, 2))
    store.run_all()
    assert (store.control().releasable, store.status().batches) == (end, 5)
    store.rotate()
    assert len(store.read_all(kept, 0)) == 3
    assert store.read_all(memory, 0) == []
    store.verify()


@pytest.mark.parametrize("call", [lib.DISK_WRITE, lib.DISK_SYNC])
def test_a_failed_call_fences_and_is_not_tried_again(log: Log, open_store: Callable[..., Store], call: int) -> None:
    store = open_store()
    topic = log.create_topic("a", id=driver.topic_id(0), partitions=1)
    before = fill(log, topic, 5)
    store.run_all()
    store.told()
    fill(log, topic, 5)
    store.fault(call, 1)
    assert store.run() == lib.RUN_FAILED
    status, control = store.status(), store.control()
    assert (status.state, status.saved_errno, status.replicated) == (lib.REPLICA_FENCED, errno.EIO, before)
    assert (control.replicated[0], control.releasable, control.directories_live) == (before, before, 0)
    assert store.told()
    assert store.run() == lib.RUN_FAILED
    assert store.status().replicated == before

    # Who says so opens the directory again: nothing that a failed call left behind is believed.
    lib.replica_detach(store.replicas, 0)
    journal = store.open_journal(0)
    assert lib.journal_next(journal) == before
    assert lib.replica_attach(store.replicas, 0, journal) == 0
    end = fill(log, topic, 1)
    store.run_all()
    assert store.control().replicated[0] == end
    store.verify()


def test_a_full_disk_goes_on_when_there_is_space(log: Log, open_store: Callable[..., Store]) -> None:
    store = open_store()
    topic = log.create_topic("a", id=driver.topic_id(0), partitions=1)
    before = fill(log, topic, 5)
    store.run_all()
    fill(log, topic, 5)
    store.told()
    store.fault(lib.DISK_WRITE, 1 << 30, errno.ENOSPC)
    assert store.run() == RUN_IDLE
    status = store.status()
    assert (status.state, status.saved_errno, status.replicated) == (lib.REPLICA_FULL, errno.ENOSPC, before)
    assert store.control().directories_live == 0
    assert store.told()
    assert store.run() == RUN_IDLE
    assert store.status().state == lib.REPLICA_FULL
    store.fault(lib.DISK_WRITE, 0)
    end = fill(log, topic, 1)
    assert store.run() == RUN_IDLE
    status, control = store.status(), store.control()
    assert (status.state, status.replicated) == (lib.REPLICA_LIVE, end)
    assert (control.directories_live, control.replicated[0], control.releasable) == (1, end, end)
    store.verify()


def test_two_directories(log: Log, open_store: Callable[..., Store]) -> None:
    store = open_store(2)
    topic = log.create_topic("a", id=driver.topic_id(0), partitions=1)
    first = fill(log, topic, 5)
    store.run_all()
    assert list(store.control().replicated)[:2] == [first, first]
    second = fill(log, topic, 5)
    assert store.run(0) == RUN_IDLE
    control = store.control()
    assert (list(control.replicated)[:2], control.releasable) == ([second, first], first)

    # The slower one fails: the other goes on alone, for those as well who want two.
    store.fault(lib.DISK_SYNC, 1, index=1)
    assert store.run(1) == lib.RUN_FAILED
    control = store.control()
    assert (list(control.replicated)[:2], control.releasable) == ([second, second], second)
    assert (control.directories, control.directories_live) == (2, 1)
    third = fill(log, topic, 5)
    store.run(0)
    assert list(store.control().replicated)[:2] == [third, third]

    # It lacks what the region may have released, and comes back with the other's files.
    lib.replica_detach(store.replicas, 1)
    journal = store.open_journal(1)
    assert lib.replica_attach(store.replicas, 1, journal) == errno.ESTALE
    lib.journal_close(journal)
    held = lib.replica_hold(store.replicas, 1)
    fourth = fill(log, topic, 5)
    store.rotate(0)
    assert store.control().releasable == held == third
    assert store.status(0).sealed == fourth
    for path in store.files(1):
        path.unlink()
    for path in store.files(0)[:-1]:
        (store.folders[1] / path.name).write_bytes(path.read_bytes())
    assert lib.replica_attach(store.replicas, 1, store.open_journal(1)) == 0
    fifth = fill(log, topic, 5)
    store.run_all()
    control = store.control()
    assert (list(control.replicated)[:2], control.releasable, control.directories_live) == ([fifth, fifth], fifth, 2)
    for index in (0, 1):
        store.verify(index)


@pytest.mark.parametrize("point", range(1, lib.REPLICA_FAIL_POINTS))
def test_stopped_at_each_step_it_goes_on_after_another_start(
    log: Log, open_store: Callable[..., Store], point: int
) -> None:
    store = open_store()
    topic = log.create_topic("a", id=driver.topic_id(0), partitions=2)
    before = fill(log, topic, 5)
    store.run_all()
    end = fill(log, topic, 100)
    lib.replica_fail(store.replicas, 0, point, True)
    assert store.run() == lib.RUN_HALTED
    assert store.control().replicated[0] == before
    lib.replica_detach(store.replicas, 0)
    again = open_store()
    again.run_all()
    assert again.control().replicated[0] == end
    again.rotate()
    reader = driver.Reader(log)
    for partition in (0, 1):
        assert again.read_all(topic, partition) == reader.read_all(topic, partition)
    again.verify()


def test_a_directory_that_lacks_what_was_released_is_refused(log: Log, open_store: Callable[..., Store]) -> None:
    store = open_store()
    fill(log, log.create_topic("a", id=driver.topic_id(0), partitions=1), 5)
    store.run_all()
    for path in store.files():
        path.unlink()
    lib.replica_detach(store.replicas, 0)
    journal = store.open_journal(0)
    assert lib.replica_attach(store.replicas, 0, journal) == errno.ESTALE
    lib.journal_close(journal)


def test_it_sleeps_and_is_woken(log: Log, open_store: Callable[..., Store]) -> None:
    store = open_store(2)
    answers: list[int] = []
    threads = [threading.Thread(target=follow, args=(store, index, answers)) for index in (0, 1)]
    for thread in threads:
        thread.start()
    topic = log.create_topic("a", id=driver.topic_id(0), partitions=1)
    for number in range(300):
        end = fill(log, topic, 1, first=number)
        if number % 3 == 0:
            wait_until(store, end)
    for index in (0, 1):
        lib.replica_stop(store.replicas, index, True)
    for thread in threads:
        thread.join()
    assert answers == [lib.RUN_STOPPED] * 2
    assert store.control().replicated[1] == end
    assert [store.status(index).state for index in (0, 1)] == [lib.REPLICA_STOPPED] * 2
    for index in (0, 1):
        assert lib.replica_seal(store.replicas, index) == 0
    assert store.control().archived == end


def follow(store: Store, index: int, answers: list[int]) -> None:
    answers.append(store.run(index, -1))


def wait_until(store: Store, replicated: int) -> None:
    """Sleeps on the eventfd, as a server does."""
    poll = select.poll()
    poll.register(store.eventfd, select.POLLIN)
    while store.control().replicated[1] < replicated:
        assert poll.poll(100_000), "no word from the replicas"
        store.told()


def test_a_topic_that_was_deleted_meanwhile_is_journalled(log: Log, open_store: Callable[..., Store]) -> None:
    store = open_store()
    topic = log.create_topic("a", id=driver.topic_id(0), partitions=1)
    end = fill(log, topic, 10) + 1
    log.delete_topic(topic)
    store.run_all()
    assert (store.control().releasable, store.status().batches) == (end, 12)
    store.verify()


def test_a_full_order_ring_refuses_and_goes_on(tmp_path: Path) -> None:
    with Log.create(size=1200 * lib.BLOCK_SIZE) as log:
        store = Store(log, [tmp_path], file_size=16 << 20)
        topic = log.create_topic("a", id=driver.topic_id(0), partitions=1, retention_bytes=1 << 20)
        store.run_all()
        bulk = driver.Bulk(log)
        for _ in range(lib.ORDER_RING_SLOTS // bulk.room - 1):
            bulk.append(topic, bulk.room)
        some = [driver.Batch(topic, 0, b"x" * 8)] * 2000
        assert {answer.status for answer in driver.append(log, some)} == {lib.STATUS_OK, lib.STATUS_OUT_OF_MEMORY}
        ordered = log.frontiers().ordered
        assert ordered == lib.ORDER_RING_SLOTS + store.control().order_trimmed
        assert log.counters()["ring_full_waits"] == 1, "2,000 batches are more than the ring takes at once"
        refused = log.counters()["order_ring_full"]
        assert {answer.status for answer in driver.append(log, some[:1])} == {lib.STATUS_OUT_OF_MEMORY}
        assert log.counters()["order_ring_full"] > refused > 0
        store.run_all()
        assert store.control().replicated[0] == ordered
        assert {answer.status for answer in driver.append(log, some)} == {lib.STATUS_OK}
        store.run_all()
        assert store.control().replicated[0] == ordered + 2000
        store.verify()
        store.close()
