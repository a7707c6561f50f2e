"""Where the log is kept: in memory alone, in a named region, or in data directories; and, in one line for people, what
acks=all promises there."""

import logging
import os
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from totalog.engine import EngineError, Log
from totalog.engine.region import SIZE_MIN
from totalog.gateway.memory import default_size, size_text

log = logging.getLogger("totalog")


class CannotStart(Exception):
    """Why not, and what to do, in one line."""


class Storage(NamedTuple):
    """What was asked for."""

    data_dirs: tuple[Path, ...] = ()
    """Every one of them gets every batch; none: nothing outlives the region."""
    region: Path | None = None
    memory: int | None = None
    """Bytes; None: half of what there is."""

    def size(self, region: Path | None) -> int:
        return self.memory or max(default_size(region), SIZE_MIN)

    def open(self, tell: Callable[[str], None]) -> tuple[Log, str]:
        """The log, and the line about it. Raises CannotStart."""
        try:
            if self.data_dirs:
                return self._open_durable(tell)
            return self._open_region() if self.region is not None else self._open_nameless()
        except (EngineError, OSError) as fault:
            raise CannotStart(str(fault)) from None

    def _open_durable(self, tell: Callable[[str], None]) -> tuple[Log, str]:
        from totalog.engine.durable import open_log

        opened = open_log(self.data_dirs, size=self.size, region=self.region, tell=tell)
        kept = " and ".join(str(path.absolute()) for path in self.data_dirs)
        promise = (
            "when the disk has it" if len(self.data_dirs) == 1 else "when as many disks as the topic wants have it"
        )
        return opened, f"the log is kept in {kept}, its memory is {opened.region.path}; acks=all is answered {promise}"

    def _open_region(self) -> tuple[Log, str]:
        region = self.region
        assert region is not None
        survives = "which survives this process but not the machine; acks=all promises what acks=1 does"
        if os.path.lexists(region):
            opened = Log.attach(region)
            if self.memory is not None:
                log.info("%s keeps the size it was made with, --memory does not change it", region)
            return opened, f"the log lives in memory, going on with {region}, {survives}"
        size = self.size(region.absolute())
        opened = Log.create(region, size=size)
        return opened, f"the log lives in memory, {size_text(size)} in {region}, {survives}"

    def _open_nameless(self) -> tuple[Log, str]:
        size = self.size(None)
        return Log.create(size=size), (
            f"the log lives in memory, {size_text(size)} without a name, gone when this process ends;"
            " acks=all promises what acks=1 does"
        )


def state_directory() -> Path:
    """Where a user's programs keep their state (XDG base directories). Raises CannotStart."""
    named = Path(os.environ.get("XDG_STATE_HOME", ""))
    if named.is_absolute():
        return named / "totalog"
    try:
        return Path.home() / ".local" / "state" / "totalog"
    except RuntimeError:
        raise CannotStart("this user has no home directory: name a --data-dir, or use --ephemeral") from None
