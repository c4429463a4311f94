"""Limits of tasks: duration of a run, number of runs at once, rate of starts.

Revision ID: 0003
Revises: 0002
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None

_TIMES = ("time_limit", "soft_time_limit")


def upgrade() -> None:
    for table in ("scenarios", "tasks"):
        for name in _TIMES:
            op.add_column(table, sa.Column(name, sa.Double(), nullable=True))
    op.create_check_constraint(
        op.f("ck_scenarios_time_limits"), "scenarios", "time_limit > 0 AND soft_time_limit > 0"
    )
    op.add_column("tasks", sa.Column("concurrency", sa.Integer(), nullable=True))
    op.add_column("tasks", sa.Column("rate_limit", sa.Text(), nullable=True))


def downgrade() -> None:
    op.drop_column("tasks", "rate_limit")
    op.drop_column("tasks", "concurrency")
    op.drop_constraint(op.f("ck_scenarios_time_limits"), "scenarios", type_="check")
    for table in ("tasks", "scenarios"):
        for name in reversed(_TIMES):
            op.drop_column(table, name)
