"""Run: what a task's code sees of the one scenario that is being run."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from typing import Any

from vidan.detection.batcher import Seat
from vidan.domain.detection import Detection
from vidan.errors import RejectedTask, SourceMissing
from vidan.processes.slotboard import Call
from vidan.protocol import storable
from vidan.protocol.claims import Claimed
from vidan.protocol.followups import Predecessor
from vidan.run import predecessors
from vidan.run.committer import Committer
from vidan.run.context import RunContext
from vidan.run.control import RunControl
from vidan.run.own_predictions import OwnPredictions
from vidan.run.pipeline import Pipeline, unguarded
from vidan.video import opening
from vidan.video.container import local_path
from vidan.video.frames import FrameBatch, FrameSource, Size

Frames = tuple[FrameBatch, list[list[Detection]]]

MIN_REDUCTION = 2.0
"""The decoder scales frames down that have so many times the pixels of the detector's input.

To scale takes the decoder 1 ms a frame more, and saves the detector 7 ms at 720p and 14 at 1080p.
With fewer pixels less than a hundredth is won, and the detector's own way is more exact.
"""


@dataclass(slots=True)
class Run:
    """One scenario being run, as its task sees it.

    `state` is the task's own: JSON, stored in one transaction with the frames it counts, and there
    again when the run goes on elsewhere. `source` is None for a task without one.
    """

    scenario_id: int
    source: str | None
    state: dict[str, Any]
    log: logging.LoggerAdapter[logging.Logger]
    _claimed: Claimed = field(repr=False)
    _control: RunControl = field(repr=False)
    _around: RunContext = field(repr=False)
    _position: tuple[int, int | None] = field(init=False, repr=False)
    _pipeline: Pipeline | None = field(default=None, init=False, repr=False)
    _stream: Iterator[Frames] | None = field(default=None, init=False, repr=False)
    _committer: Committer | None = field(default=None, init=False, repr=False)
    _active: bool = field(default=False, init=False, repr=False)

    def __post_init__(self) -> None:
        self._position = (self._claimed.checkpoint, self._claimed.checkpoint_pts)

    @property
    def parent(self) -> Predecessor | None:
        """The scenario that this one follows on (`then`, `on_failure`), read now; None without."""
        return predecessors.parent(self._around.database, self.scenario_id)

    @property
    def group(self) -> predecessors.Members:
        """The members of the group whose callback this is, read as one goes over them."""
        return predecessors.Members(self._around.database, self.scenario_id)

    @property
    def stopping(self) -> bool:
        """Whether the run has been asked to end: by a user, its worker, or a lost lease.

        A task that was told so and returns has left off: what it returns is not its result, the
        batch that it holds is not stored, and the run goes on at its checkpoint later.
        """
        return self._control.ask()

    def progress(self) -> None:
        """Say that the task gets on; ends the run here if it has been asked to.

        Once a task has called it, 60 s without another call count as a stall. Raises
        TimeLimitExceeded, once, when the soft time limit is over.
        """
        self._control.check_time()
        if self._around.board is not None:
            self._around.board.mark(self._around.slot, Call.PROGRESS)

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
        batch_size: int | None = None,
        full_size: bool = False,
    ) -> Iterator[Frames]:
        """Yield batches of frames with the detections in each, and store them.

        A batch is stored once the loop has asked for the next one, or the task has returned; the
        run goes on at its checkpoint. Once the soft time limit is over, TimeLimitExceeded is raised
        instead of the next batch; a later pass goes on there. Only one pass goes on at a time.

        `size` is the model's input (H, W), by default its own. `every` takes each n-th frame, `fps`
        so many a second of the video's time.

        Boxes are in pixels of the source. The `pixels` of a batch may have been scaled down to the
        model's input by the decoder (`FrameBatch.scale` tells); `full_size` keeps them as they are.
        """
        if batch_size is not None and batch_size < 1:
            raise RejectedTask(f"batch_size {batch_size} is below 1")
        detector = self._around.detectors.get(
            self._around.guard,
            self._control.check_time,
            alone=self._claimed.crashes > 0,
            model=model,
            weights=weights,
            min_score=min_score,
            labels=None if labels is None else list(labels),
            size=size,
        )
        sampling = {"every": every, "fps": fps, "decoder": decoder}
        size_of = None if full_size else _DecodeSize(detector, exactly=decoder == "decord")
        return self._iterate(sampling, detector, batch_size or detector.batch_size, size_of)

    def frames(
        self,
        *,
        every: int = 1,
        fps: float | None = None,
        decoder: str = "pyav",
        batch_size: int = 4,
    ) -> Iterator[FrameBatch]:
        """Yield batches of frames, without a detector; each is stored as seen."""
        sampling = {"every": every, "fps": fps, "decoder": decoder}
        for batch, _ in self._iterate(sampling, None, batch_size):
            yield batch

    def store(
        self,
        frame: int,
        *,
        detections: Iterable[Detection] | None = None,
        extra: Mapping[str, Any] | None = None,
    ) -> None:
        """Store predictions of the task's own for a frame of the batch that it works on.

        They move in one transaction with that batch, so exactly once. `detections` take the place
        of what the detector found, boxes in pixels of the source; `extra` is JSON that is kept
        beside them, 1 MiB at most. What is None stays as it was. Raises RejectedTask for another
        frame, or what can't be stored.
        """
        own = OwnPredictions() if self._pipeline is None else self._pipeline.own
        own.store(frame, detections, extra)

    def _iterate(
        self,
        sampling: Mapping[str, Any],
        detector: Seat | None,
        batch_size: int,
        size: Size | None = None,
    ) -> Iterator[Frames]:
        self._end_stream()
        source = self._open(sampling, size)
        try:
            self._begin(source)
        except BaseException:
            source.close()
            raise
        assert self._committer is not None
        # a camera's silence ends with its read time-out; a pipe has none
        timed = source.live and not opening.is_local(self.source or "")
        if detector is not None:
            detector.live = source.live
        pipeline = Pipeline(
            source,
            self._committer,
            self._control,
            state=self._state_text,
            detector=detector,
            batch_size=batch_size,
            guard=unguarded if timed else self._around.guard,
            on_frames=self._around.on_frames,
        )
        self._pipeline, self._stream = pipeline, pipeline.batches()
        yield from self._stream
        if self._pipeline is not pipeline:  # else it would look like the source's end
            raise RejectedTask(
                "another pass over the frames began before this one had ended: only one goes on at"
                " a time, so do all that a batch is needed for in one loop"
            )

    def _open(self, sampling: Mapping[str, Any], size: Size | None) -> FrameSource:
        if self.source is None:
            raise RejectedTask("this task has no source: it was registered with source=False")
        local = opening.is_local(self.source)
        if local and not local_path(self.source).exists():
            raise SourceMissing(f"no such file on this host: {self.source}")
        frame, pts = self._position
        with self._around.guard(Call.DECODER) if local else nullcontext():
            return opening.open_source(self.source, frame=frame, pts=pts, size=size, **sampling)

    def _begin(self, source: FrameSource) -> None:
        if not self._active:
            self._around.on_active()
            self._active = True
        if self._committer is None:
            self._committer = Committer(
                self._around.database,
                self._claimed,
                self._control,
                live=source.live,
                on_progress=self._around.on_progress,
            )

    def _state_text(self) -> str:
        if not isinstance(self.state, dict):
            raise RejectedTask("run.state has to be a dict")
        try:
            return storable.json_text(self.state)
        except ValueError as error:
            raise RejectedTask(f"run.state has to be JSON: {error}") from None

    def _end_stream(self) -> None:
        """Close the pass over the source, and count what the task has done with."""
        if self._stream is not None:
            stream, self._stream = self._stream, None
            stream.close()  # type: ignore[attr-defined]  # a generator
        if self._pipeline is not None:
            pipeline, self._pipeline = self._pipeline, None
            pipeline.settle()
            self._position = pipeline.position or self._position

    @property
    def attempts(self) -> int:
        """How many errors the scenario is charged with by now. Asked by the runner."""
        proved = self._committer is not None and self._committer.proved
        return 0 if proved else self._claimed.attempts

    def returned(self) -> str:
        """The task has returned: store what it had done. Called by the runner.

        Returns the state that it left, as JSON. Raises RejectedTask if that can't be stored, and
        the interruption that the task was told of: it returned because of that.
        """
        self._control.check_told()
        self._end_stream()
        state = self._state_text()
        if self._committer is not None:
            self._committer.flush()
        return state

    def interrupted(self) -> None:
        """The task ended between two batches: store what it had done. Called by the runner."""
        if self._committer is not None:
            self._committer.flush()

    def close(self) -> None:
        """Let go of source and committer. Called by the runner."""
        if self._stream is not None:
            self._stream.close()  # type: ignore[attr-defined]  # a generator
            self._stream = None
        if self._committer is not None:
            self._committer.close()


@dataclass(frozen=True, slots=True)
class _DecodeSize:
    """To what size the decoder scales frames for a detector: see `vision.frames.Size`."""

    detector: Seat
    exactly: bool  # decord reads ahead: at the size that the model wants it holds far less

    def __call__(self, height: int, width: int) -> tuple[int, int] | None:
        rows, columns = self.detector.decode_size(height, width)
        worth = height * width >= MIN_REDUCTION * rows * columns
        return (rows, columns) if self.exactly or worth else None
