"""The schema's version: upgrade, downgrade, check. Only running migrations imports Alembic."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from sqlalchemy import Connection, text
from sqlalchemy.exc import ProgrammingError

from vidan.db.session import Database
from vidan.errors import SchemaMismatch, UsageError

if TYPE_CHECKING:
    from alembic.config import Config

HEAD = "0015"
"""The newest migration; a test compares it with the folder `migrations`."""

_CONTENTS = """
SELECT (SELECT count(*) FROM scenarios) AS scenarios,
       (SELECT coalesce(sum(frames_done), 0)::bigint FROM scenarios) AS frames,
       (SELECT count(*) FROM dead_letters) AS letters,
       ARRAY(SELECT name FROM workers WHERE lease_until > now() ORDER BY name) AS workers
"""


def upgrade(url: str | None, revision: str = "head", *, sql: bool = False) -> None:
    """Bring the schema to `revision`; with `sql`, print the statements (needs no database).

    Raises DatabaseUnavailable or UsageError (no such revision).
    """
    _run("upgrade", url, revision, sql=sql)


def downgrade(url: str | None, revision: str, *, sql: bool = False) -> None:
    """Take the schema back to `revision`, such as "-1" or "base"; with `sql` as in `upgrade`."""
    _run("downgrade", url, revision, sql=sql)


def history() -> list[str]:
    """Return the migrations, newest first, one line each."""
    from alembic.script import ScriptDirectory

    script = ScriptDirectory.from_config(_config(None))
    return [f"{step.revision}  {step.doc}" for step in script.walk_revisions()]


def current(url: str) -> str | None:
    """Return the revision of the database, None for a database without vidan's tables.

    Raises DatabaseUnavailable.
    """
    database = Database(url)
    try:
        with database.begin() as connection:
            return _revision(connection)
    finally:
        database.close()


@dataclass(frozen=True, slots=True)
class Contents:
    """What a database holds, and the names of the workers that are running on it."""

    scenarios: int = 0
    frames: int = 0
    letters: int = 0
    workers: tuple[str, ...] = ()


def contents(url: str) -> Contents:
    """Return what the database holds, at whatever revision it is. Raises DatabaseUnavailable."""
    database = Database(url)
    try:
        with database.begin() as connection:
            if _revision(connection) is None:
                return Contents()
            found = connection.execute(text(_CONTENTS)).one()
    finally:
        database.close()
    return Contents(found.scenarios, found.frames, found.letters, tuple(found.workers))


def steps_down(url: str, revision: str) -> list[str]:
    """Return the migrations that a downgrade to `revision` takes back, newest first, a line each.

    Raises DatabaseUnavailable, or UsageError if there is no such revision.
    """
    from alembic.script import ScriptDirectory
    from alembic.util import CommandError

    now = current(url)
    steps = history()
    names = [line.partition("  ")[0] for line in steps]
    if now not in names:
        return []
    start = names.index(now)
    if revision.startswith("-"):
        return steps[start : start - int(revision)]
    if revision == "base":
        return steps[start:]
    try:
        found = ScriptDirectory.from_config(_config(None)).get_revision(revision)
    except CommandError as error:
        raise UsageError(str(error), hint="see `vidan db history`") from error
    return steps[start : names.index(found.revision)]


def check(database: Database) -> None:
    """Raise SchemaMismatch, which names the command that fixes it, unless the schema is at HEAD."""
    with database.begin() as connection:
        found = _revision(connection)
    if found is None:
        raise SchemaMismatch("the database has no vidan schema", hint="run `vidan db upgrade`")
    if found != HEAD:
        newer = found > HEAD
        raise SchemaMismatch(
            f"the database's schema is at {found}, this vidan expects {HEAD}",
            hint="install the vidan that created it" if newer else "run `vidan db upgrade`",
        )


def _revision(connection: Connection) -> str | None:
    with connection.begin_nested() as attempt:
        try:
            found = connection.execute(text("SELECT version_num FROM alembic_version")).scalar()
        except ProgrammingError:  # no such table
            attempt.rollback()
            return None
    return None if found is None else str(found)


def _run(command: str, url: str | None, revision: str, *, sql: bool) -> None:
    import sqlalchemy.exc
    from alembic import command as alembic_command
    from alembic.util import CommandError

    from vidan.db.session import database_error

    target = revision
    if sql and command == "downgrade" and ":" not in revision:
        target = f"{HEAD}:{_absolute(revision)}"
    try:
        getattr(alembic_command, command)(_config(url), target, sql=sql)
    except CommandError as error:
        raise UsageError(str(error), hint="see `vidan db history`") from error
    except sqlalchemy.exc.OperationalError as error:
        raise database_error(error) from error


def _absolute(revision: str) -> str:
    """Turn a step back from HEAD, such as "-1", into the revision it names."""
    from alembic.script import ScriptDirectory

    if not revision.startswith("-"):
        return revision
    steps = [step.revision for step in ScriptDirectory.from_config(_config(None)).walk_revisions()]
    behind = -int(revision)
    return steps[behind] if behind < len(steps) else "base"


def _config(url: str | None) -> Config:
    from alembic.config import Config

    config = Config()
    config.set_main_option("script_location", str(_migrations()).replace("%", "%%"))
    config.attributes["url"] = url
    return config


def _migrations() -> Path:
    """Return the migrations' folder: inside an installed package, or beside it in a checkout."""
    package = Path(__file__).resolve().parents[1]
    inside = package / "migrations"
    return inside if inside.is_dir() else package.parent / "migrations"
