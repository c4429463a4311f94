"""Calls the task of a claimed scenario; turns its return or its exception into an outcome."""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping
from contextlib import suppress
from enum import Enum
from typing import Any, NamedTuple

from vidan.domain.retry import Retry, RetryPolicy
from vidan.errors import (
    BrokerUnavailable,
    CommitFailed,
    DatabaseUnavailable,
    HandOver,
    InputRejected,
    LeaseLost,
    MissingExtra,
    RejectedTask,
    RunInterrupted,
    RunStopped,
    SourceMissing,
    TimeLimitExceeded,
    UsageError,
    VidanError,
)
from vidan.processes.forks import Contained
from vidan.protocol import storable
from vidan.protocol.claims import Claimed
from vidan.run.context import RunContext
from vidan.run.control import RunControl
from vidan.run.passes import Passes
from vidan.run.run import Run
from vidan.tasks import blame
from vidan.tasks.task import Task

log = logging.getLogger("vidan.runner")

UNAVAILABLE_SECONDS = 5.0
"""Pause, in seconds, before a scenario that met an unavailable database or broker runs again."""


class End(Enum):
    """How a run ended."""

    COMPLETED = "completed"
    STOPPED = "stopped"  # on request
    HANDED_OVER = "handed over"  # for other workers to resume; no budget is charged
    SOURCE_MISSING = "source missing"  # left to other hosts for now
    REJECTED = "rejected"  # a retry can't fix it
    ERROR = "failed"  # charged to `attempts`
    LOST = "lost"  # this worker no longer holds the scenario: it may write nothing


class Outcome(NamedTuple):
    """How the run of a claimed scenario ended, and what to store of it."""

    claimed: Claimed
    end: End
    result: str | None = None  # JSON, like `state`
    state: str | None = None
    error: str | None = None
    delay: float | None = None
    """Seconds until the scenario is due again. None means: at once after a hand-over; after an
    error, when the pause is over that the database computes (BACK_OFF)."""
    trace: str | None = None
    """The traceback of the error, for the log and for the scenario's row."""
    seconds: float = 0.0
    """How long the run lasted."""

    @property
    def size(self) -> int:
        """How many bytes of JSON it holds."""
        return sum(len(text.encode()) for text in (self.result, self.state) if text is not None)


def run_scenario(
    claimed: Claimed, tasks: Mapping[str, Task[..., Any]], control: RunControl, context: RunContext
) -> Outcome:
    """Run a claimed scenario to its end. Never raises: the outcome says what happens next."""
    try:
        return _run(claimed, tasks, control, context)
    except BaseException as error:
        return escaped(claimed, error)


def escaped(claimed: Claimed, error: BaseException) -> Outcome:
    """Return the outcome of a run whose end could not be told: an error of the run.

    Never raises, though an exception's own code may: of `error`, only its type is named.
    """
    name = storable.line(type.__repr__(type(error)))
    with suppress(BaseException):
        log.error("the run's end could not be told", exc_info=error)
    line = f"its end could not be told: {name}"
    return Outcome(claimed, End.ERROR, error=line, trace=blame.trace(error))


def _run(
    claimed: Claimed, tasks: Mapping[str, Task[..., Any]], control: RunControl, context: RunContext
) -> Outcome:
    started = time.monotonic()
    task = tasks[claimed.task]
    passes = Passes(claimed, control, context)
    run = Run(
        scenario_id=claimed.fence.scenario_id,
        source=claimed.source,
        log=logging.LoggerAdapter(task.log, {"scenario_id": claimed.fence.scenario_id}),
        _passes=passes,
    )
    limits = task.limits.outweighed_by(claimed.time_limit, claimed.soft_time_limit)
    if limits.soft is not None:
        control.set_soft_limit(limits.soft)
    if limits.hard is not None:
        context.set_hard_limit(limits.hard)
    outcome = _call(run, task, passes)._replace(seconds=time.monotonic() - started)
    if outcome.end is not End.ERROR:  # those are told with what follows: see OutcomeWriter
        log.log(
            _level(outcome),
            "%s after %.1f s%s",
            outcome.end.value,
            outcome.seconds,
            f": {outcome.error}" if outcome.error else "",
            extra={"trace": outcome.trace},
        )
    return outcome


