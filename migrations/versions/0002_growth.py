"""Pruned weeks; an index for suspects.

Revision ID: 0002
Revises: 0001
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column(
        "scenarios",
        sa.Column("pruned", sa.Boolean(), server_default=sa.text("false"), nullable=False),
    )
    op.create_index(
        "ix_scenarios_suspects",
        "scenarios",
        ["queue", "not_before"],
        unique=False,
        postgresql_where=sa.text("status = 'init_startup' AND crashes > 1"),
    )


def downgrade() -> None:
    op.drop_index(
        "ix_scenarios_suspects",
        table_name="scenarios",
        postgresql_where=sa.text("status = 'init_startup' AND crashes > 1"),
    )
    op.drop_column("scenarios", "pruned")
