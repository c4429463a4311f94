"""The slots of a worker: threads that run claimed scenarios, and the runs that wait for a slot."""

from __future__ import annotations

import itertools
import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager, suppress
from dataclasses import dataclass, field

from vidan import logs
from vidan.errors import HandOver, RunInterrupted
from vidan.processes.slotboard import SlotBoard
from vidan.protocol.claims import Claimed
from vidan.protocol.fences import Fence
from vidan.run.control import RunControl
from vidan.worker.execution import Outcome, escaped

log = logging.getLogger("vidan.worker")


@dataclass(slots=True)
class ClaimedRun:
    """A scenario that this worker has claimed, until it is handed over or its outcome written."""

    claimed: Claimed
    control: RunControl = field(default_factory=RunControl)
    since: float = field(default_factory=time.monotonic)
    frames: int = 0
    """How many frames the run has handed to its committer, in this process."""
    progressed: bool = False
    """Whether a commit has stored the run's progress in this process."""

    @property
    def id(self) -> int:
        """The scenario's id."""
        return self.claimed.fence.scenario_id

    @property
    def suspect(self) -> bool:
        """Whether the scenario may have killed processes and has made no progress here since."""
        return self.claimed.crashes > 1 and not self.progressed

    def note_progress(self, *, quarantine: bool) -> None:
        """Note that the run has made progress. In quarantine it makes room for the next suspect."""
        self.progressed = True
        if quarantine:
            self.control.interrupt(HandOver("cleared of suspicion"))

    def log_context(self) -> AbstractContextManager[None]:
        """Attach scenario, epoch and worker to every line that is logged inside of the block."""
        fence = self.claimed.fence
        return logs.bound(
            scenario_id=fence.scenario_id, epoch=fence.epoch, worker_id=fence.worker_id
        )


