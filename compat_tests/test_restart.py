"""A broker that is stopped or killed goes on with what it kept: topics, records, both orders, committed offsets,
producers. It keeps them in a named region, or in a data directory; with that, the region may be lost as well."""

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import pytest

from compat_tests import checker
from compat_tests.clients import AIOKAFKA, CONFLUENT, KAFKA_PYTHON, KINDS
from compat_tests.clients.face import Client, ClientError, ConsumerSettings, Place, ProducerSettings, Received, Record
from compat_tests.clients.process import ClientProcess, Clients
from compat_tests.conftest import StartBroker, unique
from compat_tests.ports import hold_port, port_of
from compat_tests.proxy import Proxy
from compat_tests.steps import numbered, places_of, poll_until, write

if TYPE_CHECKING:
    from totalog.gateway.testing import RunningBroker

pytestmark = pytest.mark.totalog_only

MEMORY = "256m"
END_S_MAX = 60.0
ACROSS_ENDS = ProducerSettings(idempotence=True, request_timeout_ms=10_000, delivery_timeout_ms=100_000)
"""What was asked of a broker that ended is asked again well before it is given up."""


class Case(NamedTuple):
    """What the broker keeps its data in, how it ends, and whether its region is gone then."""

    durable: bool
    ending: signal.Signals
    loses_region: bool = False


REGION_KILLED = Case(False, signal.SIGKILL)
CASES = {
    "region, killed": REGION_KILLED,
    "data, stopped": Case(True, signal.SIGTERM),
    "data, killed": Case(True, signal.SIGKILL),
    "data, killed, region lost": Case(True, signal.SIGKILL, loses_region=True),
}
EXTREMES = ("region, killed", "data, killed, region lost")
EACH = [
    pytest.param(case, kind, id=f"{name}-{kind}")
    for name, case in CASES.items()
    for kind in KINDS
    if kind != AIOKAFKA or name in EXTREMES
]
"""How it ends, and with which client; with aiokafka in the extremes."""


class Reborn:
    """A broker on one port that can be ended and started again with what it kept, and a client of each kind."""

    def __init__(self, region: Path, start_broker: StartBroker, case: Case = REGION_KILLED) -> None:
        self.region = region
        self.options: dict[str, object] = {"region": region, "memory": MEMORY}
        if case.durable:
            self.options["data_dirs"] = [region.with_name("data")]
        self.loses_region = case.loses_region
        self._start_broker = start_broker
        self._held = hold_port()
        self.port = port_of(self._held)
        self._running = self._start(self.port)
        self.address = self._running.address
        self.clients = Clients(self.address)

    def _start(self, port: int) -> "RunningBroker":
        return self._start_broker(port=port, **self.options)

    def process(self, kind: str) -> ClientProcess:
        return self.clients.process(kind)

    def end(self, how: signal.Signals) -> int:
        """The exit code; -9 when killed."""
        os.kill(self._running.pid, how)
        code = self._running.process.wait(END_S_MAX)
        if self.loses_region:
            self.region.unlink()
        return code

    def start_again(self) -> None:
        self._running = self._start(self.port)

    def wait_for_clients(self) -> None:
        """Administration does not wait for a connection with each client, as producing and consuming do."""
        for client in self.clients.started():
            poll_until(partial(connected, client))

    def close(self) -> None:
        self.clients.close()
        self._held.close()


def connected(client: Client) -> bool:
    try:
        return bool(client.describe_cluster())
    except ClientError:
        return False


@pytest.fixture(params=list(CASES.values()), ids=list(CASES))
def case(request: pytest.FixtureRequest) -> Case:
    chosen: Case = request.param
    return chosen


@pytest.fixture
def ending(case: Case) -> signal.Signals:
    return case.ending


@pytest.fixture
def reborn(tmp_path: Path, case: Case, start_broker: StartBroker) -> Iterator[Reborn]:
    reborn = Reborn(tmp_path / "region", start_broker, case)
    yield reborn
    reborn.close()


@contextmanager
def consumer_of(client: Client, settings: ConsumerSettings) -> Iterator[int]:
    consumer = client.open_consumer(settings)
    yield consumer
    client.close_consumer(consumer)


