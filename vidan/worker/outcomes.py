"""What becomes of ended runs in the database, many in one statement; retries go to the broker."""

from __future__ import annotations

import logging
import queue
import threading
import time
from collections.abc import Sequence

from vidan.broker.base import Producer
from vidan.broker.messages import RETRY_TOPIC
from vidan.db.session import Database
from vidan.domain import Status
from vidan.errors import DatabaseUnavailable
from vidan.protocol import claims, lifecycle, storable
from vidan.worker.execution import End, Outcome

log = logging.getLogger("vidan.worker")

MISSING_SECONDS = 60.0
"""So long a scenario whose local file this host lacks is left to others; then it is rejected."""

STATEMENT_BYTES = 8 * 2**20
"""So much JSON of ends goes into one statement: far from the statement time-out."""


class MissingSources:
    """The scenarios whose local file this host lacks, and since when.

    Since then nobody has got on with it: the time begins anew with each checkpoint. One thread asks
    what to skip, another whether one is hopeless.
    """

    def __init__(self, patience: float = MISSING_SECONDS) -> None:
        self._patience = patience
        self._since: dict[int, tuple[float, int]] = {}  # and the checkpoint then

    def skip(self) -> list[int]:
        """Return the scenarios that are left to others for now."""
        now = time.monotonic()
        known = list(self._since.items())
        for scenario_id, (since, _) in known:
            if now - since > 10 * self._patience:
                self._since.pop(scenario_id, None)
        return [one for one, (since, _) in known if now - since < self._patience]

    def hopeless(self, scenario_id: int, checkpoint: int) -> bool:
        """Note that a source is missing. Returns whether others have had their time."""
        now = time.monotonic()
        since, at = self._since.get(scenario_id, (now, checkpoint))
        if at != checkpoint:  # somebody has the file, and had the scenario meanwhile
            since = now
        self._since[scenario_id] = since, checkpoint
        return now - since >= self._patience

    def forget(self, scenario_id: int) -> None:
        """Let who starts it again have the whole time."""
        self._since.pop(scenario_id, None)


class RetryEvents:
    """Sends events to the retry topic in a thread: without a broker each try takes seconds."""

    def __init__(self, producer: Producer) -> None:
        self._producer = producer
        self._waiting: queue.SimpleQueue[int | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._send, name="retry-events", daemon=True)
        self._thread.start()

    def add(self, scenario_id: int) -> None:
        """Send an event soon. Lost, it costs latency only: a sweep finds the scenario when due."""
        self._waiting.put(scenario_id)

    def close(self) -> None:
        """Send what waits, for a moment."""
        self._waiting.put(None)
        self._thread.join(5)

    def _send(self) -> None:
        while (first := self._waiting.get()) is not None:
            ids, last = [first], False
            while not self._waiting.empty() and not last:
                following = self._waiting.get()
                last = following is None
                ids += [] if following is None else [following]
            try:
                self._producer.send(RETRY_TOPIC, ids)
            except Exception:  # these are found by a sweep; others are still to come
                log.exception("retry events were not sent")
            if last:
                return


def first_part(outcomes: Sequence[Outcome]) -> Sequence[Outcome]:
    """Return the first of them, with no more than STATEMENT_BYTES of JSON, unless it is one."""
    size = 0
    for number, outcome in enumerate(outcomes):
        size += outcome.size
        if number and size > STATEMENT_BYTES:
            return outcomes[:number]
    return outcomes


class Conclusions:
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
                lambda c, outcome=outcome: claims.hand_over(  # type: ignore[misc]
                    c,
                    [outcome.claimed.fence],
                    reason=outcome.error or "handed over",
                    actor=self._name,
                    delay=outcome.delay or 0.0,
                )
            )

    def put_back(self, database: Database, fences: Sequence[claims.Fence], reason: str) -> None:
        """Put scenarios back that have not begun, no budget spent."""
        database.retrying(lambda c: claims.hand_over(c, fences, reason=reason, actor=self._name))

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
