"""The orchestrator: announces due scenarios and retries, fires schedules, expires leases.

Any number of orchestrators may run, all alike; there is no leader. `python -m vidan.orchestrator`.
"""

from __future__ import annotations

import logging
import os
import signal
import socket
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
from vidan.errors import DatabaseUnavailable, UsageError, VidanError
from vidan.processes import lifeline
from vidan.protocol import announcements, expiry, partitions
from vidan.services import schedules, versions, workers

log = logging.getLogger("vidan.orchestrator")

ROUND_SECONDS = 1.0
"""Longest pause between rounds of announcements, in seconds."""
PACE_SECONDS = 0.05
"""Shortest pause between rounds, in seconds: a hung orchestrator may have locked the due rows."""
HOUSEKEEPING_SECONDS = 600.0
"""Interval, in seconds, at which partitions are made and rows of gone workers deleted."""
HOUSEKEEPING_AGAIN_SECONDS = 30.0
"""The same interval, in seconds, after a failure, such as a locked table."""
EXPIRY_SECONDS = 0.5
"""Pause, in seconds, between two queries for ended leases. A row that a dying session still locks
waits for the next one."""
GOVERN_SECONDS = 1.0
"""Shortest pause, in seconds, between two looks at which versions of apps live."""
BROKER_UNAVAILABLE_SECONDS = 2.0
"""How long, in seconds, all announcements wait after some could not be delivered."""
RETRIES_SECONDS = 0.5
"""How long, in seconds, one poll of the retry topic waits for an event."""
LONGEST_GAP = timedelta(seconds=5)
"""Longest gap between two queries in which the orchestrator still counts as having watched."""
BATCH = 1000
"""Most scenarios that are announced at once."""
BATCHES_A_ROUND = 10
"""Most batches of announcements in a round."""


def session_name() -> str:
    """Return the name of this process's sessions, by which `vidan doctor` finds the process."""
    return f"orchestrator {socket.gethostname()[:40]} {os.getpid()}"


