"""One detector for several scenarios: their frames meet in batches, results go to whom they belong.

A scenario has a seat. What it submits waits there, until a lane (a thread that calls the detector)
takes it, alone or with what other seats have waiting. Seats have their turns: the one that was
served longest ago is first, however much others have waiting.
"""

from __future__ import annotations

import math
import threading
import time
import traceback
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from contextvars import Context, copy_context
from dataclasses import dataclass, field
from functools import partial
from itertools import zip_longest
from typing import TYPE_CHECKING

from vidan.detection.detector import Detector
from vidan.domain.detection import Detection
from vidan.errors import DeviceLost, RejectedTask
from vidan.processes.slotboard import Call

if TYPE_CHECKING:  # an app's module is also imported where tasks are only called
    import numpy as np
    from numpy.typing import NDArray

FILE_WAIT_S, LIVE_WAIT_S = 0.002, 0.035
"""So long frames wait at most for others that would fill their batch."""

MAX_WAITING = 2
"""So many submissions of one seat may wait; the next one waits for room."""

Clock = Callable[[Call], AbstractContextManager[None]]
"""Runs the stall clock of a scenario while the block lasts."""


@dataclass(slots=True, eq=False)
class Pending:
    """Frames of one scenario on their way through the detector."""

    seat: Seat
    pixels: NDArray[np.uint8]  # (N, H, W, 3)
    width: int
    height: int
    since: float
    context: Context = field(default_factory=copy_context)
    """Of the thread that submits: what is logged in a call for it alone says whose it is."""
    inside: bool = False  # of a call of the detector
    settled: bool = False
    """Whether the detector is done with it."""
    found: list[list[Detection]] | None = None
    error: BaseException | None = None

    def alike(self, other: Pending) -> bool:
        """Whether both may be in one batch: a seat that is `alone` shares none."""
        if self.seat is not other.seat and (self.seat.alone or other.seat.alone):
            return False
        sources = (self.width, self.height), (other.width, other.height)
        if sources[0] != sources[1] and not self.seat.batcher.detector.mixes:
            return False
        return self.pixels.shape[1:] == other.pixels.shape[1:]

    def result(self) -> list[list[Detection]]:
        """Wait for the detections of each frame. Raises, once, what the detector raised for them.

        Raises what `check` raises while the frames wait for their turn; frames that the detector
        has are waited for, so that nobody's clock is left running.
        """
        return self.seat.take(self)


