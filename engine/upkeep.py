"""Retention of what left memory: looked up in the archive beside the log's own thread, carried out by it.

A round looks at every topic that has something in the archive, decides where each is to be cut, and removes files that
nobody needs. It may wait for disks, so it runs in a thread of its own; cuts are operations on the log, and the log's
thread, which asks in each `maintain`, makes them when the round is over.
"""

import logging
import threading
from collections.abc import Iterator, Sequence
from typing import NamedTuple, Protocol

from totalog.engine.archive import Archive
from totalog.engine.errors import EngineError, UnknownTopic
from totalog.engine.log import VIEW
from totalog.engine.replicas import Replicas
from totalog.engine.topic import Topic

log = logging.getLogger("totalog")

BY_SIZE_ALONE = -1
"""As a time of day: nothing is too old."""


class Cut(NamedTuple):
    topic: Topic
    partition: int
    offset: int


class Trimmable(Protocol):
    """What a round needs of the log."""

    def topics(self) -> list[Topic]: ...

    def archived(self, topic: Topic, partition: int) -> bool: ...

    def trim(self, topic: Topic, partition: int, offset: int) -> None: ...


class Upkeep:
    def __init__(self, archive: Archive, replicas: Replicas) -> None:
        self._archive = archive
        self._replicas = replicas
        self._thread: threading.Thread | None = None
        self._cuts: list[Cut] = []
        self._seen = -1
        self._now_ms = BY_SIZE_ALONE

    def turn(self, log_: Trimmable, now_ms: int, ordered: int) -> None:
        """Makes the cuts of the last round if it is over, and begins the next if there is a reason: something was
        ordered, or the time of day was given."""
        self._now_ms = max(self._now_ms, now_ms)
        if self._thread is not None and self._thread.is_alive():
            return
        self._thread = None
        cuts, self._cuts = self._cuts, []
        for cut in cuts:
            try:
                log_.trim(cut.topic, cut.partition, cut.offset)
            except UnknownTopic:
                continue
            except EngineError as error:
                log.error("retention of %s: %s", cut.topic.name, error)
        if self._seen == ordered and self._now_ms == BY_SIZE_ALONE and not cuts:
            return
        self._seen, by_age, self._now_ms = ordered, self._now_ms, BY_SIZE_ALONE
        places = [place for topic in log_.topics() for place in _places(topic) if log_.archived(*place)]
        self._thread = threading.Thread(target=self._round, args=(places, by_age), name="upkeep", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Waits for the round that runs."""
        if self._thread is not None:
            self._thread.join()

    def _round(self, places: Sequence[tuple[Topic, int]], now_ms: int) -> None:
        try:
            for topic, partition in places:
                offset = self._archive.cut(topic, partition, now_ms)
                if offset >= 0:
                    self._cuts.append(Cut(topic, partition, offset))
            for index in range(len(self._replicas.directories)):
                self._archive.drop(self._replicas, index)
        except EngineError as error:
            log.error("retention: %s", error)


def _places(topic: Topic) -> Iterator[tuple[Topic, int]]:
    """Where retention cuts: the whole topic at one total order, or each partition by itself."""
    if topic.memory or (topic.retention_bytes < 0 and topic.retention_ms < 0):
        return
    partitions = [VIEW] if topic.order_level else range(topic.partitions)
    yield from ((topic, partition) for partition in partitions)
