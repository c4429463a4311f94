"""With any statistics of the planner, workers and orchestrators read only a few rows."""

from __future__ import annotations

import itertools
import uuid
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import Any

import pytest
from sqlalchemy import Connection, event, text

from tests.support.played_worker import PlayedWorker
from vidan.db.session import Database
from vidan.domain.status import Status
from vidan.protocol import (
    announcements,
    caps,
    claims,
    creation,
    expiry,
    heartbeats,
    lifecycle,
    tasks,
    waiting,
)
from vidan.protocol.claims import Claimant
from vidan.protocol.creation import NewScenario
from vidan.protocol.fences import Fence
from vidan.protocol.tasks import DETECT, TaskSpec
from vidan.services import events, overview, scenarios

ENDED = 20_000
WORKER = uuid.uuid4()
QUEUES = ("default", "night")


def grow(database: Database, knowledge: str) -> list[Fence]:
    """A few that live, then very many that have ended; the planner's knowledge is as named.

    Returns the fences of those that a worker holds.
    """
    with database.begin() as connection:
        creation.create_many(connection, [NewScenario(source="/a.mp4")] * 20)
    held = [one.fence for one in PlayedWorker(database).take(10)]
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
    return held


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


def claim(connection: Connection, held: Sequence[Fence]) -> bool:
    taken = {DETECT.name: (DETECT.definition,)}
    claimant = Claimant(held[0].worker_id, "w", QUEUES, ("detect",), definitions=taken)
    return len(claims.claim(connection, claimant, 4)) == 4


def beat(connection: Connection, held: Sequence[Fence]) -> bool:
    found = heartbeats.beat(connection, held[0].worker_id, state="busy", fps=0, count=True)
    return found is not None and len(found.held) == len(held)


def finish(connection: Connection, held: Sequence[Fence]) -> bool:
    endings = [lifecycle.Ending(fence, Status.COMPLETED) for fence in held]
    return len(lifecycle.finish(connection, endings, actor="w")) == len(held)


# each tells whether it found what it is to find
STEPS: dict[str, Callable[[Connection, Sequence[Fence]], object]] = {
    "claim": claim,
    "look": lambda c, _: waiting.look(c, QUEUES, ("detect",))[0].due == (DETECT.definition,),
    "announcement": lambda c, _: announcements.take_due(c) == [],
    "next due": lambda c, _: announcements.next_due(c) is None,
    "expiry": lambda c, _: expiry.expire(c, actor="test") == [],
    "any ended": lambda c, _: not expiry.any_ended(c)[1],
    "suspects": lambda c, held: not claims.suspects_due(c, [held[0].worker_id]),
    "overview": lambda c, held: len(overview.read(c).running) == len(held),
    "events": lambda c, _: events.read(c, events.now(c), events.Wanted(task="detect")),
    "held": lambda c, held: len(heartbeats.held(c, held[0].worker_id)) == len(held),
    "beat": beat,
    "start": lambda c, held: len(lifecycle.start(c, held, actor="w")) == len(held),
    "finish": finish,
    "failure": lambda c, held: lifecycle.fail(c, held[0], "broken", actor="w"),
    "hand over": lambda c, held: lifecycle.hand_over(c, held, reason="leaves", actor="w"),
}


@pytest.mark.parametrize("step", STEPS)
@pytest.mark.parametrize("knowledge", ["nothing", "from before it grew", "all"])
def test_a_step_reads_a_few_rows(
    database: Database, guarded: Database, knowledge: str, step: str
) -> None:
    held = grow(database, knowledge)
    with guarded.begin() as connection:
        assert STEPS[step](connection, held)
        assert rows_read(connection) < 200


