"""Reading until a count or an end is reached: the same over each client's own `poll`, which does the waiting."""

import time
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence

from compat_tests.clients.face import ConsumerSettings, Place, Received


class Reading(ABC):
    @abstractmethod
    def open_consumer(self, settings: ConsumerSettings, bootstrap: str | None = None) -> int: ...

    @abstractmethod
    def close_consumer(self, consumer: int) -> None: ...

    @abstractmethod
    def assign(self, consumer: int, places: Mapping[Place, int | None]) -> None: ...

    @abstractmethod
    def poll(self, consumer: int, timeout_ms: int) -> list[Received]: ...

    @abstractmethod
    def bounds(self, consumer: int, places: Sequence[Place]) -> dict[Place, tuple[int, int]]: ...

    def read(self, consumer: int, count: int, timeout_ms: int = 60_000) -> list[Received]:
        deadline = time.monotonic() + timeout_ms / 1000
        records: list[Received] = []
        while len(records) < count:
            left_ms = int((deadline - time.monotonic()) * 1000)
            if left_ms <= 0:
                break
            records += self.poll(consumer, min(left_ms, 1_000))
        return records

    def read_topic(self, topic: str, partitions: int, timeout_ms: int = 60_000) -> list[Received]:
        consumer = self.open_consumer(ConsumerSettings())
        try:
            bounds = self.bounds(consumer, [Place(topic, partition) for partition in range(partitions)])
            missing = {place: end for place, (first, end) in bounds.items() if end > first}
            records: list[Received] = []
            if missing:
                self.assign(consumer, {place: bounds[place][0] for place in missing})
            deadline = time.monotonic() + timeout_ms / 1000
            while missing and time.monotonic() < deadline:
                for record in self.poll(consumer, 1_000):
                    place = Place(record.topic, record.partition)
                    if record.offset < bounds[place][1]:
                        records.append(record)
                    if record.offset + 1 >= bounds[place][1]:
                        missing.pop(place, None)
            return records
        finally:
            self.close_consumer(consumer)
