"""The tables, as SQLAlchemy Core metadata; `alembic revision --autogenerate` compares with them.

Defaults of columns are in the database, so that a row inserted by plain SQL works too. No index has
a column that heartbeats or commits write (checkpoint, state, lease_until), so that these updates
stay HOT (heap-only tuples, which change no index).
"""

from __future__ import annotations

from collections.abc import Iterable

from sqlalchemy import (
    ARRAY,
    BigInteger,
    Boolean,
    CheckConstraint,
    Column,
    Date,
    DateTime,
    Identity,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    SmallInteger,
    Table,
    Text,
    UniqueConstraint,
    Uuid,
    text,
)
from sqlalchemy.dialects.postgresql import DOUBLE_PRECISION, JSONB, REAL

from vidan.db import comments
from vidan.db.weeks import THIS_WEEK
from vidan.domain.bounds import EARLIEST, LATEST
from vidan.domain.status import Status

metadata = MetaData(
    naming_convention={
        "pk": "pk_%(table_name)s",
        "uq": "uq_%(table_name)s_%(column_0_N_name)s",
        "ix": "ix_%(table_name)s_%(column_0_N_name)s",
        "ck": "ck_%(table_name)s_%(constraint_name)s",
    }
)

_NOW = text("now()")
_EMPTY_OBJECT = text("'{}'::jsonb")


def _quoted(value: str) -> str:
    return f"'{value}'"


def _one_of(column: str, values: Iterable[str]) -> str:
    return f"{column} IN ({', '.join(map(_quoted, values))})"


def _is_limit(column: str) -> str:
    return f"{column} > 0 AND {column} < 'Infinity'"  # NaN is above infinity


_RATE_LIMIT = "rate_limit ~ '^[1-9][0-9]{0,5}/[smh]$'"


def _times(*columns: str) -> list[CheckConstraint]:
    return [CheckConstraint(_in_range(one), name=one) for one in columns]


def _in_range(column: str) -> str:
    return f"{column} BETWEEN '{EARLIEST.isoformat()}' AND '{LATEST.isoformat()}'"


