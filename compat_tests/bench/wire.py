"""`make bench-wire`: what a request costs between socket and memory, beside the machine's limit and Apache Kafka.

Each load runs on a bare trio server (`bare.py`), on the gateway, and, where its address is given, on an Apache Kafka,
in turn, round after round. Figures are MB/s of requests (of answers, for fetches) or requests per second; ratios are
those of the medians of one run.

    make bench-wire                            # bare and gateway
    make bench-wire KAFKA=localhost:19092      # and that broker, which should have been running for a while
"""

import argparse
import os
import socket
import struct
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace

from compat_tests.bench import bare, report
from totalog.gateway.bench import requests, stats
from totalog.gateway.bench.load import Generator, Work
from totalog.gateway.testing import broker

ROUNDS = 7
ROUND_S = 0.7
WARM_UP_S = 0.7
KIB, MIB = 1 << 10, 1 << 20
RETAINED = 64 * MIB
FILLED_COUNT = 32
"""Batches of 1 MiB in a topic that is fetched from."""
LAST_OFFSET_DELTA_AT = 23

Address = tuple[str, int]


@dataclass(frozen=True, slots=True)
class Load:
    name: str
    kind: str
    """produce, fetch, or view."""
    size: int
    """Bytes of a batch; of a fetch's answer at most."""
    depth: int
    connections: int = 1
    acks: int = 1
    fresh: bool = False

    @property
    def in_requests(self) -> bool:
        """Whether it is told in requests per second."""
        return self.size < 4 * KIB


LOADS = (
    Load("produce 1 MiB, 5 in flight", "produce", MIB, 5),
    Load("produce 1 MiB, 5 in flight, acks=all", "produce", MIB, 5, acks=-1),
    Load("produce 1 MiB, 5 in flight, 8 connections", "produce", MIB, 5, connections=8),
    Load("produce 1 MiB, 5 in flight, fresh memory", "produce", MIB, 5, fresh=True),
    Load("produce 16 KiB, 20 in flight", "produce", 16 * KIB, 20),
    Load("produce 16 KiB, 20 in flight, acks=all", "produce", 16 * KIB, 20, acks=-1),
    Load("produce 100 B, one at a time", "produce", 100, 1),
    Load("produce 100 B, 50 in flight", "produce", 100, 50),
    Load("produce 100 B, 50 in flight, 8 connections", "produce", 100, 50, connections=8),
    Load("fetch 1 MiB", "fetch", MIB, 1),
    Load("fetch 8 MiB", "fetch", 8 * MIB, 1),
    Load("fetch 1 MiB, 8 connections", "fetch", MIB, 1, connections=8),
    Load("fetch 1 MiB, total order", "view", MIB, 1),
)


@dataclass(slots=True)
class Target:
    """One server, with connections that are ready for one load."""

    name: str
    generator: Generator
    values: list[float]

    def measure(self, load: Load, seconds: float) -> float:
        done = self.generator.run(seconds)
        if load.in_requests:
            return done.answers / done.seconds
        size = len(self.generator.work.frames[0]) * done.answers if load.kind == "produce" else done.received
        return size / done.seconds / 1e6


def run(kafka: Address | None, wanted: str) -> tuple[list[stats.Summary], dict[str, list[float]]]:
    """All rows, load after load."""
    rows: list[stats.Summary] = []
    series: dict[str, list[float]] = {}
    for number, load in enumerate(load for load in LOADS if wanted in load.name):
        with ExitStack() as held:
            targets = list(_targets(held, load, f"wire-{os.getpid()}-{number}", kafka))
            for target in targets:
                target.measure(load, WARM_UP_S)
            for _ in range(ROUNDS):
                for target in targets:
                    target.values.append(target.measure(load, ROUND_S))
        rows += _rows(load, targets)
        series |= {f"{load.name}: {target.name}": target.values for target in targets}
        print(stats.table(rows[-2 * len(targets) + 1 :]), flush=True)
    return rows, series


def _rows(load: Load, targets: Sequence[Target]) -> Iterator[stats.Summary]:
    unit = "requests/s" if load.in_requests else "MB/s"
    summaries = {
        target.name: stats.summarize(f"{load.name}: {target.name}", target.values, unit=unit) for target in targets
    }
    yield from summaries.values()
    ours = summaries["gateway"].median
    for name, summary in summaries.items():
        if name != "gateway":
            yield stats.summarize(f"{load.name}: gateway / {name} (medians)", [ours / summary.median], unit="ratio")


