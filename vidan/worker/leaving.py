"""How a worker leaves of its own accord: it was drained or stopped, or has done its frames."""

from __future__ import annotations

import logging
import threading
import time

from vidan.domain.status import DesiredState
from vidan.errors import HandOver
from vidan.worker.slots import ClaimedRun, Slots

log = logging.getLogger("vidan.worker")

RECYCLE_SECONDS = 60.0
"""So long a process that has done its frames waits for runs that have stored nothing in it yet."""


class Leaving:
    """Whether a worker still takes scenarios on, and when what runs in it goes.

    Drained, it lets everything come to its end; stopped, it hands over now. After `max_frames` it
    hands each run over as soon as that has stored something here, so that a process always gets
    every video on, however small the number. What has no frames gets RECYCLE_SECONDS to end.
    """

    def __init__(self, max_frames: int | None) -> None:
        self.begun = False
        """It takes nothing on any more."""
        self.retired = False
        """It was asked to leave for good."""
        self._max_frames = max_frames
        self._frames = 0
        self._counting = threading.Lock()
        self._since = 0.0

    def count(self, engagement: ClaimedRun, frames: int) -> None:
        """Count frames that a run has handed to its committer; called in its slot's thread."""
        engagement.frames += frames
        with self._counting:
            self._frames += frames

    def look(self, desired: DesiredState) -> bool:
        """Tell whether it is time to take nothing on any more."""
        done = self._max_frames is not None and self._frames >= self._max_frames
        if not self.retired and desired is not DesiredState.RUNNING:
            self.begun = self.retired = True
            log.info("%s: nothing new is taken", desired.value)
        elif not self.begun and done:
            self.begun = True
            self._since = time.monotonic()
            log.info("%d frames are done: making room for a fresh process", self._frames)
        return self.begun

    def hand_over(self, desired: DesiredState, slots: Slots) -> bool:
        """Ask runs to end whose time has come. Returns whether nothing is waited for any more."""
        engaged = slots.engaged()
        if not engaged or desired is DesiredState.STOPPED:
            return True
        if self.retired:
            return False
        for engagement in engaged:
            if engagement.frames:
                engagement.control.interrupt(HandOver("its process is recycled"))
        return time.monotonic() - self._since > RECYCLE_SECONDS
