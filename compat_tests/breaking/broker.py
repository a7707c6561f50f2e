"""The victim's process: started, struck, ended, and started again on the same port."""

import contextlib
import json
import os
import select
import signal
import subprocess
import sys
import time
from pathlib import Path

from compat_tests.breaking import faults
from compat_tests.breaking.faults import Fault
from compat_tests.ports import hold_port, port_of

START_S_MAX = 60.0
END_S_MAX = 30.0
OBEYED = "obeyed"
PAUSE_S = 0.05
"""Between two signals."""


class VictimFailed(AssertionError):
    """It did not start, or did not end as it was told. The text holds what it said."""


class Victim:
    def __init__(self, directory: Path, *, memory: int, journal_size: int) -> None:
        self.directory = directory
        self._held = hold_port()
        self.port = port_of(self._held)
        self.said: list[str] = []
        self.started_s = 0.0
        """How long the last start took until it was ready."""
        self._arguments = (str(directory), str(memory)), str(journal_size)
        self._process: subprocess.Popen[bytes] | None = None
        self._heard = b""
        self._errors = (directory.parent / "victim.log").open("a+")

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.port}"

    def start(self) -> None:
        (directory, memory), journal_size = self._arguments
        command = [
            sys.executable,
            "-m",
            "compat_tests.breaking.victim",
            directory,
            memory,
            str(self.port),
            journal_size,
        ]
        began, self._heard = time.monotonic(), b""
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self._errors, bufsize=0
        )
        self._wait_for("ready at ", began + START_S_MAX)
        self.started_s = time.monotonic() - began

    def strike(self, fault: Fault) -> None:
        """What the fault says; whether it ends the broker is waited for apart."""
        assert self._process is not None
        if fault.command:
            assert self._process.stdin is not None
            with contextlib.suppress(BrokenPipeError):
                self._process.stdin.write(f"{fault.command}\n".encode())
                self._wait_for(OBEYED, time.monotonic() + END_S_MAX)
        for name in fault.signals:
            if name == "SIGKILL" and fault.command:
                time.sleep(PAUSE_S)  # so that what was told to fail is come to
            self._process.send_signal(getattr(signal, name))
            if name == "SIGSTOP":
                time.sleep(PAUSE_S)

    def end(self, *, cleanly: bool) -> None:
        """It has to end now, by what struck it; who was to die at a point that nothing came to is killed."""
        assert self._process is not None
        try:
            code = self._process.wait(END_S_MAX if cleanly else 3.0)
        except subprocess.TimeoutExpired:
            if cleanly:
                raise VictimFailed(f"it did not stop\n{self.tail()}") from None
            self._process.kill()
            code = self._process.wait()
        if cleanly != (code == 0):
            raise VictimFailed(f"it ended with {code}\n{self.tail()}")
        self._close()

    def alive(self) -> bool:
        return self._process is not None and self._process.poll() is None

    def stop(self) -> None:
        """The end of the run."""
        if self._process is not None and self._process.poll() is None:
            self._process.send_signal(signal.SIGCONT)
            self._process.terminate()
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(END_S_MAX)
            self._process.kill()
        self._close()
        self._errors.close()
        self._held.close()

    def harm_region(self, how: str) -> bool:
        """Whether there was a region to harm."""
        region = self.region()
        if region is None:
            return False
        match how:
            case faults.REMOVED:
                region.unlink()
            case faults.CUT:
                os.truncate(region, 4096)
            case faults.GARBAGE:
                with region.open("r+b") as file:
                    file.write(b"\x55" * 8192)
        return True

    def region(self) -> Path | None:
        """The file in which the log's memory lies; None after a clean stop."""
        note = self.directory / "region.json"
        if not note.exists():
            return None
        path = Path(json.loads(note.read_text())["path"])
        return path if path.exists() else None

    def tail(self) -> str:
        self._errors.flush()
        written = Path(self._errors.name).read_text(errors="replace").splitlines()
        return "\n".join([*self.said[-10:], *written[-30:]])

    def _close(self) -> None:
        if self._process is not None:
            for stream in (self._process.stdin, self._process.stdout):
                assert stream is not None
                with contextlib.suppress(BrokenPipeError):
                    stream.close()
            self._process = None

    def _wait_for(self, beginning: str, deadline: float) -> str:
        """The next line that begins so; empty when it died of the command that it was to obey."""
        assert self._process is not None
        assert self._process.stdout is not None
        descriptor = self._process.stdout.fileno()
        while True:
            while (end := self._heard.find(b"\n")) >= 0:
                line, self._heard = self._heard[:end].decode(), self._heard[end + 1 :]
                self.said.append(line)
                if line.startswith(beginning):
                    return line
            readable, _, _ = select.select([descriptor], [], [], max(deadline - time.monotonic(), 0))
            heard = os.read(descriptor, 65536) if readable else b""
            if not heard and beginning == OBEYED:
                return ""
            if not heard:
                self._process.kill()
                raise VictimFailed(f"it did not say {beginning!r}, exit code {self._process.wait()}\n{self.tail()}")
            self._heard += heard
