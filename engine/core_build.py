"""Compiles the C parts into extension modules (cffi, API mode), and only what changed.

    python engine/core_build.py            build in place, as an editable install does
    python engine/core_build.py --check    say whether this machine can build at all

Each C file becomes one object, shared by the modules that hold it; each module gets one generated wrapper. An object is
built again when its command or the text of any file that it read (the compiler's own list) is another than last time.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
import subprocess
import sys
import sysconfig
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PACKAGES = ("gateway", "engine")
MACHINES = ("x86_64", "aarch64", "arm64")
FLAGS = ("-std=gnu11", "-O2", "-g", "-Wall", "-Wextra", "-fPIC", "-pthread", "-fvisibility=hidden")
# What cffi generates leaves parameters unused and initializers short; our own C may not.
WRAPPER_FLAGS = ("-Wno-unused-parameter", "-Wno-missing-field-initializers", "-Wno-cast-function-type")
# A call that gives the GIL away next to a busy Python thread can wait 5 ms to get it back, so short calls keep it.
KEEP_GIL = """
#undef Py_BEGIN_ALLOW_THREADS
#undef Py_END_ALLOW_THREADS
#define Py_BEGIN_ALLOW_THREADS {
#define Py_END_ALLOW_THREADS }
"""
# Calls that do give it away count what it costs to get it back.
GIL_DECLARATIONS = """
struct gil_counters {
    uint64_t calls;            /* gave the GIL away */
    uint64_t waits;            /* and waited for it afterwards, for longer than it takes to take a free one */
    uint64_t wait_nanoseconds; /* of all of them, between asking for it and having it */
};
extern struct gil_counters gil_counters;
"""
COUNT_GIL = (
    "#include <time.h>\n"
    + GIL_DECLARATIONS
    + """
#define GIL_WAIT_NANOSECONDS_MIN 5000
struct gil_counters gil_counters;

static uint64_t gil_now(void)
{
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return (uint64_t)time.tv_sec * 1000000000 + (uint64_t)time.tv_nsec;
}

static void gil_take(PyThreadState *state)
{
    uint64_t asked = gil_now();
    PyEval_RestoreThread(state);
    uint64_t waited = gil_now() - asked;
    __atomic_fetch_add(&gil_counters.calls, 1, __ATOMIC_RELAXED);
    __atomic_fetch_add(&gil_counters.waits, waited >= GIL_WAIT_NANOSECONDS_MIN, __ATOMIC_RELAXED);
    __atomic_fetch_add(&gil_counters.wait_nanoseconds, waited, __ATOMIC_RELAXED);
}

#undef Py_BEGIN_ALLOW_THREADS
#undef Py_END_ALLOW_THREADS
#define Py_BEGIN_ALLOW_THREADS { PyThreadState *gil_state = PyEval_SaveThread();
#define Py_END_ALLOW_THREADS gil_take(gil_state); }
"""
)


class BuildError(Exception):
    """One line that says why the core cannot be built here."""


@dataclass(frozen=True)
class Module:
    """One extension module: its import name, its C files, and the headers that both compiler and cffi read."""

    name: str
    sources: str  # a glob below the root
    declarations: tuple[str, ...]  # in this order
    keeps_gil: bool

    @property
    def library(self) -> Path:
        """Where the module lies below the root. Stable-ABI, except where the interpreter has none."""
        suffix = sysconfig.get_config_var("EXT_SUFFIX") if sysconfig.get_config_var("Py_GIL_DISABLED") else ".abi3.so"
        return Path(*self.name.split(".")[1:]).with_suffix(suffix)


CORE_DECLARATIONS = (
    "engine/core/shared.h",
    "engine/core/layout.h",
    "engine/core/core.h",
    "engine/core/journal_format.h",
    "engine/core/store.h",
)
BATCH_DECLARATIONS = (
    "engine/core/shared.h",
    "gateway/wire/batch.h",
    "gateway/wire/alike.h",
    "gateway/wire/lz4.h",
)
MODULES = (
    Module("totalog.engine._core", "engine/core/*.c", CORE_DECLARATIONS, keeps_gil=True),
    Module("totalog.engine._core_long", "engine/core/*.c", CORE_DECLARATIONS, keeps_gil=False),
    Module("totalog.gateway.wire._batch", "gateway/wire/*.c", BATCH_DECLARATIONS, keeps_gil=True),
    Module("totalog.gateway.wire._batch_long", "gateway/wire/*.c", BATCH_DECLARATIONS, keeps_gil=False),
)


def check_machine() -> list[str]:
    """The compiler's command; BuildError where nothing can be built."""
    system, machine = os.uname().sysname, os.uname().machine
    if system != "Linux" or machine not in MACHINES:
        raise BuildError(f"totalog runs on Linux on x86-64 and arm64; this is {system} on {machine}")
    compiler = (os.environ.get("CC") or "cc").split()
    if shutil.which(compiler[0]) is None:
        raise BuildError(f"totalog needs a C compiler; {compiler[0]} was not found (Debian: apt install gcc libc6-dev)")
    header = Path(sysconfig.get_path("include"), "Python.h")
    if not header.exists():
        raise BuildError(f"totalog needs Python's headers; {header} is missing (Debian: apt install python3-dev)")
    return compiler


