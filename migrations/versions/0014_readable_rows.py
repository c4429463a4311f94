"""Tables refuse values that no program could read: times out of range, NaN, infinity, odd shapes.

Existing rows are mended: times come into range, limits that are none are left out, rows that
nothing can be made of are deleted.

Revision ID: 0014
Revises: 0013
"""

from __future__ import annotations

from alembic import op

revision = "0014"
down_revision = "0013"
branch_labels = None
depends_on = None

_EARLIEST, _LATEST = "'1970-01-02T00:00:00+00:00'", "'9000-01-01T00:00:00+00:00'"
_TIMES = {
    "scenarios": ("created_at", "started_at", "ended_at"),
    "workers": ("seen_at", "registered_at"),
    "schedules": ("next_at", "last_at"),
    "transitions": ("at",),
}
_LIMITS = {
    "scenarios": ("time_limit", "soft_time_limit"),
    "tasks": ("time_limit", "soft_time_limit"),
}
_OBJECTS = {"tasks": "params_schema", "schedules": "params", "followups": "new"}


def _range(column: str) -> str:
    return f"{column} BETWEEN {_EARLIEST} AND {_LATEST}"


def _add(table: str, name: str, condition: str, mend: str) -> None:
    """Refuse new rows first, then mend the existing ones, so that none slips in between."""
    added = f"CONSTRAINT ck_{table}_{name} CHECK ({condition})"
    op.execute(f"ALTER TABLE {table} ADD {added} NOT VALID")
    op.execute(mend)
    op.execute(f"ALTER TABLE {table} VALIDATE CONSTRAINT ck_{table}_{name}")


def _constraints() -> list[tuple[str, str, str, str]]:
    found: list[tuple[str, str, str, str]] = []
    for table, columns in _TIMES.items():
        for column in columns:
            mend = (
                f"UPDATE {table} SET {column} = least(greatest({column}, {_EARLIEST}), {_LATEST})"
                f" WHERE NOT ({_range(column)})"
            )
            found.append((table, column, _range(column), mend))
    for table, columns in _LIMITS.items():
        for column in columns:
            # NaN is above infinity
            condition = f"{column} > 0 AND {column} < 'Infinity'"
            mend = f"UPDATE {table} SET {column} = NULL WHERE NOT ({condition})"
            found.append((table, column, condition, mend))
    for table, column in _OBJECTS.items():
        condition = f"jsonb_typeof({column}) = 'object'"
        mend = f"DELETE FROM {table} WHERE NOT ({condition})"
        found.append((table, "objects", condition, mend))
    found += [
        (
            "workers",
            "fps",
            "fps >= 0 AND fps < 'Infinity'",
            "UPDATE workers SET fps = 0 WHERE NOT (fps >= 0 AND fps < 'Infinity')",
        ),
        (
            "workers",
            "arrays",
            "array_position(queues, NULL) IS NULL AND array_position(tasks, NULL) IS NULL",
            "UPDATE workers SET queues = array_remove(queues, NULL),"
            " tasks = array_remove(tasks, NULL) WHERE array_position(queues, NULL) IS NOT NULL"
            " OR array_position(tasks, NULL) IS NOT NULL",
        ),
        (
            "scenarios",
            "label_names",
            "array_position(label_names, NULL) IS NULL",
            "UPDATE scenarios SET label_names = array_replace(label_names, NULL, '')"
            " WHERE array_position(label_names, NULL) IS NOT NULL",
        ),
        (
            "tasks",
            "caps",
            "concurrency > 0 AND rate_limit ~ '^[1-9][0-9]{0,5}/[smh]$'",
            "UPDATE tasks SET concurrency = CASE WHEN concurrency > 0 THEN concurrency END,"
            " rate_limit = CASE WHEN rate_limit ~ '^[1-9][0-9]{0,5}/[smh]$' THEN rate_limit END"
            " WHERE NOT (concurrency > 0) OR NOT (rate_limit ~ '^[1-9][0-9]{0,5}/[smh]$')",
        ),
    ]
    info = "jsonb_typeof(source_info) = 'object'"
    mend = f"UPDATE scenarios SET source_info = NULL WHERE NOT ({info})"
    found.append(("scenarios", "source_info", info, mend))
    return found


def upgrade() -> None:
    for table, name, condition, mend in _constraints():
        _add(table, name, condition, mend)


def downgrade() -> None:
    for table, name, _, _ in reversed(_constraints()):
        op.execute(f"ALTER TABLE {table} DROP CONSTRAINT ck_{table}_{name}")
