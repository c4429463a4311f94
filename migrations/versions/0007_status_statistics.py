"""The planner keeps no statistics of the scenarios' statuses.

Revision ID: 0007
Revises: 0006
"""

from __future__ import annotations

from alembic import op

revision = "0007"
down_revision = "0006"
branch_labels = None
depends_on = None


def upgrade() -> None:
    # Statuses change within seconds, but statistics stay. With statistics from a moment when no
    # scenario waited, a claim was planned to read and sort all waiting scenarios, and did so for
    # each claim of a burst of thousands.
    op.execute("ALTER TABLE scenarios ALTER COLUMN status SET STATISTICS 0")
    # The statement above would keep the present statistics; setting the type again drops them.
    op.execute("ALTER TABLE scenarios ALTER COLUMN status TYPE text")


def downgrade() -> None:
    op.execute("ALTER TABLE scenarios ALTER COLUMN status SET STATISTICS -1")
