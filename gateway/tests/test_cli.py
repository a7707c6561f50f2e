"""The command: what it understands, what it says, how it ends."""

import json
import os
import re
import signal
import socket
import struct
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from totalog.engine import Log
from totalog.gateway import memory, start
from totalog.gateway.cli import address, main
from totalog.gateway.healthcheck import Unhealthy, check
from totalog.gateway.limits import Limits
from totalog.gateway.settings import BROKER
from totalog.gateway.storage import CannotStart, state_directory
from totalog.gateway.testing import BrokerFailed, broker

COMMAND = [sys.executable, "-m", "totalog.gateway"]


def run(*arguments: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run([*COMMAND, *arguments], capture_output=True, text=True, timeout=60, check=False)


def refused(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[object, str]:
    """Exit code and the one line that the command said, run in this process."""
    with pytest.raises(SystemExit) as caught:
        main(arguments)
    said = capsys.readouterr()
    assert said.out == ""
    assert said.err.startswith("totalog: ")
    assert said.err.count("\n") == 1
    return caught.value.code, said.err


# What is not understood: exit code 2


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["serv"], "No such command 'serv'"),
        (["serve", "--prot", "1"], "unrecognized arguments: --prot 1"),
        (["serve", "--port", "66000"], "66000 is not in the range"),
        (["serve", "--ephemeral", "--data-dir", "x"], "exclude each other"),
        (["serve", "--memory", "lots"], "'lots' is not a size; write it like 512m or 4g"),
        (["serve", "--memory", "0"], "at least one byte"),
        (["serve", "--advertised", ":9092"], "names no host"),
        (["serve", "--advertised", "host:port"], "not of the form HOST:PORT"),
        (["serve", "--set", "num.partitions"], "not of the form NAME=VALUE"),
        (["serve", "--set", "num.partition=2"], "'num.partition'; did you mean num.partitions"),
        (["serve", "--set", "num.partitions=0"], "num.partitions is at least 1"),
        (["healthcheck"], "required: HOST:PORT"),
        ([], "which command"),
        (["healthcheck", "host:-1"], "not of the form HOST:PORT"),
        (["healthcheck", "localhost", "--timeout", "nan"], "'nan' is not a number of seconds"),
        (["healthcheck", "localhost", "--timeout", "-1"], "'-1' is not a number of seconds"),
        (["bench", "localhost", "--batch-size", "0"], "at least one byte"),
        (["bench", "localhost", "--seconds", "inf"], "'inf' is not a number of seconds"),
        (["bench", "localhost", "--csv", "/nowhere/rates.csv"], "'/nowhere/rates.csv' cannot be written"),
        (["bench", "localhost", "--plot", "/"], "'/' cannot be written"),
    ],
)
def test_what_is_not_understood_gets_one_line(
    capsys: pytest.CaptureFixture[str], arguments: list[str], words: str
) -> None:
    code, said = refused(capsys, *arguments)
    assert code == 2
    assert words in said
    assert "--help" in said


# What cannot be done: exit code 1


