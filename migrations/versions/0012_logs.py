"""Scenarios keep their last traceback, and the log lines of their runs.

Revision ID: 0012
Revises: 0011
"""

from __future__ import annotations

from alembic import op

revision = "0012"
down_revision = "0011"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.execute("ALTER TABLE scenarios ADD COLUMN traceback text")
    op.execute(
        """
        CREATE TABLE scenario_logs (
            scenario_id bigint NOT NULL,
            line bigint NOT NULL,
            at timestamptz NOT NULL,
            epoch bigint,
            level smallint NOT NULL,
            logger text NOT NULL,
            message text NOT NULL,
            traceback text,
            CONSTRAINT pk_scenario_logs PRIMARY KEY (scenario_id, line)
        )
        """
    )


def downgrade() -> None:
    op.drop_table("scenario_logs")
    op.drop_column("scenarios", "traceback")
