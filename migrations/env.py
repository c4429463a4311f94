"""Alembic's environment: where the database is, and what autogenerate compares."""

from __future__ import annotations

from alembic import context
from sqlalchemy import text

from vidan import config as vidan_config
from vidan.db import tables
from vidan.db.session import Database

config = context.config


def _url() -> str:
    given: str | None = config.attributes.get("url")
    return given or vidan_config.load().require_database(direct=True)


def _include_name(name: str | None, kind: str, parents: object) -> bool:
    """Ignore the partitions of `predictions`: they are made and dropped with the weeks."""
    del parents
    return not (kind == "table" and name is not None and name.startswith("predictions_"))


def _run_offline() -> None:
    context.configure(
        dialect_name="postgresql",
        target_metadata=tables.metadata,
        literal_binds=True,
        dialect_opts={"paramstyle": "named"},
    )
    with context.begin_transaction():
        context.run_migrations()


def _run_online() -> None:
    database = Database(_url(), pool_size=1)
    try:
        # One transaction, so that a pooler may stand in between: lock and settings end with it.
        with database.begin() as connection:
            context.configure(
                connection=connection,
                target_metadata=tables.metadata,
                include_name=_include_name,
                compare_server_default=True,
            )
            # A second upgrade at the same time waits for the first one, then has nothing to do.
            connection.execute(text("SELECT pg_advisory_xact_lock(7305804400)"))
            with context.begin_transaction():
                context.run_migrations()
    finally:
        database.close()


if context.is_offline_mode():
    _run_offline()
else:
    _run_online()
