"""Fences: a write under another epoch or worker changes nothing."""

from __future__ import annotations

from tests.support.played_worker import PlayedWorker
from tests.support.scenarios import create, fence_of, row
from vidan.db.session import Database
from vidan.domain.status import Status
from vidan.protocol import lifecycle
from vidan.protocol.creation import NewScenario
from vidan.protocol.fences import Fence


def writes_of(database: Database, fence: Fence) -> dict[str, object]:
    """What each fenced write answers."""
    with database.begin() as connection:
        return {
            "start": lifecycle.start(connection, [fence], actor="w"),
            "shut_down": lifecycle.shut_down(connection, fence, actor="w"),
            "hand_over": lifecycle.hand_over(connection, [fence], reason="r", actor="w"),
            "fail": lifecycle.fail(connection, fence, "e", actor="w"),
            "finish": lifecycle.finish(
                connection, [lifecycle.Ending(fence, Status.COMPLETED)], actor="w"
            ),
        }


NOTHING = {"start": {}, "shut_down": False, "hand_over": set(), "fail": None, "finish": set()}


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
