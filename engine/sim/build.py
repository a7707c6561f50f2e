"""The core compiled a second time, over the simulated seam (sim.h): one more module under build/sim."""

import fcntl
import functools
from importlib.machinery import ExtensionFileLoader
from importlib.util import module_from_spec, spec_from_loader
from pathlib import Path
from types import ModuleType

from totalog.engine import core_build

HERE = core_build.ROOT / "engine/sim"
WORK = core_build.ROOT / "build/sim"
MODULE = core_build.Module(
    "totalog._sim",
    "engine/core/*.c",
    (*core_build.CORE_DECLARATIONS, "engine/sim/sim_face.h"),
    keeps_gil=True,
)


def compile_core(module: core_build.Module, work: Path, seam: Path, left_out: str = "") -> Path:
    """Builds what changed of a core over another seam: the header `seam` goes before every C file, and the C file of
    the same name comes with them. Files of the core whose name begins with `left_out` do not."""
    core = core_build.ROOT / "engine/core"
    build = core_build.Build(work, work / "objects", warnings_are_errors=True)
    build.work.mkdir(parents=True, exist_ok=True)
    flags = ["-g1", "-I", str(core), "-I", str(seam.parent), "-D_GNU_SOURCE=", "-include", str(seam)]
    sources = [source for source in sorted(core.glob("*.c")) if not (left_out and source.name.startswith(left_out))]
    with open(work / "lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        objects = [build.compile_wrapper(module)]
        for source in [*sources, seam.with_suffix(".c")]:
            objects.append(build.compile(source, build.work / f"{source.name}.o", flags))
        build.link(module, objects)
    return work / module.library


def load(module: core_build.Module, library: Path) -> ModuleType:
    """The extension module, under its short name and beside any other of that name: `lib` and `ffi`."""
    name = module.name.rpartition(".")[2]
    loader = ExtensionFileLoader(name, str(library))
    spec = spec_from_loader(name, loader)
    assert spec is not None
    made = module_from_spec(spec)
    loader.exec_module(made)
    return made


@functools.cache
def core() -> ModuleType:
    """The compiled module. The seam of the real machine (mem_*.c) is left out: sim.c is the machine."""
    return load(MODULE, compile_core(MODULE, WORK, HERE / "sim.h", left_out="mem_"))
