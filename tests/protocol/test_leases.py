"""Claims, fences, releases and expiry: who works on what, whatever happens in between."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import closing
from datetime import datetime, timedelta
from typing import Any

import psycopg
import pytest
from sqlalchemy import Row, text

from tests.support.played_worker import PlayedWorker
from tests.support.processes import eventually
from vidan.db.session import Database
from vidan.domain.status import Status
from vidan.protocol import claims, creation, expiry, heartbeats, lifecycle, partitions, tasks
from vidan.protocol.creation import NewScenario
from vidan.protocol.fences import Fence
from vidan.protocol.transitions import Moved
from vidan.services import predictions, scenarios, steering

SHORT = tasks.TaskSpec("short", {}, needs_source=False)


def create(database: Database, *news: NewScenario) -> list[int]:
    with database.begin() as connection:
        created = creation.create_many(connection, news or [NewScenario(source="/a.mp4")])
    return [one.id for one in created]


def execute(database: Database, statement: str, **parameters: object) -> None:
    with database.begin() as connection:
        connection.execute(text(statement), parameters)


def row(database: Database, scenario_id: int) -> Row[Any]:
    with database.begin() as connection:
        return connection.execute(
            text(
                "SELECT *, not_before <= now() AS due, announce_at <= now() AS announced"
                " FROM scenarios WHERE id = :id"
            ),
            {"id": scenario_id},
        ).one()


def status(database: Database, scenario_id: int) -> Status:
    return Status(row(database, scenario_id).status)


def ids(claimed: Sequence[claims.Claimed]) -> list[int]:
    return [one.fence.scenario_id for one in claimed]


def expire(database: Database, **how: Any) -> dict[int, Moved]:
    with database.begin() as connection:
        _, any_ended = expiry.any_ended(connection)
        moved = {one.id: one for one in expiry.expire(connection, actor="test", **how)}
    assert any_ended or not moved  # the orchestrator asks first
    return moved


def any_ended(database: Database) -> bool:
    with database.begin() as connection:
        return expiry.any_ended(connection)[1]


def stop(database: Database, scenario_id: int) -> None:
    with database.begin() as connection:
        assert steering.stop(connection, scenario_id)


def last_reason(database: Database, scenario_id: int) -> str | None:
    with database.begin() as connection:
        return scenarios.history(connection, scenario_id)[-1].reason


def fence_of(worker: PlayedWorker) -> Fence:
    assert worker.fence is not None
    return worker.fence


# --- claim


def test_claims_go_by_priority_then_by_time_over_all_queues(database: Database) -> None:
    late, high, early, low, other = create(
        database,
        NewScenario(source="/late"),
        NewScenario(source="/high", queue="b", priority=5),
        NewScenario(source="/early", queue="b"),
        NewScenario(source="/low", priority=-1),
        NewScenario(source="/other", queue="c", priority=9),
    )
    execute(
        database, "UPDATE scenarios SET not_before = now() - interval '1 s' WHERE id = :id", id=late
    )
    execute(
        database,
        "UPDATE scenarios SET not_before = now() - interval '9 s' WHERE id = :id",
        id=early,
    )
    worker = PlayedWorker(database, queues=("a", "b", "default"))
    assert ids(worker.take(2)) == [high, early]
    assert ids(worker.take(10)) == [late, low]
    assert worker.take(10) == []
    assert status(database, other) is Status.INIT_STARTUP


def test_a_claim_gives_all_that_a_run_needs(database: Database) -> None:
    (scenario_id,) = create(
        database, NewScenario(source="/a.mp4", params={"every": 3}, max_attempts=1)
    )
    execute(
        database,
        "UPDATE scenarios SET checkpoint = 7, checkpoint_pts = 11,"
        " state = '{\"n\": 1}', label_names = '{cat}'",
    )
    worker = PlayedWorker(database)
    (claimed,) = worker.take()
    assert claimed.fence == Fence(scenario_id, 1, worker.id)
    assert (claimed.task, claimed.source, claimed.params) == ("detect", "/a.mp4", {"every": 3})
    assert (claimed.checkpoint, claimed.checkpoint_pts) == (7, 11)
    assert (claimed.state, claimed.label_names) == ({"n": 1}, ("cat",))
    held = row(database, scenario_id)
    assert (held.status, held.worker_id, held.epoch) == ("init_startup_processing", worker.id, 1)
    assert held.announce_at is None


def test_what_is_not_due_is_left(database: Database) -> None:
    (scenario_id,) = create(database)
    execute(database, "UPDATE scenarios SET not_before = now() + interval '1 h'")
    worker = PlayedWorker(database)
    assert worker.take() == []
    execute(database, "UPDATE scenarios SET not_before = now()")
    assert ids(worker.take()) == [scenario_id]


def test_two_claimants_at_once_share_and_do_not_wait(database: Database) -> None:
    wanted = create(database, *[NewScenario(source=f"/{n}") for n in range(6)])
    first, second = PlayedWorker(database, "a"), PlayedWorker(database, "b")
    with database.begin() as open_claim:
        held = claims.claim(open_claim, first.claimant, 4)
        taken = second.take(4)  # while the first has not committed: to wait would be for ever
    assert sorted(ids(held) + ids(taken)) == wanted
    assert len(taken) == 2


def test_many_claimants_at_once_take_each_scenario_once(database: Database) -> None:
    wanted = create(database, *[NewScenario(source=f"/{n}") for n in range(60)])
    played = [PlayedWorker(database, str(n)) for n in range(4)]
    taken: list[int] = []

    def claim_all(worker: PlayedWorker) -> None:
        while claimed := worker.take(3):
            taken.extend(ids(claimed))

    threads = [threading.Thread(target=claim_all, args=(worker,)) for worker in played]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    taken += [one for worker in played for one in ids(worker.take(60))]
    assert sorted(taken) == wanted


def test_nothing_is_claimed_once_the_own_lease_has_ended(database: Database) -> None:
    create(database)
    worker = PlayedWorker(database)
    worker.let_lease_end()
    assert worker.take() == []
    execute(database, "DELETE FROM workers")
    assert worker.take() == []
    drained = PlayedWorker(database)
    execute(database, "UPDATE workers SET desired_state = 'drained'")
    assert drained.take() == []


def test_only_known_tasks_are_claimed(database: Database) -> None:
    with database.begin() as connection:
        tasks.publish(connection, [SHORT])
    video, short = create(database, NewScenario(source="/a"), NewScenario(task="short"))
    assert ids(PlayedWorker(database, tasks=("short",)).take(9)) == [short]
    assert ids(PlayedWorker(database).take(9)) == [video]


def test_without_source_takes_only_tasks_that_need_none(database: Database) -> None:
    with database.begin() as connection:
        tasks.publish(connection, [SHORT])
    _, short = create(database, NewScenario(source="/a", priority=1), NewScenario(task="short"))
    worker = PlayedWorker(database, tasks=("short", "detect"))
    (claimed,) = worker.take(9, without_source=True)
    assert claimed.fence.scenario_id == short
    assert (claimed.source, claimed.needs_source) == (None, False)
    assert not row(database, short).source_bound


def test_what_is_claimed_ahead_is_chosen_after_what_the_free_slots_take(
    database: Database,
) -> None:
    with database.begin() as connection:
        tasks.publish(connection, [SHORT])
    urgent = NewScenario(source="/a", priority=2)
    first, *_, video, last = create(
        database, urgent, *[NewScenario(task="short")] * 3, urgent, NewScenario(task="short")
    )
    worker = PlayedWorker(database, tasks=("short", "detect"))
    with database.begin() as connection:
        claimed = claims.claim(connection, worker.claimant, 1, ahead=3)
    taken = [one.fence.scenario_id for one in claimed]
    assert taken[0] in (first, video)
    assert len(taken) == 4
    assert [one.needs_source for one in claimed] == [True, False, False, False]
    assert last not in taken


def test_the_skip_list_is_left_to_others(database: Database) -> None:
    first, second = create(database, NewScenario(source="/a"), NewScenario(source="/b"))
    assert ids(PlayedWorker(database).take(9, skip=[first])) == [second]
    assert ids(PlayedWorker(database).take(9)) == [first]


def test_a_task_without_a_source_is_active_with_its_claim_and_both_steps_are_logged(
    database: Database,
) -> None:
    with database.begin() as connection:
        tasks.publish(connection, [SHORT])
    short, film = create(database, NewScenario(task="short"), NewScenario(source="/a.mp4"))
    PlayedWorker(database, tasks=("short", "detect")).take(2)

    steps = [Status.INIT_STARTUP, Status.INIT_STARTUP_PROCESSING, Status.ACTIVE]
    for scenario_id, expected in ((short, steps), (film, steps[:2])):
        with database.begin() as connection:
            history = scenarios.history(connection, scenario_id)
        assert [step.to_status for step in history] == expected
        assert [step.from_status for step in history] == [None, *expected[:-1]]
        assert [step.reason for step in history] == ["created", "claimed", None][: len(expected)]
        assert row(database, scenario_id).status == expected[-1]
    assert row(database, short).started_at is not None
    assert row(database, film).started_at is None


def test_a_scenario_without_a_source_is_bound_by_its_first_claim(database: Database) -> None:
    (scenario_id,) = create(database, NewScenario())
    anyone = PlayedWorker(database, "anyone")
    camera = PlayedWorker(database, "camera", source="rtsp://1")
    other = PlayedWorker(database, "other", source="rtsp://2")
    assert anyone.take() == []
    (claimed,) = camera.take()
    assert (claimed.fence.scenario_id, claimed.source) == (scenario_id, "rtsp://1")
    with database.begin() as connection:
        lifecycle.hand_over(connection, [claimed.fence], reason="leaving", actor="camera")
    assert row(database, scenario_id).source_bound
    assert anyone.take() == other.take() == []
    assert ids(camera.take()) == [scenario_id]


def test_a_worker_with_a_source_takes_no_other(database: Database) -> None:
    mine, others = create(database, NewScenario(source="/mine"), NewScenario(source="/others"))
    assert ids(PlayedWorker(database, source="/mine").take(9)) == [mine]
    assert ids(PlayedWorker(database).take(9)) == [others]


def suspects_due(database: Database, *workers: PlayedWorker, within: float = 0.0) -> bool:
    with database.begin() as connection:
        return claims.suspects_due(connection, [one.id for one in workers], within=within)


def test_suspects_count_for_who_could_run_them(database: Database) -> None:
    (suspect,) = create(database, NewScenario(source="/1"))
    execute(database, "UPDATE scenarios SET crashes = 2 WHERE id = :id", id=suspect)
    here = PlayedWorker(database)
    others = [
        PlayedWorker(database, queues=("elsewhere",)),
        PlayedWorker(database, tasks=("other",)),
        PlayedWorker(database, source="/2"),
    ]
    assert not suspects_due(database)
    assert not suspects_due(database, *others)
    assert suspects_due(database, *others, here)
    assert suspects_due(database, PlayedWorker(database, source="/1"))

    execute(database, "UPDATE scenarios SET not_before = now() + interval '4 s'")
    assert not suspects_due(database, here)
    assert suspects_due(database, here, within=5)
    execute(database, "UPDATE workers SET desired_state = 'drained' WHERE id = :id", id=here.id)
    assert not suspects_due(database, here, within=5)


def test_suspects_are_left_to_processes_of_one_slot(database: Database) -> None:
    clean, once, suspect = create(database, *[NewScenario(source=f"/{n}") for n in range(3)])
    execute(database, "UPDATE scenarios SET crashes = 1 WHERE id = :id", id=once)
    execute(database, "UPDATE scenarios SET crashes = 2 WHERE id = :id", id=suspect)
    worker = PlayedWorker(database)
    assert suspects_due(database, worker)
    assert ids(worker.take(9)) == [clean, once]
    quarantine = PlayedWorker(database, suspects=True, only_suspects=True)
    assert ids(quarantine.take(9)) == [suspect]
    assert not suspects_due(database, worker)
    (new,) = create(database)
    assert quarantine.take(9) == []
    execute(database, "UPDATE scenarios SET crashes = 2 WHERE id = :id", id=new)
    assert ids(PlayedWorker(database, suspects=True).take(9)) == [new]


def test_suspects_are_not_claimed_ahead(database: Database) -> None:
    with database.begin() as connection:
        tasks.publish(connection, [SHORT])
    clean, suspect = create(database, NewScenario(task="short"), NewScenario(task="short"))
    execute(database, "UPDATE scenarios SET crashes = 2 WHERE id = :id", id=suspect)
    worker = PlayedWorker(database, tasks=("short",), suspects=True)
    assert ids(worker.take(9, without_source=True)) == [clean]
    assert ids(worker.take(1)) == [suspect]


# --- the fence


def writes_of(database: Database, fence: Fence) -> dict[str, object]:
    """What each fenced write answers."""
    with database.begin() as connection:
        return {
            "start": lifecycle.start(connection, [fence], actor="w"),
            "shutting_down": lifecycle.shutting_down(connection, fence, actor="w"),
            "hand_over": lifecycle.hand_over(connection, [fence], reason="r", actor="w"),
            "fail": lifecycle.fail(connection, fence, "e", actor="w"),
            "finish": lifecycle.finish(
                connection, [lifecycle.Ending(fence, Status.COMPLETED)], actor="w"
            ),
        }


NOTHING = {"start": {}, "shutting_down": False, "hand_over": set(), "fail": None, "finish": set()}


def test_writes_under_another_epoch_or_worker_change_nothing(database: Database) -> None:
    (scenario_id,) = create(database)
    worker = PlayedWorker(database)
    worker.claim()
    mine = fence_of(worker)
    before = row(database, scenario_id)
    for wrong in (
        Fence(scenario_id, mine.epoch + 1, mine.worker_id),
        Fence(scenario_id, mine.epoch - 1, mine.worker_id),
        Fence(scenario_id, mine.epoch, PlayedWorker(database).id),
        Fence(scenario_id + 1, mine.epoch, mine.worker_id),
    ):
        assert writes_of(database, wrong) == NOTHING
    assert row(database, scenario_id) == before


def test_a_scenario_claimed_again_by_the_same_worker_has_another_epoch(
    database: Database,
) -> None:
    create(database)
    worker = PlayedWorker(database)
    worker.claim()
    old = fence_of(worker)
    with database.begin() as connection:
        lifecycle.hand_over(connection, [old], reason="r", actor="w")
    worker.claim()
    assert fence_of(worker).epoch == old.epoch + 1
    assert writes_of(database, old) == NOTHING


def test_of_several_fences_only_the_lost_ones_are_missing(database: Database) -> None:
    create(database, *[NewScenario(source=f"/{n}") for n in range(3)])
    worker = PlayedWorker(database)
    fences = [one.fence for one in worker.take(3)]
    fences[1] = Fence(fences[1].scenario_id, 99, worker.id)
    kept = {fences[0].scenario_id, fences[2].scenario_id}
    with database.begin() as connection:
        assert set(lifecycle.start(connection, fences, actor="w")) == kept
        endings = [lifecycle.Ending(fence, Status.COMPLETED) for fence in fences[::-1]]
        assert lifecycle.finish(connection, endings, actor="w") == kept
        assert lifecycle.start(connection, [], actor="w") == {}
        assert lifecycle.finish(connection, [], actor="w") == set()
        assert lifecycle.hand_over(connection, [], reason="r", actor="w") == set()


# --- start, finish, fail, hand over


def test_start_repeated_after_a_lost_answer_says_the_same(database: Database) -> None:
    (scenario_id,) = create(database)
    (claimed,) = PlayedWorker(database).take()
    for _ in range(2):
        with database.begin() as connection:
            found = lifecycle.start(connection, [claimed.fence], actor="w")
        assert found == {scenario_id: Status.ACTIVE}
    with database.begin() as connection:
        assert len(scenarios.history(connection, scenario_id)) == 3


def test_a_stop_while_the_source_opens_is_no_lost_lease(database: Database) -> None:
    (scenario_id,) = create(database)
    (claimed,) = PlayedWorker(database).take()
    stop(database, scenario_id)
    with database.begin() as connection:
        assert lifecycle.start(connection, [claimed.fence], actor="w") == {
            scenario_id: Status.INIT_SHUTDOWN
        }
        assert lifecycle.shutting_down(connection, claimed.fence, actor="w")
        ending = lifecycle.Ending(claimed.fence, Status.INACTIVE)
        assert lifecycle.finish(connection, [ending], actor="w") == {scenario_id}
    ended = row(database, scenario_id)
    assert (ended.status, ended.worker_id, ended.announce_at) == ("inactive", None, None)
    assert ended.ended_at is not None


@pytest.mark.parametrize("result", [None, 0, False, "", [], {}, {"n": [1, None]}, "text"])
def test_a_result_is_stored_as_it_is_and_none_as_null(database: Database, result: object) -> None:
    (scenario_id,) = create(database)
    worker = PlayedWorker(database)
    worker.claim()
    ending = lifecycle.Ending(
        fence_of(worker), Status.COMPLETED, result=json.dumps(result), state='{"k": 1}'
    )
    with database.begin() as connection:
        lifecycle.finish(connection, [ending], actor="w")
        found = scenarios.get(connection, scenario_id)
        is_null = connection.execute(text("SELECT result IS NULL FROM scenarios")).scalar()
    assert (found.status, found.result, found.state) == (Status.COMPLETED, result, {"k": 1})
    assert is_null is (result is None)


def test_a_task_without_frames_completes_by_way_of_active(database: Database) -> None:
    (scenario_id,) = create(database)
    (claimed,) = PlayedWorker(database).take()
    with database.begin() as connection:
        lifecycle.finish(connection, [lifecycle.Ending(claimed.fence, Status.COMPLETED)], actor="w")
        history = scenarios.history(connection, scenario_id)
    assert [one.to_status for one in history[-2:]] == [Status.ACTIVE, Status.COMPLETED]


def test_a_source_that_can_not_be_read_was_never_active(database: Database) -> None:
    (scenario_id,) = create(database)
    (claimed,) = PlayedWorker(database).take()
    with database.begin() as connection:
        lifecycle.finish(
            connection,
            [lifecycle.Ending(claimed.fence, Status.FAILED, error="no video")],
            actor="w",
        )
        found = scenarios.get(connection, scenario_id)
        history = scenarios.history(connection, scenario_id)
    assert (found.status, found.error, found.started_at) == (Status.FAILED, "no video", None)
    assert Status.ACTIVE not in [one.to_status for one in history]


@pytest.mark.parametrize(
    ("ending", "becomes"),
    [
        (Status.COMPLETED, Status.COMPLETED),  # the task had returned when the stop came
        (Status.INACTIVE, Status.INACTIVE),
        (Status.FAILED, Status.INACTIVE),
    ],
)
def test_how_a_scenario_that_was_asked_to_stop_ends(
    database: Database, ending: Status, becomes: Status
) -> None:
    (scenario_id,) = create(database)
    worker = PlayedWorker(database)
    worker.claim()
    stop(database, scenario_id)
    worker.end(ending)
    assert status(database, scenario_id) is becomes


def test_an_error_is_charged_until_the_budget_is_spent(database: Database) -> None:
    (scenario_id,) = create(database, NewScenario(source="/a", max_attempts=2))
    worker = PlayedWorker(database)
    for attempt in (1, 2, 3):
        worker.claim()
        with database.begin() as connection:
            failed = lifecycle.fail(
                connection, fence_of(worker), f"error {attempt}", actor="w", delay=60
            )
        assert failed is not None
        assert failed.attempts == attempt
        now = row(database, scenario_id)
        assert (now.error, now.worker_id, now.announce_at) == (f"error {attempt}", None, None)
        if attempt <= 2:
            assert failed.status is Status.INIT_STARTUP
            assert not now.due
            assert now.ended_at is None
            assert worker.take() == []
            execute(database, "UPDATE scenarios SET not_before = now()")
    assert failed is not None
    assert failed.status is Status.FAILED
    assert now.ended_at is not None
    with database.begin() as connection:
        assert steering.retry(connection, scenario_id)
    assert worker.claim() == scenario_id


def test_the_back_off_grows_with_jitter(database: Database) -> None:
    (scenario_id,) = create(database, NewScenario(source="/a", max_attempts=1000))
    worker = PlayedWorker(database)
    for attempts, low, high in [(0, 0.5, 1), (3, 4, 8), (9, 150, 300), (900, 150, 300)]:
        execute(database, "UPDATE scenarios SET attempts = :n, not_before = now()", n=attempts)
        worker.claim()
        with database.begin() as connection:
            lifecycle.fail(connection, fence_of(worker), "e", actor="w")
            found = connection.execute(text("SELECT not_before - now() FROM scenarios"))
            wait: timedelta = found.scalar_one()
        assert timedelta(seconds=low) <= wait <= timedelta(seconds=high)
    execute(database, "UPDATE scenarios SET not_before = now()")
    worker.claim()
    with database.begin() as connection:
        lifecycle.fail(connection, fence_of(worker), "e", actor="w", delay=0.0)
    assert row(database, scenario_id).due


def test_an_error_of_one_that_was_asked_to_stop_ends_it(database: Database) -> None:
    (scenario_id,) = create(database)
    worker = PlayedWorker(database)
    worker.claim()
    stop(database, scenario_id)
    with database.begin() as connection:
        failed = lifecycle.fail(connection, fence_of(worker), "e", actor="w")
    assert failed is not None
    assert failed.status is Status.INACTIVE
    assert row(database, scenario_id).ended_at is not None


def test_a_hand_over_spends_nothing_and_is_announced(database: Database) -> None:
    (scenario_id,) = create(database)
    worker = PlayedWorker(database)
    worker.claim()
    worker.store(range(3))
    with database.begin() as connection:
        assert lifecycle.hand_over(connection, [fence_of(worker)], reason="leaving", actor="w") == {
            scenario_id
        }
    found = row(database, scenario_id)
    assert (found.status, found.attempts, found.crashes) == ("init_startup", 0, 0)
    assert (found.checkpoint, found.worker_id, found.ended_at) == (3, None, None)
    assert found.due
    assert found.announced
    assert last_reason(database, scenario_id) == "leaving"
    assert PlayedWorker(database).claim() == scenario_id


def test_a_hand_over_may_be_for_later(database: Database) -> None:
    (scenario_id,) = create(database)
    worker = PlayedWorker(database)
    worker.claim()
    with database.begin() as connection:
        lifecycle.hand_over(connection, [fence_of(worker)], reason="away", actor="w", delay=60)
    found = row(database, scenario_id)
    assert (found.status, found.due) == ("init_startup", False)
    assert found.announce_at == found.not_before


def test_a_hand_over_never_undoes_a_stop(database: Database) -> None:
    (scenario_id,) = create(database)
    worker = PlayedWorker(database)
    worker.claim()
    stop(database, scenario_id)
    with database.begin() as connection:
        lifecycle.hand_over(connection, [fence_of(worker)], reason="leaving", actor="w")
    found = row(database, scenario_id)
    assert (found.status, found.announce_at) == ("inactive", None)
    assert found.ended_at is not None


# --- expiry


def long_ago(database: Database) -> datetime:
    with database.begin() as connection:
        found: datetime = connection.execute(text("SELECT now() - interval '1 h'")).scalar_one()
        return found


def test_sessions_and_rows_of_live_workers_are_left_alone(
    database: Database, database_url: str
) -> None:
    (scenario_id,) = create(database)
    worker = PlayedWorker(database)
    worker.claim()
    before = row(database, scenario_id)
    with closing(psycopg.connect(database_url, application_name=str(worker.id))) as session:
        assert expire(database, connected_since=long_ago(database)) == {}
        assert session.execute("SELECT 1").fetchone() == (1,)
    assert row(database, scenario_id) == before


def test_a_lost_lease_is_put_back_uncounted(database: Database) -> None:
    (scenario_id,) = create(database)
    worker = PlayedWorker(database)
    worker.claim()
    worker.store(range(4))
    worker.let_lease_end()
    released = expire(database)
    assert released[scenario_id].row.died is False
    found = row(database, scenario_id)
    assert (found.status, found.crashes, found.attempts) == ("init_startup", 0, 0)
    assert (found.checkpoint, found.worker_id) == (4, None)
    assert found.due
    assert found.announced
    assert last_reason(database, scenario_id) == "the lease ended"
    assert expire(database) == {}
    assert writes_of(database, fence_of(worker)) == NOTHING


def test_a_worker_whose_row_is_gone_holds_nothing(database: Database) -> None:
    (scenario_id,) = create(database)
    PlayedWorker(database).claim()
    execute(database, "DELETE FROM workers")
    assert expire(database, connected_since=long_ago(database))[scenario_id].row.died is False
    assert status(database, scenario_id) is Status.INIT_STARTUP


def test_a_witness_of_the_whole_lease_charges_what_was_active(database: Database) -> None:
    active, opening = create(database, NewScenario(source="/a"), NewScenario(source="/b"))
    worker = PlayedWorker(database)
    claimed = worker.take(2)
    with database.begin() as connection:
        lifecycle.start(connection, [claimed[0].fence], actor="w")
    worker.let_lease_end()
    released = expire(database, connected_since=long_ago(database))
    assert released[active].row.died is True
    assert released[opening].row.died is False
    found = row(database, active)
    assert (found.crashes, found.attempts) == (1, 0)
    assert found.due  # the first crash: at once
    assert found.announced
    assert row(database, opening).crashes == 0
    assert last_reason(database, active) == "the worker died"


def test_who_connected_during_the_lease_is_no_witness(database: Database) -> None:
    (scenario_id,) = create(database)
    worker = PlayedWorker(database)
    worker.claim()
    worker.let_lease_end(seconds_ago=1.0)
    with database.begin() as connection:
        since = connection.execute(text("SELECT now() - interval '15 s'")).scalar_one()
    assert expire(database, connected_since=since)[scenario_id].row.died is False
    assert row(database, scenario_id).crashes == 0


def test_the_supervisor_charges_what_its_process_executed(database: Database) -> None:
    guilty, waiting, opening = create(database, *[NewScenario(source=f"/{n}") for n in range(3)])
    worker = PlayedWorker(database)
    claimed = worker.take(3)
    with database.begin() as connection:
        lifecycle.start(connection, [one.fence for one in claimed[:2]], actor="w")
    with database.begin() as connection:
        assert expiry.release_worker(
            connection, worker.id, actor="supervisor", executing=[guilty, opening]
        )
    assert [row(database, one).crashes for one in (guilty, waiting, opening)] == [1, 0, 1]
    assert {status(database, one) for one in (guilty, waiting, opening)} == {Status.INIT_STARTUP}
    with database.begin() as connection:
        state = connection.execute(text("SELECT state FROM workers")).scalar()
    assert state == "gone"
    # a witness that looks later charges nothing again
    assert expire(database, connected_since=long_ago(database)) == {}


def test_a_release_of_very_many_charges_whatever_its_process_executed(database: Database) -> None:
    """An orchestrator, which knows not who that was, would take what is left for later."""
    many = create(database, *[NewScenario(source="/a")] * 1010)
    worker = PlayedWorker(database)
    fences = {one.fence.scenario_id: one.fence for one in worker.take(1010)}
    with database.begin() as connection:
        lifecycle.start(connection, [fences[many[-1]]], actor="w")
    with database.begin() as connection:
        assert expiry.release_worker(connection, worker.id, actor="s", executing=[many[-1]])
        assert heartbeats.held(connection, worker.id) == []
    assert row(database, many[-1]).crashes == 1
    assert row(database, many[0]).crashes == 0


def test_a_release_touches_no_other_worker(database: Database) -> None:
    first, second = create(database, NewScenario(source="/a"), NewScenario(source="/b"))
    dead, alive = PlayedWorker(database, "dead"), PlayedWorker(database, "alive")
    dead.claim()
    alive.claim()
    with database.begin() as connection:
        expiry.release_worker(connection, dead.id, actor="s", executing=[first, second])
    assert status(database, second) is Status.ACTIVE
    assert row(database, second).crashes == 0


def test_crashes_back_off_and_spend_their_budget(database: Database) -> None:
    (scenario_id,) = create(database)
    execute(database, "UPDATE scenarios SET max_crashes = 2, attempts = 1")
    for crash in (1, 2, 3):
        worker = PlayedWorker(database, suspects=True)
        worker.claim()
        with database.begin() as connection:
            expiry.release_worker(
                connection, worker.id, actor="s", executing=[scenario_id], cause="it stalled"
            )
        found = row(database, scenario_id)
        assert (found.crashes, found.attempts) == (crash, 1)
        if crash <= 2:
            assert found.status == "init_startup"
            assert found.announce_at == found.not_before
            assert found.due is (crash == 1)
            execute(database, "UPDATE scenarios SET not_before = now()")
    assert (found.status, found.announce_at) == ("failed", None)
    assert found.error == "it ended its worker process 3 times; at last it stalled"
    assert last_reason(database, scenario_id) == "it stalled"
    assert found.ended_at is not None


@pytest.mark.parametrize("in_shutdown", [False, True])
def test_a_stop_outlives_the_worker(database: Database, in_shutdown: bool) -> None:
    (scenario_id,) = create(database)
    worker = PlayedWorker(database)
    worker.claim()
    stop(database, scenario_id)
    if in_shutdown:
        with database.begin() as connection:
            lifecycle.shutting_down(connection, fence_of(worker), actor="w")
    with database.begin() as connection:
        expiry.release_worker(connection, worker.id, actor="s", executing=[scenario_id])
    found = row(database, scenario_id)
    assert (found.status, found.crashes, found.announce_at) == ("inactive", 0, None)
    assert found.ended_at is not None


def test_a_spent_budget_does_not_undo_a_stop(database: Database) -> None:
    (scenario_id,) = create(database)
    execute(database, "UPDATE scenarios SET max_crashes = 0")
    worker = PlayedWorker(database)
    worker.claim()
    stop(database, scenario_id)
    with database.begin() as connection:
        expiry.release_worker(connection, worker.id, actor="s", executing=[scenario_id])
    assert status(database, scenario_id) is Status.INACTIVE


def test_it_is_known_whether_there_is_anything_to_expire(database: Database) -> None:
    create(database, NewScenario(source="/a"), NewScenario(source="/b"))
    holder, idle, forgotten = (PlayedWorker(database, name) for name in "abc")
    holder.claim()
    forgotten.claim()
    assert not any_ended(database)
    for worker in (idle, holder):
        worker.let_lease_end()
        assert any_ended(database)
        expire(database)
        assert not any_ended(database)
    execute(database, "DELETE FROM workers WHERE id = :id", id=forgotten.id)
    assert any_ended(database)
    assert len(expire(database)) == 1
    assert not any_ended(database)


def test_two_that_expire_at_once_charge_once(database: Database) -> None:
    wanted = create(database, *[NewScenario(source=f"/{n}") for n in range(40)])
    worker = PlayedWorker(database)
    fences = [one.fence for one in worker.take(40)]
    with database.begin() as connection:
        lifecycle.start(connection, fences, actor="w")
    worker.let_lease_end()
    since = long_ago(database)
    released: list[int] = []
    threads = [
        threading.Thread(target=lambda: released.extend(expire(database, connected_since=since)))
        for _ in range(3)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    released.extend(expire(database, connected_since=since))
    assert sorted(released) == wanted
    with database.begin() as connection:
        assert connection.execute(
            text("SELECT DISTINCT crashes FROM scenarios")
        ).scalars().all() == [1]


def test_a_row_that_was_released_and_claimed_meanwhile_is_left(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    (scenario_id,) = create(database)
    dead, alive = PlayedWorker(database, "dead"), PlayedWorker(database, "alive")
    dead.claim()
    dead.let_lease_end()
    # a statement that has begun, and sees what was then, comes to the row only later
    gate = "WHERE (SELECT 1 FROM pg_advisory_xact_lock_shared(7)) = 1 AND "
    slow = expiry._LOCK_ENDED.replace("WHERE ", gate)
    late: list[dict[int, Moved]] = []
    thread = threading.Thread(target=lambda: late.append(expire(database)))
    with database.begin() as holds_up:
        holds_up.execute(text("SELECT pg_advisory_xact_lock(7)"))
        with monkeypatch.context() as patched:
            patched.setattr(expiry, "_LOCK_ENDED", slow)
            thread.start()
            assert eventually(lambda: waits_for_an_advisory_lock(database))
        assert set(expire(database)) == {scenario_id}
        assert alive.claim() == scenario_id
    thread.join()
    assert late == [{}]
    assert row(database, scenario_id).worker_id == alive.id


def waits_for_an_advisory_lock(database: Database) -> bool:
    with database.begin() as connection:
        return bool(
            connection.execute(
                text("SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND NOT granted")
            ).scalar()
        )


@pytest.fixture
def stopped_client(database: Database, database_url: str) -> Iterator[tuple[PlayedWorker, int]]:
    """A worker that was stopped (Ctrl-Z, a debugger) in the middle of a commit's COPY."""
    first, _ = create(database, NewScenario(source="/a"), NewScenario(source="/b"))
    worker = PlayedWorker(database)
    claimed = worker.take(2)
    with database.begin() as connection:
        lifecycle.start(connection, [one.fence for one in claimed], actor="w")
        week = partitions.this_week(connection)
    session = psycopg.connect(database_url, application_name=str(worker.id))
    session.execute("UPDATE scenarios SET checkpoint = 5 WHERE id = %s", [first])
    with session.cursor() as cursor:
        copy = cursor.copy(
            "COPY predictions (scenario_id, frame, week, time_ms, label_ids, scores, boxes)"
            " FROM STDIN"
        )
        stopped = copy.__enter__()
        stopped.write_row((first, 0, week, 0, [], [], []))
        yield worker, first
    session.close()


