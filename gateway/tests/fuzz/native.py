"""The C that reads what clients send (batch.c, alike.c, lz4.c) under native.c: searched by libFuzzer where clang is,
and everything that is kept run again by a program of the ordinary compiler, under its sanitizers where it has them."""

import os
import random
import shutil
import struct
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from functools import cache
from pathlib import Path

from totalog.engine.core_build import ROOT
from totalog.gateway.tests.fuzz.mutate import mutated
from totalog.gateway.tests.fuzz.targets import batch_seeds

SOURCES = ("gateway/tests/fuzz/native.c", "gateway/wire/batch.c", "gateway/wire/alike.c", "gateway/wire/lz4.c")
FLAGS = ("-std=gnu11", "-O1", "-g", "-Wall", "-Wextra")
SANITIZERS = ("-fsanitize=address,undefined", "-fno-sanitize-recover=all")
SEARCH = ("-fsanitize=fuzzer,address,undefined", "-fno-sanitize-recover=all")
CLANGS = ("clang", *(f"clang-{version}" for version in range(22, 10, -1)))
WHAT_IS_MISSING = "without clang and its libFuzzer (Debian: apt install clang): the C parts at random"
WORK = ROOT / "build/fuzz"
BATCH, FRAMES, RECORDS = range(3)
PLAIN_HEAD = b"\0\0\0\7\0\0\0\0\0\1c\xff\xff\0\1\0\0\3\xe8\0\0\0\1\0\1t\0\0\0\1"
FLEXIBLE_HEAD = b"\0\0\0\x09\0\0\0\0\0\1c\0\0\0\1\0\0\3\xe8\2\2t\2"
"""The requests that native.c takes for one kind: versions 7 and 9, from client "c", for topic "t"."""
AT_ONCE = 500


def compiled(name: str, compiler: Sequence[str], flags: Sequence[str], sources: Sequence[str] = SOURCES) -> Path | None:
    """The program, or None where this compiler does not make it."""
    WORK.mkdir(parents=True, exist_ok=True)
    made = WORK / f"{name}-{os.getpid()}"
    command = [*compiler, *FLAGS, *flags, "-o", str(made), *sources]
    try:
        if subprocess.run(command, cwd=ROOT, capture_output=True, check=False).returncode:
            return None
    except FileNotFoundError:
        return None
    return made.replace(WORK / name)


@cache
def replay_program() -> Path:
    compiler = (os.environ.get("CC") or "cc").split()
    made = compiled("replay", compiler, (*SANITIZERS, "-DREPLAY")) or compiled("replay", compiler, ("-DREPLAY",))
    assert made is not None, "native.c does not compile"
    return made


def search_program() -> Path | None:
    """None: there is no clang with libFuzzer here."""
    found = (shutil.which(name) for name in CLANGS)
    return next((made for name in found if name and (made := compiled("search", [name], SEARCH))), None)


def replay(files: Sequence[Path]) -> None:
    """Raises AssertionError with what the program said, the file that broke it before it."""
    for start in range(0, len(files), AT_ONCE):
        command = [replay_program(), *files[start : start + AT_ONCE]]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr[-5000:]


def seeds() -> Iterator[bytes]:
    for data in batch_seeds():
        yield bytes([BATCH, 0]) + data
        yield bytes([BATCH, 0x21]) + data
        yield bytes([RECORDS, 1]) + data[61:]
        for partition in (0, 3):
            plain = PLAIN_HEAD + struct.pack(">ii", partition, len(data)) + data
            size = struct.pack("B", len(data) + 1) if len(data) < 127 else _long_size(len(data) + 1)
            flexible = FLEXIBLE_HEAD + struct.pack(">i", partition) + size + data + b"\0\0\0"
            yield bytes([FRAMES, 7]) + (struct.pack(">i", len(plain)) + plain) * 3
            yield bytes([FRAMES, 0x47]) + (struct.pack(">i", len(flexible)) + flexible) * 2


def _long_size(size: int) -> bytes:
    return bytes([size & 0x7F | 0x80, size >> 7])


def search(corpus: Path, seconds: float, size_max: int) -> int:
    """Looks for inputs that break the C parts; what is found lies in `corpus`."""
    program = search_program()
    if program is None:
        print(WHAT_IS_MISSING, flush=True)
        return _at_random(corpus, seconds)
    corpus.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as folder:
        for number, data in enumerate(seeds()):
            (Path(folder) / str(number)).write_bytes(data)
        limits = [f"-max_total_time={seconds:.0f}", f"-max_len={size_max}", "-timeout=10", "-rss_limit_mb=2048"]
        quiet = ["-verbosity=0", "-print_final_stats=1", f"-artifact_prefix={corpus}/found-"]
        return subprocess.run([program, *limits, *quiet, folder, corpus], check=False).returncode


def _at_random(corpus: Path, seconds: float) -> int:
    seed = random.randrange(1 << 32)
    chance, known = random.Random(seed), list(seeds())
    rounds = max(1, int(seconds))
    for number in range(rounds):
        with tempfile.TemporaryDirectory() as folder:
            files = [Path(folder) / str(index) for index in range(AT_ONCE)]
            for file in files:
                file.write_bytes(mutated(chance.choice(known), chance, known))
            try:
                replay(files)
            except AssertionError as broken:
                last = next(line for line in reversed(str(broken).splitlines()) if line.startswith(folder))
                corpus.mkdir(parents=True, exist_ok=True)
                kept = Path(shutil.copy(last, corpus / f"found-{seed}-{number}"))
                print(f"{broken}\nfound {kept}", flush=True)
                return 1
    print(f"{rounds * AT_ONCE} inputs at random, seed {seed}: nothing found")
    return 0
