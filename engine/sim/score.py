"""The mutation run: all mutants on all processors, what became of each, and the score in the README.

`make mutants` runs those of which nothing is known. Results are kept under build/mutants, in a file named by what they
depend on (the core and the simulation), so a run that was ended goes on where it was; and a mutant of a core that has
changed meets first the scenario that killed it last time.
"""

import collections
import dataclasses
import hashlib
import json
import os
import struct
import sys
import time
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from totalog.engine import core_build
from totalog.engine.sim import build
from totalog.engine.sim.equivalents import EQUIVALENTS, UNPROVEN
from totalog.engine.sim.mutants import KINDS, Baseline, Mutant, Outcome, baseline, mutants, sites, try_mutant

RESULTS = core_build.ROOT / "build/mutants"
README = core_build.ROOT / "engine/README.md"
BEGIN = "<!-- mutants: written by make mutants -->"
END = "<!-- /mutants -->"
RESULTS_KEPT = 4
"""Files of results of older sources: hints of what kills."""
NOT_SOURCES = ("equivalents.py", "score.py")
INDEX = struct.Struct("=I")


# ---- what is known already ----


def sources_hash() -> str:
    """Over everything that a result depends on."""
    files = sorted((core_build.ROOT / "engine/core").glob("*.[ch]")) + sorted(build.HERE.glob("*.*"))
    digest = hashlib.sha256()
    for file in files:
        if file.name not in NOT_SOURCES and file.is_file():
            digest.update(f"{file.name}\n".encode() + file.read_bytes())
    return digest.hexdigest()[:16]


def results_file() -> Path:
    return RESULTS / f"{sources_hash()}.jsonl"


def read_results(file: Path) -> dict[str, Outcome]:
    """By mutant. A line that a kill cut short does not count."""
    found: dict[str, Outcome] = {}
    for line in file.read_text().splitlines() if file.exists() else ():
        try:
            outcome = Outcome(**json.loads(line))
        except ValueError:
            continue
        found[outcome.name] = outcome
    return found


def hints() -> dict[str, str]:
    """Mutant: the scenario that killed it, in any core there was."""
    found: dict[str, str] = {}
    for file in sorted(RESULTS.glob("*.jsonl"), key=lambda file: file.stat().st_mtime):
        found |= {name: outcome.killed_by for name, outcome in read_results(file).items() if outcome.killed_by}
    return found


def keep_newest() -> None:
    files = sorted(RESULTS.glob("*.jsonl"), key=lambda file: file.stat().st_mtime)
    for file in files[:-RESULTS_KEPT]:
        file.unlink()


# ---- running ----


def order_of(mutant: Mutant, base: Baseline, known: dict[str, str], kills: collections.Counter[str]) -> list[str]:
    """The scenarios that come by the mutant's site: what killed it before, then what kills most for its time."""
    reach = base.reach(mutant.site)
    reach.sort(key=lambda name: -(kills[name] + 1) / base.seconds[name])
    hint = known.get(mutant.name)
    return sorted(reach, key=lambda name: name != hint)


def place_of(mutant: Mutant) -> str:
    """File and function."""
    return " ".join(mutant.site.name.split()[:2])


def try_all(chosen: Sequence[Mutant], base: Baseline) -> Iterator[Outcome]:
    """Each of the mutants; the workers take the next one from a pipe."""
    known = hints()
    kills = collections.Counter(known.values())
    orders = [order_of(mutant, base, known, kills) for mutant in chosen]
    queue_end, fill_end = os.pipe()
    read_end, write_end = os.pipe()
    workers = []
    for _ in os.sched_getaffinity(0):
        child = os.fork()
        if child == 0:
            os.close(fill_end)
            os.close(read_end)
            work(chosen, orders, known, queue_end, write_end)
            os._exit(0)
        workers.append(child)
    os.close(queue_end)
    os.close(write_end)
    with open(fill_end, "wb") as queue:
        for index in range(len(chosen)):
            queue.write(INDEX.pack(index))
    with open(read_end) as answers:
        for line in answers:
            yield Outcome(**json.loads(line))
    for child in workers:
        os.waitpid(child, 0)


def work(chosen: Sequence[Mutant], orders: list[list[str]], known: dict[str, str], queue: int, answers: int) -> None:
    """Of a mutant that nothing is known of, what killed the last one of its function comes first: often it does it."""
    killers: dict[str, str] = {}
    while index := os.read(queue, INDEX.size):
        (number,) = INDEX.unpack(index)
        mutant, order = chosen[number], orders[number]
        killer = killers.get(place_of(mutant))
        if mutant.name not in known:
            order = sorted(order, key=lambda name: name != killer)
        outcome = try_mutant(mutant, order)
        if outcome.killed_by:
            killers[place_of(mutant)] = outcome.killed_by
        outcome = dataclasses.replace(outcome, how=outcome.how[:500], seconds=round(outcome.seconds, 2))
        os.write(answers, json.dumps(dataclasses.asdict(outcome)).encode() + b"\n")


