"""How many cores this process may use: fewer than the machine has where a quota limits it."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator
from pathlib import Path

_MOUNT = Path("/sys/fs/cgroup")
_MEMBERSHIP = Path("/proc/self/cgroup")


def usable(most: int) -> int:
    """Return the least of `most`, the cores that the process is bound to, and its quota rounded up.

    `docker run --cpus 2` sets a quota of cgroups: the process still sees all cores.
    """
    bound = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else most
    allowed = quota()
    return max(1, min(most, bound, most if allowed is None else math.ceil(allowed)))


def quota(mount: Path = _MOUNT, membership: Path = _MEMBERSHIP) -> float | None:
    """Return the lowest quota, in cores, of this process's cgroups and those above them, or None.

    Reads both versions of cgroups. In a container `mount` is the container's own cgroup, whatever
    path `membership` gives. https://docs.kernel.org/admin-guide/cgroup-v2.html,
    https://docs.kernel.org/scheduler/sched-bwc.html
    """
    found: list[float] = []
    for line in _lines(membership):
        _, controllers, path = line.split(":", 2)
        if controllers and "cpu" not in controllers.split(","):
            continue
        base = mount / "cpu" if controllers else mount
        for folder in _up(base / path.strip("/"), base):
            found.extend(_version_1(folder) if controllers else _version_2(folder))
    return min(found, default=None)


def _up(folder: Path, base: Path) -> Iterator[Path]:
    for one in (folder, *folder.parents):
        yield one
        if one == base:
            return


def _version_2(folder: Path) -> Iterator[float]:
    for line in _lines(folder / "cpu.max"):  # quota and period in µs, or "max" and the period
        most, period = line.split()
        if most != "max":
            yield int(most) / int(period)


def _version_1(folder: Path) -> Iterator[float]:
    most, period = (_lines(folder / f"cpu.cfs_{name}_us") for name in ("quota", "period"))
    if most and period and int(most[0]) > 0:  # -1: no limit
        yield int(most[0]) / int(period[0])


def _lines(path: Path) -> list[str]:
    try:
        return path.read_text().splitlines()
    except OSError:
        return []
