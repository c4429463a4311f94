"""Migrations: up, down, offline, by two at once, and that they make what the code expects."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from datetime import date
from pathlib import Path

import psycopg
import pytest

from vidan.config import sqlalchemy_url
from vidan.db import schema, tables
from vidan.db.session import Database
from vidan.errors import DatabaseUnavailable, SchemaMismatch, UsageError
from vidan.protocol import partitions

ROOT = Path(__file__).resolve().parents[2]


def relations(url: str) -> set[str]:
    with psycopg.connect(url) as connection:
        found = connection.execute(
            "SELECT relname FROM pg_class WHERE relnamespace = 'public'::regnamespace"
        ).fetchall()
    return {name for (name,) in found}


def alembic(*arguments: str, url: str | None) -> subprocess.CompletedProcess[str]:
    environment = {name: value for name, value in os.environ.items() if name != "DATABASE_URL"}
    if url is not None:
        environment["DATABASE_URL"] = url
    return subprocess.run(
        [sys.executable, "-m", "alembic", *arguments],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
    )


def assert_nothing_to_generate(url: str) -> None:
    import sqlalchemy
    from alembic.autogenerate import compare_metadata
    from alembic.migration import MigrationContext

    def named(name: str | None, kind: str, _: object) -> bool:
        return not (kind == "table" and (name or "").startswith("predictions_"))

    engine = sqlalchemy.create_engine(sqlalchemy_url(url))
    with engine.connect() as connection:
        context = MigrationContext.configure(
            connection, opts={"include_name": named, "compare_server_default": True}
        )
        assert compare_metadata(context, tables.metadata) == []
    engine.dispose()


def test_upgrade_from_empty_down_to_base_and_up_again(empty_database_url: str) -> None:
    url = empty_database_url
    assert schema.current(url) is None
    schema.upgrade(url)
    made = relations(url)
    assert made >= set(tables.metadata.tables) | {"detections"}
    assert schema.current(url) == schema.HEAD
    assert_nothing_to_generate(url)

    with Database(url).begin() as connection:
        assert partitions.ensure_ahead(connection)
    schema.downgrade(url, "base")
    left = relations(url)
    assert not any(name.startswith(tuple(tables.metadata.tables)) for name in left)
    assert schema.current(url) is None

    schema.upgrade(url)
    assert relations(url) == made
    schema.downgrade(url, "-1")
    schema.upgrade(url)
    assert relations(url) == made


def test_an_upgrade_forgets_what_the_planner_knew_of_statuses(empty_database_url: str) -> None:
    """The present statistics of a column stay when PostgreSQL keeps no new ones."""
    known = "SELECT count(*) FROM pg_stats WHERE tablename = 'scenarios' AND attname = 'status'"

    def analyse() -> int:
        with psycopg.connect(empty_database_url) as connection:
            connection.execute("ANALYZE scenarios")
            (found,) = connection.execute(known).fetchone() or (None,)
        assert found is not None
        return int(found)

    schema.upgrade(empty_database_url)
    schema.downgrade(empty_database_url, "0006")
    with psycopg.connect(empty_database_url) as connection:
        connection.execute("INSERT INTO scenarios (source) VALUES ('/a.mp4')")
    assert analyse() == 1
    schema.upgrade(empty_database_url)
    assert analyse() == 0


def test_an_upgrade_brings_times_into_the_range_of_python(empty_database_url: str) -> None:
    schema.upgrade(empty_database_url)
    schema.downgrade(empty_database_url, "0007")
    with psycopg.connect(empty_database_url) as connection:
        connection.execute(
            "INSERT INTO scenarios (not_before, announce_at) VALUES ('-infinity', NULL),"
            " ('infinity', 'infinity'), ('10000-01-01', '2030-01-01'), ('2030-01-01', '-infinity')"
        )
    schema.upgrade(empty_database_url)
    with psycopg.connect(empty_database_url) as connection:
        connection.execute("SET TimeZone TO 'UTC'")
        found = connection.execute(
            "SELECT extract(year FROM not_before), extract(year FROM announce_at) FROM scenarios"
            " ORDER BY id"
        ).fetchall()
    assert found == [(1970, None), (9000, 9000), (9000, 2030), (2030, 1970)]
    assert_nothing_to_generate(empty_database_url)


def test_autogenerate_finds_nothing_also_beside_partitions(database_url: str) -> None:
    with Database(database_url).begin() as connection:
        partitions.ensure_week(connection, date(2024, 1, 1))
    checked = alembic("check", url=database_url)
    assert checked.returncode == 0, checked.stderr
    assert "No new upgrade operations detected" in checked.stdout


def test_autogenerate_would_find_a_difference(database_url: str) -> None:
    with psycopg.connect(database_url) as connection:
        connection.execute("ALTER TABLE scenarios ALTER priority SET DEFAULT 7")
    checked = alembic("check", url=database_url)
    assert checked.returncode != 0
    assert "priority" in checked.stdout + checked.stderr


def test_head_is_the_newest_migration() -> None:
    (newest, *_) = schema.history()
    assert newest.split()[0] == schema.HEAD
    files = {path.name.partition("_")[0] for path in (ROOT / "migrations/versions").glob("[0-9]*")}
    assert max(files) == schema.HEAD
    assert len(schema.history()) == len(files)


def test_sql_is_printed_without_a_database(capsys: pytest.CaptureFixture[str]) -> None:
    schema.upgrade(None, sql=True)
    up = capsys.readouterr().out
    assert "CREATE TABLE scenarios" in up
    assert "CREATE VIEW detections" in up
    assert "PARTITION BY LIST (week)" in up
    schema.downgrade(None, "base", sql=True)
    down = capsys.readouterr().out
    assert "DROP TABLE scenarios" in down
    assert "CREATE TABLE" not in down


def test_the_printed_sql_makes_the_same_schema(
    empty_database_url: str, capsys: pytest.CaptureFixture[str]
) -> None:
    schema.upgrade(None, sql=True)
    with psycopg.connect(empty_database_url) as connection:
        connection.execute(capsys.readouterr().out.encode())
    assert schema.current(empty_database_url) == schema.HEAD
    assert_nothing_to_generate(empty_database_url)
    schema.downgrade(None, "base", sql=True)
    with psycopg.connect(empty_database_url) as connection:
        connection.execute(capsys.readouterr().out.encode())
    assert not relations(empty_database_url) & set(tables.metadata.tables)


def test_alembic_itself_upgrades_from_the_root(empty_database_url: str) -> None:
    upgraded = alembic("upgrade", "head", url=empty_database_url)
    assert upgraded.returncode == 0, upgraded.stderr
    assert schema.current(empty_database_url) == schema.HEAD


def test_alembic_itself_prints_sql_without_a_database() -> None:
    printed = alembic("upgrade", "head", "--sql", url=None)
    assert printed.returncode == 0, printed.stderr
    assert "CREATE TABLE scenarios" in printed.stdout


def test_an_old_or_missing_schema_names_the_command_that_mends_it(
    empty_database_url: str,
) -> None:
    database = Database(empty_database_url)
    with pytest.raises(SchemaMismatch) as missing:
        schema.check(database)
    assert missing.value.hint == "run `vidan db upgrade`"
    schema.upgrade(empty_database_url)
    schema.check(database)
    with psycopg.connect(empty_database_url) as connection:
        connection.execute("UPDATE alembic_version SET version_num = '0000'")
    with pytest.raises(SchemaMismatch, match="0000") as old:
        schema.check(database)
    assert old.value.hint == "run `vidan db upgrade`"
    with psycopg.connect(empty_database_url) as connection:
        connection.execute("UPDATE alembic_version SET version_num = '9999'")
    with pytest.raises(SchemaMismatch, match="9999") as newer:
        schema.check(database)
    assert "install" in (newer.value.hint or "")
    database.close()


def test_of_two_upgrades_at_once_one_finds_nothing_to_do(empty_database_url: str) -> None:
    failures: list[BaseException] = []
    processes = [
        subprocess.Popen(
            [sys.executable, "-m", "alembic", "upgrade", "head"],
            cwd=ROOT,
            env={**os.environ, "DATABASE_URL": empty_database_url},
            stderr=subprocess.PIPE,
            text=True,
        )
        for _ in range(2)
    ]

    def here() -> None:
        try:
            schema.upgrade(empty_database_url)
        except BaseException as error:
            failures.append(error)

    thread = threading.Thread(target=here)
    thread.start()
    ended = [(one.communicate()[1], one.returncode) for one in processes]
    thread.join()
    assert [code for _, code in ended] == [0, 0], ended
    assert failures == []
    assert schema.current(empty_database_url) == schema.HEAD


def test_an_unknown_revision_is_a_usage_error(database_url: str) -> None:
    with pytest.raises(UsageError):
        schema.upgrade(database_url, "7777")


def test_an_unreachable_database_is_named(tmp_path: Path) -> None:
    with pytest.raises(DatabaseUnavailable):
        schema.upgrade(f"postgresql://nobody@/none?host={tmp_path}")


DEFINITIONS = """
SELECT conrelid::regclass::text, conname, pg_get_constraintdef(oid) FROM pg_constraint
WHERE connamespace = 'public'::regnamespace AND conrelid::regclass::text <> 'alembic_version'
UNION ALL SELECT tablename, indexname, indexdef FROM pg_indexes
WHERE schemaname = 'public' AND tablename <> 'alembic_version'
UNION ALL SELECT relname, 'options', array_to_string(reloptions, ',') FROM pg_class
WHERE relnamespace = 'public'::regnamespace AND relkind IN ('r', 'p')
  AND relname <> 'alembic_version'
"""


def test_migrations_make_the_checks_and_options_of_the_models(
    database_url: str, empty_database_url: str
) -> None:
    """Autogenerate compares neither."""
    import sqlalchemy

    engine = sqlalchemy.create_engine(sqlalchemy_url(empty_database_url))
    tables.metadata.create_all(engine)
    engine.dispose()
    definitions = []
    for url in (database_url, empty_database_url):
        with psycopg.connect(url) as connection:
            definitions.append(set(connection.execute(DEFINITIONS).fetchall()))
    assert definitions[0] == definitions[1]
    assert len(definitions[0]) > 20
