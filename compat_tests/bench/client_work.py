"""What one stock client does in one measurement, as a process of its own: `python -m compat_tests.bench.client_work
KIND WORK ADDRESS TOPIC SIZE COUNT`. Prints JSON: seconds by name, and the processor time of `produce` and `consume`.

Clients keep their own defaults, except that acks are all and nothing is compressed; so a linger is each client's own.
What consumes is timed from when it was assigned its partition, since a client may fetch tens of megabytes before it
hands out the first record.
"""

import asyncio
import json
import sys
import time
from collections.abc import Callable, Collection, Mapping
from functools import partial
from types import MappingProxyType
from typing import Any

GROUP_PREFIX = "bench-"
TIMEOUT_S = 60.0

CONSUMED_AT_ONCE = 1_000
"""Records that confluent-kafka is asked for by one call."""

AT_WORK = ", at work"
"""Behind the name of seconds: those of them in which the client had a processor."""

SHORT_PAUSES: Mapping[str, str | int] = {"fetch.queue.backoff.ms": 10}
"""What librdkafka needs to fetch all the time. Where 100,000 records of a partition (queued.min.messages) or 64 MB
(queued.max.messages.kbytes) wait for the application, it does not fetch for this time, 1,000 ms by default, however
soon they are taken: rd_kafka_toppar_fetch_decide in its rdkafka_fetcher.c."""

Seconds = dict[str, float]
Moment = tuple[float, float]


def now() -> Moment:
    """Seconds of the clock, and of this process's processor time."""
    return time.perf_counter(), time.process_time()


def since(what: str, then: Moment) -> Seconds:
    (seconds, busy), (seconds_then, busy_then) = now(), then
    return {what: seconds - seconds_then, what + AT_WORK: busy - busy_then}


class Assignment:
    """When the partition was assigned, as a listener of kafka-python's or aiokafka's kind tells."""

    moment: Moment

    def on_partitions_assigned(self, assigned: Collection[object]) -> None:
        if assigned:
            self.moment = now()

    def on_partitions_revoked(self, revoked: Collection[object]) -> None:
        pass


class KafkaPython:
    def __init__(self, address: str) -> None:
        self.address = address

    def produce(self, topic: str, size: int, count: int) -> Seconds:
        from kafka import KafkaProducer

        value = bytes(size)
        began = time.perf_counter()
        producer = KafkaProducer(bootstrap_servers=self.address, acks="all")
        producer.send(topic, value).get(TIMEOUT_S)
        first = now()
        for _ in range(count):
            producer.send(topic, value)
        producer.flush(TIMEOUT_S)
        took = since("produce", first)
        producer.close()
        return {"first acknowledged": first[0] - began, **took}

    def consume(self, topic: str, size: int, count: int) -> Seconds:
        from kafka import ConsumerRebalanceListener, KafkaConsumer

        class Listener(Assignment, ConsumerRebalanceListener):  # type: ignore[misc]
            pass

        listener = Listener()
        consumer = KafkaConsumer(bootstrap_servers=self.address, group_id=_group(topic), auto_offset_reset="earliest")
        began = time.perf_counter()
        consumer.subscribe([topic], listener=listener)
        first, seen = 0.0, 0
        while seen < count:
            for records in consumer.poll(timeout_ms=1000).values():
                first = first or time.perf_counter()
                seen += len(records)
        took = since("consume", listener.moment)
        consumer.close()
        return {"subscribe to first record": first - began, **took}


