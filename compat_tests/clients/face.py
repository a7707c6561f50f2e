"""The one face that every stock client wears in these tests, and the values that go over it.

A test is written once against `Client` and runs with each implementation (`kafka_python.py`, `confluent.py`,
`aio_kafka.py`).
Everything that passes is a plain picklable value, since the client lives in another process. Times in milliseconds
are given as `..._ms`; `sent_ns` and `answered_ns` are CLOCK_MONOTONIC, which all processes of a machine share.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import IntEnum
from typing import NamedTuple, Protocol

from compat_tests.clients import LACKS


class Code(IntEnum):
    """Kafka's error codes that the tests name; negative ones are made by the client itself."""

    CLIENT_LACKS = -4
    CLIENT_OTHER = -3
    CLIENT_TIMED_OUT = -2
    UNKNOWN_SERVER_ERROR = -1
    NONE = 0
    OFFSET_OUT_OF_RANGE = 1
    CORRUPT_MESSAGE = 2
    UNKNOWN_TOPIC_OR_PARTITION = 3
    NOT_LEADER_OR_FOLLOWER = 6
    MESSAGE_TOO_LARGE = 10
    INVALID_TOPIC = 17
    INVALID_REQUIRED_ACKS = 21
    UNKNOWN_MEMBER_ID = 25
    TOPIC_ALREADY_EXISTS = 36
    INVALID_PARTITIONS = 37
    INVALID_REPLICATION_FACTOR = 38
    INVALID_CONFIG = 40
    INVALID_REQUEST = 42
    KAFKA_STORAGE_ERROR = 56
    NON_EMPTY_GROUP = 68
    GROUP_ID_NOT_FOUND = 69
    INVALID_RECORD = 87


class ClientError(Exception):
    """What a client reported: Kafka's error code (or a negative one of `Code`), the client's text, and whether it
    calls the error retriable.
    """

    def __init__(self, code: int, text: str, retriable: bool = False) -> None:
        super().__init__(code, text, retriable)
        self.code = code
        self.text = text
        self.retriable = retriable


def lacking(kind: str, ability: str) -> ClientError:
    return ClientError(Code.CLIENT_LACKS, f"{kind} {LACKS[kind][ability]}")


class Record(NamedTuple):
    value: bytes | None
    key: bytes | None = None
    headers: tuple[tuple[str, bytes | None], ...] = ()
    partition: int | None = None
    timestamp_ms: int | None = None


class Delivery(NamedTuple):
    """What the producer was told about one record. `code` 0: stored, at `offset` (-1 where acks=0 tells nothing)."""

    code: int
    partition: int
    offset: int
    sent_ns: int
    answered_ns: int
    retriable: bool = False


class Received(NamedTuple):
    topic: str
    partition: int
    offset: int
    timestamp_ms: int
    key: bytes | None
    value: bytes | None
    headers: tuple[tuple[str, bytes | None], ...]


class Place(NamedTuple):
    topic: str
    partition: int


@dataclass(frozen=True)
class ProducerSettings:
    """None leaves a setting at the client's own default."""

    acks: str = "all"
    idempotence: bool = False
    compression: str = "none"
    linger_ms: int = 0
    in_flight_max: int | None = None
    batch_size: int | None = None
    batch_records_max: int | None = None  # librdkafka only
    request_max_bytes: int | None = None  # the largest record, too
    retries: int | None = None
    delivery_timeout_ms: int = 60_000
    request_timeout_ms: int = 30_000


@dataclass(frozen=True)
class ConsumerSettings:
    group: str | None = None
    reset: str = "earliest"  # "none": an offset outside the log is an error
    session_timeout_ms: int = 20_000
    heartbeat_ms: int = 300
    fetch_wait_ms: int = 500
    fetch_min_bytes: int = 1
    fetch_max_bytes: int | None = None
    partition_fetch_max_bytes: int | None = None
    receive_buffer_bytes: int | None = None
    poll_interval_max_ms: int | None = None  # a member that polls less often leaves its group
    read_committed: bool | None = None
    group_protocol: str | None = None  # "consumer" is KIP-848; librdkafka only
    instance: str | None = None  # of a static member


