"""A data directory: how it is made, whom it is given to, and what it refuses."""

import json
import os
import signal
import stat
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from totalog.engine import (
    DirectoryError,
    DirectoryInUse,
    DirectoryMismatch,
    DirectoryRefused,
    Log,
)
from totalog.engine.directory import Directory, RegionNote, boot_id
from totalog.engine.region import SIZE_MIN, ordered_of, region_id

LOG_ID = bytes(range(16))


def made(path: Path) -> Path:
    held = Directory.hold(path)
    held.join(LOG_ID)
    held.close()
    return path


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_a_new_directory_belongs_to_no_log_until_it_joins_one(tmp_path: Path) -> None:
    path = tmp_path / "state" / "totalog"
    held = Directory.hold(path)
    assert held.log_id is None
    assert (mode(path), mode(path.parent)) == (0o700, 0o700)
    held.join(LOG_ID)
    held.close()
    held = Directory.hold(path)
    assert held.log_id == LOG_ID
    held.close()
    assert {mode(each) for each in path.iterdir()} == {0o600}


def test_an_empty_directory_that_is_there_is_closed_to_others(tmp_path: Path) -> None:
    tmp_path.chmod(0o755)
    (tmp_path / "lost+found").mkdir()
    (tmp_path / "log.json.new").write_text("{")  # a process died while it wrote its first file
    Directory.hold(tmp_path).close()
    assert mode(tmp_path) == 0o700


def test_who_comes_second_is_told_who_holds_it(tmp_path: Path) -> None:
    held = Directory.hold(tmp_path / "data")
    with pytest.raises(DirectoryInUse, match=f"is in use by process {os.getpid()}: stop that broker") as caught:
        Directory.hold(tmp_path / "data")
    assert caught.value.process == os.getpid()
    held.close()
    Directory.hold(tmp_path / "data").close()


def test_the_kernel_gives_the_lock_of_a_killed_process_back(tmp_path: Path) -> None:
    program = (
        "import sys, pathlib; from totalog.engine.directory import Directory\n"
        "held = Directory.hold(pathlib.Path(sys.argv[1])); print('held', flush=True); sys.stdin.read()"
    )
    command = [sys.executable, "-c", program, str(tmp_path / "data")]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"held\n"
        with pytest.raises(DirectoryInUse, match=f"process {process.pid}"):
            Directory.hold(tmp_path / "data")
        process.send_signal(signal.SIGKILL)
        process.wait()
    Directory.hold(tmp_path / "data").close()


def strangers_file(path: Path) -> None:
    path.mkdir()
    (path / "thesis.odt").touch()


def open_to_others(path: Path) -> None:
    made(path).chmod(0o750)


def not_a_directory(path: Path) -> None:
    path.touch()


def lock_is_a_link(path: Path) -> None:
    path.mkdir()
    (path / "lock").symlink_to(path.parent / "elsewhere")


def below_a_file(path: Path) -> None:
    path.symlink_to(path.parent / "nowhere")


@pytest.mark.parametrize(
    ("make", "error", "words"),
    [
        (strangers_file, DirectoryRefused, r"holds files that are not a log's \(thesis.odt\)"),
        (open_to_others, DirectoryRefused, "has mode 0750: others may look into it"),
        (not_a_directory, DirectoryError, "cannot be used as a data directory: Not a directory"),
        (lock_is_a_link, DirectoryError, "lock cannot be opened"),
        (below_a_file, DirectoryError, "cannot be used as a data directory"),
    ],
)
def test_what_is_refused(tmp_path: Path, make: Callable[[Path], None], error: type[DirectoryError], words: str) -> None:
    make(tmp_path / "data")
    with pytest.raises(error, match=words) as caught:
        Directory.hold(tmp_path / "data")
    assert "\n" not in str(caught.value)


def test_another_users_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: os.getuid() + 1)
    with pytest.raises(DirectoryRefused, match=f"belongs to user {os.getuid()}, not to user"):
        Directory.hold(tmp_path)


@pytest.mark.parametrize(
    ("said", "words"),
    [
        ({"format": 2, "log_id": LOG_ID.hex()}, "has format 2, this build knows 1"),
        ({"format": 1, "log_id": "00"}, "does not say which log"),
        ({"format": 1, "log_id": 5}, "does not say which log"),
        ({"format": 1}, "does not say which log"),
        ([], "has format None"),
        (None, "has format None"),
    ],
)
def test_a_note_of_the_log_that_says_something_else(tmp_path: Path, said: object, words: str) -> None:
    path = made(tmp_path / "data")
    (path / "log.json").write_text("" if said is None else json.dumps(said))
    with pytest.raises(DirectoryMismatch, match=words):
        Directory.hold(path)


def test_a_journal_whose_note_is_gone(tmp_path: Path) -> None:
    path = made(tmp_path / "data")
    (path / "journal-00000000000000000000.log").touch()
    (path / "log.json").unlink()
    with pytest.raises(DirectoryMismatch, match=r"has a journal and no log\.json"):
        Directory.hold(path)


def test_the_note_of_the_region(tmp_path: Path) -> None:
    held = Directory.hold(tmp_path)
    held.join(LOG_ID)
    assert held.region() is None
    for complete in (False, True):
        note = RegionNote(tmp_path / "region", LOG_ID[::-1], boot_id(), complete)
        held.note_region(note, sync=complete)
        assert held.region() == note
    assert mode(tmp_path / "region.json") == 0o600
    held.forget_region()
    held.forget_region()
    assert held.region() is None
    held.close()


@pytest.mark.parametrize(
    "text", ["", "{}", "[]", '{"path": 1, "region_id": "", "boot_id": "", "complete": true}', "\xff"]
)
def test_a_note_of_the_region_that_cannot_be_read_is_none(tmp_path: Path, text: str) -> None:
    held = Directory.hold(tmp_path)
    held.join(LOG_ID)
    (tmp_path / "region.json").write_bytes(text.encode("latin-1"))
    assert held.region() is None
    held.close()


def test_which_region_a_file_holds(tmp_path: Path) -> None:
    paths = [tmp_path / "one", tmp_path / "two"]
    for path in paths:
        Log.create(path, size=SIZE_MIN).close()
    ids = [region_id(path) for path in paths]
    assert None not in ids
    assert ids[0] != ids[1]
    assert [ordered_of(path) for path in paths] == [0, 0]
    assert region_id(tmp_path / "missing") is None
    assert region_id(tmp_path) is None
    (tmp_path / "text").write_text("not a region, though it is longer than the header of one" * 10)
    assert region_id(tmp_path / "text") is None
    (tmp_path / "short").write_bytes(paths[0].read_bytes()[:100])
    assert region_id(tmp_path / "short") is None