@pytest.mark.parametrize("newest_first", [True, False])
@pytest.mark.parametrize("knowledge", ["nothing", "from before it grew", "all"])
def test_a_page_by_status_reads_what_it_returns(
    database: Database, knowledge: str, newest_first: bool
) -> None:
    """Commands have none of a worker's limits, so the planner may scan the whole table."""
    held = [fence.scenario_id for fence in grow(database, knowledge)]
    wanted = [Status.INIT_STARTUP_PROCESSING, Status.ACTIVE, Status.FAILED]

    def page(status: Sequence[Status], after_id: int | None = None) -> list[int]:
        found = scenarios.find(
            connection, status=status, after_id=after_id, newest_first=newest_first
        )
        return [one.id for one in found]

    with database.begin() as connection:
        assert page([Status.FAILED]) == []
        assert page(wanted) == sorted(held, reverse=newest_first)
        assert len(page([Status.COMPLETED, *wanted])) == 50
        assert rows_read(connection) < 200
    with database.autocommit() as connection:
        before = index_blocks(connection)
        assert len(page([Status.COMPLETED], after_id=ENDED // 2)) == 50
        assert index_blocks(connection) - before < 20  # of about a hundred


def index_blocks(connection: Connection) -> int:
    """How many pages of the index of statuses were read until now."""
    connection.execute(text("SELECT pg_stat_force_next_flush()"))
    found = connection.execute(
        text(
            "SELECT idx_blks_hit + idx_blks_read FROM pg_statio_user_indexes"
            " WHERE indexrelname = 'ix_scenarios_status'"
        )
    )
    return int(found.scalar_one())


AHEAD_OF_IT = 100_000
SMALL = (
    TaskSpec("small", {}, needs_source=False),
    TaskSpec("capped", {}, needs_source=False, concurrency=3),
)


def stand_behind(database: Database, knowledge: str, task: str) -> None:
    """A few small ones, behind very many that are due of another task and of a higher priority."""
    with database.begin() as connection:
        tasks.publish(connection, SMALL)
        few = [NewScenario(task=name, queue=q) for name in ("small", "capped") for q in QUEUES]
        creation.create_many(connection, few * 5)
    PlayedWorker(database, tasks=("small",)).take(5)
    with database.begin() as connection:
        if knowledge == "from before it grew":
            connection.execute(text("ANALYZE"))
        connection.execute(text("ALTER TABLE scenarios SET (autovacuum_enabled = off)"))
        connection.execute(
            text(
                "INSERT INTO scenarios (task, needs_source, priority, announce_at)"
                " SELECT :task, false, 5, NULL FROM generate_series(1, :count)"
            ),
            {"task": task, "count": AHEAD_OF_IT},
        )
        if knowledge == "all":
            connection.execute(text("ANALYZE"))


def plan_of_the_claim(
    database: Database, claimant: Claimant, free: int, ahead: int
) -> tuple[int, list[dict[str, Any]]]:
    """How many claims it made, and the nodes of the claim's plan, the first of which is the root.

    It is planned and carried out, as workers do it, and then rolled back.
    """
    statements: list[tuple[str, Any]] = []

    def note(_c: Any, _cursor: Any, sql: str, parameters: Any, *_more: Any) -> None:
        if "UPDATE scenarios" in sql:
            statements.append((sql, parameters))

    with database.begin() as connection:
        event.listen(connection, "before_cursor_execute", note)
        connection.execute(text("SAVEPOINT before"))
        claimed = claims.claim(connection, claimant, free, ahead=ahead)
        connection.execute(text("ROLLBACK TO SAVEPOINT before"))
        event.remove(connection, "before_cursor_execute", note)
        ((sql, parameters),) = statements
        explained = connection.exec_driver_sql(
            f"EXPLAIN (ANALYZE, BUFFERS, FORMAT JSON) {sql}", parameters
        ).scalar_one()
        root = explained[0]["Plan"]
        connection.execute(text("ROLLBACK TO SAVEPOINT before"))
    nodes = [root]
    for node in nodes:
        nodes.extend(node.get("Plans", ()))
    return len(claimed), nodes


def scans_of(nodes: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Those of a plan's nodes that read the table."""
    return [
        node
        for node in nodes
        if node["Node Type"] != "ModifyTable" and node.get("Relation Name") == "scenarios"
    ]


@pytest.mark.parametrize("knowledge", ["nothing", "from before it grew", "all"])
def test_what_is_held_of_a_task_is_counted_without_the_rows_of_others(
    database: Database, guarded: Database, knowledge: str
) -> None:
    with database.begin() as connection:
        tasks.publish(connection, SMALL)
        creation.create_many(connection, [NewScenario(task="capped")] * 5)
    PlayedWorker(database, tasks=("capped",)).take(2)
    grow(database, knowledge)
    with database.begin() as connection:
        connection.execute(
            text(
                "INSERT INTO scenarios (task, needs_source, status, worker_id, announce_at)"
                " SELECT 'small', false, 'active', :worker, NULL FROM generate_series(1, 5000)"
            ),
            {"worker": WORKER},
        )
    with guarded.begin() as connection:
        rooms = caps.rooms(connection, ["capped"], QUEUES)
        assert {name: room.starts for name, room in rooms.items()} == {"capped": 1}
        assert rows_read(connection) < 200


@pytest.mark.parametrize("knowledge", ["nothing", "from before it grew", "all"])
@pytest.mark.parametrize("task", ["other", "small"])
def test_what_stands_in_front_of_a_claim_is_not_read(
    database: Database, guarded: Database, knowledge: str, task: str
) -> None:
    """Neither what this worker lacks, nor more of what it takes than it takes."""
    stand_behind(database, knowledge, task)
    worker = PlayedWorker(database, queues=QUEUES, tasks=("small", "capped", "detect"))
    for capped, ahead in itertools.product([(), ("capped",)], [0, 8]):
        claimant = replace(worker.claimant, capped=capped)
        claimed, nodes = plan_of_the_claim(guarded, claimant, 4, ahead)

        small, room = 5 if task == "other" else 12, 3 if capped else 0
        assert claimed == min(4 + ahead, small + room)
        assert nodes[0]["Shared Hit Blocks"] + nodes[0]["Shared Read Blocks"] < 400  # all in all
        scans = scans_of(nodes)
        assert {node["Index Name"] for node in scans} == {"ix_scenarios_claim", "pk_scenarios"}
        assert {node["Node Type"] for node in scans} == {"Index Scan"}
        for node in scans:
            assert node["Actual Rows"] <= max(4, ahead)  # of one queue and task: a mean


MANY = 3000


@pytest.fixture
def burst(database: Database) -> PlayedWorker:
    """Very many are due at once, of which the planner knows nothing but that all had ended."""
    with database.begin() as connection:
        tasks.publish(connection, SMALL)
        connection.execute(text("ALTER TABLE scenarios SET (autovacuum_enabled = off)"))
        connection.execute(
            text(
                "INSERT INTO scenarios (task, needs_source, status, announce_at)"
                " SELECT 'small', false, 'completed', NULL FROM generate_series(1, :ended)"
            ),
            {"ended": ENDED},
        )
        connection.execute(text("ANALYZE"))
        creation.create_many(connection, [NewScenario(task="small")] * MANY)
        creation.create_many(connection, [NewScenario(source="/a.mp4")] * MANY)
    return PlayedWorker(database, tasks=("small", "capped"))


@pytest.mark.parametrize("ahead", [0, 60])
def test_a_claim_from_a_burst_reads_what_it_takes(
    burst: PlayedWorker, guarded: Database, ahead: int
) -> None:
    claimed, nodes = plan_of_the_claim(guarded, burst.claimant, 40, ahead)
    assert claimed == 40 + ahead
    scans = scans_of(nodes)
    assert {node["Index Name"] for node in scans} == {"ix_scenarios_claim", "pk_scenarios"}
    removed = sum(node.get("Rows Removed by Filter", 0) for node in scans)
    assert removed <= (40 if ahead else 0)  # what the free slots take is passed over


@pytest.mark.parametrize("step", ["start", "finish", "hand over"])
def test_what_becomes_of_a_burst_reads_each_row_by_its_id(
    burst: PlayedWorker, guarded: Database, step: str
) -> None:
    held = [one.fence for one in burst.take(200)]
    with guarded.begin() as connection:
        before = rows_read(connection)
        assert STEPS[step](connection, held)
        assert rows_read(connection) - before < 10 * len(held)


def test_whether_any_is_due_reads_none_of_another_task(
    burst: PlayedWorker, guarded: Database
) -> None:
    with guarded.begin() as connection:
        (seen,) = waiting.look(connection, QUEUES, ("capped",))
        assert not seen.due
        assert rows_read(connection) < 100
