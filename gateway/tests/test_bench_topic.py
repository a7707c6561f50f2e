"""When `totalog bench` begins: a new topic has no leaders at first, and then leaders that do not know it yet."""

from types import SimpleNamespace
from typing import Any

import pytest

from totalog.gateway.bench import requests, topic
from totalog.gateway.bench.topic import CannotMeasure, Leader, Wanted
from totalog.gateway.wire import codec, produce
from totalog.gateway.wire.errors import ErrorCode

TOPIC = "totalog-bench-0123456789ab"
"""As long as the names that topics get, so that an answer has its error code where it is looked for."""
ELSEWHERE = ("other.example", 9092)
SEED = ("seed.example", 9092)
WANTED = Wanted(partitions=2, batch_size_max=1024, record_size=100, acks=1)


class Cluster:
    """What brokers answer, in turn; the last answer stays. Its clock moves when one sleeps."""

    def __init__(self, leaders: list[list[int]], errors: list[int]) -> None:
        self.leaders, self.errors = leaders, errors
        self.now = 0.0
        self.asked: list[str] = []
        """Where each record went to."""
        self.idle: Connection | None = None
        self.deleted_by: Connection | None = None
        self.gone = False
        self.delete_error = 0

    def connect(self, address: tuple[str, int]) -> Any:
        return Connection(self, address)

    def ask(self, connection: "Connection", request: bytes) -> bytes:
        if request[5] == codec.CreateTopicsRequest.API_KEY:
            self.idle = connection
            return self.created()
        if request[5] == codec.DeleteTopicsRequest.API_KEY:
            self.deleted_by = connection
            return self.deleted()
        if request[5] == codec.MetadataRequest.API_KEY:
            return self.metadata(self.leaders.pop(0) if len(self.leaders) > 1 else self.leaders[0])
        self.asked.append(connection.host)
        error = self.errors.pop(0) if len(self.errors) > 1 else self.errors[0]
        return produce.encode(requests.PRODUCE_VERSION, 1, [(TOPIC, 0, error, -1, -1, -1, None)])

    def created(self) -> bytes:
        version, answer = requests.CREATE_TOPICS_VERSION, codec.CreateTopicsResponse
        topic = answer.CreatableTopicResult(version=version, name=TOPIC, error_code=0, error_message=None)
        return bytes(codec.encode(answer(version=version, topics=[topic]), requests.CORRELATION_ID))

    def deleted(self) -> bytes:
        version, answer = requests.DELETE_TOPICS_VERSION, codec.DeleteTopicsResponse
        result = answer.DeletableTopicResult(version=version, name=TOPIC, error_code=self.delete_error)
        return bytes(codec.encode(answer(version=version, responses=[result]), requests.CORRELATION_ID))

    def metadata(self, leaders: list[int]) -> bytes:
        version, answer = requests.METADATA_VERSION, codec.MetadataResponse
        topic = answer.MetadataResponseTopic
        brokers = [(1, "seed.example", 9092), (2, *ELSEWHERE)]
        made = answer(
            version=version,
            brokers=[
                answer.MetadataResponseBroker(version=version, node_id=node, host=host, port=port)
                for node, host, port in brokers
            ],
            controller_id=1,
            topics=[
                topic(
                    version=version,
                    name=TOPIC,
                    partitions=[
                        topic.MetadataResponsePartition(
                            version=version, partition_index=at, leader_id=leader, replica_nodes=[], isr_nodes=[]
                        )
                        for at, leader in enumerate(leaders)
                    ],
                )
            ],
        )
        return bytes(codec.encode(made, 1))

    def sleep(self, seconds: float) -> None:
        self.now += seconds


class Connection:
    def __init__(self, cluster: Cluster, address: tuple[str, int]) -> None:
        self.cluster, self.host = cluster, address[0]

    def __enter__(self) -> "Connection":
        return self

    def __exit__(self, *_: object) -> None:
        pass


