"""What has to hold of a history with broken brokers, by the order checker, and a few promises more.

acks=all: nothing acknowledged is lost, wherever the region went. acks=1: the same as long as no region was lost; else
what is lost is what nobody could see, the end of the log.
"""

from compat_tests import checker
from compat_tests.breaking.load import DURABLE, FAST, PARTITIONS, PER_PRODUCER, Load, Reader, read_all
from compat_tests.checker import Seen
from totalog.engine.check import CHECKS, Check, History, histories, judge

SAFE_CHECKS: dict[str, Check] = CHECKS
LOSSY_CHECKS: dict[str, Check] = {
    name: check for name, check in CHECKS.items() if name not in ("nothing lost", "told truly", "real time")
}
"""Where the end of the log may be gone, offsets were given twice, to what was lost and to what came after."""


def judge_load(load: Load, *, region_lost: bool) -> dict[str, list[str]]:
    """Topic and promise -> the anomalies that speak against it."""
    found: dict[str, list[str]] = {}
    for topic in (DURABLE, FAST):
        lossy = region_lost and topic == FAST
        run = _history(load, topic)
        anomalies = judge(run, LOSSY_CHECKS if lossy else SAFE_CHECKS)
        vanished = still_there(load.readers[topic].seen(), run.views[0])
        if vanished:
            anomalies["seen, then gone"] = vanished
        if not lossy:
            anomalies |= {name: told for name, told in (("commits", commits_kept(load.readers[topic])),) if told}
        found |= {f"{topic}: {name}": sentences for name, sentences in anomalies.items()}
    return found


def _history(load: Load, topic: str) -> History:
    return History(
        partitions=[read_all(load.address, topic, PARTITIONS)],
        views=[read_all(load.address, f"{topic}.total-order", 1)],
        told=load.told(topic),
        per_producer=PER_PRODUCER,
        sent=load.given(topic),
        all_arrive=False,
    )


def still_there(before: Seen, after: Seen) -> list[str]:
    """What a reader saw of the view is there still, at the same offsets; it saw everything up to where it was."""
    anomalies = histories.dense(before)
    if len(before) > len(after):
        return [*anomalies, f"a reader saw {len(before)} records, {len(after)} are left"]
    known = Seen(after.partition[: len(before)], after.offset[: len(before)], after.identity[: len(before)])
    return anomalies + checker.agree(before, known)


def commits_kept(reader: Reader) -> list[str]:
    """What the group is told now was asked for, and lies not before the last commit that was answered."""
    committed = reader.committed()
    if reader.acknowledged <= committed <= reader.asked:
        return []
    return [f"{committed} is committed, {reader.acknowledged} was acknowledged and {reader.asked} asked for"]