class Slots:
    """Executes claimed runs, `count` at once, each with `execute(run, slot)` in a thread.

    `ended` is set whenever a run has ended, and so is `few_waiting` if at most `few` runs then
    wait for a slot. After `count` was lowered, there are more threads for a while
    (`thread_count`); none of them begins a run until at most `count` threads are left.

    Between two runs a slot takes no lock: waiting for a lock that another slot holds takes longer
    than a short task. It pops a waiting run and adds an outcome, and both are atomic.
    """

    def __init__(
        self,
        count: int,
        execute: Callable[[ClaimedRun, int], Outcome],
        board: SlotBoard | None = None,
    ) -> None:
        self.count = count
        self.ended = threading.Event()
        self.few_waiting = threading.Event()
        self.few = 0
        self._execute = execute
        self._board = board
        # by fence: after a lost answer, the same scenario may be claimed again beside its old run
        self._runs: dict[Fence, ClaimedRun] = {}
        self._waiting: deque[ClaimedRun] = deque()
        self._outcomes: dict[Fence, Outcome] = {}
        self._changed = threading.Condition()
        self._closed = False
        self._threads: dict[int, threading.Thread] = {}
        self.resize(count)

    def resize(self, count: int) -> None:
        """Have `count` slots from now on; surplus threads end when their runs have ended.

        A new thread takes the lowest free number, so each number is below the largest count so far.
        """
        with self._changed:
            free = (slot for slot in itertools.count() if slot not in self._threads)
            while len(self._threads) < count:
                slot = next(free)
                thread = threading.Thread(
                    target=self._work, args=(slot,), name=f"slot-{slot}", daemon=True
                )
                thread.start()
                self._threads[slot] = thread
            self.count = count
            self._show_thread_count()
            self._changed.notify_all()

    @property
    def thread_count(self) -> int:
        """The number of slots' threads: more than `count` until surplus runs have ended."""
        with self._changed:
            return len(self._threads)

    def runs(self) -> list[ClaimedRun]:
        """Return all claimed runs: waiting, being executed, or ended with an unwritten outcome."""
        with self._changed:
            return list(self._runs.values())

    @property
    def free(self) -> int:
        """How many more runs can begin at once; negative while runs wait for a slot."""
        with self._changed:
            return self.count - len(self._runs) + len(self._outcomes)

    @property
    def unwritten(self) -> int:
        """How many runs have ended whose outcome is not written yet."""
        with self._changed:
            return len(self._outcomes)

    @property
    def waiting(self) -> int:
        """How many runs wait for a slot."""
        with self._changed:
            return len(self._waiting)

    def add(self, runs: Iterable[ClaimedRun]) -> None:
        """Accept claimed runs; each begins as soon as a slot is free."""
        with self._changed:
            for run in runs:
                self._runs[run.claimed.fence] = run
                self._waiting.append(run)
                self._changed.notify()

    def take_back_waiting(self, older_than: float = 0.0) -> list[ClaimedRun]:
        """Remove and return the runs that have waited longer than `older_than` s for a slot."""
        limit = time.monotonic() - older_than
        taken = []
        while (first := self._pop()) is not None:  # the oldest stands first
            if first.since > limit:
                with self._changed:  # meanwhile a slot may have found nothing to run
                    self._waiting.appendleft(first)
                    self._changed.notify()
                break
            taken.append(first)
        return taken

    def outcomes(self) -> list[Outcome]:
        """Return the outcomes that are not written yet."""
        with self._changed:
            self.ended.clear()
            return list(self._outcomes.values())

    def forget(self, fences: Iterable[Fence]) -> None:
        """Drop runs whose outcome is written, or that this worker no longer holds."""
        with self._changed:
            for fence in fences:
                self._runs.pop(fence, None)
                self._outcomes.pop(fence, None)

    def interrupt(self, interruption: Callable[[], RunInterrupted]) -> None:
        """Ask every claimed run to end."""
        for run in self.runs():
            run.control.interrupt(interruption())

    def close(self) -> None:
        """End the threads, after waiting for their runs."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
            threads = list(self._threads.values())
        for thread in threads:
            thread.join()

    def _work(self, slot: int) -> None:
        """Execute runs, one after the other: the thread of a slot.

        It ends with its slot alone, whatever a run raises. An error may also come between two runs:
        libraries for time-outs send exceptions to other threads, where they arrive late.
        """
        exists = True
        while exists:
            run: ClaimedRun | None = None
            try:
                run = self._next(slot)
                exists = run is not None
                if run is not None:
                    self._end(run, self._executed(run, slot))
            except BaseException as error:
                with suppress(BaseException):
                    log.error("an error came out of a run", exc_info=error)
                if run is not None:
                    self._end(run, escaped(run.claimed, error))

    def _executed(self, run: ClaimedRun, slot: int) -> Outcome:
        if self._board is not None:
            self._board.take(slot, run.id)
        try:
            return self._execute(run, slot)
        finally:
            if self._board is not None:
                self._board.leave(slot)

    def _end(self, run: ClaimedRun, outcome: Outcome) -> None:
        self._outcomes.setdefault(run.claimed.fence, outcome)
        # The reader clears an event before it reads what the event announces: if it is still set,
        # this outcome will be seen.
        if not self.ended.is_set():
            self.ended.set()
        if len(self._waiting) <= self.few and not self.few_waiting.is_set():
            self.few_waiting.set()

    def _pop(self) -> ClaimedRun | None:
        try:
            return self._waiting.popleft()
        except IndexError:
            return None

    def _next(self, slot: int) -> ClaimedRun | None:
        """Return the next run, waiting for one; None once this slot has to end."""
        if len(self._threads) <= self.count and (run := self._pop()) is not None:
            return run
        with self._changed:
            while len(self._threads) <= self.count:
                if (run := self._pop()) is not None:
                    return run
                if self._closed:
                    return None
                self._changed.wait()
            del self._threads[slot]
            self._show_thread_count()
            self._changed.notify_all()  # the remaining slots may begin runs now
            return None

    def _show_thread_count(self) -> None:
        if self._board is not None:
            self._board.in_use = len(self._threads)


class FrameCount:
    """The frames that runs of this process have handed to their committers, and their rate."""

    def __init__(self) -> None:
        self.total = 0
        self._counted = 0  # `total` at the last call of `per_second`
        self._since = time.monotonic()
        self._lock = threading.Lock()

    def add(self, run: ClaimedRun, frames: int) -> None:
        """Count frames of a run; called in its slot's thread."""
        run.frames += frames
        with self._lock:
            self.total += frames

    def per_second(self) -> float:
        """Return the rate since the last call, in frames per second."""
        now = time.monotonic()
        with self._lock:
            rate = (self.total - self._counted) / max(now - self._since, 1e-6)
            self._counted, self._since = self.total, now
        return rate
