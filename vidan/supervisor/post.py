"""A post: the place of one worker process. It starts the process, and tells how it ended."""

from __future__ import annotations

import logging
import time
from dataclasses import dataclass
from uuid import UUID

from vidan import logs
from vidan.config import Settings
from vidan.domain.durations import in_words
from vidan.domain.worker import MAX_SLOTS, WorkerOptions
from vidan.processes import lifeline
from vidan.processes.lifeline import Child
from vidan.processes.slotboard import Call, Ended, SlotBoard

log = logging.getLogger("vidan.supervisor")

STDERR = 2

STALL_SECONDS = 60.0
"""Longest time, in seconds, that a call of the decoder or the detector may take; see SlotBoard."""
STALLS = {
    Call.DECODER: "in one call of the decoder",
    Call.DETECTOR: "in one call of the detector",
    Call.PROGRESS: "without run.progress()",
}
SILENT_SECONDS = 12.0
"""A stall is excused while the database has not answered the process for this many seconds."""
STEADY_SECONDS = 10.0
"""A process that lived this many seconds is restarted at once; others after a growing pause."""
RESTART_PAUSE_SECONDS = 5.0
"""Longest pause, in seconds, before a process that has died is started again."""
MAX_FALSE_STARTS = 5
"""After this many early deaths in a row, a post is given up for a while, unless the last process
had registered."""

MALLOC = {
    "MALLOC_MMAP_THRESHOLD_": "1000000000",
    "MALLOC_TRIM_THRESHOLD_": "2000000000",
    "MALLOC_ARENA_MAX": "1",
}
"""Settings of glibc's malloc for workers. PyAV allocates and frees one picture at a time: keeping
them in the heap is 46 % faster at 720p. All threads share one heap: heaps of their own are returned
to the system again and again, which cost the detecting thread up to a tenth of its time, and a
third more memory."""


@dataclass(frozen=True, slots=True)
class EndedFor:
    """The scenario for which the supervisor has ended a process, and why."""

    scenario_id: int
    cause: str


@dataclass(frozen=True, slots=True)
class Exit:
    """How a process has ended, and what its slot board showed then."""

    code: int  # negative: the signal that ended the process; for logs alone
    ended: Ended
    worker_id: UUID | None  # None: the process had not registered
    executing: list[int]  # the scenarios whose code it ran
    ended_for: EndedFor | None
    asked: bool  # whether the supervisor had asked it to end
    lived: float  # seconds

    @property
    def died(self) -> bool:
        """Whether the process did not leave in order, after handing over.

        Its exit code does not tell: a task may end the process in its middle with any code.
        """
        if self.ended in (Ended.LEFT, Ended.RETIRED):
            return False
        # asked to end before it had registered, it had not begun anything
        return not (self.asked and self.worker_id is None)

    @property
    def by_its_app(self) -> bool:
        """Whether its app's module ended the process when it was imported, as `os._exit` does."""
        return self.ended is Ended.LOADING and self.code >= 0

    def in_words(self, app: str | None) -> str:
        """Describe for the log how it ended."""
        if self.ended is Ended.LOADING:
            return f"while it imported --app {app}: {lifeline.death(self.code)}"
        return f"with {self.code}"


