"""Producer ids that nobody else gets, in this life of the broker or any other, from this broker or any other.

Ids come in blocks. A block's number is the base offset of a record appended to the state topic: the log gives an offset
once, so that brokers need no agreement beyond it and a restart reads nothing back. What a broker did not use of its
last block is lost, which costs nothing: there are 2**63 ids. An id is told when its block is stored: an offset that did
not survive would be given again.
"""

from contextlib import suppress
from typing import TYPE_CHECKING

from totalog.engine import OutOfMemory
from totalog.engine.errors import DirectoryError

if TYPE_CHECKING:
    from totalog.gateway.broker import Broker

BLOCK_COUNT = 1000
"""Ids in a block, as many as Kafka's."""


class ProducerIds:
    def __init__(self, broker: "Broker") -> None:
        self._broker = broker
        self._next = 0
        self._end = 0
        self._position = -1
        """Of the record that made the block."""

    def take(self) -> int:
        """A fresh producer id, nobody else's once its block is stored: the answer being made promises that. Raises
        AppendFailed when a new block's record cannot be stored."""
        if self._next == self._end:
            self._next = self._allocate() * BLOCK_COUNT
            self._end = self._next + BLOCK_COUNT
        self._broker.replication.promise(self._position)
        self._next += 1
        return self._next - 1

    def _allocate(self) -> int:
        from totalog.gateway.wire import records

        broker = self._broker
        batch = records.build_batch([(b"producer-ids", None)], broker.clock.wall_ms())
        block = broker.append_internal(broker.state_topic, 0, batch)
        self._position = broker.log.frontiers().ordered - 1
        with suppress(OutOfMemory, DirectoryError):  # the next block tries again
            broker.log.trim(broker.state_topic.topic, 0, block)  # the last record stays: the topic is never empty
        return block
