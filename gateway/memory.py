"""How large the log's memory is: sizes as people write them, and what this machine has."""

import os
from pathlib import Path
from typing import Final

SIZE_STEP: Final = 16 * 1024 * 1024
"""Bytes that a default size is a multiple of, as memory is committed in such steps."""

_UNITS: Final = {"": 0, "k": 10, "m": 20, "g": 30, "t": 40}
_CGROUPS: Final = Path("/sys/fs/cgroup")
_OWN_CGROUPS: Final = Path("/proc/self/cgroup")


def parse_size(text: str) -> int:
    """Bytes of a size such as 512m, 4g or 4GiB; a number alone is bytes. Raises ValueError."""
    lowered = text.strip().lower().removesuffix("b").removesuffix("i")
    digits = lowered.rstrip("kmgt")
    unit = lowered[len(digits) :]
    if not (digits.isascii() and digits.isdigit() and len(digits) < 20) or unit not in _UNITS:
        raise ValueError(f"{text!r} is not a size; write it like 512m or 4g")
    return int(digits) << _UNITS[unit]


def size_text(size: int) -> str:
    """A size as people read it: two or three digits and a unit of 1,024."""
    amount, units = float(size), iter(("B", "KiB", "MiB", "GiB"))
    unit = next(units)
    for larger in units:
        if amount < 1024:
            break
        amount, unit = amount / 1024, larger
    return f"{amount:.1f} {unit}" if amount < 100 and amount % 1 else f"{amount:.0f} {unit}"


def default_size(region: Path | None) -> int:
    """Half of what is there for a region at `region`, or for one that is only memory (None)."""
    available = [os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"), *_cgroup_limits()]
    if region is not None:
        space = os.statvfs(region.parent)
        available.append(space.f_bavail * space.f_frsize)
    return min(available) // 2 // SIZE_STEP * SIZE_STEP


def _cgroup_limits() -> list[int]:
    """Bytes that the control groups of this process allow, those without a limit left out; versions 1 and 2."""
    files = [_CGROUPS / "memory/memory.limit_in_bytes"]
    for line in _lines(_OWN_CGROUPS):
        _, controllers, path = line.split(":", 2)
        if not controllers:
            group = _CGROUPS / path.lstrip("/")
            files += [folder / "memory.max" for folder in (group, *group.parents) if folder.is_relative_to(_CGROUPS)]
        elif "memory" in controllers.split(","):
            files.append(_CGROUPS / "memory" / path.lstrip("/") / "memory.limit_in_bytes")
    return [int(line) for file in files for line in _lines(file) if line.isdigit()]


def _lines(file: Path) -> list[str]:
    try:
        return file.read_text().splitlines()
    except OSError:
        return []
