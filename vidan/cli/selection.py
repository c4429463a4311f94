"""The stored frames that a command asks for: read page by page, filtered, written as text."""

from __future__ import annotations

import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from vidan.cli.terminal.text import plain

if TYPE_CHECKING:
    from vidan.db.session import Database
    from vidan.domain.detection import Detection
    from vidan.services.predictions import StoredFrame

_STORED_SCORE = struct.Struct("f")
"""Scores are stored in 32 bits."""

PAGE = 250
"""Frames read at a time: a page is on the screen within milliseconds, even of a large table."""


@dataclass
class Selection:
    """Which frames and detections are wanted; `last` is the last frame that was read.

    `min_score` is rounded to 32 bits, as stored scores are: a detection of score 0.9 then passes
    `min_score` 0.9.
    """

    last: int
    to: int | None
    limit: int | None
    labels: Sequence[str]
    min_score: float
    only_detections: bool
    _seen: set[str] = field(default_factory=set)

    def __post_init__(self) -> None:
        (self.min_score,) = _STORED_SCORE.unpack(_STORED_SCORE.pack(self.min_score))

    def page(self, database: Database, scenario_id: int) -> list[StoredFrame]:
        """Read the next page of stored frames, and advance `last`."""
        from vidan.services import predictions

        with database.begin() as connection:
            page = predictions.read_after(
                connection, scenario_id, self.last, limit=PAGE, upto=self.to
            )
        if page:
            self.last = page[-1].frame
        return page

    @property
    def finished(self) -> bool:
        """Whether no later frame is wanted."""
        return self.limit == 0 or (self.to is not None and self.last >= self.to)

    def passed(self, checkpoint: int) -> bool:
        """Whether a run that resumes at `checkpoint` can store no more wanted frames."""
        return self.to is not None and checkpoint > self.to

    @property
    def unseen(self) -> str | None:
        """A message naming wanted labels that no detection has, since one may be mistyped."""
        unseen = [label for label in self.labels if label not in self._seen]
        if not unseen or self.limit == 0:
            return None
        found = f"; found: {', '.join(sorted(self._seen))}" if self._seen else ""
        return f"no detection has the label {' or '.join(map(repr, unseen))}{found}"

    def wanted(self, page: Sequence[StoredFrame]) -> Iterator[StoredFrame]:
        """Yield the wanted frames of a page; counts down the limit."""
        for frame in page:
            if self.labels:
                self._seen.update(detection.label for detection in frame.detections)
            chosen = replace(frame, detections=tuple(filter(self._fits, frame.detections)))
            if self.limit == 0:
                return
            if chosen.detections or not self.only_detections:
                if self.limit is not None:
                    self.limit -= 1
                yield chosen

    def _fits(self, detection: Detection) -> bool:
        labelled = not self.labels or detection.label in self.labels
        return labelled and detection.score >= self.min_score


def for_people(frame: StoredFrame) -> str:
    """`frame 120  0:04.0  person 0.91, car 0.55`."""
    minutes, seconds = divmod(frame.time_ms / 1000, 60)
    found = ", ".join(f"{plain(one.label)} {one.score:.2f}" for one in frame.detections)
    return f"frame {frame.frame:<6} {int(minutes)}:{seconds:04.1f}  {found or '-'}"


def _word(label: str) -> str:
    return plain(label).replace(" ", "_")


def for_pipes(frame: StoredFrame) -> str:
    """Frame, milliseconds and a field for each detection, separated by tabs."""
    found = (
        " ".join([_word(one.label), f"{one.score:.4f}", *(f"{e:.1f}" for e in one.box)])
        for one in frame.detections
    )
    return "\t".join([str(frame.frame), str(frame.time_ms), *found])
