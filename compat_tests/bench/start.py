"""From nothing to the first acknowledged record: time, memory, and what an idle gateway costs.

Peers in the same run: a bare Python process (the floor of every start) for the times, none for the memory.
"""

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from confluent_kafka import KafkaException, Producer
from kafka import KafkaProducer

from totalog.gateway.bench import stats
from totalog.gateway.testing import RunningBroker, broker

STARTS = 7
"""Medians of at least five."""

TICKS_PER_S = os.sysconf("SC_CLK_TCK")


def run(idle_s: float) -> tuple[list[stats.Summary], dict[str, list[float]]]:
    """All rows, and the series behind those that are worth a plot."""
    bare: list[float] = []
    ready: list[float] = []
    first: dict[str, list[float]] = {name: [] for name in FIRST_RECORD}
    resident: list[float] = []
    shared: list[float] = []
    for _ in range(STARTS):
        bare.append(_bare_python())
        for name, first_record in FIRST_RECORD.items():
            with _timed_broker() as (kafka, began, ready_at):
                first[name].append(first_record(kafka.address) - began)
                ready.append(ready_at - began)
                memory = memory_mib(kafka.pid)
                resident.append(memory["VmRSS"])
                shared.append(memory["RssShmem"])
    rows = [
        stats.summarize("bare Python: start to exit", bare, unit="ms"),
        stats.summarize("start to ready", ready, unit="ms"),
        *(stats.summarize(f"start to first acknowledged record, {name}", first[name], unit="ms") for name in first),
        stats.summarize("memory after it (RSS)", resident, unit="MiB"),
        stats.summarize("  of it shared memory of the log", shared, unit="MiB"),
        stats.summarize(f"one core, {idle_s:.0f} s idle", [_idle_percent(idle_s)], unit="%"),
    ]
    return rows, {
        "bare Python": bare,
        "ready": ready,
        **{f"first record, {name}": times for name, times in first.items()},
    }


def _bare_python() -> float:
    began = time.perf_counter()
    subprocess.run([sys.executable, "-c", "pass"], check=True)
    return time.perf_counter() - began


@contextmanager
def _timed_broker() -> Iterator[tuple[RunningBroker, float, float]]:
    """A broker, when its start began, and when it was ready."""
    began = time.perf_counter()
    with broker() as kafka:
        yield kafka, began, time.perf_counter()


def _librdkafka(address: str) -> float:
    """A stock producer with default settings (acks=all), from its construction; when the record was acknowledged."""
    producer, answers = Producer({"bootstrap.servers": address}), list[float]()

    def answered(error: object, _: object) -> None:
        if error is not None:
            raise KafkaException(error)
        answers.append(time.perf_counter())

    producer.produce("first", b"record", on_delivery=answered)
    producer.flush(30)
    return answers[0]


def _kafka_python(address: str) -> float:
    """The same, and idempotent by default. Between the answer to the metadata that it begins with and its request for
    those of its first topic it waits 100 ms (`ClusterMetadata.ttl`), whatever was answered, and whatever its settings:
    `retry_backoff_ms` of a producer does not reach the metadata."""
    producer = KafkaProducer(bootstrap_servers=address)
    producer.send("first", b"record").get(timeout=30)
    acknowledged = time.perf_counter()
    producer.close()
    return acknowledged


FIRST_RECORD = {"librdkafka": _librdkafka, "kafka-python": _kafka_python}


def memory_mib(pid: int) -> dict[str, float]:
    lines = (line.split() for line in Path(f"/proc/{pid}/status").read_text().splitlines())
    return {words[0].rstrip(":"): int(words[1]) / 1024 for words in lines if words[-1] == "kB"}


def _cpu_s(pid: int) -> float:
    words = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(words[11]) + int(words[12])) / TICKS_PER_S


def _idle_percent(seconds: float) -> float:
    """Processor time of an idle broker that has served a record, as a share of one core."""
    with broker() as kafka:
        _kafka_python(kafka.address)
        time.sleep(1.0)  # what start-up left to do in the background
        before = _cpu_s(kafka.pid)
        time.sleep(seconds)
        return (_cpu_s(kafka.pid) - before) / seconds * 100
