"""`vidan predictions find|export`: frames of one scenario or of many, as they are stored."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Annotated, Any

import typer

from vidan.cli import connect
from vidan.cli.choice import Choice
from vidan.cli.command import Commands
from vidan.cli.options import completion
from vidan.cli.options.filters import FilterOptions
from vidan.cli.options.params import Ids, names
from vidan.cli.selection import for_people, for_pipes
from vidan.cli.terminal.output import Output
from vidan.cli.terminal.text import counted, plain
from vidan.domain.bounds import PAGE
from vidan.domain.status import ENDED
from vidan.errors import Pruned
from vidan.export import formats, targets

if TYPE_CHECKING:
    from collections.abc import Callable

    from vidan.config import Settings
    from vidan.db.session import Database
    from vidan.services.frame_search import Wanted
    from vidan.services.predictions import StoredFrame
    from vidan.services.scenarios import Scenario

    Pages = Iterator[list[StoredFrame]]

commands = Commands("predictions")

FormatOption = Annotated[
    str | None,
    typer.Option(
        "--format",
        metavar="F",
        parser=formats.known_format,
        autocompletion=completion.formats,
        help="jsonl or csv [what the name of the file says, else jsonl].",
    ),
]
FileOption = Annotated[
    str | None,
    typer.Option(
        "--out", metavar="FILE", help="File to write instead of stdout, whole or not at all."
    ),
]


@dataclass
class _Reading:
    """Reads the frames of scenarios, and notes what it met on the way."""

    database: Database
    out: Output
    file: str | None
    sources: dict[int, str | None] = field(default_factory=dict)
    unended: list[Scenario] = field(default_factory=list)

    def pages(
        self, scenarios: Iterator[Scenario], read: Callable[[Scenario], Pages], *, alone: bool
    ) -> Pages:
        """Yield the pages of each scenario in turn; one that was pruned is skipped with a warning.

        Its status is read before its frames: if it has ended, they are complete. Raises Pruned if
        the scenario is `alone`, InputRejected if the file is one of the sources.
        """
        for scenario in scenarios:
            self.sources[scenario.id] = scenario.source
            if self.file is not None:
                targets.spare(self.file, scenario.source)
            if scenario.status not in ENDED:
                self.unended.append(scenario)
            try:
                yield from read(scenario)
            except Pruned as error:
                if alone:
                    raise
                self.out.warn(f"skipped: {error}")

    def tell(self, frames: int) -> None:
        """Say how many frames were written, and which scenarios may store more."""
        if self.file is not None:
            self.out.note(f"{counted(frames, 'frame')} written to {self.file}")
        if len(self.unended) == 1:
            (one,) = self.unended
            status = self.out.said(one.status)
            self.out.note(f"scenario {one.id} is {status}: it may store more frames")
        elif self.unended:
            self.out.note(
                f"{len(self.unended)} scenarios have not ended: they may store more frames"
            )


@commands.command(
    "export",
    json=False,
    quiet=False,
    examples="""
        vidan predictions export 42 > predictions.jsonl
        vidan predictions export 42 --out detections.csv
        vidan predictions export --label batch=7 --since 7d --out batch.csv
        vidan predictions export 42 43 44 --format csv | gzip > detections.csv.gz
    """,
)
def export(
    out: Output,
    settings: Settings,
    ids: Ids = None,
    filters: FilterOptions = FilterOptions(),  # noqa: B008  (frozen)
    format: FormatOption = None,
    file: FileOption = None,
) -> None:
    """Write all stored predictions: jsonl has a line per frame, csv a line per detection.

    CSV has the columns scenario_id, frame, time_ms, label, score, x1, y1, x2, y2 and track_id; it
    leaves out frames without detections. Several ids, or filters, add source, as the last column
    and in each line of jsonl. The format is that of the file's name, unless --format is given.
    """
    from vidan.services import predictions

    choice = Choice(ids, filters)
    alone = len(choice.ids) == 1
    with connect.database(settings, out, reads=True) as database:

        def read(scenario: Scenario) -> Pages:
            last = -1
            while True:
                with database.begin() as connection:
                    page = predictions.read_after(connection, scenario.id, last, limit=PAGE)
                if not page:
                    return
                yield page
                last = page[-1].frame

        reading = _Reading(database, out, file)
        found = _begun(reading.pages(choice.scenarios(database), read, alone=alone))
        kind = formats.of_file(format, file)  # after the check that the file is no source
        count = formats.write(found, kind, file, None if alone else reading.sources)
        reading.tell(count)


def _begun(pages: Pages) -> Pages:
    """Return the pages, the first of which has been read: errors come before a file is opened."""
    first = next(pages, [])

    def all_pages() -> Pages:
        yield first
        yield from pages

    return all_pages()


@commands.command(
    "find",
    examples="""
        vidan predictions find --labels-all person,car --label batch=7
        vidan predictions find --labels-any dog,cat --min-score 0.6 --since 7d --out pets.csv
        vidan predictions find 42 43 --labels-all person --json | jq -r '[.source, .frame] | @tsv'
        vidan predictions find --labels-all train --quiet      ids of the scenarios
    """,
)
def find(
    out: Output,
    settings: Settings,
    ids: Ids = None,
    labels_all: Annotated[
        Any,
        typer.Option(
            "--labels-all",
            metavar="A,B",
            parser=names,
            help="Frames with a detection of each of these labels.",
        ),
    ] = None,
    labels_any: Annotated[
        Any,
        typer.Option(
            "--labels-any",
            metavar="A,B",
            parser=names,
            help="Frames with a detection of one of these labels.",
        ),
    ] = None,
    min_score: Annotated[
        float,
        typer.Option(
            "--min-score",
            metavar="X",
            min=0,
            max=1,
            help="Only detections scoring X or more count.",
        ),
    ] = 0.0,
    limit: Annotated[
        int | None, typer.Option("--limit", metavar="N", min=1, help="Find at most N frames.")
    ] = None,
    filters: FilterOptions = FilterOptions(),  # noqa: B008  (frozen)
    format: FormatOption = None,
    file: FileOption = None,
) -> None:
    """Find frames over scenarios: those with the labels, each with its scenario and source.

    Without ids and filters all scenarios are searched, the oldest first. All frames are printed as
    they are found, one per line; JSON Lines with --json. In a pipe: scenario, source, frame,
    milliseconds, and `label score x1 y1 x2 y2` of each detection, separated by tabs. --format and
    --out write what export writes. --quiet prints each scenario's id once.
    """
    from vidan.services import frame_search

    wanted = frame_search.Wanted(labels_all or (), labels_any or (), min_score)
    choice = Choice(ids, filters, all_by_default=True)
    kind = formats.of_file(format, file) if format or file else None
    with connect.database(settings, out, reads=True) as database:
        reading = _Reading(database, out, file)

        def read(scenario: Scenario) -> Pages:
            return _found(database, scenario, wanted, first_only=out.quiet and kind is None)

        pages = reading.pages(choice.scenarios(database), read, alone=False)
        if limit is not None:
            pages = _at_most(pages, limit)
        if kind is not None:
            count = formats.write(pages, kind, file, reading.sources)
        else:
            count = sum(_print(out, page, reading.sources) for page in pages)
        reading.tell(count)
        if kind is None or count == 0:
            searched = counted(len(reading.sources), "scenario")
            out.note(f"{counted(count, 'frame')} found in {searched}")


def _found(database: Database, scenario: Scenario, wanted: Wanted, *, first_only: bool) -> Pages:
    """Yield the wanted frames of a scenario, page by page, or only the first one."""
    from vidan.services import frame_search, predictions

    if scenario.pruned:
        raise predictions.pruned(scenario.id)
    last: int | None = -1
    while last is not None:
        with database.begin() as connection:
            page = frame_search.read(connection, scenario.id, wanted, last, limit=PAGE)
        if page.frames and first_only:
            yield page.frames[:1]
            return
        if page.frames:
            yield page.frames
        last = page.last


def _at_most(pages: Pages, limit: int) -> Pages:
    """Yield pages until they hold `limit` frames; nothing more is read then."""
    left = limit
    for page in pages:
        yield page[:left]
        left -= len(page)
        if left <= 0:
            return


def _print(out: Output, page: list[StoredFrame], sources: dict[int, str | None]) -> int:
    for frame in page:
        source = sources[frame.scenario_id]
        if out.terminal:
            text = f"scenario {frame.scenario_id}  {plain(source)}  {for_people(frame)}"
        else:
            text = f"{frame.scenario_id}\t{plain(source)}\t{for_pipes(frame)}"
        record = {**frame.as_json(), "source": source} if out.json else {}
        out.line(record, text, id=frame.scenario_id)
    out.flush()
    return len(page)
