"""Alembic's environment: where the database is, and what autogenerate compares."""

from __future__ import annotations

import sqlalchemy
from alembic import context

from vidan import config as vidan_config
from vidan.db import tables

config = context.config


def _url() -> str:
    given = config.attributes.get("url")
    return vidan_config.sqlalchemy_url(given or vidan_config.load().require_database())


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
    engine = sqlalchemy.create_engine(
        _url(), poolclass=sqlalchemy.NullPool, connect_args={"connect_timeout": 5}
    )
    with engine.connect() as connection:
        context.configure(
            connection=connection,
            target_metadata=tables.metadata,
            include_name=_include_name,
            compare_server_default=True,
        )
        with context.begin_transaction():
            # A second upgrade at the same time waits for the first one, then has nothing to do.
            connection.execute(sqlalchemy.text("SELECT pg_advisory_xact_lock(7305804400)"))
            context.run_migrations()


if context.is_offline_mode():
    _run_offline()
else:
    _run_online()
