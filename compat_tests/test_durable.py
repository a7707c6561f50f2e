"""A broker with data directories, killed and started again, with the region it left and without: what acks=all promised
is there, and nothing that a consumer saw is gone.

To lose the region stands for a power cut as far as the broker is concerned; what the disk itself makes of one is tested
beside the journal.
"""

import json
import signal
import threading
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from compat_tests import checker
from compat_tests.clients import CONFLUENT, KAFKA_PYTHON, KINDS
from compat_tests.clients.face import ClientError, ConsumerSettings, Delivery, Place, ProducerSettings, Received, Record
from compat_tests.clients.process import ClientProcess
from compat_tests.conftest import StartBroker, unique
from compat_tests.proxy import Proxy
from compat_tests.steps import numbered, places_of, poll_until, write
from compat_tests.test_restart import ACROSS_ENDS, MEMORY, Reborn, consumer_of

if TYPE_CHECKING:
    from totalog.gateway.testing import RunningBroker

pytestmark = pytest.mark.totalog_only


class Durable(Reborn):
    """As `Reborn`, on data directories."""

    def __init__(
        self,
        data_dirs: list[Path],
        start_broker: StartBroker,
        settings: Mapping[str, object] | None = None,
        memory: str = MEMORY,
    ) -> None:
        self.data_dirs = data_dirs
        self._memory = memory
        self._settings = dict(settings or {})
        super().__init__(data_dirs[0] / "no region of ours", start_broker)

    def _start(self, port: int) -> "RunningBroker":
        return self._start_broker(data_dirs=self.data_dirs, memory=self._memory, port=port, settings=self._settings)

    def lose_region(self) -> None:
        """The broker is dead; so is its memory."""
        region = Path(json.loads((self.data_dirs[0] / "region.json").read_text())["path"])
        assert region.exists()
        region.unlink()

    def kill(self, with_region: bool) -> None:
        self.end(signal.SIGKILL)
        if with_region:
            self.lose_region()
        self.start_again()


Make = Callable[..., Durable]


@pytest.fixture
def make_durable(tmp_path: Path, start_broker: StartBroker) -> Iterator[Make]:
    made: list[Durable] = []

    def make(count: int = 1, settings: Mapping[str, object] | None = None, memory: str = MEMORY) -> Durable:
        data_dirs = [tmp_path / f"broker{len(made)}-data{index}" for index in range(count)]
        made.append(Durable(data_dirs, start_broker, settings, memory))
        return made[-1]

    yield make
    for each in made:
        each.end(signal.SIGTERM)  # so that the region goes, which does not lie in the test's folder
        each.close()


@pytest.fixture(params=["region left", "region lost"])
def lost(request: pytest.FixtureRequest) -> bool:
    return bool(request.param == "region lost")


class Watcher:
    """Reads a topic from its start, in a process of its own, through all that happens to the broker."""

    def __init__(self, kind: str, address: str, topic: str, partitions: int) -> None:
        self._process = ClientProcess(kind, address)
        self._topic, self._partitions = topic, partitions
        self._over = threading.Event()
        self.seen: list[Received] = []
        self._thread = threading.Thread(target=self._watch)
        self._thread.start()

    def _watch(self) -> None:
        client = self._process.client
        consumer = client.open_consumer(ConsumerSettings(fetch_wait_ms=100))
        client.assign(consumer, dict.fromkeys(places_of(self._topic, self._partitions), 0))
        while not self._over.is_set():
            try:
                self.seen += client.poll(consumer, 200)
            except ClientError as error:
                if not error.retriable and error.code >= 0:
                    raise

    def end(self) -> list[Received]:
        poll_until(lambda: bool(self.seen) or not self._thread.is_alive())
        self._over.set()
        self._thread.join()
        self._process.close()
        return self.seen


def test_nothing_acknowledged_is_lost_and_nothing_seen_goes(make_durable: Make, lost: bool) -> None:
    """All kinds write with acks=all and are idempotent, others watch, and the broker is killed three times."""
    durable = make_durable()
    topic, per_producer = unique("load"), 500
    durable.clients[KINDS[0]].create_topic(topic, 4)
    watchers = [Watcher(kind, durable.address, topic, 4) for kind in KINDS]
    with Proxy("127.0.0.1", durable.port) as proxy:
        pending = []
        for number, kind in enumerate(KINDS):
            producer = durable.clients[kind].open_producer(ACROSS_ENDS, bootstrap=proxy.address)
            records = [Record(checker.value_of(number, at), partition=at % 4) for at in range(per_producer)]
            pending.append(durable.process(kind).later("send", producer, topic, records, True))
        for produced in (150, 350, 600):
            assert proxy.wait_until_produced(produced)
            durable.kill(lost)
        deliveries = [delivery for future in pending for delivery in future.result()]
    seen = [watcher.end() for watcher in watchers]
    assert {delivery.code for delivery in deliveries} == {0}
    reader = durable.clients[KINDS[1]]
    final = reader.read_topic(topic, 4)
    read = checker.received(final, per_producer)
    view = checker.received(reader.read_topic(f"{topic}.total-order", 1), per_producer)
    told = checker.told(range(len(deliveries)), deliveries)
    assert checker.dense(read) + checker.dense(view) == []
    assert checker.acknowledged(read, told) == []
    assert checker.complete(read, len(deliveries)) == []
    assert checker.producer_order(read, per_producer) == []
    assert checker.view_holds_partitions(view, read) == []
    assert checker.real_time(view, told) == []
    stored = {(record.partition, record.offset): record.value for record in final}
    for each in seen:
        assert each, "a watcher that sees nothing proves nothing"
        assert [one for one in each if stored.get((one.partition, one.offset)) != one.value] == []


