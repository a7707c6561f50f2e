"""What the handlers of Kafka APIs talk to: the log, the topics, the coordinators and the settings of one broker."""

import base64
from functools import cached_property
from time import time_ns
from typing import TYPE_CHECKING, Protocol

from totalog.engine import AppendGroup, Log
from totalog.gateway import waiting
from totalog.gateway.complaints import Complaints
from totalog.gateway.config import Config
from totalog.gateway.lane import Lane
from totalog.gateway.limits import UNSENT_SIZE_MAX
from totalog.gateway.metrics import Counters
from totalog.gateway.producer_ids import ProducerIds
from totalog.gateway.replication import Replication
from totalog.gateway.timers import Timers
from totalog.gateway.topics import TopicHandle, Topics
from totalog.gateway.unsent import Unsent
from totalog.gateway.waiting import Bell
from totalog.gateway.wire._batch import ffi, lib
from totalog.gateway.wire.batch import TIMESTAMP_UNCHECKED, check, error_code
from totalog.gateway.wire.errors import ErrorCode

if TYPE_CHECKING:
    from totalog.gateway.apis.fetch_answers import Reader
    from totalog.gateway.apis.produce import Appender
    from totalog.gateway.coordinators.groups import GroupCoordinator
    from totalog.gateway.coordinators.offsets import OffsetStore

STATUS_OK: int = lib.STATUS_OK
NODE_ID = 0
STATE_TOPIC = "__totalog_state"
"""Internal topic of one partition. Its id names the cluster; appending to it makes numbers that no one else gets."""

READ_AGAIN_S = 1.0
"""Between two attempts to read what was committed, where a data directory fails."""


class Clock(Protocol):
    """Time of day. Durations come from `waiting.now()`, which does not jump."""

    def wall_ms(self) -> int: ...


class SystemClock:
    def wall_ms(self) -> int:
        return time_ns() // 1_000_000


class AppendFailed(Exception):
    """The log has no room, no data directory, or the topic is gone; nothing was stored. `code` is what a client gets
    for it."""

    def __init__(self, code: ErrorCode, topic: str) -> None:
        super().__init__(f"cannot append to {topic}: {code.name}")
        self.code = code


class CommitsFull(Exception):
    """Committed offsets take all that they may; nothing was stored."""


class Unreadable(Exception):
    """What was committed left memory, and no data directory gives it. It may do so when it is asked again."""


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
        self.appended = Bell()
        """Rung with a topic's slot when batches have become visible, and when it is deleted; long polls wait on it."""
        self.replication = Replication(log, config, self.appended)
        self.topics = Topics(log, config, self.replication)
        self.state_topic = self.topics.find(STATE_TOPIC) or self.topics.create(STATE_TOPIC, partitions=1, internal=True)
        self.unsent = Unsent(UNSENT_SIZE_MAX)
        """Answers that no client has taken yet."""
        self.lane = Lane()
        """For requests whose work takes long."""
        self.complaints = Complaints()
        """What is logged about clients."""
        self.counters = Counters()
        self.timers = Timers()
        """Run by the server."""
        self._unreadable = ""
        """Why committed offsets could not be read, if so, and until when nobody tries again."""
        self._read_again_at = 0.0

    @cached_property
    def appender(self) -> "Appender":
        from totalog.gateway.apis.produce import Appender

        return Appender(self)

    @cached_property
    def reader(self) -> "Reader":
        from totalog.gateway.apis.fetch_answers import Reader

        return Reader(self.log)

    @cached_property
    def groups(self) -> "GroupCoordinator":
        from totalog.gateway.coordinators.groups import GroupCoordinator

        return GroupCoordinator(self)

    @cached_property
    def offsets(self) -> "OffsetStore":
        """Raises Unreadable, until they can be read: all of them are read, so that is tried now and then, whoever asks
        how often."""
        from totalog.gateway.coordinators.offsets import OffsetStore

        if self._unreadable and waiting.now() < self._read_again_at:
            raise Unreadable(self._unreadable)
        try:
            return OffsetStore(self)
        except Unreadable as fault:
            self._unreadable = str(fault)
            self._read_again_at = waiting.now() + READ_AGAIN_S
            raise

    @cached_property
    def cluster_id(self) -> str:
        """The same for the life of the region: 22 characters of URL-safe base64, as Kafka writes its own."""
        return base64.urlsafe_b64encode(self.state_topic.id).rstrip(b"=").decode("ascii")

    @cached_property
    def producer_ids(self) -> ProducerIds:
        return ProducerIds(self)

    def append_internal(self, topic: TopicHandle, partition: int, batch: bytes) -> int:
        """Orders one batch of our own in an internal topic and returns its base offset; the answer being made promises
        that it is stored. Raises AppendFailed."""
        if self.replication.lost:
            raise AppendFailed(ErrorCode.NOT_ENOUGH_REPLICAS, topic.name)
        group, slot = self._internal_group, topic.topic.slot
        source = ffi.from_buffer(batch)
        address, size = int(ffi.cast("uintptr_t", source)), len(batch)
        generation = topic.topic.generation
        checked = check(group.address, 0, address, size, size, 0, slot, generation, partition, TIMESTAMP_UNCHECKED)
        assert error_code(checked) is ErrorCode.NONE, f"a batch of our own has status {checked}"
        self.log.append(group, 1)
        answer = group[0]
        if answer.status != STATUS_OK:
            raise AppendFailed(error_code(answer.status), topic.name)
        self.replication.promise(answer.global_position)
        self.appended.ring(slot)
        return int(answer.base_offset)

    @cached_property
    def _internal_group(self) -> AppendGroup:
        return self.log.group(1)
