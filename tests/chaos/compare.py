"""Compares what two runs have stored, row for row, except for what batching may change."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from tests.chaos.workload import Expected
from vidan.domain.detection import Detection

SCORE = 1e-3
"""Largest difference of two scores that count as equal."""
EDGE = 0.5
"""Largest difference, in pixels, of two edges that count as equal."""


def differences(
    found: Expected, expected: Expected, threshold: float, *, upto: int | None = None
) -> Iterator[str]:
    """Yield a line for each difference. Only frames before `upto` are expected."""
    wanted = {n: row for n, row in expected.frames.items() if upto is None or n < upto}
    if lost := sorted(wanted.keys() - found.frames.keys()):
        yield f"{len(lost)} frames lost: {_some(lost)}"
    if more := sorted(found.frames.keys() - wanted.keys()):
        yield f"{len(more)} frames too many: {_some(more)}"
    for number in sorted(wanted.keys() & found.frames.keys()):
        mine, other = found.frames[number], wanted[number]
        if mine.time_ms != other.time_ms:
            yield f"frame {number} is at {mine.time_ms} ms, not {other.time_ms}"
        if line := detections_differ(mine.detections, other.detections, threshold):
            yield f"frame {number}: {line}"
    gaps = [gap for gap in expected.gaps if upto is None or gap.from_frame < upto]
    if list(found.gaps) != gaps:
        yield f"the gaps are {list(found.gaps)}, not {gaps}"


def detections_differ(
    mine: Sequence[Detection], other: Sequence[Detection], threshold: float
) -> str | None:
    """Return what differs, or None. A detection close to the threshold may be there or not."""
    left = list(other)
    for one in mine:
        twin = next((two for two in left if _same(one, two)), None)
        if twin is not None:
            left.remove(twin)
        elif one.score > threshold + SCORE:
            return f"{one} was not found by the undisturbed run, which has {left}"
    missing = [two for two in left if two.score > threshold + SCORE]
    return f"{missing[0]} is missing" if missing else None


def _same(one: Detection, two: Detection) -> bool:
    return (
        one.label == two.label
        and one.track_id == two.track_id
        and abs(one.score - two.score) <= SCORE
        and all(abs(a - b) <= EDGE for a, b in zip(one.box, two.box, strict=True))
    )


def _some(numbers: Sequence[int]) -> str:
    shown = ", ".join(map(str, numbers[:5]))
    return shown + (", …" if len(numbers) > 5 else "")
