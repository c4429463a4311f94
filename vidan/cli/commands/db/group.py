"""`vidan db`: the database's schema, and what is given up of what it holds."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from vidan.cli import connect
from vidan.cli.command import Commands
from vidan.cli.commands.db import prune
from vidan.cli.terminal.output import Output
from vidan.errors import UsageError

if TYPE_CHECKING:
    from vidan.config import Settings

commands = Commands(
    "db",
    "Migrate and check the schema, as the embedded stack does by itself; drop old predictions.",
    examples="""
        vidan db upgrade
        vidan db upgrade --sql > upgrade.sql
        vidan db check
        vidan db prune --before 90d --dry-run
    """,
)

SqlFlag = Annotated[bool, typer.Option("--sql", help="Print the SQL instead; needs no database.")]


@commands.command(
    "upgrade",
    json=False,
    quiet=False,
    examples="""
        vidan db upgrade
        vidan db upgrade --sql | psql "$DATABASE_URL"
    """,
)
def upgrade(
    out: Output,
    settings: Settings,
    revision: Annotated[str, typer.Argument(metavar="[REVISION]", help="How far.")] = "head",
    sql: SqlFlag = False,
) -> None:
    """Bring the schema to a revision, by default the newest."""
    from vidan.db import schema

    if sql:
        schema.upgrade(None, revision, sql=True)
        return
    connect.tell(settings, out)
    url = settings.require_database()
    schema.upgrade(url, revision)
    out.note(f"the schema is at {schema.current(url)}")


@commands.command(
    "downgrade",
    json=False,
    quiet=False,
    dashes=True,
    examples="""
        vidan db downgrade -1
        vidan db downgrade base      drops every table of vidan, with what is in it
    """,
)
def downgrade(
    out: Output,
    settings: Settings,
    revision: Annotated[
        str, typer.Argument(metavar="REVISION", help="A revision, -1 for one step back, or base.")
    ],
    sql: SqlFlag = False,
) -> None:
    """Take the schema back to a revision."""
    from vidan.db import schema

    if revision.startswith("-") and not revision[1:].isdecimal():
        raise UsageError(f"no such option: {revision}", hint="see `vidan db downgrade --help`")
    if sql:
        schema.downgrade(None, revision, sql=True)
        return
    connect.tell(settings, out)
    url = settings.require_database()
    schema.downgrade(url, revision)
    out.note(f"the schema is at {schema.current(url) or 'base: no tables of vidan'}")


@commands.command(
    "history",
    examples="""
        vidan db history
        vidan db history --json | jq -r '.[0].revision'
    """,
)
def history(out: Output) -> None:
    """List the revisions, the newest first."""
    from vidan.db import schema

    revisions = [line.partition("  ") for line in schema.history()]
    out.listing(
        revisions,
        {"REVISION": lambda r: r[0], "SUMMARY": lambda r: r[2]},
        record=lambda r: {"revision": r[0], "summary": r[2]},
        id=lambda r: r[0],
        name="revisions",
    )


@commands.command(
    "current",
    quiet=False,
    examples="""
        vidan db current
        vidan db current --json | jq -r .revision
    """,
)
def current(out: Output, settings: Settings) -> None:
    """Print the revision that the database is at."""
    from vidan.db import schema

    connect.tell(settings, out)
    found = schema.current(settings.require_database())
    out.line({"revision": found, "expected": schema.HEAD}, found or "-", id=found)
    if found is None:
        out.note("the database has no tables of vidan; `vidan db upgrade` makes them")


@commands.command(
    "check",
    json=False,
    quiet=False,
    examples="""
        vidan db check && vidan worker
    """,
)
def check(out: Output, settings: Settings) -> None:
    """Say whether the schema is the one that this vidan expects; exit code 8 if not."""
    with connect.database(settings, out):
        out.note("the schema is the expected one")


commands.include(prune.commands)
