"""Run: what a task's code sees of the one scenario that is being run."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from vidan.detection.batcher import Seat
from vidan.domain.detection import Detection
from vidan.errors import RejectedTask
from vidan.processes.slotboard import Call
from vidan.protocol.followups import Predecessor
from vidan.run import predecessors
from vidan.run.passes import Frames, Passes
from vidan.video.frames import FrameBatch

MIN_REDUCTION = 2.0
"""The decoder scales frames down that have at least this many times the pixels of the detector's
input.

Scaling costs the decoder 1 ms more a frame, and saves the detector 7 ms at 720p and 14 ms at 1080p.
Below this, scaling gains less than a hundredth, and the detector's own scaling is more exact.
"""


@dataclass(slots=True)
class Run:
    """One scenario being run, as its task sees it. `source` is None for a task without one."""

    scenario_id: int
    source: str | None
    log: logging.LoggerAdapter[logging.Logger]
    _passes: Passes = field(repr=False)

    @property
    def state(self) -> dict[str, Any]:
        """The task's own state: JSON, stored in one transaction with the frames it counts.

        When the run resumes, on any worker, it is as the last commit stored it.
        """
        return self._passes.state

    @state.setter
    def state(self, state: dict[str, Any]) -> None:
        self._passes.state = state

    @property
    def parent(self) -> Predecessor | None:
        """The scenario that this one follows (`then`, `on_failure`), as it is now, or None."""
        return predecessors.predecessor(self._passes.context.database, self.scenario_id)

    @property
    def group(self) -> predecessors.GroupMembers:
        """The members of the group whose callback this is; each iteration reads them again."""
        return predecessors.GroupMembers(self._passes.context.database, self.scenario_id)

    @property
    def stopping(self) -> bool:
        """Whether the run has been asked to end: by a user, its worker, or a lost lease.

        A task that has read True here and returns has left off: its return value is not its
        result, the batch that it holds is not stored, and the run resumes at its checkpoint later.
        """
        return self._passes.control.stop_requested()

    def progress(self) -> None:
        """Tell the worker that the task makes progress; ends the run here if it has been asked to.

        Once a task has called it, 60 s without another call count as a stall. Raises
        TimeLimitExceeded, once, when the soft time limit is over.
        """
        context = self._passes.context
        self._passes.control.check_time()
        if context.board is not None:
            context.board.mark(context.slot, Call.PROGRESS)

    def detect(
        self,
        *,
        model: str = "nanodet-g",
        weights: str | None = None,
        min_score: float = 0.35,
        labels: Sequence[str] | None = None,
        size: tuple[int, int] | None = None,
        every: int = 1,
        fps: float | None = None,
        decoder: str = "pyav",
        deinterlace: bool = False,
        batch_size: int | None = None,
        full_size: bool = False,
    ) -> Iterator[Frames]:
        """Yield batches of frames with the detections in each, and store them.

        A batch is stored once the loop has asked for the next one, or the task has returned; the
        run resumes at its checkpoint. Once the soft time limit is over, TimeLimitExceeded is raised
        instead of the next batch; a later pass resumes there. A run has one pass at a time.

        `size` is the model's input (H, W), by default its own. `every` takes each n-th frame, `fps`
        this many frames per second of the video's time. Interlaced pictures are given as they are
        stored, both fields woven together; `deinterlace` gives the top field alone, at full height.

        Boxes are in pixels of the source. The decoder may have scaled the `pixels` of a batch down
        to the model's input (see `FrameBatch.scale`); `full_size` prevents that.
        """
        if batch_size is not None and batch_size < 1:
            raise RejectedTask(f"batch_size {batch_size} is below 1")
        passes = self._passes
        passes.control.check_process()
        detector = passes.context.detectors.get(
            passes.context.guard,
            passes.control.check_time,
            alone=passes.claimed.crashes > 0,
            model=model,
            weights=weights,
            min_score=min_score,
            labels=None if labels is None else list(labels),
            size=size,
        )
        sampling = {"every": every, "fps": fps, "decoder": decoder, "deinterlace": deinterlace}
        size_of = None if full_size else _DecodeSize(detector, exactly=decoder == "decord")
        return passes.iterate(sampling, detector, batch_size or detector.batch_size, size_of)

    def frames(
        self,
        *,
        every: int = 1,
        fps: float | None = None,
        decoder: str = "pyav",
        deinterlace: bool = False,
        batch_size: int = 4,
    ) -> Iterator[FrameBatch]:
        """Yield batches of frames, without a detector; each frame is stored, without detections."""
        sampling = {"every": every, "fps": fps, "decoder": decoder, "deinterlace": deinterlace}
        for batch, _ in self._passes.iterate(sampling, None, batch_size):
            yield batch

    def store(
        self,
        frame: int,
        *,
        detections: Iterable[Detection] | None = None,
        extra: Mapping[str, Any] | None = None,
    ) -> None:
        """Store predictions of the task's own for a frame of the batch that it works on.

        They are stored in one transaction with that batch, so exactly once. `detections` replace
        what the detector found, boxes in pixels of the source; `extra` is JSON that is stored
        beside them, 1 MiB at most. None leaves either as it was. Raises RejectedTask for a frame of
        another batch, and for values that can't be stored.
        """
        self._passes.control.check_process()
        self._passes.own.store(frame, detections, extra)


@dataclass(frozen=True, slots=True)
class _DecodeSize:
    """The size to which the decoder scales frames for a detector: see `video.frames.Size`."""

    detector: Seat
    exactly: bool
    """Scale to the model's input however small the gain: decord reads ahead and so holds less."""

    def __call__(self, height: int, width: int) -> tuple[int, int] | None:
        rows, columns = self.detector.decode_size(height, width)
        worth = height * width >= MIN_REDUCTION * rows * columns
        return (rows, columns) if self.exactly or worth else None
