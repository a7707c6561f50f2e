"""The server: listens, runs one task for each connection, watches over them, keeps the log in order, and stops.

Tasks: one for each listener, one for each connection, and in the background the timers, the sweep over slow
connections, the upkeep of the log, and the one that hears from its replicas. The background outlives the
connections, which still need it while they finish.

Stopping (`Server.stop`): listeners close; connections that wait for a request take no more of them, the others finish
what they have in hand; long polls answer early; at the deadline, or at `Server.stop_now`, what is left is cut off.
"""

import errno
import logging
import os
import signal
import socket
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import suppress
from functools import partial

import trio

from totalog.gateway import waiting
from totalog.gateway.connection import Connection, Disconnected, Phase, Service
from totalog.gateway.sockets import SocketTransport, names
from totalog.gateway.wire.errors import ProtocolViolation

log = logging.getLogger("totalog")

UPKEEP_S = 1.0
"""Seconds between two rounds of what the log needs besides retention by age, which has a setting."""

NO_AGE = -1
"""As a time of day for `Log.maintain`: nothing is too old."""

_NO_DESCRIPTORS = (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM)
_NO_PEER = (errno.EAGAIN, errno.ECONNABORTED, errno.EPROTO, errno.EPERM, errno.ENETDOWN, errno.ENETUNREACH)


