"""One pass over a source: decoded ahead, detected, given to the task, then committed."""

from __future__ import annotations

import queue
import threading
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, nullcontext
from dataclasses import dataclass, field
from typing import NamedTuple

from vidan import logs
from vidan.detection.batcher import Pending, Seat
from vidan.domain.detection import Detection, Gap
from vidan.processes.forks import end_child
from vidan.processes.slotboard import Call
from vidan.protocol import storable
from vidan.run.committer import Committer, FinishedFrames
from vidan.run.control import RunControl
from vidan.run.own_predictions import OwnPredictions
from vidan.video.frames import FrameBatch, FrameSource

READ_AHEAD = 2
"""Most batches that are decoded ahead of the detector."""

Guard = Callable[[Call], AbstractContextManager[None]]
"""Runs the stall clock of a call into the decoder or the detector while a block lasts."""


def unguarded(_: Call) -> AbstractContextManager[None]:
    """Run no stall clock."""
    return nullcontext()


class Position(NamedTuple):
    """A place in a source, as `open_source` takes it."""

    frame: int
    pts: int | None
    restart: tuple[int, int] | None = None


@dataclass(slots=True)
class Pipeline:
    """One pass over a source, from the frame at which it was opened.

    A batch counts as done once the caller has asked for the next one, or has called `settle`: then
    the committer gets it, with the task's state that `state` returns at that moment.
    """

    source: FrameSource
    committer: Committer
    control: RunControl
    state: Callable[[], str]
    detector: Seat | None = None
    batch_size: int = 4
    guard: Guard = unguarded
    on_frames: Callable[[int], None] = lambda _: None
    on_gaps: Callable[[Sequence[Gap]], None] = lambda _: None
    on_notes: Callable[[Sequence[str]], None] = lambda _: None
    position: Position | None = field(default=None, init=False)
    """Where the next pass starts; None before the first batch."""
    own: OwnPredictions = field(default_factory=OwnPredictions, init=False)
    """The task's own predictions for the batch that it works on, committed with that batch."""
    _open: tuple[FrameBatch, list[list[Detection]]] | None = field(default=None, init=False)
    _info: str = field(init=False)

    def __post_init__(self) -> None:
        self._info = storable.json_text(dict(self.source.info))  # the same for all batches

    def batches(self) -> Iterator[tuple[FrameBatch, list[list[Detection]]]]:
        """Yield batches with the detections in each frame (none, without a detector).

        Raises the run's interruption, TimeLimitExceeded, RejectedTask for a source that can't be
        read, and errors of the detector.
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
                    self._end_forked_child()
                self.settle()
            self.control.check()

    def _end_forked_child(self) -> None:
        try:
            self.control.check_process()
        except RuntimeError as error:  # closing this pass would wait for locks of the parent
            end_child(error)

    def settle(self) -> None:
        """Give the batch that the task has finished to the committer."""
        if self._open is None:
            return
        (batch, detections), self._open = self._open, None
        own, self.own = self.own, OwnPredictions()
        self.position = Position(batch.next_frame, batch.next_pts, batch.next_restart)
        row = self.committer.labels.row
        self.committer.add(
            FinishedFrames(
                rows=[
                    row(frame, time_ms, own.detections.get(frame, found), own.extra.get(frame))
                    for frame, time_ms, found in zip(
                        batch.indices.tolist(), batch.times.tolist(), detections, strict=True
                    )
                ],
                gaps=batch.gaps,
                next_frame=batch.next_frame,
                next_pts=batch.next_pts,
                next_restart=batch.next_restart,
                state=self.state(),
                frames_total=self.source.frames_total,
                source_info=self._info,
                notes=self.source.notes,
            )
        )
        self.on_frames(len(batch.indices))
        if batch.gaps:
            self.on_gaps(batch.gaps)
        self.on_notes(self.source.notes)

    def _submitted(
        self, batches: Iterator[FrameBatch]
    ) -> Iterator[tuple[FrameBatch, Pending | None]]:
        """Yield batches, each with its submission to the detector, or with None if it needs none.

        While the task works on a batch of a file, the next batch is submitted already, so the
        detector never waits for the task. A camera's next batch does not exist yet.
        """
        ahead = 0 if self.detector is None or self.source.live else 1
        waiting: deque[tuple[FrameBatch, Pending | None]] = deque()
        failure: Exception | None = None
        batch: FrameBatch | None
        while True:
            try:
                batch = next(batches, None)
            except Exception as error:  # raised once the batches before it are stored
                batch, failure = None, error
            if batch is not None or waiting:  # at the end of the source nothing is left to limit
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
                control.check_time()  # the source may send no frame for minutes
                continue
            if item is None:
                return
            if isinstance(item, BaseException):
                raise item
            yield item

    def close(self) -> None:
        """Stop decoding and wait for the thread; then the caller closes the source again."""
        self._closed.set()
        self._source.close()
        while self._thread.is_alive():
            try:
                self._queue.get(timeout=0.05)  # makes room, for which the thread may wait
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
        except BaseException as error:  # `batches` raises it in the task's thread
            self._put(error)

    def _put(self, item: FrameBatch | BaseException | None) -> None:
        while not self._closed.is_set():
            try:
                self._queue.put(item, timeout=0.1)
            except queue.Full:
                continue
            return
