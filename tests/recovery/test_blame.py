"""Errors by which the database is unavailable charge no run; all others are errors of the run."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator

import psycopg
import pytest
from sqlalchemy import Connection, text
from sqlalchemy.exc import DBAPIError

from tests.support.played_worker import PlayedWorker
from tests.support.processes import eventually
from vidan.db.session import Database
from vidan.domain.detection import Detection
from vidan.errors import DatabaseUnavailable
from vidan.protocol import commits, creation
from vidan.protocol.claims import Claimed
from vidan.protocol.creation import NewScenario
from vidan.run import committer as committer_module
from vidan.run.committer import Committer, FinishedFrames
from vidan.run.control import RunControl

UNAVAILABLE = (
    "08000", "08006", "25006", "25P03", "25P04", "40001", "40P01", "53000", "53100", "53200",
    "53300", "53400", "55006", "55P03", "57000", "57014", "57P01", "57P02", "57P03", "58000",
    "58030", "58P01",
)  # fmt: skip
WRONG = (
    "0A000", "21000", "22001", "22P02", "23502", "23505", "23514", "25P02", "26000", "42501",
    "42703", "42P01", "54000", "54001", "55000", "P0001", "XX000", "XX001",
)  # fmt: skip

RAISE = "DO $$ BEGIN RAISE EXCEPTION 'for a test' USING ERRCODE = '{state}'; END $$"


@pytest.mark.parametrize("raw", [False, True], ids=["sqlalchemy", "psycopg"])
def test_the_sqlstate_tells_an_outage_from_an_error(database: Database, raw: bool) -> None:
    """psycopg has many classes for them, and the errors of COPY do not pass through SQLAlchemy."""
    told = {}
    for state in (*UNAVAILABLE, *WRONG):
        statement = RAISE.format(state=state)
        try:
            with database.begin() as connection:
                if raw:
                    connection.connection.driver_connection.execute(statement)  # type: ignore[union-attr]
                else:
                    connection.execute(text(statement))
        except DatabaseUnavailable:
            told[state] = "unavailable"
        except (DBAPIError, psycopg.Error):
            told[state] = "wrong"
    assert told == dict.fromkeys(UNAVAILABLE, "unavailable") | dict.fromkeys(WRONG, "wrong")


def test_a_server_that_became_a_standby_is_left(database: Database) -> None:
    """Its connections stay open: statements sent again over them never reach the new primary."""
    with database.begin() as connection:
        connection.execute(text("SET SESSION CHARACTERISTICS AS TRANSACTION READ ONLY"))
    with pytest.raises(DatabaseUnavailable, match="read-only"), database.begin() as connection:
        connection.execute(text("UPDATE scenarios SET name = 'x'"))
    with database.begin() as connection:
        connection.execute(text("UPDATE scenarios SET name = 'x'"))


# --- commits


@pytest.fixture
def worker(database: Database) -> PlayedWorker:
    with database.begin() as connection:
        creation.create(connection, NewScenario(source="/a.mp4"))
    return PlayedWorker(database)


@pytest.fixture
def claimed(worker: PlayedWorker) -> Claimed:
    (found,) = worker.take()
    with worker.database.begin() as connection:
        connection.execute(text("UPDATE scenarios SET status = 'active'"))
    return found


@pytest.fixture
def control() -> RunControl:
    return RunControl()


@pytest.fixture
def committer(
    database_url: str, worker: PlayedWorker, claimed: Claimed, control: RunControl
) -> Iterator[Committer]:
    guarded = Database(database_url, application_name=str(worker.id), guarded=True)
    made = Committer(guarded, claimed, control)
    yield made
    made.close()
    guarded.close()


def store(committer: Committer, frame: int) -> None:
    found = [Detection((1.0, 2.0, 3.0, 4.0), "person", 0.5)]
    row = committer.labels.row(frame, frame * 40, found)
    committer.add(FinishedFrames([row], (), frame + 1, None, "{}", None))


def stored(database: Database) -> int:
    with database.begin() as connection:
        return int(connection.execute(text("SELECT count(*) FROM predictions")).scalar_one())


@pytest.mark.parametrize("state", ["53100", "58030", "57014", "25006"])
def test_a_disk_that_is_full_ends_no_run(
    committer: Committer, database: Database, control: RunControl, state: str
) -> None:
    with database.begin() as connection:
        connection.execute(
            text(
                "CREATE FUNCTION full_disk() RETURNS trigger LANGUAGE plpgsql AS"
                f" 'BEGIN RAISE EXCEPTION ''no room'' USING ERRCODE = ''{state}''; END'"
            )
        )
        connection.execute(
            text(
                "CREATE TRIGGER full_disk BEFORE INSERT ON predictions"
                " FOR EACH ROW EXECUTE FUNCTION full_disk()"
            )
        )
    store(committer, 0)
    time.sleep(1.3)
    store(committer, 1)
    assert stored(database) == 0
    database.retrying(Connection.execute, text("DROP TRIGGER full_disk ON predictions"))
    committer.flush()
    assert (stored(database), control.interruption) == (2, None)


def test_a_process_that_was_stopped_inside_its_commit_commits_again(
    committer: Committer, database: Database, control: RunControl, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The process stands between UPDATE and COPY for longer than a transaction may be idle."""
    copy, stops = commits._copy, [0.3]

    def stopped(connection: object, *rest: object) -> None:
        if stops:
            connection.execute(text("SET idle_in_transaction_session_timeout = 50"))  # type: ignore[attr-defined]
            time.sleep(stops.pop())
        copy(connection, *rest)  # type: ignore[arg-type]

    monkeypatch.setattr(commits, "_copy", stopped)
    store(committer, 0)
    committer.flush()
    assert (stored(database), control.interruption) == (1, None)


