"""`vidan scenario summary`: what scenarios have found, each and together."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from vidan.cli import connect
from vidan.cli.choice import Choice
from vidan.cli.command import Commands
from vidan.cli.options.filters import FilterOptions
from vidan.cli.options.params import Ids
from vidan.cli.terminal.output import Output
from vidan.cli.terminal.text import by_label, counted
from vidan.domain.durations import in_words
from vidan.errors import NotFoundError

if TYPE_CHECKING:
    from vidan.config import Settings
    from vidan.db.session import Database
    from vidan.services.predictions import Summary
    from vidan.services.scenarios import Scenario

COUNTED_AT_ONCE = 20
"""Scenarios whose predictions are counted in one statement."""

commands = Commands("scenario")


@dataclass(frozen=True)
class Row:
    """A scenario and its counts; None if it was pruned."""

    scenario: Scenario
    counts: Summary | None

    def as_json(self) -> dict[str, Any]:
        """Return the JSON that scripts may rely on."""
        from vidan.services.predictions import total

        counts = (self.counts or total([])).as_json()
        return {
            "scenario_id": self.scenario.id,
            "status": str(self.scenario.status),
            "source": self.scenario.source,
            **(counts if self.counts else dict.fromkeys(counts)),
            "error": self.scenario.error,
        }


@commands.command(
    "summary",
    examples="""
        vidan scenario summary 42
        vidan scenario summary --label batch=7
        vidan scenario summary --label batch=7 --json | jq .frames_with.person
        vidan scenario summary --since 1d --json | jq '.scenarios[] | [.source, .fps]'
    """,
)
def summary(
    out: Output,
    settings: Settings,
    ids: Ids = None,
    filters: FilterOptions = FilterOptions(),  # noqa: B008  (frozen)
) -> None:
    """Show what scenarios have found: frames, lost frames, detections, seconds, frames per second.

    Of several scenarios there is a line each, and the sums. JSON has the sums, and each scenario in
    `scenarios`; of a single scenario it also has its id, status, source and error. `seconds` are
    those of all runs, also of runs at the same time. In a pipe several scenarios are a line each:
    id, status, frames, lost frames, detections, seconds, frames per second, frames with each
    label, source, separated by tabs; the sums are on stderr.
    """
    from vidan.services import predictions

    choice = Choice(ids, filters)
    with connect.database(settings, out, reads=True) as database:
        rows = _read(database, choice)
    if not rows:
        raise NotFoundError("no scenario matches", hint="see `vidan scenario list`")
    if len(rows) == 1 and rows[0].counts is None:
        raise predictions.pruned(rows[0].scenario.id)
    for row in rows:
        if row.counts is None:
            out.warn(f"not counted: {predictions.pruned(row.scenario.id)}")
    total = predictions.total(row.counts for row in rows if row.counts is not None)
    if out.json:
        single = rows[0].as_json() if len(rows) == 1 else {}
        record = {**single, **total.as_json(), "scenarios": [row.as_json() for row in rows]}
        out.details(record, id=None)
    elif len(rows) == 1:
        _print_one(out, rows[0])
    else:
        _print_many(out, rows, total)


def _read(database: Database, choice: Choice) -> list[Row]:
    from vidan.services import predictions

    rows: list[Row] = []
    found = list(choice.scenarios(database))
    for start in range(0, len(found), COUNTED_AT_ONCE):
        part = found[start : start + COUNTED_AT_ONCE]
        with database.begin() as connection:
            counts = predictions.summaries(connection, [one.id for one in part])
        # one that was deleted meanwhile is left out
        rows += [Row(one, counts[one.id]) for one in part if one.id in counts]
    return rows


def _print_one(out: Output, row: Row) -> None:
    record = row.as_json()
    record["status"] = row.scenario.status
    for name in ("detections_of", "frames_with"):
        record[name] = by_label(record[name]) or None
    out.details({name: one for name, one in record.items() if one is not None}, id=row.scenario.id)


def _print_many(out: Output, rows: Sequence[Row], total: Summary) -> None:
    def of(name: str) -> Any:
        return lambda row: row.as_json()[name]

    out.listing(
        rows,
        {
            "ID": of("scenario_id"),
            "STATUS": lambda row: row.scenario.status,
            "FRAMES": of("frames"),
            "LOST": of("lost_frames"),
            "DETECTIONS": of("detections"),
            "SECONDS": of("seconds"),
            "FPS": of("fps"),
            "FRAMES WITH": lambda row: (row.counts and by_label(row.counts.frames_with)) or None,
            "SOURCE": of("source"),
        },
        record=lambda row: row.as_json(),
        id=of("scenario_id"),
        name="scenarios",
        spare=("SECONDS", "LOST"),
    )
    said = [
        f"total of {counted(len(rows), 'scenario')}: {counted(total.frames, 'frame')}",
        f"{total.lost_frames} lost",
        counted(total.detections, "detection"),
    ]
    if total.fps is not None:
        said.append(f"{in_words(round(total.seconds or 0, 1))}, {total.fps:.1f} fps")
    out.note(", ".join(said))
    if total.by_label:
        out.note(f"detections of: {by_label(total.by_label)}")
        out.note(f"frames with: {by_label(total.frames_with)}")
