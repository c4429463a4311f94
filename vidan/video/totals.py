"""How many frames a run will store."""

from __future__ import annotations

from fractions import Fraction
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from vidan.video.container import Opened
    from vidan.video.probe import Probe
    from vidan.video.sampling import Sampling


def stored_total(probe: Probe, opened: Opened, sampling: Sampling) -> int | None:
    """Return how many frames will be stored after sampling, according to the container's header.

    None if the header does not say. With `fps` the decode times replace the display times, which
    differ from them by a constant where frames are evenly spaced; elsewhere the total may be wrong
    by a few frames.
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
