"""Log lines about what clients do wrong: a few of each host, then a count, so that no client can fill a disk.

Invariants
- At most LINES_MAX lines of one host in INTERVAL_S seconds, and one more that tells how many were left out.
- Hosts that are remembered are bounded: beyond HOSTS_MAX all others share one count.
- What a client sent is shown as printable text of bounded length, in one line.
"""

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass

LINES_MAX = 10
INTERVAL_S = 60.0
HOSTS_MAX = 1000
TEXT_LENGTH_MAX = 300

OTHERS = "other hosts"

log = logging.getLogger("totalog")


@dataclass(slots=True)
class _Host:
    """What one host gave reason for lately."""

    since: float
    lines: int = 0
    left_out: int = 0


class Complaints:
    def __init__(self, now: Callable[[], float] = time.monotonic) -> None:
        self._now = now
        self._hosts: dict[str, _Host] = {}

    def tell(self, host: str, text: str, level: int = logging.WARNING) -> None:
        """One line, unless there were too many of this host; `text` names the host."""
        if host not in self._hosts and len(self._hosts) >= HOSTS_MAX:
            host = OTHERS
        known = self._hosts.get(host)
        if known is None:
            known = self._hosts[host] = _Host(self._now())
        if known.lines >= LINES_MAX:
            known.left_out += 1
            return
        known.lines += 1
        log.log(level, "%s", printable(text))

    def sum_up(self) -> None:
        """Tell how many lines were left out, of hosts whose interval is over, and begin anew with them."""
        now = self._now()
        for host, known in list(self._hosts.items()):
            if now - known.since >= INTERVAL_S:
                del self._hosts[host]
                if known.left_out:
                    log.warning("%s: %d more lines like these were left out", host, known.left_out)


def printable(text: str) -> str:
    if len(text) > TEXT_LENGTH_MAX:
        text = f"{text[:TEXT_LENGTH_MAX]}..."
    return "".join(character if character.isprintable() else "?" for character in text)
