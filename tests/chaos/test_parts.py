"""The instruments of the chaos run: an instrument that misses a violation proves nothing."""

from __future__ import annotations

import threading
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest
from psycopg.conninfo import conninfo_to_dict

from tests.chaos.__main__ import main
from tests.chaos.compare import detections_differ, differences
from tests.chaos.evidence import Evidence, Mark, Step, redone
from tests.chaos.schedule import Kind, plan
from tests.chaos.verdict import judge
from tests.chaos.workload import Expected, Work
from tests.support.played_worker import PlayedWorker
from tests.support.processes import eventually
from tests.support.proxy import Proxy, Transaction
from vidan.db.session import Database
from vidan.domain.detection import Detection, Gap
from vidan.domain.status import Status
from vidan.errors import DatabaseUnavailable
from vidan.protocol import creation
from vidan.protocol.creation import NewScenario
from vidan.services import scenarios
from vidan.services.predictions import StoredFrame
from vidan.stack.postgres import PostgresServer

SEEN = Detection((1.0, 2.0, 30.0, 40.0), "person", 0.8)


def moved(score: float = 0.0, edge: float = 0.0) -> Detection:
    return Detection((1.0 + edge, 2.0, 30.0, 40.0), "person", 0.8 + score)


def test_the_schedule_depends_on_the_seed_alone() -> None:
    assert plan(7, 100) == plan(7, 100)
    assert plan(7, 100)[:30] == plan(7, 30)
    assert plan(7, 100) != plan(8, 100)
    assert {one.kind for one in plan(7, len(Kind))} == set(Kind)
    assert len({one.kind for one in plan(3, len(Kind) - 1, short=True)}) == len(Kind) - 1


@pytest.mark.parametrize("other", [moved(score=9e-4), moved(edge=0.4)])
def test_small_differences_that_batching_makes_are_none(other: Detection) -> None:
    assert detections_differ([SEEN], [other], 0.35) is None


@pytest.mark.parametrize(
    "found", [[moved(score=2e-3)], [moved(edge=0.6)], [], [SEEN, SEEN],
              [Detection(SEEN.box, "car", 0.8)]]
)  # fmt: skip
def test_larger_differences_are_found(found: list[Detection]) -> None:
    assert detections_differ(found, [SEEN], 0.35) is not None


def test_a_detection_at_the_threshold_may_be_there_or_not() -> None:
    faint = Detection(SEEN.box, "person", 0.3505)
    assert detections_differ([SEEN, faint], [SEEN], 0.35) is None
    assert detections_differ([SEEN], [SEEN, faint], 0.35) is None


def test_lost_frames_and_different_gaps_are_found() -> None:
    whole = Expected(
        {n: StoredFrame(1, n, n * 40, (SEEN,)) for n in range(4)}, [Gap(4, 5, "broken")], None, {}
    )
    part = Expected({n: whole.frames[n] for n in (0, 1)}, [], None, {})
    assert list(differences(part, whole, 0.35)) == [
        "2 frames lost: 2, 3",
        f"the gaps are [], not {list(whole.gaps)}",
    ]
    assert list(differences(part, whole, 0.35, upto=2)) == []
    assert next(differences(whole, part, 0.35)) == "2 frames too many: 2, 3"


def test_frames_that_were_done_twice_are_found_for_each_run() -> None:
    marks = [
        Mark(1.0, 10, (0, 1)), Mark(1.1, 10, (2, 3)), Mark(1.2, 10, (4, 5)),  # killed: 0…1 stored
        Mark(2.0, 11, (2, 3)), Mark(2.1, 11, (4, 5)), Mark(2.2, 11, (6, 7)),  # all of it stored
    ]  # fmt: skip
    assert redone(marks) == [marks[1:3]]
    assert redone(marks[:3]) == []


