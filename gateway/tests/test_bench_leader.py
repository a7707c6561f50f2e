"""When `totalog bench` begins: a new topic has no leaders at first, and then leaders that do not know it yet."""

from types import SimpleNamespace
from typing import Any

import pytest

from totalog.gateway.bench import measure, requests
from totalog.gateway.bench.measure import CannotMeasure, Leader, Plan
from totalog.gateway.wire import codec, produce
from totalog.gateway.wire.errors import ErrorCode

TOPIC = "bench"
ELSEWHERE = ("other.example", 9092)
PLAN = Plan(("seed.example", 9092), 1024, 100, 1, 1, 1, 2, 1, 0.1)


class Cluster:
    """What brokers answer, in turn; the last answer stays. Its clock moves when one sleeps."""

    def __init__(self, leaders: list[list[int]], errors: list[int]) -> None:
        self.leaders, self.errors = leaders, errors
        self.now = 0.0
        self.asked: list[str] = []
        """Where each record went to."""

    def connect(self, address: tuple[str, int]) -> Any:
        return Connection(self, address)

    def ask(self, connection: "Connection", request: bytes) -> bytes:
        if request[5] == codec.MetadataRequest.API_KEY:
            return self.metadata(self.leaders.pop(0) if len(self.leaders) > 1 else self.leaders[0])
        self.asked.append(connection.host)
        error = self.errors.pop(0) if len(self.errors) > 1 else self.errors[0]
        return produce.encode(requests.PRODUCE_VERSION, 1, [(TOPIC, 0, error, -1, -1, -1, None)])

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
    monkeypatch.setattr(measure, "_connected", cluster.connect)
    monkeypatch.setattr(requests, "ask", cluster.ask)
    monkeypatch.setattr(measure, "time", SimpleNamespace(monotonic=lambda: cluster.now, sleep=cluster.sleep))
    return measure._leader(cluster.connect(PLAN.address), TOPIC, PLAN)


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
        assert cluster.now <= measure.LEADER_S_MAX
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