class Build:
    """One run over all modules: objects and wrappers under `work`, finished modules under `target`."""

    def __init__(self, target: Path, work: Path, *, warnings_are_errors: bool) -> None:
        self.target = target
        self.work = work
        extra = os.environ.get("CFLAGS", "").split()
        self.compiler = [*check_machine(), *FLAGS, *(["-Werror"] if warnings_are_errors else []), *extra]

    def run(self) -> list[Path]:
        """Builds all modules, and returns where each lies below the target."""
        self.work.mkdir(parents=True, exist_ok=True)
        workers = len(os.sched_getaffinity(0))
        with open(self.work / "lock", "w") as lock, ThreadPoolExecutor(workers) as pool:
            fcntl.flock(lock, fcntl.LOCK_EX)
            sources = sorted({source for module in MODULES for source in ROOT.glob(module.sources)})
            objects = dict(zip(sources, pool.map(self.compile_source, sources), strict=True))
            wrappers = list(pool.map(self.compile_wrapper, MODULES))
            for module, wrapper in zip(MODULES, wrappers, strict=True):
                self.link(module, [wrapper, *(objects[source] for source in sorted(ROOT.glob(module.sources)))])
        return [module.library for module in MODULES]

    def compile_source(self, source: Path) -> Path:
        target = self.work / (str(source.relative_to(ROOT)).replace("/", ".") + ".o")
        return self.compile(source, target, ["-I", str(ROOT / "engine/core")])

    def compile_wrapper(self, module: Module) -> Path:
        source = self.work / f"{module.name}.c"
        self.write_wrapper(module, source)
        folders = sorted({str((ROOT / name).parent) for name in module.declarations})
        includes = [word for folder in folders for word in ("-I", folder)]
        includes += ["-isystem", sysconfig.get_path("include"), *WRAPPER_FLAGS]
        return self.compile(source, source.with_suffix(".wrapper.o"), includes)

    def write_wrapper(self, module: Module, target: Path) -> None:
        """Has cffi write the module's C, unless the declarations are those of last time."""
        declarations = "\n".join((ROOT / name).read_text() for name in module.declarations)
        if not module.keeps_gil:
            declarations += GIL_DECLARATIONS
        key = digest(repr(module), declarations, Path(__file__).read_text())
        if is_current(target, key):
            return
        import cffi  # 50 ms that a build without news does not pay
        from cffi.recompiler import make_c_source

        includes = "".join(f'#include "{Path(name).name}"\n' for name in module.declarations)
        preamble = "#include <stdbool.h>\n#include <stddef.h>\n#include <stdint.h>\n" + includes
        ffi = cffi.FFI()
        try:
            ffi.cdef(declarations)
        except (cffi.CDefError, cffi.FFIError) as error:
            raise BuildError(f"cffi cannot read {', '.join(module.declarations)}: {error}") from error
        make_c_source(ffi, module.name, preamble + (KEEP_GIL if module.keeps_gil else COUNT_GIL), str(target))
        remember(target, key)

    def compile(self, source: Path, target: Path, flags: list[str]) -> Path:
        command = [*self.compiler, *flags, "-MMD", "-MF", f"{target}.d", "-c", str(source), "-o", str(target)]
        if not is_current(target, self.object_key(command, source, target)):
            target.unlink(missing_ok=True)
            execute(command)
            remember(target, self.object_key(command, source, target))
        return target

    def object_key(self, command: list[str], source: Path, target: Path) -> str:
        """Command and texts that an object is made from; the list of texts is the one of its last compilation."""
        listed = Path(f"{target}.d")
        names = listed.read_text().replace("\\\n", " ").split()[1:] if listed.exists() else [str(source)]
        texts = [Path(name).read_text(errors="replace") if Path(name).exists() else "" for name in names]
        return digest(*command, *names, *texts)

    def link(self, module: Module, objects: list[Path]) -> None:
        target = self.target / module.library
        key = digest(*self.compiler, *(f"{path} {key_of(path)}" for path in objects))
        if target.exists() and key_of(self.work / module.name) == key:
            return
        target.parent.mkdir(parents=True, exist_ok=True)
        fresh = target.with_suffix(".new")
        execute([*self.compiler, "-shared", *map(str, objects), "-o", str(fresh)])
        os.replace(fresh, target)  # a process that has the old one mapped keeps it
        remember(self.work / module.name, key)


def digest(*texts: str) -> str:
    return hashlib.sha256("\0".join(texts).encode()).hexdigest()


def key_of(made: Path) -> str:
    """The key that something was made from; empty when it never was."""
    path = Path(f"{made}.key")
    return path.read_text() if path.exists() else ""


def is_current(made: Path, key: str) -> bool:
    return made.exists() and key_of(made) == key


def remember(made: Path, key: str) -> None:
    Path(f"{made}.key").write_text(key)


def execute(command: list[str]) -> None:
    """Runs the compiler, whose own messages say what is wrong."""
    if subprocess.run(command, check=False).returncode != 0:
        raise BuildError(f"failed: {' '.join(command)}")


def link_packages() -> None:
    """Makes build/dev/totalog, the one place from which an editable install, type checker and linters import."""
    folder = ROOT / "build/dev/totalog"
    folder.mkdir(parents=True, exist_ok=True)
    for package in PACKAGES:
        link = folder / package
        if not link.is_symlink():
            link.symlink_to(Path("../../..", package))


def build_in_place() -> list[Path]:
    link_packages()
    return Build(ROOT, ROOT / "build/core", warnings_are_errors=True).run()


if __name__ == "__main__":
    try:
        if "--check" in sys.argv[1:]:
            check_machine()
        else:
            build_in_place()
    except BuildError as failure:
        sys.exit(str(failure))