def leader_of(monkeypatch: pytest.MonkeyPatch, cluster: Cluster) -> Leader:
    monkeypatch.setattr(topic, "connected", cluster.connect)
    monkeypatch.setattr(requests, "ask", cluster.ask)
    monkeypatch.setattr(topic, "time", SimpleNamespace(monotonic=lambda: cluster.now, sleep=cluster.sleep))
    return topic.leader(cluster.connect(SEED), TOPIC, WANTED)


def test_the_topic_is_deleted_over_a_connection_that_was_not_idle(monkeypatch: pytest.MonkeyPatch) -> None:
    cluster = Cluster([[2, 2]], [0])
    monkeypatch.setattr(topic, "connected", cluster.connect)
    monkeypatch.setattr(requests, "ask", cluster.ask)
    told: list[str] = []
    with topic.topic(SEED, WANTED, told.append) as (leader, _):
        assert leader == Leader(2, ELSEWHERE)
        assert cluster.deleted_by is None
    assert told == []
    assert cluster.deleted_by is not None
    assert cluster.deleted_by is not cluster.idle
    assert cluster.deleted_by.host == SEED[0]


def test_a_broker_that_goes_is_told_as_it_went(monkeypatch: pytest.MonkeyPatch) -> None:
    cluster = Cluster([[2, 2]], [0])

    def connect(address: tuple[str, int]) -> Any:
        if cluster.gone:
            raise CannotMeasure("connection refused")
        return cluster.connect(address)

    monkeypatch.setattr(topic, "connected", connect)
    monkeypatch.setattr(requests, "ask", cluster.ask)
    told: list[str] = []
    with pytest.raises(ConnectionResetError), topic.topic(SEED, WANTED, told.append):
        cluster.gone = True
        raise ConnectionResetError
    (line,) = told
    assert line.endswith("is left behind: connection refused")


def test_a_topic_that_may_not_be_deleted_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    cluster = Cluster([[2, 2]], [0])
    cluster.delete_error = int(ErrorCode.TOPIC_AUTHORIZATION_FAILED)
    monkeypatch.setattr(topic, "connected", cluster.connect)
    monkeypatch.setattr(requests, "ask", cluster.ask)
    told: list[str] = []
    with topic.topic(SEED, WANTED, told.append) as (_, name):
        pass
    assert told == [f"the topic {name} is left behind: error 29"]


def test_it_waits_until_each_partition_takes_a_record(monkeypatch: pytest.MonkeyPatch) -> None:
    not_yet = int(ErrorCode.NOT_LEADER_OR_FOLLOWER)
    cluster = Cluster([[], [-1, -1], [2, -1], [2, 2]], [not_yet, not_yet, 0, not_yet, 0])
    assert leader_of(monkeypatch, cluster) == Leader(2, ELSEWHERE)
    assert cluster.asked == [ELSEWHERE[0]] * 6, "twice refused, then by the second partition, then taken by both"
    assert cluster.now > 0


def test_it_does_not_wait_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    for leaders in ([[-1, -1]], [[1, 1]]):
        cluster = Cluster(leaders, [int(ErrorCode.NOT_LEADER_OR_FOLLOWER)])
        with pytest.raises(CannotMeasure, match="takes no records after 20 s"):
            leader_of(monkeypatch, cluster)
        assert cluster.now <= topic.LEADER_S_MAX
        assert len(cluster.asked) < 100, "pauses grow"


@pytest.mark.parametrize("error", [int(ErrorCode.TOPIC_AUTHORIZATION_FAILED), 32_000])
def test_what_no_time_mends_is_told_at_once(monkeypatch: pytest.MonkeyPatch, error: int) -> None:
    cluster = Cluster([[1, 1]], [error])
    with pytest.raises(CannotMeasure, match=f"error {error}"):
        leader_of(monkeypatch, cluster)
    assert cluster.now == 0


def test_several_leaders_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(CannotMeasure, match="several leaders"):
        leader_of(monkeypatch, Cluster([[1, 2]], [0]))
