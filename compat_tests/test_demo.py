"""`make run`, in small: the demonstration checks what it shows, then serves until it is interrupted."""

import os
import re
import signal
import socket
import subprocess
import sys

import pytest

from compat_tests.clients.process import ROOT, ClientProcess
from compat_tests.demo import SHOWN
from compat_tests.ports import hold_port, port_of

pytestmark = pytest.mark.totalog_only

TIME_MAX_S = 90


def start(port: int, *options: str) -> "subprocess.Popen[str]":
    """As from a terminal: what a shell runs in the background ignores SIGINT, and that would be inherited. What is
    handled here has its default in a new program."""
    command = [sys.executable, "-m", "compat_tests.demo", "--records", "5000", *options]
    environment = {**os.environ, "PORT": str(port)}
    inherited = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        return subprocess.Popen(
            command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
    finally:
        signal.signal(signal.SIGINT, inherited)


def test_it_checks_and_ends() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        demo = start(port, "--check")
        said, complaints = demo.communicate(timeout=TIME_MAX_S)
    assert (demo.returncode, complaints) == (0, ""), said + complaints
    assert f"port {port} is taken" in said
    assert "10,000 records acknowledged" in said
    for kind in SHOWN:
        assert f"{kind} read 10,000 records from the partitions, 10,000 from the total order" in said
    assert said.count("│ yes ") == 8


@pytest.mark.parametrize("end", [signal.SIGINT, signal.SIGTERM])
def test_it_serves_until_it_is_interrupted(end: signal.Signals) -> None:
    held = hold_port()
    port = port_of(held)
    demo = start(port)
    assert demo.stdout is not None
    said = ""
    while "healthcheck" not in said:
        line = demo.stdout.readline()
        assert line, said
        said += line
    address = f"127.0.0.1:{port}"
    assert f"serving at {address}" in said
    process = ClientProcess(SHOWN[0], address)
    assert "orders" in process.client.topics()
    process.close()
    (broker_pid,) = map(int, re.findall(r"process (\d+)", said))
    demo.send_signal(end)
    _, complaints = demo.communicate(timeout=TIME_MAX_S)
    assert (demo.returncode, complaints) == (0, "")
    with pytest.raises(ProcessLookupError):
        os.kill(broker_pid, 0)
    held.close()
