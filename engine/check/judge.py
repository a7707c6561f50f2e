"""All promises of the log over one run. Who has more to check (ack levels, groups, restarts) makes a `History` with
what he needs besides, and hands `judge` checks of his own beside `CHECKS`."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

from totalog.engine.check import histories
from totalog.engine.check.histories import Numbers, Seen, Told


@dataclass(frozen=True)
class History:
    """One topic's run, as several readers and all producers saw it."""

    partitions: Sequence[Seen]
    """Each reader's, of all partitions."""
    views: Sequence[Seen]
    told: Told
    per_producer: int
    """Of `identity`: see `histories`."""
    sent: Numbers | None = None
    """Identities that were given to a client; None: those that were acknowledged."""
    all_arrive: bool = True
    """False where producers died: what was sent and not acknowledged may be there or not."""
    view_keeps_producers: bool = False
    """Each producer sent one batch after the other, over all partitions: so they stand in the view."""

    @property
    def given(self) -> Numbers:
        return self.told.identity if self.sent is None else self.sent

    @property
    def readers(self) -> Sequence[Seen]:
        return (*self.partitions, *self.views)


Check = Callable[[History], list[str]]
Run = TypeVar("Run", bound=History)


def judge(run: Run, checks: "Mapping[str, Callable[[Run], list[str]]] | None" = None) -> dict[str, list[str]]:
    """Name of a promise -> the anomalies that speak against it; empty for a good run."""
    found = {name: check(run) for name, check in (CHECKS if checks is None else checks).items()}
    return {name: anomalies for name, anomalies in found.items() if anomalies}


def _dense(run: History) -> list[str]:
    return [anomaly for reader in run.readers for anomaly in histories.dense(reader)]


def _nothing_lost(run: History) -> list[str]:
    if run.all_arrive:
        return [anomaly for reader in run.readers for anomaly in histories.complete(reader, run.given)]
    return [anomaly for reader in run.readers for anomaly in histories.no_lost_acknowledgement(reader, run.told)]


def _told_truly(run: History) -> list[str]:
    of_view = histories.told_of_view(run.told)
    return [
        *(anomaly for reader in run.partitions for anomaly in histories.acknowledged_truly(reader, run.told)),
        *(anomaly for view in run.views for anomaly in histories.acknowledged_truly(view, of_view)),
    ]


def _no_duplicate(run: History) -> list[str]:
    return [anomaly for reader in run.readers for anomaly in histories.no_duplicate(reader)]


def _no_phantom(run: History) -> list[str]:
    return [anomaly for reader in run.readers for anomaly in histories.no_phantom(reader, run.given)]


def _real_time(run: History) -> list[str]:
    return [anomaly for view in run.views for anomaly in histories.real_time(view, run.told)]


def _producer_order(run: History) -> list[str]:
    readers = run.readers if run.view_keeps_producers else run.partitions
    return [anomaly for reader in readers for anomaly in histories.producer_order(reader, run.per_producer)]


def _view_holds_partitions(run: History) -> list[str]:
    pairs = [(view, reader) for view in run.views for reader in run.partitions[:1]]
    return [anomaly for view, reader in pairs for anomaly in histories.view_holds_partitions(view, reader)]


def _readers_agree(run: History) -> list[str]:
    pairs = [(each[0], other) for each in (run.partitions, run.views) for other in each[1:]]
    return [anomaly for one, other in pairs for anomaly in histories.agree(one, other)]


CHECKS: dict[str, Check] = {
    "dense": _dense,
    "nothing lost": _nothing_lost,
    "told truly": _told_truly,
    "no duplicate": _no_duplicate,
    "no phantom": _no_phantom,
    "real time": _real_time,
    "producer order": _producer_order,
    "view holds partitions": _view_holds_partitions,
    "readers agree": _readers_agree,
}
"""What the log promises of any run."""
