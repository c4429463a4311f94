"""A checkpoint keeps where a resume begins to decode.

Revision ID: 0013
Revises: 0012
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0013"
down_revision = "0012"
branch_labels = None
depends_on = None


def upgrade() -> None:
    # Scenarios that have begun have none: they resume by number and timestamp.
    op.add_column("scenarios", sa.Column("restart_packet", sa.BigInteger()))
    op.add_column("scenarios", sa.Column("restart_frame", sa.BigInteger()))
    op.create_check_constraint(
        op.f("ck_scenarios_restart"),
        "scenarios",
        "(restart_packet IS NULL) = (restart_frame IS NULL)"
        " AND restart_packet >= 0 AND restart_frame >= 0",
    )


def downgrade() -> None:
    op.drop_constraint(op.f("ck_scenarios_restart"), "scenarios", type_="check")
    op.drop_column("scenarios", "restart_frame")
    op.drop_column("scenarios", "restart_packet")
