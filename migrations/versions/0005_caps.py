"""Caps of tasks: indexes of claims and of held scenarios by task, the state of a rate.

Revision ID: 0005
Revises: 0004
"""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None

_WAITS = sa.text("status = 'init_startup'")
_HELD = sa.text("worker_id IS NOT NULL")


def _replace(name: str, columns: list[Any], where: sa.TextClause) -> None:
    op.drop_index(name, table_name="scenarios", postgresql_where=where)
    op.create_index(name, "scenarios", columns, unique=False, postgresql_where=where)


def upgrade() -> None:
    op.add_column("tasks", sa.Column("rate_next", sa.DateTime(timezone=True), nullable=True))
    order = [sa.literal_column("priority DESC"), "not_before"]
    _replace("ix_scenarios_claim", ["queue", "task", *order], _WAITS)
    _replace("ix_scenarios_held", ["worker_id", "task"], _HELD)


def downgrade() -> None:
    order = [sa.literal_column("priority DESC"), "not_before"]
    _replace("ix_scenarios_held", ["worker_id"], _HELD)
    _replace("ix_scenarios_claim", ["queue", *order], _WAITS)
    op.drop_column("tasks", "rate_next")
