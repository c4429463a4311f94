"""What becomes of ended runs in the database, many in one statement; retries go to the broker."""

from __future__ import annotations

import logging
from collections.abc import Sequence

from vidan.db.session import Database
from vidan.domain.status import Status
from vidan.errors import DatabaseUnavailable
from vidan.protocol import lifecycle, storable
from vidan.protocol.fences import Fence
from vidan.worker.execution import End, Outcome
from vidan.worker.missing_sources import MissingSources
from vidan.worker.retry_events import RetryEvents

log = logging.getLogger("vidan.worker")


STATEMENT_BYTES = 8 * 2**20
"""So much JSON of ends goes into one statement: far from the statement time-out."""


def first_part(outcomes: Sequence[Outcome]) -> Sequence[Outcome]:
    """Return the first of them, with no more than STATEMENT_BYTES of JSON, unless it is one."""
    size = 0
    for number, outcome in enumerate(outcomes):
        size += outcome.size
        if number and size > STATEMENT_BYTES:
            return outcomes[:number]
    return outcomes


class OutcomeWriter:
    """Writes outcomes under one worker's name."""

    def __init__(self, name: str, retries: RetryEvents, missing: MissingSources) -> None:
        self._name = name
        self._retries = retries
        self._missing = missing

    def write(self, database: Database, outcomes: Sequence[Outcome]) -> None:
        """Write what became of runs. Raises DatabaseUnavailable; it may be called again then.

        One that the database refuses is an error of its run, and keeps no other from being stored.
        """
        try:
            self._write(database, outcomes)
        except DatabaseUnavailable:
            raise
        except Exception:
            log.exception("storing how runs ended failed: one by one now")
            for outcome in outcomes:
                self._write_alone(database, outcome)

    def _write_alone(self, database: Database, outcome: Outcome) -> None:
        scenario_id = outcome.claimed.fence.scenario_id
        try:
            self._write(database, [outcome])
        except DatabaseUnavailable:
            raise
        except Exception as error:
            log.error("scenario %d: its end can't be stored: %s", scenario_id, error)
            line = storable.line(f"its end can't be stored: {type(error).__name__}: {error}")
            try:
                unstored = outcome._replace(end=End.FAILED, error=line, delay=None)
                self._fail(database, unstored)
            except DatabaseUnavailable:
                raise
            except Exception:  # the heartbeat finds a row without a run, and puts it back
                log.exception("scenario %d: nor can that be stored", scenario_id)

    def _write(self, database: Database, outcomes: Sequence[Outcome]) -> None:
        endings, back = [], []
        for outcome in outcomes:
            fence = outcome.claimed.fence
            match outcome.end:
                case End.COMPLETED:
                    endings.append(
                        lifecycle.Ending(
                            fence, Status.COMPLETED, result=outcome.result, state=outcome.state
                        )
                    )
                case End.REJECTED:
                    endings.append(lifecycle.Ending(fence, Status.FAILED, error=outcome.error))
                case End.STOPPED:
                    database.retrying(
                        lambda c, fence=fence: lifecycle.shutting_down(  # type: ignore[misc]
                            c, fence, actor=self._name
                        )
                    )
                    endings.append(lifecycle.Ending(fence, Status.INACTIVE))
                case End.SOURCE_MISSING if self._missing.hopeless(
                    fence.scenario_id, outcome.claimed.checkpoint
                ):
                    endings.append(lifecycle.Ending(fence, Status.FAILED, error=outcome.error))
                case End.HANDED_OVER | End.SOURCE_MISSING:
                    back.append(outcome)
                case End.FAILED:
                    self._fail(database, outcome)
                case End.LOST:
                    pass
        if endings:
            ended = database.retrying(lambda c: lifecycle.finish(c, endings, actor=self._name))
            for ending in endings:
                self._missing.forget(ending.fence.scenario_id)
                if ending.fence.scenario_id not in ended:
                    log.warning("scenario %d is another's now", ending.fence.scenario_id)
        for outcome in back:
            database.retrying(
                lambda c, outcome=outcome: lifecycle.hand_over(  # type: ignore[misc]
                    c,
                    [outcome.claimed.fence],
                    reason=outcome.error or "handed over",
                    actor=self._name,
                    delay=outcome.delay or 0.0,
                )
            )

    def put_back(self, database: Database, fences: Sequence[Fence], reason: str) -> None:
        """Put scenarios back that have not begun, no budget spent."""
        database.retrying(lambda c: lifecycle.hand_over(c, fences, reason=reason, actor=self._name))

    def _fail(self, database: Database, outcome: Outcome) -> None:
        fence = outcome.claimed.fence
        error = outcome.error or "failed"
        failed = database.retrying(
            lambda c: lifecycle.fail(c, fence, error, actor=self._name, delay=outcome.delay)
        )
        if failed is None:
            log.warning("scenario %d is another's now", fence.scenario_id)
        elif failed.status is Status.INIT_STARTUP:
            self._retries.add(fence.scenario_id)