def test_topics_settings_offsets_and_producers_are_there_again(make_durable: Make, lost: bool) -> None:
    durable = make_durable()
    client, other = durable.clients[KAFKA_PYTHON], durable.clients[CONFLUENT]
    topic, gone, group = unique("kept"), unique("gone"), unique("group")
    client.create_topic(topic, 3, {"retention.ms": "7200000"})
    client.create_topic(gone, 2)
    write(client, topic, numbered(1_000, 3))
    write(other, topic, [Record(bytes(900_000), b"large", (("h", b"1"),), partition=1)])
    client.delete_topic(gone)
    client.create_partitions(topic, 4)
    with consumer_of(client, ConsumerSettings(group=group)) as consumer:
        client.assign(consumer, {Place(topic, 0): 0})
        client.commit(consumer, {Place(topic, 0): 123, Place(topic, 2): 45})
    before = other.read_topic(topic, 4), other.read_topic(f"{topic}.total-order", 1)
    names, cluster = client.topics(), client.describe_cluster()
    for _ in range(2):
        durable.kill(lost)
        durable.wait_for_clients()
        assert (client.topics(), client.describe_cluster()) == (names, cluster)
        assert client.topic_config(topic)["retention.ms"] == "7200000"
        assert client.describe_topic(topic).partitions == 4
        assert sorted(other.read_topic(topic, 4)) == sorted(before[0])
        assert other.read_topic(f"{topic}.total-order", 1) == before[1]
        with consumer_of(client, ConsumerSettings(group=group)) as consumer:
            assert list(client.committed(consumer, places_of(topic, 4)).values()) == [123, None, 45, None]
    [delivery] = write(client, topic, [Record(b"goes on", partition=3)], ProducerSettings(idempotence=True))
    assert delivery.offset == 0


@pytest.mark.parametrize("kind", KINDS)
def test_an_idempotent_producer_goes_on_without_the_region(make_durable: Make, kind: str) -> None:
    """Its batch is stored and its answer lost; the retry reaches a broker that knows it from its journal."""
    durable = make_durable()
    client, topic = durable.clients[kind], unique("again")
    client.create_topic(topic, 1)
    with Proxy("127.0.0.1", durable.port) as proxy:
        producer = client.open_producer(ACROSS_ENDS, bootstrap=proxy.address)
        first = client.send(producer, topic, [Record(b"first")])
        proxy.refuse_after_loss = True
        proxy.lose_answers = frozenset({2})
        pending = durable.process(kind).later("send", producer, topic, [Record(b"second")])
        assert proxy.wait_until(lambda seen: seen.lost_count == 1)
        durable.kill(True)
        proxy.accept_again()
        (second,) = pending.result()
        third = client.send(producer, topic, [Record(b"third")])
        client.close_producer(producer)
    assert [delivery.offset for delivery in (*first, second, *third)] == [0, 1, 2]
    assert [record.value for record in client.read_topic(topic, 1)] == [b"first", b"second", b"third"]


def test_what_acks_1_ordered_before_counts_in_end_offsets(make_durable: Make) -> None:
    """However often: the end offset includes what was acknowledged before it was asked."""
    durable = make_durable()
    for client in durable.clients.values():
        topic = unique("ends")
        client.create_topic(topic, 1)
        producer = client.open_producer(ProducerSettings(acks="1"))
        place = Place(topic, 0)
        with consumer_of(client, ConsumerSettings()) as consumer:
            for count in range(1, 51):
                client.send(producer, topic, [Record(b"x", partition=0)])
                assert client.bounds(consumer, [place])[place] == (0, count)
        client.close_producer(producer)


