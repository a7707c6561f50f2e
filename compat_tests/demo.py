"""What `make run` shows: a broker, real Kafka clients that write to it at once and read back, and a check of both
orders.

PORT=9092 python -m compat_tests.demo [--records N] [--check]

Ends with a broker to play with, until Ctrl-C; `--check` ends after the check, with exit code 1 if anything was amiss.
"""

import argparse
import os
import signal
import socket
import sys
import time
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from tempfile import TemporaryDirectory
from typing import NoReturn

import numpy as np
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from compat_tests import checker
from compat_tests.checker import Seen, Told
from compat_tests.clients import CONFLUENT, KAFKA_PYTHON
from compat_tests.clients.face import Delivery, ProducerSettings, Received, Record
from compat_tests.clients.process import ClientProcess
from totalog.gateway.testing import BrokerFailed, broker

SHOWN = (KAFKA_PYTHON, CONFLUENT)
TOPIC = "orders"
VIEW = "orders.total-order"
PARTITIONS = 4
RECORDS = 100_000
SAMPLE = 5
CHUNK = 2_000  # records between two steps of a progress bar
PORT = 9092


def free_port(wanted: int) -> int:
    """`wanted` if nobody has it, else 0, which takes any."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", wanted))
        except OSError:
            return 0
    return wanted


def produce(process: ClientProcess, number: int, count: int, bar: "Bar") -> list[Delivery]:
    """Writes the records of producer `number` over all partitions, with the client's own pipelining inside a chunk."""
    producer = process.client.open_producer(ProducerSettings(acks="all", idempotence=True, linger_ms=5))
    deliveries: list[Delivery] = []
    for start in range(0, count, CHUNK):
        chunk = [
            Record(checker.value_of(number, at), partition=at % PARTITIONS)
            for at in range(start, min(start + CHUNK, count))
        ]
        deliveries += process.client.send(producer, TOPIC, chunk)
        bar.advance(len(chunk))
    process.client.close_producer(producer)
    return deliveries


class Bar:
    """One row of the progress display."""

    def __init__(self, progress: Progress, name: str, total: int) -> None:
        self._progress = progress
        self._task = progress.add_task(name, total=total)

    def advance(self, count: int) -> None:
        self._progress.advance(self._task, count)


