"""A run's commits: in order, one at a time, in a thread beside decoding and inference."""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from vidan import logs
from vidan.backoff import BackOff
from vidan.db.session import Database
from vidan.domain.detection import Detection, Gap
from vidan.domain.status import STOPPING, Status
from vidan.errors import (
    CommitFailed,
    DatabaseUnavailable,
    LeaseLost,
    RejectedTask,
    RunStopped,
)
from vidan.protocol import commits
from vidan.protocol.claims import Claimed
from vidan.run.control import RunControl

log = logging.getLogger("vidan.commits")

COMMIT_SECONDS = 1.0
"""Seconds from the start of one commit until the next is due."""
COMMIT_FRAMES = 4_000
"""A commit is due at once when this many frames wait, and takes few more than this."""
COMMIT_BYTES = 16 * 2**20
"""A commit is due at once when the waiting frames take this many bytes, and takes few more: a
statement has to end within its timeout.
"""
BUFFER_FRAMES = 20_000
"""Most frames that wait while the database is unavailable; with more, the run waits."""
BUFFER_BYTES = 64 * 2**20
"""Most bytes that waiting frames take while the database is unavailable."""
ROW_BYTES, DETECTION_BYTES = 500, 200
"""Bytes that a waiting frame, and each of its detections, take in memory, roughly."""
MAX_LABELS = 2**15
"""Most labels of a scenario: the ids of labels are stored as smallint."""
MAX_TRACK = 2**31 - 1
"""Largest absolute value of a track id: they are stored as 32-bit integers."""
LIVE_PROGRESS_SECONDS = 600.0
"""Seconds that a run over a live source has to last before it counts as progress."""


@dataclass(frozen=True, slots=True)
class FinishedFrames:
    """Frames that the task has finished, to be stored by a commit."""

    rows: Sequence[commits.Row]
    gaps: Sequence[Gap]
    next_frame: int
    next_pts: int | None
    state: str
    """The task's own state as JSON, as it was when the task had finished these frames."""
    frames_total: int | None
    next_restart: tuple[int, int] | None = None
    source_info: str | None = None
    """What is known about the video, as JSON."""
    notes: Sequence[str] = ()
    """What was noticed about the source so far."""

    @property
    def size(self) -> int:
        """Return roughly how many bytes the frames take in memory."""
        detections = sum(len(row.label_ids) for row in self.rows)
        extra = sum(len(row.extra) for row in self.rows if row.extra is not None)
        return ROW_BYTES * len(self.rows) + DETECTION_BYTES * detections + len(self.state) + extra


class LabelNames:
    """The names that a scenario's `label_ids` stand for. Names are added, never removed."""

    def __init__(self, names: Sequence[str]) -> None:
        self.names = list(names)
        self._ids = {name: place for place, name in enumerate(self.names)}

    def row(
        self,
        frame: int,
        time_ms: int,
        detections: Sequence[Detection],
        extra: str | None = None,
    ) -> commits.Row:
        """Return the row of a frame's detections; `extra` is a JSON object as text.

        Raises RejectedTask for values that the columns can't hold: psycopg would truncate them.
        """
        for found in detections:
            if found.track_id is not None and not -MAX_TRACK <= found.track_id <= MAX_TRACK:
                raise RejectedTask(f"track id {found.track_id} is out of range")
        return commits.Row(
            frame=frame,
            time_ms=time_ms,
            label_ids=[self._id(found.label) for found in detections],
            scores=[found.score for found in detections],
            boxes=[edge for found in detections for edge in found.box],
            track_ids=(
                [found.track_id for found in detections]
                if any(found.track_id is not None for found in detections)
                else None
            ),
            extra=extra,
        )

    def _id(self, name: str) -> int:
        if name not in self._ids:
            if len(self.names) >= MAX_LABELS:
                raise RejectedTask(f"a scenario has {MAX_LABELS} labels at most")
            self._ids[name] = len(self.names)
            self.names.append(name)
        return self._ids[name]


