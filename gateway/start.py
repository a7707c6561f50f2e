"""What `totalog serve` does once its arguments are understood: listens, opens the log, makes the broker and runs it."""

import gc
import logging
import resource
import socket
import sys
from collections.abc import Awaitable, Callable, Iterator
from contextlib import ExitStack
from typing import Any

from totalog.gateway import apis
from totalog.gateway.apis import fetch_repeats, produce, produce_runs
from totalog.gateway.broker import Broker, SystemClock
from totalog.gateway.config import Config
from totalog.gateway.connection import Service
from totalog.gateway.limits import Limits
from totalog.gateway.server import Server, run_until_signal
from totalog.gateway.sockets import listen
from totalog.gateway.storage import CannotStart, Storage
from totalog.gateway.waiting import Budget
from totalog.gateway.wire import codec
from totalog.gateway.wire.frame import FETCH, PRODUCE, Format, ReceiveBuffers

log = logging.getLogger("totalog")

SWITCH_S = 0.0002
"""In which a thread gives way to another while the codec is warmed. With Python's own 5 ms the requests of the first
clients would wait as long, several times each."""

GARBAGE_COUNT = 20_000
"""Objects that may be made, beyond those that went, before Python looks for cycles among the youngest. Requests and
connections leave none behind, and with Python's own 700 a thousand connections that wake together, each of which makes
some objects and soon drops them, had it look at all of them again and again."""

API_VERSIONS, METADATA, INIT_PRODUCER_ID, FIND_COORDINATOR = 18, 3, 22, 10


def serve(
    config: Config,
    host: str,
    port: int,
    advertised: tuple[str, int | None] | None,
    storage: Storage,
    tell: Callable[[str], None],
) -> None:
    """Serve until a signal ends it. `tell` gets the start-up lines; once clients can connect, the one with `ready`.

    `advertised` without a port means the port that is listened on. Raises CannotStart.
    """
    limits = Limits()
    _raise_descriptor_limit()
    with ExitStack() as held:
        listeners = [held.enter_context(listener) for listener in _listen(host, port, limits)]
        port = listeners[0].getsockname()[1]
        opened, where = storage.open(tell)
        held.enter_context(opened)
        name, told_port = advertised or (_reachable(host), None)
        told_to = name, told_port or port
        address, told = join(host, port), join(*told_to)
        tell(where)
        broker = Broker(opened, config, clock=SystemClock(), host=host, port=port, advertised=told_to)

        def ready() -> None:
            gc.freeze()
            gc.set_threshold(GARBAGE_COUNT)
            tell(f"ready at {address}" + ("" if told == address else f", clients are told {told}"))

        server = Server(service(broker, limits), listeners)
        run_until_signal(server, ready, _warm)


def service(broker: Broker, limits: Limits) -> Service:
    """The Kafka APIs of this package, over `broker`."""
    config = broker.config
    inflight_size = config.integer("queued.max.request.bytes")
    if inflight_size < 0:
        memory = broker.log.memory()
        inflight_size = min(limits.inflight_size_max, memory.blocks_total * memory.block_size // 4)
    handle_group, opening = _opening() if broker.appender.opens else (produce.handle_group, None)
    return Service(
        broker=broker,
        dispatch=apis.dispatch,
        produce=handle_group,
        open=opening,
        runs={PRODUCE: produce_runs, FETCH: fetch_repeats},
        formats={
            api.key: Format(
                api.flexible_from,
                config.integer("socket.request.max.bytes") if api.key == PRODUCE else api.frame_size_max,
                api.copies or not (api.raw or api.steps),
                api.lets_go,
            )
            for api in apis.TABLE.values()
        },
        limits=limits,
        idle_s_max=config.integer("connections.max.idle.ms") / 1000,
        budget=Budget(inflight_size),
        budget_others=Budget(limits.inflight_others_size_max),
        buffers=ReceiveBuffers(limits.receive_buffer_size),
    )


def _opening() -> tuple[Callable[..., Any], Callable[..., Awaitable[Any]]]:
    """What answers Produce where compressed batches are opened, and what opens them. Raises CannotStart without the
    library for it."""
    from totalog.gateway.apis import produce_opened
    from totalog.gateway.wire import compression

    try:
        compression.load()
    except ImportError as fault:
        raise CannotStart(f"totalog.compression.validate needs the package cramjam: {fault}") from None
    return produce_opened.handle_group, produce_opened.Opener().open


def _warm() -> None:
    """Gets ready what the first requests do not need, in a thread beside them: they hardly ever wait for it."""
    interval_s = sys.getswitchinterval()
    sys.setswitchinterval(SWITCH_S)
    try:
        codec.warm(_common_versions())
        from totalog.gateway.coordinators import groups  # noqa: F401
    finally:
        sys.setswitchinterval(interval_s)


def _common_versions() -> Iterator[tuple[int, int]]:
    """What most clients ask, in the order in which they ask: each API in its highest version, as far as the library
    decodes it."""
    first = (API_VERSIONS, METADATA, INIT_PRODUCER_ID, FIND_COORDINATOR)
    for api in sorted(apis.TABLE.values(), key=lambda api: first.index(api.key) if api.key in first else len(first)):
        if not api.raw:
            yield api.key, api.max_version


def join(host: str, port: int) -> str:
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def _listen(host: str, port: int, limits: Limits) -> list[socket.socket]:
    try:
        return listen(host, port, limits.accept_backlog_count)
    except OSError as fault:
        hint = "" if port == 0 else " (--port 0 takes a free port)"
        raise CannotStart(f"cannot listen on {join(host, port)}: {fault.strerror}{hint}") from None


def _reachable(host: str) -> str:
    """What clients should be told when the broker listens on `host`: no client can connect to "all interfaces"."""
    wildcards = {"0.0.0.0": socket.AF_INET, "": socket.AF_INET, "::": socket.AF_INET6}
    if host not in wildcards:
        return host
    with socket.socket(wildcards[host], socket.SOCK_DGRAM) as probe:
        try:
            # A datagram socket sends nothing when it connects; it only learns from which address it would send. The
            # target is a documentation address (RFC 5737, RFC 3849).
            probe.connect(("192.0.2.1" if host != "::" else "2001:db8::1", 9))
            return str(probe.getsockname()[0])
        except OSError:
            return socket.gethostname()


def _raise_descriptor_limit() -> None:
    """One connection is one descriptor; the soft limit is often 1,024 where the hard one is far higher."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
