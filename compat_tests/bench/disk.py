"""`make bench-disk`: what durability costs: acks=all on a broker with a data directory.

- Throughput beside the limit of the disk (a process that does nothing but write as many bytes and call fdatasync once
  for all that may be in flight) and, where its address is given, an Apache Kafka, which answers acks=all without
  fdatasync.
- From produce to fetch: one record at a time, acks=1, a consumer that waits, on a topic on disk and one in memory.
- acks=1 while each fdatasync takes five seconds longer, beside the same undisturbed.
- From the start of a process after a kill to the first record fetched, with the region and without it.

Rounds take turns; ratios are those of the medians of one run. The data lies where temporary files do: TMPDIR moves it.
"""

import argparse
import os
import socket
import struct
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from compat_tests.bench import report
from compat_tests.breaking.broker import Victim
from compat_tests.breaking.faults import KILL, REMOVED, Fault
from totalog.gateway.bench import requests, stats
from totalog.gateway.bench.load import Generator, Work
from totalog.gateway.testing import broker

ROUNDS = 5
ROUND_S = 1.0
KIB, MIB = 1 << 10, 1 << 20
RETAINED = 256 * MIB
LOADS = (
    ("1 MiB, 5 in flight", MIB, 5, 1),
    ("16 KiB, 20 in flight", 16 * KIB, 20, 1),
    ("100 B, 50 in flight, 8 connections", 100, 50, 8),
)
LATENCIES_COUNT = 300
SLOW_MS = 5000
SLOWED_COUNT = 600
FILE_SIZE_MAX = 512 * MIB
FILLED = 4 << 30
"""Bytes of the journal that is recovered: far more than the victim has memory."""

Address = tuple[str, int]
Table = tuple[list[stats.Summary], dict[str, list[float]]]


class Disk:
    """The limit: everything that is in flight is written and synced at once, into space that was allocated before."""

    def __init__(self, folder: Path, work: Work) -> None:
        self._group = b"".join(list(work.frames) * (work.depth * work.connections))
        self._count = work.depth * work.connections
        self._path = folder / "limit"
        self._file = os.open(self._path, os.O_RDWR | os.O_CREAT, 0o600)
        os.posix_fallocate(self._file, 0, FILE_SIZE_MAX)

    def run(self, seconds: float) -> float:
        """Requests per second."""
        began, groups, at = time.perf_counter(), 0, 0
        while (now := time.perf_counter()) - began < seconds:
            if at + len(self._group) > FILE_SIZE_MAX:
                at = 0
            at += os.pwrite(self._file, self._group, at)
            os.fdatasync(self._file)
            groups += 1
        return groups * self._count / (now - began)

    def close(self) -> None:
        os.close(self._file)
        self._path.unlink()


def throughput(folder: Path, kafka: Address | None) -> Table:
    rows: list[stats.Summary] = []
    series: dict[str, list[float]] = {}
    for number, (name, size, depth, connections) in enumerate(LOADS):
        with ExitStack() as held:
            running = held.enter_context(broker(data_dirs=[folder / f"data-{number}"], memory="1g"))
            topic = f"disk-{number}"
            work = _work((running.host, running.port), topic, size, depth, connections)
            disk = Disk(folder, work)
            held.callback(disk.close)
            targets = {"gateway": _generator(held, (running.host, running.port), work)}
            if kafka is not None:
                targets["Apache Kafka"] = _generator(held, kafka, _work(kafka, topic, size, depth, connections))
            values: dict[str, list[float]] = {"fdatasync": [], **{target: [] for target in targets}}
            for generator in targets.values():
                generator.run(ROUND_S)
            for _ in range(ROUNDS):
                values["fdatasync"].append(disk.run(ROUND_S))
                for target, generator in targets.items():
                    done = generator.run(ROUND_S)
                    values[target].append(done.answers / done.seconds)
        scale, unit = (1.0, "requests/s") if size < KIB else (len(work.frames[0]) / 1e6, "MB/s")
        summaries = {
            target: stats.summarize(f"acks=all {name}: {target}", [value * scale for value in of], unit=unit)
            for target, of in values.items()
        }
        rows += summaries.values()
        rows += [
            stats.summarize(
                f"acks=all {name}: gateway / {target} (medians)",
                [summaries["gateway"].median / summary.median],
                unit="ratio",
            )
            for target, summary in summaries.items()
            if target != "gateway"
        ]
        series |= {f"{name}: {target}": of for target, of in values.items()}
    return rows, series


def _work(address: Address, topic: str, size: int, depth: int, connections: int, retained: int = RETAINED) -> Work:
    with socket.create_connection(address) as connection:
        requests.ask(connection, requests.create_topic(topic, configs={"retention.bytes": str(retained)}))
    frame = requests.produce(topic, requests.batch(size, min(size, KIB)), acks=-1)
    return Work([frame], depth, connections, topic)


def _generator(held: ExitStack, address: Address, work: Work) -> Generator:
    generator = Generator(*address, work)
    held.callback(generator.close)
    return generator


def end_to_end(folder: Path) -> Table:
    """From just before a record is sent to the arrival of the answer of a fetch that waited for it."""
    series: dict[str, list[float]] = {"on disk": [], "in memory": []}
    with broker(data_dirs=[folder / "latency"], memory="256m") as running:
        address = running.host, running.port
        for storage in ("disk", "memory"):
            with socket.create_connection(address) as connection:
                requests.ask(connection, requests.create_topic(storage, configs={"totalog.storage": storage}))
        for _ in range(ROUNDS):
            for name, storage in (("on disk", "disk"), ("in memory", "memory")):
                series[name] += _latencies(address, storage)
    rows = [stats.summarize(f"produce to fetch, topic {name}", values, unit="us") for name, values in series.items()]
    return rows, {f"produce to fetch, topic {name}": values for name, values in series.items()}