def run(chosen: Sequence[Mutant]) -> dict[str, Outcome]:
    """What is known of the mutants, and what is not known yet."""
    RESULTS.mkdir(parents=True, exist_ok=True)
    file = results_file()
    known = read_results(file)
    missing = [mutant for mutant in chosen if mutant.name not in known]
    killed = hints()  # first; those that may survive last, since they take every scenario
    missing.sort(key=lambda mutant: (mutant.name in EQUIVALENTS or unproven(mutant.name), mutant.name not in killed))
    print(f"{len(chosen)} mutants, of {len(chosen) - len(missing)} the result is known ({file})", flush=True)
    if missing:
        base = baseline()
        unreached = [site.name for site in sites() if not base.reach(site)]
        print("".join(f"no scenario comes by {name}\n" for name in unreached), end="", flush=True)
        start = time.monotonic()
        with open(file, "a") as kept:
            for number, outcome in enumerate(try_all(missing, base), 1):
                known[outcome.name] = outcome
                kept.write(json.dumps(dataclasses.asdict(outcome)) + "\n")
                kept.flush()
                if not outcome.killed_by and outcome.name not in EQUIVALENTS:
                    print(f"survived: {outcome.name} ({outcome.seconds:.1f} s)", flush=True)
                if number % 50 == 0:
                    print(f"{number} of {len(missing)} in {time.monotonic() - start:.0f} s", flush=True)
        keep_newest()
    return {mutant.name: known[mutant.name] for mutant in chosen}


# ---- the score ----


def unproven(name: str) -> bool:
    return any(name.startswith(beginning) for beginning in UNPROVEN)


def problems(outcomes: Iterable[Outcome]) -> list[str]:
    """Mutants that survived and are in no list, or have a reason to survive and died."""
    found = []
    for outcome in outcomes:
        if outcome.killed_by and outcome.name in EQUIVALENTS:
            found.append(
                f"has a reason to survive, but was killed: {outcome.name} by {outcome.killed_by}: {outcome.how}"
            )
        elif not outcome.killed_by and outcome.name not in EQUIVALENTS and not unproven(outcome.name):
            found.append(f"survived: {outcome.name}")
    return found


def gone() -> list[str]:
    """What is listed without being a mutant."""
    names = [mutant.name for mutant in mutants()]
    listed = sorted(set(EQUIVALENTS) - set(names))
    return listed + [start for start in UNPROVEN if not any(name.startswith(start) for name in names)]


def facts() -> str:
    """What stands in the README and can be counted without running anything."""
    open_ones = sum(unproven(mutant.name) for mutant in mutants())
    return (
        f"Today: {len(sites())} sites, {len(mutants())} mutants; {len(EQUIVALENTS)} have a listed reason to survive,"
        f"\nand {open_ones} stand at places of which it is not shown yet that a scenario would tell."
    )


def table(outcomes: dict[str, Outcome]) -> str:
    """What became of the mutants, by what was done to them."""
    rows = []
    for operation, kinds in KINDS.items():
        for kind in kinds:
            of_kind = [each.name for each in mutants() if each.site.operation == operation and each.kind == kind]
            rows.append((f"{operation} {kind}", of_kind))
    rows.append(("all", [mutant.name for mutant in mutants()]))
    lines = [
        "| mutants | number | killed | survive, with a reason | survive | not tried |",
        "|---|--:|--:|--:|--:|--:|",
    ]
    for title, names in rows:
        tried = [name for name in names if name in outcomes]
        killed = sum(bool(outcomes[name].killed_by) for name in tried)
        reasoned = sum(not outcomes[name].killed_by and name in EQUIVALENTS for name in tried)
        left = len(tried) - killed - reasoned
        lines.append(f"| {title} | {len(names)} | {killed} | {reasoned} | {left} | {len(names) - len(tried)} |")
    kills = collections.Counter(outcome.killed_by for outcome in outcomes.values() if outcome.killed_by)
    by = ", ".join(f"{name} {count}" for name, count in kills.most_common())
    whole = all(mutant.name in outcomes for mutant in mutants())
    title = (
        "The last whole run:" if whole else "No whole run yet; when each was last tried, on this core or an older one:"
    )
    return f"{title}\n\n" + "\n".join(lines) + f"\n\nFirst to kill: {by}."


def with_score(readme: str, outcomes: dict[str, Outcome]) -> str:
    before, rest = readme.split(BEGIN)
    _, after = rest.split(END)
    return f"{before}{BEGIN}\n{facts()}\n\n{table(outcomes)}\n{END}{after}"


def with_facts(readme: str) -> str:
    """The README with what was counted as it has to be; the score is left as it was measured."""
    before, rest = readme.split(BEGIN)
    _, measured = rest.split("\n\n", 1)
    return f"{before}{BEGIN}\n{facts()}\n\n{measured}"


def main(arguments: Sequence[str]) -> int:
    """No argument: all mutants, and the score into the README. `--facts`: only what can be counted, into the README.
    Otherwise words that the mutant's name has to hold."""
    if arguments == ["--facts"]:
        README.write_text(with_facts(README.read_text()))
        return 0
    chosen = [mutant for mutant in mutants() if " ".join(arguments) in mutant.name]
    outcomes = run(chosen)
    wrong = problems(outcomes.values()) + [f"is listed, but is no mutant: {name}" for name in gone()]
    print("".join(f"{line}\n" for line in wrong), end="")
    killed = sum(bool(outcome.killed_by) for outcome in outcomes.values())
    print(f"{len(chosen)} mutants: {killed} killed, {len(chosen) - killed} survive, {len(wrong)} wrong")
    if not arguments:
        README.write_text(with_score(README.read_text(), outcomes))
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
