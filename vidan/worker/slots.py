"""The slots of a worker: threads that run claimed scenarios, and what waits for one."""

from __future__ import annotations

import itertools
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager
from dataclasses import dataclass, field

from vidan import logs
from vidan.errors import RunInterrupted
from vidan.processes.slotboard import SlotBoard
from vidan.protocol.claims import Claimed
from vidan.protocol.fences import Fence
from vidan.run.control import RunControl
from vidan.worker.execution import Outcome


@dataclass(slots=True)
class ClaimedRun:
    """A scenario that this worker has claimed and not let go yet."""

    claimed: Claimed
    control: RunControl = field(default_factory=RunControl)
    since: float = field(default_factory=time.monotonic)
    frames: int = 0
    """How many frames it has handed to its committer, in this process."""
    progressed: bool = False
    """It has proved progress in this process."""

    @property
    def id(self) -> int:
        """The scenario's id."""
        return self.claimed.fence.scenario_id

    @property
    def suspect(self) -> bool:
        """Whether it has killed processes, maybe, and has not proved since that it gets on."""
        return self.claimed.crashes > 1 and not self.progressed

    def about(self) -> AbstractContextManager[None]:
        """Let what is logged inside of the block say that it is about this."""
        fence = self.claimed.fence
        return logs.bound(
            scenario_id=fence.scenario_id, epoch=fence.epoch, worker_id=fence.worker_id
        )


class Slots:
    """Runs engagements, `count` at once, each with `run(engagement, slot)` in a thread.

    `ended` is set whenever one has ended, and `low` if no more than `low_water` wait then. While
    they become fewer, more may still run (`there`), but nothing begins as long as more than
    `count` are there.

    From one run to the next a slot takes no lock: to wait for one that another slot holds takes
    longer than a short task. It pops what waits and adds its outcome, both atomic.
    """

    def __init__(
        self,
        count: int,
        run: Callable[[ClaimedRun, int], Outcome],
        board: SlotBoard | None = None,
    ) -> None:
        self.count = count
        self.ended = threading.Event()
        self.low = threading.Event()
        self.low_water = 0
        self._run = run
        self._board = board
        # by fence: after a lost answer, the same scenario may be claimed again beside its old run
        self._engaged: dict[Fence, ClaimedRun] = {}
        self._waiting: deque[ClaimedRun] = deque()
        self._outcomes: dict[Fence, Outcome] = {}
        self._changed = threading.Condition()
        self._closed = False
        self._threads: dict[int, threading.Thread] = {}
        self.resize(count)

    def resize(self, count: int) -> None:
        """Have `count` slots from now on; those that are too many end when their runs have ended.

        A number that is given anew is the lowest that is free, always less than the most slots
        that there ever were.
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
            self._tell()
            self._changed.notify_all()

    @property
    def there(self) -> int:
        """How many slots there are: more than `count` until what is too much has ended."""
        with self._changed:
            return len(self._threads)

    def engaged(self) -> list[ClaimedRun]:
        """Return all that is waiting, running, or has ended and is not concluded."""
        with self._changed:
            return list(self._engaged.values())

    @property
    def free(self) -> int:
        """How many more may begin at once; negative while some wait for a slot."""
        with self._changed:
            return self.count - len(self._engaged) + len(self._outcomes)

    @property
    def unwritten(self) -> int:
        """How many have ended and are not concluded."""
        with self._changed:
            return len(self._outcomes)

    @property
    def waiting(self) -> int:
        """How many wait for a slot."""
        with self._changed:
            return len(self._waiting)

    def add(self, engagements: Iterable[ClaimedRun]) -> None:
        """Take on what was claimed; it runs as soon as a slot is free."""
        with self._changed:
            for engagement in engagements:
                self._engaged[engagement.claimed.fence] = engagement
                self._waiting.append(engagement)
                self._changed.notify()

    def withdraw(self, older_than: float = 0.0) -> list[ClaimedRun]:
        """Take back what has waited for longer than `older_than` seconds and has not begun."""
        limit = time.monotonic() - older_than
        withdrawn = []
        while (first := self._pop()) is not None:  # who came first stands first
            if first.since > limit:
                with self._changed:  # a slot may have looked meanwhile, and found none
                    self._waiting.appendleft(first)
                    self._changed.notify()
                break
            withdrawn.append(first)
        return withdrawn

    def outcomes(self) -> list[Outcome]:
        """Return what has ended and is not concluded yet."""
        with self._changed:
            self.ended.clear()
            return list(self._outcomes.values())

    def conclude(self, fences: Iterable[Fence]) -> None:
        """Let go of engagements: all is written, or another has them."""
        with self._changed:
            for fence in fences:
                self._engaged.pop(fence, None)
                self._outcomes.pop(fence, None)

    def interrupt(self, interruption: Callable[[], RunInterrupted]) -> None:
        """Ask every engagement to end."""
        for engagement in self.engaged():
            engagement.control.interrupt(interruption())

    def close(self) -> None:
        """End the threads; waits for what runs."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
            threads = list(self._threads.values())
        for thread in threads:
            thread.join()

    def _work(self, slot: int) -> None:
        while (engagement := self._next(slot)) is not None:
            if self._board is not None:
                self._board.take(slot, engagement.id)
            outcome = self._run(engagement, slot)
            if self._board is not None:
                self._board.leave(slot)
            self._outcomes[engagement.claimed.fence] = outcome
            # who clears an event looks after that: what is added to before needs no second one
            if not self.ended.is_set():
                self.ended.set()
            if len(self._waiting) <= self.low_water and not self.low.is_set():
                self.low.set()

    def _pop(self) -> ClaimedRun | None:
        try:
            return self._waiting.popleft()
        except IndexError:
            return None

    def _next(self, slot: int) -> ClaimedRun | None:
        """Wait for something to run; None: the slot is to end."""
        if len(self._threads) <= self.count and (engagement := self._pop()) is not None:
            return engagement
        with self._changed:
            while len(self._threads) <= self.count:
                if (engagement := self._pop()) is not None:
                    return engagement
                if self._closed:
                    return None
                self._changed.wait()
            del self._threads[slot]
            self._tell()
            self._changed.notify_all()  # those that are left may begin now
            return None

    def _tell(self) -> None:
        if self._board is not None:
            self._board.in_use = len(self._threads)


class FrameRate:
    """Frames a second, over the time since it was last asked."""

    def __init__(self) -> None:
        self._frames = 0
        self._since = time.monotonic()
        self._lock = threading.Lock()

    def add(self, frames: int) -> None:
        """Count frames, from any slot."""
        with self._lock:
            self._frames += frames

    def per_second(self) -> float:
        """Return the rate since the last call."""
        now = time.monotonic()
        with self._lock:
            rate = self._frames / max(now - self._since, 1e-6)
            self._frames, self._since = 0, now
        return rate
