"""`make bench-scale`: whether a request costs more where there is more of everything, and what each thing takes.

Brokers that hold nothing but one topic, and besides 100 topics, 1,000 topics, 10,000 partitions, 100 or 1,000
connections, are asked in turn, round after round, with small requests:

- Produce and Fetch, one at a time, for one topic, while all the rest idles;
- Produce that goes round all topics and partitions. A connection that changes its topic takes the general way, one that
  repeats itself a shorter one (`gateway/apis/produce_runs.py`); so where there is one topic, it goes round client ids;
- Produce from all connections at once, beside the same from one.

The cost of a request is the processor time of the broker's process, which other load on the machine disturbs least; the
time that a client waited stands beside it. Ratios are those of the medians of one run; flat is what is at most 1.2.
Where one is not, the same is done once more under `perf stat`, for what is printed as its reason: what of a request
grew, the broker's own instructions, the misses of its caches, or the kernel's part.
"""

import socket
import time
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median

from compat_tests.bench import report
from compat_tests.bench.start import TICKS_PER_S, memory_mib
from totalog.gateway.bench import profile, requests, stats
from totalog.gateway.bench.load import Generator, Work
from totalog.gateway.testing import RunningBroker, broker

ROUNDS = 15
ROUND_S = 0.2
ROUND_ALL_S = 1.0
"""Where all connections ask at once: then each of a thousand does several times, and not only once, after other
brokers had the caches."""
FLAT_MAX = 1.2
PROCESS_CLOCK = 2
"""Kind of a clock of the kernel: scheduled time."""
TOPIC = "asked"
READ = "read"
"""Not the topic that is written: what is fetched would be cut off by retention, and the answer an error."""
KINDS = 16
KEPT = {"retention.bytes": "1048576"}
ONE, FETCH = "produce 100 B", "fetch 100 B"
ROUND, ALL = "produce 100 B, round all", "produce 100 B, from all connections"
COUNTED_S = 2.0
"""In which a cost that is not flat is looked at more closely."""


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
    Scale("100 connections", connections=100),
    Scale("1,000 connections", connections=1000),
)


@dataclass(slots=True)
class Subject:
    scale: Scale
    broker: RunningBroker
    grown_mib: float
    """What the broker's memory grew by while it was given what it holds."""
    asked: dict[str, Generator]
    processor: dict[str, list[float]] = field(default_factory=dict)
    """Seconds of each request, one figure a round."""
    waited: dict[str, list[float]] = field(default_factory=dict)


def run() -> tuple[list[stats.Summary], dict[str, list[float]], list[str]]:
    """All rows, the series behind them, and a line for each cost that is not flat."""
    with ExitStack() as held:
        subjects = [_prepare(held, scale) for scale in SCALES]
        for _ in range(ROUNDS):
            for subject in subjects:
                for what, generator in subject.asked.items():
                    before = processor_s(subject.broker.pid)
                    done = generator.run(ROUND_ALL_S if what == ALL else ROUND_S)
                    used = processor_s(subject.broker.pid) - before
                    subject.processor.setdefault(what, []).append(used / done.answers)
                    subject.waited.setdefault(what, []).append(done.seconds / done.answers)
        steep = [line for subject in subjects[1:] for line in _steep(subjects[0], subject)]
    rows = list(_rows(subjects))
    series = {f"{what}: {each.scale.name}": values for each in subjects for what, values in each.processor.items()}
    return rows, series, steep


def _steep(base: Subject, subject: Subject) -> Iterator[str]:
    """Of each cost that is not flat a line, and what of a request grew."""
    for what in subject.asked:
        ratio = median(subject.processor[what]) / median(base.processor[what])
        if ratio <= FLAT_MAX:
            continue
        yield f"not flat: {what}: {subject.scale.name} / {base.scale.name}: {ratio:.2f}. Of one request:"
        before, now = (_counted(each, what) for each in (base, subject))
        for name in sorted(before.keys() & now.keys()):
            yield f"    {name}: {before[name]:,.2f} -> {now[name]:,.2f}"


