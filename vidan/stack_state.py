"""The embedded stack's folder (VIDAN_HOME): its locks, its state file, its failure file.

Each running process holds a `flock`, which the kernel releases when the process dies, so nothing
has to be cleaned up after a `kill -9`. The state file counts only while the keeper holds its lock.
Every command reads the state when it starts, so this module imports the standard library only.
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
"""The lock that the one keeper process of this home holds exclusively."""

MEMBERS_LOCK = "members.lock"
"""The lock that commands share which need the whole stack (`up`, `run`)."""

READERS_LOCK = "readers.lock"
"""The lock that reading commands share, which need only PostgreSQL."""

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
        """Try once, without waiting, to take the lock. Returns whether it is held now."""
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
        """Release the lock; without effect if it isn't held."""
        if self._fd is not None:
            os.close(self._fd)
            self._fd = None


def is_held(path: Path, *, exclusively: bool = False) -> bool:
    """Tell whether any process holds the lock; with `exclusively` shared holders don't count.

    This takes the lock for a moment, so a process that wants the lock must try more than once. A
    lock file of another user, which this one can't open, counts as not held.
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
    """What the keeper process writes about the stack that it keeps."""

    keeper_pid: int
    database_url: str
    complete: bool
    """Broker and orchestrator run too, not PostgreSQL alone."""
    pids: dict[str, int]
    """Process ids by service: postgres, broker, orchestrator."""
    address_file: str
    """File with the embedded broker's address, written again when the address changes."""

    @property
    def for_all(self) -> bool:
        """Whether the stack runs for work, and not only until a reading command ends."""
        return self.complete or not {"broker", "orchestrator"}.isdisjoint(self.pids)


def running_stack(home: Path) -> StackState | None:
    """Return the state of the stack that runs in this home, None if no stack runs or is ready."""
    if not is_held(home / KEEPER_LOCK, exclusively=True):
        return None
    raw = read_json(home / STATE_FILE)
    try:
        return None if raw is None else StackState(**raw)
    except TypeError:
        return None  # written by another version of vidan


def write_state(home: Path, state: StackState) -> None:
    """Replace the state file; a reader sees the old content or the new one, never a part."""
    write_json(home / STATE_FILE, asdict(state))


def broker_address(state: StackState) -> str | None:
    """Return host:port of the embedded broker, None while it has no address."""
    if not state.complete:
        return None
    try:
        return Path(state.address_file).read_text(encoding="utf-8").strip() or None
    except OSError:
        return None


def write_failure(home: Path, error: VidanError) -> None:
    """Write an error for the commands that wait for the stack."""
    content = {"time": time.time(), "kind": type(error).__name__, "message": str(error)}
    write_json(home / FAILURE_FILE, {**content, "hint": error.hint})


def clear_failure(home: Path) -> None:
    """Delete the error of an earlier start."""
    (home / FAILURE_FILE).unlink(missing_ok=True)


def has_failure(home: Path) -> bool:
    """Tell whether an error was written."""
    return (home / FAILURE_FILE).exists()


def failure_since(home: Path, since: float) -> VidanError | None:
    """Return the error written since the time `since` (seconds since the epoch), if any."""
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
    """Return the JSON object in a file, None without such a file or object."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return content if isinstance(content, dict) else None
