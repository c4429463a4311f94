"""VIDAN_HOME: what lies in the embedded stack's folder, its locks, and how its state is read.

Who is there is told by `flock`, which the kernel drops when a process dies, however it dies: so
nothing has to be cleaned up after a `kill -9`. The state file counts only while the keeper's lock
is held. Standard library only: every command reads this on its quick path.
"""

from __future__ import annotations

import errno
import fcntl
import json
import os
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from vidan import errors
from vidan.errors import VidanError

KEEPER_LOCK = "keeper.lock"
"""Held exclusively by the one keeper process of this home."""

MEMBERS_LOCK = "members.lock"
"""Shared by all who need the whole stack (`up`, `run`)."""

READERS_LOCK = "readers.lock"
"""Shared by commands that read and need only PostgreSQL."""

STATE_FILE = "stack.json"
FAILURE_FILE = "stack-failure.json"
LOG_FOLDER = "logs"


class FileLock:
    """A `flock` on a file, held until `release` or the end of this process.

    It belongs to the open file: a child that inherited the descriptor would hold it too, so the
    descriptor is opened non-inheritable (Python's default).
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._fd: int | None = None

    def acquire(self, *, shared: bool) -> bool:
        """Try once, without waiting: whether the lock is held now (shared or exclusive)."""
        if self._fd is None:
            self._fd = os.open(self.path, os.O_RDONLY | os.O_CREAT, 0o600)
        try:
            fcntl.flock(self._fd, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
        except OSError as error:
            self.release()
            if error.errno in (errno.EWOULDBLOCK, errno.EACCES):
                return False
            raise
        return True

    def release(self) -> None:
        """Let go; without effect if it isn't held."""
        if self._fd is not None:
            os.close(self._fd)
            self._fd = None


def is_held(path: Path, *, exclusively: bool = False) -> bool:
    """Whether any process holds the lock (`exclusively`: shared holders don't count).

    The question takes the lock for a moment: who wants it must try more than once. A lock of
    another user, in a home that is not ours, is none.
    """
    lock = FileLock(path)
    try:
        return path.exists() and not lock.acquire(shared=exclusively)
    except PermissionError:
        return False
    finally:
        lock.release()


@dataclass(frozen=True, slots=True)
class StackState:
    """What the keeper says about the stack that it keeps."""

    keeper_pid: int
    database_url: str
    complete: bool
    """Broker and orchestrator run too, not PostgreSQL alone."""
    pids: dict[str, int]
    """Process ids by service: postgres, broker, orchestrator."""
    address_file: str
    """Where the embedded broker's address is; the file is rewritten when the address changes."""

    @property
    def for_all(self) -> bool:
        """Whether it is there for work, not only for the moment of a command that reads."""
        return self.complete or not {"broker", "orchestrator"}.isdisjoint(self.pids)


def running_stack(home: Path) -> StackState | None:
    """The state of the stack that runs in this home, or None if none does (or none is ready)."""
    if not is_held(home / KEEPER_LOCK, exclusively=True):
        return None
    raw = read_json(home / STATE_FILE)
    try:
        return None if raw is None else StackState(**raw)
    except TypeError:
        return None  # written by another version of vidan


def write_state(home: Path, state: StackState) -> None:
    """Replace the state file; a reader sees the old one or the new one, never a part."""
    write_json(home / STATE_FILE, asdict(state))


def broker_address(state: StackState) -> str | None:
    """host:port of the embedded broker, or None while it has none."""
    if not state.complete:
        return None
    try:
        return Path(state.address_file).read_text(encoding="utf-8").strip() or None
    except OSError:
        return None


def write_failure(home: Path, error: VidanError) -> None:
    """Leave an error to those who wait for the stack."""
    content = {"time": time.time(), "kind": type(error).__name__, "message": str(error)}
    write_json(home / FAILURE_FILE, {**content, "hint": error.hint})


def clear_failure(home: Path) -> None:
    """Forget what went wrong before."""
    (home / FAILURE_FILE).unlink(missing_ok=True)


def has_failure(home: Path) -> bool:
    """Whether an error has been left."""
    return (home / FAILURE_FILE).exists()


def failure_since(home: Path, since: float) -> VidanError | None:
    """The error that was left since the time `since` (seconds since the epoch), if any."""
    content = read_json(home / FAILURE_FILE)
    if content is None or content.get("time", 0) < since:
        return None
    kind = getattr(errors, str(content.get("kind")), errors.VidanError)
    error = kind(str(content.get("message")), hint=content.get("hint"))
    return error if isinstance(error, errors.VidanError) else None


def write_json(path: Path, content: dict[str, Any]) -> None:
    """Write a file atomically."""
    draft = path.with_name(f"{path.name}.{os.getpid()}.tmp")
    draft.write_text(json.dumps(content), encoding="utf-8")
    draft.replace(path)


def read_json(path: Path) -> dict[str, Any] | None:
    """The object in a file, or None if there is none (or no object in it)."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return content if isinstance(content, dict) else None
