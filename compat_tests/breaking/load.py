"""Stock clients under way while a broker breaks, and what they were told: one history on the monotonic clock.

Topic DURABLE is written with acks=all by idempotent producers, whose client sends again what was not answered; topic
FAST with acks=1 by one that never sends again, so that nothing of it may be doubled. A reader follows the view of each.
"""

import time
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np
from confluent_kafka import OFFSET_BEGINNING, Consumer, KafkaException, Producer, TopicPartition
from confluent_kafka.admin import AdminClient, NewTopic  # type: ignore[attr-defined]

from compat_tests import checker
from compat_tests.checker import Seen, Told

DURABLE, FAST = "durable", "fast"
PARTITIONS = 4
PER_PRODUCER = 10_000_000
IN_FLIGHT_MAX = 200
"""Records of one producer that wait for their answers."""
PADDING = bytes(100)
READ_COUNT = 5_000
COMMIT_EVERY = 200
"""Records between two commits of a reader."""
WAIT_S_MAX = 90.0

COMMON: dict[str, Any] = {"reconnect.backoff.ms": 10, "reconnect.backoff.max.ms": 50, "log_level": 0}
SAFE: dict[str, Any] = {
    "enable.idempotence": True,
    "delivery.timeout.ms": 120_000,
    "retry.backoff.ms": 20,
    "linger.ms": 1,
}
ONCE: dict[str, Any] = {"message.send.max.retries": 0, "delivery.timeout.ms": 120_000, "linger.ms": 1}


class LoadFailed(AssertionError):
    """A client saw what it never should, or waited in vain."""


@dataclass
class Writer:
    """One producer, and what became of its records."""

    topic: str
    number: int
    producer: Producer
    sent: list[int] = field(default_factory=list)
    """Nanoseconds at which each record was given to the client."""
    told: list[tuple[int, int, int, int]] = field(default_factory=list)
    """Record, partition, offset, nanoseconds of the answer."""
    failed: list[tuple[int, str]] = field(default_factory=list)
    in_flight: int = 0

    def write(self, count_max: int) -> None:
        while self.in_flight < IN_FLIGHT_MAX and count_max > 0:
            sequence = len(self.sent)
            self.sent.append(time.monotonic_ns())
            self.producer.produce(
                self.topic,
                checker.value_of(self.number, sequence, PADDING),
                partition=sequence % PARTITIONS,
                on_delivery=partial(self._answered, sequence),
            )
            self.in_flight += 1
            count_max -= 1
        self.producer.poll(0)

    def _answered(self, sequence: int, error: Any, message: Any) -> None:
        self.in_flight -= 1
        if error is not None:
            self.failed.append((sequence, str(error)))
        else:
            self.told.append((sequence, message.partition(), message.offset(), time.monotonic_ns()))


class Reader:
    """Follows the view of a topic for as long as it lives, and commits how far it is, for a group of its own."""

    def __init__(self, address: str, topic: str) -> None:
        self.address = address
        self.group = f"readers of {topic}"
        self.view = f"{topic}.total-order"
        self.consumer = consumer(address, self.group, on_commit=self._answered)
        self.consumer.assign([TopicPartition(self.view, 0, OFFSET_BEGINNING)])
        self.offsets: list[int] = []
        self.values: list[bytes] = []
        self.asked = 0
        """The largest offset whose commit was asked for: it may be stored also where its answer was lost."""
        self.acknowledged = 0
        """The largest whose commit was answered."""
        self._commits = False
        """One commit at a time: an earlier one, which the client sends again where its answer was lost, would be stored
        after a later one."""

    def read(self) -> None:
        for message in self.consumer.consume(READ_COUNT, 0.001):
            if message.error() is None:
                _, offset, value = row_of(message)
                self.offsets.append(offset)
                self.values.append(value)
        if self.offsets and self.offsets[-1] >= self.asked + COMMIT_EVERY and not self._commits:
            self._commits, self.asked = True, self.offsets[-1] + 1
            self.consumer.commit(offsets=[TopicPartition(self.view, 0, self.asked)], asynchronous=True)

    def _answered(self, error: Any, places: list[TopicPartition]) -> None:
        self._commits = False
        if error is None:
            self.acknowledged = max(self.acknowledged, *(place.offset for place in places if place.error is None), 0)

    def committed(self) -> int:
        """What the group is told now, by a consumer that knows nothing of before; 0: nothing was committed."""
        other = consumer(self.address, self.group)
        try:
            (place,) = other.committed([TopicPartition(self.view, 0)], WAIT_S_MAX)
            return max(int(place.offset), 0)
        finally:
            other.close()

    def seen(self) -> Seen:
        return checker.seen([0] * len(self.offsets), self.offsets, self.values, PER_PRODUCER)


