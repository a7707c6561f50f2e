"""What the handlers of Kafka APIs talk to: the log, the topics, the coordinators and the settings of one broker."""

import base64
from functools import cached_property
from time import time_ns
from typing import TYPE_CHECKING, Protocol

from totalog.engine import Log
from totalog.gateway.config import Config
from totalog.gateway.topics import TopicHandle, Topics
from totalog.gateway.waiting import Bell, Timers

if TYPE_CHECKING:
    from totalog.gateway.coordinators.groups import GroupCoordinator
    from totalog.gateway.coordinators.offsets import OffsetStore

NODE_ID = 0
STATE_TOPIC = "__totalog_state"
"""Internal topic of one partition. Its id names the cluster; appending to it makes numbers that no one else gets."""


class Clock(Protocol):
    """Time of day. Durations come from `waiting.now()`, which does not jump."""

    def wall_ms(self) -> int: ...


class SystemClock:
    def wall_ms(self) -> int:
        return time_ns() // 1_000_000


class Broker:
    """One broker on one region. `host` and `port` are those that clients are told to connect to: the advertised ones,
    or else those of the listener."""

    def __init__(
        self,
        log: Log,
        config: Config,
        *,
        clock: Clock,
        host: str,
        port: int,
        advertised: tuple[str, int] | None = None,
    ) -> None:
        self.log = log
        self.config = config
        self.clock = clock
        self.listener = (host, port)
        self.host, self.port = advertised or (host, port)
        self.node_id = NODE_ID
        self.topics = Topics(log, config)
        self.appended = Bell()
        """Rung with a topic's slot after an append; long polls wait on it."""
        self.timers = Timers()
        """Run by the server."""

    @cached_property
    def groups(self) -> "GroupCoordinator":
        from totalog.gateway.coordinators.groups import GroupCoordinator

        return GroupCoordinator(self)

    @cached_property
    def offsets(self) -> "OffsetStore":
        from totalog.gateway.coordinators.offsets import OffsetStore

        return OffsetStore(self)

    @cached_property
    def cluster_id(self) -> str:
        """The same for the life of the region: 22 characters of URL-safe base64, as Kafka writes its own."""
        return base64.urlsafe_b64encode(self.state_topic.id).rstrip(b"=").decode("ascii")

    @cached_property
    def state_topic(self) -> TopicHandle:
        return self.topics.find(STATE_TOPIC) or self.topics.create(STATE_TOPIC, partitions=1, internal=True)

    def append_internal(self, topic: TopicHandle, partition: int, batch: bytes) -> int:
        """Orders one batch of our own in an internal topic and returns its base offset."""
        from totalog.gateway.wire import batch as wire_batch

        return wire_batch.append(self.log, topic.topic, partition, batch)
