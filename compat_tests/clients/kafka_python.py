"""kafka-python 3 behind the face. Runs only in a client process (`agent.py`)."""

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import kafka
from kafka import KafkaAdminClient, KafkaConsumer, KafkaProducer, TopicPartition
from kafka.admin import ConfigResource, ConfigResourceType
from kafka.structs import OffsetAndMetadata

from compat_tests.clients import KAFKA_PYTHON
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

REQUEST_TIMEOUT_MS = 60_000
TRANSACTION_TIME_MAX_MS = 10_000
RECONNECT = {"reconnect_backoff_ms": 20, "reconnect_backoff_max_ms": 500}


def translated_error(error: Exception) -> ClientError:
    retriable = bool(getattr(error, "retriable", False))
    if isinstance(error, kafka.errors.BrokerResponseError):
        return ClientError(error.errno, str(error), retriable)
    if isinstance(error, kafka.errors.MessageSizeTooLargeError):
        return ClientError(Code.MESSAGE_TOO_LARGE, str(error), retriable)
    timed_out = isinstance(error, kafka.errors.KafkaTimeoutError)
    return ClientError(Code.CLIENT_TIMED_OUT if timed_out else Code.CLIENT_OTHER, repr(error), retriable)


@contextmanager
def translated() -> Iterator[None]:
    try:
        yield
    except kafka.errors.KafkaError as error:
        raise translated_error(error) from error


class _Sent:
    """Takes the answer of one record, in the client's own sender thread."""

    def __init__(self, sent_ns: int) -> None:
        self.sent_ns = sent_ns
        self.delivery: Delivery | None = None

    def stored(self, metadata: Any) -> None:
        self.delivery = Delivery(0, metadata.partition, metadata.offset, self.sent_ns, time.monotonic_ns())

    def failed(self, error: Exception) -> None:
        known = translated_error(error)
        self.delivery = Delivery(known.code, -1, -1, self.sent_ns, time.monotonic_ns(), known.retriable)


