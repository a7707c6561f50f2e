"""`make bench-clients`: what users see: stock clients producing and consuming, on the gateway, on an Apache Kafka
(where its address is given), and, producing with confluent-kafka, on the mock broker inside librdkafka.

Each measurement is a fresh client process; targets take turns, round after round. MB/s of record values; ratios are
those of medians of one run. Beside each rate stands for which part of the time the client was at work: where that is
nearly all, the rate is the client's own, and other brokers get no more of it. What is consumed was written before, by
librdkafka, in batches as large as the client's own producer makes them.

    make bench-clients
    make bench-clients KAFKA=localhost:19092
"""

import argparse
import json
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import dataclass

from confluent_kafka import Producer
from confluent_kafka.admin import AdminClient, NewTopic  # type: ignore[attr-defined]

from compat_tests.bench import report
from compat_tests.bench.client_work import AT_WORK, CLIENTS, CONFLUENT, CONFLUENT_SHORT_PAUSES, Confluent
from totalog.gateway.bench import stats
from totalog.gateway.testing import broker

ROUNDS = 5
TOPICS = 20
SIZES = (100, 1024, 10 * 1024)
MOCK = "librdkafka's mock"
TIMEOUT_S = 120

Most = tuple[int, int]
"""Records, and bytes of their values."""


@dataclass(frozen=True, slots=True)
class Load:
    """What one client does in one measurement: about a second, and more than it fetches ahead."""

    produce: Most | None
    consume: Most
    batch_size: int
    """Bytes of the batches that it consumes, at most."""


LOADS = {
    CONFLUENT: Load((400_000, 60_000_000), (800_000, 500_000_000), 1_000_000),  # consumes with several pauses: ABOUT
    CONFLUENT_SHORT_PAUSES: Load(None, (400_000, 300_000_000), 1_000_000),
    "kafka-python": Load((15_000, 15_000_000), (60_000, 100_000_000), 16_384),
    "aiokafka": Load((15_000, 15_000_000), (300_000, 150_000_000), 16_384),
}

ABOUT = """
A client that is at work nearly all of the time gets no more from any broker. kafka-python is while it produces: its
batches are of 16 KiB, so that each record of 10 KiB is a request, which costs it a millisecond of processor time.

confluent-kafka (librdkafka) stops fetching for a second, by default, whenever 100,000 records of a partition or 64 MB
wait for the application, however soon they are taken. A broker that sends faster than the application takes brings it
there again and again, and it gets a half or a third of what it could take; one that sends a little slower never does.
With each answer to a Fetch held back by 10 ms, the gateway's records of 100 B are consumed more than twice as fast as
without. The rows with fetch.queue.backoff.ms=10 are without such pauses."""

Values = dict[tuple[str, str], list[float]]
"""(what, target) -> one figure for each round."""


def run(kafka: str, wanted: str) -> tuple[list[stats.Summary], dict[str, list[float]]]:
    rows: list[stats.Summary] = []
    series: dict[str, list[float]] = {}
    with ExitStack() as held:
        targets = {"gateway": held.enter_context(broker(memory="2g")).address}
        if kafka:
            targets["Apache Kafka"] = kafka
        mock = held.enter_context(_mock_cluster())
        for kind in CLIENTS:
            if wanted not in kind:
                continue
            own = targets | ({MOCK: mock} if kind == CONFLUENT else {})
            for size in SIZES:
                values = _measure(kind, size, own)
                rows += _rows(kind, size, values)
                series |= {f"{kind} {what} {size} B: {target}": figures for (what, target), figures in values.items()}
        rows += _topics(targets)
    return rows, series


def _measure(kind: str, size: int, targets: dict[str, str]) -> Values:
    load = LOADS[kind]
    values: Values = {}
    with ExitStack() as held:
        stored = {  # the mock forgets what is more than a few megabytes
            target: held.enter_context(_stored(address, size, _count(load.consume, size), load.batch_size))
            for target, address in targets.items()
            if target != MOCK
        }
        for _ in range(ROUNDS):
            for target, address in targets.items():
                if load.produce is not None:
                    # the mock makes a topic when it is asked for
                    with nullcontext(_name()) if target == MOCK else _topic(address) as topic:
                        _run(values, kind, "produce", target, address, topic, size, _count(load.produce, size))
                if target in stored:
                    _run(values, kind, "consume", target, address, stored[target], size, _count(load.consume, size))
    return values


