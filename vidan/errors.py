"""The VidanError tree: whether to retry, to reject or to crash is told by the type.

Each class carries the exit code that a command ends with (the table is in the README).
A message says what is wrong in one line; `hint` says how to mend it.
"""

from __future__ import annotations

HOPELESS_EXIT_CODES = (2, 3, 8, 10)
"""A process that ended with one of these would do so again: usage, no such thing, schema, input."""

RETIRED_EXIT_CODE = 20
"""A worker tells its supervisor by it that it was drained or stopped: not to be started again."""


class VidanError(Exception):
    """Something went wrong that vidan can name.

    `hint` is one line that says how to mend it, or None.
    """

    exit_code = 1

    def __init__(self, message: str, *, hint: str | None = None) -> None:
        super().__init__(message)
        self.hint = hint


class UsageError(VidanError):
    """The command was called wrongly."""

    exit_code = 2


class NotFoundError(VidanError):
    """There is no such scenario, worker, model or task."""

    exit_code = 3


class Pruned(NotFoundError):
    """What a scenario had stored was pruned with its week."""


class NotAllowedError(VidanError):
    """The status a scenario is in does not allow what was asked."""

    exit_code = 4


class DatabaseUnavailable(VidanError):
    """PostgreSQL can't be reached, or the connection was lost. Never charged to a scenario."""

    exit_code = 8


class SchemaMismatch(VidanError):
    """The database's schema is not the one this version expects."""

    exit_code = 8


class BrokerUnavailable(VidanError):
    """Kafka can't be reached. Never charged to a scenario."""

    exit_code = 9


class InputRejected(VidanError):
    """Bad input, refused before anything was queued."""

    exit_code = 10


class MissingExtra(InputRejected):
    """A command needs an optional part of the package that is not installed."""


class NotCompleted(VidanError):
    """A scenario that was waited for has failed, or was stopped."""

    exit_code = 5


class TimedOut(VidanError):
    """What was waited for has not come in time."""

    exit_code = 7


class RejectedTask(VidanError):
    """A run met something that no retry can mend: the scenario becomes `failed` at once."""

    exit_code = 10


class Reject(RejectedTask):
    """A task's own word that no retry can mend it: `raise Reject("no such camera")`."""


class DeviceLost(VidanError):
    """The GPU is not there, or no more to be used by this process."""

    exit_code = 10


class TimeLimitExceeded(VidanError):
    """A run has gone on for longer than its soft limit: told once, at the next frame.

    A task may catch it and return what it has; else it is an error of the run.
    """


class SourceMissing(VidanError):
    """This host lacks the local file that a scenario wants: others may have it."""


class RunInterrupted(BaseException):
    """A run has to end now. A BaseException: a task's `except Exception` makes no zombie."""


class LeaseLost(RunInterrupted):
    """The scenario is not this worker's any more: what the run still has must not be written."""


class RunStopped(RunInterrupted):
    """The run was asked to stop, by a user (`init_shutdown`)."""


class HandOver(RunInterrupted):
    """The worker is going: the run ends here and goes on elsewhere at its checkpoint."""


class CommitFailed(RunInterrupted):
    """What a run has done can't be stored, and no reconnect will mend it: an error of the run."""