@contextmanager
def bars(console: Console) -> Iterator[Progress]:
    columns = (TextColumn("{task.description:<24}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=console) as progress:
        yield progress


def write_at_once(console: Console, processes: list[ClientProcess], count: int) -> Told:
    started = time.monotonic()
    with bars(console) as progress, ThreadPoolExecutor() as threads:
        pending = [
            threads.submit(produce, process, number, count, Bar(progress, f"{process.kind} writes", count))
            for number, process in enumerate(processes)
        ]
        deliveries = [delivery for future in pending for delivery in future.result()]
    seconds = time.monotonic() - started
    refused = [delivery for delivery in deliveries if delivery.code]
    if refused:
        raise SystemExit(f"{len(refused)} records were refused, the first with error {refused[0].code}")
    console.print(f"{len(deliveries):,} records acknowledged in {seconds:.1f} s", highlight=False, soft_wrap=True)
    return checker.told(range(len(deliveries)), deliveries)


def read_back(console: Console, processes: list[ClientProcess], count: int) -> dict[str, tuple[Seen, Seen]]:
    """Client -> what it read from the partitions and from the view."""
    with bars(console) as progress:
        seen: dict[str, list[Seen]] = {process.kind: [] for process in processes}
        tasks = {
            process.kind: Bar(progress, f"{process.kind} reads", 2 * count * len(processes)) for process in processes
        }
        for topic, partitions in ((TOPIC, PARTITIONS), (VIEW, 1)):
            pending: list[tuple[str, Future[list[Received]]]] = [
                (process.kind, process.later("read_topic", topic, partitions)) for process in processes
            ]
            for kind, future in pending:
                records = future.result()
                tasks[kind].advance(len(records))
                seen[kind].append(checker.received(records, count))
    return {kind: (partitions, view) for kind, (partitions, view) in seen.items()}


def findings(told: Told, read: dict[str, tuple[Seen, Seen]], count: int) -> dict[str, list[str]]:
    """Sentence -> the anomalies that speak against it."""
    total = len(told.identity)
    partitions = {kind: both[0] for kind, both in read.items()}
    views = {kind: both[1] for kind, both in read.items()}
    first_view, *other_views = views.values()

    def each(check: str, found: dict[str, list[str]]) -> tuple[str, list[str]]:
        return check, [f"{kind}: {anomaly}" for kind, anomalies in found.items() for anomaly in anomalies]

    return dict(
        [
            each("partition offsets are dense", {kind: checker.dense(own) for kind, own in partitions.items()}),
            each(
                "nothing lost, nothing twice", {kind: checker.complete(own, total) for kind, own in partitions.items()}
            ),
            each(
                "records are where they were acknowledged",
                {kind: checker.acknowledged(own, told) for kind, own in partitions.items()},
            ),
            each(
                "each producer's order is kept",
                {kind: checker.producer_order(own, count) for kind, own in partitions.items()},
            ),
            each("the total order is dense", {kind: checker.dense(own) for kind, own in views.items()}),
            each(
                "the total order holds every partition's order",
                {kind: checker.view_holds_partitions(views[kind], partitions[kind]) for kind in views},
            ),
            each(
                "what was acknowledged first comes first",
                {kind: checker.real_time(own, told) for kind, own in views.items()},
            ),
            each(
                "both readers saw the same total order",
                {"readers": [anomaly for own in other_views for anomaly in checker.agree(first_view, own)]},
            ),
        ]
    )


def show(console: Console, found: dict[str, list[str]], read: dict[str, tuple[Seen, Seen]]) -> bool:
    table = Table(
        "what was checked", "result", title=f"{TOPIC}: {PARTITIONS} partitions, and {VIEW}", title_justify="left"
    )
    for sentence, anomalies in found.items():
        table.add_row(sentence, "; ".join(anomalies) if anomalies else "yes", style="bold red" if anomalies else None)
    console.print(table)
    for kind, (partitions, view) in read.items():
        console.print(
            f"{kind} read {len(partitions):,} records from the partitions, {len(view):,} from the total order",
            highlight=False,
            soft_wrap=True,
        )
    return not any(found.values())


def show_sample(console: Console, read: dict[str, tuple[Seen, Seen]], count: int) -> None:
    """A few neighbours from the middle of the total order, and where each of them lies in its partition."""
    partitions, view = next(iter(read.values()))
    place = np.empty(len(partitions), dtype=np.int64)
    place[partitions.identity] = np.arange(len(partitions))
    table = Table("total order", "partition", "offset", "written by", title="from the middle", title_justify="left")
    for at in range(len(view) // 2, min(len(view) // 2 + SAMPLE, len(view))):
        identity = int(view.identity[at])
        lies = int(place[identity])
        writer = f"{SHOWN[identity // count]}, its record {identity % count:,}"
        table.add_row(f"{view.offset[at]:,}", str(partitions.partition[lies]), f"{partitions.offset[lies]:,}", writer)
    console.print(table)


def say_what_is_next(console: Console, address: str) -> None:
    console.print(f"\nserving at {address} until Ctrl-C. What to try next:", highlight=False, soft_wrap=True)
    for line in (
        f".venv/bin/python examples/produce_consume.py {address}",
        f".venv/bin/python examples/total_order.py {address}",
        f"kcat -b {address} -t {VIEW} -C -o -5 -e -f '%o %S bytes\\n'",
        f".venv/bin/totalog healthcheck {address}",
    ):
        console.print(f"  {line}", highlight=False, soft_wrap=True)


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument(
        "--records", type=int, default=RECORDS, help="for each of the two producers (default: %(default)s)"
    )
    parser.add_argument("--check", action="store_true", help="end after the check")
    return parser.parse_args()


def on_sigterm(*_: object) -> NoReturn:
    raise KeyboardInterrupt


def main() -> int:
    chosen, console = arguments(), Console()
    wanted = int(os.environ.get("PORT") or PORT)
    port = free_port(wanted)
    if port != wanted:
        console.print(f"port {wanted} is taken, so another one is used", highlight=False, soft_wrap=True)
    signal.signal(signal.SIGTERM, on_sigterm)
    try:
        with TemporaryDirectory(prefix="totalog-demo-") as folder, broker(port=port, data_dirs=[folder]) as running:
            console.print(f"broker at {running.address}, process {running.pid}", highlight=False, soft_wrap=True)
            with ExitStack() as stack:
                processes = [ClientProcess(kind, running.address) for kind in SHOWN]
                for process in processes:
                    stack.callback(process.close)
                processes[0].client.create_topic(TOPIC, PARTITIONS)
                told = write_at_once(console, processes, chosen.records)
                read = read_back(console, processes, chosen.records)
                good = show(console, findings(told, read, chosen.records), read)
                if good:
                    show_sample(console, read, chosen.records)
            if not chosen.check:
                say_what_is_next(console, running.address)
                running.process.wait()
            return 0 if good else 1
    except BrokerFailed as failure:
        print(f"demo: {failure}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 0


if __name__ == "__main__":
    sys.exit(main())
