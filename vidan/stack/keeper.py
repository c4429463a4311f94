"""The keeper: a detached process, one for each home, that owns the embedded stack's services.

The first process that joins starts `python -m vidan.stack.keeper`. While there are full members,
the keeper keeps PostgreSQL, broker and orchestrator running, and restarts a service that was
killed. While there are only readers, it keeps PostgreSQL alone. When no member is left, it stops
all services in order and ends. Members are known by file locks, so one killed with -9 has left too.
"""

from __future__ import annotations

import logging
import os
import signal
import sys
import time
from collections.abc import Callable, Sequence
from enum import Enum, auto
from pathlib import Path

from vidan import config, logs
from vidan.errors import DatabaseUnavailable, VidanError
from vidan.processes import lifeline
from vidan.stack.postgres import PostgresServer
from vidan.stack.tended import ModuleProcess, Tended
from vidan.stack_state import (
    KEEPER_LOCK,
    LOG_FOLDER,
    MEMBERS_LOCK,
    READERS_LOCK,
    STATE_FILE,
    FileLock,
    StackState,
    clear_failure,
    has_failure,
    is_held,
    write_failure,
    write_state,
)

TICK_SECONDS = 0.1
"""Seconds between two rounds of the keeper."""
GRACE_SECONDS = 1.0
"""Seconds that PostgreSQL runs on after the last reader has left: another may come soon."""

_log = logging.getLogger("vidan.keeper")


class Need(Enum):
    """Which services the members need."""

    NOTHING = auto()
    DATABASE = auto()
    ALL = auto()


class Keeper:
    """The services of one home, while members need them. The caller holds the keeper's lock."""

    def __init__(self, settings: config.Settings) -> None:
        self.home = settings.home
        self.stopping = False
        folder = self.home / LOG_FOLDER
        for stale in self.home.glob("broker-*.address"):
            stale.unlink(missing_ok=True)
        # Named by process id: the broker of a dead keeper, while it ends, can't remove this file.
        self._address_file = self.home / f"broker-{os.getpid()}.address"
        self._server = PostgresServer(self.home / "postgres", folder / "postgres.log")
        self._database = Tended("postgres", self._server)
        environment = settings.environment()
        self._broker = Tended(
            "broker",
            ModuleProcess(
                "vidan.broker.embedded",
                ["--address-file", str(self._address_file)],
                environment,
                folder / "broker.log",
                patience=3,
            ),
        )
        self._orchestrator = Tended(
            "orchestrator",
            ModuleProcess(
                "vidan.orchestrator", [], environment, folder / "orchestrator.log", patience=5
            ),
        )
        self._state: StackState | None = None
        self._reported: str | None = None
        self._last_need = Need.NOTHING
        self._idle_since: float | None = None
        self._locks_held: list[FileLock] = []
        """Locks that keep new members out while the keeper ends."""

    def run(self) -> None:
        """Keep the services until no member needs one or a signal comes. Raises VidanError."""
        try:
            self.start()
            while not self.stopping:
                self.run_once()
                time.sleep(TICK_SECONDS)
        finally:
            self.stop()

    def start(self) -> None:
        """Start PostgreSQL and bring its schema up to date. Raises VidanError."""
        if self._need() is Need.ALL:
            self._broker.tend()  # it starts while PostgreSQL starts
        self._database.start()
        self._upgrade()

    def run_once(self) -> None:
        """Do one round: find out what the members need, and tend each service."""
        need = self._need()
        if need is Need.NOTHING:
            self._leave_if_idle()
            return
        self._idle_since = None
        self._last_need = need
        self._database.tend()
        if need is Need.ALL:
            self._broker.tend()
            if self._broker.process.poll() is not None:
                self._address_file.unlink(missing_ok=True)  # it comes back on another port
            self._orchestrator.tend()
        else:
            self._stop_all_but_database()
        self._publish(need)

    def stop(self) -> None:
        """Stop all services, each one before the services that it uses."""
        (self.home / STATE_FILE).unlink(missing_ok=True)
        self._stop_all_but_database()
        self._database.stop()

    def _need(self) -> Need:
        if is_held(self.home / MEMBERS_LOCK):
            return Need.ALL
        return Need.DATABASE if is_held(self.home / READERS_LOCK) else Need.NOTHING

    def _leave_if_idle(self) -> None:
        """Stop once no member was there for the grace time, and let no member in after that."""
        now = time.monotonic()
        if self._idle_since is None:
            self._idle_since = now
        grace = GRACE_SECONDS if self._last_need is Need.DATABASE else 0
        if now - self._idle_since < grace:
            return
        for name in (MEMBERS_LOCK, READERS_LOCK):
            lock = FileLock(self.home / name)
            if not lock.acquire(shared=False):
                for held in self._locks_held:
                    held.release()
                self._locks_held.clear()
                return
            self._locks_held.append(lock)  # until this process ends
        self.stopping = True

    def _stop_all_but_database(self) -> None:
        self._orchestrator.stop()
        self._broker.stop()
        self._address_file.unlink(missing_ok=True)

    def _publish(self, need: Need) -> None:
        """Write the state file if the state has changed."""
        services = (self._database, self._broker, self._orchestrator)
        pids = {s.name: pid for s in services if (pid := s.pid) is not None}
        state = StackState(
            keeper_pid=os.getpid(),
            database_url=self._server.url,
            complete=need is Need.ALL and self._address_file.exists() and "orchestrator" in pids,
            pids=pids,
            address_file=str(self._address_file),
        )
        if state != self._state:
            write_state(self.home, state)
            self._state = state
        self._report_trouble(services)

    def _report_trouble(self, services: Sequence[Tended]) -> None:
        """Write down, for the members that wait, which service does not stay up."""
        for service in services:
            trouble = service.trouble()
            if trouble is not None and trouble != self._reported:
                self._reported = trouble
                log = self.home / LOG_FOLDER / f"{service.name}.log"
                write_failure(self.home, VidanError(trouble, hint=f"see {log}"))

    def _upgrade(self) -> None:
        """Bring the schema up to date in a child process, so that the keeper stays small.

        Raises VidanError; the child has written the error down.
        """
        child = lifeline.spawn("vidan.stack.keeper", ["--upgrade", self._server.url])
        code = child.wait()
        child.close()
        if code:
            raise SchemaNotUpgraded(f"the upgrade of the schema ended with exit code {code}")


