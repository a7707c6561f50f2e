"""`totalog bench`: how fast a broker takes records, from this machine, through any address that speaks Kafka.

The load is pre-encoded, so that what is measured is the broker and the way to it, not a client. It goes to one broker:
the leader of partition 0 of a topic that is made for it and deleted afterwards.
"""

import os
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Final

from totalog.gateway.bench import requests, stats
from totalog.gateway.bench.load import Generator, LoadFailed, Work

KIB, MIB = 1 << 10, 1 << 20
SIZES: Final = tuple(64 * KIB << step for step in range(7))
"""Bytes of a batch that are tried when the best is looked for: 64 KiB to 4 MiB."""
TRIALS: Final = 3
TRIAL_S: Final = 0.3
ROUND_TRIPS: Final = 1000
RETAINED: Final = 256 * MIB
CONNECT_S_MAX: Final = 10.0
LEADER_S_MAX: Final = 20.0
BATCH_OVERHEAD: Final = 1 * KIB
"""Bytes that max.message.bytes leaves beside the largest batch."""

Address = tuple[str, int]


@dataclass(frozen=True, slots=True)
class Plan:
    address: Address
    batch_size: int | None
    """Bytes; None: the best is looked for."""
    record_size: int
    """Bytes of each value."""
    acks: int
    connections: int
    in_flight: int
    """Requests that wait for their answers on each connection."""
    partitions: int
    iterations: int
    seconds: float
    """Of one iteration."""


@dataclass(frozen=True, slots=True)
class Report:
    rows: list[stats.Summary]
    series: dict[str, list[float]]
    batch_size: int


class CannotMeasure(Exception):
    """Why not, in one line."""


def measure(plan: Plan, tell: Callable[[str], None] = lambda line: None) -> Report:
    """Raises CannotMeasure."""
    try:
        with _topic(plan) as (leader, topic):
            return _measure(plan, leader, topic, tell)
    except (OSError, LoadFailed) as fault:
        raise CannotMeasure(f"{plan.address[0]}:{plan.address[1]}: {fault}") from None


def _measure(plan: Plan, leader: Address, topic: str, tell: Callable[[str], None]) -> Report:
    rows: list[stats.Summary] = []
    size = plan.batch_size
    if size is None:
        for tried in SIZES:
            with _generator(plan, leader, topic, tried) as generator:
                rows.append(_throughput(f"batches of {tried // KIB} KiB", generator, plan, TRIALS, TRIAL_S))
            tell(f"{rows[-1].name}: {rows[-1].median:.0f} MB/s")
        size = SIZES[max(range(len(SIZES)), key=lambda index: rows[index].median)]
    with _generator(plan, leader, topic, size) as generator:
        generator.run(plan.seconds)
        done = [generator.run(plan.seconds) for _ in range(plan.iterations)]
    count = _record_count(size, plan.record_size)
    series = {
        "MB/s of values": [each.answers * count * plan.record_size / each.seconds / 1e6 for each in done],
        "records/s": [each.answers * count / each.seconds for each in done],
    }
    rows += [
        stats.summarize(f"{name}, batches of {size // KIB} KiB", of, unit=name.split()[0])
        for name, of in series.items()
    ]
    rows.append(stats.summarize("one record, sent and acknowledged", _round_trips(plan, leader, topic), unit="us"))
    return Report(rows, series, size)


def _throughput(name: str, generator: Generator, plan: Plan, trials: int, seconds: float) -> stats.Summary:
    size = len(generator.work.frames[0])
    values = []
    for _ in range(trials):
        done = generator.run(seconds)
        values.append(done.answers * size / done.seconds / 1e6)
    return stats.summarize(name, values, unit="MB/s")


def _record_count(size: int, record_size: int) -> int:
    return int.from_bytes(requests.batch(size, record_size)[57:61], "big")


@contextmanager
def _generator(plan: Plan, leader: Address, topic: str, size: int) -> Iterator[Generator]:
    records = requests.batch(size, plan.record_size)
    frames = [requests.produce(topic, records, acks=plan.acks, partition=at) for at in range(plan.partitions)]
    generator = Generator(*leader, Work(frames, plan.in_flight, plan.connections, topic))
    try:
        yield generator
    finally:
        generator.close()


def _round_trips(plan: Plan, leader: Address, topic: str) -> list[float]:
    frame = requests.produce(topic, requests.batch(0, plan.record_size), acks=plan.acks)
    with _connected(leader) as connection:
        return stats.measure(lambda: requests.ask(connection, frame), iterations=ROUND_TRIPS)


def _connected(address: Address) -> socket.socket:
    connection = socket.create_connection(address, CONNECT_S_MAX)
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return connection


@contextmanager
def _topic(plan: Plan) -> Iterator[tuple[Address, str]]:
    """The leader of partition 0 of a new topic, and its name."""
    name = f"totalog-bench-{os.urandom(6).hex()}"
    largest = plan.batch_size or SIZES[-1]
    configs = {"retention.bytes": str(RETAINED), "max.message.bytes": str(largest + BATCH_OVERHEAD)}
    with _connected(plan.address) as connection:
        answer = requests.ask(connection, requests.create_topic(name, plan.partitions, configs))
        (created,) = requests.decoded("CreateTopicsResponse", requests.CREATE_TOPICS_VERSION, answer).topics
        if created.error_code:
            raise CannotMeasure(f"the topic was refused: error {created.error_code} {created.error_message or ''}")
        try:
            yield _leader(connection, name, plan), name
        finally:
            requests.ask(connection, requests.delete_topic(name))


def _leader(connection: socket.socket, name: str, plan: Plan) -> Address:
    deadline = time.monotonic() + LEADER_S_MAX
    while True:
        answer: Any = requests.decoded(
            "MetadataResponse", requests.METADATA_VERSION, requests.ask(connection, requests.metadata(name))
        )
        nodes = {node.node_id: (node.host, node.port) for node in answer.brokers}
        leaders = [part.leader_id for topic in answer.topics for part in topic.partitions]
        if len(leaders) == plan.partitions and min(leaders) >= 0:
            if len(set(leaders)) > 1:
                raise CannotMeasure("the partitions have several leaders: measure with --partitions 1")
            return nodes[leaders[0]]
        if time.monotonic() > deadline:
            raise CannotMeasure(f"the new topic has no leader after {LEADER_S_MAX:.0f} s")