def _level(outcome: Outcome) -> int:
    if outcome.end is End.REJECTED:
        return logging.ERROR
    return logging.INFO if outcome.claimed.needs_source or outcome.error else logging.DEBUG


def _call(run: Run, task: Task[..., Any], passes: Passes) -> Outcome:
    claimed, control = passes.claimed, passes.control
    try:
        try:
            control.check()  # the run may have been interrupted while it waited for its slot
            returned = _perform(task, run, passes)
            control.check_left_off()  # the return value of a task that left off is no result
            result = task.result(returned)
            state = passes.finish()
            return Outcome(claimed, End.COMPLETED, result=result, state=state)
        except (RunStopped, HandOver, TimeLimitExceeded, Retry):
            passes.flush()
            raise
        finally:
            passes.close()
    except BaseException as error:
        return _outcome_of(error, claimed, task.policy, passes.attempts)


def _perform(task: Task[..., Any], run: Run, passes: Passes) -> Any:
    if passes.claimed.unreadable is not None:
        raise RejectedTask(passes.claimed.unreadable)
    try:
        with Contained():
            return task.perform(run, passes.claimed.params)
    except BaseExceptionGroup as group:  # from a task group in the task's code
        interruption = passes.control.interruption
        if interruption is None or group.subgroup(RunInterrupted) is None:
            raise
        raise interruption from group


def _outcome_of(
    error: BaseException, claimed: Claimed, policy: RetryPolicy, attempts: int
) -> Outcome:
    """Decide by the exception's type: stop, hand over, retry or reject."""
    said = storable.line(error)
    line = said or type(error).__name__
    match error:
        case LeaseLost():
            return Outcome(claimed, End.LOST, error=line)
        case RunStopped():
            return Outcome(claimed, End.STOPPED)
        case HandOver():
            return Outcome(claimed, End.HANDED_OVER, error=line)
        case SourceMissing():
            return Outcome(claimed, End.SOURCE_MISSING, error=line)
        case DatabaseUnavailable() | BrokerUnavailable():  # maybe another one, which the task uses
            line = f"requeued, due in {UNAVAILABLE_SECONDS:g} s: {line}"
            return Outcome(claimed, End.HANDED_OVER, error=line, delay=UNAVAILABLE_SECONDS)
        case RejectedTask() | InputRejected() | UsageError():
            return Outcome(claimed, End.REJECTED, error=line, trace=blame.trace(error))
        case Retry() if not said and error.__cause__ is not None:
            line = _described(error.__cause__, raised=error)
        case Retry() if not said:
            line = "the task asked for a retry"
        case _:  # from the task's code, a detector or a commit; also a task's SystemExit
            if isinstance(error, VidanError) and type(error) in (VidanError, MissingExtra):
                line = "; ".join(filter(None, (line, error.hint)))
            else:
                line = _described(error)
    # a failed commit is no error of the task's code, so the task's policy does not decide
    if not isinstance(error, CommitFailed) and not policy.may_fix(error):
        return Outcome(claimed, End.REJECTED, error=line, trace=blame.trace(error))
    delay = policy.delay_after(error, attempts)
    return Outcome(claimed, End.ERROR, error=line, delay=delay, trace=blame.trace(error))


def _described(error: BaseException, *, raised: BaseException | None = None) -> str:
    """Return type, words and place of an error in one line: `KeyError: 'a' (shop.py:12)`.

    `raised` is the error that was raised from it: its place counts if `error` itself has none.
    """
    name = type(error).__name__
    line = f"{name}: {storable.line(error) or name}"
    place = None
    if not isinstance(error, VidanError | CommitFailed):
        place = blame.place(error) or (blame.place(raised) if raised is not None else None)
    return f"{line} ({place})" if place else line