def test_everything_is_there_again(reborn: Reborn, ending: signal.Signals) -> None:
    client, other = reborn.clients[KAFKA_PYTHON], reborn.clients[CONFLUENT]
    topic, gone, group = unique("kept"), unique("gone"), unique("group")
    client.create_topic(topic, 3, {"retention.ms": "7200000"})
    client.create_topic(gone, 2)
    write(client, topic, numbered(900, 3), ProducerSettings(acks="1"))
    write(other, topic, [Record(bytes(900_000), b"large", (("h", b"1"),), partition=1)])
    write(client, gone, numbered(10, 2))
    client.delete_topic(gone)
    client.create_partitions(topic, 4)
    with consumer_of(client, ConsumerSettings(group=group)) as consumer:
        client.assign(consumer, {Place(topic, 0): 0})
        client.commit(consumer, {Place(topic, 0): 123, Place(topic, 2): 45})
    before = {
        kind: (each.read_topic(topic, 4), each.read_topic(f"{topic}.total-order", 1))
        for kind, each in reborn.clients.items()
    }
    names, cluster = client.topics(), client.describe_cluster()

    assert reborn.end(ending) == (0 if ending == signal.SIGTERM else -ending)
    reborn.start_again()
    reborn.wait_for_clients()

    assert (client.topics(), client.describe_cluster()) == (names, cluster)
    assert client.topic_config(topic)["retention.ms"] == "7200000"
    assert client.describe_topic(topic).partitions == 4
    for kind, each in reborn.clients.items():
        partitions, view = before[kind]
        assert sorted(each.read_topic(topic, 4)) == sorted(partitions)
        assert each.read_topic(f"{topic}.total-order", 1) == view
        with consumer_of(each, ConsumerSettings(group=group)) as consumer:
            committed = each.committed(consumer, places_of(topic, 4))
            assert list(committed.values()) == [123, None, 45, None]
    deliveries = write(other, topic, [Record(b"goes on", partition=at) for at in range(4)])
    assert [delivery.offset for delivery in deliveries] == [300, 301, 300, 0]
    assert len(client.read_topic(f"{topic}.total-order", 1)) == 905


def test_what_is_kept_has_one_broker(reborn: Reborn, start_broker: StartBroker) -> None:
    """The second one is told in one line and leaves; the first one does not notice."""
    client, topic = reborn.clients[KINDS[0]], unique("one")
    client.create_topic(topic, 1)
    with pytest.raises(RuntimeError, match="in use") as refused:
        start_broker(**reborn.options)
    assert len(str(refused.value).splitlines()) == 1
    write(client, topic, numbered(10, 1))
    assert len(client.read_topic(topic, 1)) == 10


@pytest.mark.case("a broker that ends and starts again")
@pytest.mark.parametrize(("case", "kind"), EACH)
def test_an_idempotent_producer_goes_on(reborn: Reborn, ending: signal.Signals, kind: str) -> None:
    """Its id and sequence are known to the next broker: neither a gap nor a duplicate, and a new producer gets
    another id.
    """
    client, topic = reborn.clients[kind], unique("goes-on")
    client.create_topic(topic, 2)
    producer = client.open_producer(ProducerSettings(idempotence=True))
    told = []
    for round_number in range(3):
        told += client.send(
            producer,
            topic,
            [
                Record(checker.value_of(0, at), partition=at % 2)
                for at in range(100 * round_number, 100 * round_number + 100)
            ],
        )
        if round_number < 2:
            reborn.end(ending)
            reborn.start_again()
        write(
            client, topic, [Record(checker.value_of(1, round_number), partition=0)], ProducerSettings(idempotence=True)
        )
    client.close_producer(producer)
    assert {delivery.code for delivery in told} == {0}
    read = checker.received(client.read_topic(topic, 2), 300)
    own = read.identity[read.identity < 300]
    assert sorted(own) == list(range(300))
    assert checker.dense(read) == []
    assert checker.acknowledged(read, checker.told(range(300), told)) == []
    assert checker.producer_order(read, 300) == []


@pytest.mark.parametrize(("case", "kind"), EACH)
def test_a_batch_that_is_sent_again_after_a_restart_is_known(reborn: Reborn, ending: signal.Signals, kind: str) -> None:
    """The answer is lost, then the broker; the client's retry reaches the next broker, which has the batch already."""
    client, topic = reborn.clients[kind], unique("again")
    client.create_topic(topic, 1)
    writer = reborn.process(kind)
    with Proxy("127.0.0.1", reborn.port) as proxy:
        producer = client.open_producer(ACROSS_ENDS, bootstrap=proxy.address)
        first = client.send(producer, topic, [Record(b"first")])
        proxy.refuse_after_loss = True
        proxy.lose_answers = frozenset({2})
        pending = writer.later("send", producer, topic, [Record(b"second")])
        assert proxy.wait_until(lambda seen: seen.lost_count == 1)
        reborn.end(ending)
        reborn.start_again()
        proxy.accept_again()
        (second,) = pending.result()
        third = client.send(producer, topic, [Record(b"third")])
        client.close_producer(producer)
    assert [delivery.offset for delivery in (*first, second, *third)] == [0, 1, 2]
    assert [record.value for record in client.read_topic(topic, 1)] == [b"first", b"second", b"third"]


