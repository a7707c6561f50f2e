"""`make bench-clients`: what users see: stock clients producing and consuming, on the gateway, on an Apache Kafka
(where its address is given), and, producing with confluent-kafka, on the mock broker inside librdkafka.

Each measurement is a fresh client process; targets take turns, round after round. MB/s of record values; ratios are
those of medians of one run. Beside each rate stands for which part of the time the client was at work: where that is
nearly all, the rate is the client's own, and other brokers get no more of it.

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

from confluent_kafka import Producer
from confluent_kafka.admin import AdminClient, NewTopic  # type: ignore[attr-defined]

from compat_tests.bench import report
from compat_tests.bench.client_work import AT_WORK, CLIENTS
from totalog.gateway.bench import stats
from totalog.gateway.testing import broker

ROUNDS = 5
TOPICS = 20
SIZES = (100, 1024, 10 * 1024)
MOCK = "librdkafka's mock"
TIMEOUT_S = 120
RATES = {
    "confluent-kafka": (400_000, 60_000_000),
    "kafka-python": (30_000, 30_000_000),
    "aiokafka": (30_000, 30_000_000),
}
"""Records and bytes of about a second."""

ABOUT = """
A client that is at work nearly all of the time gets no more from any broker. kafka-python is while it produces: its
batches are of 16 KiB, so that each record of 10 KiB is a request, which costs it a millisecond of processor time."""

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
            own = targets | ({MOCK: mock} if kind == "confluent-kafka" else {})
            for size in SIZES:
                values = _measure(kind, size, own)
                rows += _rows(kind, size, values)
                series |= {f"{kind} {what} {size} B: {target}": figures for (what, target), figures in values.items()}
        rows += _topics(targets)
    return rows, series


def _measure(kind: str, size: int, targets: dict[str, str]) -> Values:
    records, total = RATES[kind]
    count = min(records, total // size)
    values: Values = {}
    for number in range(ROUNDS):
        for target, address in targets.items():
            topic = f"bench-{kind}-{size}-{number}-{time.monotonic_ns()}"
            with nullcontext() if target == MOCK else _topic(address, topic):  # the mock makes it when it is asked for
                seconds = _work(kind, "produce", address, topic, size, count)
                if target != MOCK:  # it forgets what is more than a few megabytes
                    seconds |= _work(kind, "consume", address, topic, size, count + 1)
            for what in seconds:
                values.setdefault((what, target), []).append(_figure(what, seconds, size * count / 1e6))
    return values


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


@contextmanager
def _topic(address: str, name: str) -> Iterator[None]:
    admin = AdminClient({"bootstrap.servers": address})
    _created(admin, name)
    yield
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
    for number in range(TOPICS):
        for target, admin in admins.items():
            took[target].append(_created(admin, f"made-{number}-{time.monotonic_ns()}"))
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