scenarios = Table(
    "scenarios",
    metadata,
    Column("id", BigInteger, Identity(), primary_key=True),
    Column("name", Text),
    Column("key", Text, unique=True),
    Column("labels", JSONB, nullable=False, server_default=_EMPTY_OBJECT),
    Column("task", Text, nullable=False, server_default=text("'detect'")),
    Column("source", Text),
    # The first claim wrote its worker's source: only workers with that source claim the scenario.
    Column("source_bound", Boolean, nullable=False, server_default=text("false")),
    Column("needs_source", Boolean, nullable=False, server_default=text("true")),
    Column("params", JSONB, nullable=False, server_default=_EMPTY_OBJECT),
    Column("queue", Text, nullable=False, server_default=text("'default'")),
    Column("priority", Integer, nullable=False, server_default=text("0")),
    Column("status", Text, nullable=False, server_default=text("'init_startup'")),
    Column("not_before", DateTime(timezone=True), nullable=False, server_default=_NOW),
    Column("announce_at", DateTime(timezone=True), server_default=_NOW),
    Column("epoch", BigInteger, nullable=False, server_default=text("0")),
    Column("worker_id", Uuid),
    Column("attempts", Integer, nullable=False, server_default=text("0")),
    Column("max_attempts", Integer, nullable=False, server_default=text("3")),
    Column("crashes", Integer, nullable=False, server_default=text("0")),
    Column("max_crashes", Integer, nullable=False, server_default=text("5")),
    Column("time_limit", DOUBLE_PRECISION),  # seconds of one run; null: that of the task
    Column("soft_time_limit", DOUBLE_PRECISION),
    Column("checkpoint", BigInteger, nullable=False, server_default=text("0")),
    Column("checkpoint_pts", BigInteger),
    # where a resume that can't seek begins to decode: a key frame's packet, and that frame's number
    Column("restart_packet", BigInteger),
    Column("restart_frame", BigInteger),
    Column("state", JSONB, nullable=False, server_default=_EMPTY_OBJECT),
    Column("frames_total", BigInteger),
    Column("frames_done", BigInteger, nullable=False, server_default=text("0")),
    # what the worker found out about the video: its size, rate, codec and shape of pixels
    Column("source_info", JSONB),
    # what was noticed about the source, such as that the file grew while it was read
    Column("notes", ARRAY(Text), nullable=False, server_default=text("'{}'::text[]")),
    Column("label_names", ARRAY(Text), nullable=False, server_default=text("'{}'::text[]")),
    Column("week", Date, nullable=False, server_default=text(THIS_WEEK)),
    Column("result", JSONB),
    Column("error", Text),
    Column("traceback", Text),
    Column("created_at", DateTime(timezone=True), nullable=False, server_default=_NOW),
    Column("started_at", DateTime(timezone=True)),
    Column("ended_at", DateTime(timezone=True)),
    # its predictions were dropped with their week
    Column("pruned", Boolean, nullable=False, server_default=text("false")),
    Column("parent_id", BigInteger),  # the scenario whose follow-up it is, which may be deleted
    # has rows in followups or group_members, which are handled when it ends
    Column("followed", Boolean, nullable=False, server_default=text("false")),
    # the digest of the definition of its task that has checked it; '': none has
    Column("definition", Text, nullable=False, server_default=text("''")),
    CheckConstraint(_one_of("status", Status), name="status"),
    CheckConstraint("checkpoint >= 0", name="checkpoint"),
    CheckConstraint(
        "(restart_packet IS NULL) = (restart_frame IS NULL)"
        " AND restart_packet >= 0 AND restart_frame >= 0",
        name="restart",
    ),
    CheckConstraint("attempts >= 0 AND max_attempts >= 0", name="attempts"),
    CheckConstraint("crashes >= 0 AND max_crashes >= 0", name="crashes"),
    CheckConstraint("time_limit > 0 AND soft_time_limit > 0", name="time_limits"),
    # A single time that Python can't hold would fail every statement that reads its row.
    CheckConstraint(_in_range("not_before"), name="not_before"),
    CheckConstraint(_in_range("announce_at"), name="announce_at"),
    CheckConstraint(
        "jsonb_typeof(labels) = 'object' AND jsonb_typeof(params) = 'object'"
        " AND jsonb_typeof(state) = 'object'",
        name="objects",
    ),
    *_times("created_at", "started_at", "ended_at"),
    CheckConstraint(_is_limit("time_limit"), name="time_limit"),
    CheckConstraint(_is_limit("soft_time_limit"), name="soft_time_limit"),
    CheckConstraint("array_position(label_names, NULL) IS NULL", name="label_names"),
    CheckConstraint("jsonb_typeof(source_info) = 'object'", name="source_info"),
    postgresql_with={"fillfactor": "70"},
)
# Claims scan it once for each queue, task and definition, in the order of taking.
Index(
    "ix_scenarios_claim",
    scenarios.c.queue,
    scenarios.c.task,
    scenarios.c.definition,
    scenarios.c.priority.desc(),
    scenarios.c.not_before,
    postgresql_where=scenarios.c.status == text("'init_startup'"),
)
Index(
    "ix_scenarios_announce",
    scenarios.c.announce_at,
    postgresql_where=scenarios.c.announce_at.is_not(None),
)
# By worker; with the task, so that its held scenarios are counted without reading other rows.
Index(
    "ix_scenarios_held",
    scenarios.c.worker_id,
    scenarios.c.task,
    postgresql_where=scenarios.c.worker_id.is_not(None),
)
# Suspects are few among very many waiting scenarios.
Index(
    "ix_scenarios_suspects",
    scenarios.c.queue,
    scenarios.c.not_before,
    postgresql_where=text("status = 'init_startup' AND crashes > 1"),
)
Index("ix_scenarios_status", scenarios.c.status, scenarios.c.id)
Index("ix_scenarios_labels", scenarios.c.labels, postgresql_using="gin")

transitions = Table(
    "transitions",
    metadata,
    Column("id", BigInteger, Identity(), primary_key=True),
    Column("scenario_id", BigInteger, nullable=False, index=True),
    Column("from_status", Text),
    Column("to_status", Text, nullable=False),
    Column("reason", Text),
    Column("actor", Text),
    Column("at", DateTime(timezone=True), nullable=False, server_default=_NOW),
    *_times("at"),
)

# Lines are numbered for each scenario: a number that is missing is a line that was cut.
scenario_logs = Table(
    "scenario_logs",
    metadata,
    Column("scenario_id", BigInteger, primary_key=True, autoincrement=False),
    Column("line", BigInteger, primary_key=True, autoincrement=False),
    Column("at", DateTime(timezone=True), nullable=False),
    Column("epoch", BigInteger),
    Column("level", SmallInteger, nullable=False),
    Column("logger", Text, nullable=False),
    Column("message", Text, nullable=False),
    Column("traceback", Text),
)

predictions = Table(
    "predictions",
    metadata,
    Column("scenario_id", BigInteger, primary_key=True, autoincrement=False),
    Column("frame", BigInteger, primary_key=True, autoincrement=False),
    Column("week", Date, primary_key=True),
    Column("time_ms", BigInteger, nullable=False),
    Column("label_ids", ARRAY(SmallInteger), nullable=False),
    Column("scores", ARRAY(REAL), nullable=False),
    Column("boxes", ARRAY(REAL), nullable=False),  # x1, y1, x2, y2 of each detection in turn
    Column("track_ids", ARRAY(Integer)),
    Column("extra", JSONB),
    postgresql_partition_by="LIST (week)",
)

