"""The wheel as a stranger gets it: built from the sdist, alone in an empty environment, beside packages of theirs."""

import os
import socket
import struct
import subprocess
import sys
import threading
import venv
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

pytestmark = pytest.mark.wheel

ROOT = Path(__file__).resolve().parent.parent
READY_SECONDS_MAX = 60
API_VERSIONS = 18
THEIR_PACKAGES = {
    "gateway/__init__.py": "OWNER = 'user'",
    "gateway/server.py": "OWNER = 'user'",
    "engine/__init__.py": "OWNER = 'user'",
}


def run(*command: str | Path, cwd: Path, **environment: str) -> str:
    """Output of a command that must succeed; what it said is shown when it does not."""
    env = {**os.environ, **environment}
    done = subprocess.run(
        command, cwd=cwd, env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False
    )
    assert done.returncode == 0, done.stdout
    return done.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Built from the sdist, so that an sdist which lacks a file is noticed too. Not optimized, which takes a third of
    the time: what `make build` made of the same files is what the other tests are about.
    """
    folder = tmp_path_factory.mktemp("dist")
    run(sys.executable, "-m", "build", "--no-isolation", "--outdir", folder, cwd=ROOT, CFLAGS="-O0 -g0")
    (found,) = folder.glob("*.whl")
    return found


@pytest.fixture(scope="module")
def environment(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of the commands of an environment that holds the wheel and what it depends on."""
    folder = tmp_path_factory.mktemp("environment")
    venv.create(folder)
    install = ("--python", folder, "install", "--quiet", "--no-compile", "--disable-pip-version-check", wheel)
    run(sys.executable, "-m", "pip", *install, cwd=folder)
    return folder / "bin"


@pytest.fixture
def their_folder(tmp_path: Path) -> Path:
    for name, text in THEIR_PACKAGES.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    return tmp_path


@contextmanager
def serving(command: Path, folder: Path) -> Iterator[tuple[str, int]]:
    """Address of a broker that was started in `folder`, with that folder first on its import path."""
    process = subprocess.Popen(
        [command, "serve", "--port", "0", "--ephemeral", "--memory", "256m"],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(folder)},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    assert process.stdout is not None
    watchdog = threading.Timer(READY_SECONDS_MAX, process.kill)
    watchdog.start()
    try:
        said = []
        for line in process.stdout:
            said.append(line)
            if "ready" in line:
                break
        assert said, "serve ended without a word"
        assert "ready" in said[-1], "".join(said)
        watchdog.cancel()
        host, port = next(word.rstrip(".,;") for word in said[-1].split() if ":" in word.strip(".,:;")).rsplit(":", 1)
        yield host, int(port)
    finally:
        watchdog.cancel()
        process.terminate()
        rest, _ = process.communicate(timeout=60)
    assert process.returncode == 0, rest


def api_versions(address: tuple[str, int]) -> dict[int, tuple[int, int]]:
    """What ApiVersions version 0 answers: per API key, its lowest and highest version."""
    correlation_id = 7
    header = struct.pack(">hhih", API_VERSIONS, 0, correlation_id, -1)  # -1: no client id
    with socket.create_connection(address, timeout=60) as connection, connection.makefile("rb") as answers:
        connection.sendall(struct.pack(">i", len(header)) + header)
        (size,) = struct.unpack(">i", answers.read(4))
        answer = answers.read(size)
    assert struct.unpack_from(">ihi", answer)[:2] == (correlation_id, 0)
    return {key: (low, high) for key, low, high in struct.iter_unpack(">hhh", answer[10:])}


def test_wheel_holds_the_two_packages_and_nothing_else(wheel: Path) -> None:
    names = zipfile.ZipFile(wheel).namelist()
    assert {name.split("/")[0] for name in names} == {"totalog", f"{'-'.join(wheel.name.split('-')[:2])}.dist-info"}
    code = [name for name in names if name.startswith("totalog/")]
    assert {Path(name).suffix for name in code} <= {".py", ".so", ".typed"}
    assert not [name for name in code if "/tests/" in name or Path(name).stem in ("core_build", "hatch_build")]
    libraries = {name.split(".")[0] for name in code if name.endswith(".so")}
    modules = ("engine/_core", "engine/_core_long", "gateway/wire/_batch", "gateway/wire/_batch_long")
    assert libraries == {f"totalog/{module}" for module in modules}


def test_installed_alone_it_serves_beside_their_packages(environment: Path, their_folder: Path) -> None:
    with serving(environment / "totalog", their_folder) as address:
        versions = api_versions(address)
    assert versions[API_VERSIONS][0] == 0
    assert len(versions) > 1


def test_their_packages_stay_theirs(environment: Path, their_folder: Path) -> None:
    program = """
import gateway, engine, gateway.server, totalog.engine, totalog.gateway.testing
print(gateway.OWNER, gateway.server.OWNER, engine.OWNER, totalog.engine.Log.__module__.split(".")[0])
"""
    assert run(environment / "python", "-c", program, cwd=their_folder).split() == ["user", "user", "user", "totalog"]


def test_no_module_that_serves_imports_what_is_slow_to_import(environment: Path, their_folder: Path) -> None:
    program = """
import importlib, pkgutil, sys, totalog.gateway
for module in pkgutil.walk_packages(totalog.gateway.__path__, "totalog.gateway."):
    if not module.name.endswith("__main__"):
        importlib.import_module(module.name)
print("totalog.engine" in sys.modules, *{"numpy", "kafka", "cramjam", "rich", "matplotlib"} & set(sys.modules))
"""
    assert run(environment / "python", "-c", program, cwd=their_folder).split() == ["True"]
