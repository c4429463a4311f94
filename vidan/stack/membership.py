"""Joining the embedded stack, leaving it, finding it.

A member holds a shared lock in VIDAN_HOME for as long as it needs the stack; the keeper, a detached
process of its own, runs what the members need and ends when none is left. Members start the keeper
when there is none. Nobody has to clean up after anybody: locks end with their process.
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
STOP_SECONDS = 40.0
KEEPER_TRIES = 3
LONGEST_LOG = 4 * 2**20
"""Bytes after which a log is put aside (one is kept) when the stack starts."""

Progress = Callable[[str], None]
"""Called with a line of text about what is being waited for."""


def running(settings: Settings) -> StackState | None:
    """What runs in the settings' home, or None."""
    return running_stack(settings.home)


def join(
    settings: Settings,
    *,
    readers_only: bool = False,
    on_progress: Progress | None = None,
    timeout: float = START_SECONDS,
) -> Membership:
    """Become a member of the stack in `settings.home`, which is started if it does not run.

    Returns when it can be used: with `readers_only` PostgreSQL, else broker and orchestrator too.
    Raises MissingExtra without the extra `local`, and a VidanError that names a log if the stack
    does not start within `timeout` seconds.
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
    """A place in the stack: a context manager that leaves at its end. Made by `join`."""

    def __init__(
        self, settings: Settings, *, readers_only: bool, on_progress: Progress | None
    ) -> None:
        self.settings = replace(settings, database_url=None, kafka={})
        """The settings with the stack as what is used, whatever was given beside it."""
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
            while not self._lock.acquire(shared=True):  # a keeper is just ending
                self._check_deadline(deadline, "the stack that ran before does not end")
                time.sleep(0.02)
        except OSError as error:
            raise VidanError(
                f"the embedded stack can't use its folder: {error}",
                hint="set VIDAN_HOME to a folder that can be written",
            ) from error
        self._wait_until_usable(deadline)

    def check(self) -> None:
        """See to it that the stack is kept: cheap, to be called now and then.

        A keeper that was killed is replaced, and the stack is usable again when this returns.
        Raises VidanError if that fails.
        """
        if not self._is_kept():
            self._wait_until_usable(time.monotonic() + START_SECONDS)

    def leave(self) -> None:
        """Leave. The last full member waits until all that was for it has been stopped."""
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
        """Whether the keeper still has to stop something that was only for this member."""
        if not self._is_kept():
            return False
        if self._are_others(MEMBERS_LOCK):
            return False
        state = running_stack(self._home)
        only_database = state is not None and not state.for_all
        return not (only_database and self._are_others(READERS_LOCK))

    def _are_others(self, name: str) -> bool:
        """Whether members hold a lock: shared, as the keeper never does.

        Looked at more than once, since a question can hold a lock for a moment.
        """
        path = self._home / name
        for _ in range(3):
            if not is_held(path) or is_held(path, exclusively=True):
                return False
            time.sleep(0.003)
        return True

    def _start_keeper(self) -> None:
        """Start a keeper of its own session, which outlives this process."""
        import subprocess  # not for those who join a stack that runs

        if self._on_progress is not None:
            self._on_progress(self._announcement())
        log_path = self._home / LOG_FOLDER / "keeper.log"
        for log in log_path.parent.glob("*.log"):
            _rotate(log)
        with log_path.open("ab") as output:
            self._keeper = subprocess.Popen(
                [sys.executable, "-m", "vidan.stack.keeper"],
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
        return f"creating the embedded {what} in {self._home} (only this first time) …"

    def _check_deadline(self, deadline: float, why: str) -> None:
        if time.monotonic() > deadline:
            raise self._failure(why)

    def _failure(self, why: str) -> VidanError:
        return VidanError(
            f"the embedded stack does not start: {why}", hint=f"see {self._home / LOG_FOLDER}"
        )


def _rotate(log: Path) -> None:
    """Put a log that has grown long aside, in place of the one before."""
    if log.stat().st_size > LONGEST_LOG:
        log.replace(log.with_suffix(".log.1"))