gaps = Table(
    "gaps",
    metadata,
    Column("scenario_id", BigInteger, primary_key=True, autoincrement=False),
    Column("from_frame", BigInteger, primary_key=True, autoincrement=False),
    Column("to_frame", BigInteger, nullable=False),  # included
    Column("reason", Text, nullable=False),
)

workers = Table(
    "workers",
    metadata,
    Column("id", Uuid, primary_key=True),
    Column("name", Text, nullable=False),
    Column("host", Text, nullable=False),
    Column("pid", Integer, nullable=False),
    Column("device", Text, nullable=False),
    Column("slots", Integer, nullable=False),
    Column("queues", ARRAY(Text), nullable=False, server_default=text("'{default}'::text[]")),
    Column("tasks", ARRAY(Text), nullable=False, server_default=text("'{detect}'::text[]")),
    # the versions of its apps, the built-in one's first: numbers of app_versions
    Column("versions", ARRAY(BigInteger), nullable=False, server_default=text("'{}'::bigint[]")),
    Column("source", Text),
    Column("quarantine", Boolean, nullable=False, server_default=text("false")),
    Column("state", Text, nullable=False, server_default=text("'idle'")),
    Column("desired_state", Text, nullable=False, server_default=text("'running'")),
    Column("desired_slots", Integer),  # null: as many as it was started with
    Column("fps", DOUBLE_PRECISION, nullable=False, server_default=text("0")),
    Column("lease_until", DateTime(timezone=True), nullable=False),
    Column("seen_at", DateTime(timezone=True), nullable=False, server_default=_NOW),
    Column("registered_at", DateTime(timezone=True), nullable=False, server_default=_NOW),
    CheckConstraint(_one_of("state", ["idle", "busy", "draining", "gone"]), name="state"),
    CheckConstraint(
        _one_of("desired_state", ["running", "drained", "stopped"]), name="desired_state"
    ),
    CheckConstraint("desired_slots > 0", name="desired_slots"),
    CheckConstraint("fps >= 0 AND fps < 'Infinity'", name="fps"),
    CheckConstraint(
        "array_position(queues, NULL) IS NULL AND array_position(tasks, NULL) IS NULL",
        name="arrays",
    ),
    *_times("seen_at", "registered_at"),
    postgresql_with={"fillfactor": "50"},
)

tasks = Table(
    "tasks",
    metadata,
    Column("name", Text, primary_key=True),
    Column("params_schema", JSONB, nullable=False, server_default=_EMPTY_OBJECT),
    Column("needs_source", Boolean, nullable=False, server_default=text("true")),
    Column("summary", Text),
    Column("max_attempts", Integer, nullable=False, server_default=text("3")),
    Column("time_limit", DOUBLE_PRECISION),  # seconds of one run; null: none
    Column("soft_time_limit", DOUBLE_PRECISION),
    Column("concurrency", Integer),  # most runs at once in the whole cluster; null: no limit
    Column("rate_limit", Text),  # such as 10/m
    Column("rate_next", DateTime(timezone=True)),  # past starts use up the rate until then
    Column("published_at", DateTime(timezone=True), nullable=False, server_default=_NOW),
    Column("definition", Text, nullable=False, server_default=text("''")),
    Column("version", BigInteger),  # the app's version that governs it; null: none has yet
    CheckConstraint(_is_limit("time_limit"), name="time_limit"),
    CheckConstraint(_is_limit("soft_time_limit"), name="soft_time_limit"),
    CheckConstraint(f"concurrency > 0 AND {_RATE_LIMIT}", name="caps"),
    CheckConstraint("jsonb_typeof(params_schema) = 'object'", name="objects"),
)

# Each definition of a task that there was: what a worker's own is compared with.
task_definitions = Table(
    "task_definitions",
    metadata,
    Column("task", Text, primary_key=True),
    Column("digest", Text, primary_key=True),
    Column("params_schema", JSONB, nullable=False),
    Column("needs_source", Boolean, nullable=False),
)

