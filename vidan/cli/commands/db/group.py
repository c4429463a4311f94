"""`vidan db`: the schema of the database, and deleting old predictions."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from vidan.cli import connect
from vidan.cli.command import Commands
from vidan.cli.commands.db import downgrade, prune
from vidan.cli.commands.db.downgrade import SqlFlag
from vidan.cli.terminal.output import Output

if TYPE_CHECKING:
    from vidan.config import Settings

commands = Commands(
    "db",
    "Upgrade and check the database schema, drop old predictions. The embedded stack upgrades its"
    " schema by itself.",
    examples="""
        vidan db upgrade
        vidan db upgrade --sql > upgrade.sql
        vidan db check
        vidan db prune --before 90d --dry-run
    """,
)


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
    revision: Annotated[
        str, typer.Argument(metavar="[REVISION]", help="Revision to upgrade to.")
    ] = "head",
    sql: SqlFlag = False,
) -> None:
    """Upgrade the schema to a revision, by default the newest."""
    from vidan.db import schema

    if sql:
        schema.upgrade(None, revision, sql=True)
        return
    connect.tell(settings, out)
    url = settings.require_database(direct=True)
    schema.upgrade(url, revision)
    out.note(f"the schema is at {schema.current(url)}")


commands.include(downgrade.commands)


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
    """Print the revision of the database's schema."""
    from vidan.db import schema

    connect.tell(settings, out)
    found = schema.current(settings.require_database())
    out.line({"revision": found, "expected": schema.HEAD}, found or "-", id=found)
    if found is None:
        out.note("the database has no tables of vidan; `vidan db upgrade` creates them")


@commands.command(
    "check",
    json=False,
    quiet=False,
    examples="""
        vidan db check && vidan worker
    """,
)
def check(out: Output, settings: Settings) -> None:
    """Check that the schema is the one that this vidan expects; exit code 8 if it is not."""
    with connect.database(settings, out):
        out.note("the schema is the expected one")


commands.include(prune.commands)
