"""`make bench-scale`: whether a request costs more where there is more of everything, and what each thing takes.

Brokers that hold nothing but one topic, 100 topics, 1,000 topics, 10,000 partitions, and 1,000 idle connections are
asked the same in turn, round after round: small Produce and Fetch requests, one at a time. Ratios are those of the
medians.
"""

import socket
from contextlib import ExitStack
from dataclasses import dataclass

from compat_tests.bench import report
from compat_tests.bench.start import memory_mib
from totalog.gateway.bench import requests, stats
from totalog.gateway.bench.load import Generator, Work
from totalog.gateway.testing import RunningBroker, broker

ROUNDS = 7
ROUND_S = 0.4
TOPIC = "asked"


@dataclass(frozen=True, slots=True)
class Scale:
    """What a broker holds besides the topic that is asked."""

    name: str
    topics: int = 0
    partitions: int = 1
    """Of each."""
    connections: int = 0


SCALES = (
    Scale("nothing else"),
    Scale("100 topics", topics=100),
    Scale("1,000 topics", topics=1000),
    Scale("10,000 partitions", topics=10, partitions=1000),
    Scale("1,000 connections", connections=1000),
)


@dataclass(slots=True)
class Subject:
    scale: Scale
    broker: RunningBroker
    grown_mib: float
    """What the broker's memory grew by while it was given what it holds."""
    asked: dict[str, Generator]
    values: dict[str, list[float]]


def run() -> tuple[list[stats.Summary], dict[str, list[float]]]:
    with ExitStack() as held:
        subjects = [_prepare(held, scale) for scale in SCALES]
        for _ in range(ROUNDS):
            for subject in subjects:
                for what, generator in subject.asked.items():
                    done = generator.run(ROUND_S)
                    subject.values[what].append(done.seconds / done.answers)
    rows = []
    for what in subjects[0].asked:
        summaries = [
            stats.summarize(f"{what}: {subject.scale.name}", subject.values[what], unit="us") for subject in subjects
        ]
        rows += summaries
        rows += [
            stats.summarize(
                f"{summary.name} / nothing else (medians)", [summary.median / summaries[0].median], unit="ratio"
            )
            for summary in summaries[1:]
        ]
    rows += [_memory(subject) for subject in subjects[1:]]
    series = {f"{what}: {each.scale.name}": values for each in subjects for what, values in each.values.items()}
    return rows, series


def _prepare(held: ExitStack, scale: Scale) -> Subject:
    running = held.enter_context(broker(memory="512m"))
    address = running.host, running.port
    records = requests.batch(0, 100)
    with socket.create_connection(address) as connection:
        requests.ask(connection, requests.create_topic(TOPIC, configs={"retention.bytes": "16777216"}))
        produce = requests.produce(TOPIC, records, acks=1)
        requests.ask(connection, produce)
        before = memory_mib(running.pid)["VmRSS"]
        for number in range(scale.topics):
            name = f"other-{number}"
            requests.ask(connection, requests.create_topic(name, scale.partitions))
            for partition in range(scale.partitions):
                requests.ask(connection, requests.produce(name, records, acks=1, partition=partition))
        fetch = requests.fetch(TOPIC, offset=0, size_max=100)
        for _ in range(scale.connections):
            requests.ask(held.enter_context(socket.create_connection(address)), produce)
    grown = memory_mib(running.pid)["VmRSS"] - before
    works = {"produce 100 B": Work([produce], topic=TOPIC), "fetch 100 B": Work([fetch])}
    asked = {what: Generator(*address, work) for what, work in works.items()}
    for generator in asked.values():
        held.callback(generator.close)
        generator.run(ROUND_S)
    return Subject(scale, running, grown, asked, {what: [] for what in asked})


def _memory(subject: Subject) -> stats.Summary:
    scale = subject.scale
    things, count = (
        ("connection", scale.connections)
        if scale.connections
        else ("topic of one partition, with a record", scale.topics)
        if scale.partitions == 1
        else ("partition, with a record", scale.topics * scale.partitions)
    )
    return stats.summarize(f"memory of one {things} ({scale.name})", [subject.grown_mib * 1024 / count], unit="KiB")


def main() -> None:
    rows, series = run()
    report.show("scale", rows, series, unit="us")
    report.tell_where()


if __name__ == "__main__":
    main()
