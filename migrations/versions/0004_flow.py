"""Follow-ups, groups, schedules.

Revision ID: 0004
Revises: 0003
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None

_JSON = postgresql.JSONB()
_TIME = sa.DateTime(timezone=True)
_FALSE = sa.text("false")
_NOW = sa.text("now()")


def upgrade() -> None:
    op.add_column("scenarios", sa.Column("parent_id", sa.BigInteger(), nullable=True))
    op.add_column(
        "scenarios", sa.Column("followed", sa.Boolean(), server_default=_FALSE, nullable=False)
    )
    op.create_table(
        "followups",
        sa.Column("id", sa.BigInteger(), sa.Identity(), nullable=False),
        sa.Column("scenario_id", sa.BigInteger(), nullable=False),
        sa.Column("on_status", sa.Text(), nullable=False),
        sa.Column("new", _JSON, nullable=False),
        sa.CheckConstraint(
            "on_status IN ('completed', 'failed')", name=op.f("ck_followups_on_status")
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_followups")),
    )
    op.create_index(op.f("ix_followups_scenario_id"), "followups", ["scenario_id"], unique=False)
    op.create_table(
        "groups",
        sa.Column("id", sa.BigInteger(), sa.Identity(), nullable=False),
        sa.Column("pending", sa.Integer(), nullable=False),
        sa.Column("callback", _JSON, nullable=False),
        sa.Column("callback_id", sa.BigInteger(), nullable=True),
        sa.Column("created_at", _TIME, server_default=_NOW, nullable=False),
        sa.CheckConstraint("pending >= 0", name=op.f("ck_groups_pending")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_groups")),
    )
    op.create_index(op.f("ix_groups_callback_id"), "groups", ["callback_id"], unique=False)
    op.create_table(
        "group_members",
        sa.Column("group_id", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("place", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("scenario_id", sa.BigInteger(), nullable=False),
        sa.Column("ended", sa.Boolean(), server_default=_FALSE, nullable=False),
        sa.PrimaryKeyConstraint("group_id", "place", name=op.f("pk_group_members")),
    )
    op.create_index(
        op.f("ix_group_members_scenario_id"), "group_members", ["scenario_id"], unique=False
    )
    op.create_table(
        "schedules",
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("app", sa.Text(), nullable=False),
        sa.Column("task", sa.Text(), nullable=False),
        sa.Column("cron", sa.Text(), nullable=False),
        sa.Column("timezone", sa.Text(), server_default=sa.text("'UTC'"), nullable=False),
        sa.Column("params", _JSON, server_default=sa.text("'{}'::jsonb"), nullable=False),
        sa.Column("source", sa.Text(), nullable=True),
        sa.Column("queue", sa.Text(), server_default=sa.text("'default'"), nullable=False),
        sa.Column("priority", sa.Integer(), server_default=sa.text("0"), nullable=False),
        sa.Column("catch_up", sa.Text(), server_default=sa.text("'latest'"), nullable=False),
        sa.Column("enabled", sa.Boolean(), server_default=sa.text("true"), nullable=False),
        sa.Column("next_at", _TIME, nullable=False),
        sa.Column("last_at", _TIME, nullable=True),
        sa.Column("last_id", sa.BigInteger(), nullable=True),
        sa.Column("error", sa.Text(), nullable=True),
        sa.CheckConstraint(
            "catch_up IN ('skip', 'latest', 'all')", name=op.f("ck_schedules_catch_up")
        ),
        sa.PrimaryKeyConstraint("name", name=op.f("pk_schedules")),
    )
    op.create_index(
        "ix_schedules_next_at",
        "schedules",
        ["next_at"],
        unique=False,
        postgresql_where=sa.text("enabled"),
    )


def downgrade() -> None:
    for table in ("schedules", "group_members", "groups", "followups"):
        op.drop_table(table)
    op.drop_column("scenarios", "followed")
    op.drop_column("scenarios", "parent_id")
