"""Which broker the tests talk to, and the clients and topics that they are given.

`pytest compat_tests --broker HOST:PORT` asks any Kafka-compatible broker; without it the gateway command is started
once for all tests. Tests marked `totalog_only` need what only this project's broker has, or start one of their own:
with `--broker` they are deselected, counted and named.
"""

import time
import uuid
from collections.abc import Callable, Generator, Iterator
from contextlib import ExitStack
from typing import TYPE_CHECKING

import pytest

from compat_tests import known_gaps
from compat_tests.clients import CONFLUENT, KINDS, LACKS
from compat_tests.clients.face import Client, ClientError, ClusterInfo, Code
from compat_tests.clients.process import ClientProcess, Clients
from compat_tests.proxy import Proxy
from compat_tests.steps import VIEW_SUFFIX

if TYPE_CHECKING:
    from totalog.gateway.testing import RunningBroker

TOPIC_TIME_MAX_S = 60.0
LOG_LINES_SHOWN = 40
SESSION_MIN_MS = 2_000
"""Of our own broker, so that the tests wait less for members that die."""
DESELECTED = pytest.StashKey[list[str]]()
BROKERS = pytest.StashKey[list["RunningBroker"]]()

Spawn = Callable[[str], ClientProcess]
MakeTopic = Callable[..., str]
StartBroker = Callable[..., "RunningBroker"]


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--broker", metavar="HOST:PORT", help="run compat_tests against this broker instead of our own")


def pytest_configure(config: pytest.Config) -> None:
    config.stash[BROKERS] = []
    config.addinivalue_line("markers", "totalog_only: needs this project's own broker (deselected with --broker)")
    config.addinivalue_line("markers", "case(name): belongs to this row of the table of clients in the README")
    config.addinivalue_line("markers", "needs(ability): skipped with a client that lacks it (clients.LACKS)")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    foreign = config.getoption("broker") is not None
    mine = [item for item in items if item.nodeid.startswith("compat_tests/")]
    for item in mine:
        for words in lacks_of(item).values():
            item.add_marker(pytest.mark.skip(reason=words))
    if foreign:
        out = [item for item in mine if item.get_closest_marker("totalog_only")]
        config.stash[DESELECTED] = [item.nodeid for item in out]
        config.hook.pytest_deselected(items=out)
        items[:] = [item for item in items if item not in out]
        return
    for item in mine:
        reason = known_gaps.reason_for(item.nodeid.removeprefix("compat_tests/"))
        if reason is not None:
            item.add_marker(pytest.mark.xfail(strict=True, reason=reason))


def kinds_of(item: pytest.Item) -> list[str]:
    """The clients that a test is about: those among its parameters; without any, all of them."""
    parameters = item.callspec.params.values() if hasattr(item, "callspec") else ()
    named = [each for value in parameters for each in (value if isinstance(value, tuple) else (value,))]
    return [kind for kind in KINDS if kind in named] or list(KINDS)


def lacks_of(item: pytest.Item) -> dict[str, str]:
    """Client -> what it lacks of that which the test needs."""
    abilities = [mark.args[0] for mark in item.iter_markers("needs")]
    return {
        kind: f"{kind} {LACKS[kind][ability]}"
        for kind in kinds_of(item)
        for ability in abilities
        if ability in LACKS[kind]
    }


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    names = config.stash.get(DESELECTED, [])
    if names:
        terminalreporter.section("not asked of another broker")
        terminalreporter.line(f"{len(names)} tests need this project's own broker:")
        for name in names:
            terminalreporter.line(f"  {name}")


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """A failed test shows what the brokers that it used said last."""
    report = yield
    if report.failed:
        for running in item.config.stash[BROKERS]:
            said = "\n".join(running.log.splitlines()[-LOG_LINES_SHOWN:])
            report.sections.append((f"broker at {running.address}", said or "(said nothing)"))
    return report


@pytest.fixture(autouse=True)
def living_broker(request: pytest.FixtureRequest) -> None:
    """When a test has brought down the broker that all share, those after it fail at once instead of by time-outs."""
    ended = [running.address for running in request.config.stash[BROKERS] if running.process.poll() is not None]
    if ended:
        pytest.fail(f"the broker at {', '.join(ended)} ended during an earlier test")


class Brokers:
    """Brokers of ours, ended when whoever asked for them is done."""

    def __init__(self, running: "list[RunningBroker]") -> None:
        self._stack = ExitStack()
        self._running = running

    def start(self, **options: object) -> "RunningBroker":
        from totalog.gateway.testing import broker  # only here: with --broker nothing of ours need be installed

        started = self._stack.enter_context(broker(**options))  # type: ignore[arg-type]
        self._running.append(started)
        self._stack.callback(self._running.remove, started)
        return started

    def end(self) -> None:
        self._stack.close()


