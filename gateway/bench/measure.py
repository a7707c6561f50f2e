"""`totalog bench`: how fast a broker takes records, from this machine, through any address that speaks Kafka.

The load is pre-encoded, so that what is measured is the broker and the way to it, not a client. It goes to one broker:
the leader of partition 0 of a topic that is made for it and deleted afterwards. What a broker is asked besides, and
what its processor does, comes from further runs of the same load, and is not in the rates.
"""

import os
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from totalog.gateway.bench import contention, flame, local, profile, requests, stats
from totalog.gateway.bench.load import Generator, LoadFailed, Work
from totalog.gateway.wire.errors import ErrorCode

KIB, MIB = 1 << 10, 1 << 20
SIZES: Final = tuple(64 * KIB << step for step in range(7))
"""Bytes of a batch that are tried when the best is looked for: 64 KiB to 4 MiB."""
TRIALS: Final = 5
TRIAL_S: Final = 0.3
ROUND_TRIPS: Final = 1000
RETAINED: Final = 256 * MIB
CONNECT_S_MAX: Final = 10.0
LEADER_S_MAX: Final = 20.0
"""Until all partitions of a new topic take records."""
PAUSE_S_MIN: Final = 0.01
PAUSE_S_MAX: Final = 0.5
"""Between two questions whether they do."""
BATCH_OVERHEAD: Final = 1 * KIB
"""Bytes that max.message.bytes leaves beside the largest batch."""

TOP_FUNCTIONS: Final = 10

Address = tuple[str, int]
Tell = Callable[[str], None]


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
    contention: bool = False
    profile: bool = False
    flame_graph: Path = Path("flame-graph.svg")
    pid: int | None = None
    """The broker's process. None: whoever listens at the address, if that is this machine's."""


@dataclass(frozen=True, slots=True)
class Report:
    rows: list[stats.Summary]
    rates: dict[str, list[float]]
    """MB/s behind the rows that have that unit, for a plot."""
    batch_size: int
    remarks: list[str] = field(default_factory=list)
    """Lines for people: what could not be told, and what no row of numbers holds."""


@dataclass(frozen=True, slots=True)
class Leader:
    node_id: int
    address: Address


class CannotMeasure(Exception):
    """Why not, in one line."""


def measure(plan: Plan, tell: Tell = lambda line: None) -> Report:
    """Raises CannotMeasure."""
    try:
        with _topic(plan) as (leader, topic):
            return _measure(plan, leader, topic, tell)
    except (OSError, LoadFailed) as fault:
        raise CannotMeasure(f"{plan.address[0]}:{plan.address[1]}: {fault}") from None


def _measure(plan: Plan, leader: Leader, topic: str, tell: Tell) -> Report:
    rows: list[stats.Summary] = []
    rates: dict[str, list[float]] = {}
    size = plan.batch_size
    if size is None:
        rates = _curve(plan, leader, topic)
        rows = [stats.summarize(name, of, unit="MB/s") for name, of in rates.items()]
        for row in rows:
            tell(f"{row.name}: {row.median:.0f} MB/s")
        size = SIZES[max(range(len(SIZES)), key=lambda index: rows[index].median)]
    count = _record_count(size, plan.record_size)
    remarks: list[str] = []
    with _generator(plan, leader.address, topic, size) as generator:
        generator.run(plan.seconds)
        done = [generator.run(plan.seconds) for _ in range(plan.iterations)]
        beside = _contention(plan, leader, generator, remarks) if plan.contention else []
        beside += _profile(plan, leader, generator, count, remarks) if plan.profile else []
    series = {
        "MB/s of values": [each.answers * count * plan.record_size / each.seconds / 1e6 for each in done],
        "records/s": [each.answers * count / each.seconds for each in done],
    }
    rows += [
        stats.summarize(f"{name}, batches of {size // KIB} KiB", of, unit=name.split()[0])
        for name, of in series.items()
    ]
    trips = _round_trips(plan, leader.address, topic)
    rows.append(stats.summarize("one record, sent and acknowledged", trips, unit="us"))
    rates["MB/s of values"] = series["MB/s of values"]
    return Report(rows + beside, rates, size, remarks)


def _contention(plan: Plan, leader: Leader, generator: Generator, remarks: list[str]) -> list[stats.Summary]:
    with _connected(leader.address) as connection:
        before = contention.counters(connection, leader.node_id)
        if before is None:
            remarks.append(f"no counters of contention: this broker does not know {contention.COUNTERS}")
            return []
        for _ in range(plan.iterations):
            generator.run(plan.seconds)
        after = contention.counters(connection, leader.node_id)
        assert after is not None
        return list(contention.rows(before, after))


