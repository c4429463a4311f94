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
    # statuses come and go within seconds, statistics stay: from a moment when nothing waited, a
    # claim was planned to read and sort all that waits, and did so for each of a burst of thousands
    op.execute("ALTER TABLE scenarios ALTER COLUMN status SET STATISTICS 0")
    # that alone would keep what is known by now for ever; to say its type again forgets it
    op.execute("ALTER TABLE scenarios ALTER COLUMN status TYPE text")


def downgrade() -> None:
    op.execute("ALTER TABLE scenarios ALTER COLUMN status SET STATISTICS -1")