@pytest.mark.parametrize("acks", ["1", "all"])
def test_nothing_that_was_acknowledged_is_lost_when_the_broker_ends_under_load(
    reborn: Reborn, ending: signal.Signals, acks: str
) -> None:
    """All kinds write through three ends and starts; with acks=all they are idempotent: nothing is doubled either.
    With acks=1 the loss of the region takes what the disk did not have yet."""
    topic, per_producer = unique("load"), 500
    reborn.clients[KINDS[0]].create_topic(topic, 4)
    settings = replace(ACROSS_ENDS, acks=acks, idempotence=acks == "all")
    with Proxy("127.0.0.1", reborn.port) as proxy:
        pending = []
        for number, kind in enumerate(KINDS):
            producer = reborn.clients[kind].open_producer(settings, bootstrap=proxy.address)
            records = [Record(checker.value_of(number, at), partition=at % 4) for at in range(per_producer)]
            pending.append(reborn.process(kind).later("send", producer, topic, records, True))
        for produced in (150, 350, 600):
            assert proxy.wait_until_produced(produced)
            reborn.end(ending)
            reborn.start_again()
        deliveries = [delivery for future in pending for delivery in future.result()]
    assert {delivery.code for delivery in deliveries} == {0}
    reader = reborn.clients[KINDS[1]]
    read = checker.received(reader.read_topic(topic, 4), per_producer)
    view = checker.received(reader.read_topic(f"{topic}.total-order", 1), per_producer)
    told = checker.told(range(len(deliveries)), deliveries)
    assert checker.dense(read) + checker.dense(view) == []
    if acks == "all" or not reborn.loses_region:
        assert checker.acknowledged(read, told) == []
    if acks == "all":
        assert checker.complete(read, len(deliveries)) == []
        assert checker.producer_order(read, per_producer) == []
        assert checker.view_holds_partitions(view, read) == []
        assert checker.real_time(view, told) == []


@pytest.mark.case("a broker that ends and starts again")
@pytest.mark.parametrize(("case", "kind"), EACH)
def test_a_member_goes_on_with_the_next_broker(reborn: Reborn, ending: signal.Signals, kind: str) -> None:
    """It may have to join again, which it does by polling; from its commits on, everything comes."""
    client, topic, group = reborn.clients[kind], unique("member"), unique("group")
    places = places_of(topic, 2)
    client.create_topic(topic, 2)
    write(client, topic, numbered(100, 2))
    with consumer_of(client, ConsumerSettings(group=group)) as consumer:
        client.subscribe(consumer, [topic])
        assert len(client.read(consumer, 100)) == 100
        client.commit(consumer)
        reborn.end(ending)
        reborn.start_again()
        write(client, topic, numbered(100, 2, start=100))
        read = client.read(consumer, 100)
        while not committed(client, consumer, dict.fromkeys(places, 100)):
            read += client.poll(consumer, 500)
        assert {int(record.value or b"-1") for record in read} == set(range(100, 200))
    with consumer_of(client, ConsumerSettings(group=group)) as consumer:
        assert client.committed(consumer, places) == dict.fromkeys(places, 100)


def committed(client: Client, consumer: int, wanted: dict[Place, int]) -> bool:
    """False: the consumer has to poll, so that it joins again, and reads again what it had not committed."""
    try:
        client.commit(consumer, None)
        return client.committed(consumer, list(wanted)) == wanted
    except ClientError:
        return False


def test_retention_and_deletion_hold_after_a_restart(reborn: Reborn, ending: signal.Signals) -> None:
    """What was freed is free, and the log start does not go back; with the region lost it may, as far as to the last
    checkpoint, until retention is applied again."""
    client, topic = reborn.clients[KINDS[0]], unique("trimmed")
    client.create_topic(topic, 1, {"retention.bytes": str(4 * 2**20)})
    write(client, topic, [Record(b"%04d" % at + bytes(500_000), partition=0) for at in range(100)])
    place = Place(topic, 0)
    with consumer_of(client, ConsumerSettings()) as consumer:
        first, _ = client.bounds(consumer, [place])[place]
        reborn.end(ending)
        reborn.start_again()
        again, end = client.bounds(consumer, [place])[place]
        assert again < end == 100
        assert first <= again or reborn.loses_region
        client.assign(consumer, {place: again})
        read: list[Received] = []

        def is_at_the_end() -> bool:
            read.extend(client.poll(consumer, 1_000))
            return bool(read) and read[-1].offset == end - 1

        poll_until(is_at_the_end)
        offsets = [record.offset for record in read]
        assert [int((record.value or b"")[:4]) for record in read] == offsets == sorted(set(offsets))
        kept, _ = client.bounds(consumer, [place])[place]  # retention may go on while one reads
        assert set(range(max(again, kept), end)) <= set(offsets)
    write(client, topic, [Record(bytes(500_000), partition=0)] * 600)  # more than memory holds