class SchemaNotUpgraded(DatabaseUnavailable):
    """The child that upgrades the schema failed."""


def upgrade(url: str) -> None:
    """Bring a database's schema up to date. Raises VidanError."""
    from vidan.db import schema

    if schema.current(url) != schema.HEAD:  # without loading Alembic
        schema.upgrade(url)


def main(arguments: Sequence[str]) -> int:
    """Run the keeper of VIDAN_HOME, or with `--upgrade URL` only upgrade a schema."""
    settings = config.load()
    logs.configure(settings, "keeper")
    if list(arguments[:1]) == ["--upgrade"]:
        lifeline.watch(lambda: os._exit(1))
        return _reporting(settings.home, lambda: upgrade(arguments[1]))
    lock = FileLock(settings.home / KEEPER_LOCK)
    if not _acquire(lock):
        return 0  # another keeper runs
    (settings.home / STATE_FILE).unlink(missing_ok=True)  # left by a dead keeper
    clear_failure(settings.home)
    keeper = Keeper(settings)

    def stop(_number: int, _frame: object) -> None:
        keeper.stopping = True

    signal.signal(signal.SIGTERM, stop)
    signal.signal(signal.SIGINT, stop)
    _log.info("keeping %s", settings.home)
    return _reporting(settings.home, keeper.run)


def _reporting(home: Path, work: Callable[[], None]) -> int:
    """Do `work`; write an error down where the members that wait for the stack find it."""
    try:
        work()
    except SchemaNotUpgraded as error:
        if not has_failure(home):  # mostly the child has written a better one
            write_failure(home, error)
        return 1
    except VidanError as error:
        write_failure(home, error)
        return 1
    except Exception as error:
        _log.exception("unexpected")
        line = " ".join(f"{type(error).__name__}: {error}".split())
        hint = f"see {home / LOG_FOLDER / 'keeper.log'}"
        write_failure(home, VidanError(f"the embedded stack ended unexpectedly: {line}", hint=hint))
        return 1
    return 0


def _acquire(lock: FileLock) -> bool:
    """Take the keeper's lock; try for a second, as processes that test the lock hold it briefly."""
    deadline = time.monotonic() + 1
    while not lock.acquire(shared=False):
        if time.monotonic() > deadline:
            return False
        time.sleep(0.02)
    return True


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
