"""confluent-kafka (librdkafka) behind the face. Runs only in a client process (`agent.py`)."""

import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future
from contextlib import contextmanager
from typing import Any

from confluent_kafka import (
    OFFSET_INVALID,
    Consumer,
    KafkaError,
    KafkaException,
    Message,
    Producer,
    TopicCollection,
    TopicPartition,
)
from confluent_kafka.admin import (  # type: ignore[attr-defined]  # the package does not say that it re-exports them
    AdminClient,
    AlterConfigOpType,
    ConfigEntry,
    ConfigResource,
    NewPartitions,
    NewTopic,
)

from compat_tests.clients import CONFLUENT
from compat_tests.clients.face import (
    ClientError,
    ClusterInfo,
    Code,
    ConsumerSettings,
    Delivery,
    GroupInfo,
    Place,
    ProducerSettings,
    Received,
    Record,
    TopicInfo,
    lacking,
)
from compat_tests.clients.reading import Reading

REQUEST_TIMEOUT_S = 60.0
TRANSACTION_TIME_MAX_S = 10.0
ISOLATION = {None: None, False: "read_uncommitted", True: "read_committed"}
RECONNECT = {"reconnect.backoff.ms": 20, "reconnect.backoff.max.ms": 500}
_TIMED_OUT = (KafkaError._TIMED_OUT, KafkaError._MSG_TIMED_OUT, KafkaError._TIMED_OUT_QUEUE)


def translated_code(error: KafkaError) -> int:
    code = error.code()
    if code >= Code.UNKNOWN_SERVER_ERROR:
        return int(code)
    return Code.CLIENT_TIMED_OUT if code in _TIMED_OUT else Code.CLIENT_OTHER


@contextmanager
def translated() -> Iterator[None]:
    try:
        yield
    except KafkaException as failure:
        error = failure.args[0]
        raise ClientError(translated_code(error), str(error), bool(error.retriable())) from failure


class _Sent:
    """Takes the answer of one record, called from the client's poll."""

    def __init__(self, sent_ns: int) -> None:
        self.sent_ns = sent_ns
        self.delivery: Delivery | None = None

    def __call__(self, error: KafkaError | None, message: Message) -> None:
        answered_ns = time.monotonic_ns()
        if error is not None:
            self.delivery = Delivery(translated_code(error), -1, -1, self.sent_ns, answered_ns, bool(error.retriable()))
            return
        offset = message.offset()
        stored_at = -1 if offset is None or offset == OFFSET_INVALID else offset
        self.delivery = Delivery(0, int(message.partition() or 0), stored_at, self.sent_ns, answered_ns)


def _one(futures: Mapping[Any, Future[Any]]) -> Any:
    """The result of an admin call that was made for one thing."""
    (future,) = futures.values()
    with translated():
        return future.result(REQUEST_TIMEOUT_S)


