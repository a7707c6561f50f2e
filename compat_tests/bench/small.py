"""One small request at a time: microseconds per Produce of a 100-byte record and per Fetch of it, on one connection.

The peer in the same run is the machine's limit for a round trip: a thread-free echo process that answers each request
with as many bytes as the gateway does.
"""

import socket
import struct
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager

from totalog.gateway.bench import requests, stats
from totalog.gateway.testing import broker

ROUNDS = 5
REQUESTS = 2000
TOPIC = "small"
ECHO = """
import socket, struct, sys
listener = socket.create_server(("127.0.0.1", 0))
print(listener.getsockname()[1], flush=True)
peer, _ = listener.accept()
peer.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
while True:
    request = peer.recv(65536)
    if not request:
        break
    (size,) = struct.unpack_from(">i", request, 4)
    peer.sendall(struct.pack(">i", size - 4) + bytes(size - 4))
"""


def run() -> tuple[list[stats.Summary], dict[str, list[float]]]:
    """Rows in microseconds, interleaved: echo, produce, fetch, echo, ..."""
    series: dict[str, list[float]] = {"echo": [], "produce acks=1": [], "fetch": []}
    with broker() as kafka, _echo() as echo, socket.create_connection((kafka.host, kafka.port)) as gateway:
        gateway.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        requests.ask(gateway, requests.create_topic(TOPIC))
        produce = requests.produce(TOPIC, requests.batch(0, 100), acks=1)
        fetch = requests.fetch(TOPIC, offset=0, size_max=100)
        answer_size = len(requests.ask(gateway, produce))
        nothing = struct.pack(">ii", 0, answer_size) + bytes(len(produce) - 8)
        for _ in range(ROUNDS):
            series["echo"] += stats.measure(lambda: requests.ask(echo, nothing), iterations=REQUESTS)
            series["produce acks=1"] += stats.measure(lambda: requests.ask(gateway, produce), iterations=REQUESTS)
            series["fetch"] += stats.measure(lambda: requests.ask(gateway, fetch), iterations=REQUESTS)
    rows = [stats.summarize(name, values, unit="us") for name, values in series.items()]
    base = rows[0].median
    rows += [stats.summarize(f"{row.name} / echo (medians)", [row.median / base], unit="ratio") for row in rows[1:3]]
    return rows, series


@contextmanager
def _echo() -> Iterator[socket.socket]:
    with subprocess.Popen([sys.executable, "-c", ECHO], stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        with socket.create_connection(("127.0.0.1", int(process.stdout.readline()))) as connection:
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            yield connection