def _latencies(address: Address, topic: str) -> Iterator[float]:
    produce = requests.produce(topic, requests.batch(0, 100), acks=1)
    with socket.create_connection(address) as producer, socket.create_connection(address) as consumer:
        for connection in (producer, consumer):
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        answer = requests.ask(producer, produce)
        offset = requests.produce_offset(topic, answer) + 1
        for number in range(LATENCIES_COUNT):
            consumer.sendall(requests.fetch(topic, offset=offset + number, size_max=1000))
            began = time.perf_counter()
            requests.ask(producer, produce)
            size = struct.unpack(">i", _exactly(consumer, 4))[0]
            _exactly(consumer, size)
            yield time.perf_counter() - began


def _exactly(connection: socket.socket, size: int) -> bytes:
    received = bytearray()
    while len(received) < size:
        more = connection.recv(size - len(received))
        if not more:
            raise ConnectionError("the broker closed the connection")
        received += more
    return bytes(received)


def slow_disk(folder: Path) -> Table:
    """acks=1, one small record at a time, undisturbed and while a sync hangs."""
    series: dict[str, list[float]] = {"undisturbed": [], "a sync takes 5 s longer": []}
    with _victim(folder) as victim, socket.create_connection(("127.0.0.1", victim.port)) as connection:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        requests.ask(connection, requests.create_topic("slow"))
        produce = requests.produce("slow", requests.batch(0, 100), acks=1)
        for _ in range(ROUNDS):
            for name, delay in (("undisturbed", 0), ("a sync takes 5 s longer", SLOW_MS)):
                victim.strike(Fault(name, f"disk SYNC OK 0 {delay}", ends=False))
                requests.ask(connection, produce)
                series[name] += stats.measure(lambda: requests.ask(connection, produce), iterations=SLOWED_COUNT)
        victim.strike(Fault("as before", "disk SYNC OK 0 0", ends=False))
    rows = [stats.summarize(f"acks=1, {name}", values, unit="us") for name, values in series.items()]
    rows.append(stats.summarize("acks=1 p99: slowed / undisturbed", [rows[1].p99 / rows[0].p99], unit="ratio"))
    return rows, {f"acks=1, {name}": values for name, values in series.items()}


@contextmanager
def _victim(folder: Path) -> Iterator[Victim]:
    victim = Victim(folder / "slow", memory=256 * MIB, journal_size=64 * MIB)
    victim.start()
    try:
        yield victim
    finally:
        victim.stop()


def recovery(folder: Path) -> Table:
    """From the start of a process after a kill to its first answer, on a log of FILLED bytes."""
    rows: list[stats.Summary] = []
    values: dict[str, list[float]] = {"with its region": [], "its region lost": []}
    victim = Victim(folder / "recovery", memory=256 * MIB, journal_size=64 * MIB)
    try:
        victim.start()
        work = _work(("127.0.0.1", victim.port), "filled", MIB, 5, 1, retained=-1)
        with ExitStack() as held:
            generator = _generator(held, ("127.0.0.1", victim.port), work)
            while victim_size(victim) < FILLED:
                generator.run(ROUND_S)
        size = victim_size(victim)
        fetch = requests.fetch("filled", offset=0, size_max=MIB)
        for _ in range(ROUNDS):
            for name, of in values.items():
                victim.strike(KILL)
                victim.end(cleanly=False)
                if name != "with its region":
                    victim.harm_region(REMOVED)
                began = time.perf_counter()
                victim.start()
                with socket.create_connection(("127.0.0.1", victim.port)) as connection:
                    requests.ask(connection, fetch)
                of.append(time.perf_counter() - began)
    finally:
        victim.stop()
    for name, of in values.items():
        rows.append(stats.summarize(f"start to the first record, {size / 2**30:.1f} GiB, {name}", of, unit="ms"))
        rows.append(stats.summarize(f"  for each GiB, {name}", [value / (size / 2**30) for value in of], unit="ms"))
    return rows, {f"recovery {name}": of for name, of in values.items()}


def victim_size(victim: Victim) -> int:
    """Bytes of its journal."""
    return sum(path.stat().st_blocks * 512 for path in victim.directory.glob("journal-*"))


def _tables(folder: Path, kafka: Address | None) -> Iterator[tuple[str, Table]]:
    yield "disk", throughput(folder, kafka)
    yield "latency", end_to_end(folder)
    yield "slow-disk", slow_disk(folder)
    yield "recovery", recovery(folder)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kafka", metavar="HOST:PORT", default="", help="an Apache Kafka to measure beside")
    arguments = parser.parse_args()
    host, _, port = arguments.kafka.rpartition(":")
    if not arguments.kafka:
        print("Apache Kafka is skipped: no address was given (KAFKA=HOST:PORT)")
    kafka = (host, int(port)) if arguments.kafka else None
    with tempfile.TemporaryDirectory(prefix="totalog-bench-") as name:
        folder = Path(name)
        for title, (rows, series) in _tables(folder, kafka):
            report.show(title, rows, series, unit="us")
    report.tell_where()


if __name__ == "__main__":
    main()
