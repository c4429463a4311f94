"""The server of the growth benchmark and its data: some live scenarios and many ended ones."""

from __future__ import annotations

import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psycopg

from tests.support.durable_postgres import DurablePostgres
from vidan.config import plain_url
from vidan.db import schema

LIVE = 1_000
WORKERS = 100
EMPTY = "empty"
STATES = ("stale", "never", "analysed")
"""The planner's statistics of the grown table: from before it grew, none, up to date."""

_WORKERS = """
INSERT INTO workers (id, name, host, pid, device, slots, lease_until)
SELECT gen_random_uuid(), 'cpu-' || n || '@host-' || n, 'host-' || n, n, 'cpu', 4,
       now() + interval '10 years'
FROM generate_series(1, %(workers)s) n
"""

# 500 are due, 300 are being run, 200 in another queue are due tomorrow
_LIVING = """
INSERT INTO scenarios (id, name, labels, source, params, queue, priority, status, not_before,
                       announce_at, epoch, worker_id, started_at)
OVERRIDING SYSTEM VALUE
SELECT %(ended)s + n, 'camera ' || n, jsonb_build_object('camera', n::text),
       '/videos/camera-' || n || '.mp4', '{"model": "nanodet-g", "min_score": 0.35}',
       CASE WHEN n > 800 THEN 'night' ELSE 'default' END, n %% 3,
       CASE WHEN n BETWEEN 501 AND 800 THEN 'active' ELSE 'init_startup' END,
       CASE WHEN n > 800 THEN now() + interval '1 day' ELSE now() - interval '1 minute' END,
       CASE WHEN n > 800 THEN now() + interval '1 day' END, 1,
       CASE WHEN n BETWEEN 501 AND 800 THEN w.ids[1 + n %% %(workers)s] END, now()
FROM generate_series(1, %(live)s) n, (SELECT array_agg(id) AS ids FROM workers) w
"""

_ENDED = """
INSERT INTO scenarios (id, name, key, labels, source, params, queue, priority, status, not_before,
                       announce_at, epoch, checkpoint, frames_total, frames_done, label_names,
                       week, result, error, created_at, started_at, ended_at)
OVERRIDING SYSTEM VALUE
SELECT n, 'camera ' || n %% 500, CASE WHEN n %% 3 = 0 THEN 'import-' || n END,
       jsonb_build_object('camera', (n %% 500)::text, 'batch', (n / 1000)::text),
       '/videos/camera-' || n %% 500 || '/' || n || '.mp4',
       '{"model": "nanodet-g", "min_score": 0.35}',
       CASE WHEN n %% 4 = 0 THEN 'night' ELSE 'default' END, n %% 3,
       CASE WHEN n %% 50 = 0 THEN 'failed' WHEN n %% 20 = 0 THEN 'inactive' ELSE 'completed' END,
       at, NULL, 1, 20000, 20000, 20000, '{person,car,bicycle}', date_trunc('week', at)::date,
       '{"people": 17}', CASE WHEN n %% 50 = 0 THEN 'the source could not be read' END,
       at, at, at + interval '1 minute'
FROM generate_series(%(first)s::bigint, %(last)s::bigint) n
CROSS JOIN LATERAL (
    SELECT now() - interval '80 days' * (1 - n / %(ended)s::float8) - interval '8 days' AS at
) t
"""

_TRANSITIONS = """
INSERT INTO transitions (scenario_id, from_status, to_status, actor, at)
SELECT s.id, t.from_status, t.to_status, 'cpu-0@host', s.ended_at
FROM scenarios s CROSS JOIN (VALUES (NULL, 'init_startup'),
    ('init_startup', 'init_startup_processing'), ('init_startup_processing', 'active'),
    ('active', 'completed')) t (from_status, to_status)
WHERE s.id BETWEEN %(first)s AND %(last)s
"""


