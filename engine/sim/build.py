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


def compile_core() -> Path:
    """Builds what changed. The seam of the real machine (mem_*.c) is left out: sim.c is the machine."""
    WORK.mkdir(parents=True, exist_ok=True)
    core = core_build.ROOT / "engine/core"
    build = core_build.Build(WORK, WORK / "objects", warnings_are_errors=True)
    build.work.mkdir(parents=True, exist_ok=True)
    flags = ["-I", str(core), "-I", str(HERE), "-D_GNU_SOURCE=", "-include", str(HERE / "sim.h")]
    sources = [source for source in sorted(core.glob("*.c")) if not source.name.startswith("mem_")]
    with open(WORK / "lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        objects = [build.compile_wrapper(MODULE)]
        for source in [*sources, HERE / "sim.c"]:
            objects.append(build.compile(source, build.work / f"{source.name}.o", flags))
        build.link(MODULE, objects)
    return WORK / MODULE.library


@functools.cache
def core() -> ModuleType:
    """The compiled module: `lib` and `ffi`."""
    loader = ExtensionFileLoader("_sim", str(compile_core()))
    spec = spec_from_loader("_sim", loader)
    assert spec is not None
    module = module_from_spec(spec)
    loader.exec_module(module)
    return module
