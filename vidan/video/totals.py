"""How many frames a run will store."""

from __future__ import annotations

from fractions import Fraction
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from vidan.video.container import Opened
    from vidan.video.probe import Probe
    from vidan.video.sampling import Sampling


def stored_total(probe: Probe, opened: Opened, sampling: Sampling) -> int | None:
    """After sampling, None if unknown. Cheap: from the container's header, so it is what that
    promises.

    With `fps` the decode times stand in for the times of showing: the same, shifted, wherever
    frames follow one another evenly; elsewhere it may be out by a few.
    """
    if probe.total is None or not probe.timed:
        return None
    if sampling.fps is None:
        return -(-probe.total // sampling.every)
    stamps = [e.timestamp for e in opened.stream.index_entries if e.size > 0 and not e.is_discard]
    if len(stamps) != probe.total:
        return None
    before: int | None = None
    count = 0
    for stamp in stamps:
        ticks = stamp - stamps[0]
        count += sampling.wants(0, ticks, before, Fraction(opened.time_base))
        before = ticks
    return count
