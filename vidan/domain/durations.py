"""Lengths of time: read from seconds or a timedelta, written in words."""

from __future__ import annotations

import math
from datetime import timedelta

from vidan.errors import InputRejected

Duration = timedelta | float
"""A length of time: a timedelta, or seconds."""

MAX_SECONDS = 10 * 365 * 86_400.0
"""Longest duration, in seconds: ten years. PostgreSQL's timestamps could not hold a much later time
at which a scenario is due."""

_UNITS = ((86_400.0, "d"), (3_600.0, "h"), (60.0, "min"))


def seconds(value: Duration, name: str, *, may_be_zero: bool = False) -> float:
    """Return a duration in seconds. Raises InputRejected, with `name`, if it is out of range."""
    found = value.total_seconds() if isinstance(value, timedelta) else value
    if not isinstance(found, int | float) or isinstance(found, bool) or math.isnan(found):
        raise InputRejected(f"{name}={value!r} is not a duration", hint="seconds, or a timedelta")
    if not 0 <= found <= MAX_SECONDS or not (found or may_be_zero):
        low = "0 or more" if may_be_zero else "more than 0"
        raise InputRejected(f"{name}={value} is out of range", hint=f"{low}, ten years at most")
    return float(found)


def in_words(duration: float) -> str:
    """Return seconds as a person would say them: `2 h`, `1 min 30 s`, `0.5 s`."""
    duration = round(duration, 3) or duration
    if 0 < duration < 0.001:
        return f"{duration:.3g} s"
    said = []
    for size, unit in _UNITS:
        count, duration = divmod(duration, size)
        if count:
            said.append(f"{count:.0f} {unit}")
    if duration or not said:
        said.append(f"{duration:.3f}".rstrip("0").rstrip(".") + " s")
    return " ".join(said)