def test_a_busy_port(capsys: pytest.CaptureFixture[str]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as busy:
        port = busy.getsockname()[1]
        code, said = refused(capsys, "serve", "--ephemeral", "--host", "127.0.0.1", "--port", str(port))
    assert code == 1
    assert f"cannot listen on 127.0.0.1:{port}: Address already in use" in said


def test_a_host_that_is_not_ours(capsys: pytest.CaptureFixture[str]) -> None:
    assert refused(capsys, "serve", "--ephemeral", "--host", "192.0.2.1", "--port", "0")[0] == 1


def test_a_log_that_is_too_small(capsys: pytest.CaptureFixture[str]) -> None:
    code, said = refused(capsys, "serve", "--port", "0", "--ephemeral", "--memory", "1m")
    assert code == 1
    assert "give more memory" in said


def test_a_folder_that_cannot_be_written_is_no_reason_not_to_measure(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    with socket.create_server(("127.0.0.1", 0)) as gone:
        port = gone.getsockname()[1]
    code, said = refused(capsys, "bench", f"127.0.0.1:{port}")
    assert code == 1
    assert "Connection refused" in said


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--plot", "rates.doc"], "no plot: .doc is not one of"),
        (["--connections", "1000", "--in-flight", "1000"], "x 64 KiB in flight are 61.0 GiB; no more than 2 GiB"),
    ],
)
def test_a_measurement_that_cannot_end_well_does_not_begin(
    capsys: pytest.CaptureFixture[str], options: list[str], words: str
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        code, said = refused(capsys, "bench", f"127.0.0.1:{listener.getsockname()[1]}", *options)
        listener.setblocking(False)
        with pytest.raises(BlockingIOError):
            listener.accept()
    assert code == 1
    assert words in said


@pytest.mark.parametrize(
    "answer",
    [
        b"HTTP/1.1 400 Bad Request\r\n",
        struct.pack(">ii", -1, 1),
        struct.pack(">ii", 4, 1),
        struct.pack(">iiii", 12, 1, 0, 1),
        struct.pack(">iiii", 12, 2, 0, 1),
    ],
)
def test_what_is_measured_has_to_be_a_broker(capsys: pytest.CaptureFixture[str], answer: bytes) -> None:
    for port in answering(answer):
        code, said = refused(capsys, "bench", f"127.0.0.1:{port}")
        assert code == 1
        assert f"127.0.0.1:{port}: the answer is not one of the Kafka protocol" in said


def make_text(path: Path) -> None:
    path.write_text("not a region")
    path.chmod(0o600)


def make_directory(path: Path) -> None:
    path.mkdir(mode=0o700)


def make_link(path: Path) -> None:
    path.symlink_to(path.with_name("elsewhere"))


def make_open_to_all(path: Path) -> None:
    Log.create(path, size=80 << 20).close()
    path.chmod(0o666)


def make_other_layout(path: Path) -> None:
    Log.create(path, size=80 << 20).close()
    with path.open("r+b") as region:
        region.seek(8)  # behind the magic: the layout id
        region.write(bytes(8))


@pytest.mark.parametrize("make", [make_text, make_directory, make_link, make_open_to_all, make_other_layout])
def test_a_region_that_cannot_be_used(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], make: Callable[[Path], None]
) -> None:
    path = tmp_path / "region"
    make(path)
    code, said = refused(capsys, "serve", "--port", "0", "--ephemeral", "--region", str(path))
    assert code == 1
    assert said.startswith(f"totalog: {path} ")


