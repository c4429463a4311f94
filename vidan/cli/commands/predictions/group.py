"""`vidan predictions`: the group, and the commands about one scenario."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Annotated

import typer

from vidan.cli import connect, failures
from vidan.cli.command import Commands
from vidan.cli.commands.predictions import several
from vidan.cli.options.params import Id
from vidan.cli.selection import Selection, for_people, for_pipes
from vidan.cli.terminal.output import Output
from vidan.domain.bounds import MAX_ID
from vidan.errors import UsageError

if TYPE_CHECKING:
    from vidan.config import Settings
    from vidan.db.session import Database
    from vidan.services.predictions import StoredFrame
    from vidan.services.scenarios import Scenario


commands = Commands(
    "predictions",
    "Show, follow, find, export and draw detections.",
    examples="""
        vidan predictions show 42 --only-detections
        vidan predictions watch 42
        vidan predictions find --labels-all person,car --label batch=7
        vidan predictions export 42 --out detections.csv
        vidan predictions render 42 annotated.mp4
    """,
)

FromOption = Annotated[
    int, typer.Option("--from", metavar="N", min=0, max=MAX_ID, help="First frame.")
]
ToOption = Annotated[
    int | None, typer.Option("--to", metavar="N", min=0, max=MAX_ID, help="Last frame.")
]
FramesOption = Annotated[
    int | None, typer.Option("--limit", metavar="N", min=1, help="Print at most N frames.")
]
LabelsOption = Annotated[
    list[str] | None,
    typer.Option("--label", metavar="L", help="Only detections of this label. Repeatable."),
]
MinScoreOption = Annotated[
    float,
    typer.Option("--min-score", metavar="X", min=0, max=1, help="Drop detections scoring below X."),
]
OnlyOption = Annotated[
    bool, typer.Option("--only-detections", help="Leave out frames without detections.")
]


@commands.command(
    "show",
    examples="""
        vidan predictions show 42
        vidan predictions show 42 --from 100 --to 200 --label person --min-score 0.6
        vidan predictions show 42 --json | jq -c 'select(.detections | length > 3) | .frame'
    """,
)
def show(
    out: Output,
    settings: Settings,
    scenario_id: Id,
    start: FromOption = 0,
    to: ToOption = None,
    limit: FramesOption = None,
    label: LabelsOption = None,
    min_score: MinScoreOption = 0.0,
    only_detections: OnlyOption = False,
) -> None:
    """Print the stored frames in order, one per line; JSON Lines with --json.

    In a pipe: frame, milliseconds, and `label score x1 y1 x2 y2` of each detection, separated by
    tabs.
    """
    selection = _selection(start, to, limit, label, min_score, only_detections)
    with connect.database(settings, out, reads=True) as database:
        while page := selection.page(database, scenario_id):
            _print(out, selection.wanted(page))
            if selection.finished:
                break
    _tell_unseen(out, selection)


@commands.command(
    "watch",
    examples="""
        vidan predictions watch 42
        vidan predictions watch 42 --only-detections --label person
        vidan predictions watch 42 --json | jq -c '[.frame, .detections[].label]'
    """,
)
def watch(
    out: Output,
    settings: Settings,
    scenario_id: Id,
    start: FromOption = 0,
    to: ToOption = None,
    limit: FramesOption = None,
    label: LabelsOption = None,
    min_score: MinScoreOption = 0.0,
    only_detections: OnlyOption = False,
) -> int:
    """Print stored frames, then new ones as they are stored, until the scenario has ended.

    Exit code 0: completed, or all requested frames are printed; 5: failed; 6: stopped. Ctrl-C ends
    the watching, not the scenario.
    """
    from vidan.cli import following

    selection = _selection(start, to, limit, label, min_score, only_detections)
    with connect.database(settings, out, reads=True, follows=True) as database:
        try:
            following.note_unserved(database, out, [scenario_id])
            ended = follow(
                database, out, scenario_id, selection, lambda frames: _print(out, frames)
            )
        except KeyboardInterrupt:
            following.say_they_continue(out, [scenario_id])
            return failures.INTERRUPTED
        _tell_unseen(out, selection)
        if ended is None:
            return 0
        following.tell_end(out, ended)
    return following.code_of(ended.status)


def follow(
    database: Database,
    out: Output,
    scenario_id: int,
    selection: Selection,
    show: Callable[[Iterator[StoredFrame]], None],
) -> Scenario | None:
    """Call `show` with each page of frames as it is stored, until no more can come.

    Returns the scenario as it ended, or None if it may store more that is not wanted. Status and
    checkpoint are read before the page, so that no frame stored before the end is missed.
    """
    from vidan.cli import following
    from vidan.domain.status import ENDED

    def read_page() -> tuple[Scenario, list[StoredFrame]]:
        (scenario,) = following.read_all(database, [scenario_id])
        if before <= scenario.checkpoint <= selection.last:
            selection.last = before  # it was started from the beginning
        return scenario, selection.page(database, scenario_id)

    before = selection.last
    while True:
        scenario, page = following.patiently(read_page, out)
        show(selection.wanted(page))
        if selection.finished:
            return None
        if page:
            continue
        if selection.passed(scenario.checkpoint):
            return None
        if scenario.status in ENDED:
            return scenario
        time.sleep(following.POLL_SECONDS)


@commands.command(
    "render",
    json=False,
    quiet=False,
    examples="""
        vidan predictions render 42 annotated.mp4
    """,
)
def render(
    out: Output,
    settings: Settings,
    scenario_id: Id,
    file: Annotated[str, typer.Argument(metavar="OUT.mp4", help="The video to write.")],
) -> None:
    """Draw the stored boxes on the scenario's video, which is read from its source again."""
    from vidan.export import render_scenario

    with connect.database(settings, out, reads=True) as database, out.drawing() as on_progress:
        frames = render_scenario.render_scenario(database, scenario_id, file, on_progress)
    out.note(f"{frames} frames written to {file}")


def _selection(
    start: int,
    to: int | None,
    limit: int | None,
    labels: list[str] | None,
    min_score: float,
    only_detections: bool,
) -> Selection:
    if to is not None and to < start:
        raise UsageError(f"--to {to} is before --from {start}", hint="both ends are included")
    return Selection(start - 1, to, limit, labels or (), min_score, only_detections)


def _tell_unseen(out: Output, selection: Selection) -> None:
    if said := selection.unseen:
        out.note(said)


def _print(out: Output, frames: Iterator[StoredFrame]) -> None:
    for frame in frames:
        text = for_people(frame) if out.terminal else for_pipes(frame)
        out.line(frame.as_json() if out.json else {}, text, id=frame.frame)
    out.flush()


commands.include(several.commands)
