"""The times of scenarios are within what Python can hold.

Revision ID: 0008
Revises: 0007
"""

from __future__ import annotations

from alembic import op

revision = "0008"
down_revision = "0007"
branch_labels = None
depends_on = None

_EARLIEST, _LATEST = "'1970-01-02 00:00+00'", "'9000-01-01 00:00+00'"
_RANGE = f"BETWEEN {_EARLIEST} AND {_LATEST}"


def upgrade() -> None:
    for column in ("not_before", "announce_at"):
        name = f"ck_scenarios_{column}"
        # The constraint refuses new rows out of range; existing ones move to the nearer end.
        op.execute(
            f"ALTER TABLE scenarios ADD CONSTRAINT {name} CHECK ({column} {_RANGE}) NOT VALID"
        )
        op.execute(
            f"UPDATE scenarios SET {column} = least(greatest({column}, {_EARLIEST}), {_LATEST})"
            f" WHERE {column} NOT {_RANGE}"
        )
        op.execute(f"ALTER TABLE scenarios VALIDATE CONSTRAINT {name}")


def downgrade() -> None:
    for column in ("announce_at", "not_before"):
        op.drop_constraint(op.f(f"ck_scenarios_{column}"), "scenarios", type_="check")
