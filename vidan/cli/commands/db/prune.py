"""`vidan db prune`: drop the predictions of whole weeks."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, Any

import typer

from vidan.cli import confirming, connect, failures
from vidan.cli.command import Commands
from vidan.cli.confirming import YesOption
from vidan.cli.options.params import before
from vidan.cli.terminal.output import Output

if TYPE_CHECKING:
    from vidan.config import Settings
    from vidan.db.session import Database
    from vidan.services.pruning import Week


commands = Commands("db")


@commands.command(
    "prune",
    examples="""
        vidan db prune --before 90d --dry-run
        vidan db prune --before 90d --yes
        vidan db prune --before 2026-10-01 --yes --json | jq -r 'select(.pruned) | .week'
    """,
)
def prune(
    out: Output,
    settings: Settings,
    ended: Annotated[
        Any,
        typer.Option(
            "--before",
            metavar="D",
            parser=before,
            help="Drop weeks that ended before this, e.g. 90d ago or 2026-10-01.",
        ),
    ],
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Only show what would be dropped.")
    ] = False,
    yes: YesOption = False,
) -> int:
    """Permanently drop the predictions of whole weeks, Monday to Sunday in UTC.

    A scenario belongs to the week in which it was created or last started from the beginning. The
    scenario itself is kept; if it had stored frames, it is marked as pruned and can start only from
    the beginning. A week with scenarios that have not ended is kept. Workers and other commands may
    run meanwhile. It asks first in a terminal; scripts add --yes.
    """
    from vidan.services import pruning

    confirming.require_answer(yes or dry_run)
    with connect.database(settings, out, reads=True) as database:
        with database.begin() as connection:
            found = pruning.weeks_before(connection, ended)
        chosen = [week for week in found if not week.unfinished]
        for week in found:
            if week.unfinished:
                _say_kept(out, week)
        if not chosen:
            out.note("there is no week to prune")
            return 0
        if dry_run:
            for week in chosen:
                _print(out, week, pruned=False)
            out.note(f"{_total(chosen)} would be dropped")
            return 0
        question = f"Drop {_total(chosen)} permanently?"
        if not confirming.agreed(out, question, yes, otherwise="nothing was dropped"):
            return failures.UNEXPECTED
        done = _drop(database, out, chosen)
    out.note(f"{_total(done)} dropped")
    return 0


def _drop(database: Database, out: Output, chosen: Sequence[Week]) -> list[Week]:
    """Drop each week in a transaction of its own; return those that were dropped."""
    from vidan.services import pruning

    done: list[Week] = []
    for one in chosen:
        pruned = database.retrying(pruning.prune, week=one.week)
        if pruned is None:  # another command has dropped it since it was listed
            continue
        if pruned.unfinished:
            _say_kept(out, pruned)
            continue
        _print(out, pruned, pruned=True)
        out.flush()
        done.append(pruned)
    return done


def _print(out: Output, week: Week, *, pruned: bool) -> None:
    text = f"{week.week}\t{week.scenarios}\t{week.size}"
    out.line(week.as_json(pruned=pruned), text, id=week.week)


def _say_kept(out: Output, week: Week) -> None:
    named = ", ".join(map(str, week.unfinished))
    more = ", …" if week.unfinished_count > len(week.unfinished) else ""
    out.warn(
        f"the week of {week.week} is kept: {week.unfinished_count} of its scenarios have not ended"
        f" ({named}{more}); `vidan scenario stop {week.unfinished[0]}` stops the first"
    )


def _total(weeks: Sequence[Week]) -> str:
    count = "1 week" if len(weeks) == 1 else f"{len(weeks)} weeks"
    scenarios = sum(week.scenarios for week in weeks)
    size = sum(week.size for week in weeks) / 1e6
    return f"{count} of predictions (scenarios: {scenarios}, {size:.0f} MB)"