def _counted(subject: Subject, what: str) -> dict[str, float]:
    """What the broker, and the kernel for it, spend on one request: as far as this machine counts that."""
    pid, generator = subject.broker.pid, subject.asked[what]
    before = _user_and_kernel_s(pid)
    try:
        counts, answers = profile.count(pid, lambda: generator.run(COUNTED_S).answers)
    except profile.CannotProfile:
        counts, answers = {}, generator.run(COUNTED_S).answers
    spent = [(now - then) / answers * 1e6 for then, now in zip(before, _user_and_kernel_s(pid), strict=True)]
    counted = {name: value / answers for name, value in counts.items() if value is not None and name != "task-clock"}
    return {"us of its own": spent[0], "us of the kernel": spent[1], **counted}


def _user_and_kernel_s(pid: int) -> tuple[float, float]:
    """Seconds of processor time that a process, and the kernel for it, have used."""
    words = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return int(words[11]) / TICKS_PER_S, int(words[12]) / TICKS_PER_S


def _rows(subjects: list[Subject]) -> Iterator[stats.Summary]:
    for what in (ONE, FETCH, ROUND, ALL):
        bases: dict[str, stats.Summary] = {}
        for subject in subjects:
            for kind, values in (("processor", subject.processor), ("waited", subject.waited)):
                if what not in values:
                    continue
                name = subject.scale.name
                row = stats.summarize(f"{what}, {kind}: {name}", values[what], unit="us")
                yield row
                base = bases.setdefault(kind, row)
                if base is not row:
                    yield stats.summarize(
                        f"{what}, {kind}: {name} / {subjects[0].scale.name} (medians)",
                        [row.median / base.median],
                        unit="ratio",
                    )
    for subject in subjects[1:]:
        yield _memory(subject)


def _prepare(held: ExitStack, scale: Scale) -> Subject:
    running = held.enter_context(broker(memory="512m"))
    address = running.host, running.port
    records = requests.batch(0, 100)
    with socket.create_connection(address) as connection:
        produce = [requests.produce(TOPIC, records, acks=1, client_id=f"client-{kind}") for kind in range(KINDS)]
        requests.ask(connection, requests.create_topic(TOPIC, configs=KEPT))
        requests.ask(connection, produce[0])
        requests.ask(connection, requests.create_topic(READ))
        requests.ask(connection, requests.produce(READ, records, acks=1))
        before = memory_mib(running.pid)["VmRSS"]
        names = [f"other-{number}" for number in range(scale.topics)]
        for name in names:
            requests.ask(connection, requests.create_topic(name, scale.partitions, KEPT))
        # Topic after topic: what comes next on a connection is never of the same kind.
        others = [
            requests.produce(name, records, acks=1, partition=at) for at in range(scale.partitions) for name in names
        ]
        for request in others:
            requests.ask(connection, request)
        connections = Generator(*address, Work(produce[:1], connections=max(scale.connections, 1), topic=TOPIC))
        connections.run(0)
        grown = memory_mib(running.pid)["VmRSS"] - before
    works = {
        ONE: Work(produce[:1], topic=TOPIC),
        FETCH: Work([requests.fetch(READ, offset=0, size_max=100)]),
        ROUND: Work(others or produce),
    }
    asked = {what: Generator(*address, work) for what, work in works.items()}
    if scale.connections or not scale.topics:
        asked[ALL] = connections
    for generator in {connections, *asked.values()}:
        held.callback(generator.close)
        generator.run(ROUND_S)
    return Subject(scale, running, grown, asked)


def processor_s(pid: int) -> float:
    """Seconds of processor time that a process has used, those of ended threads included: clock_getcpuclockid(3), whose
    number Python makes for its own process only."""
    return time.clock_gettime(~pid << 3 | PROCESS_CLOCK)


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
    rows, series, steep = run()
    report.show("scale", rows, series, unit="us")
    for line in steep or [f"flat: all ratios of processor time are at most {FLAT_MAX}"]:
        print(line)
    report.tell_where()


if __name__ == "__main__":
    main()