def _profile(plan: Plan, leader: Leader, generator: Generator, count: int, remarks: list[str]) -> list[stats.Summary]:
    """`count`: records of a request."""
    pid = plan.pid or local.process_of(*leader.address)
    if pid is None:
        remarks.append("no profile: no process of this machine that one may look into serves there (--pid names one)")
        return []
    remarks += profile.missing()
    rows: list[stats.Summary] = []
    stacks: dict[str, flame.Stacks] = {}

    def work() -> int:
        """Records that were sent."""
        return count * sum(generator.run(plan.seconds).answers for _ in range(plan.iterations))

    def look(tool: str) -> None:
        if tool == "py-spy":
            stacks[tool] = profile.sample_python(pid, work)
            return
        rows.extend(_counted(*profile.count(pid, work), remarks))
        stacks[tool] = profile.sample(pid, work)

    for tool in profile.installed():
        try:
            look(tool)
        except profile.CannotProfile as fault:
            remarks.append(str(fault))
    remarks += _shown(plan, pid, stacks)
    return rows


def _counted(counts: profile.Counts, records: int, remarks: list[str]) -> Iterator[stats.Summary]:
    uncounted = [event for event, value in counts.items() if value is None]
    if uncounted:
        remarks.append(f"this machine does not count {', '.join(uncounted)} (a virtual one often has no counters)")
    for event, value in counts.items():
        if value is not None and event == "task-clock":
            yield stats.summarize("processor time, each record", [value / 1e3], unit="ns", per=records)
        elif value is not None:
            yield stats.summarize(f"{event}, each record", [value], unit="count", per=records)


def _shown(plan: Plan, pid: int, stacks: dict[str, flame.Stacks]) -> Iterator[str]:
    for tool, seen in stacks.items():
        yield f"most often on the processor, as {tool} saw it:"
        yield from (f"  {share:6.1%}  {name}" for name, share in flame.top(seen, TOP_FUNCTIONS))
    if not stacks:
        return
    tool = "py-spy" if "py-spy" in stacks else "perf"
    try:
        flame.write(plan.flame_graph, stacks[tool], f"process {pid} under load, {tool}")
        yield f"flame graph ({tool}): {plan.flame_graph}"
    except OSError as fault:
        yield f"no flame graph: {fault}"


def _curve(plan: Plan, leader: Leader, topic: str) -> dict[str, list[float]]:
    """MB/s at each size. They take turns, so that a slow moment of the machine is not one size's alone."""
    values: dict[int, list[float]] = {size: [] for size in SIZES}
    for _ in range(TRIALS):
        for size, rates in values.items():
            with _generator(plan, leader.address, topic, size) as generator:
                done = generator.run(min(TRIAL_S, plan.seconds))
                rates.append(done.answers * len(generator.work.frames[0]) / done.seconds / 1e6)
    return {f"batches of {size // KIB} KiB": rates for size, rates in values.items()}


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
def _topic(plan: Plan) -> Iterator[tuple[Leader, str]]:
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


def _leader(connection: socket.socket, name: str, plan: Plan) -> Leader:
    """Who leads all partitions of a new topic, once it takes records for each of them. That a topic was made, and that
    Metadata names its leaders, does not say that these know of it yet: they refuse records until they do."""
    deadline = time.monotonic() + LEADER_S_MAX
    pause_s = PAUSE_S_MIN
    while True:
        leader = _named_leader(connection, name, plan)
        error = ErrorCode.LEADER_NOT_AVAILABLE if leader is None else _refusal(leader, name, plan)
        if leader is not None and error is ErrorCode.NONE:
            return leader
        if not error.retriable:
            raise CannotMeasure(f"the new topic takes no records: error {error} {error.name}")
        if time.monotonic() + pause_s > deadline:
            raise CannotMeasure(f"the new topic takes no records after {LEADER_S_MAX:.0f} s: {error.name}")
        time.sleep(pause_s)
        pause_s = min(2 * pause_s, PAUSE_S_MAX)


def _named_leader(connection: socket.socket, name: str, plan: Plan) -> Leader | None:
    """Whom Metadata names as leader of all partitions; None while any has none."""
    answer: Any = requests.decoded(
        "MetadataResponse", requests.METADATA_VERSION, requests.ask(connection, requests.metadata(name))
    )
    nodes = {node.node_id: (node.host, node.port) for node in answer.brokers}
    leaders = [part.leader_id for topic in answer.topics for part in topic.partitions]
    if len(leaders) < plan.partitions or not nodes.keys() >= set(leaders):
        return None
    if len(set(leaders)) > 1:
        raise CannotMeasure("the partitions have several leaders: measure with --partitions 1")
    return Leader(leaders[0], nodes[leaders[0]])


def _refusal(leader: Leader, name: str, plan: Plan) -> ErrorCode:
    """Why the leader does not take a record for one of the partitions; NONE: it took one for each."""
    record = requests.batch(0, plan.record_size)
    with _connected(leader.address) as connection:
        for partition in range(plan.partitions):
            frame = requests.produce(name, record, acks=plan.acks, partition=partition)
            error = requests.produce_error(name, requests.ask(connection, frame))
            if error not in ErrorCode._value2member_map_:
                raise CannotMeasure(f"the new topic takes no records: error {error}")
            if error:
                return ErrorCode(error)
    return ErrorCode.NONE
