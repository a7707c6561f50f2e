"""A broker for your tests: a process of its own, on a free port, gone when the block ends.

    from totalog.gateway.testing import broker

    with broker() as kafka:
        producer = KafkaProducer(bootstrap_servers=kafka.address)

Only the standard library is imported here, so nothing of the broker gets into the process of your tests.
"""

import os
import select
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import BinaryIO

__all__ = ["BrokerFailed", "RunningBroker", "broker"]

START_S_MAX = 60.0
"""Seconds that a broker gets to become ready; on an idle machine it takes 0.3."""

STOP_S_MAX = 15.0
"""Seconds that a broker gets to stop before it is killed."""


class BrokerFailed(RuntimeError):
    """The broker did not start; the text holds what it said."""


@dataclass
class RunningBroker:
    """What `broker` yields."""

    host: str
    port: int
    process: "subprocess.Popen[bytes]" = field(repr=False)
    _log: BinaryIO = field(repr=False)
    _said: str = field(default="", repr=False)

    @property
    def address(self) -> str:
        """What a client's bootstrap.servers takes: HOST:PORT."""
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"

    @property
    def pid(self) -> int:
        return self.process.pid

    @property
    def log(self) -> str:
        """What the broker wrote to its standard error so far, or to its end."""
        if not self._log.closed:
            self._said = _read(self._log)
        return self._said

    def stop(self) -> int:
        """Stop the broker now instead of at the end of the block; its exit code."""
        self.process.terminate()
        try:
            return self.process.wait(STOP_S_MAX)
        except subprocess.TimeoutExpired:
            self.process.kill()
            return self.process.wait()


@contextmanager
def broker(
    *,
    host: str = "127.0.0.1",
    port: int = 0,
    memory: str | None = None,
    region: "str | os.PathLike[str] | None" = None,
    data_dirs: "Sequence[str | os.PathLike[str]]" = (),
    advertised: str | None = None,
    settings: Mapping[str, object] | None = None,
    arguments: Sequence[str] = (),
) -> Iterator[RunningBroker]:
    """Run `totalog serve` for the length of a block.

    `settings` are Kafka's broker settings, such as {"num.partitions": 4}; `memory` is a size like "256m". Nothing
    is kept, unless there are `data_dirs`, or a `region`: the file in which the log's memory then lies. `arguments` are
    added to the command line as they are. Raises BrokerFailed.
    """
    command = [sys.executable, "-m", "totalog.gateway", "serve", "--host", host, "--port", str(port)]
    command += [word for path in data_dirs for word in ("--data-dir", os.fspath(path))] or ["--ephemeral"]
    where = None if region is None else os.fspath(region)
    for option, value in (("--region", where), ("--memory", memory), ("--advertised", advertised)):
        command += [] if value is None else [option, value]
    for name, setting in (settings or {}).items():
        command += ["--set", f"{name}={_setting(setting)}"]
    with tempfile.TemporaryFile() as log:
        process = subprocess.Popen([*command, *arguments], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=log)
        try:
            running = RunningBroker(*_wait_until_ready(process, log), process, log)
            try:
                yield running
            finally:
                running.stop()
                running._said = _read(log)
        finally:
            if process.poll() is None:
                process.kill()
                process.wait()
            assert process.stdout is not None
            process.stdout.close()


def _setting(value: object) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def _wait_until_ready(process: "subprocess.Popen[bytes]", log: BinaryIO) -> tuple[str, int]:
    """Where the broker listens, once it says that it is ready."""
    assert process.stdout is not None
    said = b""
    waiting = select.poll()  # select() takes no descriptor from 1,024 on
    waiting.register(process.stdout, select.POLLIN)
    deadline = time.monotonic() + START_S_MAX
    while True:
        for line in said.split(b"\n")[:-1]:
            if line.startswith(b"ready at "):
                host, _, port = line.split()[2].rstrip(b",").decode().rpartition(":")  # ready at HOST:PORT
                return host.strip("[]"), int(port)
        readable = waiting.poll(max(deadline - time.monotonic(), 0) * 1000)
        more = os.read(process.stdout.fileno(), 65536) if readable else b""
        if not more:
            break
        said += more
    what = f"ended with exit code {process.wait()}" if readable else f"was not ready after {START_S_MAX:.0f} s"
    raise BrokerFailed(f"the broker {what}: {(said.decode(errors='replace') + _read(log)).strip()}")


def _read(log: BinaryIO) -> str:
    """All of a file that the broker still writes to; the position is shared with it, so it must stay where it is."""
    return os.pread(log.fileno(), os.fstat(log.fileno()).st_size, 0).decode(errors="replace")
