"""Writes how runs ended, in a thread beside the worker's loop.

Completed, rejected and stopped runs are written in one statement; failed runs and hand-overs
one by one.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Sequence

from vidan import logs
from vidan.backoff import BackOff
from vidan.db.session import Database
from vidan.domain.durations import in_words
from vidan.domain.status import Status
from vidan.errors import DatabaseUnavailable
from vidan.protocol import lifecycle, storable
from vidan.protocol.fences import Fence
from vidan.protocol.lifecycle import Ending, Failed
from vidan.tasks import blame
from vidan.worker.execution import End, Outcome
from vidan.worker.lease import Lease
from vidan.worker.missing_sources import MissingSources
from vidan.worker.retry_events import RetryEvents
from vidan.worker.slots import Slots

log = logging.getLogger("vidan.worker")
runs_log = logging.getLogger("vidan.runner")

STATEMENT_BYTES = 8 * 2**20
"""Most bytes of JSON, in results and states, that one statement writes: far from its time-out."""


_ENDINGS: dict[End, Callable[[Outcome], Ending]] = {
    End.COMPLETED: lambda one: Ending(
        one.claimed.fence, Status.COMPLETED, result=one.result, state=one.state
    ),
    End.REJECTED: lambda one: Ending(
        one.claimed.fence, Status.FAILED, error=one.error, trace=one.trace
    ),
    End.STOPPED: lambda one: Ending(one.claimed.fence, Status.INACTIVE),
}
"""The ends after which a scenario runs again only if a user starts it, and what is stored then."""


class OutcomeWriter:
    """Writes outcomes under one worker's name; each retry becomes an event for the broker."""

    def __init__(self, name: str, retries: RetryEvents, missing: MissingSources) -> None:
        self._name = name
        self._retries = retries
        self._missing = missing

    def write(self, database: Database, outcomes: Sequence[Outcome]) -> None:
        """Write outcomes. After DatabaseUnavailable it may be called again with the same ones.

        An outcome that the database refuses becomes an error of its run; the others are stored.
        """
        try:
            self._write(database, outcomes)
        except DatabaseUnavailable:
            raise
        except Exception:
            log.exception("storing how runs ended failed: one by one now")
            for outcome in outcomes:
                self._write_alone(database, outcome)

    def hand_over(self, database: Database, fences: Sequence[Fence], reason: str) -> None:
        """Hand over scenarios that have not begun here; no budget is charged."""
        database.retrying(lifecycle.hand_over, fences, reason=reason, actor=self._name)

    def _write_alone(self, database: Database, outcome: Outcome) -> None:
        scenario_id = outcome.claimed.fence.scenario_id
        try:
            self._write(database, [outcome])
        except DatabaseUnavailable:
            raise
        except Exception as error:
            log.error("scenario %d: its end can't be stored: %s", scenario_id, error)
            line = storable.line(f"its end can't be stored: {type(error).__name__}: {error}")
            failed = Outcome(outcome.claimed, End.ERROR, error=line, trace=blame.trace(error))
            try:
                self._fail(database, failed)
            except DatabaseUnavailable:
                raise
            except Exception:  # a heartbeat finds the row without a run, and hands it over
                log.exception("scenario %d: this failure can't be stored either", scenario_id)

    def _write(self, database: Database, outcomes: Sequence[Outcome]) -> None:
        settled = [self._settle_missing_source(outcome) for outcome in outcomes]
        for outcome in settled:
            if outcome.end is End.STOPPED:
                fence = outcome.claimed.fence
                database.retrying(lifecycle.shut_down, fence, actor=self._name)
            elif outcome.end is End.ERROR:
                self._fail(database, outcome)
        self._finish(database, [_ENDINGS[one.end](one) for one in settled if one.end in _ENDINGS])
        for outcome in settled:
            if outcome.end is End.HANDED_OVER:
                self._hand_over(database, outcome)

    def _settle_missing_source(self, outcome: Outcome) -> Outcome:
        """Hand over a scenario whose file is not on this host; reject it after MISSING_SECONDS."""
        if outcome.end is not End.SOURCE_MISSING:
            return outcome
        claimed = outcome.claimed
        is_up = self._missing.time_is_up(claimed.fence.scenario_id, claimed.checkpoint)
        return outcome._replace(end=End.REJECTED if is_up else End.HANDED_OVER)

    def _finish(self, database: Database, endings: Sequence[Ending]) -> None:
        if not endings:
            return
        ended = database.retrying(lifecycle.finish, endings, actor=self._name)
        for ending in endings:
            scenario_id = ending.fence.scenario_id
            self._missing.forget(scenario_id)
            if scenario_id not in ended:
                log.warning("this worker no longer holds scenario %d", scenario_id)

    def _fail(self, database: Database, outcome: Outcome) -> None:
        fence = outcome.claimed.fence
        error = outcome.error or "failed"
        failed = database.retrying(
            lifecycle.fail, fence, error, actor=self._name, delay=outcome.delay, trace=outcome.trace
        )
        if failed is None:
            log.warning("this worker no longer holds scenario %d", fence.scenario_id)
        else:
            _tell(outcome, failed)
            if failed.status is Status.INIT_STARTUP:
                self._retries.add(fence.scenario_id)

    def _hand_over(self, database: Database, outcome: Outcome) -> None:
        database.retrying(
            lifecycle.hand_over,
            [outcome.claimed.fence],
            reason=outcome.error or "handed over",
            actor=self._name,
            delay=outcome.delay or 0.0,
        )


