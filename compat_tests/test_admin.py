"""What the admin clients show: the cluster, settings, log directories, errors about things that are not there."""

import pytest

from compat_tests.clients.face import Client, ClientError, ClusterInfo, Code, Place, Record
from compat_tests.conftest import MakeTopic, unique
from compat_tests.steps import write

TOPIC_SETTINGS = (
    "cleanup.policy",
    "compression.type",
    "max.message.bytes",
    "message.timestamp.type",
    "retention.bytes",
    "retention.ms",
)
BROKER_SETTINGS = (
    "auto.create.topics.enable",
    "log.retention.bytes",
    "log.retention.ms",
    "message.max.bytes",
    "num.partitions",
)


def test_the_cluster(client: Client, readers: dict[str, Client], address: str) -> None:
    cluster = client.describe_cluster()
    assert cluster.cluster_id
    assert cluster.controller_id in {broker_id for broker_id, _, _ in cluster.brokers}
    assert {other.describe_cluster() for other in readers.values()} == {cluster}


@pytest.mark.totalog_only
def test_the_cluster_is_one_broker_at_the_address_that_was_printed(client: Client, address: str) -> None:
    host, _, port = address.rpartition(":")
    assert client.describe_cluster().brokers == ((0, host, int(port)),)


def test_settings_of_a_topic(client: Client, make_topic: MakeTopic) -> None:
    topic = make_topic(1, retention_bytes=123_456_789)
    config = client.topic_config(topic)
    assert config["retention.bytes"] == "123456789"
    assert [name for name in TOPIC_SETTINGS if name not in config] == []
    assert client.topic_config(make_topic(1))["retention.bytes"] == "-1"


def test_settings_of_the_broker(client: Client, cluster: ClusterInfo) -> None:
    config = client.broker_config(cluster.brokers[0][0])
    assert [name for name in BROKER_SETTINGS if name not in config] == []
    assert int(config["num.partitions"] or 0) >= 1


@pytest.mark.needs("config_errors")
def test_settings_of_what_is_not_there(client: Client) -> None:
    with pytest.raises(ClientError) as unknown:
        client.topic_config(unique("unknown"))
    assert unknown.value.code == Code.UNKNOWN_TOPIC_OR_PARTITION


def test_topics_are_listed_once(client: Client, topic: str) -> None:
    names = client.topics()
    assert names.count(topic) == 1
    assert len(names) == len(set(names))


def test_a_topic_that_is_not_there(client: Client) -> None:
    name = unique("unknown")
    with pytest.raises(ClientError) as unknown:
        client.describe_topic(name)
    assert unknown.value.code == Code.UNKNOWN_TOPIC_OR_PARTITION
    assert name not in client.topics()


@pytest.mark.case("sizes on disk")
@pytest.mark.needs("log_sizes")
def test_log_directories_grow_with_what_is_written(client: Client, make_topic: MakeTopic) -> None:
    topic = make_topic(2)
    sizes = client.log_sizes()
    assert [sizes.get(Place(topic, at), 0) for at in range(2)] == [0, 0]
    write(client, topic, [Record(bytes(10_000), partition=1)] * 10)
    sizes = client.log_sizes()
    assert sizes.get(Place(topic, 0), 0) == 0
    assert 100_000 < sizes[Place(topic, 1)] < 110_000


def test_a_group_that_is_not_there(client: Client) -> None:
    """Described as dead, as Apache Kafka describes it, and in no list."""
    group = unique("unknown")
    described = client.describe_group(group)
    assert (described.state, described.members) == ("dead", ())
    assert group not in client.groups()