def _count(most: Most, size: int) -> int:
    records, total = most
    return min(records, total // size)


@contextmanager
def _stored(address: str, size: int, count: int, batch_size: int) -> Iterator[str]:
    """A topic with so many records."""
    with _topic(address) as name:
        Confluent(address, {"batch.size": batch_size}).produce(name, size, count - 1)  # and the first one
        yield name


def _run(values: Values, kind: str, work: str, target: str, address: str, topic: str, size: int, count: int) -> None:
    seconds = _work(kind, work, address, topic, size, count)
    for what in seconds:
        values.setdefault((what, target), []).append(_figure(what, seconds, size * count / 1e6))


def _figure(what: str, seconds: dict[str, float], megabytes: float) -> float:
    if what in ("produce", "consume"):
        return megabytes / seconds[what]
    if what.endswith(AT_WORK):
        return 100 * seconds[what] / seconds[what.removesuffix(AT_WORK)]
    return seconds[what]


def _unit(what: str) -> str:
    return "MB/s" if what in ("produce", "consume") else "%" if what.endswith(AT_WORK) else "ms"


def _work(kind: str, work: str, address: str, topic: str, size: int, count: int) -> dict[str, float]:
    command = [
        sys.executable,
        "-m",
        "compat_tests.bench.client_work",
        kind,
        work,
        address,
        topic,
        str(size),
        str(count),
    ]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, timeout=TIMEOUT_S)
    found: dict[str, float] = json.loads(done.stdout)
    return found


def _rows(kind: str, size: int, values: Values) -> Iterator[stats.Summary]:
    summaries = {
        (what, target): stats.summarize(f"{kind} {what} {size} B: {target}", figures, unit=_unit(what))
        for (what, target), figures in values.items()
    }
    yield from summaries.values()
    for (what, target), summary in summaries.items():
        if target != "gateway" and not what.endswith(AT_WORK):
            ratio = summaries[what, "gateway"].median / summary.median
            yield stats.summarize(f"{kind} {what} {size} B: gateway / {target} (medians)", [ratio], unit="ratio")


def _name() -> str:
    return f"bench-{time.monotonic_ns()}"


@contextmanager
def _topic(address: str) -> Iterator[str]:
    admin, name = AdminClient({"bootstrap.servers": address}), _name()
    _created(admin, name)
    yield name
    for future in admin.delete_topics([name]).values():
        future.result()


def _created(admin: AdminClient, name: str) -> float:
    began = time.perf_counter()
    for future in admin.create_topics([NewTopic(name, 1, 1)]).values():
        future.result()
    return time.perf_counter() - began


def _topics(targets: dict[str, str]) -> Iterator[stats.Summary]:
    """How long a topic takes to be made, asked by confluent-kafka. The mock cluster makes none that is asked for so."""
    admins = {target: AdminClient({"bootstrap.servers": address}) for target, address in targets.items()}
    for admin in admins.values():
        admin.list_topics(timeout=10)
    took: dict[str, list[float]] = {target: [] for target in targets}
    for _ in range(TOPICS):
        for target, admin in admins.items():
            took[target].append(_created(admin, _name()))
    summaries = {target: stats.summarize(f"create a topic: {target}", of, unit="ms") for target, of in took.items()}
    yield from summaries.values()
    for target, summary in summaries.items():
        if target != "gateway":
            ratio = summaries["gateway"].median / summary.median
            yield stats.summarize(f"create a topic: gateway / {target} (medians)", [ratio], unit="ratio")


@contextmanager
def _mock_cluster() -> Iterator[str]:
    """The broker that librdkafka has for its own tests, in this process."""
    host = Producer({"bootstrap.servers": "unused", "test.mock.num.brokers": 1})
    metadata = host.list_topics(timeout=10)
    ((_, node),) = metadata.brokers.items()
    yield f"{node.host}:{node.port}"
    host.flush(1)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kafka", metavar="HOST:PORT", default="", help="an Apache Kafka to measure beside")
    parser.add_argument("--only", default="", help="clients whose names contain this")
    arguments = parser.parse_args()
    if not arguments.kafka:
        print("Apache Kafka is skipped: no address was given (KAFKA=HOST:PORT)")
    rows, series = run(arguments.kafka, arguments.only)
    report.show("clients", rows, series, unit="MB/s, seconds, %")
    print(ABOUT)
    report.tell_where()


if __name__ == "__main__":
    main()
