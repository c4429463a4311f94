"""The orchestrator: turns state into events, restarts what failed, releases what was left behind.

Any number may run, all alike; there is no leader. `python -m vidan.orchestrator`.
"""

from __future__ import annotations

import logging
import signal
import sys
import threading
import time
from collections.abc import Callable
from datetime import datetime, timedelta
from functools import partial
from types import FrameType

import psycopg

from vidan import broker, config, inbox, logs
from vidan.broker.messages import ORCHESTRATORS_GROUP, RETRY_TOPIC, SCENARIOS_TOPIC
from vidan.config import Settings
from vidan.db.session import Database
from vidan.domain.status import Status
from vidan.errors import DatabaseUnavailable, VidanError
from vidan.processes import lifeline
from vidan.protocol import announcements, expiry, partitions
from vidan.services import schedules, workers

log = logging.getLogger("vidan.orchestrator")

ROUND_SECONDS = 1.0
"""At the latest so long after the round before, announcements are looked at."""
PACE_SECONDS = 0.05
"""At the soonest: what is due may be another's to announce, one that stands still."""
HOUSEKEEPING_SECONDS = 600.0
HOUSEKEEPING_AGAIN_SECONDS = 30.0
"""How long housekeeping waits that failed, such as for a table that somebody locks."""
EXPIRY_SECONDS = 0.5
"""How often leases are looked at. A row that a dying session still locks waits for another look."""
BROKER_AWAY_SECONDS = 2.0
"""How long all announcements wait after some that could not be delivered."""
RETRIES_SECONDS = 0.5
"""How long one look at the retry topic waits for an event."""
PAUSE = timedelta(seconds=5)
BATCH = 1000
BATCHES_A_ROUND = 10


class Orchestrator:
    """Announces, restarts, releases. `run_once` is one round of all of it, without waiting."""

    actor = "orchestrator"

    def __init__(self, settings: Settings) -> None:
        self.stopping = False
        self._settings = settings
        self._lock = threading.Lock()
        self._database: Database | None = None
        self._watched: tuple[datetime, datetime] | None = None  # since when, and the last look
        self._broker = broker.connect(settings)
        self._producer = self._broker.producer()
        self._retries = self._broker.consumer(ORCHESTRATORS_GROUP, [RETRY_TOPIC])
        self._next_housekeeping = 0.0
        self._away = False
        self._undelivered = False  # the last announcements could not be delivered
        self._held_until = 0.0  # nothing is announced before
        self._told = False  # NOTIFY: there is something to announce
        self._breaks = 0  # errors of the database so far

    def run(self) -> None:
        """Work until `stopping`: announcements here, leases and the retry topic in threads.

        An announcement waits seconds for a broker that is away: no lease may wait behind it.
        """
        listener = Listener(self._settings)
        threads = [
            threading.Thread(target=self._always, args=(step, time.sleep), daemon=True)
            for step in (self._look_at_leases, self._read_retries)
        ]
        for thread in threads:
            thread.start()
        self._always(self._announce_and_keep_house, partial(self._listen, listener))
        for thread in threads:
            thread.join(5)
        listener.close()
        self.close()

    def run_once(self) -> None:
        """Do one round of everything. Raises DatabaseUnavailable."""
        self.fire()
        self.announce()
        self.expire()
        self.keep_house()
        self.restart(timeout=0)

    def close(self) -> None:
        """Let go of database and broker."""
        self._retries.close()
        self._producer.close()
        if self._database is not None:
            self._database.close()

    def announce(self) -> int:
        """Announce what is due; returns how many were. A failed announcement is due again.

        After a failure nothing is announced for a while: of a long backlog there is always more
        due. Of very many the rest is left to the next round: there is the house to keep in between.
        """
        announced = 0
        for _ in range(BATCHES_A_ROUND):
            if self.stopping or self._held() > 0:
                break
            ids = self._connected().retrying(lambda c: announcements.take_due(c, BATCH))
            if not ids:
                break
            failed = self._producer.send(SCENARIOS_TOPIC, ids)
            announced += len(ids) - len(failed)
            if failed:
                self._again(failed)
            elif self._undelivered:
                self._undelivered = False
                log.info("announcements are delivered again")
            if len(ids) < BATCH:
                break
        return announced

    def _held(self) -> float:
        """Return for how many seconds more nothing is announced."""
        return self._held_until - time.monotonic()

    def _again(self, failed: list[int]) -> None:
        level = logging.DEBUG if self._undelivered else logging.WARNING
        log.log(level, "%d announcements could not be delivered: they wait", len(failed))
        self._undelivered = True
        self._held_until = time.monotonic() + BROKER_AWAY_SECONDS
        self._connected().retrying(
            lambda c: announcements.announce_again(c, failed, delay=BROKER_AWAY_SECONDS)
        )

    def fire(self) -> None:
        """Create the scenarios of schedules that are due."""
        for one in self._connected().retrying(lambda c: schedules.fire(c, actor=self.actor)):
            if one.error is None:
                log.info("schedule %s: scenarios %s", one.name, list(one.ids))
            else:
                log.error("schedule %s: %s", one.name, one.error)

    def expire(self) -> int:
        """Release what workers held whose lease has ended; returns how many scenarios."""
        since, any_ended = self._watch()
        if not any_ended:
            return 0
        released = self._connected().retrying(
            lambda c: expiry.expire(c, actor=self.actor, connected_since=since)
        )
        for one in released:
            with logs.bound(scenario_id=one.id):
                log.warning("scenario %d: %s, now %s", one.id, one.row.reason, one.to_status)
        return len(released)

    def restart(self, timeout: float) -> None:
        """Read the retry topic and plan announcements. Raises DatabaseUnavailable."""
        received = self._retries.poll(timeout)
        if not received:
            return
        try:
            ids = inbox.scenario_ids(self._connected(), received)
            restarted = self._connected().retrying(lambda c: announcements.restart(c, ids))
        except DatabaseUnavailable:
            inbox.rewind(self._retries, received)
            raise
        for scenario_id in sorted(set(ids) - restarted):
            with logs.bound(scenario_id=scenario_id):
                log.info("scenario %d is not %s: passed over", scenario_id, Status.INIT_STARTUP)
        self._retries.commit(received)

    def keep_house(self) -> None:
        """Make partitions ahead, forget workers that are long gone; now and then."""
        if time.monotonic() < self._next_housekeeping:
            return
        database = self._connected()
        database.retrying(partitions.ensure_ahead)
        database.retrying(workers.forget_gone)
        self._next_housekeeping = time.monotonic() + HOUSEKEEPING_SECONDS

    def _connected(self) -> Database:
        with self._lock:
            if self._database is None:
                self._database = Database(
                    self._settings.require_database(), application_name=self.actor, guarded=True
                )
            return self._database

    def _watch(self) -> tuple[datetime, bool]:
        """Return since when the database has answered without a break, and if a lease has ended.

        By the database's clock. A break is an error, or a pause between two looks: a host that
        slept has seen nobody die.
        """
        breaks = self._breaks
        with self._connected().autocommit() as connection:
            now, any_ended = expiry.any_ended(connection)
        with self._lock:  # an error that another thread has met meanwhile must not be forgotten
            since, last = (now, now) if breaks != self._breaks else self._watched or (now, now)
            since = now if now - last > PAUSE else since
            self._watched = (since, now)
            if self._away:
                log.info("the database answers again")
            self._away = False
        return since, any_ended

    def _disconnected(self, error: DatabaseUnavailable) -> None:
        log.log(logging.DEBUG if self._away else logging.WARNING, "%s", error)
        with self._lock:
            self._away = True
            self._watched = None
            self._breaks += 1

    # --- steps that are done again and again: each returns how long to wait until the next

    def _always(self, step: Callable[[], float], wait: Callable[[float], None]) -> None:
        while not self.stopping:
            try:
                pause = step()
            except DatabaseUnavailable as error:
                self._disconnected(error)
                pause = ROUND_SECONDS
            except Exception:  # one bad round must not end the rounds
                log.exception("a round failed")
                pause = ROUND_SECONDS
            wait(pause)

    def _announce_and_keep_house(self) -> float:
        if self._told:
            self.announce()
        with self._connected().autocommit() as connection:  # mostly nothing is due
            schedule = _seconds(schedules.next_due(connection))
            announcement = _seconds(announcements.next_due(connection))
        if announcement <= 0:
            self.announce()
        self._try_to_keep_house()
        if schedule <= 0:  # last: what it meets keeps nothing else from being done
            self.fire()
        return max(PACE_SECONDS, min(schedule, max(announcement, self._held())))

    def _try_to_keep_house(self) -> None:
        """Keep house, or try later: what is in the way is mostly a lock, and no break."""
        try:
            self.keep_house()
        except Exception as error:
            self._next_housekeeping = time.monotonic() + HOUSEKEEPING_AGAIN_SECONDS
            log.warning(
                "housekeeping failed, again in %.0f s: %s",
                HOUSEKEEPING_AGAIN_SECONDS,
                error,
                exc_info=not isinstance(error, DatabaseUnavailable),
            )

    def _listen(self, listener: Listener, seconds: float) -> None:
        self._told = listener.wait(seconds)

    def _look_at_leases(self) -> float:
        return 0.0 if self.expire() else EXPIRY_SECONDS

    def _read_retries(self) -> float:
        self.restart(timeout=RETRIES_SECONDS)
        return 0.0