def _tell(outcome: Outcome, failed: Failed) -> None:
    """Log a failure: when it is tried again, or else its traceback."""
    fence, error = outcome.claimed.fence, outcome.error
    with logs.bound(scenario_id=fence.scenario_id, epoch=fence.epoch, worker_id=fence.worker_id):
        if failed.status is Status.INIT_STARTUP:
            again = in_words(round(failed.delay, 1))
            tries = f"{failed.attempts} of {failed.max_attempts}"
            runs_log.warning(
                "failed after %.1f s: %s; again in %s (%s)",
                outcome.seconds,
                error,
                again,
                tries,
                extra={"trace": outcome.trace if runs_log.isEnabledFor(logging.DEBUG) else None},
            )
        else:
            runs_log.error(
                "failed after %.1f s: %s", outcome.seconds, error, extra={"trace": outcome.trace}
            )


class OutcomeThread:
    """Writes the outcomes of a worker's slots in a thread, under one lease, until it is closed.

    Claiming and writing mostly wait for the database: side by side they take half as long. An
    outcome that is still unwritten after `close` is left to the caller's own `write_ended`.
    """

    def __init__(
        self,
        lease: Lease,
        slots: Slots,
        writer: OutcomeWriter,
        on_written: Callable[[Sequence[Outcome]], None],
    ) -> None:
        self._lease = lease
        self._slots = slots
        self._writer = writer
        self._on_written = on_written
        self._closed = threading.Event()
        self._thread = threading.Thread(target=self._work, name="outcomes", daemon=True)
        self._thread.start()

    def write_ended(self) -> None:
        """Write the outcomes of ended runs, as many as one statement takes: one step of the thread.

        Raises DatabaseUnavailable. Other threads may call it only once this thread is closed.
        """
        ended = self._slots.outcomes()
        if not ended:
            return
        outcomes = first_part(ended)
        self._writer.write(self._lease.database, outcomes)
        self._slots.forget(outcome.claimed.fence for outcome in outcomes)
        self._on_written(outcomes)
        if len(outcomes) < len(ended):
            self._slots.ended.set()

    def close(self) -> None:
        """End the thread, after waiting for what it is writing."""
        self._closed.set()
        self._slots.ended.set()
        self._thread.join()

    def _work(self) -> None:
        back_off = BackOff()
        while not self._lease.ended:
            self._slots.ended.wait()
            if self._closed.is_set():
                break
            try:
                self.write_ended()
            except DatabaseUnavailable as error:
                log.warning("%s", error)
            except Exception:  # the outcomes are kept, and written at the next attempt
                log.exception("storing how runs ended failed")
            else:
                back_off.worked()
                continue
            self._slots.ended.set()  # there are outcomes left to write
            self._closed.wait(back_off.pause())


def first_part(outcomes: Sequence[Outcome]) -> Sequence[Outcome]:
    """Return as many of the first outcomes as STATEMENT_BYTES of JSON hold, but at least one."""
    size = 0
    for number, outcome in enumerate(outcomes):
        size += outcome.size
        if number and size > STATEMENT_BYTES:
            return outcomes[:number]
    return outcomes