# The versions of apps that workers have brought, numbered as they were first registered.
app_versions = Table(
    "app_versions",
    metadata,
    Column("number", BigInteger, Identity(), primary_key=True),
    Column("app", Text, nullable=False),
    Column("digest", Text, nullable=False),  # of its sources and tasks
    # the highest one among living workers governs; `vidan tasks use` raises it
    Column("rank", BigInteger, nullable=False),
    Column("used", Boolean, nullable=False, server_default=text("false")),
    # its schedules hold: the last one that governed
    Column("governs", Boolean, nullable=False, server_default=text("false")),
    Column("schedules", JSONB, nullable=False),
    Column("registered_at", DateTime(timezone=True), nullable=False, server_default=_NOW),
    UniqueConstraint("app", "digest"),
)

# The tasks of each version, as it publishes them when it governs.
task_versions = Table(
    "task_versions",
    metadata,
    Column("version", BigInteger, primary_key=True, autoincrement=False),
    Column("name", Text, primary_key=True),
    Column("params_schema", JSONB, nullable=False),
    Column("needs_source", Boolean, nullable=False),
    Column("summary", Text),
    Column("max_attempts", Integer, nullable=False),
    Column("time_limit", DOUBLE_PRECISION),
    Column("soft_time_limit", DOUBLE_PRECISION),
    Column("concurrency", Integer),
    Column("rate_limit", Text),
    Column("definition", Text, nullable=False),
)

# Scenarios to be created when another one has ended; each row is deleted when it is created.
followups = Table(
    "followups",
    metadata,
    Column("id", BigInteger, Identity(), primary_key=True),
    Column("scenario_id", BigInteger, nullable=False, index=True),
    Column("on_status", Text, nullable=False),
    Column("new", JSONB, nullable=False),  # a checked row for protocol.creation.insert
    CheckConstraint(_one_of("on_status", ["completed", "failed"]), name="on_status"),
    CheckConstraint("jsonb_typeof(new) = 'object'", name="objects"),
)

groups = Table(
    "groups",
    metadata,
    Column("id", BigInteger, Identity(), primary_key=True),
    Column("pending", Integer, nullable=False),  # members that have not ended
    Column("callback", JSONB, nullable=False),
    Column("callback_id", BigInteger, index=True),
    Column("created_at", DateTime(timezone=True), nullable=False, server_default=_NOW),
    CheckConstraint("pending >= 0", name="pending"),
)

group_members = Table(
    "group_members",
    metadata,
    Column("group_id", BigInteger, primary_key=True, autoincrement=False),
    Column("place", Integer, primary_key=True, autoincrement=False),
    Column("scenario_id", BigInteger, nullable=False, index=True),
    Column("ended", Boolean, nullable=False, server_default=text("false")),
)

schedules = Table(
    "schedules",
    metadata,
    Column("name", Text, primary_key=True),
    Column("app", Text, nullable=False),  # the app whose workers publish it
    Column("task", Text, nullable=False),
    Column("cron", Text, nullable=False),
    Column("timezone", Text, nullable=False, server_default=text("'UTC'")),
    Column("params", JSONB, nullable=False, server_default=_EMPTY_OBJECT),
    Column("source", Text),
    Column("queue", Text, nullable=False, server_default=text("'default'")),
    Column("priority", Integer, nullable=False, server_default=text("0")),
    Column("catch_up", Text, nullable=False, server_default=text("'latest'")),
    Column("enabled", Boolean, nullable=False, server_default=text("true")),
    Column("next_at", DateTime(timezone=True), nullable=False),
    Column("last_at", DateTime(timezone=True)),
    Column("last_id", BigInteger),
    Column("error", Text),  # why the last scenario could not be created
    *_times("next_at", "last_at"),
    CheckConstraint("jsonb_typeof(params) = 'object'", name="objects"),
    CheckConstraint(_one_of("catch_up", ["skip", "latest", "all"]), name="catch_up"),
)
Index("ix_schedules_next_at", schedules.c.next_at, postgresql_where=schedules.c.enabled)

dead_letters = Table(
    "dead_letters",
    metadata,
    Column("id", BigInteger, Identity(), primary_key=True),
    Column("topic", Text, nullable=False),
    Column("partition", Integer, nullable=False),
    Column("offset", BigInteger, nullable=False),
    Column("message_at", DateTime(timezone=True), nullable=False),
    Column("digest", Text, nullable=False),
    Column("key", LargeBinary),
    Column("payload", LargeBinary),
    Column("error", Text, nullable=False),
    Column("received_at", DateTime(timezone=True), nullable=False, server_default=_NOW),
    UniqueConstraint("topic", "partition", "offset", "message_at", "digest"),
)

# failures that people have seen, as they were at that time
acknowledged = Table(
    "acknowledged",
    metadata,
    Column("failure", Text, primary_key=True),  # its kind
    Column("id", BigInteger, primary_key=True, autoincrement=False),
    Column("at", DateTime(timezone=True), nullable=False),  # when it failed
)

comments.add(metadata.tables.values())
