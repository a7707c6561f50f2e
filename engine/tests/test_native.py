"""The core without Python: the programs of native/ over it, for each processor and under each sanitizer.

What is missing on this machine (a cross compiler, an emulator) is a skip that names it and how to install it. Objects
are kept under build/native.
"""

import functools
import os
import re
import shlex
import shutil
import subprocess
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, replace
from fcntl import LOCK_EX, flock
from pathlib import Path
from signal import SIGILL

import pytest

from totalog.engine import core_build
from totalog.engine.core_build import ROOT

CORE = ROOT / "engine/core"
WORK = ROOT / "build/native"
PRODUCT = (*sorted(CORE.glob("*.c")), *sorted((ROOT / "gateway/wire").glob("*.c")))
CASES = sorted((ROOT / "engine/tests/native").glob("*.c"))
CC = tuple((os.environ.get("CC") or "cc").split())
CROSS = ("aarch64-linux-gnu-gcc",)
ARM64_LIBRARIES = Path("/usr/aarch64-linux-gnu")
IS_X86_64 = os.uname().machine == "x86_64"
LINKED = ("-Wl,--wrap=mmap,--wrap=munmap",)
"""broker_cases.c says what for."""
MODES = ("coherent", "noncoherent")


@dataclass(frozen=True, slots=True)
class Variant:
    """One build of the program, and what runs it."""

    name: str
    compiler: tuple[str, ...] = CC
    flags: tuple[str, ...] = ()
    runner: tuple[str, ...] = ()
    package: str = "gcc libc6-dev"
    """Debian packages that bring what the build and the run need."""
    product: Path | None = None
    """Where what it tests is built, when not here."""
    cases: "Variant | None" = None
    """Whose build of the cases it takes, when not its own."""

    def folder(self, source: Path) -> Path:
        """Where the object of this file is."""
        return self.product if self.product and source in PRODUCT else WORK / self.name

    def command(self) -> list[str]:
        return [*self.compiler, *core_build.FLAGS, "-Werror", *self.flags]


# `make build` has made the same objects already.
NATIVE = Variant("native", product=ROOT / "build/core")
# A sanitizer sees as much at -O1, and names lines with -g1. ThreadSanitizer knows no fence that stands alone: it checks
# by the orders of loads and stores beside it, which the core has as well. Nothing is switched off but the compiler's
# warning about that. A memcpy it sees only as a call.
ADDRESS = Variant("address", flags=("-O1", "-g1", "-fsanitize=address,undefined", "-fno-sanitize-recover=all"))
THREAD = Variant("thread", flags=("-O1", "-g1", "-fsanitize=thread", "-fno-builtin", "-Wno-tsan"))
# Words of the core that publish, without the order that makes them do so. The cases keep theirs: no race is theirs.
RELAXED = Variant(
    "relaxed",
    flags=(*THREAD.flags, "-Wno-builtin-macro-redefined", "-U__ATOMIC_RELEASE", "-D__ATOMIC_RELEASE=__ATOMIC_RELAXED"),
    cases=THREAD,
)
ARM64 = Variant(
    "arm64",
    compiler=CROSS,
    flags=("-g1",),
    runner=("qemu-aarch64", "-L", str(ARM64_LIBRARIES)),
    package="gcc-aarch64-linux-gnu libc6-dev-arm64-cross qemu-user",
)
# The native program on a processor of before clflushopt and SSE 4.2.
OLD = replace(NATIVE, runner=("qemu-x86_64", "-cpu", "qemu64"), package="qemu-user")
VARIANTS = {"native": NATIVE, "address": ADDRESS, "thread": THREAD, "arm64": ARM64, "old": OLD}


def need(command: str, package: str) -> None:
    if shutil.which(command) is None:
        pytest.skip(f"{command} is missing (Debian: apt install {package})")


def probe(variant: Variant) -> tuple[str, ...]:
    """What the variant's programs are started with; a skip where the smallest of them cannot be built or run."""
    for command in (variant.compiler[0], *variant.runner[:1]):
        need(command, variant.package)
    source, program = WORK / variant.name / "probe.c", WORK / variant.name / "probe"
    source.write_text("#include <stdio.h>\nint main(void) { return 0; }\n")
    build_it = [*variant.compiler, *variant.flags, "-pthread", str(source), "-o", str(program)]
    failed = subprocess.run(build_it, capture_output=True, text=True, check=False)
    if failed.returncode == 0:
        # ThreadSanitizer of an older compiler cannot live with the address randomization of a newer kernel.
        for runner in (variant.runner, ("setarch", "-R", *variant.runner)):
            failed = subprocess.run([*runner, str(program)], capture_output=True, text=True, check=False)
            if failed.returncode == 0:
                return runner
    said = (failed.stderr.strip() or f"status {failed.returncode}").splitlines()[-1]
    pytest.skip(f"no program for {variant.name}: {said} (Debian: apt install {variant.package})")