class Load:
    def __init__(self, address: str) -> None:
        self.address = address
        admin = AdminClient({"bootstrap.servers": address, **COMMON})
        created = admin.create_topics([NewTopic(topic, PARTITIONS, 1) for topic in (DURABLE, FAST)])
        for future in created.values():
            future.result(WAIT_S_MAX)
        plans = [(DURABLE, SAFE), (DURABLE, ONCE | {"acks": "all"}), (FAST, ONCE | {"acks": "1"})]
        self.writers = [
            Writer(topic, number, Producer({"bootstrap.servers": address, **COMMON, **settings}))
            for number, (topic, settings) in enumerate(plans)
        ]
        self.safe, *self.once = self.writers
        self.readers = {topic: Reader(address, topic) for topic in (DURABLE, FAST)}

    def run(self, seconds: float) -> None:
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            self._step()

    def get_on(self) -> None:
        """Until those who never send again have got answers once more. Raises LoadFailed."""
        before = [len(writer.told) for writer in self.once]
        end = time.monotonic() + WAIT_S_MAX
        while any(len(writer.told) == count for writer, count in zip(self.once, before, strict=True)):
            self._step()
            if time.monotonic() > end:
                raise LoadFailed("nothing is acknowledged any more")

    def _step(self) -> None:
        for writer in self.writers:
            writer.write(20)
        for reader in self.readers.values():
            reader.read()

    def wait_for_answers(self) -> None:
        """Until every record was answered, and all that was acknowledged safely was seen by the reader."""
        end = time.monotonic() + WAIT_S_MAX
        while any(writer.in_flight for writer in self.writers):
            for writer in self.writers:
                writer.producer.poll(0.01)
            if time.monotonic() > end:
                raise LoadFailed(f"no answer for {[writer.in_flight for writer in self.writers]} records")

    def told(self, topic: str) -> Told:
        rows = [
            (writer.number * PER_PRODUCER + sequence, partition, offset, writer.sent[sequence], answered)
            for writer in self.writers
            if writer.topic == topic
            for sequence, partition, offset, answered in writer.told
        ]
        columns = np.array(rows, dtype=np.int64).reshape(-1, 5).T
        return Told(*columns)

    def given(self, topic: str) -> checker.Numbers:
        """Every record that was handed to a client."""
        return np.concatenate(
            [
                writer.number * PER_PRODUCER + np.arange(len(writer.sent))
                for writer in self.writers
                if writer.topic == topic
            ]
        )

    def close(self) -> None:
        for reader in self.readers.values():
            reader.consumer.close()
        for writer in self.writers:
            writer.producer.purge()
            writer.producer.flush(1)


def row_of(message: Any) -> tuple[int, int, bytes]:
    """Partition, offset, value."""
    return message.partition(), message.offset(), message.value()


def consumer(address: str, group: str = "breaking", **settings: Any) -> Consumer:
    return Consumer(
        {
            "bootstrap.servers": address,
            "group.id": group,
            "enable.auto.commit": False,
            "auto.offset.reset": "error",
            "fetch.error.backoff.ms": 20,
            "fetch.wait.max.ms": 50,
            **COMMON,
            **settings,
        }
    )


def read_all(address: str, topic: str, partitions: int) -> Seen:
    """Everything, by a reader that has seen nothing of it before, up to the ends at the time of the call."""
    reader = consumer(address)
    places = [TopicPartition(topic, partition, OFFSET_BEGINNING) for partition in range(partitions)]
    ends = {place.partition: reader.get_watermark_offsets(place, WAIT_S_MAX)[1] for place in places}
    reader.assign(places)
    rows: list[tuple[int, int, bytes]] = []
    left, end = sum(ends.values()), time.monotonic() + WAIT_S_MAX
    while left > 0:
        for message in reader.consume(READ_COUNT, 0.2):
            if message.error() is not None:
                raise KafkaException(message.error())
            row = row_of(message)
            if row[1] < ends[row[0]]:
                rows.append(row)
                left -= 1
        if time.monotonic() > end:
            raise LoadFailed(f"{left} records of {topic} could not be read")
    reader.close()
    return checker.seen([row[0] for row in rows], [row[1] for row in rows], [row[2] for row in rows], PER_PRODUCER)