class Committer:
    """Stores the frames that a run's task has finished, in a thread of its own.

    The commit that shows progress clears the scenario's counts of errors and crashes: it is the
    run's second commit that moves the checkpoint or, for a live source, the first one after ten
    minutes of running. `on_progress` is called when that commit is stored.
    """

    def __init__(
        self,
        database: Database,
        claimed: Claimed,
        control: RunControl,
        *,
        live: bool = False,
        on_progress: Callable[[], None] = lambda: None,
    ) -> None:
        self.labels = LabelNames(claimed.label_names)
        self._database = database
        self._fence = claimed.fence
        self._control = control
        self._live = live
        self._on_progress = on_progress
        self._checkpoint = claimed.checkpoint
        self._waiting: deque[FinishedFrames] = deque()
        self._waiting_frames = self._waiting_bytes = 0
        self._in_flight = False
        self._flush = False
        self._closed = False
        self._moving_commits = 0  # commits of this run that moved the checkpoint
        self._clears_budgets = False  # whether the next commit clears them
        self._progress_stored = False
        self._started = self._last_cut = time.monotonic()
        self._changed = threading.Condition()
        self._thread = threading.Thread(
            target=logs.carried(self._run), name=f"commits-{self._fence.scenario_id}", daemon=True
        )
        self._thread.start()

    @property
    def progress_stored(self) -> bool:
        """Whether a commit has stored the run's progress: the scenario's budgets are full again."""
        return self._progress_stored

    def add(self, done: FinishedFrames) -> None:
        """Take frames to be stored; block while too many wait already."""
        with self._changed:
            self._waiting.append(done)
            self._waiting_frames += len(done.rows)
            self._waiting_bytes += done.size
            if len(self._waiting) == 1 or self._due():  # else the thread wakes when a commit is due
                self._changed.notify_all()
            while self._full() and self._control.interruption is None:
                self._changed.wait(0.2)

    def flush(self) -> None:
        """Wait until all frames are stored. Raises LeaseLost or CommitFailed if they can't be."""
        with self._changed:
            self._flush = True
            self._changed.notify_all()
            while (self._waiting or self._in_flight) and not self._lost():
                self._changed.wait(0.2)
            self._flush = False
        if self._lost():
            self._control.check()

    def close(self) -> None:
        """End the thread. Frames that were not flushed are not stored."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
        self._thread.join()

    def _lost(self) -> bool:
        return isinstance(self._control.interruption, LeaseLost | CommitFailed)

    def _run(self) -> None:
        try:
            self._store_all()
        except BaseException as error:  # such as no memory; `flush` would wait for ever
            log.exception("scenario %d: storing ended", self._fence.scenario_id)
            self._control.interrupt(CommitFailed(f"storing ended: {type(error).__name__}"))
            with self._changed:
                self._in_flight = False
                self._changed.notify_all()

    def _store_all(self) -> None:
        while (batch := self._next()) is not None:
            try:
                status = self._store(batch)
            except LeaseLost as lost:
                self._control.interrupt(lost)
            except Exception as error:  # reconnecting does not fix it, so the run must end
                log.exception("scenario %d: a commit failed", self._fence.scenario_id)
                self._control.interrupt(CommitFailed(f"storing failed: {error}"))
            else:
                self._stored(batch, status)
            with self._changed:
                self._in_flight = False
                self._changed.notify_all()
            if self._lost():
                return

    def _next(self) -> commits.Batch | None:
        """Wait until a commit is due, and return its batch; None once the committer is closed."""
        with self._changed:
            while not self._due():
                if self._closed:
                    return None
                waited = time.monotonic() - self._last_cut
                self._changed.wait(max(0.01, COMMIT_SECONDS - waited) if self._waiting else None)
            done = self._cut()
            self._in_flight = True
            self._last_cut = time.monotonic()
        to_checkpoint = done[-1].next_frame
        if self._live:  # a camera whose connection drops after every two commits makes none
            self._clears_budgets |= time.monotonic() - self._started > LIVE_PROGRESS_SECONDS
        else:
            self._clears_budgets |= self._moving_commits >= 1 and to_checkpoint > self._checkpoint
        return commits.Batch(
            from_checkpoint=self._checkpoint,
            to_checkpoint=to_checkpoint,
            checkpoint_pts=done[-1].next_pts,
            restart=done[-1].next_restart,
            state=done[-1].state,
            label_names=tuple(self.labels.names),
            rows=[row for part in done for row in part.rows],
            gaps=[gap for part in done for gap in part.gaps],
            frames_total=done[-1].frames_total,
            source_info=done[-1].source_info,
            notes=done[-1].notes,
            clear_budgets=self._clears_budgets,
        )

    def _cut(self) -> list[FinishedFrames]:
        """Take waiting frames, the oldest first, up to the size of one commit."""
        done: list[FinishedFrames] = []
        frames = size = 0
        while self._waiting and frames < COMMIT_FRAMES and size < COMMIT_BYTES:
            done.append(self._waiting.popleft())
            frames += len(done[-1].rows)
            size += done[-1].size
        self._waiting_frames -= frames
        self._waiting_bytes -= size
        return done

    def _full(self) -> bool:
        return self._waiting_frames > BUFFER_FRAMES or self._waiting_bytes > BUFFER_BYTES

    def _due(self) -> bool:
        if not self._waiting or self._closed:
            return False
        return (
            self._flush
            or self._waiting_frames >= COMMIT_FRAMES
            or self._waiting_bytes >= COMMIT_BYTES
            or time.monotonic() - self._last_cut >= COMMIT_SECONDS
        )

    def _store(self, batch: commits.Batch) -> Status:
        """Commit the batch; retry after a lost connection until the lease has ended."""
        back_off = BackOff()
        while True:
            try:
                return self._database.retrying(commits.commit, self._fence, batch)
            except DatabaseUnavailable as error:
                log.warning("scenario %d: %s", self._fence.scenario_id, error)
            if self._lost() or self._closed:
                raise LeaseLost(f"scenario {self._fence.scenario_id}: the lease ended")
            time.sleep(back_off.pause())

    def _stored(self, batch: commits.Batch, status: Status) -> None:
        if batch.to_checkpoint > batch.from_checkpoint:
            self._moving_commits += 1
        self._checkpoint = batch.to_checkpoint
        log.debug("stored %d frames, the next is %d", len(batch.rows), batch.to_checkpoint)
        if batch.clear_budgets and not self._progress_stored:
            self._progress_stored = True
            self._on_progress()
        if status in STOPPING:
            self._control.interrupt(RunStopped("a stop was asked for"))
