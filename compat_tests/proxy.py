"""A TCP proxy between a client and a broker that can lose requests, lose answers and hold answers back.

It knows as much of the protocol as that takes: frames (a 4-byte size), the API key and correlation id of a request,
and where the broker names itself in an answer, so that the client stays with the proxy (only the port is replaced:
the host must be the same). Everything is counted under one condition, on which a test can wait.
"""

import contextlib
import socket
import struct
import threading
from collections.abc import Callable
from types import TracebackType

PRODUCE = 0
FETCH = 1
METADATA = 3
FIND_COORDINATOR = 10
DESCRIBE_CLUSTER = 60
NAMES_BROKERS = (METADATA, FIND_COORDINATOR, DESCRIBE_CLUSTER)
HOLD_TIME_MAX_S = 60.0


class Proxy:
    """A context manager; `address` is what a client gets as its bootstrap server.

    `lose_requests` and `lose_answers` hold numbers of Produce requests (from 1, over all connections): such a request
    is not passed on, or its answer is not; either way the client's connection is closed instead.
    `hold_answers_until`: no Produce answer is passed on before that many Produce requests were seen on the
    connection. `refuse_after_loss`: once something was lost, new connections are closed until `accept_again()`.
    """

    def __init__(self, host: str, port: int) -> None:
        self._broker = (host, port)
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self.address = f"127.0.0.1:{self.port}"
        self._names = (host.encode() + struct.pack(">i", port), host.encode() + struct.pack(">i", self.port))
        self.lose_requests: frozenset[int] = frozenset()
        self.lose_answers: frozenset[int] = frozenset()
        self.hold_answers_until = 0
        self.refuse_after_loss = False
        self.changed = threading.Condition()
        self.produce_count = 0
        self.lost_count = 0
        self.in_flight_max = 0
        self.pending: dict[int, int] = {}  # API key -> requests passed on and not yet answered
        self._pipes: list[_Pipe] = []
        self._threads = [threading.Thread(target=self._accept, daemon=True)]

    def __enter__(self) -> "Proxy":
        self._threads[0].start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with self.changed:
            self._listener.shutdown(socket.SHUT_RDWR)
            for pipe in self._pipes:
                pipe.cut()
        for thread in self._threads:
            thread.join()
        self._listener.close()
        for pipe in self._pipes:
            pipe.close()

    def wait_until(self, true: Callable[["Proxy"], bool], timeout_s: float = 60.0) -> bool:
        with self.changed:
            return self.changed.wait_for(lambda: true(self), timeout_s)

    def wait_until_produced(self, count: int) -> bool:
        return self.wait_until(lambda proxy: proxy.produce_count >= count)

    def accept_again(self) -> None:
        with self.changed:
            self.refuse_after_loss = False

    def renamed(self, answer: bytes) -> bytes:
        return answer.replace(*self._names)

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:  # shut down
                return
            with self.changed:
                if self.refuse_after_loss and self.lost_count:
                    client.close()
                    continue
                try:
                    broker = socket.create_connection(self._broker)
                except OSError:  # the broker is gone: so is this connection
                    client.close()
                    continue
                pipe = _Pipe(self, client, broker)
                self._pipes.append(pipe)
                started = [threading.Thread(target=run, daemon=True) for run in (pipe.requests, pipe.answers)]
                self._threads += started
            for thread in started:
                thread.start()


class _Pipe:
    """One client connection and the broker connection behind it."""

    def __init__(self, proxy: Proxy, client: socket.socket, broker: socket.socket) -> None:
        self._proxy = proxy
        self._client = client
        self._broker = broker
        self._asked: dict[int, tuple[int, int]] = {}  # correlation id -> API key, number among the Produce requests
        self._produce_count = 0
        self._produce_answered = 0

    def cut(self) -> None:
        for end in (self._client, self._broker):
            with contextlib.suppress(OSError):  # the other side was faster
                end.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        self._client.close()
        self._broker.close()

    def requests(self) -> None:
        while (frame := _frame(self._client)) is not None:
            key, _, correlation_id = struct.unpack_from(">hhi", frame, 4)
            with self._proxy.changed:
                number = self._note_request(key, correlation_id)
                lost = number in self._proxy.lose_requests
                self._proxy.lost_count += lost
                self._proxy.changed.notify_all()
            if lost or not _send(self._broker, frame):
                break
        self.cut()

    def _note_request(self, key: int, correlation_id: int) -> int:
        proxy = self._proxy
        if key == PRODUCE:
            proxy.produce_count += 1
            self._produce_count += 1
            proxy.in_flight_max = max(proxy.in_flight_max, self._produce_count - self._produce_answered)
        number = proxy.produce_count if key == PRODUCE else 0
        self._asked[correlation_id] = (key, number)
        proxy.pending[key] = proxy.pending.get(key, 0) + 1
        return number

    def answers(self) -> None:
        proxy = self._proxy
        while (frame := _frame(self._broker)) is not None:
            (correlation_id,) = struct.unpack_from(">i", frame, 4)
            with proxy.changed:
                key, number = self._asked.pop(correlation_id)
                if key == PRODUCE:
                    proxy.changed.wait_for(lambda: self._produce_count >= proxy.hold_answers_until, HOLD_TIME_MAX_S)
                    self._produce_answered += 1
                proxy.pending[key] -= 1
                lost = number in proxy.lose_answers
                proxy.lost_count += lost
                proxy.changed.notify_all()
            if lost or not _send(self._client, proxy.renamed(frame) if key in NAMES_BROKERS else frame):
                break
        self.cut()


def _frame(source: socket.socket) -> bytes | None:
    """One frame with its size word; None at the end of the stream."""
    head = _exactly(source, 4)
    body = None if head is None else _exactly(source, struct.unpack(">i", head)[0])
    return None if head is None or body is None else head + body


def _exactly(source: socket.socket, size: int) -> bytes | None:
    parts = []
    while size:
        try:
            part = source.recv(min(size, 1 << 20))
        except OSError:  # reset
            return None
        if not part:
            return None
        parts.append(part)
        size -= len(part)
    return b"".join(parts)


def _send(target: socket.socket, frame: bytes) -> bool:
    try:
        target.sendall(frame)
    except OSError:
        return False
    return True