def test_a_topic_in_memory_is_gone_with_the_region_and_only_then(make_durable: Make) -> None:
    durable = make_durable()
    client = durable.clients[KINDS[0]]
    volatile, kept = unique("volatile"), unique("kept")
    client.create_topic(volatile, 1, {"totalog.storage": "memory"})
    client.create_topic(kept, 1)
    secret = b"never on a disk " * 100
    for _ in range(2):
        write(client, volatile, [Record(secret, partition=0)])
        write(client, kept, [Record(b"kept", partition=0)])
    durable.kill(False)
    durable.wait_for_clients()
    assert len(client.read_topic(volatile, 1)) == 2
    durable.kill(True)
    durable.wait_for_clients()
    assert client.topic_config(volatile)["totalog.storage"] == "memory"
    assert client.read_topic(volatile, 1) == []
    assert [record.value for record in client.read_topic(kept, 1)] == [b"kept"] * 2
    write(client, volatile, [Record(b"new", partition=0)])
    assert [record.value for record in client.read_topic(volatile, 1)] == [b"new"]
    journals = b"".join(path.read_bytes() for path in durable.data_dirs[0].glob("journal-*"))
    assert b"never on a disk" not in journals
    assert b"kept" in journals


def test_visible_when_ordered(make_durable: Make) -> None:
    durable = make_durable()
    for client in durable.clients.values():
        topic = unique("early")
        client.create_topic(topic, 1, {"totalog.visibility": "ordered"})
        write(client, topic, numbered(10, 1))
        assert len(client.read_topic(topic, 1)) == 10


def test_two_directories_hold_everything_each(make_durable: Make) -> None:
    """With a replication factor of 2 either of them is enough."""
    durable = make_durable(2)
    client, topic = durable.clients[KINDS[0]], unique("twice")
    client.create_topic(topic, 2, replication=2)
    deliveries: list[Delivery] = write(client, topic, numbered(500, 2))
    both = list(durable.data_dirs)
    for survivor in both:
        durable.end(signal.SIGKILL)
        if (durable.data_dirs[0] / "region.json").exists():
            durable.lose_region()
        durable.data_dirs = [survivor]
        durable.start_again()
        durable.wait_for_clients()
        assert len(client.read_topic(topic, 2)) == len(deliveries)


def test_a_topic_that_wants_more_replicas_than_there_are(make_durable: Make) -> None:
    lax, strict = make_durable(), make_durable(settings={"totalog.replication.strict": True})
    client, topic = lax.clients[KINDS[0]], unique("three")
    client.create_topic(topic, 1, replication=3)
    write(client, topic, numbered(3, 1))
    with pytest.raises(ClientError) as refused:
        strict.clients[KINDS[0]].create_topic(topic, 1, replication=3)
    assert refused.value.code == 38


def test_fewer_directories_than_min_insync_replicas(make_durable: Make) -> None:
    durable = make_durable()
    client, topic = durable.clients[KINDS[0]], unique("insync")
    client.create_topic(topic, 1, {"min.insync.replicas": "2"})
    producer = client.open_producer(ProducerSettings(acks="all", retries=0))
    [delivery] = client.send(producer, topic, [Record(b"no", partition=0)])
    client.close_producer(producer)
    assert delivery.code == 19
    assert delivery.retriable
    write(client, topic, [Record(b"yes", partition=0)], ProducerSettings(acks="1"))
    assert [record.value for record in client.read_topic(topic, 1)] == [b"yes"]


def test_a_topic_larger_than_memory_is_read_from_disk(make_durable: Make) -> None:
    """Half as much again as memory holds, by partition, by the total order, and by time; before a restart and after."""
    durable = make_durable(memory="96m")
    client, other = durable.clients[KAFKA_PYTHON], durable.clients[CONFLUENT]
    topic, count, first_ms = unique("large"), 160, 1_700_000_000_000
    client.create_topic(topic, 2)
    records = [
        Record(b"%04d" % at + bytes(900_000), partition=at % 2, timestamp_ms=first_ms + at) for at in range(count)
    ]
    write(client, topic, records, ProducerSettings(delivery_timeout_ms=90_000))
    for again in (False, True):
        if again:
            durable.kill(True)
            durable.wait_for_clients()
        view = other.read_topic(f"{topic}.total-order", 1)
        assert [record.offset for record in view] == list(range(count))
        values = sorted(int((record.value or b"")[:4]) for record in view)
        assert values == list(range(count))
        by_partition = client.read_topic(topic, 2)
        for partition in range(2):
            read = [int((record.value or b"")[:4]) for record in by_partition if record.partition == partition]
            assert read == list(range(partition, count, 2))
        with consumer_of(client, ConsumerSettings()) as consumer:
            places = {Place(topic, 0): first_ms + 11, Place(topic, 1): first_ms + count - 1}
            found = client.offsets_for_times(consumer, places)
        assert list(found.values()) == [6, count // 2 - 1]
