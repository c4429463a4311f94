"""How many frames a run will store: exactly, or about."""

from __future__ import annotations

import math
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


def estimated_total(probe: Probe, opened: Opened, sampling: Sampling) -> int | None:
    """Return about how many frames will be stored after sampling, from length and rate.

    None where there is no length, as for a camera.
    """
    seconds = _seconds(probe, opened)
    if opened.live or not probe.rate or not seconds or seconds <= 0:
        return None
    pictures = math.ceil(seconds * probe.rate - Fraction(1, 2))
    if sampling.fps is not None:
        pictures = min(pictures, math.ceil(seconds * Fraction(sampling.fps)))
    return max(1, -(-pictures // sampling.every))


def _seconds(probe: Probe, opened: Opened) -> Fraction | None:
    """Return how long the video is: as its header promises, else as FFmpeg estimates."""
    if probe.promise is not None and probe.promise.end is not None:
        return (probe.promise.end - (probe.start or 0)) * Fraction(opened.time_base)
    whole = opened.container.duration
    return Fraction(whole, 10**6) if whole else None
