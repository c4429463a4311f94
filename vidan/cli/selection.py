"""Which stored frames are wanted, read page by page, and how one is written as text."""

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

PAGE = 250
"""Frames of one look: a page is on the screen within milliseconds, also among very many others."""


@dataclass
class Selection:
    """Which frames are wanted, and what of them; `last` is the last one read.

    `min_score` is compared as scores are stored, in 32 bits: what was found at 0.9 is no less.
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
        """The next page as it is stored; `last` moves on."""
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
        """Whether nothing that comes later is wanted."""
        return self.limit == 0 or (self.to is not None and self.last >= self.to)

    def passed(self, checkpoint: int) -> bool:
        """Whether a run that goes on at `checkpoint` stores nothing more that is wanted."""
        return self.to is not None and checkpoint > self.to

    @property
    def unseen(self) -> str | None:
        """What to say of labels that no detection read so far has: one may be mistyped."""
        unseen = [label for label in self.labels if label not in self._seen]
        if not unseen or self.limit == 0:
            return None
        found = f"; found: {', '.join(sorted(self._seen))}" if self._seen else ""
        return f"no detection has the label {' or '.join(map(repr, unseen))}{found}"

    def wanted(self, page: Sequence[StoredFrame]) -> Iterator[StoredFrame]:
        """What is wanted of a page; counts down the limit."""
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
