"""A process of its own for what may crash, run in circles, or must change nothing here."""

import faulthandler
import os
import pickle
import resource
import signal
from collections.abc import Callable
from typing import NoReturn

CPU_SECONDS_MAX = 120
FAILURE_SIZE_MAX = 2000


def in_child(function: Callable[[], object]) -> tuple[object, str]:
    """(what it returned, how it failed), run in a child."""
    child = start_child()
    if child is None:
        end_child(function)
    return wait_for_child(child)


def start_child() -> tuple[int, int] | None:
    """Forks. None in the child, which has to call `end_child`; else what `wait_for_child` takes."""
    read_end, write_end = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(read_end)
        global answer_end
        answer_end = write_end
        with open(os.devnull, "w") as nowhere:
            os.dup2(nowhere.fileno(), 1)
            os.dup2(nowhere.fileno(), 2)
        faulthandler.disable()  # how a child crashes is told by its end
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        resource.setrlimit(resource.RLIMIT_CPU, (CPU_SECONDS_MAX, CPU_SECONDS_MAX))
        return None
    os.close(write_end)
    return child, read_end


answer_end = -1
"""In a child: where its answer goes."""


def end_child(function: Callable[[], object]) -> NoReturn:
    """Does this, tells the answer, and ends."""
    try:
        answer: tuple[object, str] = (function(), "")
    except BaseException as failure:  # noqa: BLE001 - any failure counts, and is told
        answer = (None, f"{type(failure).__name__}: {failure}"[:FAILURE_SIZE_MAX])
    try:
        with open(answer_end, "wb") as answers:
            pickle.dump(answer, answers)
    finally:
        os._exit(0)  # also when nobody is left who reads it: what called the parent goes on in the parent alone


def wait_for_child(child: tuple[int, int]) -> tuple[object, str]:
    number, read_end = child
    with open(read_end, "rb") as stream:
        data = stream.read()
    _, status = os.waitpid(number, 0)
    if os.WIFSIGNALED(status):
        return None, signal.Signals(os.WTERMSIG(status)).name
    answer: tuple[object, str] = pickle.loads(data)
    return answer