def _seconds(due: timedelta | None) -> float:
    return ROUND_SECONDS if due is None else min(ROUND_SECONDS, due.total_seconds())


class Listener:
    """Waits for NOTIFY, or just waits: nothing relies on it."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._connection: psycopg.Connection[tuple[object, ...]] | None = None

    def wait(self, seconds: float) -> bool:
        """Wait until there is something to announce, `seconds` at most; whether there is."""
        try:
            if self._connection is None:
                database = Database(
                    self._settings.require_database(), application_name="listener", guarded=True
                )
                self._connection = database.listen()
                self._connection.execute(f"LISTEN {announcements.CHANNEL}")
            return bool(list(self._connection.notifies(timeout=seconds, stop_after=1)))
        except (psycopg.Error, VidanError):
            self.close()
            time.sleep(min(seconds, ROUND_SECONDS))
            return False

    def close(self) -> None:
        """Close the connection."""
        if self._connection is not None:
            self._connection.close()
            self._connection = None


def serve(settings: Settings) -> int:
    """Run an orchestrator in this process until it is told to end.

    Returns the exit code: 130 after Ctrl-C, 143 after SIGTERM, 0 when its parent is gone.
    """
    orchestrator = Orchestrator(settings)
    ended_by: list[int] = []

    def stop(number: int, _frame: FrameType | None) -> None:
        ended_by.append(number)
        orchestrator.stopping = True

    signal.signal(signal.SIGTERM, stop)
    signal.signal(signal.SIGINT, stop)
    lifeline.watch(lambda: setattr(orchestrator, "stopping", True))
    orchestrator.run()
    return 128 + ended_by[0] if ended_by else 0


def main() -> int:
    """Run an orchestrator on the settings of the environment."""
    settings = config.load()
    logs.configure(settings, "orchestrator")
    return serve(settings)


if __name__ == "__main__":
    sys.exit(main())
