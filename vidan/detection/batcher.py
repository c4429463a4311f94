"""One detector shared by several scenarios: their frames meet in batches.

Each scenario has a seat. The frames that it submits wait at the seat until a lane (a thread that
calls the detector) takes them, alone or together with frames that wait at other seats. Seats take
turns: a batch begins with the seat that was served longest ago, however many frames wait at the
others.
"""

from __future__ import annotations

import math
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, ExitStack
from contextvars import Context, copy_context
from dataclasses import dataclass, field
from functools import partial
from itertools import zip_longest
from typing import TYPE_CHECKING

from vidan.detection.detector import Detector
from vidan.detection.joint_call import clear_frames, detect_jointly
from vidan.detection.stall_clock import Clock, StallClock
from vidan.domain.detection import Detection
from vidan.errors import DeviceLost
from vidan.processes.forks import Contained

if TYPE_CHECKING:  # an app's module is also imported where tasks are only called, without numpy
    import numpy as np
    from numpy.typing import NDArray

FILE_WAIT_S, LIVE_WAIT_S = 0.002, 0.035
"""Longest time, in seconds, that frames of a file or of a live source wait for a full batch."""

MAX_WAITING = 2
"""Most submissions that wait at one seat; the next `submit` blocks until there is room."""

CHECK_S = 0.5
"""Longest time, in seconds, that a waiting scenario takes to notice that it has to end."""


@dataclass(slots=True, eq=False)
class Pending:
    """Frames that a scenario has submitted, and later what the detector found in them."""

    seat: Seat
    pixels: NDArray[np.uint8]  # (N, H, W, 3)
    width: int
    height: int
    since: float
    context: Context = field(default_factory=copy_context)
    """Context of the submitting thread: log lines of a call for these frames alone name its
    scenario.
    """
    inside: bool = False  # whether a call of the detector has the frames
    settled: bool = False
    """Whether that call has ended."""
    found: list[list[Detection]] | None = None
    error: BaseException | None = None

    def alike(self, other: Pending) -> bool:
        """Whether both may be in one batch; a seat that is `alone` shares none with other seats."""
        if self.seat is not other.seat and (self.seat.alone or other.seat.alone):
            return False
        sources = (self.width, self.height), (other.width, other.height)
        if sources[0] != sources[1] and not self.seat.batcher.detector.accepts_mixed_sizes:
            return False
        return self.pixels.shape[1:] == other.pixels.shape[1:]

    def result(self) -> list[list[Detection]]:
        """Wait for the detections of each frame. Raises, once, the detector's error for them.

        Raises what the seat's `check` raises while the frames wait for their turn. Once a call of
        the detector has the frames, waits for its end, so that no stall clock is left running.
        """
        return self.seat.take(self)