class TopicInfo(NamedTuple):
    name: str
    partitions: int
    internal: bool
    leaders: tuple[int, ...]


class ClusterInfo(NamedTuple):
    cluster_id: str
    controller_id: int
    brokers: tuple[tuple[int, str, int], ...]  # id, host, port


class GroupInfo(NamedTuple):
    group: str
    state: str  # in lower case, words joined by "_"
    members: tuple[tuple[str, tuple[Place, ...]], ...]  # client id, assigned partitions


class Client(Protocol):
    """Producers and consumers are named by the number that opening them returned."""

    def open_producer(self, settings: ProducerSettings, bootstrap: str | None = None) -> int: ...

    def send(self, producer: int, topic: str, records: Sequence[Record], one_by_one: bool = False) -> list[Delivery]:
        """Send all and wait for the answers; `one_by_one` waits for each answer before the next record is sent."""
        ...

    def close_producer(self, producer: int) -> None: ...

    def transact(self, transactional_id: str, topic: str, records: Sequence[Record], commit: bool) -> None:
        """One transaction by a producer of its own, committed or aborted."""
        ...

    def open_consumer(self, settings: ConsumerSettings, bootstrap: str | None = None) -> int: ...

    def assign(self, consumer: int, places: Mapping[Place, int | None]) -> None:
        """Partition -> the offset to begin at; None leaves it to commits and the reset rule."""
        ...

    def subscribe(self, consumer: int, topics: Sequence[str] = (), pattern: str | None = None) -> None: ...

    def seek(self, consumer: int, place: Place, offset: int) -> None: ...

    def pause(self, consumer: int, places: Sequence[Place]) -> None:
        """Polls bring nothing of these until `resume`."""
        ...

    def resume(self, consumer: int, places: Sequence[Place]) -> None: ...

    def poll(self, consumer: int, timeout_ms: int) -> list[Received]:
        """What arrives within the time; returns as soon as there is something."""
        ...

    def read(self, consumer: int, count: int, timeout_ms: int = 60_000) -> list[Received]:
        """Poll until `count` records are there or the time is over; may return more than `count`, and fewer."""
        ...

    def assignment(self, consumer: int) -> list[Place]: ...

    def commit(self, consumer: int, offsets: Mapping[Place, int] | None = None) -> None: ...

    def committed(self, consumer: int, places: Sequence[Place]) -> dict[Place, int | None]: ...

    def position(self, consumer: int, place: Place) -> int: ...

    def bounds(self, consumer: int, places: Sequence[Place]) -> dict[Place, tuple[int, int]]:
        """First offset and end offset of each partition."""
        ...

    def offsets_for_times(self, consumer: int, times_ms: Mapping[Place, int]) -> dict[Place, int | None]:
        """None: no record that late."""
        ...

    def close_consumer(self, consumer: int) -> None: ...

    def create_topic(
        self,
        name: str,
        partitions: int = 1,
        config: Mapping[str, str] | None = None,
        replication: int = 1,
        validate_only: bool = False,
    ) -> None: ...

    def delete_topic(self, name: str) -> None: ...

    def create_partitions(self, name: str, count: int) -> None: ...

    def alter_topic(self, name: str, config: Mapping[str, str]) -> None: ...

    def delete_records(self, offsets: Mapping[Place, int]) -> None:
        """Everything below each offset."""
        ...

    def topics(self) -> list[str]:
        """The names in "list all topics", internal ones as the client shows them."""
        ...

    def describe_topic(self, name: str) -> TopicInfo: ...

    def describe_cluster(self) -> ClusterInfo: ...

    def topic_config(self, name: str) -> dict[str, str | None]: ...

    def broker_config(self, broker_id: int) -> dict[str, str | None]: ...

    def groups(self) -> list[str]: ...

    def describe_group(self, group: str) -> GroupInfo: ...

    def delete_group(self, group: str) -> None: ...

    def log_sizes(self) -> dict[Place, int]:
        """Partition -> size in bytes on the brokers."""
        ...

    def read_topic(self, topic: str, partitions: int, timeout_ms: int = 60_000) -> list[Received]:
        """Every record from the first to the end offset at the time of the call, in the order in which they came."""
        ...