def test_a_death_without_an_injury_is_a_violation() -> None:
    steps = [
        Step(None, "init_startup", "created", "user", 1.0),
        Step("init_startup", "init_startup_processing", "claimed", "one", 2.0),
        Step("init_startup_processing", "init_startup", "the worker died", "orchestrator", 20.0),
        Step("init_startup", "completed", None, "one", 21.0),
    ]
    row = {"status": "completed", "worker_id": None, "announce_at": None, "checkpoint": 0,
           "frames_done": 0, "error": None, "crashes": 2, "attempts": 0}  # fmt: skip
    work = Work("ponder", None, {"number": 12})
    evidence = Evidence({1: work}, {1: row}, {1: steps}, {}, {1: []}, [], frozenset(), [(1, 3)], 0)
    expected = {work.key: Expected({}, [], 144, {})}

    found = [one.text for one in judge(evidence, expected, lambda _: expected[work.key])]

    assert found == [
        "a transition from init_startup to completed is not allowed",
        "crashes is 2, and 1 were charged",
        "charged without a reason: init_startup_processing to init_startup by orchestrator:"
        " the worker died",
        "frame 3 is stored twice",
    ]


def test_a_folder_without_videos_is_a_clear_error(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "notes.txt").write_text("nothing to see")
    command = ["--broker", "embedded", "--kills", "1", "--videos"]
    assert main([*command, str(tmp_path)]) == 2
    assert f"Error: no readable video in {tmp_path}" in capsys.readouterr().err
    assert main([*command, str(tmp_path / "none")]) == 2
    assert "Error: there is no folder" in capsys.readouterr().err


@pytest.fixture
def proxied(postgres: PostgresServer, database_url: str) -> Iterator[tuple[Proxy, str]]:
    folder = Path(str(conninfo_to_dict(postgres.url)["host"]))
    proxy = Proxy(lambda: folder / ".s.PGSQL.5432")
    name = conninfo_to_dict(database_url)["dbname"]
    yield proxy, f"postgresql://vidan@127.0.0.1:{proxy.port}/{name}"
    proxy.close()


def test_the_proxy_passes_everything_on(proxied: tuple[Proxy, str]) -> None:
    large = "x" * 3_000_000
    with psycopg.connect(proxied[1]) as connection:
        assert connection.execute("SELECT %s::text", [large]).fetchall() == [(large,)]
        connection.execute("CREATE TEMP TABLE t (n int)")
        with connection.cursor().copy("COPY t FROM STDIN") as copy:
            for number in range(100_000):
                copy.write_row((number,))
        assert connection.execute("SELECT sum(n) FROM t").fetchone() == (4_999_950_000,)
        connection.commit()
        with pytest.raises(psycopg.errors.QueryCanceled):
            cancelled(connection)


def cancelled(connection: psycopg.Connection[Any]) -> None:
    threading.Timer(0.3, connection.cancel_safe).start()
    connection.execute("SELECT pg_sleep(20)")


def test_the_proxy_cuts_off_the_answer_to_a_commit_that_succeeded(
    proxied: tuple[Proxy, str], database: Database
) -> None:
    proxy, url = proxied
    through = Database(url, application_name=str(uuid.uuid4()))
    with database.begin() as connection:
        scenario_id = creation.create(connection, NewScenario(source="/v.mp4")).id
    worker = PlayedWorker(through)
    worker.claim()
    for frame in range(8):  # by then the driver has prepared its statements, and sends no SQL
        worker.store([frame])
    cut: list[tuple[float, str] | None] = []
    arm = threading.Thread(target=lambda: cut.append(proxy.cut_next(Transaction.COMMIT, 10)))
    arm.start()
    assert eventually(lambda: proxy.armed is Transaction.COMMIT)

    with pytest.raises(DatabaseUnavailable):
        worker.store([8])

    arm.join()
    assert cut[0] is not None
    with database.begin() as connection:
        assert scenarios.get(connection, scenario_id).checkpoint == 9
    worker.store([8])  # the same batch again: it had been stored
    worker.store([9])
    assert worker.checkpoint == 10
    with database.begin() as connection:
        assert scenarios.get(connection, scenario_id).status is Status.ACTIVE
    through.close()
