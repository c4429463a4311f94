"""`vidan db downgrade`: take migrations back, with the data that only they have room for."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from vidan.cli import confirming, connect, failures
from vidan.cli.command import Commands
from vidan.cli.confirming import YesOption
from vidan.cli.terminal.output import Output
from vidan.cli.terminal.text import counted
from vidan.errors import NotAllowedError, UsageError

if TYPE_CHECKING:
    from vidan.config import Settings
    from vidan.db.schema import Contents

SqlFlag = Annotated[bool, typer.Option("--sql", help="Only print the SQL; this needs no database.")]

commands = Commands("db")


@commands.command(
    "downgrade",
    json=False,
    quiet=False,
    dashes=True,
    examples="""
        vidan db downgrade -1
        vidan db downgrade 0006 --yes
        vidan db downgrade base      drops all tables of vidan and the data in them
    """,
)
def downgrade(
    out: Output,
    settings: Settings,
    revision: Annotated[
        str, typer.Argument(metavar="REVISION", help="A revision, -1 for one step back, or base.")
    ],
    sql: SqlFlag = False,
    yes: YesOption = False,
    force: Annotated[
        bool, typer.Option("--force", help="Downgrade while workers are running, too.")
    ] = False,
) -> int:
    """Downgrade the schema to a revision. It asks first in a terminal; scripts add --yes.

    What only the newer schema can store is lost. Exit code 4: workers are running, which may fail
    in the middle of their scenarios.
    """
    from vidan.db import schema

    if revision.startswith("-") and not revision[1:].isdecimal():
        raise UsageError(f"no such option: {revision}", hint="see `vidan db downgrade --help`")
    if sql:
        schema.downgrade(None, revision, sql=True)
        return 0
    confirming.require_answer(yes)
    connect.tell(settings, out)
    url = settings.require_database(direct=True)
    steps = schema.steps_down(url, revision)
    if steps:
        contents = schema.contents(url)
        _refuse_while_used(contents, force=force)
        question = _question(revision, steps, contents)
        if not confirming.agreed(out, question, yes, otherwise="nothing was changed"):
            return failures.UNEXPECTED
        _refuse_while_used(schema.contents(url), force=force)  # the answer may have taken long
    schema.downgrade(url, revision)
    out.note(f"the schema is at {schema.current(url) or 'base: no tables of vidan'}")
    return 0


def _refuse_while_used(contents: Contents, *, force: bool) -> None:
    if contents.workers and not force:
        named = ", ".join(contents.workers[:3]) + (", …" if len(contents.workers) > 3 else "")
        raise NotAllowedError(
            f"{counted(len(contents.workers), 'worker')} running on this database: {named}",
            hint="`vidan workers drain --all --wait` ends them; --force downgrades all the same",
        )


def _question(revision: str, steps: list[str], contents: Contents) -> str:
    """Say what is taken back, and what is in the database."""
    stored = (
        f"{counted(contents.scenarios, 'scenario')}, predictions of"
        f" {counted(contents.frames, 'frame')} and {counted(contents.letters, 'dead letter')}"
    )
    if revision == "base":
        return f"Drop all tables of vidan with {stored} permanently?"
    return (
        f"The database has {stored}. What these revisions added is lost: {'; '.join(steps)}."
        " Downgrade?"
    )
