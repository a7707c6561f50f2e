"""Asks a broker whether it serves: one ApiVersions, one Metadata and one DescribeLogDirs request over a plain socket,
nothing imported. A broker that has lost a data directory is not healthy, though it may still serve much.

For `totalog healthcheck HOST:PORT`, as containers and scripts call it every few seconds.
"""

import socket
import struct
from typing import Final

API_VERSIONS: Final = 18
METADATA: Final = 3
DESCRIBE_LOG_DIRS: Final = 35
CLIENT_ID: Final = b"healthcheck"
ANSWER_SIZE_MAX: Final = 1024 * 1024
"""Bytes of an answer that is believed: a list of brokers and one of API versions are far smaller."""


class Unhealthy(Exception):
    """The broker did not answer as it should; the text says what happened, in one line."""


def check(host: str, port: int, timeout_s: float) -> str:
    """What the broker said of itself, in a few words. Raises Unhealthy; no step takes longer than `timeout_s`."""
    try:
        with socket.create_connection((host, port), timeout_s) as sock:
            apis = _api_count(_ask(sock, API_VERSIONS, 0, b""))
            brokers = _brokers(_ask(sock, METADATA, 1, struct.pack(">i", 0)))
            failed = _failed_directories(_ask(sock, DESCRIBE_LOG_DIRS, 1, struct.pack(">i", 0)))
    except (OSError, struct.error, IndexError, UnicodeDecodeError) as fault:
        raise Unhealthy(f"{host}:{port}: {fault or type(fault).__name__}") from fault
    if failed:
        raise Unhealthy(f"{host}:{port}: not written any more: {', '.join(failed)}")
    return f"serves {apis} APIs, clients are told to connect to {', '.join(brokers)}"


def _ask(sock: socket.socket, key: int, version: int, body: bytes) -> bytes:
    """The body of the answer to one request (request header version 1)."""
    header = struct.pack(">hhih", key, version, key, len(CLIENT_ID)) + CLIENT_ID
    sock.sendall(struct.pack(">i", len(header) + len(body)) + header + body)
    size, correlation_id = struct.unpack(">ii", _receive(sock, 8))
    if correlation_id != key or not 4 <= size <= ANSWER_SIZE_MAX:
        raise Unhealthy("the answer is not one of the Kafka protocol")
    return _receive(sock, size - 4)


def _receive(sock: socket.socket, size: int) -> bytes:
    received = b""
    while len(received) < size:
        part = sock.recv(size - len(received))
        if not part:
            raise Unhealthy("the connection was closed before the answer")
        received += part
    return received


def _api_count(body: bytes) -> int:
    error_code, count = struct.unpack_from(">hi", body)
    if error_code or count < 1:
        raise Unhealthy(f"ApiVersions answered error code {error_code} and {count} APIs")
    return int(count)


def _brokers(body: bytes) -> list[str]:
    """HOST:PORT of the brokers in a Metadata answer of version 1."""
    (count,) = struct.unpack_from(">i", body)
    if count < 1:
        raise Unhealthy("Metadata names no broker")
    brokers, at = [], 4
    for _ in range(count):
        (host_size,) = struct.unpack_from(">h", body, at + 4)
        host = body[at + 6 : at + 6 + host_size].decode()
        at += 6 + host_size
        (port,) = struct.unpack_from(">i", body, at)
        (rack_size,) = struct.unpack_from(">h", body, at + 4)
        at += 6 + max(rack_size, 0)
        brokers.append(f"{host}:{port}")
    return brokers


def _failed_directories(body: bytes) -> list[str]:
    """Directories with an error in a DescribeLogDirs answer of version 1 that was asked for no topics."""
    (count,) = struct.unpack_from(">i", body, 4)
    failed, at = [], 8
    for _ in range(count):
        error_code, size = struct.unpack_from(">hh", body, at)
        directory = body[at + 4 : at + 4 + size].decode()
        at += 4 + size + 4
        if error_code:
            failed.append(f"{directory} (error code {error_code})")
    return failed