@contextmanager
def server(folder: Path | None) -> Iterator[DurablePostgres]:
    """Run a PostgreSQL with its defaults, in `folder` or else in a temporary folder."""
    place = folder or Path(tempfile.mkdtemp(prefix="vidan-growth-", dir="/tmp"))
    place.mkdir(exist_ok=True)
    place.chmod(0o755)
    made = DurablePostgres(place, {})
    made.start()
    try:
        yield made
    finally:
        made.stop()
        if folder is None:
            shutil.rmtree(place)


def database_url(postgres: DurablePostgres, name: str) -> str:
    """Return the URL of one of the server's databases."""
    return plain_url(postgres.url).replace("@/vidan?", f"@/{name}?")


@contextmanager
def copied(postgres: DurablePostgres, template: str, name: str) -> Iterator[str]:
    """Copy a database for the block, and yield the URL of the copy."""
    _drop(postgres, name)  # an interrupted call may have left it
    yield postgres.create_database(name, template=template)
    _drop(postgres, name)


def _drop(postgres: DurablePostgres, name: str) -> None:
    with psycopg.connect(postgres.url, autocommit=True) as connection:
        connection.execute(f'DROP DATABASE IF EXISTS "{name}" WITH (FORCE)')


def names(postgres: DurablePostgres) -> set[str]:
    """Return the names of the databases."""
    with psycopg.connect(postgres.url) as connection:
        return {name for (name,) in connection.execute("SELECT datname FROM pg_database")}


def make_scenarios(postgres: DurablePostgres, count: int) -> None:
    """Create the empty database and the grown ones, if they are missing."""
    if EMPTY not in names(postgres):
        url = postgres.create_database(EMPTY)
        schema.upgrade(url)
        with psycopg.connect(url) as connection:
            _make_living(connection, count - LIVE)
        with psycopg.connect(url, autocommit=True) as connection:
            connection.execute("VACUUM ANALYZE")
    for state in STATES:
        if state not in names(postgres):
            began = time.monotonic()
            _make_grown(postgres, state, count - LIVE)
            print(f"{state}: {time.monotonic() - began:.0f} s", flush=True)


def _make_living(connection: psycopg.Connection[tuple[object, ...]], ended: int) -> None:
    given = {"ended": ended, "live": LIVE, "workers": WORKERS}
    connection.execute(_WORKERS, given)
    connection.execute(_LIVING, given)
    connection.execute(f"ALTER TABLE scenarios ALTER id RESTART WITH {ended + LIVE + 1}")


def _make_grown(postgres: DurablePostgres, state: str, ended: int) -> None:
    (first, *_) = STATES
    if state != first:
        url = postgres.create_database(state, template=first)
    else:
        url = postgres.create_database(state)
        schema.upgrade(url)
    with psycopg.connect(url, autocommit=True) as connection:
        # so that the planner's statistics stay as they are, and no vacuum disturbs what is timed
        for table in ("scenarios", "transitions"):
            connection.execute(f"ALTER TABLE {table} SET (autovacuum_enabled = off)")
        if state == first:
            _make_living(connection, ended)
            connection.execute("ANALYZE")
            for start in range(1, ended + 1, 100_000):
                part = {"first": start, "last": min(start + 99_999, ended), "ended": ended}
                connection.execute(_ENDED, part)
                connection.execute(_TRANSITIONS, part)
        elif state == "never":
            for table in ("scenarios", "workers"):
                connection.execute("SELECT pg_clear_relation_stats('public', %s)", [table])
                connection.execute(
                    "SELECT pg_clear_attribute_stats('public', %(table)s, attname, false)"
                    " FROM pg_stats WHERE tablename = %(table)s",
                    {"table": table},
                )
        else:
            for table in ("scenarios", "transitions"):
                connection.execute(f"ALTER TABLE {table} RESET (autovacuum_enabled)")
            connection.execute("VACUUM ANALYZE")
        connection.execute("CHECKPOINT")