class Face(Reading):
    def __init__(self, bootstrap: str) -> None:
        self._bootstrap = bootstrap
        self._handles: dict[int, Any] = {}
        self._count = 0
        self._admin_client: AdminClient | None = None
        self._assigned: dict[int, dict[Place, None]] = {}

    def _keep(self, thing: Any) -> int:
        self._count += 1
        self._handles[self._count] = thing
        return self._count

    @property
    def _admin(self) -> AdminClient:
        if self._admin_client is None:
            self._admin_client = AdminClient({"bootstrap.servers": self._bootstrap, **RECONNECT})
        return self._admin_client

    # Producing

    def open_producer(self, settings: ProducerSettings, bootstrap: str | None = None) -> int:
        options: dict[str, Any] = {
            "bootstrap.servers": bootstrap or self._bootstrap,
            "acks": settings.acks,
            "enable.idempotence": settings.idempotence,
            "compression.type": settings.compression,
            "linger.ms": settings.linger_ms,
            "max.in.flight.requests.per.connection": settings.in_flight_max,
            "batch.size": settings.batch_size,
            "batch.num.messages": settings.batch_records_max,
            "message.max.bytes": settings.request_max_bytes,
            "message.send.max.retries": settings.retries,
            "delivery.timeout.ms": settings.delivery_timeout_ms,
            "request.timeout.ms": settings.request_timeout_ms,
            "queue.buffering.max.kbytes": 1_048_576,
            "topic.metadata.refresh.interval.ms": 1_000,
            **RECONNECT,
        }
        with translated():
            return self._keep(Producer({name: value for name, value in options.items() if value is not None}))

    def send(self, producer: int, topic: str, records: Sequence[Record], one_by_one: bool = False) -> list[Delivery]:
        client: Producer = self._handles[producer]
        sent: list[_Sent] = []
        for record in records:
            mark = _Sent(time.monotonic_ns())
            sent.append(mark)
            options: dict[str, Any] = {}
            if record.partition is not None:
                options["partition"] = record.partition
            if record.timestamp_ms is not None:
                options["timestamp"] = record.timestamp_ms
            if record.headers:
                options["headers"] = list(record.headers)
            self._produce(client, topic, record, mark, options)
            if one_by_one:
                client.flush()
            else:
                client.poll(0)
        client.flush()
        return [mark.delivery for mark in sent if mark.delivery is not None]

    @staticmethod
    def _produce(client: Producer, topic: str, record: Record, mark: _Sent, options: dict[str, Any]) -> None:
        while True:
            try:
                client.produce(topic, value=record.value, key=record.key, on_delivery=mark, **options)
                return
            except BufferError:  # the client's own queue is full
                client.poll(1.0)
            except KafkaException as failure:
                error = failure.args[0]
                mark.delivery = Delivery(
                    translated_code(error), -1, -1, mark.sent_ns, time.monotonic_ns(), bool(error.retriable())
                )
                return

    def close_producer(self, producer: int) -> None:
        self._handles.pop(producer).flush()

    def transact(self, transactional_id: str, topic: str, records: Sequence[Record], commit: bool) -> None:
        with translated():
            producer = Producer({"bootstrap.servers": self._bootstrap, "transactional.id": transactional_id})
            producer.init_transactions(TRANSACTION_TIME_MAX_S)
            producer.begin_transaction()
            for record in records:
                producer.produce(topic, record.value, record.key, partition=record.partition or 0)
            producer.flush()
            if commit:
                producer.commit_transaction()
            else:
                producer.abort_transaction()

    # Consuming

    def open_consumer(self, settings: ConsumerSettings, bootstrap: str | None = None) -> int:
        options: dict[str, Any] = {
            "bootstrap.servers": bootstrap or self._bootstrap,
            "group.id": settings.group or "compat-tests-without-group",
            "enable.auto.commit": False,
            "enable.auto.offset.store": settings.group is not None,
            "auto.offset.reset": "error" if settings.reset == "none" else settings.reset,
            "session.timeout.ms": settings.session_timeout_ms,
            "heartbeat.interval.ms": settings.heartbeat_ms,
            "fetch.wait.max.ms": settings.fetch_wait_ms,
            "socket.timeout.ms": round(REQUEST_TIMEOUT_S * 1000) + settings.fetch_wait_ms,
            "fetch.min.bytes": settings.fetch_min_bytes,
            "fetch.max.bytes": settings.fetch_max_bytes,
            "message.max.bytes": settings.fetch_max_bytes if (settings.fetch_max_bytes or 0) >= 1_000 else None,
            "max.partition.fetch.bytes": settings.partition_fetch_max_bytes,
            "socket.receive.buffer.bytes": settings.receive_buffer_bytes,
            "max.poll.interval.ms": settings.poll_interval_max_ms,
            "topic.metadata.refresh.interval.ms": 1_000,
            "isolation.level": ISOLATION[settings.read_committed],
            "group.instance.id": settings.instance,
            **RECONNECT,
        }
        if settings.group_protocol == "consumer":  # the group's settings are then the broker's
            options["group.protocol"] = settings.group_protocol
            del options["session.timeout.ms"], options["heartbeat.interval.ms"]
        with translated():
            return self._keep(Consumer({name: value for name, value in options.items() if value is not None}))

    def close_consumer(self, consumer: int) -> None:
        with translated():
            self._handles.pop(consumer).close()

    def assign(self, consumer: int, places: Mapping[Place, int | None]) -> None:
        with translated():
            self._handles[consumer].assign(
                [
                    TopicPartition(*place) if offset is None else TopicPartition(*place, offset)
                    for place, offset in places.items()
                ]
            )

    def subscribe(self, consumer: int, topics: Sequence[str] = (), pattern: str | None = None) -> None:
        with translated():
            self._handles[consumer].subscribe(list(topics) if pattern is None else ["^" + pattern])

    def seek(self, consumer: int, place: Place, offset: int) -> None:
        with translated():
            self._handles[consumer].seek(TopicPartition(*place, offset))

    def pause(self, consumer: int, places: Sequence[Place]) -> None:
        with translated():
            self._handles[consumer].pause([TopicPartition(*place) for place in places])

    def resume(self, consumer: int, places: Sequence[Place]) -> None:
        with translated():
            self._handles[consumer].resume([TopicPartition(*place) for place in places])

    def poll(self, consumer: int, timeout_ms: int) -> list[Received]:
        client: Consumer = self._handles[consumer]
        with translated():
            first = client.poll(timeout_ms / 1000)
            messages = [] if first is None else [first, *client.consume(num_messages=5_000, timeout=0)]
        return [self._received(message) for message in messages]

    @staticmethod
    def _received(message: Any) -> Received:
        error = message.error()
        if error is not None:
            raise ClientError(translated_code(error), str(error), bool(error.retriable()))
        headers = tuple((name, value) for name, value in message.headers() or ())
        return Received(
            message.topic(),
            message.partition(),
            message.offset(),
            message.timestamp()[1],
            message.key(),
            message.value(),
            headers,
        )

    def assignment(self, consumer: int) -> list[Place]:
        return sorted(Place(at.topic, at.partition) for at in self._handles[consumer].assignment())

    def commit(self, consumer: int, offsets: Mapping[Place, int] | None = None) -> None:
        with translated():
            if offsets is None:
                self._handles[consumer].commit(asynchronous=False)
            else:
                chosen = [TopicPartition(*place, offset) for place, offset in offsets.items()]
                self._handles[consumer].commit(offsets=chosen, asynchronous=False)

    def committed(self, consumer: int, places: Sequence[Place]) -> dict[Place, int | None]:
        with translated():
            found = self._handles[consumer].committed(
                [TopicPartition(*place) for place in places], timeout=REQUEST_TIMEOUT_S
            )
        return {Place(at.topic, at.partition): at.offset if at.offset >= 0 else None for at in found}

    def position(self, consumer: int, place: Place) -> int:
        with translated():
            (at,) = self._handles[consumer].position([TopicPartition(*place)])
        return int(at.offset)

    def bounds(self, consumer: int, places: Sequence[Place]) -> dict[Place, tuple[int, int]]:
        client = self._handles[consumer]
        with translated():
            return {
                place: client.get_watermark_offsets(TopicPartition(*place), timeout=REQUEST_TIMEOUT_S)
                for place in places
            }

    def offsets_for_times(self, consumer: int, times_ms: Mapping[Place, int]) -> dict[Place, int | None]:
        asked = [TopicPartition(*place, time_ms) for place, time_ms in times_ms.items()]
        with translated():
            found = self._handles[consumer].offsets_for_times(asked, timeout=REQUEST_TIMEOUT_S)
        return {Place(at.topic, at.partition): at.offset if at.offset >= 0 else None for at in found}

    # Administration

    def create_topic(
        self,
        name: str,
        partitions: int = 1,
        config: Mapping[str, str] | None = None,
        replication: int = 1,
        validate_only: bool = False,
    ) -> None:
        topic = NewTopic(name, partitions, replication, config=dict(config or {}))
        _one(self._admin.create_topics([topic], validate_only=validate_only))

    def delete_topic(self, name: str) -> None:
        _one(self._admin.delete_topics([name]))

    def create_partitions(self, name: str, count: int) -> None:
        _one(self._admin.create_partitions([NewPartitions(name, count)]))

    def alter_topic(self, name: str, config: Mapping[str, str]) -> None:
        entries = [
            ConfigEntry(key, value, incremental_operation=AlterConfigOpType.SET) for key, value in config.items()
        ]
        resource = ConfigResource(ConfigResource.Type.TOPIC, name, incremental_configs=entries)
        _one(self._admin.incremental_alter_configs([resource]))

    def delete_records(self, offsets: Mapping[Place, int]) -> None:
        chosen = [TopicPartition(*place, offset) for place, offset in offsets.items()]
        with translated():
            for future in self._admin.delete_records(chosen, request_timeout=REQUEST_TIMEOUT_S).values():
                future.result(REQUEST_TIMEOUT_S)

    def topics(self) -> list[str]:
        with translated():
            return sorted(self._admin.list_topics(timeout=REQUEST_TIMEOUT_S).topics)

    def describe_topic(self, name: str) -> TopicInfo:
        topic = _one(self._admin.describe_topics(TopicCollection([name]), request_timeout=REQUEST_TIMEOUT_S))
        leaders = tuple(-1 if at.leader is None else at.leader.id for at in topic.partitions)
        return TopicInfo(topic.name, len(topic.partitions), topic.is_internal, leaders)

    def describe_cluster(self) -> ClusterInfo:
        with translated():
            cluster = self._admin.describe_cluster(request_timeout=REQUEST_TIMEOUT_S).result(REQUEST_TIMEOUT_S)
        brokers = tuple((node.id, node.host, node.port) for node in cluster.nodes)
        return ClusterInfo(cluster.cluster_id, cluster.controller.id, brokers)

    def _config(self, resource: ConfigResource) -> dict[str, str | None]:
        return {name: entry.value for name, entry in _one(self._admin.describe_configs([resource])).items()}

    def topic_config(self, name: str) -> dict[str, str | None]:
        return self._config(ConfigResource(ConfigResource.Type.TOPIC, name))

    def broker_config(self, broker_id: int) -> dict[str, str | None]:
        return self._config(ConfigResource(ConfigResource.Type.BROKER, str(broker_id)))

    def groups(self) -> list[str]:
        with translated():
            listing = self._admin.list_consumer_groups(request_timeout=REQUEST_TIMEOUT_S).result(REQUEST_TIMEOUT_S)
        for failure in listing.errors:
            with translated():
                raise failure
        return sorted(group.group_id for group in listing.valid)

    def describe_group(self, group: str) -> GroupInfo:
        found = _one(self._admin.describe_consumer_groups([group], request_timeout=REQUEST_TIMEOUT_S))
        members = [
            (
                member.client_id,
                tuple(sorted(Place(at.topic, at.partition) for at in member.assignment.topic_partitions)),
            )
            for member in found.members
        ]
        return GroupInfo(group, found.state.name.lower(), tuple(sorted(members)))

    def delete_group(self, group: str) -> None:
        _one(self._admin.delete_consumer_groups([group], request_timeout=REQUEST_TIMEOUT_S))

    def log_sizes(self) -> dict[Place, int]:
        raise lacking(CONFLUENT, "log_sizes")