@pytest.fixture(scope="session")
def address(request: pytest.FixtureRequest) -> Iterator[str]:
    """HOST:PORT of the broker under test."""
    foreign = request.config.getoption("broker")
    if foreign is not None:
        yield foreign
        return
    brokers = Brokers(request.config.stash[BROKERS])
    yield brokers.start(memory="1g", settings={"group.min.session.timeout.ms": SESSION_MIN_MS}).address
    brokers.end()


@pytest.fixture
def start_broker(request: pytest.FixtureRequest) -> Iterator[StartBroker]:
    """Starts brokers of the test's own, with the options of `totalog.gateway.testing.broker`."""
    brokers = Brokers(request.config.stash[BROKERS])
    yield brokers.start
    brokers.end()


@pytest.fixture(scope="session")
def ways(request: pytest.FixtureRequest) -> tuple[str, ...]:
    """What stands behind a topic's name when it is read: nothing, and, where the broker is ours, the view's suffix."""
    return ("",) if request.config.getoption("broker") is not None else ("", VIEW_SUFFIX)


@pytest.fixture(scope="session")
def shared_clients(address: str) -> Iterator[Clients]:
    """One process of each kind for all tests that need no process of their own."""
    clients = Clients(address)
    yield clients
    clients.close()


@pytest.fixture(params=KINDS)
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def client(kind: str, shared_clients: Clients) -> Client:
    """The test runs once with each kind."""
    return shared_clients[kind]


@pytest.fixture
def admin(shared_clients: Clients) -> Client:
    """For what a test prepares and does not test."""
    return shared_clients[CONFLUENT]


@pytest.fixture
def readers(shared_clients: Clients) -> dict[str, Client]:
    """All kinds: what one wrote, each must read."""
    return dict(shared_clients)


@pytest.fixture
def spawn(address: str) -> Iterator[Spawn]:
    """Starts client processes of the test's own."""
    processes: list[ClientProcess] = []

    def start(kind: str) -> ClientProcess:
        processes.append(ClientProcess(kind, address))
        return processes[-1]

    yield start
    for process in processes:
        process.close()


def unique(prefix: str) -> str:
    return f"{prefix}-{uuid.uuid4().hex[:12]}"


def wait_for_leaders(client: Client, name: str, partitions: int) -> None:
    """Apache Kafka answers CreateTopics a moment before every partition can be used."""
    deadline = time.monotonic() + TOPIC_TIME_MAX_S
    while time.monotonic() < deadline:
        try:
            topic = client.describe_topic(name)
        except ClientError as error:
            if error.code != Code.UNKNOWN_TOPIC_OR_PARTITION:
                raise
        else:
            if topic.partitions == partitions and min(topic.leaders) >= 0:
                return
    raise AssertionError(f"{name} had no {partitions} partitions with leaders within {TOPIC_TIME_MAX_S:.0f} s")


@pytest.fixture
def make_topic(admin: Client) -> Iterator[MakeTopic]:
    """make_topic(partitions=1, name=None, **config with _ for .) -> name; deleted when the test is over."""
    made: list[str] = []

    def make(partitions: int = 1, name: str | None = None, **config: object) -> str:
        name = name or unique("topic")
        made.append(name)
        admin.create_topic(name, partitions, {key.replace("_", "."): str(value) for key, value in config.items()})
        wait_for_leaders(admin, name, partitions)
        return name

    yield make
    for name in made:
        try:
            admin.delete_topic(name)
        except ClientError as error:
            if error.code != Code.UNKNOWN_TOPIC_OR_PARTITION:  # the test deleted it
                raise


@pytest.fixture
def topic(make_topic: MakeTopic) -> str:
    """A topic of two partitions that keeps records of any age."""
    return make_topic(2, retention_ms=-1)


@pytest.fixture
def cluster(admin: Client) -> ClusterInfo:
    return admin.describe_cluster()


@pytest.fixture
def session_ms(admin: Client, cluster: ClusterInfo) -> int:
    """The shortest session that the broker lets a member have."""
    return int(admin.broker_config(cluster.brokers[0][0])["group.min.session.timeout.ms"] or 6_000)


@pytest.fixture
def proxy(cluster: ClusterInfo) -> Iterator[Proxy]:
    ((_, host, port),) = cluster.brokers
    if host not in ("127.0.0.1", "localhost"):
        pytest.skip(f"the proxy stands on loopback and the broker calls itself {host}")
    with Proxy(host, port) as proxy:
        yield proxy