@dataclass(slots=True)
class Post:
    """A place for a worker process: its options, and the process that fills it now."""

    options: WorkerOptions
    child: Child | None = None
    board: SlotBoard | None = None
    asked: bool = False  # whether the child was asked to end
    ended_for: EndedFor | None = None  # set once the child was killed for a scenario
    started: float = 0.0
    deaths: int = 0  # of processes in a row that died soon after their start
    given_up: bool = False  # the last processes could not even register
    not_before: float = 0.0
    last_worker_id: UUID | None = None  # the last registration of an earlier process
    retired: bool = False  # the worker was drained or stopped
    slots: int = 0  # how many slots the earlier process had at last

    @property
    def hopeless(self) -> bool:
        """Whether the post was given up, and its present process has not registered either."""
        return self.given_up and (self.board is None or self.board.worker_id is None)

    @property
    def idle(self) -> bool:
        """Whether its process has registered and runs no scenario."""
        board = self.board
        return board is not None and board.worker_id is not None and not board.executing()

    @property
    def worker_id(self) -> UUID | None:
        """The newest registration of a process at this post."""
        return (self.board and self.board.worker_id) or self.last_worker_id

    def count(self) -> int:
        """Return how many slots its worker has: as users scaled it, else as it was started."""
        before = self.slots or self.options.slots
        if self.board is None or self.board.worker_id is None:
            return before  # a new process learns its number of slots when it registers
        return self.board.in_use or before

    def start(self, settings: Settings) -> None:
        """Start a process unless there is one, its worker is retired, or it is too early."""
        if self.child is not None or self.retired or time.monotonic() < self.not_before:
            return
        environment = {**settings.environment(), **MALLOC}
        if self.options.threads is not None:
            environment["OMP_NUM_THREADS"] = str(self.options.threads)
        arguments = ["--options", self.options.to_json()]
        if self.last_worker_id is not None:
            arguments += ["--replaces", str(self.last_worker_id)]
        board: SlotBoard | None = None
        try:
            board = SlotBoard.create(MAX_SLOTS)
            arguments += ["--board", str(board.fd)]
            self.child = lifeline.spawn(
                "vidan.worker",
                arguments,
                env=environment,
                pass_fds=[board.fd],
                stdout=STDERR,  # stdout carries data only: what an app prints is none
            )
        except OSError as error:  # too many processes or open files: the other workers continue
            log.error("worker %s can't be started: %s", self.options.name, error)
            if board is not None:
                board.close()
            self.not_before = time.monotonic() + RESTART_PAUSE_SECONDS
            return
        self.board = board
        self.asked = False
        self.started = time.monotonic()

    def ask_to_end(self) -> None:
        """Ask the process to end, once: a second signal could hit its last, unprotected steps."""
        if self.child is not None and not self.asked:
            self.asked = True
            self.child.terminate()

    def collect(self) -> Exit | None:
        """Empty the post and return how its process has ended; None while the process runs."""
        if self.child is None or self.board is None or (code := self.child.poll()) is None:
            return None
        lived = time.monotonic() - self.started
        board = self.board
        ended = Exit(
            code=code,
            ended=board.ended,
            worker_id=board.worker_id,
            executing=board.executing(),
            ended_for=self.ended_for,
            asked=self.asked,
            lived=lived,
        )
        self.slots = self.count()
        self.last_worker_id = self.worker_id
        self.child.close()
        board.close()
        self.child = self.board = self.ended_for = None
        self.retired = ended.ended is Ended.RETIRED
        return ended

    def plan_restart(self, ended: Exit) -> bool:
        """Set when to start a process again after a death. Returns whether to give the post up."""
        self.deaths = 0 if ended.lived > STEADY_SECONDS else self.deaths + 1
        self.given_up = False
        pause = min(RESTART_PAUSE_SECONDS, 0.1 * 2**self.deaths) if self.deaths > 1 else 0.0
        self.not_before = time.monotonic() + pause
        if ended.worker_id is not None:
            return False
        hopeless = ended.ended is Ended.HOPELESS or ended.by_its_app
        return hopeless or self.deaths >= MAX_FALSE_STARTS

    def give_up_for(self, seconds: float) -> None:
        """Start no process for a while, since none can register."""
        log.error("worker %s can't be started: again in %.0f s", self.options.name, seconds)
        self.not_before = time.monotonic() + seconds

    def end_stuck(self, *, stalls: bool) -> None:
        """Kill the process for a scenario that is over its time limit or, with `stalls`, stalled.

        A stall is excused while the database is silent, since the call may wait for it. A time
        limit is by the wall clock alone: code that lets no other thread run keeps the heartbeat of
        its process silent as well.
        """
        if self.child is None or self.board is None or self.ended_for:
            return
        if (overdue := self.board.overdue()) is not None:
            scenario_id, limit = overdue
            self._kill_for(scenario_id, f"it ran over its time limit of {in_words(limit)}")
            return
        stalled = self.board.stalled(STALL_SECONDS) if stalls else None
        if stalled is None or self.board.database_silent_for() > SILENT_SECONDS:
            return
        scenario_id, call = stalled
        self._kill_for(scenario_id, f"it stalled: over {STALL_SECONDS:.0f} s {STALLS[call]}")

    def _kill_for(self, scenario_id: int, cause: str) -> None:
        """Kill the process for one scenario, which alone is charged once the process is reaped."""
        assert self.child is not None
        assert self.board is not None
        with logs.bound(scenario_id=scenario_id, worker_id=self.board.worker_id):
            log.error("%s: ending its process", cause)
        self.ended_for = EndedFor(scenario_id, cause)
        self.child.kill()  # reaped later: a process that is stuck in the kernel takes long to end


@dataclass(slots=True)
class Release:
    """The lease of a reaped process, which has to be given up, and the scenarios to charge."""

    post: Post
    worker_id: UUID
    executing: list[int]
    cause: str
