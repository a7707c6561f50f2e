"""Requests as bytes: in pieces, in heaps, with too much or too little of them. Any broker answers what is a request, in
order, and ends the connection at what is none."""

import socket
import struct
from collections.abc import Iterator
from typing import Any

import pytest

from compat_tests.asking import MESSAGES, Asker, request
from compat_tests.raw import Peer

API_VERSIONS, METADATA = 18, 3
SERVED = {
    0: "Produce", 1: "Fetch", 2: "ListOffsets", 3: "Metadata", 8: "OffsetCommit", 9: "OffsetFetch",
    10: "FindCoordinator", 11: "JoinGroup", 12: "Heartbeat", 13: "LeaveGroup", 14: "SyncGroup", 15: "DescribeGroups",
    16: "ListGroups", 18: "ApiVersions", 19: "CreateTopics", 20: "DeleteTopics", 21: "DeleteRecords",
    22: "InitProducerId", 23: "OffsetForLeaderEpoch", 32: "DescribeConfigs", 33: "AlterConfigs", 35: "DescribeLogDirs",
    37: "CreatePartitions", 42: "DeleteGroups", 44: "IncrementalAlterConfigs", 60: "DescribeCluster",
}  # fmt: skip
FIRST_SERVED = {0: 3}
"""Of Produce, Apache Kafka names versions that it does not serve, since old clients look for them."""
FIELDS: dict[str, dict[str, Any]] = {
    "ApiVersions": {"client_software_name": "tester", "client_software_version": "1.0"},
    "Metadata": {"topics": None},
    "Produce": {"acks": 1},
    "DescribeLogDirs": {"topics": None},
}
"""Where the defaults of the message would not be a request that a client sends."""
IN_FLIGHT = 600
ASK = request("ApiVersions", 2)
MIB = 1 << 20


def header(key: int = API_VERSIONS, version: int = 2, correlation_id: int = 11, client: bytes = b"\0\1h") -> bytes:
    return struct.pack(">hhi", key, version, correlation_id) + client


def framed(body: bytes, size: int | None = None) -> bytes:
    return struct.pack(">i", len(body) if size is None else size) + body


def is_answer(frame: bytes | None) -> bool:
    """Of ApiVersions version 2, without an error."""
    return frame is not None and struct.unpack_from(">ih", frame) == (11, 0)


@pytest.fixture
def peer(address: str) -> Iterator[Peer]:
    peer = Peer(address)
    yield peer
    peer.close()


def test_byte_by_byte(peer: Peer) -> None:
    for byte in ASK + ASK:
        peer.send(bytes((byte,)))
    assert is_answer(peer.answer())
    assert is_answer(peer.answer())


def test_several_in_one_segment_and_half_of_one_more(peer: Peer) -> None:
    peer.send(ASK * 5 + ASK[:7])
    assert all(is_answer(peer.answer()) for _ in range(5))
    peer.send(ASK[7:])
    assert is_answer(peer.answer())


def test_trailing_bytes_are_passed_over(peer: Peer) -> None:
    peer.send(framed(header() + bytes(9)) + ASK)
    assert is_answer(peer.answer())
    assert is_answer(peer.answer())


def test_no_client_id(peer: Peer) -> None:
    peer.send(framed(header(client=b"\xff\xff")))
    assert is_answer(peer.answer())


@pytest.mark.parametrize(
    "bad",
    [
        framed(b""),
        framed(b"", -1),
        framed(b"", -(2**31)),
        framed(b"", 2**31 - 1),
        framed(b"", 101 * MIB),
        *[framed(header()[:size]) for size in range(1, 11)],
        framed(header(client=b"\0\7h")),
        framed(header(METADATA, 1) + b"\0\0\0\1"),
        framed(header(METADATA, 1) + b"\0\0\0\1\0\7x"),
        framed(header(METADATA, 1) + b"\x7f\xff\xff\xff"),
    ],
    ids=lambda bad: f"{bad[:18].hex()}",
)
def test_what_is_no_request_ends_the_connection_behind_what_was_one(peer: Peer, bad: bytes) -> None:
    peer.send(ASK)
    assert is_answer(peer.answer())
    peer.send(bad)
    assert peer.answer() is None


def test_six_hundred_in_flight_are_answered_in_their_order(address: str) -> None:
    with Asker(address) as asker:
        asker.peer.send(b"".join(framed(header(correlation_id=at)) for at in range(IN_FLIGHT)))
        for at in range(IN_FLIGHT):
            frame = asker.peer.answer()
            assert frame is not None
            assert struct.unpack_from(">i", frame) == (at,)


def test_long_polls_hold_back_what_is_behind_them(address: str) -> None:
    """One request of a connection is served at a time."""
    with Asker(address) as asker:
        waits = {"max_wait_ms": 300, "min_bytes": 1, "max_bytes": 1000, "topics": []}
        asker.send("Fetch", 4, **waits)
        asker.send("ApiVersions", 2)
        assert asker.answer("Fetch", 4).responses == []
        assert asker.answer("ApiVersions", 2).error_code == 0


def test_who_sends_no_more_gets_what_it_asked_for(address: str) -> None:
    host, _, port = address.rpartition(":")
    with socket.create_connection((host, int(port)), 20) as half:
        half.sendall(ASK * 3)
        half.shutdown(socket.SHUT_WR)
        received = b""
        while part := half.recv(1 << 16):
            received += part
    count = 0
    while received:
        (size,) = struct.unpack_from(">i", received)
        assert is_answer(received[4 : 4 + size])
        received = received[4 + size :]
        count += 1
    assert count == 3


def test_a_reset_ends_one_connection_only(address: str, peer: Peer) -> None:
    host, _, port = address.rpartition(":")
    for cut in (0, 3, 9, len(ASK)):
        other = socket.create_connection((host, int(port)), 20)
        other.sendall(ASK[:cut])
        other.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        other.close()
    peer.send(ASK)
    assert is_answer(peer.answer())


@pytest.fixture(scope="module")
def versions(address: str) -> dict[int, tuple[int, int]]:
    with Asker(address) as asker:
        told = asker.ask("ApiVersions", 3, **FIELDS["ApiVersions"]).api_keys
    return {api.api_key: (api.min_version, api.max_version) for api in told}


@pytest.mark.parametrize("key", SERVED, ids=SERVED.values())
def test_every_version_that_is_told_is_served(address: str, versions: dict[int, tuple[int, int]], key: int) -> None:
    """The least that can be asked; the answer is one that the library can read."""
    name = SERVED[key]
    assert MESSAGES[f"{name}Request"].API_KEY == key
    first, last = versions[key]
    with Asker(address) as asker:
        for version in range(max(first, FIRST_SERVED.get(key, 0)), last + 1):
            assert asker.ask(name, version, **FIELDS.get(name, {})) is not None, version