class Orchestrator:
    """Runs three steps again and again, each in a thread: announcements, leases, retry events."""

    actor = "orchestrator"

    def __init__(self, settings: Settings) -> None:
        self.stopping = False
        self._settings = settings
        self._lock = threading.Lock()
        self._database: Database | None = None
        self._watched: tuple[datetime, datetime] | None = None  # since when, and the last query
        self._broker = broker.connect(settings)
        self._producer = self._broker.producer()
        self._retries = self._broker.consumer(ORCHESTRATORS_GROUP, [RETRY_TOPIC])
        self._next_housekeeping = 0.0
        self._next_governing = 0.0
        self._unavailable = False  # the database does not answer
        self._undelivered = False  # the last announcements could not be delivered
        self._held_until = 0.0  # nothing is announced before this time (monotonic)
        self._notified = False  # NOTIFY: there is something to announce
        self._refused: UsageError | None = None  # why no round can ever work
        self._breaks = 0  # how often the database has been unavailable so far

    def run(self) -> None:
        """Work until `stopping`: announcements here, leases and the retry topic in threads.

        An announcement waits seconds for an unavailable broker: no lease may wait behind it. Raises
        UsageError if the database's URL leads to a connection pooler.
        """
        listener = Listener(self._settings)
        threads = [
            threading.Thread(target=self._repeat, args=(step, time.sleep), daemon=True)
            for step in (self._expire_leases, self._read_retries)
        ]
        for thread in threads:
            thread.start()
        self._repeat(self._announce_and_keep_house, partial(self._listen, listener))
        for thread in threads:
            thread.join(5)
        listener.close()
        self.close()
        if self._refused is not None:
            raise self._refused

    def close(self) -> None:
        """Close the connections to database and broker."""
        self._retries.close()
        self._producer.close()
        if self._database is not None:
            self._database.close()

    def announce(self) -> int:
        """Announce due scenarios and return how many. A failed announcement becomes due again.

        After a failure nothing is announced for a while, since a long backlog always has more that
        is due. The rest of a very long backlog is left to the next round, after the housekeeping.
        """
        announced = 0
        for _ in range(BATCHES_A_ROUND):
            if self.stopping or self._seconds_held() > 0:
                break
            ids = self._connected().retrying(announcements.take_due, BATCH)
            if not ids:
                break
            failed = self._producer.send(SCENARIOS_TOPIC, ids)
            announced += len(ids) - len(failed)
            if failed:
                self._announce_again(failed)
            elif self._undelivered:
                self._undelivered = False
                log.info("announcements are delivered again")
            if len(ids) < BATCH:
                break
        return announced

    def _seconds_held(self) -> float:
        """Return for how many more seconds nothing is announced."""
        return self._held_until - time.monotonic()

    def _announce_again(self, failed: list[int]) -> None:
        level = logging.DEBUG if self._undelivered else logging.WARNING
        log.log(level, "%d announcements could not be delivered: they wait", len(failed))
        self._undelivered = True
        self._held_until = time.monotonic() + BROKER_UNAVAILABLE_SECONDS
        self._connected().retrying(
            announcements.announce_again, failed, delay=BROKER_UNAVAILABLE_SECONDS
        )

    def fire(self) -> None:
        """Create the scenarios of schedules that are due."""
        for one in self._connected().retrying(schedules.fire, actor=self.actor):
            if one.error is None:
                log.info("schedule %s: scenarios %s", one.name, list(one.ids))
            else:
                log.error("schedule %s: %s", one.name, one.error)

    def expire(self) -> int:
        """Release the scenarios of workers whose lease has ended; return how many."""
        since, any_ended = self._watch()
        if not any_ended:
            return 0
        released = self._connected().retrying(
            expiry.expire, actor=self.actor, connected_since=since
        )
        for one in released:
            with logs.bound(scenario_id=one.id):
                log.warning("scenario %d: %s, now %s", one.id, one.row.reason, one.to_status)
        return len(released)

    def announce_retries(self, timeout: float) -> None:
        """Poll the retry topic and plan announcements. Raises DatabaseUnavailable."""
        received = self._retries.poll(timeout)
        if not received:
            return
        try:
            ids = inbox.scenario_ids(self._connected(), received)
            planned = self._connected().retrying(announcements.plan_retries, ids)
        except DatabaseUnavailable:
            inbox.rewind(self._retries, received)
            raise
        for scenario_id in sorted(set(ids) - planned):
            with logs.bound(scenario_id=scenario_id):
                log.info("scenario %d is not %s: passed over", scenario_id, Status.INIT_STARTUP)
        self._retries.commit(received)

    def govern(self) -> None:
        """Let the highest versions among living workers govern tasks, caps and schedules."""
        if time.monotonic() < self._next_governing:
            return
        self._next_governing = time.monotonic() + GOVERN_SECONDS
        for one in self._connected().retrying(versions.govern):
            log.info("another version governs: %s", one)

    def keep_house(self) -> None:
        """Make partitions ahead and forget workers that are long gone, if it is time to."""
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
                    self._settings.require_database(direct=True),
                    application_name=session_name(),
                    guarded=True,
                    direct=True,
                )
            return self._database

    def _watch(self) -> tuple[datetime, bool]:
        """Return since when the database has answered without a break, and if a lease has ended.

        The time is by the database's clock. An error is a break, and so is a long gap between two
        queries: while its host slept, the orchestrator could not see a worker die.
        """
        breaks = self._breaks
        with self._connected().autocommit() as connection:
            now, any_ended = expiry.any_ended(connection)
        with self._lock:  # a break that another thread has noted meanwhile must not be overwritten
            since, last = (now, now) if breaks != self._breaks else self._watched or (now, now)
            since = now if now - last > LONGEST_GAP else since
            self._watched = (since, now)
            if self._unavailable:
                log.info("the database answers again")
            self._unavailable = False
        return since, any_ended

    def _disconnected(self, error: DatabaseUnavailable) -> None:
        log.log(logging.DEBUG if self._unavailable else logging.WARNING, "%s", error)
        with self._lock:
            self._unavailable = True
            self._watched = None
            self._breaks += 1

    # --- the steps: each returns the seconds to wait until it is repeated

    def _repeat(self, step: Callable[[], float], wait: Callable[[float], None]) -> None:
        while not self.stopping:
            try:
                pause = step()
            except DatabaseUnavailable as error:
                self._disconnected(error)
                pause = ROUND_SECONDS
            except UsageError as error:  # a connection pooler: no later round will do better
                self._refused = error
                self.stopping = True
                break
            except Exception:  # one failed round must not end the rounds
                log.exception("a round failed")
                pause = ROUND_SECONDS
            wait(pause)

    def _announce_and_keep_house(self) -> float:
        if self._notified:
            self.announce()
        with self._connected().autocommit() as connection:  # mostly nothing is due
            schedule = _seconds(schedules.next_due(connection))
            announcement = _seconds(announcements.next_due(connection))
        if announcement <= 0:
            self.announce()
        self._try_to_keep_house()
        self.govern()
        if schedule <= 0:  # last, so that its errors keep nothing else from being done
            self.fire()
        return max(PACE_SECONDS, min(schedule, max(announcement, self._seconds_held())))

    def _try_to_keep_house(self) -> None:
        """Keep house, or try again later: an error here is mostly a locked table, and no break."""
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
        self._notified = listener.wait(seconds)

    def _expire_leases(self) -> float:
        return 0.0 if self.expire() else EXPIRY_SECONDS

    def _read_retries(self) -> float:
        self.announce_retries(timeout=RETRIES_SECONDS)
        return 0.0


def _seconds(due: timedelta | None) -> float:
    return ROUND_SECONDS if due is None else min(ROUND_SECONDS, due.total_seconds())


class Listener:
    """Waits for NOTIFY. Nothing relies on it: without a connection it just waits."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._connection: psycopg.Connection[tuple[object, ...]] | None = None

    def wait(self, seconds: float) -> bool:
        """Wait up to `seconds` for something to announce; return whether there is."""
        try:
            if self._connection is None:
                database = Database(
                    self._settings.require_database(direct=True),
                    application_name="listener",
                    guarded=True,
                    direct=True,
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
    try:
        return serve(settings)
    except UsageError as error:
        log.error("%s; %s", error, error.hint)
        return error.exit_code


if __name__ == "__main__":
    sys.exit(main())
