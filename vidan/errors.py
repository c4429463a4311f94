"""The error tree: the type of an error decides whether to retry, to reject or to crash.

Each class has the exit code with which a command ends (the table is in the README). A message says
in one line what is wrong; `hint` says how to fix it.
"""

from __future__ import annotations

HOPELESS_EXIT_CODES = (2, 3, 8, 10)
"""Exit codes with which a restarted process would end again: usage, not found, schema, input."""

RETIRED_EXIT_CODE = 20
"""Exit code of a worker that was drained or stopped, for people and logs: its supervisor reads the
slot board."""


class VidanError(Exception):
    """An error that vidan can explain.

    `hint` is one line that says how to fix it, or None.
    """

    exit_code = 1

    def __init__(self, message: str, *, hint: str | None = None) -> None:
        super().__init__(message)
        self.hint = hint


class UsageError(VidanError):
    """The command was called wrongly."""

    exit_code = 2


class NotFoundError(VidanError):
    """No scenario, worker, model or task has this id or name."""

    exit_code = 3


class Pruned(NotFoundError):
    """The predictions of a scenario were pruned with their week."""


class NotAllowedError(VidanError):
    """The status of a scenario or worker does not allow what was asked."""

    exit_code = 4


class DatabaseUnavailable(VidanError):
    """PostgreSQL can't be reached, or the connection was lost. Never charged to a scenario."""

    exit_code = 8


class SchemaMismatch(VidanError):
    """The database's schema is not the one that this version expects."""

    exit_code = 8


class BrokerUnavailable(VidanError):
    """Kafka can't be reached. Never charged to a scenario."""

    exit_code = 9


class InputRejected(VidanError):
    """Wrong input, refused before anything was queued."""

    exit_code = 10


class KeyTaken(InputRejected):
    """The key belongs to other work: another task, source, or other params."""


class MissingExtra(InputRejected):
    """A command needs an optional part of the package that is not installed."""


class NotCompleted(VidanError):
    """A scenario that was waited for has failed, or was stopped."""

    exit_code = 5


class TimedOut(VidanError):
    """A wait took longer than its time-out."""

    exit_code = 7


class RejectedTask(VidanError):
    """An error of a run that no retry can fix: the scenario becomes `failed` at once."""

    exit_code = 10


class Reject(RejectedTask):
    """Raised by a task for an error that no retry can fix: `raise Reject("no such camera")`."""


class DeviceLost(VidanError):
    """The GPU is missing, or this process can't use it any more."""

    exit_code = 10


class TimeLimitExceeded(VidanError):
    """A run has exceeded its soft time limit; raised once, at the next frame.

    A task may catch it and return what it has; otherwise it is an error of the run.
    """


class SourceMissing(VidanError):
    """This host lacks the local file of a scenario; other hosts may have it."""


class RunInterrupted(BaseException):
    """A run has to end now. A BaseException, so that a task's `except Exception` can't keep it."""


class LeaseLost(RunInterrupted):
    """This worker has lost the scenario: the run must not write anything more."""


class RunStopped(RunInterrupted):
    """A user asked the run to stop (`init_shutdown`)."""


class HandOver(RunInterrupted):
    """The worker is leaving: the run ends here, and another worker resumes it at its checkpoint."""


class CommitFailed(RunInterrupted):
    """The results of a run can't be stored, and reconnecting won't help: an error of the run."""
