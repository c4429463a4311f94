"""source → detector → committed batches: what stands between a task and its frames."""

from __future__ import annotations

import queue
import threading
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, nullcontext
from dataclasses import dataclass, field

from vidan import logs
from vidan.detection.batcher import Pending, Seat
from vidan.domain.detection import Detection
from vidan.processes.slotboard import Call
from vidan.run.committer import Committer, Done
from vidan.run.control import RunControl
from vidan.run.own_predictions import OwnPredictions
from vidan.video.frames import FrameBatch, FrameSource

READ_AHEAD = 2
"""Batches that are decoded ahead while the detector works."""

Guard = Callable[[Call], AbstractContextManager[None]]
"""Runs the clock of a call into the decoder or the detector, for the stall limit."""


def unguarded(_: Call) -> AbstractContextManager[None]:
    """Run no clock."""
    return nullcontext()


@dataclass(slots=True)
class Pipeline:
    """One pass over a source from its checkpoint on.

    A batch counts as done once the caller has asked for the next one, or calls `settle`: only then
    is it handed to the committer, with the task's state as `state` gives it at that moment.
    """

    source: FrameSource
    committer: Committer
    control: RunControl
    state: Callable[[], str]
    detector: Seat | None = None
    batch_size: int = 4
    guard: Guard = unguarded
    on_frames: Callable[[int], None] = lambda _: None
    position: tuple[int, int | None] | None = field(default=None, init=False)
    """Where the next pass goes on: the frame and its timestamp, None before the first batch."""
    own: OwnPredictions = field(default_factory=OwnPredictions, init=False)
    """What the task stores of its own for the batch that it works on; it moves with that batch."""
    _open: tuple[FrameBatch, list[list[Detection]]] | None = field(default=None, init=False)

    def batches(self) -> Iterator[tuple[FrameBatch, list[list[Detection]]]]:
        """Yield batches with what was found in them (nothing, without a detector).

        Raises what the run was interrupted with, TimeLimitExceeded, RejectedTask for a source that
        can't be read, and what the detector raises.
        """
        with ExitStack() as leaving:
            leaving.callback(self.source.close)
            if self.detector is not None:
                leaving.callback(self.detector.close)
            ahead = _ReadAhead(self.source, self.batch_size, self.guard)
            leaving.callback(ahead.close)
            for batch, pending in self._submitted(ahead.batches(self.control)):
                detections = [[] for _ in batch.indices] if pending is None else pending.result()
                self._open = (batch, detections)
                self.own = OwnPredictions(batch.indices.tolist())
                if len(batch.indices):
                    yield batch, detections
                self.settle()
            self.control.check()

    def settle(self) -> None:
        """Hand the batch that the task has done with to the committer."""
        if self._open is None:
            return
        (batch, detections), self._open = self._open, None
        own, self.own = self.own, OwnPredictions()
        self.position = (batch.next_frame, batch.next_pts)
        row = self.committer.labels.row
        self.committer.add(
            Done(
                rows=[
                    row(frame, time_ms, own.detections.get(frame, found), own.extra.get(frame))
                    for frame, time_ms, found in zip(
                        batch.indices.tolist(), batch.times.tolist(), detections, strict=True
                    )
                ],
                gaps=batch.gaps,
                next_frame=batch.next_frame,
                next_pts=batch.next_pts,
                state=self.state(),
                frames_total=self.source.frames_total,
            )
        )
        self.on_frames(len(batch.indices))

    def _submitted(
        self, batches: Iterator[FrameBatch]
    ) -> Iterator[tuple[FrameBatch, Pending | None]]:
        """Yield batches that are at the detector, or need none.

        Of a file the next one is there already while the task works on one: the detector never
        waits for the task. A camera's next one would come too late for that.
        """
        ahead = 0 if self.detector is None or self.source.live else 1
        waiting: deque[tuple[FrameBatch, Pending | None]] = deque()
        failure: Exception | None = None
        batch: FrameBatch | None
        while True:
            try:
                batch = next(batches, None)
            except Exception as error:  # what came before is stored all the same
                batch, failure = None, error
            if batch is not None or waiting:  # at the end there is nothing left to be limited
                self.control.check_time()
            if batch is not None:
                waiting.append((batch, self._submit(batch)))
            while len(waiting) > (0 if batch is None else ahead):
                yield waiting.popleft()
            if batch is None:
                break
        if failure is not None:
            raise failure

    def _submit(self, batch: FrameBatch) -> Pending | None:
        if self.detector is None or not len(batch.indices):
            return None
        return self.detector.submit(batch.pixels, batch.width, batch.height)


class _ReadAhead:
    """Decodes in a thread of its own, at most READ_AHEAD batches ahead."""

    def __init__(self, source: FrameSource, size: int, guard: Guard) -> None:
        self._source = source
        self._size = size
        self._guard = guard
        self._queue: queue.Queue[FrameBatch | BaseException | None] = queue.Queue(READ_AHEAD)
        self._closed = threading.Event()
        self._thread = threading.Thread(
            target=logs.carried(self._decode), name="decode", daemon=True
        )
        self._thread.start()

    def batches(self, control: RunControl) -> Iterator[FrameBatch]:
        while True:
            try:
                item = self._queue.get(timeout=0.5)
            except queue.Empty:
                control.check_time()  # a source may be silent for long
                continue
            if item is None:
                return
            if isinstance(item, BaseException):
                raise item
            yield item

    def close(self) -> None:
        """Stop decoding and let the source go: to be closed once more after that."""
        self._closed.set()
        self._source.close()
        while self._thread.is_alive():
            try:
                self._queue.get(timeout=0.05)  # the thread may wait for room
            except queue.Empty:
                continue

    def _decode(self) -> None:
        try:
            batches = iter(self._source.batches(self._size))
            while not self._closed.is_set():
                with self._guard(Call.DECODER):
                    batch = next(batches, None)
                if batch is None:
                    break
                self._put(batch)
            self._put(None)
        except BaseException as error:  # raised again where the batches are read
            self._put(error)

    def _put(self, item: FrameBatch | BaseException | None) -> None:
        while not self._closed.is_set():
            try:
                self._queue.put(item, timeout=0.1)
            except queue.Full:
                continue
            return
