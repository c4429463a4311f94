"""Every table, view and column of the database says what it means."""

from __future__ import annotations

from sqlalchemy import text

from vidan.db import comments, tables
from vidan.db.session import Database

BARE = """
SELECT c.relname || coalesce('.' || a.attname, '') AS name
FROM pg_class c
LEFT JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped
WHERE c.relnamespace = 'public'::regnamespace AND c.relkind IN ('r', 'p', 'v')
  AND NOT c.relispartition
  AND (col_description(c.oid, a.attnum) IS NULL OR obj_description(c.oid, 'pg_class') IS NULL)
ORDER BY 1
"""


def test_every_table_and_column_has_a_comment(database: Database) -> None:
    with database.begin() as connection:
        bare = list(connection.execute(text(BARE)).scalars())
    assert not bare, f"a COMMENT in its migration, and a line in vidan/db/comments.py, for: {bare}"


def test_the_comments_of_the_tables_are_those_of_the_database(database: Database) -> None:
    """Alembic's comparison, in `test_schema.py`, holds both to be equal; here: none is missing."""
    assert set(comments.COMMENTS) == set(tables.metadata.tables)
    bare = [
        f"{table.name}.{column.name}"
        for table in tables.metadata.tables.values()
        for column in table.columns
        if not column.comment
    ]
    assert bare == []
