"""aiokafka behind the face. Runs only in a client process (`agent.py`).

aiokafka belongs to an event loop, so one runs in a thread of its own for as long as the process lives: heartbeats and
fetches go on between the calls of a test, as in an asyncio application. Each call of the face is one coroutine.
"""

import asyncio
import threading
import time
from collections.abc import Coroutine, Mapping, Sequence
from typing import Any, TypeVar

import aiokafka.errors
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition
from aiokafka.admin import AIOKafkaAdminClient, NewPartitions, NewTopic, RecordsToDelete
from aiokafka.admin.config_resource import ConfigResource, ConfigResourceType
from aiokafka.coordinator.protocol import ConsumerProtocolMemberAssignment
from aiokafka.protocol.metadata import MetadataRequest

from compat_tests.clients import AIOKAFKA
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
TRANSACTION_TIME_MAX_S = 10.0
METADATA_MAX_AGE_MS = 1_000
POLL_OVERDUE_S = 0.05
_TIMED_OUT = (aiokafka.errors.KafkaTimeoutError, asyncio.TimeoutError)
_OWN = (
    aiokafka.errors.KafkaError,
    aiokafka.errors.IllegalOperation,
    aiokafka.errors.ConsumerStoppedError,
    AssertionError,
    *_TIMED_OUT,
)

T = TypeVar("T")


def translated_error(error: BaseException) -> ClientError:
    retriable = bool(getattr(error, "retriable", False))
    if isinstance(error, aiokafka.errors.BrokerResponseError):
        return ClientError(error.errno, str(error), retriable)
    timed_out = isinstance(error, _TIMED_OUT)
    return ClientError(Code.CLIENT_TIMED_OUT if timed_out else Code.CLIENT_OTHER, repr(error), retriable)


def check(code: int, text: str | None) -> None:
    """Raises what an answer says; aiokafka's admin client hands answers on as they are."""
    if code:
        error = aiokafka.errors.for_code(code)
        raise ClientError(code, text or error.__name__, bool(error.retriable))


class _Sent:
    """Takes the answer of one record, in the loop."""

    def __init__(self, record: Record) -> None:
        self.partition = -1 if record.partition is None else record.partition
        self.sent_ns = time.monotonic_ns()
        self.delivery: Delivery | None = None

    def __call__(self, answer: "asyncio.Future[Any]") -> None:
        error = answer.exception()
        if error is not None:
            self.failed(error)
            return
        metadata = answer.result()  # None with acks=0
        partition, offset = (self.partition, -1) if metadata is None else (metadata.partition, metadata.offset)
        self.delivery = Delivery(0, partition, offset, self.sent_ns, time.monotonic_ns())

    def failed(self, error: BaseException) -> None:
        known = translated_error(error)
        self.delivery = Delivery(known.code, -1, -1, self.sent_ns, time.monotonic_ns(), known.retriable)


