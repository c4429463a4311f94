"""A run's passes over its source, and the commits of the frames that its task has finished.

The task sees `Run` alone. The worker calls the last methods here when the task has ended.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import nullcontext
from dataclasses import dataclass, field
from typing import Any

from vidan.detection.batcher import Seat
from vidan.domain.detection import Detection
from vidan.errors import RejectedTask, SourceMissing
from vidan.processes.slotboard import Call
from vidan.protocol import storable
from vidan.protocol.claims import Claimed
from vidan.run.committer import Committer
from vidan.run.context import RunContext
from vidan.run.control import RunControl
from vidan.run.losses import Losses
from vidan.run.own_predictions import OwnPredictions
from vidan.run.pipeline import Pipeline, Position, unguarded
from vidan.video import opening
from vidan.video.container import local_path
from vidan.video.frames import FrameBatch, FrameSource, Size

Frames = tuple[FrameBatch, list[list[Detection]]]


@dataclass(slots=True)
class Passes:
    """The passes of one run, one at a time, from its checkpoint on.

    `state` is the task's own; it is committed with the frames that the task has finished.
    """

    claimed: Claimed
    control: RunControl
    context: RunContext
    state: dict[str, Any] = field(init=False)
    _position: Position = field(init=False)
    _pipeline: Pipeline | None = field(default=None, init=False)
    _stream: Iterator[Frames] | None = field(default=None, init=False)
    _committer: Committer | None = field(default=None, init=False)
    _active: bool = field(default=False, init=False)
    _losses: Losses = field(default_factory=Losses, init=False)

    def __post_init__(self) -> None:
        self.state = dict(self.claimed.state)
        claimed = self.claimed
        self._position = Position(claimed.checkpoint, claimed.checkpoint_pts, claimed.restart)

    @property
    def own(self) -> OwnPredictions:
        """The task's own predictions for the batch that it works on."""
        return OwnPredictions() if self._pipeline is None else self._pipeline.own

    def iterate(
        self,
        sampling: Mapping[str, Any],
        detector: Seat | None,
        batch_size: int,
        size: Size | None = None,
    ) -> Iterator[Frames]:
        """Yield batches with their detections, from where the previous pass ended.

        Ends the previous pass, if it has not ended. For `sampling` and `size` see `open_source`.
        """
        self.control.check_process()
        self._end_pass()
        source = self._open(sampling, size)
        try:
            committer = self._begin(source)
        except BaseException:
            source.close()
            raise
        # a network source that falls silent ends with its read timeout; a pipe has none
        timed = source.live and not opening.is_local(self.claimed.source or "")
        if detector is not None:
            detector.live = source.live
        pipeline = Pipeline(
            source,
            committer,
            self.control,
            state=self._state_text,
            detector=detector,
            batch_size=batch_size,
            guard=unguarded if timed else self.context.guard,
            on_frames=self.context.on_frames,
            on_gaps=self._losses.add,
            on_notes=self._losses.note,
        )
        self._pipeline, self._stream = pipeline, pipeline.batches()
        yield from self._stream
        if self._pipeline is not pipeline:  # the task would take this for the source's end
            raise RejectedTask(
                "another pass over the frames began before this one had ended: a run has one pass"
                " at a time, so do all that a batch is needed for in one loop"
            )

    def _open(self, sampling: Mapping[str, Any], size: Size | None) -> FrameSource:
        source = self.claimed.source
        if source is None:
            raise RejectedTask("this task has no source: it was registered with source=False")
        local = opening.is_local(source)
        if local and not local_path(source).exists():
            raise SourceMissing(f"no such file on this host: {source}")
        frame, pts, restart = self._position
        with self.context.guard(Call.DECODER) if local else nullcontext():
            return opening.open_source(
                source, frame=frame, pts=pts, restart=restart, size=size, **sampling
            )

    def _begin(self, source: FrameSource) -> Committer:
        """Set the scenario active and start the committer, once a run."""
        if not self._active:
            self.context.on_active()
            self._active = True
        if self._committer is None:
            self._committer = Committer(
                self.context.database,
                self.claimed,
                self.control,
                live=source.live,
                on_progress=self.context.on_progress,
            )
        return self._committer

    def _state_text(self) -> str:
        if not isinstance(self.state, dict):
            raise RejectedTask("run.state has to be a dict")
        try:
            return storable.json_text(self.state)
        except ValueError as error:
            raise RejectedTask(f"run.state has to be JSON: {error}") from None

    def _end_pass(self) -> None:
        """Close the pass over the source; the batch that the task holds counts as finished."""
        self._close_stream()
        if self._pipeline is not None:
            pipeline, self._pipeline = self._pipeline, None
            pipeline.settle()
            self._position = pipeline.position or self._position

    def _close_stream(self) -> None:
        if self._stream is not None:
            stream, self._stream = self._stream, None
            stream.close()  # type: ignore[attr-defined]  # a generator

    # --- called by the worker

    @property
    def attempts(self) -> int:
        """How many errors the scenario is charged with: none once its progress is stored."""
        stored = self._committer is not None and self._committer.progress_stored
        return 0 if stored else self.claimed.attempts

    def finish(self) -> str:
        """Store what the task had done when it returned. Returns its state, as JSON.

        Raises RejectedTask if the state can't be stored, and the interruption that made the task
        leave off.
        """
        self.control.check_left_off()
        self._end_pass()
        state = self._state_text()
        self.flush()
        return state

    def flush(self) -> None:
        """Wait until all batches that the task has finished are stored."""
        if self._committer is not None:
            self._committer.flush()

    def close(self) -> None:
        """Close the source and end the committer. What was not flushed is not stored."""
        self._close_stream()
        self._losses.tell()
        if self._committer is not None:
            self._committer.close()