class Batcher:
    """Calls a detector for all seats, in as many lanes as are worth having now.

    The lanes live while there are seats. `now` is the clock that waiting is measured by, `lost`
    tells of an error if it means that the GPU is of no more use to this process.
    """

    def __init__(
        self,
        detector: Detector,
        now: Callable[[], float] = time.monotonic,
        lost: Callable[[BaseException], DeviceLost | None] = lambda _: None,
    ) -> None:
        self.detector = detector
        self._now = now
        self._lost = lost
        self._seats: deque[Seat] = deque()  # the one served longest ago first
        self._lanes: set[int] = set()
        self._busy = 0
        self.lock = threading.Lock()
        self._ready = threading.Condition(self.lock)  # what lanes wait for; seats have their own

    def seat(
        self, clock: Clock, check: Callable[[], None] = lambda: None, *, alone: bool = False
    ) -> Seat:
        """Return a seat for a scenario: it takes part once it submits something.

        `clock` runs while the detector has its frames, `check` raises when the scenario is to end.
        `alone`: its frames share no call with others' (they may be what made a process hang).
        """
        return Seat(self, clock, check, alone)

    # --- called by seats

    def submit(self, pending: Pending) -> None:
        """Let it wait for its turn."""
        seat = pending.seat
        with self.lock:
            if seat not in self._seats:
                self._seats.append(seat)
            while len(seat.waiting) >= MAX_WAITING:
                seat.check()
                seat.changed.wait(0.5)
            self._start_lanes()  # fails where there can be no more threads: then nothing waits
            seat.waiting.append(pending)
            self._ready.notify_all()

    def await_settled(self, pending: Pending) -> None:
        """Wait until the detector is done with it, interrupted only as long as it has not begun."""
        with self.lock:
            while not pending.settled:
                if not pending.inside:
                    pending.seat.check()
                pending.seat.changed.wait(0.5)

    def leave(self, seat: Seat) -> None:
        """Withdraw what waits, and wait for what the detector has."""
        with self.lock:
            seat.waiting.clear()
            while seat.inside:
                seat.changed.wait()
            if seat in self._seats:
                self._seats.remove(seat)
            self._ready.notify_all()

    # --- lanes

    def _start_lanes(self) -> None:
        for number in range(self._worthwhile()):
            if number not in self._lanes:
                threading.Thread(
                    target=self._work, args=(number,), name=f"lane-{number}", daemon=True
                ).start()
                self._lanes.add(number)  # it has begun, and waits for the lock that we hold

    def _worthwhile(self) -> int:
        """How many lanes what may be submitted at once can keep busy."""
        return max(1, min(self.detector.lanes, sum(seat.depth for seat in self._seats)))

    def _work(self, number: int) -> None:
        while self._serve(number):
            pass

    def _serve(self, number: int) -> bool:
        """One batch, of which nothing is kept while the lane waits for the next; False: no more."""
        if (taken := self._next(number)) is None:
            return False
        batch, lanes = taken
        self._call(batch, partial(self.detector.share, number, lanes))
        with self.lock:
            self._busy -= 1
        return True

    def _next(self, number: int) -> tuple[list[Pending], int] | None:
        """Wait for a batch; None once there are no seats. Also: among how many lanes it is one."""
        with self.lock:
            while self._seats:
                lanes = self._worthwhile()
                batch = self._form(lanes - self._busy) if number < lanes else []
                wait = self._wait(batch) if batch else None
                if batch and not wait:
                    self._begin(batch)
                    return batch, lanes
                self._ready.wait(wait)
            self._lanes.discard(number)
            return None

    def _form(self, idle: int) -> list[Pending]:
        """The batch that would go now; `idle` lanes have nothing to do, this one included.

        It begins with the seat whose turn it is. What a scenario submitted stays together, so a
        batch is larger than the detector's own only if its task asked for that.
        """
        seats = (seat.waiting for seat in self._seats)
        # the first of each seat in the order of their turns, then the second of each
        waiting = [one for turn in zip_longest(*seats) for one in turn if one is not None]
        if not waiting:
            return []
        alike = [one for one in waiting if one.alike(waiting[0])]
        room = self.detector.batch_size
        if self.detector.spread:
            room = min(room, math.ceil(sum(len(one.pixels) for one in alike) / max(1, idle)))
        batch = alike[:1]
        for one in alike[1:]:
            if _frames(batch) + len(one.pixels) <= room:
                batch.append(one)
        return batch

    def _wait(self, batch: Sequence[Pending]) -> float:
        """Seconds that the batch should wait for others to fill it.

        Only for a detector that gains by it, and for seats that have nothing on its way: they are
        about to submit. (On a core of its own a frame takes 96 ms alone and 88 ms as one of four:
        a core that waited 35 ms for three others would win 32.)
        """
        first = batch[0].seat
        coming = any(not one.waiting and not one.inside and not one.alone for one in self._seats)
        if self.detector.spread or first.alone or not coming:
            return 0.0
        if _frames(batch) >= self.detector.batch_size:
            return 0.0
        return max(0.0, min(one.since + one.seat.patience for one in batch) - self._now())

    def _begin(self, batch: Sequence[Pending]) -> None:
        self._busy += 1
        for one in batch:
            one.inside = True
            one.seat.waiting.remove(one)
            one.seat.inside += 1
            if one.seat in self._seats:
                self._seats.remove(one.seat)
            self._seats.append(one.seat)
            one.seat.changed.notify_all()  # there is room again
        self._ready.notify_all()

    def _call(self, batch: Sequence[Pending], prepare: Callable[[], None]) -> None:
        """Settle a batch. What fails together is tried one by one: only the guilty fail."""
        found, error = self._try(batch, prepare)
        try:
            if error is not None and len(batch) > 1 and not isinstance(error, DeviceLost):
                for one in batch:
                    self._call([one], prepare)
                return
            for one in batch:
                self._settle(one, found[: len(one.pixels)] if error is None else None, error)
                found = found[len(one.pixels) :]
        finally:
            del error  # it leads to this frame, which must not lead back: see Seat.take

    def _try(
        self, batch: Sequence[Pending], prepare: Callable[[], None]
    ) -> tuple[list[list[Detection]], BaseException | None]:
        """What a call finds, or its error, which holds nothing of what the call had on the device.

        To prepare the lane may hang, too, on a GPU, and so may a look at what an error has left of
        that: the clocks run all the while.
        """
        seats = dict.fromkeys(one.seat for one in batch)
        with ExitStack() as clocks:
            for seat in seats:
                clocks.enter_context(seat.clock())
            try:
                prepare()
                if len(seats) == 1:
                    return batch[0].context.run(self._detect, batch), None
                return self._detect(batch), None
            except BaseException as error:  # raised again where the result is taken
                _let_go(error)
                return [], self._lost(error) or error

    def _detect(self, batch: Sequence[Pending]) -> list[list[Detection]]:
        pixels = batch[0].pixels
        if len(batch) > 1:
            import numpy as np

            pixels = np.concatenate([one.pixels for one in batch])
        sources = [(one.width, one.height) for one in batch for _ in one.pixels]
        same = len(set(sources)) == 1
        size = sources[0] if same else (pixels.shape[2], pixels.shape[1])
        found = self.detector.detect(pixels, *size)
        if len(found) != len(pixels):  # whose is missing can't be told: all would be another's
            name = type(self.detector).__name__
            raise RejectedTask(
                f"the detector {name} returned {len(found)} lists of detections"
                f" for {len(pixels)} frames",
                hint="its detect returns a list for each frame, an empty one where nothing is",
            )
        if same:
            return found
        return [
            [_scaled(detection, size, source) for detection in detections]
            for detections, source in zip(found, sources, strict=True)
        ]

    def _settle(
        self, one: Pending, found: list[list[Detection]] | None, error: BaseException | None
    ) -> None:
        with self.lock:
            one.settled, one.found, one.error, one.inside = True, found, error, False
            one.seat.inside -= 1
            one.seat.changed.notify_all()