class Face(Reading):
    def __init__(self, bootstrap: str) -> None:
        self._bootstrap = bootstrap
        self._handles: dict[int, Any] = {}
        self._count = 0
        self._admin_client: KafkaAdminClient | None = None

    def _keep(self, thing: Any) -> int:
        self._count += 1
        self._handles[self._count] = thing
        return self._count

    @property
    def _admin(self) -> KafkaAdminClient:
        if self._admin_client is None:
            with translated():
                self._admin_client = KafkaAdminClient(
                    bootstrap_servers=self._bootstrap, request_timeout_ms=REQUEST_TIMEOUT_MS, **RECONNECT
                )
        return self._admin_client

    # Producing

    def open_producer(self, settings: ProducerSettings, bootstrap: str | None = None) -> int:
        options: dict[str, Any] = {
            "acks": "all" if settings.acks == "all" else int(settings.acks),
            "enable_idempotence": settings.idempotence,
            "compression_type": None if settings.compression == "none" else settings.compression,
            "linger_ms": settings.linger_ms,
            "max_in_flight_requests_per_connection": settings.in_flight_max,
            "batch_size": settings.batch_size,
            "retries": settings.retries,
            "delivery_timeout_ms": settings.delivery_timeout_ms,
            "request_timeout_ms": settings.request_timeout_ms,
            "max_block_ms": settings.delivery_timeout_ms,
            "max_request_size": settings.request_max_bytes,
        }
        defaulted = ("max_in_flight_requests_per_connection", "batch_size", "retries", "max_request_size")
        options = {name: value for name, value in options.items() if value is not None or name not in defaulted}
        with translated():
            return self._keep(KafkaProducer(bootstrap_servers=bootstrap or self._bootstrap, **RECONNECT, **options))

    def send(self, producer: int, topic: str, records: Sequence[Record], one_by_one: bool = False) -> list[Delivery]:
        if any(record.key is None and record.value is None for record in records):
            raise lacking(KAFKA_PYTHON, "null_record")
        client = self._handles[producer]
        sent: list[_Sent] = []
        for record in records:
            mark = _Sent(time.monotonic_ns())
            sent.append(mark)
            try:
                future = client.send(
                    topic,
                    value=record.value,
                    key=record.key,
                    headers=list(record.headers),
                    partition=record.partition,
                    timestamp_ms=record.timestamp_ms,
                )
            except kafka.errors.KafkaError as error:
                mark.failed(error)
                continue
            future.add_callback(mark.stored)
            future.add_errback(mark.failed)
            if one_by_one:
                client.flush()
        client.flush()
        return [mark.delivery for mark in sent if mark.delivery is not None]

    def close_producer(self, producer: int) -> None:
        self._handles.pop(producer).close()

    def transact(self, transactional_id: str, topic: str, records: Sequence[Record], commit: bool) -> None:
        with translated():
            producer = KafkaProducer(
                bootstrap_servers=self._bootstrap,
                transactional_id=transactional_id,
                max_block_ms=TRANSACTION_TIME_MAX_MS,
            )
            with producer:
                producer.init_transactions()
                producer.begin_transaction()
                for record in records:
                    producer.send(topic, record.value, record.key, partition=record.partition)
                producer.flush()
                if commit:
                    producer.commit_transaction()
                else:
                    producer.abort_transaction()

    # Consuming

    def open_consumer(self, settings: ConsumerSettings, bootstrap: str | None = None) -> int:
        if settings.group_protocol is not None:
            raise lacking(KAFKA_PYTHON, "group_protocol")
        options: dict[str, Any] = {
            "fetch_max_bytes": settings.fetch_max_bytes,
            "max_partition_fetch_bytes": settings.partition_fetch_max_bytes,
            "receive_buffer_bytes": settings.receive_buffer_bytes,
            "max_poll_interval_ms": settings.poll_interval_max_ms,
            "group_instance_id": settings.instance,
        }
        if settings.read_committed is not None:
            options["isolation_level"] = "read_committed" if settings.read_committed else "read_uncommitted"
        options = {name: value for name, value in options.items() if value is not None}
        with translated():
            consumer = KafkaConsumer(
                bootstrap_servers=bootstrap or self._bootstrap,
                group_id=settings.group,
                enable_auto_commit=False,
                auto_offset_reset=settings.reset,
                session_timeout_ms=settings.session_timeout_ms,
                heartbeat_interval_ms=settings.heartbeat_ms,
                fetch_max_wait_ms=settings.fetch_wait_ms,
                request_timeout_ms=REQUEST_TIMEOUT_MS + settings.fetch_wait_ms,
                fetch_min_bytes=settings.fetch_min_bytes,
                metadata_max_age_ms=1_000,
                **RECONNECT,
                **options,
            )
        return self._keep(consumer)

    def close_consumer(self, consumer: int) -> None:
        self._handles.pop(consumer).close()

    def assign(self, consumer: int, places: Mapping[Place, int | None]) -> None:
        client = self._handles[consumer]
        client.assign([TopicPartition(*place) for place in places])
        for place, offset in places.items():
            if offset is not None:
                client.seek(TopicPartition(*place), offset)

    def subscribe(self, consumer: int, topics: Sequence[str] = (), pattern: str | None = None) -> None:
        self._handles[consumer].subscribe(topics=list(topics), pattern=pattern)

    def seek(self, consumer: int, place: Place, offset: int) -> None:
        self._handles[consumer].seek(TopicPartition(*place), offset)

    def pause(self, consumer: int, places: Sequence[Place]) -> None:
        self._handles[consumer].pause(*(TopicPartition(*place) for place in places))

    def resume(self, consumer: int, places: Sequence[Place]) -> None:
        self._handles[consumer].resume(*(TopicPartition(*place) for place in places))

    def poll(self, consumer: int, timeout_ms: int) -> list[Received]:
        client = self._handles[consumer]
        with translated():
            batches = client.poll(timeout_ms=timeout_ms, max_records=5_000)
        if client._coordinator is not None and client._coordinator.rejoining:
            # A poll that ends between JoinGroup and the answer to SyncGroup forgets why it joined, if new partitions
            # were the reason: no later poll would take up the assignment (kafka-python 3.0.12, join_group_async).
            client._coordinator.request_rejoin()
        return [
            Received(
                record.topic,
                record.partition,
                record.offset,
                record.timestamp,
                record.key,
                record.value,
                tuple((name, value) for name, value in record.headers),
            )
            for records in batches.values()
            for record in records
        ]

    def assignment(self, consumer: int) -> list[Place]:
        return sorted(Place(*place) for place in self._handles[consumer].assignment() or ())

    def commit(self, consumer: int, offsets: Mapping[Place, int] | None = None) -> None:
        chosen = None
        if offsets is not None:
            chosen = {TopicPartition(*place): OffsetAndMetadata(offset, "", -1) for place, offset in offsets.items()}
        with translated():
            self._handles[consumer].commit(chosen, timeout_ms=REQUEST_TIMEOUT_MS)

    def committed(self, consumer: int, places: Sequence[Place]) -> dict[Place, int | None]:
        client = self._handles[consumer]
        with translated():
            return {place: client.committed(TopicPartition(*place), timeout_ms=REQUEST_TIMEOUT_MS) for place in places}

    def position(self, consumer: int, place: Place) -> int:
        with translated():
            return int(self._handles[consumer].position(TopicPartition(*place), timeout_ms=REQUEST_TIMEOUT_MS))

    def bounds(self, consumer: int, places: Sequence[Place]) -> dict[Place, tuple[int, int]]:
        client = self._handles[consumer]
        partitions = [TopicPartition(*place) for place in places]
        with translated():
            first = client.beginning_offsets(partitions)
            end = client.end_offsets(partitions)
        return {Place(*partition): (first[partition], end[partition]) for partition in partitions}

    def offsets_for_times(self, consumer: int, times_ms: Mapping[Place, int]) -> dict[Place, int | None]:
        with translated():
            found = self._handles[consumer].offsets_for_times(
                {TopicPartition(*place): time_ms for place, time_ms in times_ms.items()}
            )
        return {Place(*partition): None if at is None else at.offset for partition, at in found.items()}

    # Administration

    def create_topic(
        self,
        name: str,
        partitions: int = 1,
        config: Mapping[str, str] | None = None,
        replication: int = 1,
        validate_only: bool = False,
    ) -> None:
        topic = {"num_partitions": partitions, "replication_factor": replication, "configs": dict(config or {})}
        with translated():
            self._admin.create_topics({name: topic}, validate_only=validate_only)

    def delete_topic(self, name: str) -> None:
        with translated():
            self._admin.delete_topics([name])

    def create_partitions(self, name: str, count: int) -> None:
        with translated():
            self._admin.create_partitions({name: count})

    def alter_topic(self, name: str, config: Mapping[str, str]) -> None:
        with translated():
            answer = self._admin.alter_configs([ConfigResource(ConfigResourceType.TOPIC, name, configs=dict(config))])
        (error,) = (answer[name] for answer in answer.values())
        if error != "OK":
            raise ClientError(Code.CLIENT_OTHER, str(error))

    def delete_records(self, offsets: Mapping[Place, int]) -> None:
        with translated():
            self._admin.delete_records({TopicPartition(*place): offset for place, offset in offsets.items()})

    def topics(self) -> list[str]:
        with translated():
            return sorted(self._admin.list_topics())

    def describe_topic(self, name: str) -> TopicInfo:
        with translated():
            (topic,) = self._admin.describe_topics([name])
        if topic["error_code"]:
            raise translated_error(kafka.errors.for_code(topic["error_code"])(name))
        partitions = sorted(topic["partitions"], key=lambda partition: int(partition["partition_index"]))
        leaders = tuple(-1 if partition["error_code"] else partition["leader_id"] for partition in partitions)
        return TopicInfo(name, len(partitions), topic["is_internal"], leaders)

    def describe_cluster(self) -> ClusterInfo:
        with translated():
            cluster = self._admin.describe_cluster()
        brokers = tuple((broker["broker_id"], broker["host"], broker["port"]) for broker in cluster["brokers"])
        return ClusterInfo(cluster["cluster_id"], cluster["controller_id"], brokers)

    def _config(self, resource_type: ConfigResourceType, name: str) -> dict[str, str | None]:
        with translated():
            answer = self._admin.describe_configs([ConfigResource(resource_type, name)], config_filter="all")
        (of_type,) = answer.values()
        if not of_type[name]:
            raise lacking(KAFKA_PYTHON, "config_errors")
        return {key: entry["value"] for key, entry in of_type[name].items()}

    def topic_config(self, name: str) -> dict[str, str | None]:
        return self._config(ConfigResourceType.TOPIC, name)

    def broker_config(self, broker_id: int) -> dict[str, str | None]:
        return self._config(ConfigResourceType.BROKER, str(broker_id))

    def groups(self) -> list[str]:
        with translated():
            return sorted(group["group_id"] for group in self._admin.list_groups())

    def describe_group(self, group: str) -> GroupInfo:
        with translated():
            found = self._admin.describe_groups([group])[group]
        members = []
        for member in found["members"]:
            assigned = (member["member_assignment"] or {}).get("assigned_partitions", [])
            places = tuple(Place(topic["topic"], partition) for topic in assigned for partition in topic["partitions"])
            members.append((member["client_id"], tuple(sorted(places))))
        return GroupInfo(group, found["group_state"].lower(), tuple(sorted(members)))

    def delete_group(self, group: str) -> None:
        with translated():
            (answer,) = self._admin.delete_groups([group]).values()
        if answer != "OK":  # the name of an error class
            raise translated_error(getattr(kafka.errors, answer)(group))

    def log_sizes(self) -> dict[Place, int]:
        with translated():
            brokers = self._admin.describe_log_dirs()
        directories = [directory for broker in brokers for directory in broker["log_dirs"]]
        return {
            Place(topic["name"], partition["partition_index"]): partition["partition_size"]
            for directory in directories
            for topic in directory["topics"]
            for partition in topic["partitions"]
        }