@contextmanager
def held(folder: Path) -> Iterator[None]:
    """No other process builds there meanwhile."""
    folder.mkdir(parents=True, exist_ok=True)
    with open(folder / "lock", "w") as lock:
        flock(lock, LOCK_EX)
        yield


def compiled(variant: Variant, sources: Sequence[Path]) -> list[Path]:
    """Their objects; what has changed is compiled. PRODUCT or CASES."""
    folder = variant.folder(sources[0])
    built = core_build.Build(folder, folder, warnings_are_errors=True)
    if folder != variant.product:
        built.compiler = variant.command()
    with held(folder), ThreadPoolExecutor(len(os.sched_getaffinity(0))) as pool:
        return list(pool.map(built.compile_source, sources))


@functools.cache
def build(variant: Variant) -> tuple[str, ...]:
    """The command that runs the variant's program, which is built when something in it has changed."""
    work = WORK / variant.name
    program = work / "program"
    with held(work):
        runner = probe(variant)
    objects = compiled(variant, PRODUCT) + compiled(variant.cases or variant, CASES)
    with held(work):
        key = core_build.digest(*variant.command(), *LINKED, *map(core_build.key_of, objects))
        if not core_build.is_current(program, key):
            core_build.execute([*variant.command(), *LINKED, *map(str, objects), "-o", str(program)])
            core_build.remember(program, key)
    return (*runner, str(program))


Run = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def run(tmp_path: Path) -> Run:
    def run(variant: Variant, *words: str) -> subprocess.CompletedProcess[str]:
        environment = {**os.environ, "UBSAN_OPTIONS": "print_stacktrace=1"}
        command = [*build(variant), *words]
        return subprocess.run(
            command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False, timeout=350
        )

    return run


def passes(finished: subprocess.CompletedProcess[str]) -> str:
    """What a program said that found nothing wrong."""
    assert (finished.returncode, finished.stderr) == (0, ""), finished.stderr
    return finished.stdout


# -- the programs


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("cases", ["log", "memory", "threads", "brokers", "replicas"])
@pytest.mark.parametrize("variant", VARIANTS)
def test_cases(run: Run, variant: str, cases: str, mode: str) -> None:
    assert passes(run(VARIANTS[variant], cases, ".", mode)) == f"{cases}: done\n"


@pytest.mark.parametrize(
    ("variant", "ways"), [("native", None), ("address", None), ("thread", None), ("arm64", 7), ("old", 1)]
)
def test_batches_are_checked(run: Run, variant: str, ways: int | None) -> None:
    """Where the processor is emulated, one knows which ways of CRC-32C it has: all of its kind, or the table alone."""
    found = re.fullmatch(r"crc32c ways (\d+)\nbatches: done\n", passes(run(VARIANTS[variant], "batches")))
    assert found is not None
    assert ways in (None, int(found[1]))


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize(("leaver", "taker"), [("native", "native"), ("native", "arm64"), ("arm64", "native")])
def test_a_region_that_one_processor_left_is_taken_by_another(run: Run, leaver: str, taker: str, mode: str) -> None:
    passes(run(VARIANTS[leaver], "leave", ".", mode))
    assert passes(run(VARIANTS[taker], "take", ".", mode)) == "take: done\n"


# -- the programs bite


def test_a_changed_byte_is_found(run: Run, tmp_path: Path) -> None:
    passes(run(NATIVE, "leave", ".", "coherent"))
    content = (tmp_path / "left").read_bytes()
    number = sum(1 + 3 * group for group in range(20)) + 19  # the last reserved batch, as log_cases.c numbers them
    words = ((number + 1) * 0x9E3779B97F4A7C15 + at & (1 << 64) - 1 for at in range(0, 70_000, 8))
    payload = b"".join(word.to_bytes(8, "little") for word in words)
    position = content.index(payload) + 35_000
    with open(tmp_path / "left", "r+b") as file:
        file.seek(position)
        file.write(bytes([content[position] ^ 1]))
    finished = run(NATIVE, "take", ".", "coherent")
    assert finished.returncode == 1
    assert "expect_bytes: not so: memcmp(bytes, &word," in finished.stderr


@pytest.mark.parametrize(
    ("variant", "fault", "report"),
    [
        ("address", "overrun", "AddressSanitizer: heap-buffer-overflow"),
        ("address", "overflow", "runtime error: signed integer overflow"),
        ("thread", "race", "ThreadSanitizer: data race"),
    ],
)
def test_a_planted_fault_is_found(run: Run, variant: str, fault: str, report: str) -> None:
    passes(run(NATIVE, "plant", fault))
    finished = run(VARIANTS[variant], "plant", fault)
    assert finished.returncode != 0
    assert report in finished.stderr


def test_a_word_that_does_not_publish_is_found(run: Run) -> None:
    finished = run(RELAXED, "brokers", ".", "coherent")
    assert finished.returncode != 0
    assert "ThreadSanitizer: data race" in finished.stderr


# -- the instructions: law 4


