"""How a worker leaves: it was drained or stopped, or has reached its number of frames."""

from __future__ import annotations

import logging
import time

from vidan.domain.status import DesiredState
from vidan.errors import HandOver
from vidan.worker.slots import FrameCount, Slots

log = logging.getLogger("vidan.worker")

RECYCLE_SECONDS = 60.0
"""Longest time, in seconds, that a process which has reached its number of frames waits for runs
that have stored nothing in it yet."""


class Leaving:
    """Decides whether a worker still claims scenarios, and when its runs have to end.

    A drained worker lets its runs finish; a stopped one hands them over now. After `max_frames` the
    process hands each run over as soon as that run has stored something here: so every video makes
    progress in every process, however small the number. A run without frames gets RECYCLE_SECONDS.
    """

    def __init__(self, max_frames: int | None, frames: FrameCount) -> None:
        self.begun = False
        """Whether the worker claims nothing any more."""
        self.retired = False
        """Whether the worker was asked to leave and not to be started again."""
        self._max_frames = max_frames
        self._frames = frames
        self._since = 0.0

    def should_leave(self, desired: DesiredState) -> bool:
        """Return whether the worker has to claim nothing from now on."""
        done = self._max_frames is not None and self._frames.total >= self._max_frames
        if not self.retired and desired is not DesiredState.RUNNING:
            self.begun = self.retired = True
            log.info("%s: nothing new is taken", desired.value)
        elif not self.begun and done:
            self.begun = True
            self._since = time.monotonic()
            log.info("%d frames are done: making room for a fresh process", self._frames.total)
        return self.begun

    def hand_over(self, desired: DesiredState, slots: Slots) -> bool:
        """Ask runs that have to end to hand over. Returns whether the worker may leave now."""
        runs = slots.runs()
        if not runs or desired is DesiredState.STOPPED:
            return True
        if self.retired:
            return False
        for run in runs:
            if run.frames:
                run.control.interrupt(HandOver("its process is recycled"))
        return time.monotonic() - self._since > RECYCLE_SECONDS
