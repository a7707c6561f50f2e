"""Looks for input that breaks a target, for as long as it is given time:

    python -m totalog.gateway.tests.fuzz --minutes 10 [TARGET ...]

With atheris installed, as `make fuzz` does, and clang's libFuzzer for the C parts, it is guided by coverage, otherwise
mutations are tried at random under a printed seed. A finding ends it: the input lies in the corpus of its target, where
every test run tries it, and its traceback is shown.
"""

import argparse
import hashlib
import importlib.util
import random
import subprocess
import sys
import tempfile
import time
from importlib import import_module
from pathlib import Path
from typing import Any

CORPUS = Path(__file__).parent / "corpus"
INPUT_SIZE_MAX = 4096
NATIVE = "native"
"""The target in C (`native.py`)."""
NAMES = ("frames", "codec", "requests", "batches", "records", NATIVE)
"""The targets. Their modules are imported where they can be watched."""


def main() -> int:
    parser = argparse.ArgumentParser(prog="fuzz", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--minutes", type=float, default=1.0)
    parser.add_argument("--alone", action="store_true", help="one target, in this process")
    parser.add_argument("targets", nargs="*")
    given = parser.parse_args()
    names = given.targets or list(NAMES)
    seconds = given.minutes * 60 / len(names)
    if not given.alone:
        command = [sys.executable, "-m", "totalog.gateway.tests.fuzz", "--alone", "--minutes", str(seconds / 60)]
        return max(subprocess.run([*command, name], check=False).returncode for name in names)
    (name,) = names
    print(f"-- {name}, {seconds:.0f} s", flush=True)
    if name == NATIVE:
        from totalog.gateway.tests.fuzz import native

        return native.search(CORPUS / NATIVE, seconds, INPUT_SIZE_MAX)
    if importlib.util.find_spec("atheris") is None:
        return at_random(name, seconds)
    return guided(name, seconds)


def keep(name: str, data: bytes) -> Path:
    path = CORPUS / name / hashlib.sha256(data).hexdigest()[:16]
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    return path


def at_random(name: str, seconds: float) -> int:
    from totalog.gateway.tests.fuzz.mutate import mutated
    from totalog.gateway.tests.fuzz.targets import TARGETS

    target, seed = TARGETS[name], random.randrange(1 << 32)
    chance, seeds = random.Random(seed), list(target.seeds())
    end, count = time.monotonic() + seconds, 0
    while time.monotonic() < end:
        data = mutated(chance.choice(seeds), chance, seeds)
        try:
            target.run(data)
        except Exception:
            print(f"seed {seed}: found {keep(name, data)}", file=sys.stderr)
            raise
        count += 1
    print(f"{count} inputs at random, seed {seed}: nothing found")
    return 0


def guided(name: str, seconds: float) -> int:
    atheris: Any = import_module("atheris")
    with atheris.instrument_imports(include=["totalog.gateway", "kafka.protocol"]):
        from totalog.gateway.tests.fuzz.targets import TARGETS
    target = TARGETS[name]

    def run(data: bytes) -> None:
        try:
            target.run(data)
        except Exception:
            print(f"found {keep(name, data)}", file=sys.stderr)
            raise

    with tempfile.TemporaryDirectory() as seeds:
        for number, data in enumerate(target.seeds()):
            (Path(seeds) / str(number)).write_bytes(data)
        kept = [str(CORPUS / name)] if (CORPUS / name).is_dir() else []
        limits = [f"-max_total_time={seconds:.0f}", f"-max_len={INPUT_SIZE_MAX}", "-timeout=10", "-rss_limit_mb=2048"]
        quiet = ["-verbosity=0", "-print_final_stats=1", f"-artifact_prefix={seeds}/"]
        atheris.Setup([sys.argv[0], *limits, *quiet, seeds, *kept], run)
        atheris.Fuzz()
    return 0


if __name__ == "__main__":
    sys.exit(main())
