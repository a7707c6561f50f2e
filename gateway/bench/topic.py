"""A topic for a measurement: made at the broker, ready on one leader, and deleted afterwards."""

import os
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Final

from totalog.gateway.bench import requests
from totalog.gateway.wire.errors import ErrorCode

CONNECT_S_MAX: Final = 10.0
LEADER_S_MAX: Final = 20.0
"""Until all partitions of a new topic take records."""
PAUSE_S_MIN: Final = 0.01
PAUSE_S_MAX: Final = 0.5
"""Between two questions whether they do."""
RETAINED: Final = 256 << 20
"""Bytes of a partition: what is measured goes on in memory, and on disks, that were used before."""

Address = tuple[str, int]
Tell = Callable[[str], None]


class CannotMeasure(Exception):
    """Why not, in one line."""


@dataclass(frozen=True, slots=True)
class Wanted:
    """What the topic has to take."""

    partitions: int
    batch_size_max: int
    """Bytes."""
    record_size: int
    acks: int


@dataclass(frozen=True, slots=True)
class Leader:
    node_id: int
    address: Address


def connected(address: Address) -> socket.socket:
    """Raises CannotMeasure."""
    try:
        connection = socket.create_connection(address, CONNECT_S_MAX)
    except OSError as fault:
        raise CannotMeasure(f"{address[0]}:{address[1]}: {fault}") from None
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return connection


@contextmanager
def topic(address: Address, wanted: Wanted, tell: Tell) -> Iterator[tuple[Leader, str]]:
    """The leader of all partitions of a new topic, and its name. `tell` gets a line where the topic cannot be deleted
    afterwards. Raises CannotMeasure and OSError."""
    name = f"totalog-bench-{os.urandom(6).hex()}"
    configs = {"retention.bytes": str(RETAINED), "max.message.bytes": str(wanted.batch_size_max)}
    with connected(address) as connection:
        answer = requests.ask(connection, requests.create_topic(name, wanted.partitions, configs))
        (created,) = requests.decoded("CreateTopicsResponse", requests.CREATE_TOPICS_VERSION, answer).topics
        if created.error_code:
            raise CannotMeasure(f"the topic was refused: error {created.error_code} {created.error_message or ''}")
        try:
            yield leader(connection, name, wanted), name
        finally:
            problem = _delete(address, name)
            if problem is not None:
                tell(f"the topic {name} is left behind: {problem}")


def _delete(address: Address, name: str) -> str | None:
    """Why the topic is still there, or may be. Over another connection: the first may have been idle for longer than a
    broker allows. Nothing is raised, since whoever comes here because the broker is gone says how it went."""
    try:
        with connected(address) as connection:
            answer = requests.ask(connection, requests.delete_topic(name))
        (deleted,) = requests.decoded("DeleteTopicsResponse", requests.DELETE_TOPICS_VERSION, answer).responses
    except (OSError, CannotMeasure) as fault:
        return str(fault)
    return f"error {deleted.error_code}" if deleted.error_code else None


def leader(connection: socket.socket, name: str, wanted: Wanted) -> Leader:
    """Who leads all partitions of a new topic, once it takes records for each of them. That a topic was made, and that
    Metadata names its leaders, does not say that these know of it yet: they refuse records until they do."""
    deadline = time.monotonic() + LEADER_S_MAX
    pause_s = PAUSE_S_MIN
    while True:
        named = _named_leader(connection, name, wanted.partitions)
        error = ErrorCode.LEADER_NOT_AVAILABLE if named is None else _refusal(named, name, wanted)
        if named is not None and error is ErrorCode.NONE:
            return named
        if not error.retriable:
            raise CannotMeasure(f"the new topic takes no records: error {error} {error.name}")
        if time.monotonic() + pause_s > deadline:
            raise CannotMeasure(f"the new topic takes no records after {LEADER_S_MAX:.0f} s: {error.name}")
        time.sleep(pause_s)
        pause_s = min(2 * pause_s, PAUSE_S_MAX)


def _named_leader(connection: socket.socket, name: str, partitions: int) -> Leader | None:
    """Whom Metadata names as leader of all partitions; None while any has none."""
    answer: Any = requests.decoded(
        "MetadataResponse", requests.METADATA_VERSION, requests.ask(connection, requests.metadata(name))
    )
    nodes = {node.node_id: (node.host, node.port) for node in answer.brokers}
    leaders = [part.leader_id for topic in answer.topics for part in topic.partitions]
    if len(leaders) < partitions or not nodes.keys() >= set(leaders):
        return None
    if len(set(leaders)) > 1:
        raise CannotMeasure("the partitions have several leaders: measure with --partitions 1")
    return Leader(leaders[0], nodes[leaders[0]])


def _refusal(leader: Leader, name: str, wanted: Wanted) -> ErrorCode:
    """Why the leader does not take a record for one of the partitions; NONE: it took one for each."""
    record = requests.batch(0, wanted.record_size)
    with connected(leader.address) as connection:
        for partition in range(wanted.partitions):
            frame = requests.produce(name, record, acks=wanted.acks, partition=partition)
            error = requests.produce_error(name, requests.ask(connection, frame))
            if error not in ErrorCode._value2member_map_:
                raise CannotMeasure(f"the new topic takes no records: error {error}")
            if error:
                return ErrorCode(error)
    return ErrorCode.NONE
