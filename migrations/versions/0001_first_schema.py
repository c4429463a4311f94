"""The first schema.

Revision ID: 0001
Revises:
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None


# A view with one row for each detection, for people who use psql.
DETECTIONS_VIEW = """
CREATE VIEW detections AS
SELECT p.scenario_id, p.frame, p.time_ms, d.rank - 1 AS detection,
       s.label_names[p.label_ids[d.rank] + 1] AS label,
       p.scores[d.rank] AS score,
       p.boxes[4 * d.rank - 3] AS x1, p.boxes[4 * d.rank - 2] AS y1,
       p.boxes[4 * d.rank - 1] AS x2, p.boxes[4 * d.rank] AS y2,
       p.track_ids[d.rank] AS track_id
FROM predictions p
JOIN scenarios s ON s.id = p.scenario_id AND s.week = p.week
CROSS JOIN LATERAL generate_series(1, cardinality(p.label_ids)) AS d (rank)
"""


def upgrade() -> None:
    op.create_table(
        "dead_letters",
        sa.Column("id", sa.BigInteger(), sa.Identity(always=False), nullable=False),
        sa.Column("topic", sa.Text(), nullable=False),
        sa.Column("partition", sa.Integer(), nullable=False),
        sa.Column("offset", sa.BigInteger(), nullable=False),
        sa.Column("message_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("digest", sa.Text(), nullable=False),
        sa.Column("key", sa.LargeBinary(), nullable=True),
        sa.Column("payload", sa.LargeBinary(), nullable=True),
        sa.Column("error", sa.Text(), nullable=False),
        sa.Column(
            "received_at",
            sa.DateTime(timezone=True),
            server_default=sa.text("now()"),
            nullable=False,
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_dead_letters")),
        sa.UniqueConstraint(
            "topic",
            "partition",
            "offset",
            "message_at",
            "digest",
            name=op.f("uq_dead_letters_topic_partition_offset_message_at_digest"),
        ),
    )
    op.create_table(
        "gaps",
        sa.Column("scenario_id", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("from_frame", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("to_frame", sa.BigInteger(), nullable=False),
        sa.Column("reason", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("scenario_id", "from_frame", name=op.f("pk_gaps")),
    )
    op.create_table(
        "predictions",
        sa.Column("scenario_id", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("frame", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("week", sa.Date(), nullable=False),
        sa.Column("time_ms", sa.BigInteger(), nullable=False),
        sa.Column("label_ids", sa.ARRAY(sa.SmallInteger()), nullable=False),
        sa.Column("scores", sa.ARRAY(sa.REAL()), nullable=False),
        sa.Column("boxes", sa.ARRAY(sa.REAL()), nullable=False),
        sa.Column("track_ids", sa.ARRAY(sa.Integer()), nullable=True),
        sa.Column("extra", postgresql.JSONB(astext_type=sa.Text()), nullable=True),
        sa.PrimaryKeyConstraint("scenario_id", "frame", "week", name=op.f("pk_predictions")),
        postgresql_partition_by="LIST (week)",
    )
    op.create_table(
        "scenarios",
        sa.Column("id", sa.BigInteger(), sa.Identity(always=False), nullable=False),
        sa.Column("name", sa.Text(), nullable=True),
        sa.Column("key", sa.Text(), nullable=True),
        sa.Column(
            "labels",
            postgresql.JSONB(astext_type=sa.Text()),
            server_default=sa.text("'{}'::jsonb"),
            nullable=False,
        ),
        sa.Column("task", sa.Text(), server_default=sa.text("'detect'"), nullable=False),
        sa.Column("source", sa.Text(), nullable=True),
        sa.Column("source_bound", sa.Boolean(), server_default=sa.text("false"), nullable=False),
        sa.Column("needs_source", sa.Boolean(), server_default=sa.text("true"), nullable=False),
        sa.Column(
            "params",
            postgresql.JSONB(astext_type=sa.Text()),
            server_default=sa.text("'{}'::jsonb"),
            nullable=False,
        ),
        sa.Column("queue", sa.Text(), server_default=sa.text("'default'"), nullable=False),
        sa.Column("priority", sa.Integer(), server_default=sa.text("0"), nullable=False),
        sa.Column("status", sa.Text(), server_default=sa.text("'init_startup'"), nullable=False),
        sa.Column(
            "not_before",
            sa.DateTime(timezone=True),
            server_default=sa.text("now()"),
            nullable=False,
        ),
        sa.Column(
            "announce_at",
            sa.DateTime(timezone=True),
            server_default=sa.text("now()"),
            nullable=True,
        ),
        sa.Column("epoch", sa.BigInteger(), server_default=sa.text("0"), nullable=False),
        sa.Column("worker_id", sa.Uuid(), nullable=True),
        sa.Column("attempts", sa.Integer(), server_default=sa.text("0"), nullable=False),
        sa.Column("max_attempts", sa.Integer(), server_default=sa.text("3"), nullable=False),
        sa.Column("crashes", sa.Integer(), server_default=sa.text("0"), nullable=False),
        sa.Column("max_crashes", sa.Integer(), server_default=sa.text("5"), nullable=False),
        sa.Column("checkpoint", sa.BigInteger(), server_default=sa.text("0"), nullable=False),
        sa.Column("checkpoint_pts", sa.BigInteger(), nullable=True),
        sa.Column(
            "state",
            postgresql.JSONB(astext_type=sa.Text()),
            server_default=sa.text("'{}'::jsonb"),
            nullable=False,
        ),
        sa.Column("frames_total", sa.BigInteger(), nullable=True),
        sa.Column("frames_done", sa.BigInteger(), server_default=sa.text("0"), nullable=False),
        sa.Column(
            "label_names",
            sa.ARRAY(sa.Text()),
            server_default=sa.text("'{}'::text[]"),
            nullable=False,
        ),
        sa.Column(
            "week",
            sa.Date(),
            server_default=sa.text("date_trunc('week', now() AT TIME ZONE 'UTC')::date"),
            nullable=False,
        ),
        sa.Column("result", postgresql.JSONB(astext_type=sa.Text()), nullable=True),
        sa.Column("error", sa.Text(), nullable=True),
        sa.Column(
            "created_at",
            sa.DateTime(timezone=True),
            server_default=sa.text("now()"),
            nullable=False,
        ),
        sa.Column("started_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("ended_at", sa.DateTime(timezone=True), nullable=True),
        sa.CheckConstraint(
            "jsonb_typeof(labels) = 'object' AND jsonb_typeof(params) = 'object'"
            " AND jsonb_typeof(state) = 'object'",
            name=op.f("ck_scenarios_objects"),
        ),
        sa.CheckConstraint(
            "status IN ('init_startup', 'init_startup_processing', 'active', "
            "'init_shutdown', 'in_shutdown_processing', 'inactive', 'completed', 'failed')",
            name=op.f("ck_scenarios_status"),
        ),
        sa.CheckConstraint(
            "attempts >= 0 AND max_attempts >= 0", name=op.f("ck_scenarios_attempts")
        ),
        sa.CheckConstraint("checkpoint >= 0", name=op.f("ck_scenarios_checkpoint")),
        sa.CheckConstraint("crashes >= 0 AND max_crashes >= 0", name=op.f("ck_scenarios_crashes")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_scenarios")),
        sa.UniqueConstraint("key", name=op.f("uq_scenarios_key")),
        postgresql_with={"fillfactor": "70"},
    )
    op.create_index(
        "ix_scenarios_announce",
        "scenarios",
        ["announce_at"],
        unique=False,
        postgresql_where=sa.text("announce_at IS NOT NULL"),
    )
    op.create_index(
        "ix_scenarios_claim",
        "scenarios",
        ["queue", sa.literal_column("priority DESC"), "not_before"],
        unique=False,
        postgresql_where=sa.text("status = 'init_startup'"),
    )
    op.create_index(
        "ix_scenarios_held",
        "scenarios",
        ["worker_id"],
        unique=False,
        postgresql_where=sa.text("worker_id IS NOT NULL"),
    )
    op.create_index(
        "ix_scenarios_labels", "scenarios", ["labels"], unique=False, postgresql_using="gin"
    )
    op.create_index("ix_scenarios_status", "scenarios", ["status", "id"], unique=False)
    op.create_table(
        "tasks",
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column(
            "params_schema",
            postgresql.JSONB(astext_type=sa.Text()),
            server_default=sa.text("'{}'::jsonb"),
            nullable=False,
        ),
        sa.Column("needs_source", sa.Boolean(), server_default=sa.text("true"), nullable=False),
        sa.Column("summary", sa.Text(), nullable=True),
        sa.Column("max_attempts", sa.Integer(), server_default=sa.text("3"), nullable=False),
        sa.Column(
            "published_at",
            sa.DateTime(timezone=True),
            server_default=sa.text("now()"),
            nullable=False,
        ),
        sa.PrimaryKeyConstraint("name", name=op.f("pk_tasks")),
    )
    op.create_table(
        "transitions",
        sa.Column("id", sa.BigInteger(), sa.Identity(always=False), nullable=False),
        sa.Column("scenario_id", sa.BigInteger(), nullable=False),
        sa.Column("from_status", sa.Text(), nullable=True),
        sa.Column("to_status", sa.Text(), nullable=False),
        sa.Column("reason", sa.Text(), nullable=True),
        sa.Column("actor", sa.Text(), nullable=True),
        sa.Column(
            "at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_transitions")),
    )
    op.create_index(
        op.f("ix_transitions_scenario_id"), "transitions", ["scenario_id"], unique=False
    )
    op.create_table(
        "workers",
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("host", sa.Text(), nullable=False),
        sa.Column("pid", sa.Integer(), nullable=False),
        sa.Column("device", sa.Text(), nullable=False),
        sa.Column("slots", sa.Integer(), nullable=False),
        sa.Column(
            "queues",
            sa.ARRAY(sa.Text()),
            server_default=sa.text("'{default}'::text[]"),
            nullable=False,
        ),
        sa.Column(
            "tasks",
            sa.ARRAY(sa.Text()),
            server_default=sa.text("'{detect}'::text[]"),
            nullable=False,
        ),
        sa.Column("source", sa.Text(), nullable=True),
        sa.Column("quarantine", sa.Boolean(), server_default=sa.text("false"), nullable=False),
        sa.Column("state", sa.Text(), server_default=sa.text("'idle'"), nullable=False),
        sa.Column("desired_state", sa.Text(), server_default=sa.text("'running'"), nullable=False),
        sa.Column("fps", sa.DOUBLE_PRECISION(), server_default=sa.text("0"), nullable=False),
        sa.Column("lease_until", sa.DateTime(timezone=True), nullable=False),
        sa.Column(
            "seen_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False
        ),
        sa.Column(
            "registered_at",
            sa.DateTime(timezone=True),
            server_default=sa.text("now()"),
            nullable=False,
        ),
        sa.CheckConstraint(
            "desired_state IN ('running', 'drained', 'stopped')",
            name=op.f("ck_workers_desired_state"),
        ),
        sa.CheckConstraint(
            "state IN ('idle', 'busy', 'draining', 'gone')", name=op.f("ck_workers_state")
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_workers")),
        postgresql_with={"fillfactor": "50"},
    )
    op.execute(DETECTIONS_VIEW)


def downgrade() -> None:
    op.execute("DROP VIEW detections")
    op.drop_table("workers")
    op.drop_index(op.f("ix_transitions_scenario_id"), table_name="transitions")
    op.drop_table("transitions")
    op.drop_table("tasks")
    op.drop_index("ix_scenarios_status", table_name="scenarios")
    op.drop_index("ix_scenarios_labels", table_name="scenarios", postgresql_using="gin")
    op.drop_index(
        "ix_scenarios_held",
        table_name="scenarios",
        postgresql_where=sa.text("worker_id IS NOT NULL"),
    )
    op.drop_index(
        "ix_scenarios_claim",
        table_name="scenarios",
        postgresql_where=sa.text("status = 'init_startup'"),
    )
    op.drop_index(
        "ix_scenarios_announce",
        table_name="scenarios",
        postgresql_where=sa.text("announce_at IS NOT NULL"),
    )
    op.drop_table("scenarios")
    op.drop_table("predictions")
    op.drop_table("gaps")
    op.drop_table("dead_letters")
