"""A claimed scenario: calls its task, turns its end or its exception into what happens next."""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum
from typing import Any

from vidan.commits import RunControl
from vidan.errors import (
    BrokerUnavailable,
    DatabaseUnavailable,
    HandOver,
    InputRejected,
    LeaseLost,
    RejectedTask,
    RunStopped,
    SourceMissing,
    UsageError,
)
from vidan.run import Run, Surroundings
from vidan.services import storable
from vidan.services.leases import Claimed
from vidan.tasks import Task

log = logging.getLogger("vidan.runner")


class End(Enum):
    """How a run ended."""

    COMPLETED = "completed"
    STOPPED = "stopped"  # on request
    HANDED_OVER = "handed over"  # put back, no budget spent
    SOURCE_MISSING = "source missing"  # left to other hosts for now
    REJECTED = "rejected"  # a retry can't mend it
    FAILED = "failed"  # charged to `attempts`
    LOST = "lost"  # it is another's: nothing may be written


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of a claimed scenario."""

    claimed: Claimed
    end: End
    result: Any = None
    state: dict[str, Any] | None = None
    error: str | None = None


def run_scenario(
    claimed: Claimed, tasks: Mapping[str, Task[..., Any]], control: RunControl, around: Surroundings
) -> Outcome:
    """Run a claimed scenario to its end. Never raises: the outcome says what to do next."""
    started = time.monotonic()
    run = Run(
        scenario_id=claimed.fence.scenario_id,
        source=claimed.source,
        state=dict(claimed.state),
        log=logging.LoggerAdapter(
            logging.getLogger(f"vidan.task.{claimed.task}"),
            {"scenario_id": claimed.fence.scenario_id},
        ),
        _claimed=claimed,
        _control=control,
        _around=around,
    )
    outcome = _call(run, tasks[claimed.task], claimed, control)
    log.log(
        logging.INFO if claimed.needs_source or outcome.error else logging.DEBUG,
        "%s after %.1f s%s",
        outcome.end.value,
        time.monotonic() - started,
        f": {outcome.error}" if outcome.error else "",
    )
    return outcome


def _call(run: Run, task: Task[..., Any], claimed: Claimed, control: RunControl) -> Outcome:
    try:
        try:
            control.check()  # it may have been interrupted while it waited for its slot
            returned = task.perform(run, claimed.params)
            control.check_told()  # what it returned then is no result
            result = task.result(returned)
            run.returned()
            return Outcome(claimed, End.COMPLETED, result=result, state=run.state)
        except (RunStopped, HandOver):
            run.interrupted()
            raise
        finally:
            run.close()
    except BaseException as error:
        return _outcome_of(error, claimed)


def _outcome_of(error: BaseException, claimed: Claimed) -> Outcome:
    """Tell by the exception's type what happens: stop, hand over, retry, reject."""
    line = storable.line(error) or type(error).__name__
    match error:
        case LeaseLost():
            return Outcome(claimed, End.LOST, error=line)
        case RunStopped():
            return Outcome(claimed, End.STOPPED)
        case HandOver():
            return Outcome(claimed, End.HANDED_OVER, error=line)
        case SourceMissing():
            return Outcome(claimed, End.SOURCE_MISSING, error=line)
        case DatabaseUnavailable() | BrokerUnavailable():
            return Outcome(claimed, End.HANDED_OVER, error=line)
        case RejectedTask() | InputRejected() | UsageError():
            return Outcome(claimed, End.REJECTED, error=line)
        case _:  # the task's own code, a detector, a commit; SystemExit from a task, too
            log.debug("it raised", exc_info=error)
            return Outcome(claimed, End.FAILED, error=f"{type(error).__name__}: {line}")