@dataclass(slots=True, eq=False)
class Seat:
    """One scenario's place at a detector that several share. Used by one thread."""

    batcher: Batcher
    guard: Clock
    check: Callable[[], None]
    alone: bool
    live: bool = False
    waiting: deque[Pending] = field(default_factory=deque)
    inside: int = 0
    """How many of its submissions the detector has."""
    changed: threading.Condition = field(init=False)
    """With the batcher's lock: so nobody is woken by what is another's."""
    _blocks: list[object] = field(default_factory=list)
    """Those inside of `clock`, the oldest first."""
    _running: AbstractContextManager[None] | None = None
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def __post_init__(self) -> None:
        self.changed = threading.Condition(self.batcher.lock)

    @property
    def labels(self) -> tuple[str, ...]:
        """The names that detections may carry."""
        return self.batcher.detector.labels

    @property
    def batch_size(self) -> int:
        """How many frames the detector likes to get at once."""
        return self.batcher.detector.batch_size

    @property
    def depth(self) -> int:
        """How many submissions it may have at the detector: of a file, one is ahead."""
        return 1 if self.live else 2

    @property
    def patience(self) -> float:
        """How many seconds its frames wait for others."""
        return LIVE_WAIT_S if self.live else FILE_WAIT_S

    def decode_size(self, height: int, width: int) -> tuple[int, int]:
        """(H, W) to which frames of a `height` x `width` source may be scaled beforehand."""
        return self.batcher.detector.decode_size(height, width)

    def submit(self, pixels: NDArray[np.uint8], width: int, height: int) -> Pending:
        """Hand frames over; see Detector.detect. Waits while too many wait already."""
        pending = Pending(self, pixels, width, height, self.batcher._now())
        self.batcher.submit(pending)
        return pending

    def take(self, pending: Pending) -> list[list[Detection]]:
        """Wait for a result; see Pending.result."""
        self.batcher.await_settled(pending)
        # its traceback will lead to `pending`, which must not lead back: frames would stay for long
        error, pending.error = pending.error, None
        if error is not None:
            try:
                raise error
            finally:
                del error
        assert pending.found is not None
        return pending.found

    def close(self) -> None:
        """Give the seat up; it may be called again. What waits is dropped."""
        self.batcher.leave(self)

    @contextmanager
    def clock(self) -> Iterator[None]:
        """Run the stall clock while the block lasts, in whichever lane; two blocks may overlap.

        The clock is the older block's, and goes on when the younger one ends; when the older one
        ends first, it starts anew for the other.
        """
        block = object()
        with self._lock:
            self._blocks.append(block)
            if self._running is None:
                self._start()
        try:
            yield
        finally:
            with self._lock:
                oldest = self._blocks[0] is block
                self._blocks.remove(block)
                if oldest:
                    running, self._running = self._running, None
                    assert running is not None
                    running.__exit__(None, None, None)
                    if self._blocks:
                        self._start()

    def _start(self) -> None:
        self._running = self.guard(Call.DETECTOR)
        self._running.__enter__()


def _let_go(error: BaseException) -> None:
    """Free what the calls that an error came through hold: a batch that a GPU had no room for."""
    each: BaseException | None = error
    seen: list[BaseException] = []
    while each is not None and each not in seen:  # causes may run in a circle
        traceback.clear_frames(each.__traceback__)
        seen.append(each)
        each = each.__cause__ or each.__context__


def _frames(batch: Sequence[Pending]) -> int:
    return sum(len(one.pixels) for one in batch)


def _scaled(found: Detection, size: tuple[int, int], source: tuple[int, int]) -> Detection:
    """A detection in pixels of `size` (W, H) → in pixels of the source, cut at its edge."""
    fx, fy = source[0] / size[0], source[1] / size[1]
    x1, y1, x2, y2 = found.box
    box = (
        min(x1 * fx, source[0]),
        min(y1 * fy, source[1]),
        min(x2 * fx, source[0]),
        min(y2 * fy, source[1]),
    )
    return Detection(box, found.label, found.score, found.track_id)
