"""Runs scenarios under an adversary: `python -m totalog.engine.sim [scenario ...] --seed N`.

A failure prints the command that shows it again.
"""

import argparse
import sys
import time
from collections.abc import Sequence

from totalog.engine.sim.host import Violation
from totalog.engine.sim.scenarios import SCENARIOS, run_scenario
from totalog.engine.sim.world import Adversary


def run(name: str, adversary: Adversary) -> int:
    """States of memory that were tried. Errors: Violation, with the command that repeats it."""
    try:
        world = run_scenario(name, adversary)
    except Violation as problem:
        raise Violation(f"{problem}\nto see it again: {command(name, adversary)}") from None
    world.close()
    return world.states


def command(name: str, adversary: Adversary) -> str:
    words = f"--seed {adversary.seed} --subsets {adversary.subsets_max} --evict {adversary.evict_one_in}"
    return f"python -m totalog.engine.sim {name} {words}"


def main(arguments: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m totalog.engine.sim")
    parser.add_argument("scenarios", nargs="*", metavar="SCENARIO", help=", ".join(SCENARIOS))
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--seeds", type=int, default=1, help="how many seeds, from --seed on")
    parser.add_argument("--subsets", type=int, default=64, help="states of memory tried at one fence")
    parser.add_argument("--evict", type=int, default=0, help="a line is evicted at one of so many steps; 0: never")
    options = parser.parse_args(arguments)
    failed = 0
    for seed in range(options.seed, options.seed + options.seeds):
        for name in options.scenarios or SCENARIOS:
            start = time.monotonic()
            try:
                states = run(name, Adversary(seed, options.subsets, options.evict))
                print(f"{name} seed {seed}: {states} states, {time.monotonic() - start:.1f} s", flush=True)
            except Violation as problem:
                failed += 1
                print(f"{name} seed {seed}: {problem}", flush=True)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