def test_a_client_stopped_in_the_middle_of_copy_blocks_nobody(
    database: Database, stopped_client: tuple[PlayedWorker, int]
) -> None:
    worker, locked = stopped_client
    worker.let_lease_end()
    started = time.monotonic()
    released = set(expire(database))
    assert time.monotonic() - started < 4

    # its session is ended first, so its row is free in this round or the next
    def all_released() -> bool:
        released.update(expire(database))
        return locked in released

    assert eventually(all_released)
    assert len(released) == 2
    found = row(database, locked)
    assert (found.status, found.checkpoint) == ("init_startup", 0)
    execute(database, "UPDATE scenarios SET priority = 1 WHERE id = :id", id=locked)
    other = PlayedWorker(database, "other")
    assert other.claim() == locked
    other.store(range(3))
    with database.begin() as connection:
        assert len(predictions.read_after(connection, locked, -1)) == 3


def test_a_stopped_client_of_a_live_lease_is_left_alone(
    database: Database, stopped_client: tuple[PlayedWorker, int]
) -> None:
    worker, locked = stopped_client
    assert expire(database) == {}
    with database.begin() as connection:
        sessions = connection.execute(
            text("SELECT count(*) FROM pg_stat_activity WHERE application_name = :id"),
            {"id": str(worker.id)},
        ).scalar()
    assert sessions == 1
    assert status(database, locked) is Status.ACTIVE


def test_the_supervisor_ends_such_a_session_too(
    database: Database, stopped_client: tuple[PlayedWorker, int]
) -> None:
    worker, locked = stopped_client

    def release() -> bool:
        with database.begin() as connection:
            return expiry.release_worker(connection, worker.id, actor="s", executing=[locked])

    assert eventually(release)
    assert row(database, locked).crashes == 1


def test_held_tells_what_a_worker_holds(database: Database) -> None:
    first, second = create(database, NewScenario(source="/a"), NewScenario(source="/b"))
    worker = PlayedWorker(database)
    worker.take(2)
    stop(database, second)
    with database.begin() as connection:
        assert heartbeats.held(connection, worker.id) == [
            heartbeats.Held(first, 1, Status.INIT_STARTUP_PROCESSING),
            heartbeats.Held(second, 1, Status.INIT_SHUTDOWN),
        ]
        assert heartbeats.held(connection, PlayedWorker(database).id) == []
