"""The build of the C parts: compiles what changed and nothing else, and says in one line why it cannot."""

import importlib.util
import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest

from totalog.engine import core_build

SOURCES = {
    "engine/core/shared.h": "enum { ONE = 1 };\n",
    "engine/core/sum.h": "int64_t sum(int64_t a, int64_t b);\n",
    "engine/core/sum.c": '#include <stdint.h>\n#include "sum.h"\nint64_t sum(int64_t a, int64_t b) { return a + b; }\n',
    "engine/core/other.c": "int other(void);\nint other(void) { return 1; }\n",
}
MODULES = (
    core_build.Module("totalog.engine._short", "engine/core/*.c", ("engine/core/shared.h", "engine/core/sum.h"), True),
    core_build.Module("totalog.engine._long", "engine/core/*.c", ("engine/core/shared.h", "engine/core/sum.h"), False),
)


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(core_build, "ROOT", tmp_path)
    monkeypatch.setattr(core_build, "MODULES", MODULES)
    write(tmp_path, SOURCES)
    return tmp_path


def write(root: Path, texts: Mapping[str, str]) -> None:
    for name, text in texts.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)


def compiled(root: Path) -> set[str]:
    """Names of what one build makes anew: every file that it leaves with another identity than before."""
    before = identities(root)
    core_build.Build(root, root / "build", warnings_are_errors=True).run()
    after = identities(root)
    return {name.removesuffix(".o") for name in after if after[name] != before.get(name)}


def identities(root: Path) -> dict[str, tuple[int, int]]:
    files = [*root.glob("build/*.o"), *root.glob("engine/*.so")]
    return {file.name.partition(".abi3")[0]: (file.stat().st_ino, file.stat().st_mtime_ns) for file in files}


def test_only_what_changed_is_built_again(root: Path) -> None:
    wrappers = {"totalog.engine._short.wrapper", "totalog.engine._long.wrapper"}
    libraries = {"_short", "_long"}
    assert compiled(root) == {"engine.core.sum.c", "engine.core.other.c"} | wrappers | libraries
    assert compiled(root) == set()
    write(root, {"engine/core/other.c": "int other(void);\nint other(void) { return 2; }\n"})
    assert compiled(root) == {"engine.core.other.c"} | libraries
    write(root, {"engine/core/sum.h": SOURCES["engine/core/sum.h"] + "enum { TWO = 2 };\n"})
    assert compiled(root) == {"engine.core.sum.c"} | wrappers | libraries
    (root / "engine/core/other.c").unlink()
    assert compiled(root) == libraries


def test_module_works_and_holds_the_gil_where_it_should(root: Path) -> None:
    compiled(root)
    for module in MODULES:
        spec = importlib.util.spec_from_file_location(module.name.rpartition(".")[2], root / module.library)
        assert spec is not None
        assert spec.loader is not None
        loaded = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(loaded)
        assert loaded.lib.sum(2, 3) == 5
        assert loaded.lib.ONE == 1
        assert (b"PyEval_SaveThread" in (root / module.library).read_bytes()) == (not module.keeps_gil)


def test_warning_is_an_error_and_leaves_no_object(root: Path, capfd: pytest.CaptureFixture[str]) -> None:
    write(root, {"engine/core/other.c": "int other(int unused) { return 1; }\n"})
    for _ in range(2):
        with pytest.raises(core_build.BuildError, match=r"failed: .*other\.c"):
            compiled(root)
    assert "unused" in capfd.readouterr().err


def test_header_that_cffi_cannot_read_is_named(root: Path) -> None:
    write(root, {"engine/core/shared.h": "#ifndef GUARD\n#endif\n"})
    with pytest.raises(core_build.BuildError, match=r"cffi cannot read engine/core/shared\.h"):
        compiled(root)


def test_missing_compiler_is_one_line() -> None:
    done = subprocess.run(
        [sys.executable, core_build.__file__, "--check"],
        env={**os.environ, "CC": "no-such-compiler"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1
    assert done.stderr.splitlines() == [
        "totalog needs a C compiler; no-such-compiler was not found (Debian: apt install gcc libc6-dev)"
    ]


@pytest.mark.parametrize(("system", "machine"), [("Darwin", "arm64"), ("Linux", "riscv64")])
def test_other_machines_are_refused(system: str, machine: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "uname", lambda: os.uname_result((system, "host", "1", "1", machine)))
    with pytest.raises(core_build.BuildError, match=f"this is {system} on {machine}"):
        core_build.check_machine()