class Batcher:
    """Calls a detector for all seats, in as many lanes as their submissions can keep busy.

    Lanes live as long as there are seats. `now` is the clock that measures waiting; `lost` returns
    a DeviceLost for an error that means that this process can't use the GPU any more.
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
        self._busy = 0  # lanes that are in a call
        self.lock = threading.Lock()
        self._ready = threading.Condition(self.lock)  # wakes lanes; each seat has its own condition

    def seat(
        self, clock: Clock, check: Callable[[], None] = lambda: None, *, alone: bool = False
    ) -> Seat:
        """Return a seat for a scenario: it takes part from its first submission on.

        `clock` runs while the detector has its frames; `check` raises when the scenario has to end.
        With `alone` its frames share no call with other seats' frames: they may be what made a
        process hang.
        """
        return Seat(self, StallClock(clock), check, alone)

    # --- called by seats

    def submit(self, pending: Pending) -> None:
        """Queue frames at their seat, waiting for room."""
        seat = pending.seat
        with self.lock:
            if seat not in self._seats:
                self._seats.append(seat)
            while len(seat.waiting) >= MAX_WAITING:
                seat.check()
                seat.changed.wait(CHECK_S)
            self._start_lanes()  # before the frames are queued: it may fail for lack of threads
            seat.waiting.append(pending)
            self._ready.notify_all()

    def await_settled(self, pending: Pending) -> None:
        """Wait until the detector's call has ended; until it begins, `check` may interrupt."""
        with self.lock:
            while not pending.settled:
                if not pending.inside:
                    pending.seat.check()
                pending.seat.changed.wait(CHECK_S)

    def leave(self, seat: Seat) -> None:
        """Drop the seat's waiting frames, and wait until no call has frames of this seat."""
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
        """How many lanes the seats can keep busy with what they may submit at once."""
        return max(1, min(self.detector.max_parallel, sum(seat.depth for seat in self._seats)))

    def _work(self, number: int) -> None:
        while self._serve(number):
            pass

    def _serve(self, number: int) -> bool:
        """Wait for one batch and call the detector; False once no seat is left.

        A function of its own, so that a lane holds no frames while it waits for the next batch.
        """
        if (taken := self._next(number)) is None:
            return False
        batch, lanes = taken
        self._call(batch, partial(self.detector.prepare_thread, number, lanes))
        with self.lock:
            self._busy -= 1
        return True

    def _next(self, number: int) -> tuple[list[Pending], int] | None:
        """Return (batch, number of lanes), waiting for one; None once no seat is left."""
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
        """Return the next batch; `idle` is the number of idle lanes, this one included.

        It begins with the seat whose turn it is. A submission is never divided, so a batch is
        larger than the detector's batch size only if a task submits that many frames at once.
        """
        seats = (seat.waiting for seat in self._seats)
        # the first submission of each seat in the order of their turns, then the second of each
        waiting = [one for turn in zip_longest(*seats) for one in turn if one is not None]
        if not waiting:
            return []
        alike = [one for one in waiting if one.alike(waiting[0])]
        room = self.detector.batch_size
        if self.detector.prefers_small_calls:
            room = min(room, math.ceil(sum(len(one.pixels) for one in alike) / max(1, idle)))
        batch = alike[:1]
        for one in alike[1:]:
            if _frames(batch) + len(one.pixels) <= room:
                batch.append(one)
        return batch

    def _wait(self, batch: Sequence[Pending]) -> float:
        """Return for how many more seconds the batch should wait for other frames to fill it.

        It waits only for seats that have no frames waiting or in a call, since they are about to
        submit; and only for a detector that gains by large calls. (On one core a frame takes 96 ms
        alone and 88 ms as one of four: a core that waits 35 ms for three more frames saves only
        4 × 8 = 32 ms.)
        """
        first = batch[0].seat
        coming = any(not one.waiting and not one.inside and not one.alone for one in self._seats)
        if self.detector.prefers_small_calls or first.alone or not coming:
            return 0.0
        if _frames(batch) >= self.detector.batch_size:
            return 0.0
        return max(0.0, min(one.since + one.seat.patience for one in batch) - self._now())

    def _begin(self, batch: Sequence[Pending]) -> None:
        """Move the batch from its seats into a call, and its seats to the end of the turns."""
        self._busy += 1
        for one in batch:
            one.inside = True
            one.seat.waiting.remove(one)
            one.seat.inside += 1
            if one.seat in self._seats:
                self._seats.remove(one.seat)
            self._seats.append(one.seat)
            one.seat.changed.notify_all()  # there is room for a submission again
        self._ready.notify_all()

    def _call(self, batch: Sequence[Pending], prepare: Callable[[], None]) -> None:
        """Settle a batch. If it fails, try each submission alone: only the guilty ones fail."""
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
            # its traceback refers to this frame, which must not refer back: see Seat.take
            del error

    def _try(
        self, batch: Sequence[Pending], prepare: Callable[[], None]
    ) -> tuple[list[list[Detection]], BaseException | None]:
        """Return the detections or the error, which then holds nothing on the device any longer.

        On a GPU, preparing the lane and finding out what an error means may hang as well, so the
        stall clocks cover both.
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
            except BaseException as error:  # raised again by Seat.take
                return [], self._judged(error)

    def _judged(self, error: BaseException) -> BaseException:
        """Return the error of a call, or that its GPU is lost, cleared of the call's frames.

        Never raises, though code of a user's own exception may: a lane that ended with an error
        would keep all scenarios of the detector waiting.
        """
        try:
            clear_frames(error)
            return self._lost(error) or error
        except BaseException as another:
            return another

    def _detect(self, batch: Sequence[Pending]) -> list[list[Detection]]:
        with Contained():
            return detect_jointly(
                self.detector,
                [one.pixels for one in batch],
                [(one.width, one.height) for one in batch],
            )

    def _settle(
        self, one: Pending, found: list[list[Detection]] | None, error: BaseException | None
    ) -> None:
        with self.lock:
            one.settled, one.found, one.error, one.inside = True, found, error, False
            one.seat.inside -= 1
            one.seat.changed.notify_all()


@dataclass(slots=True, eq=False)
class Seat:
    """One scenario's place at a shared detector. One thread uses it."""

    batcher: Batcher
    stall_clock: StallClock
    check: Callable[[], None]
    alone: bool
    live: bool = False
    waiting: deque[Pending] = field(default_factory=deque)
    inside: int = 0
    """How many of its submissions a call of the detector has."""
    changed: threading.Condition = field(init=False)
    """Shares the batcher's lock; wakes this scenario only."""

    def __post_init__(self) -> None:
        self.changed = threading.Condition(self.batcher.lock)

    @property
    def labels(self) -> tuple[str, ...]:
        """The names that detections may carry."""
        return self.batcher.detector.labels

    @property
    def batch_size(self) -> int:
        """The number of frames that one call of the detector handles best."""
        return self.batcher.detector.batch_size

    @property
    def depth(self) -> int:
        """How many submissions it may have at the detector: for a file, one is read ahead."""
        return 1 if self.live else 2

    @property
    def patience(self) -> float:
        """Longest time, in seconds, that its frames wait for a full batch."""
        return LIVE_WAIT_S if self.live else FILE_WAIT_S

    def decode_size(self, height: int, width: int) -> tuple[int, int]:
        """Return the (H, W) to which the decoder may scale frames; see Detector.decode_size."""
        return self.batcher.detector.decode_size(height, width)

    def submit(self, pixels: NDArray[np.uint8], width: int, height: int) -> Pending:
        """Submit frames; see Detector.detect. Waits while MAX_WAITING submissions wait already."""
        pending = Pending(self, pixels, width, height, self.batcher._now())
        self.batcher.submit(pending)
        return pending

    def take(self, pending: Pending) -> list[list[Detection]]:
        """Wait for a result; see Pending.result."""
        self.batcher.await_settled(pending)
        # The traceback of the error will refer to `pending`. If `pending` referred back to the
        # error, its frames would stay in memory until the next garbage collection.
        error, pending.error = pending.error, None
        if error is not None:
            try:
                raise error
            finally:
                del error
        assert pending.found is not None
        return pending.found

    def close(self) -> None:
        """Leave the detector, dropping frames that wait. May be called again."""
        self.batcher.leave(self)

    def clock(self) -> AbstractContextManager[None]:
        """Run the stall clock while the block lasts; blocks in two lanes may overlap."""
        return self.stall_clock.run()


def _frames(batch: Sequence[Pending]) -> int:
    return sum(len(one.pixels) for one in batch)
