"""A worker's lease: one registration, renewed by a heartbeat thread until it ends."""

from __future__ import annotations

import logging
import os
import socket
import threading
import time
import uuid
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from uuid import UUID

from sqlalchemy import Connection, text

from vidan import logs
from vidan.db.session import Database
from vidan.domain.status import DesiredState
from vidan.domain.worker import LEASE_SECONDS, MAX_SLOTS, RENEW_SECONDS, WorkerOptions
from vidan.errors import VidanError
from vidan.processes.slotboard import SlotBoard
from vidan.protocol import heartbeats
from vidan.protocol.heartbeats import Held

log = logging.getLogger("vidan.lease")

MARGIN_SECONDS = 2.0
"""How long, in seconds, before its end in the database a worker counts its lease as ended."""
RETRY_SECONDS = 0.5
"""Pause, in seconds, between two attempts to renew while the database does not answer."""
CLOCK_SECONDS = 0.25
"""How often, in seconds, the worker checks the lease by its own clock."""

BEATS_A_COUNT = 6
"""One heartbeat in this many also counts the live workers. The count reads a row per worker, and
only the interval of the sweeps needs it."""

_CLOCK = getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)
"""This clock runs on while the host sleeps, as the clock of a database on another host does."""


@dataclass(frozen=True, slots=True)
class Measured:
    """What a heartbeat reports. `slots` is the present number; None keeps the registered one."""

    state: str
    fps: float
    slots: int | None = None


def clock() -> float:
    """Return the time, in seconds, by which a worker measures its lease."""
    return time.clock_gettime(_CLOCK)