class Server:
    """Serves `listeners` until it is told to stop."""

    def __init__(self, service: Service, listeners: Sequence[socket.socket]) -> None:
        self.service = service
        self._listeners = listeners
        self._connections: dict[Connection, trio.CancelScope] = {}
        self._accepting = trio.CancelScope()
        self._finishing = trio.CancelScope()

    def stop(self) -> None:
        """Accept no more, let requests in hand finish until the deadline of the limits."""
        self._accepting.cancel()

    def stop_now(self) -> None:
        """Stop without waiting for anyone."""
        self._accepting.cancel()
        self._finishing.cancel()

    async def run(self, ready: Callable[[], None] = lambda: None) -> None:
        """Returns when the server has stopped. `ready` is called once clients can connect."""
        async with trio.open_nursery() as background:
            await background.start(self.service.broker.timers.run)
            background.start_soon(self._keep_log)
            background.start_soon(self._follow_replicas)
            background.start_soon(self._sweep)
            with self._finishing:
                async with trio.open_nursery() as connections:
                    await self._accept_all(connections, ready)
                    self._finish()
            if self._connections:
                log.warning("connections cut off with requests in hand: %d", len(self._connections))
            background.cancel_scope.cancel()

    async def _accept_all(self, connections: trio.Nursery, ready: Callable[[], None]) -> None:
        try:
            with self._accepting:
                async with trio.open_nursery() as acceptors:
                    for listener in self._listeners:
                        acceptors.start_soon(self._accept, listener, connections)
                    ready()
        finally:
            for listener in self._listeners:
                listener.close()

    def _finish(self) -> None:
        self.service.stopping = True
        self._finishing.deadline = waiting.now() + self.service.limits.drain_s_max
        waiting.stop_waiting()
        for connection in self._connections:
            connection.stop()

    # Connections

    async def _accept(self, listener: socket.socket, connections: trio.Nursery) -> None:
        while True:
            await trio.lowlevel.wait_readable(listener)
            try:
                sock, _ = listener.accept()
            except OSError as fault:
                if fault.errno in _NO_DESCRIPTORS:
                    log.error("cannot accept connections: %s", fault.strerror)
                    await trio.sleep(self.service.limits.accept_pause_s)
                elif fault.errno not in _NO_PEER:
                    raise
                continue
            counters = self.service.broker.counters
            if counters.connections_open >= self.service.broker.config.integer("max.connections"):
                counters.connections_refused += 1
                host, peer = names(sock)
                self._complain(host, f"{peer}: refused: max.connections are open")
                sock.close()
                continue
            counters.connections_open += 1
            counters.connections_accepted += 1
            sock.setblocking(False)
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            connections.start_soon(self._serve, sock)

    async def _serve(self, sock: socket.socket) -> None:
        transport = SocketTransport(sock)
        connection = Connection(self.service, transport)
        scope = self._connections[connection] = trio.CancelScope()
        try:
            with scope:
                await self._serve_peer(connection)
                if self.service.stopping:
                    with trio.move_on_after(self.service.limits.linger_s_max):
                        await transport.linger()
        finally:
            transport.close()
            if not self._finishing.cancel_called:
                del self._connections[connection]
            self.service.broker.counters.connections_open -= 1

    async def _serve_peer(self, connection: Connection) -> None:
        peer = connection.transport.peer
        try:
            await connection.run()
        except ProtocolViolation as fault:
            self.service.broker.counters.connections_violated += 1
            self._complain(connection.transport.host, f"{peer}: connection closed: {fault}")
        except Disconnected as gone:
            log.debug("%s: connection closed: %s", peer, gone)
        except waiting.Stopped:
            log.debug("%s: connection closed: the server stops", peer)

    def _complain(self, host: str, text: str, level: int = logging.WARNING) -> None:
        self.service.broker.complaints.tell(host, text, level)

    def _tell_overdue(self, connection: Connection, reason: str) -> None:
        transport = connection.transport
        text = f"{transport.peer}: connection closed: {reason}"
        if connection.phase is Phase.REQUEST:
            log.debug("%s", text)
        else:
            self._complain(transport.host, text, logging.INFO)

    # Background

    async def _sweep(self) -> None:
        """Close the connections of peers that are too slow."""
        while True:
            await trio.sleep(self.service.limits.sweep_interval_s)
            time = waiting.now()
            self.service.broker.complaints.sum_up()
            for connection, scope in self._connections.items():
                reason = connection.overdue(time)
                if reason is not None and not scope.cancel_called:
                    self.service.broker.counters.connections_overdue += 1
                    self._tell_overdue(connection, reason)
                    scope.cancel()

    async def _keep_log(self) -> None:
        """Apply retention, give back what deleted topics held, tell when the log is full and when it no longer is."""
        broker = self.service.broker
        interval_s = broker.config.integer("log.retention.check.interval.ms") / 1000
        refused, full = broker.log.counters()["out_of_memory"], False
        due = waiting.now() + interval_s
        while True:
            await trio.sleep(min(interval_s, UPKEEP_S))
            by_age = waiting.now() >= due
            due += interval_s if by_age else 0
            while broker.log.maintain(broker.clock.wall_ms() if by_age else NO_AGE):
                await trio.lowlevel.checkpoint()
            before, refused = refused, broker.log.counters()["out_of_memory"]
            if refused > before and not full:
                log.error(
                    "the log is full: producers are told to try again until retention or a deleted topic makes room"
                )
            elif refused == before and full:
                log.info("the log has room again, or nobody asks for it any more")
            full = refused > before

    async def _follow_replicas(self) -> None:
        """Wake who waits for the data directories, whenever they have got on."""
        broker = self.service.broker
        descriptor = broker.log.replica_descriptor
        if descriptor is None:
            return
        replication = broker.replication
        while True:
            replication.moved()  # the first time: what happened before anybody listened
            await trio.lowlevel.wait_readable(descriptor)
            with suppress(BlockingIOError):
                os.eventfd_read(descriptor)


def run_until_signal(server: Server, ready: Callable[[], None], afterwards: Callable[[], object]) -> None:
    """Run the event loop with `server` until SIGINT or SIGTERM has stopped it. Once it is ready, `afterwards` runs in a
    thread: work that no client waits for."""
    trio.run(_run_until_signal, server, ready, afterwards)


async def _run_until_signal(server: Server, ready: Callable[[], None], afterwards: Callable[[], object]) -> None:
    with trio.open_signal_receiver(signal.SIGINT, signal.SIGTERM) as signals:
        async with trio.open_nursery() as helpers:

            def opened() -> None:
                ready()
                helpers.start_soon(partial(trio.to_thread.run_sync, afterwards, abandon_on_cancel=True))

            helpers.start_soon(_stop_on_signals, server, signals)
            await server.run(opened)
            helpers.cancel_scope.cancel()


async def _stop_on_signals(server: Server, signals: AsyncIterator[int]) -> None:
    stop = server.stop
    async for number in signals:
        log.info("%s: stopping", signal.Signals(number).name)
        stop()
        stop = server.stop_now
