"""How many cores this process may use: of a machine of 64 a container may be granted two."""

import math
import os
from collections.abc import Iterator
from pathlib import Path

_CGROUPS = Path("/sys/fs/cgroup")
_OWN = Path("/proc/self/cgroup")


def usable_cores(root: Path = _CGROUPS, own: Path = _OWN) -> int:
    """Cores by affinity and by the quotas of the control groups, at least 1.

    root, own: where the groups are mounted, and the list of those of this process
    """
    cores = os.cpu_count() or 1
    if hasattr(os, "sched_getaffinity"):
        cores = len(os.sched_getaffinity(0))
    # a part of a core is one that a thread may have for a part of the time
    return max(1, min([cores, *map(math.ceil, _quotas(root, own))]))


def _quotas(root: Path, own: Path) -> Iterator[float]:
    """The quota in cores of each group that this process is in."""
    for line in _text(own).splitlines() or ["0::/"]:
        _, _, path = line.rpartition(":")
        # those above limit it too; inside of a container the path may be that of the host
        for group in (Path(path), *Path(path).parents):
            yield from _quota(root, str(group).lstrip("/"))


def _quota(root: Path, group: str) -> Iterator[float]:
    # version 2, then version 1
    limits = _text(root / group / "cpu.max").split()
    if not limits:
        folder = root / "cpu" / group
        limits = [_text(folder / f"cpu.cfs_{name}_us").strip() for name in ("quota", "period")]
    # `max` or -1: none
    if len(limits) == 2 and all(text.isdigit() for text in limits) and int(limits[1]):
        yield int(limits[0]) / int(limits[1])


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except OSError:
        return ""
