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

from sqlalchemy import text

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
"""A worker that can't renew takes its lease as ended so long before the database does."""
RETRY_SECONDS = 0.5
"""How often it tries again while it can't renew."""
CLOCK_SECONDS = 0.25
"""How often it looks at its own clock."""

BEATS_A_COUNT = 6
"""With each so manieth heartbeat the workers are counted: that reads a thousand rows of a thousand
workers, for nothing but the pace of the sweeps."""

_CLOCK = getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)
"""It goes on while the host sleeps, as the database's clock does elsewhere."""


@dataclass(frozen=True, slots=True)
class Measured:
    """What a heartbeat tells of the worker; `slots` as they are now, None: as registered."""

    state: str
    fps: float
    slots: int | None = None


def clock() -> float:
    """Return the seconds by which a worker counts its lease."""
    return time.clock_gettime(_CLOCK)


class Lease:
    """One registration of a worker process, under an id and with database sessions of its own.

    The heartbeat has a connection to itself: it waits for none when the server has no more to give,
    nor for its disk. A crash of the server may take the last heartbeat with it, so that the lease
    ends five seconds sooner there than here: one that is away until then may give a scenario to
    another worker while its run here has not noticed yet. Nothing of that run is stored any more.

    The heartbeat calls `on_beat` with the rows that the worker holds and the time (monotonic) at
    which it was sent; `on_end` once the lease has ended, by the worker's own clock if need be.
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
        former: UUID | None = None,
    ) -> None:
        self.worker_id: UUID = uuid.uuid4()
        self.database = Database(
            url,
            application_name=str(self.worker_id),
            guarded=True,
            pool_size=MAX_SLOTS + 3,
        )
        self._pulse = Database(
            url,
            application_name=str(self.worker_id),
            guarded=True,
            pool_size=1,
            durable=False,
        )
        self.live_workers = 1
        self._beats = 0
        self.desired = DesiredState.RUNNING
        """What is asked of the worker, as of the last heartbeat."""
        self.desired_slots: int | None = None
        """How many slots it is asked to have; None: as it was started."""
        self._former = former
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
        """Whether the lease has ended: what this registration held is others' now."""
        return self._ended.is_set()

    def begin(self) -> None:
        """Register, and renew from now on. Raises DatabaseUnavailable."""
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
            replaces=self._former,
        )
        before = None if self._board is None else self._board.worker_id
        self._show(self.worker_id)  # a process that ends in between may have registered
        logs.identify(self.worker_id)
        try:
            with self._pulse.begin() as connection:
                connection.execute(text("SET LOCAL synchronous_commit = on"))
                asked = heartbeats.register(connection, registration)
        except BaseException:
            self._show(before)  # which the next one follows
            raise
        self.desired, self.desired_slots = asked.state, asked.slots
        self._renewed(sent)
        for thread in self._threads:
            thread.start()

    def _show(self, worker_id: UUID | None) -> None:
        if self._board is not None:
            self._board.worker_id = worker_id

    def give_up(self) -> None:
        """Sign off: the worker holds nothing any more. The database may be away.

        Also one whose lease has ended by its own clock: a renewal on its way may have landed since.
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
        """Close the sessions."""
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
            except Exception:  # an unforeseen error must not leave a worker without heartbeats
                log.exception("heartbeat failed")

    def _watch_clock(self) -> None:
        # a thread of its own: the heartbeat may hang in the database
        while not self._stop.wait(CLOCK_SECONDS) and not self.ended:
            if clock() > self._until - MARGIN_SECONDS:
                self._end()

    def _beat(self) -> bool:
        """Renew and compare. Returns False once the lease has ended."""
        sent, at = time.monotonic(), clock()
        found = self._measure()
        count = self._beats % BEATS_A_COUNT == 0
        with self._pulse.autocommit() as connection:
            beat = heartbeats.beat(
                connection,
                self.worker_id,
                state=found.state,
                fps=found.fps,
                slots=found.slots,
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
        # counted from before the statement was sent: never later than by the database's clock
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
