"""Joining the embedded stack, leaving it, finding it.

A member holds a shared lock in VIDAN_HOME while it needs the stack. The keeper, a detached process,
runs the services that the members need and ends when no member is left; members start it when it
does not run. Locks end with their process, so a dead member leaves nothing to clean up.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING

from vidan.config import Settings
from vidan.errors import VidanError
from vidan.stack_state import (
    KEEPER_LOCK,
    LOG_FOLDER,
    MEMBERS_LOCK,
    READERS_LOCK,
    FileLock,
    StackState,
    failure_since,
    is_held,
    running_stack,
)

if TYPE_CHECKING:
    import subprocess

START_SECONDS = 60.0
"""Longest time, in seconds, that a member waits for the stack to start."""
STOP_SECONDS = 40.0
"""Longest time, in seconds, that the last member waits for the stack to stop."""
KEEPER_TRIES = 3
"""Most keepers that one member starts, if each ends at once."""
LONGEST_LOG = 4 * 2**20
"""Bytes of a log above which it is rotated when the stack starts; one rotated log is kept."""

Progress = Callable[[str], None]
"""Called with a line of text that says what the member waits for."""


def running(settings: Settings) -> StackState | None:
    """Return the state of the stack in the settings' home, None if it does not run."""
    return running_stack(settings.home)


def join(
    settings: Settings,
    *,
    readers_only: bool = False,
    on_progress: Progress | None = None,
    timeout: float = START_SECONDS,
) -> Membership:
    """Become a member of the stack in `settings.home`, which is started if it does not run.

    Returns when the stack can be used: with `readers_only` only PostgreSQL, else the broker and the
    orchestrator too. Raises MissingExtra without the extra `local`, and a VidanError that names a
    log if the stack does not start within `timeout` seconds.
    """
    if running_stack(settings.home) is None:
        from vidan.stack.postgres import installation

        installation()
    membership = Membership(settings, readers_only=readers_only, on_progress=on_progress)
    try:
        membership.enter(timeout)
    except BaseException:
        membership.abandon()
        raise
    return membership


class Membership:
    """Membership of the stack: a context manager that leaves at its end. `join` makes it."""

    def __init__(
        self, settings: Settings, *, readers_only: bool, on_progress: Progress | None
    ) -> None:
        self.settings = replace(settings, database_url=None, direct_database_url=None, kafka={})
        """The settings, changed to use the stack, whatever database and broker they named."""
        self._home = settings.home
        self._readers_only = readers_only
        self._on_progress = on_progress
        self._lock = FileLock(self._home / (READERS_LOCK if readers_only else MEMBERS_LOCK))
        self._keeper: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Membership:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.leave()

    def enter(self, timeout: float) -> None:
        """Take the lock and wait until the stack can be used. Raises VidanError."""
        deadline = time.monotonic() + timeout
        try:
            (self._home / LOG_FOLDER).mkdir(parents=True, exist_ok=True)
            while not self._lock.acquire(shared=True):  # a keeper is ending
                self._check_deadline(deadline, "the stack that ran before does not end")
                time.sleep(0.02)
        except OSError as error:
            raise VidanError(
                f"the embedded stack can't use its folder: {error}",
                hint="set VIDAN_HOME to a folder that can be written",
            ) from error
        self._wait_until_usable(deadline)

    def check(self) -> None:
        """Check that a keeper runs, and replace one that was killed. Cheap: call it regularly.

        The stack can be used again when this returns. Raises VidanError if that fails.
        """
        if not self._is_kept():
            self._wait_until_usable(time.monotonic() + START_SECONDS)

    def leave(self) -> None:
        """Leave. The last full member waits until the services that only it needed have stopped."""
        self._lock.release()
        if not self._readers_only:
            deadline = time.monotonic() + STOP_SECONDS
            while self._still_stopping() and time.monotonic() < deadline:
                time.sleep(0.02)
        self.abandon()

    def abandon(self) -> None:
        """Leave without waiting."""
        self._lock.release()
        if self._keeper is not None:
            self._keeper.poll()

    def _wait_until_usable(self, deadline: float) -> None:
        began = time.time()
        tries = 0
        while not self._is_usable():
            if failure := failure_since(self._home, began):
                raise failure
            if not self._is_kept() and (self._keeper is None or self._keeper.poll() is not None):
                if tries == KEEPER_TRIES:
                    raise self._failure("its keeper ended at once")
                tries += 1
                self._start_keeper()
            self._check_deadline(deadline, "it is not ready in time")
            time.sleep(0.02)

    def _is_usable(self) -> bool:
        state = running_stack(self._home)
        return state is not None and (self._readers_only or state.complete)

    def _is_kept(self) -> bool:
        return is_held(self._home / KEEPER_LOCK, exclusively=True)

    def _still_stopping(self) -> bool:
        """Whether the keeper still has to stop a service that only this member needed."""
        if not self._is_kept():
            return False
        if self._are_others(MEMBERS_LOCK):
            return False
        state = running_stack(self._home)
        only_database = state is not None and not state.for_all
        return not (only_database and self._are_others(READERS_LOCK))

    def _are_others(self, name: str) -> bool:
        """Whether members hold a lock. Members share it; the keeper takes it exclusively.

        It is tested three times, as other processes that test the lock hold it briefly.
        """
        path = self._home / name
        for _ in range(3):
            if not is_held(path) or is_held(path, exclusively=True):
                return False
            time.sleep(0.003)
        return True

    def _start_keeper(self) -> None:
        """Start a keeper in a session of its own, so that it outlives this process."""
        import subprocess  # not needed to join a stack that runs

        if self._on_progress is not None:
            self._on_progress(self._announcement())
        log_path = self._home / LOG_FOLDER / "keeper.log"
        for log in log_path.parent.glob("*.log"):
            _rotate(log)
        with log_path.open("ab") as output:
            self._keeper = subprocess.Popen(
                [sys.executable, "-P", "-m", "vidan.stack.keeper"],
                cwd=self._home,
                env=self.settings.environment(),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                start_new_session=True,
            )

    def _announcement(self) -> str:
        what = "PostgreSQL" if self._readers_only else "stack"
        if (self._home / "postgres" / "data").exists():
            return f"starting the embedded {what} …"
        return f"creating the embedded {what} in {self._home} (only the first time) …"

    def _check_deadline(self, deadline: float, why: str) -> None:
        if time.monotonic() > deadline:
            raise self._failure(why)

    def _failure(self, why: str) -> VidanError:
        return VidanError(
            f"the embedded stack does not start: {why}", hint=f"see {self._home / LOG_FOLDER}"
        )


def _rotate(log: Path) -> None:
    """Rotate a log that has grown long, replacing the one rotated before."""
    if log.stat().st_size > LONGEST_LOG:
        log.replace(log.with_suffix(".log.1"))