class Lease:
    """One registration of a worker process, under an id and with database sessions of its own.

    The heartbeat has a connection of its own, so it works even if the server accepts no new
    connection. It does not wait for the server's disk, so a crash of the server may undo the last
    heartbeat: the lease then ends five seconds sooner in the database than here. If the server is
    down until that moment, another worker may claim a scenario before its run here has noticed; the
    epoch then keeps this run from storing anything.

    The heartbeat calls `on_beat` with the rows that the worker holds and the time (monotonic) at
    which the heartbeat was sent. `on_end` is called once the lease has ended, whether the database
    or the worker's own clock says so. `replaces` is the registration that this one follows.
    """

    def __init__(
        self,
        url: str,
        options: WorkerOptions,
        tasks: Sequence[str],
        board: SlotBoard | None,
        *,
        on_beat: Callable[[list[Held], float], None],
        on_end: Callable[[], None],
        measure: Callable[[], Measured],
        replaces: UUID | None = None,
    ) -> None:
        self.versions: tuple[int, ...] = ()
        """The numbers of the apps' versions that the worker runs, set before it begins."""
        self.worker_id: UUID = uuid.uuid4()
        self.database = Database(
            url,
            application_name=str(self.worker_id),
            guarded=True,
            direct=True,
            pool_size=MAX_SLOTS + 3,
        )
        self._pulse = Database(
            url,
            application_name=str(self.worker_id),
            guarded=True,
            direct=True,
            pool_size=1,
            durable=False,
        )
        self.live_workers = 1
        self._beats = 0
        self.desired = DesiredState.RUNNING
        """The state that users want the worker in, as of the last heartbeat."""
        self.desired_slots: int | None = None
        """How many slots users want the worker to have; None: as many as it was started with."""
        self._replaces = replaces
        self._options = options
        self._tasks = tuple(tasks)
        self._board = board
        self._on_beat = on_beat
        self._on_end = on_end
        self._measure = measure
        self._stop = threading.Event()
        self._ended = threading.Event()
        self._until = 0.0  # by `clock`
        self._ending = threading.Lock()
        self._threads = [
            threading.Thread(target=self._renew_always, name="heartbeat", daemon=True),
            threading.Thread(target=self._watch_clock, name="lease-clock", daemon=True),
        ]

    @property
    def ended(self) -> bool:
        """Whether the lease has ended: other workers may claim what this registration held."""
        return self._ended.is_set()

    def begin(self, also: Callable[[Connection], object] | None = None) -> None:
        """Register, and renew the lease from now on. Raises DatabaseUnavailable.

        `also` is called in the transaction that registers the worker.
        """
        sent = clock()
        registration = heartbeats.Registration(
            worker_id=self.worker_id,
            name=self._options.name,
            host=socket.gethostname(),
            pid=os.getpid(),
            device=self._options.device,
            slots=self._options.slots,
            queues=self._options.queues,
            tasks=self._tasks,
            source=self._options.source,
            quarantine=self._options.quarantine,
            replaces=self._replaces,
            versions=self.versions,
        )
        before = None if self._board is None else self._board.worker_id
        self._show(self.worker_id)  # first: this process may die just after it has registered
        logs.identify(self.worker_id)
        try:
            with self._pulse.begin() as connection:
                connection.execute(text("SET LOCAL synchronous_commit = on"))
                asked = heartbeats.register(connection, registration)
                if also is not None:
                    also(connection)
        except BaseException:
            self._show(before)  # the registration that the next one replaces
            raise
        self.desired, self.desired_slots = asked.state, asked.slots
        self._renewed(sent)
        for thread in self._threads:
            thread.start()

    def _show(self, worker_id: UUID | None) -> None:
        """Show the supervisor under which id this process is registered."""
        if self._board is not None:
            self._board.worker_id = worker_id

    def give_up(self) -> None:
        """End the lease in the database; if that is unavailable, only log it. Close the sessions.

        A lease that has ended by the worker's clock is ended too, since a late renewal may have
        arrived.
        """
        self._stop.set()
        for thread in self._threads:
            if thread.is_alive():
                thread.join()
        try:
            with self._pulse.begin() as connection:
                heartbeats.sign_off(connection, self.worker_id)
        except VidanError as error:
            log.warning("could not sign off: %s", error)
        self.close()

    def close(self) -> None:
        """Close the database sessions."""
        self._pulse.close()
        self.database.close()

    def _renew_always(self) -> None:
        pause = RENEW_SECONDS
        while not self._stop.wait(pause) and not self.ended:
            began, pause = clock(), RETRY_SECONDS
            try:
                if self._beat():
                    pause = max(pause, began + RENEW_SECONDS - clock())
                else:
                    self._end()
            except VidanError as error:
                log.warning("heartbeat: %s", error)
            except Exception:  # an unforeseen error must not stop the heartbeats
                log.exception("heartbeat failed")

    def _watch_clock(self) -> None:
        # in its own thread, because the heartbeat may hang in the database
        while not self._stop.wait(CLOCK_SECONDS) and not self.ended:
            if clock() > self._until - MARGIN_SECONDS:
                self._end()

    def _beat(self) -> bool:
        """Renew the lease and report the held rows. Returns False once the lease has ended."""
        sent, at = time.monotonic(), clock()
        measured = self._measure()
        count = self._beats % BEATS_A_COUNT == 0
        with self._pulse.autocommit() as connection:
            beat = heartbeats.beat(
                connection,
                self.worker_id,
                state=measured.state,
                fps=measured.fps,
                slots=measured.slots,
                count=count,
            )
        if beat is None:
            return False
        self._beats += 1
        self._renewed(at)
        if beat.live is not None:
            self.live_workers = beat.live
        self.desired, self.desired_slots = beat.desired, beat.slots
        self._on_beat(beat.held, sent)
        return True

    def _renewed(self, sent: float) -> None:
        # counted from before the statement was sent: the lease does not end sooner in the database
        self._until = sent + LEASE_SECONDS
        if self._board is not None:
            self._board.database_answered()

    def _end(self) -> None:
        with self._ending:
            if self.ended:
                return
            self._ended.set()
        log.warning("the lease of %s has ended", self.worker_id)
        self._on_end()
