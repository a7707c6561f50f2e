"""`totalog bench`: how fast a broker takes records, from this machine, through any address that speaks Kafka.

The load is pre-encoded, so that what is measured is the broker and the way to it, not a client. It goes to one broker:
the leader of a topic that is made for it and deleted afterwards. What a broker is asked besides, and
what its processor does, comes from further runs of the same load, and is not in the rates.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from totalog.gateway.bench import contention, flame, local, profile, requests, stats
from totalog.gateway.bench.load import Generator, LoadFailed, Work
from totalog.gateway.bench.topic import Address, CannotMeasure, Leader, Tell, Wanted, connected, topic
from totalog.gateway.memory import size_text

SIZES: Final = tuple((64 << 10) << step for step in range(7))
"""Bytes of a batch that are tried when the best is looked for: 64 KiB to 4 MiB."""
TRIALS: Final = 5
TRIAL_S: Final = 0.3
ROUND_TRIPS: Final = 1000
ROUND_TRIPS_S_MAX: Final = 10.0
"""After so long there are as many as there are."""
IN_FLIGHT_SIZE_MAX: Final = 2 << 30
"""Bytes, on all connections: the load generator holds them."""
BATCH_OVERHEAD: Final = 1 << 10
"""Bytes that max.message.bytes leaves beside the largest batch."""
RECORD_COUNT_AT: Final = 57
"""In a record batch: four bytes."""
TOP_FUNCTIONS: Final = 10


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
    curve: dict[int, list[float]]
    """MB/s of each batch size that was tried, in bytes; nothing where one was given."""
    batch_size: int
    remarks: list[str] = field(default_factory=list)
    """Lines for people: what could not be told, and what no row of numbers holds."""


def measure(plan: Plan, tell: Tell = lambda line: None) -> Report:
    """Raises CannotMeasure."""
    one_record = len(requests.batch(0, plan.record_size))
    sizes = _sizes(plan, one_record)
    wanted = Wanted(plan.partitions, max(sizes[-1], one_record) + BATCH_OVERHEAD, plan.record_size, plan.acks)
    try:
        with topic(plan.address, wanted, tell) as (leader, name):
            return _measure(plan, sizes, leader, name, tell)
    except (OSError, LoadFailed) as fault:
        raise CannotMeasure(f"{plan.address[0]}:{plan.address[1]}: {fault}") from None


def _sizes(plan: Plan, one_record: int) -> Sequence[int]:
    """Batch sizes to try, those of which not too much would be in flight. Raises CannotMeasure when there are none."""
    requests_count = plan.connections * plan.in_flight
    asked = SIZES if plan.batch_size is None else (plan.batch_size,)
    sizes = [size for size in asked if requests_count * max(size, one_record) <= IN_FLIGHT_SIZE_MAX]
    if not sizes:
        least = max(asked[0], one_record)
        raise CannotMeasure(
            f"{plan.connections} connections x {plan.in_flight} requests x {size_text(least)} in flight are"
            f" {size_text(requests_count * least)}; no more than {size_text(IN_FLIGHT_SIZE_MAX)} may be"
        )
    return sizes


def _measure(plan: Plan, sizes: Sequence[int], leader: Leader, topic: str, tell: Tell) -> Report:
    rows: list[stats.Summary] = []
    rates: dict[str, list[float]] = {}
    curve: dict[int, list[float]] = {}
    size = sizes[0]
    if plan.batch_size is None:
        curve = _curve(plan, sizes, leader, topic)
        rates = {f"batches of {size_text(tried)}": of for tried, of in curve.items()}
        rows = [stats.summarize(name, of, unit="MB/s") for name, of in rates.items()]
        for row in rows:
            tell(f"{row.name}: {row.median:.0f} MB/s")
        size = sizes[max(range(len(sizes)), key=lambda index: rows[index].median)]
    records = requests.batch(size, plan.record_size)
    count = int.from_bytes(records[RECORD_COUNT_AT : RECORD_COUNT_AT + 4], "big")
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
        stats.summarize(f"{name}, batches of {size_text(max(size, len(records)))}", of, unit=name.split()[0])
        for name, of in series.items()
    ]
    trips = _round_trips(plan, leader.address, topic)
    rows.append(stats.summarize("one record, sent and acknowledged", trips, unit="us"))
    rates["MB/s of values"] = series["MB/s of values"]
    return Report(rows + beside, rates, curve, size, remarks)


def _contention(plan: Plan, leader: Leader, generator: Generator, remarks: list[str]) -> list[stats.Summary]:
    with connected(leader.address) as connection:
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
    if not Path(f"/proc/{pid}").exists():
        remarks.append(f"no profile: there is no process {pid}")
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


def _curve(plan: Plan, sizes: Sequence[int], leader: Leader, topic: str) -> dict[int, list[float]]:
    """MB/s at each size. They take turns, so that a slow moment of the machine is not one size's alone."""
    values: dict[int, list[float]] = {size: [] for size in sizes}
    for _ in range(TRIALS):
        for size, rates in values.items():
            with _generator(plan, leader.address, topic, size) as generator:
                done = generator.run(min(TRIAL_S, plan.seconds))
                rates.append(done.answers * len(generator.work.frames[0]) / done.seconds / 1e6)
    return values


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
    with connected(leader) as connection:
        return stats.measure(
            lambda: requests.ask(connection, frame), iterations=ROUND_TRIPS, seconds_max=ROUND_TRIPS_S_MAX
        )
