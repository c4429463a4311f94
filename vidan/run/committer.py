"""A run's commits: in order, one in flight, off the critical path of decoding and inference."""

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
"""A commit is due this long after the one before."""
COMMIT_FRAMES = 4_000
"""… or when this many frames wait; no commit has many more."""
COMMIT_BYTES = 16 * 2**20
"""… or when they take so much memory: one statement has to get through within its time-out."""
BUFFER_FRAMES = 20_000
"""While the database is away, a run goes on until this many frames wait …"""
BUFFER_BYTES = 64 * 2**20
"""… or take so much memory."""
ROW_BYTES, DETECTION_BYTES = 500, 200
"""What a frame and each of its detections take while they wait, about."""
MAX_LABELS = 2**15
MAX_TRACK = 2**31 - 1
LIVE_PROGRESS_SECONDS = 600.0
"""A live source proves progress by running this long."""


@dataclass(frozen=True, slots=True)
class Done:
    """Frames that the task has done with, as a commit will store them."""

    rows: Sequence[commits.Row]
    gaps: Sequence[Gap]
    next_frame: int
    next_pts: int | None
    state: str  # the task's own, as JSON, as it was when it had done these frames
    frames_total: int | None

    @property
    def size(self) -> int:
        """Return how many bytes they take in memory, about."""
        detections = sum(len(row.label_ids) for row in self.rows)
        extra = sum(len(row.extra) for row in self.rows if row.extra is not None)
        return ROW_BYTES * len(self.rows) + DETECTION_BYTES * detections + len(self.state) + extra


class LabelNames:
    """The names that a scenario's `label_ids` stand for; it only ever grows."""

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
        """Return a frame's detections as they are stored; `extra` is JSON text of an object.

        Raises RejectedTask for what the columns can't hold: psycopg would store it truncated.
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
    """Stores what a run has done, in a thread of its own.

    `on_progress` is called once the run has proved progress: its second commit that moved the
    checkpoint or, for a live source, ten minutes of running.
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
        self._waiting: deque[Done] = deque()
        self._frames = self._bytes = 0
        self._in_flight = False
        self._flush = False
        self._closed = False
        self._moved = 0  # commits of this run that moved the checkpoint
        self._proved = self._told = False
        self._started = self._last = time.monotonic()
        self._changed = threading.Condition()
        self._thread = threading.Thread(
            target=logs.carried(self._run), name=f"commits-{self._fence.scenario_id}", daemon=True
        )
        self._thread.start()

    @property
    def proved(self) -> bool:
        """Whether the run has proved progress: its scenario's budgets are unspent again."""
        return self._told

    def add(self, done: Done) -> None:
        """Hand over frames to be stored; waits while too many wait already."""
        with self._changed:
            self._waiting.append(done)
            self._frames += len(done.rows)
            self._bytes += done.size
            if len(self._waiting) == 1 or self._due():  # else its thread waits for the time
                self._changed.notify_all()
            while self._full() and self._control.interruption is None:
                self._changed.wait(0.2)

    def flush(self) -> None:
        """Wait until all is stored. Raises LeaseLost or CommitFailed when that can't be."""
        with self._changed:
            self._flush = True
            self._changed.notify_all()
            while (self._waiting or self._in_flight) and not self._lost():
                self._changed.wait(0.2)
            self._flush = False
        if self._lost():
            self._control.check()

    def close(self) -> None:
        """End the thread; what was not flushed is not stored."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
        self._thread.join()

    def _lost(self) -> bool:
        return isinstance(self._control.interruption, LeaseLost | CommitFailed)

    def _run(self) -> None:
        while (batch := self._next()) is not None:
            try:
                status = self._store(batch)
            except LeaseLost as lost:
                self._control.interrupt(lost)
            except Exception as error:  # what no reconnect mends: the run must not go on unstored
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
        """Wait for the next commit to be due, and cut its batch; None at the end."""
        with self._changed:
            while not self._due():
                if self._closed:
                    return None
                waited = time.monotonic() - self._last
                self._changed.wait(max(0.01, COMMIT_SECONDS - waited) if self._waiting else None)
            done = self._cut()
            self._in_flight = True
            self._last = time.monotonic()
        to_checkpoint = done[-1].next_frame
        if self._live:  # a camera that drops after two commits, again and again, does not get on
            self._proved |= time.monotonic() - self._started > LIVE_PROGRESS_SECONDS
        else:
            self._proved |= self._moved >= 1 and to_checkpoint > self._checkpoint
        return commits.Batch(
            from_checkpoint=self._checkpoint,
            to_checkpoint=to_checkpoint,
            checkpoint_pts=done[-1].next_pts,
            state=done[-1].state,
            label_names=tuple(self.labels.names),
            rows=[row for part in done for row in part.rows],
            gaps=[gap for part in done for gap in part.gaps],
            frames_total=done[-1].frames_total,
            clear_budgets=self._proved,
        )

    def _cut(self) -> list[Done]:
        """Take what waits, from the first on, up to what one commit may have."""
        done: list[Done] = []
        frames = size = 0
        while self._waiting and frames < COMMIT_FRAMES and size < COMMIT_BYTES:
            done.append(self._waiting.popleft())
            frames += len(done[-1].rows)
            size += done[-1].size
        self._frames -= frames
        self._bytes -= size
        return done

    def _full(self) -> bool:
        return self._frames > BUFFER_FRAMES or self._bytes > BUFFER_BYTES

    def _due(self) -> bool:
        if not self._waiting or self._closed:
            return False
        return (
            self._flush
            or self._frames >= COMMIT_FRAMES
            or self._bytes >= COMMIT_BYTES
            or time.monotonic() - self._last >= COMMIT_SECONDS
        )

    def _store(self, batch: commits.Batch) -> Status:
        """Commit, again after a lost connection, until it has landed or the lease has ended."""
        back_off = BackOff()
        while True:
            try:
                return self._database.retrying(
                    lambda connection: commits.commit(connection, self._fence, batch)
                )
            except DatabaseUnavailable as error:
                log.warning("scenario %d: %s", self._fence.scenario_id, error)
            if self._lost() or self._closed:
                raise LeaseLost(f"scenario {self._fence.scenario_id}: the lease ended")
            time.sleep(back_off.pause())

    def _stored(self, batch: commits.Batch, status: Status) -> None:
        if batch.to_checkpoint > batch.from_checkpoint:
            self._moved += 1
        self._checkpoint = batch.to_checkpoint
        log.debug("stored %d frames, the next is %d", len(batch.rows), batch.to_checkpoint)
        if batch.clear_budgets and not self._told:
            self._told = True
            self._on_progress()
        if status in STOPPING:
            self._control.interrupt(RunStopped("a stop was asked for"))
