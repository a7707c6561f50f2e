"""A second engine whose core notes every store into the region, so that tests can take stores back (see undo.h).

It is compiled once, under build/undo, and imported beside the real one: its modules are bound to its own core.
"""

import functools
import mmap
import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

from totalog.engine import core_build
from totalog.engine.sim import build

HERE = Path(__file__).resolve().parent
WORK = core_build.ROOT / "build/undo"
MODULE = core_build.Module(
    "totalog._core",
    "engine/core/*.c",
    (*core_build.CORE_DECLARATIONS, "engine/tests/undo_face.h"),
    keeps_gil=True,
)
ENGINE = "totalog.engine"


@functools.cache
def core() -> ModuleType:
    return build.load(MODULE, build.compile_core(MODULE, WORK, HERE / "undo.h"))


class Modules(NamedTuple):
    """The engine's modules, bound to the core that notes its stores. (Any: twins of modules that have types.)"""

    engine: Any
    region: Any
    tables: Any
    driver: Any


@functools.cache
def modules() -> Modules:
    ours = {name: module for name, module in sys.modules.items() if f"{name}.".startswith(f"{ENGINE}.")}
    parent = sys.modules["totalog"]
    for name in ours:
        del sys.modules[name]
    sys.modules[f"{ENGINE}._core"] = core()
    try:
        import totalog.engine as engine
        from totalog.engine import region, tables
        from totalog.engine.tests import driver
    finally:
        for name in [name for name in sys.modules if f"{name}.".startswith(f"{ENGINE}.")]:
            del sys.modules[name]
        sys.modules.update(ours)
        parent.engine = ours[ENGINE]  # type: ignore[attr-defined]
    return Modules(engine, region, tables, driver)


class Stage:
    """One region in memory, and the stores that were made into it since `undo_start`."""

    def __init__(self, *, size: int, coherent: bool = True) -> None:
        self.lib = core().lib
        made = modules().region.Region.create(None, size, coherent)
        self.descriptor, self.size = made.descriptor, made.size
        self.map = mmap.mmap(self.descriptor, self.size)
        self.base = int(core().ffi.cast("uintptr_t", core().ffi.from_buffer(self.map)))

    def open(self) -> Any:
        """Attaches, as a process that starts does."""
        return modules().engine.Log(modules().region.Region(os.dup(self.descriptor), self.size, None))

    def kill(self, log: Any) -> None:
        """Ends the log as a kill does: nothing more is stored."""
        handle, log._core = log._core, None
        if handle is not None:
            self.lib.log_close(handle)
            log.region.close()

    def close(self) -> None:
        self.lib.undo_stop()
        os.close(self.descriptor)

    def ordered(self) -> int:
        """The commit point as it stands in the region now."""
        position = self.lib.CONTROL_POSITION + core().ffi.offsetof("struct control", "ordered")
        return int.from_bytes(self.map[position : position + 8], "little")

    def crashes(
        self, log: Any, action: Callable[[Any], object], *, descending: bool = False, stride: int = 1, nested: int = 0
    ) -> Iterator[tuple[int, Any]]:
        """Runs `action`, then yields for each of its stores (commit point, log): what a kill there leaves behind.

        From the last store to the first; every `nested`-th time the successor is killed too, at each tenth store of its
        own start. What the test does with the log is taken back before the next one; in the end the region is as it was
        before the action, and `log` is gone.
        """
        self.lib.undo_start(descending)
        action(log)
        self.kill(log)
        points = range(self.lib.undo_count(), -1, -stride)
        for number, point in enumerate(points):
            self.lib.undo_back(self.base, point)
            yield from self._successor(point)
            if nested and number % nested == 0:
                self.kill(self.open())
                for inner in range(self.lib.undo_count() - 1, point, -10):
                    self.lib.undo_back(self.base, inner)
                    yield from self._successor(inner)
        self.lib.undo_back(self.base, 0)
        self.lib.undo_stop()

    def _successor(self, point: int) -> Iterator[tuple[int, Any]]:
        ordered = self.ordered()
        found = self.open()
        yield ordered, found
        self.kill(found)
        self.lib.undo_back(self.base, point)