# --- how much waits in memory


def test_the_waiting_rows_are_bounded_by_their_size_too(
    committer: Committer,
    database: Database,
    control: RunControl,
    claimed: Claimed,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Few frames may hold very many detections: memory and each commit take only part of them."""
    monkeypatch.setattr(committer_module, "BUFFER_BYTES", 600_000)
    monkeypatch.setattr(committer_module, "COMMIT_BYTES", 250_000)
    crowd = [Detection((1.0, 2.0, 3.0, 4.0), "person", 0.5)] * 1000
    added: list[int] = []

    def work() -> None:
        for frame in range(20):
            row = committer.labels.row(frame, frame * 40, crowd)
            committer.add(FinishedFrames([row], (), frame + 1, None, "{}", None))
            added.append(frame)

    with database.begin() as connection:
        connection.execute(text("SELECT 1 FROM scenarios FOR UPDATE"))
        run = threading.Thread(target=work)
        run.start()
        assert eventually(lambda: len(added) >= 2)
        time.sleep(1.0)
        assert len(added) <= 5, added  # about three wait, and one is being committed
    run.join(30)
    committer.flush()
    assert (stored(database), control.interruption) == (20, None)


def test_after_an_outage_no_commit_is_larger_than_a_statement_may_be(
    committer: Committer,
    database: Database,
    control: RunControl,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A commit of all waiting frames would exceed the statement time-out each time it is tried."""
    monkeypatch.setattr(committer_module, "COMMIT_FRAMES", 50)
    sizes: list[int] = []
    commit = commits.commit

    def noting(connection: object, fence: object, batch: commits.Batch) -> object:
        sizes.append(len(batch.rows))
        return commit(connection, fence, batch)  # type: ignore[arg-type]

    monkeypatch.setattr(commits, "commit", noting)
    with database.begin() as connection:
        connection.execute(text("SELECT 1 FROM scenarios FOR UPDATE"))
        for frame in range(500):
            store(committer, frame)
    committer.flush()
    assert stored(database) == 500
    assert max(sizes) == 50
    assert control.interruption is None
