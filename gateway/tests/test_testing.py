"""The broker for users' tests: what it starts, what it leaves, and what it does not import."""

import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from totalog.gateway import healthcheck, testing
from totalog.gateway.healthcheck import Unhealthy, check
from totalog.gateway.testing import BrokerFailed, broker


def test_a_broker_lives_as_long_as_the_block() -> None:
    with broker(memory="80m") as running:
        assert running.address == f"{running.host}:{running.port}" == f"127.0.0.1:{running.port}"
        assert running.pid == running.process.pid
        check(running.host, running.port, 60)
    assert running.process.returncode == 0
    with pytest.raises(Unhealthy):
        check(running.host, running.port, 60)


def test_a_broker_ends_with_the_test_that_fails() -> None:
    with pytest.raises(ZeroDivisionError), broker(memory="80m") as running:
        raise ZeroDivisionError
    assert running.process.returncode == 0


def test_several_brokers_are_apart() -> None:
    with broker(memory="80m") as one, broker(memory="80m") as two:
        assert one.port != two.port
        one.stop()
        check(two.host, two.port, 60)


def test_a_broker_that_does_not_stop_is_killed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(testing, "STOP_S_MAX", 0.05)
    with broker(memory="80m") as running:
        running.process.send_signal(signal.SIGSTOP)
    assert running.process.returncode == -signal.SIGKILL


def test_a_broker_that_is_killed_ends_the_block_all_the_same() -> None:
    with broker(memory="80m") as running:
        running.process.kill()
        assert running.process.wait() == -signal.SIGKILL
    assert running.stop() == -signal.SIGKILL


def test_the_log_can_be_read_while_the_broker_writes_it() -> None:
    with broker(memory="80m", arguments=["--verbose"]) as running:
        with pytest.raises(Unhealthy, match="closed"):
            ask_nonsense(running)
        assert running.log.count("frame size 0") == 1
        with pytest.raises(Unhealthy, match="closed"):
            ask_nonsense(running)
        assert running.log.count("frame size 0") == 2
    assert running.log.endswith("stopping\n")


def ask_nonsense(running: testing.RunningBroker) -> None:
    with socket.create_connection((running.host, running.port)) as client:
        client.sendall(bytes(4))
        healthcheck._receive(client, 1)


def test_one_that_is_not_ready_in_time_is_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(testing, "START_S_MAX", 0.0)
    with pytest.raises(BrokerFailed, match="not ready after 0 s"):  # noqa: SIM117
        with broker(memory="80m"):
            pass


def test_settings_and_region_reach_the_broker(tmp_path: Path) -> None:
    region = tmp_path / "region"
    with broker(memory="80m", region=region, settings={"auto.create.topics.enable": False, "num.partitions": 4}):
        assert region.exists()
    with pytest.raises(BrokerFailed, match=r"did you mean num\.partitions"):  # noqa: SIM117
        with broker(settings={"num.partition": 4}):
            pass


def test_only_the_standard_library_is_imported() -> None:
    code = (
        "import sys\n"
        "before = set(sys.modules)\n"
        "import totalog.gateway.testing\n"
        "names = {name.partition('.')[0] for name in set(sys.modules) - before}\n"
        "print(sorted(names - sys.stdlib_module_names))\n"
        "print(sorted(name for name in sys.modules if name.startswith('totalog')))\n"
    )
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert said.splitlines() == ["['totalog']", "['totalog', 'totalog.gateway', 'totalog.gateway.testing']"]
