"""The number of slots that a running worker is asked to have.

Revision ID: 0006
Revises: 0005
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("workers", sa.Column("desired_slots", sa.Integer(), nullable=True))
    op.create_check_constraint(op.f("ck_workers_desired_slots"), "workers", "desired_slots > 0")


def downgrade() -> None:
    op.drop_constraint(op.f("ck_workers_desired_slots"), "workers", type_="check")
    op.drop_column("workers", "desired_slots")
