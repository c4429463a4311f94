"""Carries the injuries out, and notes what each one hit and when it was over."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import psycopg

from tests.chaos.schedule import Injury, Kind
from tests.chaos.world import World
from tests.support.proxy import Transaction
from vidan.db.session import Database
from vidan.domain.status import RUNNING, Status
from vidan.errors import NotAllowedError, VidanError
from vidan.services import scenarios, steering

ANSWER_PATIENCE = 8.0
"""Longest time, in seconds, to wait for a COMMIT whose answer is to be cut off."""
STOP_PATIENCE = 30.0
"""Longest time, in seconds, to try to start a scenario that was stopped."""

ANSWERS = {
    Kind.COMMIT_ANSWER: Transaction.COMMIT,
    Kind.CLAIM_ANSWER: Transaction.CLAIM,
    Kind.ENDING_ANSWER: Transaction.ENDING,
}


@dataclass
class Done:
    """An injury that was carried out. Times are time.time(), the clock of the database as well."""

    injury: Injury
    at: float
    victim: str = ""  # the name of what it hit
    returned: float | None = None  # when a lasting injury was over
    hits: list[int] = field(default_factory=list)  # the scenarios that it hit
    free: bool = False  # other workers had free slots for all of them
    missed: bool = False  # it found no target

    def as_json(self) -> dict[str, Any]:
        """Return what --json writes."""
        return {
            "number": self.injury.number,
            "kind": str(self.injury.kind),
            "at": self.at,
            "victim": self.victim,
            "returned": self.returned,
            "hits": self.hits,
            "missed": self.missed,
        }


class Surgeon:
    """Injures a world. Stopped workers and the requests of users last on in the background."""

    def __init__(self, world: World, database: Database) -> None:
        self.done: list[Done] = []
        self.stopped: set[int] = set()
        """Scenarios that a user has stopped and not started again."""
        self._world = world
        self._database = database
        self._lasting: list[threading.Thread] = []
        self._over = threading.Event()

    def injure(self, injury: Injury) -> None:
        """Carry out an injury; returns when it is over, or lasts on in the background."""
        match injury.kind:
            case Kind.WORKER_KILLED:
                self._kill_worker(injury)
            case Kind.WORKER_STOPPED:
                self._stop_worker(injury)
            case Kind.SUPERVISOR_KILLED | Kind.SUPERVISOR_TERMINATED:
                self._end_supervisor(injury)
            case Kind.ORCHESTRATOR_KILLED:
                done = self._note(injury, [])
                done.victim = self._world.fleet.signal_service(
                    "orchestrator", injury.victim, signal.SIGKILL
                )
            case Kind.BROKER_RESTARTED | Kind.BROKER_KILLED:
                self._restart_broker(injury)
            case (
                Kind.DATABASE_FAST
                | Kind.DATABASE_IMMEDIATE
                | Kind.DATABASE_LONG
                | Kind.KILLED_WHILE_AWAY
            ):
                self._restart_database(injury)
            case Kind.CONNECTIONS_FULL:
                self._fill_connections(injury)
            case Kind.COMMIT_ANSWER | Kind.CLAIM_ANSWER | Kind.ENDING_ANSWER:
                self._cut_answer(injury)
            case Kind.USER_STOP | Kind.USER_STOP_START:
                self._stop_scenario(injury)

    def settle(self) -> None:
        """Wait until the injuries in the background are over."""
        for thread in self._lasting:
            thread.join()

    def hurry(self) -> None:
        """End the injuries in the background now."""
        self._over.set()
        self.settle()

    # --- processes

    def _kill_worker(self, injury: Injury) -> None:
        pid, hits = self._busy(injury)
        if pid is None:
            self._missed(injury)
            return
        done = self._note(injury, hits, hits[0]["name"])
        suspect = any(
            row["crashes"] for row in hits
        )  # it may have to wait for a process of its own
        done.free = self._room(pid) >= len(hits) and not suspect
        done.at = time.time()
        _kill(pid)

    def _busy(self, injury: Injury) -> tuple[int | None, list[Mapping[str, Any]]]:
        """Choose a worker that holds scenarios; returns its process and these scenarios."""
        held, workers = self._world.held(), self._world.fleet.workers()
        busy = sorted({row["pid"] for row in held if row["pid"] in workers})
        if not busy:
            return None, []
        pid = busy[injury.victim % len(busy)]
        return pid, [row for row in held if row["pid"] == pid]

    def _room(self, dying: int) -> int:
        """How many more scenarios the other workers could take at once."""
        (found,) = self._world.rows(
            "SELECT coalesce(sum(w.slots - (SELECT count(*) FROM scenarios s"
            " WHERE s.worker_id = w.id)), 0) AS room FROM workers w WHERE w.lease_until > now()"
            " AND NOT w.quarantine AND w.pid <> %(pid)s AND w.pid = ANY(%(running)s)",
            pid=dying,
            running=list(self._world.fleet.workers()),
        )
        return int(found["room"])

    def _stop_worker(self, injury: Injury) -> None:
        pid, hits = self._busy(injury)
        if pid is None or len(self._world.fleet.workers()) < 3:  # others must continue
            self._missed(injury)
            return
        done = self._note(injury, hits, hits[0]["name"])
        self._world.fleet.stop_worker(pid, done.victim)

        def wake() -> None:
            self._over.wait(injury.seconds)
            done.returned = time.time()
            self._world.fleet.wake_worker(pid)

        self._last(wake)

    def _end_supervisor(self, injury: Injury) -> None:
        held, workers = self._world.held(), self._world.fleet.workers()
        number = signal.SIGKILL if injury.kind is Kind.SUPERVISOR_KILLED else signal.SIGTERM
        done = self._note(injury, [])
        done.victim = self._world.fleet.signal_service("supervisor", injury.victim, number)
        mine = {pid for pid, name in workers.items() if name == done.victim}
        done.hits = [row["id"] for row in held if row["pid"] in mine]

    # --- servers

    def _restart_broker(self, injury: Injury) -> None:
        done = self._note(injury, self._world.held(), self._world.broker_kind)
        if injury.kind is Kind.BROKER_KILLED:
            self._world.broker.kill()
        else:
            self._world.broker.stop()
        time.sleep(injury.seconds)
        self._world.broker.start()
        done.returned = time.time()

    def _restart_database(self, injury: Injury) -> None:
        pid, hits = self._busy(injury) if injury.kind is Kind.KILLED_WHILE_AWAY else (None, [])
        held = self._world.held()
        done = self._note(injury, hits or held, hits[0]["name"] if hits else "postgres")
        fast = injury.kind is Kind.DATABASE_FAST
        self._world.stop_database(signal.SIGINT if fast else signal.SIGQUIT)
        if pid is not None:
            _kill(pid)
        time.sleep(injury.seconds)
        self._world.postgres.start()
        done.returned = time.time()

    def _fill_connections(self, injury: Injury) -> None:
        """Take all free connections, then end the other sessions and take theirs."""
        url = self._world.postgres.url
        done = self._note(injury, self._world.held(), "postgres")
        taken: list[psycopg.Connection[Any]] = []
        try:
            until = time.monotonic() + injury.seconds
            ended = False
            while time.monotonic() < until:
                try:
                    taken.append(psycopg.connect(url, autocommit=True, application_name="filler"))
                    continue
                except psycopg.OperationalError:
                    pass
                if not ended and taken:
                    taken[0].execute(
                        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE"
                        " backend_type = 'client backend' AND application_name <> 'filler'"
                    )
                    ended = True
                time.sleep(0.005)
        finally:
            for connection in taken:
                connection.close()
        done.returned = time.time()

    def _cut_answer(self, injury: Injury) -> None:
        found = self._world.proxy.cut_next(ANSWERS[injury.kind], ANSWER_PATIENCE)
        if found is None:
            self._missed(injury)
            return
        at, worker_id = found
        held = self._world.rows(
            "SELECT s.id, w.name FROM scenarios s JOIN workers w ON w.id = s.worker_id"
            " WHERE CAST(w.id AS text) = %(id)s",
            id=worker_id,
        )
        done = self._note(injury, held, held[0]["name"] if held else worker_id)
        done.at = at

    # --- users

    def _stop_scenario(self, injury: Injury) -> None:
        running = [row for row in self._world.held() if Status(row["status"]) in RUNNING]
        running = [row for row in running if row["id"] not in self.stopped]
        if not running:
            self._missed(injury)
            return
        chosen = running[injury.victim % len(running)]
        scenario_id = int(chosen["id"])
        done = self._note(injury, [chosen], f"scenario {scenario_id}")
        try:
            with self._database.begin() as connection:
                steering.stop(connection, scenario_id)
        except NotAllowedError:  # the scenario ended meanwhile
            done.missed = True
            return
        self.stopped.add(scenario_id)
        if injury.kind is Kind.USER_STOP:
            return

        def start() -> None:
            for _ in _every(0.2, STOP_PATIENCE):
                # an error: it is still stopping, or the database is unavailable
                with contextlib.suppress(VidanError), self._database.begin() as connection:
                    if scenarios.get(connection, scenario_id).status is not Status.COMPLETED:
                        steering.start(connection, scenario_id)
                        done.returned = time.time()
                    self.stopped.discard(scenario_id)
                    return

        self._last(start)

    # --- notes

    def _note(self, injury: Injury, hits: list[Mapping[str, Any]], victim: str = "") -> Done:
        done = Done(injury, time.time(), victim, hits=[int(row["id"]) for row in hits])
        self.done.append(done)
        return done

    def _missed(self, injury: Injury) -> None:
        self.done.append(Done(injury, time.time(), missed=True))

    def _last(self, work: Callable[[], None]) -> None:
        thread = threading.Thread(target=work, name="injury", daemon=True)
        self._lasting.append(thread)
        thread.start()


def _kill(pid: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)


def _every(pause: float, seconds: float) -> Iterator[None]:
    """Yield again and again, with pauses, for this many seconds."""
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        yield
        time.sleep(pause)
