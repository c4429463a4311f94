"""Claims: which due scenarios a worker takes, and what it gets with them."""

from __future__ import annotations

import threading
from collections.abc import Sequence

from tests.support.played_worker import PlayedWorker
from tests.support.scenarios import create, execute, row, status
from vidan.db.session import Database
from vidan.domain.status import Status
from vidan.protocol import claims, lifecycle, tasks
from vidan.protocol.creation import NewScenario
from vidan.protocol.fences import Fence
from vidan.services import scenarios

SHORT = tasks.TaskSpec("short", {}, needs_source=False)


def ids(claimed: Sequence[claims.Claimed]) -> list[int]:
    return [one.fence.scenario_id for one in claimed]


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
