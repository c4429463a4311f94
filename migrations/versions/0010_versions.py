"""Versions of apps, and the definition that checked each scenario.

Revision ID: 0010
Revises: 0009
"""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0010"
down_revision = "0009"
branch_labels = None
depends_on = None

_WAITS = sa.text("status = 'init_startup'")


def _text(name: str) -> sa.Column[Any]:
    return sa.Column(name, sa.Text(), nullable=False)


def _definition() -> sa.Column[Any]:
    return sa.Column("definition", sa.Text(), nullable=False, server_default=sa.text("''"))


def _index(*columns: str) -> None:
    order: list[Any] = [sa.literal_column("priority DESC"), "not_before"]
    op.drop_index("ix_scenarios_claim", table_name="scenarios", postgresql_where=_WAITS)
    op.create_index(
        "ix_scenarios_claim", "scenarios", [*columns, *order], unique=False, postgresql_where=_WAITS
    )


def upgrade() -> None:
    op.add_column("scenarios", _definition())
    _index("queue", "task", "definition")
    op.add_column("tasks", _definition())
    op.add_column("tasks", sa.Column("version", sa.BigInteger(), nullable=True))
    op.add_column(
        "workers",
        sa.Column(
            "versions",
            sa.ARRAY(sa.BigInteger()),
            nullable=False,
            server_default=sa.text("'{}'::bigint[]"),
        ),
    )
    op.create_table(
        "task_definitions",
        _text("task"),
        _text("digest"),
        sa.Column("params_schema", postgresql.JSONB(), nullable=False),
        sa.Column("needs_source", sa.Boolean(), nullable=False),
        sa.PrimaryKeyConstraint("task", "digest", name=op.f("pk_task_definitions")),
    )
    op.create_table(
        "app_versions",
        sa.Column("number", sa.BigInteger(), sa.Identity(), nullable=False),
        _text("app"),
        _text("digest"),
        sa.Column("rank", sa.BigInteger(), nullable=False),
        sa.Column("used", sa.Boolean(), nullable=False, server_default=sa.text("false")),
        sa.Column("governs", sa.Boolean(), nullable=False, server_default=sa.text("false")),
        sa.Column("schedules", postgresql.JSONB(), nullable=False),
        sa.Column(
            "registered_at",
            sa.DateTime(timezone=True),
            nullable=False,
            server_default=sa.text("now()"),
        ),
        sa.PrimaryKeyConstraint("number", name=op.f("pk_app_versions")),
        sa.UniqueConstraint("app", "digest", name=op.f("uq_app_versions_app_digest")),
    )
    _create_task_versions()


def _create_task_versions() -> None:
    op.create_table(
        "task_versions",
        sa.Column("version", sa.BigInteger(), autoincrement=False, nullable=False),
        _text("name"),
        sa.Column("params_schema", postgresql.JSONB(), nullable=False),
        sa.Column("needs_source", sa.Boolean(), nullable=False),
        sa.Column("summary", sa.Text(), nullable=True),
        sa.Column("max_attempts", sa.Integer(), nullable=False),
        sa.Column("time_limit", sa.Double(), nullable=True),
        sa.Column("soft_time_limit", sa.Double(), nullable=True),
        sa.Column("concurrency", sa.Integer(), nullable=True),
        sa.Column("rate_limit", sa.Text(), nullable=True),
        _text("definition"),
        sa.PrimaryKeyConstraint("version", "name", name=op.f("pk_task_versions")),
    )


def downgrade() -> None:
    for table in ("task_versions", "app_versions", "task_definitions"):
        op.drop_table(table)
    op.drop_column("workers", "versions")
    op.drop_column("tasks", "version")
    op.drop_column("tasks", "definition")
    _index("queue", "task")
    op.drop_column("scenarios", "definition")
