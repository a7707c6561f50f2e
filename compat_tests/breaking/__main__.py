"""`make soak MINUTES=n`: the breaking kit for as long as one likes, run after run, each with the next seed."""

import argparse
import tempfile
import time
from pathlib import Path

from compat_tests.breaking.campaign import Campaign, Ledger

ROUNDS_OF_A_RUN = 40


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=5.0)
    parser.add_argument("--seed", type=int, default=int(time.time()), help="of the first run")
    parser.add_argument("--rounds", type=int, default=ROUNDS_OF_A_RUN, help="of one run")
    parser.add_argument("--ledger", type=Path, default=Path("build/breaking.jsonl"))
    arguments = parser.parse_args()
    arguments.ledger.parent.mkdir(parents=True, exist_ok=True)
    deadline, seed, done = time.monotonic() + 60 * arguments.minutes, arguments.seed, 0
    while time.monotonic() < deadline:
        with tempfile.TemporaryDirectory(prefix="totalog-breaking-") as directory:
            print(f"seed {seed}", flush=True)
            ledger = Ledger(arguments.ledger)
            Campaign(Path(directory), seed, ledger, print).run(arguments.rounds, deadline - time.monotonic())
            done += sum(row.get("fault") is not None for row in ledger.rows if row["seed"] == seed)
        seed += 1
    print(f"{done} rounds: nothing acknowledged was lost, nothing that was seen vanished or moved ({arguments.ledger})")


if __name__ == "__main__":
    main()