class Face(Reading):
    def __init__(self, bootstrap: str) -> None:
        self._bootstrap = bootstrap
        self._handles: dict[int, Any] = {}
        self._polls: dict[int, asyncio.Future[dict[TopicPartition, list[Any]]]] = {}
        self._count = 0
        self._admin_client: AIOKafkaAdminClient | None = None
        self._loop = asyncio.new_event_loop()
        threading.Thread(target=self._loop.run_forever, daemon=True).start()

    def _wait(self, work: Coroutine[Any, Any, T]) -> T:
        try:
            return asyncio.run_coroutine_threadsafe(work, self._loop).result()
        except _OWN as error:
            raise translated_error(error) from error

    def _keep(self, thing: Any) -> int:
        self._count += 1
        self._handles[self._count] = thing
        return self._count

    async def _admin(self) -> AIOKafkaAdminClient:
        if self._admin_client is None:
            admin = AIOKafkaAdminClient(bootstrap_servers=self._bootstrap, request_timeout_ms=REQUEST_TIMEOUT_MS)
            await admin.start()
            self._admin_client = admin
        return self._admin_client

    # Producing

    def open_producer(self, settings: ProducerSettings, bootstrap: str | None = None) -> int:
        """One request is in flight at a time. `request_timeout_ms` is the client's only time limit: after it a record
        that was not stored is given up, so here it is the time for a delivery; `retries` cannot be set.
        """
        options: dict[str, Any] = {
            "acks": "all" if settings.acks == "all" else int(settings.acks),
            "enable_idempotence": settings.idempotence,
            "compression_type": None if settings.compression == "none" else settings.compression,
            "linger_ms": settings.linger_ms,
            "request_timeout_ms": settings.delivery_timeout_ms,
        }
        if settings.batch_size is not None:
            options["max_batch_size"] = settings.batch_size
        if settings.request_max_bytes is not None:
            options["max_request_size"] = settings.request_max_bytes

        async def opened() -> AIOKafkaProducer:
            producer = AIOKafkaProducer(
                bootstrap_servers=bootstrap or self._bootstrap, metadata_max_age_ms=METADATA_MAX_AGE_MS, **options
            )
            await producer.start()
            return producer

        return self._keep(self._wait(opened()))

    def send(self, producer: int, topic: str, records: Sequence[Record], one_by_one: bool = False) -> list[Delivery]:
        if any(record.key is None and record.value is None for record in records):
            raise lacking(AIOKAFKA, "null_record")
        client: AIOKafkaProducer = self._handles[producer]

        async def sent() -> list[Delivery]:
            marks = []
            for record in records:
                mark = _Sent(record)
                marks.append(mark)
                try:
                    answer = await client.send(
                        topic, record.value, record.key, record.partition, record.timestamp_ms, list(record.headers)
                    )
                except _OWN as error:
                    mark.failed(error)
                    continue
                answer.add_done_callback(mark)
                if one_by_one:
                    await asyncio.wait([answer])
            await client.flush()
            await asyncio.sleep(0)  # the callbacks of the last batch
            return [mark.delivery for mark in marks if mark.delivery is not None]

        return self._wait(sent())

    def close_producer(self, producer: int) -> None:
        self._wait(self._handles.pop(producer).stop())

    def transact(self, transactional_id: str, topic: str, records: Sequence[Record], commit: bool) -> None:
        async def done() -> None:
            producer = AIOKafkaProducer(bootstrap_servers=self._bootstrap, transactional_id=transactional_id)
            try:
                await producer.start()
                await producer.begin_transaction()
                for record in records:
                    await producer.send(topic, record.value, record.key, record.partition)
                if commit:
                    await producer.commit_transaction()
                else:
                    await producer.abort_transaction()
            finally:
                await producer.stop()

        self._wait(asyncio.wait_for(done(), TRANSACTION_TIME_MAX_S))

    # Consuming

    def open_consumer(self, settings: ConsumerSettings, bootstrap: str | None = None) -> int:
        if settings.receive_buffer_bytes is not None:
            raise lacking(AIOKAFKA, "receive_buffer")
        if settings.group_protocol is not None:
            raise lacking(AIOKAFKA, "group_protocol")
        options: dict[str, Any] = {
            "fetch_max_bytes": settings.fetch_max_bytes,
            "max_partition_fetch_bytes": settings.partition_fetch_max_bytes,
            "max_poll_interval_ms": settings.poll_interval_max_ms,
            "group_instance_id": settings.instance,
        }
        if settings.read_committed is not None:
            options["isolation_level"] = "read_committed" if settings.read_committed else "read_uncommitted"
        options = {name: value for name, value in options.items() if value is not None}

        async def opened() -> AIOKafkaConsumer:
            consumer = AIOKafkaConsumer(
                bootstrap_servers=bootstrap or self._bootstrap,
                group_id=settings.group,
                enable_auto_commit=False,
                auto_offset_reset=settings.reset,
                session_timeout_ms=settings.session_timeout_ms,
                heartbeat_interval_ms=settings.heartbeat_ms,
                fetch_max_wait_ms=settings.fetch_wait_ms,
                request_timeout_ms=REQUEST_TIMEOUT_MS + settings.fetch_wait_ms,
                fetch_min_bytes=settings.fetch_min_bytes,
                metadata_max_age_ms=METADATA_MAX_AGE_MS,
                **options,
            )
            await consumer.start()
            return consumer

        return self._keep(self._wait(opened()))

    def close_consumer(self, consumer: int) -> None:
        if consumer in self._polls:
            self._loop.call_soon_threadsafe(self._polls.pop(consumer).cancel)
        self._wait(self._handles.pop(consumer).stop())

    def assign(self, consumer: int, places: Mapping[Place, int | None]) -> None:
        client: AIOKafkaConsumer = self._handles[consumer]

        async def assigned() -> None:
            client.assign([TopicPartition(*place) for place in places])
            for place, offset in places.items():
                if offset is not None:
                    client.seek(TopicPartition(*place), offset)

        self._wait(assigned())

    def subscribe(self, consumer: int, topics: Sequence[str] = (), pattern: str | None = None) -> None:
        async def subscribed() -> None:
            self._handles[consumer].subscribe(topics=list(topics), pattern=pattern)

        self._wait(subscribed())

    def seek(self, consumer: int, place: Place, offset: int) -> None:
        async def sought() -> None:
            self._handles[consumer].seek(TopicPartition(*place), offset)

        self._wait(sought())

    def pause(self, consumer: int, places: Sequence[Place]) -> None:
        async def paused() -> None:
            self._handles[consumer].pause(*(TopicPartition(*place) for place in places))

        self._wait(paused())

    def resume(self, consumer: int, places: Sequence[Place]) -> None:
        async def resumed() -> None:
            self._handles[consumer].resume(*(TopicPartition(*place) for place in places))

        self._wait(resumed())

    def poll(self, consumer: int, timeout_ms: int) -> list[Received]:
        """While its group rebalances, `getmany` waits beyond its timeout; the next poll then waits on for the same."""
        client: AIOKafkaConsumer = self._handles[consumer]

        async def polled() -> dict[TopicPartition, list[Any]]:
            waiting = self._polls.pop(consumer, None) or asyncio.ensure_future(
                client.getmany(timeout_ms=timeout_ms, max_records=5_000)
            )
            await asyncio.wait({waiting}, timeout=timeout_ms / 1000 + POLL_OVERDUE_S)
            if waiting.done():
                return waiting.result()
            self._polls[consumer] = waiting
            return {}

        batches = self._wait(polled())
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
        return sorted(Place(*place) for place in self._handles[consumer].assignment())

    def commit(self, consumer: int, offsets: Mapping[Place, int] | None = None) -> None:
        chosen = None if offsets is None else {TopicPartition(*place): offset for place, offset in offsets.items()}
        self._wait(self._handles[consumer].commit(chosen))

    def committed(self, consumer: int, places: Sequence[Place]) -> dict[Place, int | None]:
        client: AIOKafkaConsumer = self._handles[consumer]

        async def found() -> dict[Place, int | None]:
            return {place: await client.committed(TopicPartition(*place)) for place in places}

        return self._wait(found())

    def position(self, consumer: int, place: Place) -> int:
        return int(self._wait(self._handles[consumer].position(TopicPartition(*place))))

    def bounds(self, consumer: int, places: Sequence[Place]) -> dict[Place, tuple[int, int]]:
        client: AIOKafkaConsumer = self._handles[consumer]
        partitions = [TopicPartition(*place) for place in places]
        first = self._wait(client.beginning_offsets(partitions))
        end = self._wait(client.end_offsets(partitions))
        return {Place(*partition): (first[partition], end[partition]) for partition in partitions}

    def offsets_for_times(self, consumer: int, times_ms: Mapping[Place, int]) -> dict[Place, int | None]:
        asked = {TopicPartition(*place): time_ms for place, time_ms in times_ms.items()}
        found = self._wait(self._handles[consumer].offsets_for_times(asked))
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
        topic = NewTopic(name, partitions, replication, topic_configs=dict(config or {}))

        async def created() -> Any:
            return await (await self._admin()).create_topics([topic], validate_only=validate_only)

        ((_, code, text),) = self._wait(created()).topic_errors
        check(code, text)

    def delete_topic(self, name: str) -> None:
        async def deleted() -> Any:
            return await (await self._admin()).delete_topics([name])

        ((_, code),) = self._wait(deleted()).topic_error_codes
        check(code, name)

    def create_partitions(self, name: str, count: int) -> None:
        async def created() -> None:
            await (await self._admin()).create_partitions({name: NewPartitions(count)})

        self._wait(created())

    def alter_topic(self, name: str, config: Mapping[str, str]) -> None:
        async def altered() -> Any:
            resource = ConfigResource(ConfigResourceType.TOPIC, name, dict(config))
            return await (await self._admin()).alter_configs([resource])

        (answer,) = self._wait(altered())
        ((code, text, _, _),) = answer.resources
        check(code, text)

    def delete_records(self, offsets: Mapping[Place, int]) -> None:
        chosen = {TopicPartition(*place): RecordsToDelete(offset) for place, offset in offsets.items()}

        async def deleted() -> None:
            await (await self._admin()).delete_records(chosen)

        self._wait(deleted())

    def topics(self) -> list[str]:
        async def listed() -> Any:
            return await (await self._admin()).list_topics()

        return sorted(self._wait(listed()))

    def describe_topic(self, name: str) -> TopicInfo:
        """The admin client's own `describe_topics` would make a topic that is not there, so this asks without that."""

        async def described() -> Any:
            admin = await self._admin()
            return await admin._send_request(MetadataRequest([name], allow_auto_topic_creation=False))

        (topic,) = self._wait(described()).to_object()["topics"]
        check(topic["error_code"], name)
        partitions = sorted(topic["partitions"], key=lambda partition: int(partition["partition"]))
        leaders = tuple(-1 if partition["error_code"] else partition["leader"] for partition in partitions)
        return TopicInfo(name, len(partitions), topic["is_internal"], leaders)

    def describe_cluster(self) -> ClusterInfo:
        async def described() -> Any:
            return await (await self._admin()).describe_cluster()

        cluster = self._wait(described())
        brokers = tuple((broker["node_id"], broker["host"], broker["port"]) for broker in cluster["brokers"])
        return ClusterInfo(cluster["cluster_id"], cluster["controller_id"], brokers)

    def _config(self, resource_type: ConfigResourceType, name: str) -> dict[str, str | None]:
        async def described() -> Any:
            return await (await self._admin()).describe_configs([ConfigResource(resource_type, name)])

        (answer,) = self._wait(described())
        ((code, text, _, _, entries),) = answer.resources
        check(code, text)
        return {key: value for key, value, *_ in entries}

    def topic_config(self, name: str) -> dict[str, str | None]:
        return self._config(ConfigResourceType.TOPIC, name)

    def broker_config(self, broker_id: int) -> dict[str, str | None]:
        return self._config(ConfigResourceType.BROKER, str(broker_id))

    def groups(self) -> list[str]:
        async def listed() -> Any:
            return await (await self._admin()).list_consumer_groups()

        return sorted(group for group, *_ in self._wait(listed()))

    def describe_group(self, group: str) -> GroupInfo:
        async def described() -> Any:
            return await (await self._admin()).describe_consumer_groups([group])

        (answer,) = self._wait(described())
        ((code, _, state, _, _, members, *_),) = answer.groups
        check(code, group)
        found = []
        for _, client_id, _, _, assignment in members:
            places = ConsumerProtocolMemberAssignment.decode(assignment).partitions() if assignment else ()
            found.append((client_id, tuple(sorted(Place(*place) for place in places))))
        return GroupInfo(group, state.lower(), tuple(sorted(found)))

    def delete_group(self, group: str) -> None:
        raise lacking(AIOKAFKA, "delete_group")

    def log_sizes(self) -> dict[Place, int]:
        raise lacking(AIOKAFKA, "log_sizes")
