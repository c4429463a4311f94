"""PostgreSQL servers whose keeper died: they shut down, or the next start ends them."""

from __future__ import annotations

import ctypes
import os
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path

_SET_DEATH_SIGNAL = 1  # PR_SET_PDEATHSIG, prctl(2); it outlives the exec that follows


def dies_with_parent() -> Callable[[], None] | None:
    """Return a function that a child calls before it becomes postgres.

    It asks the kernel for a fast shutdown (SIGINT) when this process dies. Returns None on other
    systems than Linux.
    """
    if not sys.platform.startswith("linux"):
        return None
    prctl = ctypes.CDLL(None).prctl
    parent = os.getpid()

    def ask() -> None:
        prctl(_SET_DEATH_SIGNAL, int(signal.SIGINT), 0, 0, 0)
        if os.getppid() != parent:
            os._exit(1)

    return ask


def end_servers_on(data: Path, patience: float = 10) -> None:
    """End the processes that a dead keeper's server left on this data folder; remove its pid file.

    A postmaster gets `patience` seconds to shut down. The processes are found by their working
    folder and their name, so a process that reuses a dead one's id is never touched. The pid file
    is removed because PostgreSQL would take such a process for the dead server. Without /proc,
    only PostgreSQL's own check at start remains.
    """
    if not Path("/proc/self/cwd").exists():
        return
    killing = time.monotonic() + patience
    giving_up = killing + 5
    while pids := _servers_on(data):
        postmaster = _postmaster(data)
        if time.monotonic() > giving_up:
            return  # stuck in the kernel: PostgreSQL will refuse to start and say why
        if time.monotonic() > killing:
            for pid in pids:
                _signal(pid, signal.SIGKILL)
        elif postmaster in pids:
            _signal(postmaster, signal.SIGINT)  # it ends its children
        else:
            for pid in pids:
                _signal(pid, signal.SIGQUIT)
        time.sleep(0.05)
    (data / "postmaster.pid").unlink(missing_ok=True)


def _servers_on(data: Path) -> list[int]:
    """Return the ids of the postmaster and the backends whose working folder is `data`."""
    found = []
    for process in Path("/proc").iterdir():
        if not process.name.isdigit():
            continue
        try:
            if (process / "comm").read_text().strip() != "postgres":
                continue
            if (process / "cwd").readlink() == data:
                found.append(int(process.name))
        except OSError:  # it has ended, or another user owns it
            continue
    return found


def _postmaster(data: Path) -> int:
    """Return the process id in the pid file, 0 if there is none."""
    try:
        return int((data / "postmaster.pid").read_text().split()[0])
    except (OSError, ValueError, IndexError):
        return 0


def _signal(pid: int, number: signal.Signals) -> None:
    try:
        os.kill(pid, number)
    except ProcessLookupError:
        return
