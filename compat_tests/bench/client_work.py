"""What one stock client does in one measurement, as a process of its own: `python -m compat_tests.bench.client_work
KIND WORK ADDRESS TOPIC SIZE COUNT`. Prints JSON: seconds by name, and the processor time of `produce` and `consume`.

Clients keep their own defaults, except that acks are all and nothing is compressed; so a linger is each client's own.
"""

import asyncio
import json
import sys
import time
from collections.abc import Callable
from typing import Any

GROUP_PREFIX = "bench-"
TIMEOUT_S = 60.0

AT_WORK = ", at work"
"""Behind the name of seconds: those of them in which the client had a processor."""

Seconds = dict[str, float]
Moment = tuple[float, float]


def now() -> Moment:
    """Seconds of the clock, and of this process's processor time."""
    return time.perf_counter(), time.process_time()


def since(what: str, then: Moment) -> Seconds:
    (seconds, busy), (seconds_then, busy_then) = now(), then
    return {what: seconds - seconds_then, what + AT_WORK: busy - busy_then}


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
        from kafka import KafkaConsumer

        consumer = KafkaConsumer(bootstrap_servers=self.address, group_id=_group(topic), auto_offset_reset="earliest")
        began = time.perf_counter()
        consumer.subscribe([topic])
        first, seen = None, 0
        while seen < count:
            for records in consumer.poll(timeout_ms=1000).values():
                first = first or now()
                seen += len(records)
        assert first is not None
        took = since("consume", first)
        consumer.close()
        return {"subscribe to first record": first[0] - began, **took}


class Confluent:
    def __init__(self, address: str) -> None:
        self.address = address

    def produce(self, topic: str, size: int, count: int) -> Seconds:
        from confluent_kafka import Producer

        value = bytes(size)
        failures: list[object] = []

        def told(error: Any, _: Any) -> None:
            if error is not None:
                failures.append(error)

        began = time.perf_counter()
        producer = Producer({"bootstrap.servers": self.address, "acks": "all", "queue.buffering.max.kbytes": 1 << 20})
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

        consumer = Consumer(
            {"bootstrap.servers": self.address, "group.id": _group(topic), "auto.offset.reset": "earliest"}
        )
        began = time.perf_counter()
        consumer.subscribe([topic])
        first, seen = None, 0
        while seen < count:
            for message in consumer.consume(10_000, 0.1):
                if message.error() is None:
                    first = first or now()
                    seen += 1
        assert first is not None
        took = since("consume", first)
        consumer.close()
        return {"subscribe to first record": first[0] - began, **took}


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
        from aiokafka import AIOKafkaConsumer

        consumer = AIOKafkaConsumer(
            bootstrap_servers=self.address, group_id=_group(topic), auto_offset_reset="earliest"
        )
        began = time.perf_counter()
        consumer.subscribe([topic])
        await consumer.start()
        first, seen = None, 0
        while seen < count:
            for records in (await consumer.getmany(timeout_ms=1000)).values():
                first = first or now()
                seen += len(records)
        assert first is not None
        took = since("consume", first)
        await consumer.stop()
        return {"subscribe to first record": first[0] - began, **took}


CLIENTS: dict[str, Callable[[str], KafkaPython | Confluent | AioKafka]] = {
    "confluent-kafka": Confluent,
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