def _targets(held: ExitStack, load: Load, topic: str, kafka: Address | None) -> Iterator[Target]:
    gateway = held.enter_context(broker(memory="6g" if load.fresh else "1g"))
    address = gateway.host, gateway.port
    work, answer = _prepare(address, load, topic)
    spoken = _bare_load(load, work, answer)
    asked = Work(work.frames, work.depth, work.connections)
    yield _target(held, "bare", held.enter_context(_bare(spoken)), asked)
    if load.kind == "fetch" and load.connections > 1:
        by_reference = replace(spoken, by_reference=True)
        yield _target(held, "bare by reference", held.enter_context(_bare(by_reference)), asked)
    yield _target(held, "gateway", address, work)
    if load.kind == "view":
        yield _target(held, "its partition", address, Work(_fetches(topic, load), work.depth, work.connections))
    if kafka is not None and load.kind != "view":
        yield _target(held, "Apache Kafka", kafka, _prepare(kafka, load, topic)[0])


def _target(held: ExitStack, name: str, address: Address, work: Work) -> Target:
    generator = Generator(*address, work)
    held.callback(generator.close)
    return Target(name, generator, [])


def _prepare(address: Address, load: Load, topic: str) -> tuple[Work, bytes]:
    """What is asked of a broker that has what the load needs, and how it answers."""
    kept = {} if load.fresh else {"retention.bytes": str(RETAINED)}
    with socket.create_connection(address) as connection:
        requests.ask(connection, requests.create_topic(topic, configs=kept))
        if load.kind == "produce":
            records = requests.batch(load.size, min(load.size, KIB))
            frames = [requests.produce(topic, records, acks=load.acks)]
        else:
            frames = _fill(connection, load, topic)
        answer = requests.ask(connection, frames[0])
        if load.kind != "produce" and len(answer) < len(requests.batch(MIB, KIB)):
            raise RuntimeError(f"{topic} has {FILLED_COUNT} MiB, and a Fetch of {load.size} bytes got {len(answer)}")
    named = topic if load.kind == "produce" else None
    return Work(frames, load.depth, load.connections, named), answer


def _fill(connection: socket.socket, load: Load, topic: str) -> list[bytes]:
    """Puts batches of 1 MiB into the topic; the fetches that read all of them, one behind the other."""
    records = requests.batch(MIB, KIB)
    for _ in range(FILLED_COUNT):
        error = requests.produce_error(topic, requests.ask(connection, requests.produce(topic, records, acks=1)))
        if error:
            raise RuntimeError(f"a Produce request was answered with error {error}")
    return _fetches(f"{topic}.total-order" if load.kind == "view" else topic, load)


def _fetches(name: str, load: Load) -> list[bytes]:
    """The fetches that read all of it, one behind the other."""
    count = _count_of(requests.batch(MIB, KIB))
    step = count * (load.size // MIB)
    return [requests.fetch(name, offset=offset, size_max=load.size) for offset in range(0, count * FILLED_COUNT, step)]


def _count_of(batch: bytes) -> int:
    return int(struct.unpack_from(">i", batch, LAST_OFFSET_DELTA_AT)[0]) + 1


def _bare_load(load: Load, work: Work, answer: bytes) -> bare.Load:
    """The same load for a server that knows it by heart."""
    frame = work.frames[0]
    if load.kind == "produce":
        batch_at = len(frame) - len(requests.batch(load.size, min(load.size, KIB)))
        return bare.Load(answer.hex(), len(frame), batch_at, fresh=load.fresh)
    batch_size = len(requests.batch(MIB, KIB))
    records_size = len(answer) // batch_size * batch_size
    head = answer[: len(answer) - records_size]
    return bare.Load(head.hex(), len(frame), 0, records_size, records_size * len(work.frames))


@contextmanager
def _bare(load: bare.Load) -> Iterator[Address]:
    command = [sys.executable, "-m", "compat_tests.bench.bare", load.to_json()]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        try:
            yield "127.0.0.1", int(process.stdout.readline())
        finally:
            process.kill()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kafka", metavar="HOST:PORT", default="", help="an Apache Kafka to measure beside")
    parser.add_argument("--only", default="", help="loads whose names contain this")
    arguments = parser.parse_args()
    host, _, port = arguments.kafka.rpartition(":")
    if not arguments.kafka:
        print("Apache Kafka is skipped: no address was given (KAFKA=HOST:PORT)")
    rows, series = run((host, int(port)) if arguments.kafka else None, arguments.only)
    report.keep("wire", rows, series, unit="MB/s, requests/s")
    print(f"\n{stats.table([row for row in rows if row.unit == 'ratio'])}")
    report.tell_where()


if __name__ == "__main__":
    main()