def disassembly(variant: Variant, objdump: str) -> dict[str, dict[str, str]]:
    """Of each object of core and gateway: instructions by function, one a line, blanks made single."""
    need(objdump, variant.package)
    build(variant)
    found: dict[str, dict[str, str]] = {}
    for path in compiled(variant, PRODUCT):
        command = [objdump, "--disassemble", "--no-show-raw-insn", str(path)]
        text = subprocess.run(command, capture_output=True, text=True, check=True).stdout
        found[path.name.removesuffix(".o")] = dict(functions_of(text))
    return found


def functions_of(text: str) -> Iterator[tuple[str, str]]:
    for part in re.split(r"^[0-9a-f]+ <", text, flags=re.MULTILINE)[1:]:
        name, _, lines = part.partition(">:\n")
        instructions = re.findall(r"^\s+[0-9a-f]+:\s+(.*)$", lines, re.MULTILINE)
        yield name, "\n".join(" ".join(instruction.split()) for instruction in instructions)


def outside(found: dict[str, dict[str, str]], seam: str, pattern: str) -> list[str]:
    """Where instructions stand that only the seam may have."""
    return [
        f"{source}: {name}: {instruction}"
        for source, functions in found.items()
        if source != seam
        for name, instructions in functions.items()
        for instruction in re.findall(pattern, instructions, re.MULTILINE)
    ]


def test_arm64_flushes_to_the_point_of_coherency() -> None:
    """`dc civac` for flush and invalidate (mem_arm64.c says why not `dc cvac`), `dsb sy` after it, `yield` as pause."""
    found = disassembly(ARM64, "aarch64-linux-gnu-objdump")
    seam = found["engine.core.mem_arm64.c"]
    assert set(re.findall(r"^(?:dc|ic) \w+", "\n".join(seam.values()), re.MULTILINE)) == {"dc civac"}
    assert "dc civac" in seam["mem_machine_flush"]
    assert "ctr_el0" in seam["choose_step"]
    assert re.findall(r"^dsb.*", seam["mem_machine_fence"], re.MULTILINE) == ["dsb sy"]
    assert re.findall(r"^dsb.*", seam["mem_machine_full_fence"], re.MULTILINE) == ["dsb sy"]
    assert "yield" in seam["mem_machine_pause"].splitlines()
    assert outside(found, "engine.core.mem_arm64.c", r"^(?:(?:dc|ic|dsb)\b.*|yield|bl .*clear_cache.*)$") == []
    assert "crc32cx" in "\n".join(found["gateway.wire.batch.c"].values())


@pytest.mark.skipif(not IS_X86_64, reason="the native build is not for x86-64")
def test_x86_64_chooses_its_flush_at_run_time() -> None:
    found = disassembly(NATIVE, "objdump")
    seam = found["engine.core.mem_x86_64.c"]
    words = {name: set(re.findall(r"^\w+", text, re.MULTILINE)) for name, text in seam.items()}
    assert "clflush" in words["flush_clflush"] - words["flush_clflushopt"]
    assert "clflushopt" in words["flush_clflushopt"] - words["flush_clflush"]
    assert "cpuid" in words["choose_flush"]
    assert not words["mem_machine_flush"] & {"clflush", "clflushopt"}
    assert "sfence" in words["mem_machine_fence"]
    assert "mfence" in words["mem_machine_full_fence"]
    assert "pause" in words["mem_machine_pause"]
    assert outside(found, "engine.core.mem_x86_64.c", r"^(?:clflush\w*|clwb|[slm]fence|pause)\b.*$") == []


@pytest.mark.skipif(not IS_X86_64, reason="the native build is not for x86-64")
def test_the_old_processor_has_no_clflushopt(run: Run) -> None:
    """So that its cases, which pass, show that the core has chosen clflush there."""
    passes(run(OLD, "flush", "clflush"))
    assert run(OLD, "flush", "clflushopt").returncode == -SIGILL


# -- other processors: one clear line


@pytest.mark.parametrize(
    ("compiler", "flag", "message"),
    [
        (CC, "-U__x86_64__", "knows x86-64 and arm64; this processor has no memory seam yet"),
        (CC, "-m32", "knows x86-64 and arm64; this processor has no memory seam yet"),
        (CROSS, "-mbig-endian", "the region is little endian; this processor is not"),
    ],
)
def test_another_processor_is_refused_with_a_clear_message(compiler: tuple[str, ...], flag: str, message: str) -> None:
    """The first that the compiler says, whatever headers of that processor are there."""
    if compiler == CC and not IS_X86_64:
        pytest.skip(f"{flag} makes another processor of x86-64 alone")
    need(compiler[0], ARM64.package)
    command = [*compiler, flag, "-fsyntax-only", "-I", str(CORE), str(CORE / "mem_x86_64.c")]
    finished = subprocess.run(command, capture_output=True, text=True, check=False)
    assert finished.returncode != 0, shlex.join(command)
    assert '#error "totalog: ' in finished.stderr.splitlines()[0]
    assert message in finished.stderr.splitlines()[0]