def test_a_region_in_a_folder_that_is_not_there(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert refused(capsys, "serve", "--port", "0", "--ephemeral", "--region", str(tmp_path / "no" / "region"))[0] == 1


def test_a_region_in_use(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with broker(region=tmp_path / "region", memory="80m"):
        code, said = refused(capsys, "serve", "--port", "0", "--ephemeral", "--region", str(tmp_path / "region"))
        assert code == 1
        assert said.startswith(f"totalog: {tmp_path / 'region'} ")


def test_a_broker_that_fails_says_why_to_the_test_that_started_it() -> None:
    with pytest.raises(BrokerFailed, match=r"ended with exit code 2: totalog: .*num\.partitions is at least 1"):  # noqa: SIM117
        with broker(settings={"num.partitions": 0}):
            pass


# Serving


@pytest.fixture(params=["127.0.0.1", "::1", "localhost", "0.0.0.0"])
def host(request: pytest.FixtureRequest) -> str:
    name: str = request.param
    try:
        socket.create_server((name, 0), family=socket.AF_INET6 if ":" in name else socket.AF_INET).close()
    except OSError:
        pytest.skip(f"this machine has no {name}")
    return name


def test_a_broker_is_healthy_once_it_is_ready(host: str) -> None:
    with broker(host=host, memory="80m") as running:
        assert running.host == host
        assert re.fullmatch(
            r"serves \d+ APIs, clients are told to connect to \S+:\d+", check(running.host, running.port, 60)
        )
        told = run("healthcheck", running.address)
        assert (told.returncode, told.stderr) == (0, "")
        assert told.stdout.startswith("healthy: ")
        assert running.stop() == 0
        assert "SIGTERM: stopping" in running.log
        told = run("healthcheck", running.address)
        assert told.returncode == 1
        assert "refused" in told.stderr
        assert told.stderr.count("\n") == 1


def test_the_start_up_lines() -> None:
    process = subprocess.Popen(
        [*COMMAND, "serve", "--port", "0", "--ephemeral", "--memory", "96m", "--host", "127.0.0.1"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    first, second = process.stdout.readline(), process.stdout.readline()
    assert first.startswith("the log lives in memory, 96 MiB ")
    assert "acks=all promises what acks=1 does" in first
    assert "ready" not in first
    matched = re.fullmatch(r"ready at 127\.0\.0\.1:(\d+)\n", second)
    assert matched is not None
    socket.create_connection(("127.0.0.1", int(matched[1]))).close()
    process.send_signal(signal.SIGINT)
    rest, errors = process.communicate(timeout=60)
    assert process.returncode == 0
    assert rest == ""
    assert errors.count("\n") == 1
    assert "SIGINT: stopping" in errors


def test_data_is_kept_in_the_users_state_directory(tmp_path: Path) -> None:
    environment = {**os.environ, "XDG_STATE_HOME": str(tmp_path), "HOME": "/nowhere"}
    said = []
    for _ in range(2):
        process = subprocess.Popen(
            [*COMMAND, "serve", "--port", "0", "--memory", "96m", "--host", "127.0.0.1"],
            env=environment,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert process.stdout is not None
        said.append([process.stdout.readline(), process.stdout.readline()])
        region = Path(json.loads((tmp_path / "totalog" / "region.json").read_text())["path"])
        assert region.exists()
        process.send_signal(signal.SIGTERM)
        assert process.communicate(timeout=60)[0] == ""
        assert process.returncode == 0
        assert not region.exists()
    for line, ready in said:
        assert line.startswith(f"the log is kept in {tmp_path / 'totalog'}, its memory is ")
        assert line.endswith("; acks=all is answered when the disk has it\n")
        assert ready.startswith("ready at ")


def test_where_state_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    assert state_directory() == tmp_path / "totalog"
    monkeypatch.setenv("XDG_STATE_HOME", "relative")  # to be ignored, says the specification
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    assert state_directory() == tmp_path / "home" / ".local" / "state" / "totalog"
    monkeypatch.delenv("XDG_STATE_HOME")
    assert state_directory() == tmp_path / "home" / ".local" / "state" / "totalog"
    monkeypatch.setattr(Path, "home", no_home)
    with pytest.raises(CannotStart, match="no home directory: name a --data-dir"):
        state_directory()


def no_home() -> Path:
    raise RuntimeError("Could not determine home directory.")


def test_a_data_directory_in_use(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with broker(data_dirs=[tmp_path / "a", tmp_path / "b"], memory="80m") as running:
        code, said = refused(capsys, "serve", "--port", "0", "--data-dir", str(tmp_path / "b"))
        assert code == 1
        assert said == (
            f"totalog: {tmp_path / 'b'} is in use by process {running.pid}:"
            " stop that broker, or name another data directory\n"
        )


def strangers(path: Path) -> None:
    path.mkdir()
    (path / "thesis").touch()


def other_format(path: Path) -> None:
    path.mkdir(mode=0o700)
    (path / "log.json").write_text('{"format": 99, "log_id": ""}')


@pytest.mark.parametrize(
    ("make", "words"),
    [(strangers, "holds files that are not a log's (thesis)"), (other_format, "has format 99, this build knows 1")],
)
def test_a_data_directory_that_cannot_be_used(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], make: Callable[[Path], None], words: str
) -> None:
    make(tmp_path / "data")
    code, said = refused(capsys, "serve", "--port", "0", "--data-dir", str(tmp_path / "data"))
    assert code == 1
    assert words in said


@pytest.mark.parametrize(
    ("advertised", "told"),
    [("broker.test:1234", "broker.test:1234"), ("broker.test", "broker.test:{}"), ("[::2]:9", "::2:9")],
)
def test_what_is_advertised_is_what_clients_are_told(advertised: str, told: str) -> None:
    with broker(memory="80m", advertised=advertised) as running:
        assert running.host == "127.0.0.1"
        assert check(running.host, running.port, 60).endswith(f" {told.format(running.port)}")


def test_a_region_goes_on_with_what_it_holds(tmp_path: Path) -> None:
    path = tmp_path / "region"
    with broker(region=path, memory="80m"):
        assert path.stat().st_mode & 0o777 == 0o600
    with Log.attach(path) as log:
        log.create_topic("kept", id=bytes(range(16)), partitions=3)
    with broker(region=path, memory="96m") as running:
        assert "keeps the size" in running.log
    with Log.attach(path) as log:
        topic = log.find_topic("kept")
        assert topic is not None
        assert topic.partitions == 3


def test_a_second_signal_stops_at_once() -> None:
    """A client in the middle of a large request would keep the broker until its deadline."""
    with broker(memory="96m") as running, socket.create_connection((running.host, running.port)) as client:
        whole = struct.pack(">ihhih", 10, 18, 0, 1, -1)
        client.sendall(whole + struct.pack(">ihhih", 1_000_000, 0, 9, 2, -1) + bytes(1000))
        assert client.recv(8)[4:] == struct.pack(">i", 1)  # so the other request has begun, too
        running.process.send_signal(signal.SIGTERM)
        running.process.send_signal(signal.SIGINT)
        assert running.process.wait(0.95 * Limits().drain_s_max) == 0
        assert "cut off with requests in hand: 1" in running.log


# Starting fast


LOADED_WHEN_READY = """
import gc, signal, sys
from totalog.gateway import cli
def tell(text):
    if text.startswith("ready"):
        print(gc.get_threshold()[0], *sys.modules)
        signal.raise_signal(signal.SIGTERM)
cli.tell = tell
cli.main(sys.argv[1:])
"""
NOT_TO_START = {
    *("_ssl", "idna.core"),
    *("asyncio", "concurrent.futures", "cramjam", "difflib", "email", "encodings.idna", "http", "importlib.metadata"),
    *("kafka", "matplotlib", "multiprocessing", "numpy", "totalog.gateway.bench", "totalog.gateway.healthcheck"),
    *(f"totalog.gateway.coordinators.{name}" for name in ("group", "groups", "members", "offsets")),
    *("totalog.gateway.wire.guard", "totalog.gateway.wire.records", "unittest"),
}
"""Slow to import, and for what comes after the first record, or never."""


@pytest.mark.parametrize("kept", [False, True])
def test_what_the_start_does_not_need_is_not_loaded_for_it(tmp_path: Path, kept: bool) -> None:
    where = ["--data-dir", str(tmp_path)] if kept else ["--ephemeral"]
    command = [sys.executable, "-c", LOADED_WHEN_READY, "serve", "--port", "0", "--memory", "64m", *where]
    said = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    threshold, *modules = said.splitlines()[-1].split()
    assert int(threshold) == start.GARBAGE_COUNT
    loaded = set(modules)
    assert "totalog.gateway.server" in loaded
    assert "totalog.engine.durable" in loaded or not kept
    assert loaded & (NOT_TO_START if kept else NOT_TO_START | {"json", "totalog.engine.durable"}) == set()


# Help


@pytest.mark.parametrize("arguments", [["--help"], ["serve", "--help"], ["healthcheck", "-h"]])
def test_help_teaches(capsys: pytest.CaptureFixture[str], arguments: list[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main(arguments)
    said = capsys.readouterr().out
    assert caught.value.code == 0
    assert "totalog " in said
    assert all(len(line) <= 100 for line in said.splitlines())


def test_settings_lists_every_setting(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["settings"])
    said = capsys.readouterr().out
    assert all(f"\n{name}=" in "\n" + said for name in BROKER)


# Parts


@pytest.mark.parametrize(
    ("text", "parsed"),
    [
        ("host:1", ("host", 1)),
        ("host", ("host", None)),
        ("[::1]:9", ("::1", 9)),
        ("[::1]", ("::1", None)),
        ("127.0.0.1:0", ("127.0.0.1", 0)),
    ],
)
def test_addresses(text: str, parsed: tuple[str, int | None]) -> None:
    assert address(text) == parsed


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("5", 5),
        ("512m", 512 << 20),
        ("4g", 4 << 30),
        ("4GiB", 4 << 30),
        ("4gb", 4 << 30),
        ("1K", 1024),
        ("2t", 2 << 40),
    ],
)
def test_sizes(text: str, size: int) -> None:
    assert memory.parse_size(text) == size


@pytest.mark.parametrize("text", ["", "g", "-1", "1.5g", "1gg", "1x", "\u0661", "b", "9" * 30])
def test_sizes_that_are_none(text: str) -> None:
    with pytest.raises(ValueError, match="not a size"):
        memory.parse_size(text)


@pytest.mark.parametrize(
    ("size", "text"), [(0, "0 B"), (1023, "1023 B"), (1536, "1.5 KiB"), (64 << 20, "64 MiB"), (11 << 38, "2816 GiB")]
)
def test_sizes_for_people(size: int, text: str) -> None:
    assert memory.size_text(size) == text


def test_default_memory_is_half_of_the_least(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ram = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    monkeypatch.setattr(memory, "_cgroup_limits", list)
    assert 0 <= ram // 2 - memory.default_size(None) < memory.SIZE_STEP
    monkeypatch.setattr(memory, "_cgroup_limits", lambda: [100 << 20, 70 << 20])
    assert memory.default_size(None) == 32 << 20
    assert memory.default_size(tmp_path / "region") == 32 << 20


def test_control_groups_limit_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    groups, own = tmp_path / "cgroup", tmp_path / "own"
    monkeypatch.setattr(memory, "_CGROUPS", groups)
    monkeypatch.setattr(memory, "_OWN_CGROUPS", own)
    (groups / "a" / "b").mkdir(parents=True)
    (groups / "a" / "memory.max").write_text("300\n")
    (groups / "a" / "b" / "memory.max").write_text("max\n")
    own.write_text("0::/a/b\n")
    assert memory._cgroup_limits() == [300]
    (groups / "memory" / "c").mkdir(parents=True)
    (groups / "memory" / "c" / "memory.limit_in_bytes").write_text("200\n")
    own.write_text("5:cpu:/x\n4:memory,other:/c\n")
    assert memory._cgroup_limits() == [200]
    own.unlink()
    assert memory._cgroup_limits() == []


def test_no_client_is_told_to_connect_to_all_interfaces() -> None:
    assert start._reachable("127.0.0.1") == "127.0.0.1"
    assert start._reachable("broker.test") == "broker.test"
    assert start._reachable("0.0.0.0") not in ("0.0.0.0", "")
    assert start._reachable("::") not in ("::", "")


# The health check, against a broker that does not answer as one


def answering(*answers: bytes) -> Iterator[int]:
    """The port of a server that answers the requests of one connection with these bytes, and closes it."""
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def serve() -> None:
            client, _ = listener.accept()
            with client:
                for answer in answers:
                    client.recv(1000)
                    client.sendall(answer)

        thread = threading.Thread(target=serve)
        thread.start()
        yield listener.getsockname()[1]
        thread.join()


API_VERSIONS = struct.pack(">iihi", 10 + 6, 18, 0, 1) + bytes(6)


@pytest.mark.parametrize(
    ("answers", "words"),
    [
        ([b""], "closed before the answer"),
        ([b"HTTP/1.1 400 Bad Request\r\n"], "not one of the Kafka protocol"),
        ([struct.pack(">iihi", 10, 18, 35, 0)], "error code 35"),
        ([struct.pack(">iih", 6, 18, 0)], "bytes"),
        ([API_VERSIONS, struct.pack(">iii", 8, 3, 0)], "names no broker"),
        ([API_VERSIONS, struct.pack(">iii", 8, 3, 5)], "bytes"),
    ],
)
def test_a_broker_that_answers_otherwise_is_unhealthy(answers: list[bytes], words: str) -> None:
    for port in answering(*answers):
        with pytest.raises(Unhealthy, match=words):
            check("127.0.0.1", port, 60)
