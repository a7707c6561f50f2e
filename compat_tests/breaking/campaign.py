"""A run of the breaking kit: rounds on one log, one after the other, and a ledger that names each.

The ledger is a file of JSON lines; a run that is started again with it goes on behind the last round that it names,
with a new log and the same row of faults.
"""

import json
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from itertools import dropwhile
from pathlib import Path
from typing import Any

from compat_tests.breaking import faults
from compat_tests.breaking.broker import Victim
from compat_tests.breaking.faults import Round
from compat_tests.breaking.judge import judge_load
from compat_tests.breaking.load import Load

MEMORY = 64 << 20
JOURNAL_SIZE = 4 << 20
"""Small, so that files are sealed, memory is evicted and old data is read from disk within a run."""
AFTER_S = 0.05
"""Of load after a broker came back, or went on."""


class Broken(AssertionError):
    """A promise was broken."""


@dataclass
class Ledger:
    path: Path | None = None
    rows: list[dict[str, Any]] = field(default_factory=list)

    def __post_init__(self) -> None:
        if self.path is not None and self.path.exists():
            self.rows = [json.loads(line) for line in self.path.read_text().splitlines()]

    def next_round(self, seed: int) -> int:
        return max((row["round"] + 1 for row in self.rows if row["seed"] == seed), default=0)

    def add(self, **row: Any) -> None:
        self.rows.append(row)
        if self.path is not None:
            with self.path.open("a") as file:
                file.write(json.dumps(row) + "\n")


@dataclass
class Campaign:
    directory: Path
    seed: int
    ledger: Ledger
    tell: Callable[[str], None] = lambda line: None

    def run(self, count: int | None = None, seconds: float | None = None) -> None:
        """So many rounds, or for so long. Raises Broken, VictimFailed, LoadFailed."""
        first = self.ledger.next_round(self.seed)
        rounds = dropwhile(lambda each: each.number < first, faults.rounds(self.seed))
        victim = Victim(self.directory / "data", memory=MEMORY, journal_size=JOURNAL_SIZE)
        began = time.monotonic()
        done: list[Round] = []
        lost = False
        try:
            victim.start()
            load = Load(victim.address)
            for each in self._bounded(rounds, count, began + seconds if seconds is not None else None):
                lost |= self._round(victim, load, each)
                done.append(each)
            self._judge(load, victim, lost)
            load.close()
        except AssertionError as failure:
            self.ledger.add(seed=self.seed, round=done[-1].number if done else -1, result=str(failure).splitlines()[0])
            raise type(failure)(f"seed {self.seed}, {len(done)} rounds: {failure}\n{victim.tail()}") from failure
        finally:
            victim.stop()

    def _bounded(self, rounds: Iterator[Round], count: int | None, deadline: float | None) -> Iterator[Round]:
        for number, each in enumerate(rounds):
            if (count is not None and number >= count) or (deadline is not None and time.monotonic() > deadline):
                return
            yield each

    def _round(self, victim: Victim, load: Load, each: Round) -> bool:
        """Whether a region was lost in it."""
        load.get_on()
        load.run(each.load_s)
        victim.strike(each.fault)
        load.run(AFTER_S)
        lost = False
        if each.fault.ends:
            victim.end(cleanly="SIGTERM" in each.fault.signals)
            lost = each.region != faults.KEPT and victim.harm_region(each.region)
            victim.start()
        elif not victim.alive():
            raise Broken(f"the broker ended by: {each.fault.name}")
        load.run(AFTER_S)
        acknowledged = sum(len(writer.told) for writer in load.writers)
        self.ledger.add(
            seed=self.seed,
            round=each.number,
            fault=each.fault.name,
            region=each.region if each.fault.ends else "",
            region_lost=lost,
            acknowledged=acknowledged,
            start_s=round(victim.started_s, 3) if each.fault.ends else 0,
            result="survived",
        )
        self.tell(f"round {each.number}: {each.fault.name}, region {each.region}: {acknowledged:,} acknowledged")
        return lost

    def _judge(self, load: Load, victim: Victim, lost: bool) -> None:
        load.wait_for_answers()
        refused = load.safe.failed
        if refused:
            raise Broken(f"{len(refused)} records of the idempotent producer failed for good, the first: {refused[0]}")
        found = judge_load(load, region_lost=lost)
        if found:
            raise Broken("; ".join(f"{name}: {sentences[0]}" for name, sentences in found.items()))
        self.ledger.add(
            seed=self.seed,
            round=self.ledger.rows[-1]["round"] if self.ledger.rows else -1,
            acknowledged={writer.topic: len(load.told(writer.topic).identity) for writer in load.writers},
            result="nothing lost, nothing moved",
        )
