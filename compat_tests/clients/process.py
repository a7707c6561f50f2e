"""The test's side of a client process: calls go over a pipe, each with a deadline, and the process can be killed at
any time.

Client processes are forked from one that has imported the libraries and done nothing else: they are there at once, and
each begins with a library that nobody has used.
"""

import functools
import multiprocessing
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any, cast

from compat_tests.clients import KINDS, agent
from compat_tests.clients.face import Client

ROOT = Path(__file__).parents[2]
CALL_TIME_MAX_S = 120.0
END_TIME_MAX_S = 10.0
_FORKS = multiprocessing.get_context("forkserver")
_FORKS.set_forkserver_preload([agent.__name__, *agent.MODULES.values()])


class ClientProcess:
    """One stock client in a process of its own. `client` has the face; `later` starts a call and gives its future.

    Calls of one process run one after the other, so a killed process makes its pending call raise EOFError.
    """

    def __init__(self, kind: str, bootstrap: str) -> None:
        self.kind = kind
        self.bootstrap = bootstrap
        ours, theirs = _FORKS.Pipe()
        self._process = _FORKS.Process(target=agent.run, args=(kind, bootstrap, theirs), daemon=True)
        self._process.start()
        theirs.close()
        self._connection = ours
        self._thread = ThreadPoolExecutor(1)
        self.client = cast(Client, _Calls(self))

    @property
    def pid(self) -> int:
        assert self._process.pid is not None
        return self._process.pid

    def _call(self, method: str, arguments: tuple[object, ...], options: dict[str, object]) -> Any:
        self._connection.send((method, arguments, options))
        if not self._connection.poll(CALL_TIME_MAX_S):
            self._process.kill()
            raise TimeoutError(f"{self.kind}: {method} did not end within {CALL_TIME_MAX_S:.0f} s")
        good, answer = self._connection.recv()
        if good:
            return answer
        raise answer

    def later(self, method: Callable[..., Any] | str, *arguments: object, **options: object) -> "Future[Any]":
        name = method if isinstance(method, str) else method.__name__
        return self._thread.submit(self._call, name, arguments, options)

    def kill(self) -> None:
        """SIGKILL: nothing is said to the broker."""
        self._process.kill()
        self._process.join()

    def close(self) -> None:
        """The process sees the end of its pipe and leaves without closing its clients."""
        self._connection.close()
        self._process.join(END_TIME_MAX_S)
        self.kill()
        self._thread.shutdown()


class _Calls:
    """Turns `client.method(...)` into a call of the process."""

    def __init__(self, process: ClientProcess) -> None:
        self._process = process

    def __getattr__(self, method: str) -> Callable[..., Any]:
        return functools.partial(self._wait, method)

    def _wait(self, method: str, *arguments: object, **options: object) -> Any:
        return self._process.later(method, *arguments, **options).result()


class Clients(Mapping[str, Client]):
    """Kind -> client, of each kind one; its process starts when it is first asked for."""

    def __init__(self, bootstrap: str) -> None:
        self._bootstrap = bootstrap
        self._processes: dict[str, ClientProcess] = {}

    def process(self, kind: str) -> ClientProcess:
        if kind not in self._processes:
            self._processes[kind] = ClientProcess(kind, self._bootstrap)
        return self._processes[kind]

    def started(self) -> list[Client]:
        return [process.client for process in self._processes.values()]

    def __getitem__(self, kind: str) -> Client:
        return self.process(kind).client

    def __iter__(self) -> Iterator[str]:
        return iter(KINDS)

    def __len__(self) -> int:
        return len(KINDS)

    def close(self) -> None:
        for process in self._processes.values():
            process.close()