class Confluent:
    def __init__(self, address: str, settings: Mapping[str, str | int] = MappingProxyType({})) -> None:
        self.settings = {"bootstrap.servers": address, **settings}

    def produce(self, topic: str, size: int, count: int) -> Seconds:
        from confluent_kafka import Producer

        value = bytes(size)
        failures: list[object] = []

        def told(error: Any, _: Any) -> None:
            if error is not None:
                failures.append(error)

        began = time.perf_counter()
        producer = Producer({**self.settings, "acks": "all", "queue.buffering.max.kbytes": 1 << 20})
        producer.produce(topic, value, on_delivery=told)
        producer.flush(TIMEOUT_S)
        first = now()
        for _ in range(count):
            while True:
                try:
                    producer.produce(topic, value, on_delivery=told)
                    break
                except BufferError:
                    producer.poll(0.01)
        left = producer.flush(TIMEOUT_S)
        took = since("produce", first)
        if left or failures:
            raise RuntimeError(f"{left} records left, {len(failures)} failed: {failures[:1]}")
        return {"first acknowledged": first[0] - began, **took}

    def consume(self, topic: str, size: int, count: int) -> Seconds:
        from confluent_kafka import Consumer

        assignment = Assignment()
        consumer = Consumer({**self.settings, "group.id": _group(topic), "auto.offset.reset": "earliest"})
        began = time.perf_counter()
        consumer.subscribe([topic], on_assign=lambda _, assigned: assignment.on_partitions_assigned(assigned))
        first, seen = 0.0, 0
        while seen < count:
            for message in consumer.consume(min(CONSUMED_AT_ONCE, count - seen) if first else 1, 0.1):
                if message.error() is None:
                    first = first or time.perf_counter()
                    seen += 1
        took = since("consume", assignment.moment)
        consumer.close()
        return {"subscribe to first record": first - began, **took}


class AioKafka:
    def __init__(self, address: str) -> None:
        self.address = address

    def produce(self, topic: str, size: int, count: int) -> Seconds:
        return asyncio.run(self._produce(topic, size, count))

    def consume(self, topic: str, size: int, count: int) -> Seconds:
        return asyncio.run(self._consume(topic, count))

    async def _produce(self, topic: str, size: int, count: int) -> Seconds:
        from aiokafka import AIOKafkaProducer

        value = bytes(size)
        began = time.perf_counter()
        producer = AIOKafkaProducer(bootstrap_servers=self.address, acks="all")
        await producer.start()
        await producer.send_and_wait(topic, value)
        first = now()
        for _ in range(count):
            await producer.send(topic, value)
        await producer.flush()
        took = since("produce", first)
        await producer.stop()
        return {"first acknowledged": first[0] - began, **took}

    async def _consume(self, topic: str, count: int) -> Seconds:
        from aiokafka import AIOKafkaConsumer, ConsumerRebalanceListener

        class Listener(Assignment, ConsumerRebalanceListener):  # type: ignore[misc]
            pass

        listener = Listener()
        consumer = AIOKafkaConsumer(
            bootstrap_servers=self.address, group_id=_group(topic), auto_offset_reset="earliest"
        )
        began = time.perf_counter()
        consumer.subscribe([topic], listener=listener)
        await consumer.start()
        first, seen = 0.0, 0
        while seen < count:
            for records in (await consumer.getmany(timeout_ms=1000)).values():
                first = first or time.perf_counter()
                seen += len(records)
        took = since("consume", listener.moment)
        await consumer.stop()
        return {"subscribe to first record": first - began, **took}


CONFLUENT = "confluent-kafka"
CONFLUENT_SHORT_PAUSES = CONFLUENT + "".join(f", {name}={value}" for name, value in SHORT_PAUSES.items())

CLIENTS: dict[str, Callable[[str], KafkaPython | Confluent | AioKafka]] = {
    CONFLUENT: Confluent,
    CONFLUENT_SHORT_PAUSES: partial(Confluent, settings=SHORT_PAUSES),
    "kafka-python": KafkaPython,
    "aiokafka": AioKafka,
}


def _group(topic: str) -> str:
    return f"{GROUP_PREFIX}{topic}-{time.monotonic_ns()}"


def main() -> None:
    kind, work, address, topic, size, count = sys.argv[1:]
    client = CLIENTS[kind](address)
    do = client.produce if work == "produce" else client.consume
    print(json.dumps(do(topic, int(size), int(count))))


if __name__ == "__main__":
    main()
