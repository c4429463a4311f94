"""Whatever the planner knows of the table, workers and orchestrators read a few rows of it."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterator

import pytest
from sqlalchemy import Connection, text

from tests.support.played_worker import PlayedWorker
from vidan.db.session import Database
from vidan.services import announcements, events, expiry, leases, overview, scenarios
from vidan.services.leases import Claimant
from vidan.services.scenarios import NewScenario

ENDED = 20_000
WORKER = uuid.uuid4()


def grow(database: Database, knowledge: str) -> None:
    """A few that live, then very many that have ended; the planner's knowledge is as named."""
    with database.begin() as connection:
        scenarios.create_many(connection, [NewScenario(source="/a.mp4")] * 20)
    PlayedWorker(database).take(10)
    with database.begin() as connection:
        announcements.take_due(connection)
        if knowledge == "from before it grew":
            connection.execute(text("ANALYZE"))
        connection.execute(text("ALTER TABLE scenarios SET (autovacuum_enabled = off)"))
        connection.execute(
            text(
                "INSERT INTO scenarios (source, status, announce_at)"
                " SELECT '/b.mp4', 'completed', NULL FROM generate_series(1, :ended)"
            ),
            {"ended": ENDED},
        )
        if knowledge == "all":
            connection.execute(text("ANALYZE"))


@pytest.fixture
def guarded(database_url: str) -> Iterator[Database]:
    """Connections as workers and orchestrators have them."""
    opened = Database(database_url, guarded=True, pool_size=1)
    yield opened
    opened.close()


def rows_read(connection: Connection) -> int:
    connection.execute(text("SELECT pg_stat_force_next_flush()"))
    found = connection.execute(
        text(
            "SELECT seq_tup_read + coalesce(idx_tup_fetch, 0) FROM pg_stat_xact_user_tables"
            " WHERE relname = 'scenarios'"
        )
    )
    return int(found.scalar_one())


STEPS: dict[str, Callable[[Connection], object]] = {
    "claim": lambda c: leases.claim(c, Claimant(WORKER, "w", ("default", "night"), ("detect",)), 4),
    "announcement": announcements.take_due,
    "next due": announcements.next_due,
    "expiry": lambda c: expiry.expire(c, actor="test"),
    "suspects": lambda c: leases.suspects_due(c, [WORKER]),
    "overview": overview.look,
    "events": lambda c: events.read(c, events.now(c), events.Wanted(task="detect")),
    "held": lambda c: leases.held(c, WORKER),
}


@pytest.mark.parametrize("step", STEPS)
@pytest.mark.parametrize("knowledge", ["nothing", "from before it grew", "all"])
def test_a_step_reads_a_few_rows(
    database: Database, guarded: Database, knowledge: str, step: str
) -> None:
    grow(database, knowledge)
    with guarded.begin() as connection:
        STEPS[step](connection)
        assert rows_read(connection) < 200
