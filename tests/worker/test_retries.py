"""Retries as a task asks for them, on real processes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.support.cluster import Cluster
from tests.support.processes import eventually
from vidan.domain.status import ENDED, Status
from vidan.services.scenarios import Scenario


@pytest.fixture
def working(embedded_cluster: Cluster) -> Cluster:
    embedded_cluster.orchestrator()
    embedded_cluster.supervisor(app="unsteady:app", slots=2)
    return embedded_cluster


@pytest.fixture
def marks(tmp_path: Path) -> str:
    made = tmp_path / "marks"
    made.mkdir()
    return str(made)


def fails(cluster: Cluster, marks: str, **params: Any) -> int:
    return cluster.create(task="fails", source=None, params={"marks": marks, **params})


def seconds_until_due(cluster: Cluster, scenario_id: int) -> float:
    sql = "SELECT extract(epoch FROM not_before - now()) AS left FROM scenarios WHERE id = :id"
    return float(cluster.query(sql, id=scenario_id)[0]["left"])


def failed_once(cluster: Cluster, scenario_id: int) -> Scenario:
    """The scenario once it was handed over, or has ended."""

    def is_back() -> bool:
        found = cluster.get(scenario_id)
        back = found.status is Status.INIT_STARTUP and found.error is not None
        return back or found.status in ENDED

    assert eventually(is_back, 60), cluster.log()
    return cluster.get(scenario_id)


@pytest.mark.parametrize("how", ["os", "retry"])
def test_an_error_that_a_retry_may_mend_is_tried_again(
    how: str, working: Cluster, marks: str
) -> None:
    scenario = working.wait(fails(working, marks, how=how, times=2))

    assert (scenario.status, scenario.result) == (Status.COMPLETED, "done"), scenario.error
    assert scenario.attempts == 2


@pytest.mark.parametrize(
    ("how", "error"),
    [
        ("value", "ValueError: no number (unsteady.py:"),
        ("missing", "FileNotFoundError: not there (unsteady.py:"),
        ("reject", "it never will"),
    ],
)
def test_any_other_ends_the_scenario_at_once(
    how: str, error: str, working: Cluster, marks: str
) -> None:
    scenario = working.wait(fails(working, marks, how=how))

    assert (scenario.status, scenario.attempts) == (Status.FAILED, 0)
    assert (scenario.error or "").startswith(error)


def test_a_retry_is_due_when_it_says(working: Cluster, marks: str) -> None:
    scenario_id = fails(working, marks, how="later")

    scenario = failed_once(working, scenario_id)

    assert (scenario.status, scenario.attempts) == (Status.INIT_STARTUP, 1)
    assert scenario.error == "Retry: in an hour"
    assert 3_000 < seconds_until_due(working, scenario_id) <= 3_600


def test_retries_that_a_task_asks_for_have_an_end(working: Cluster, marks: str) -> None:
    params = {"marks": marks, "how": "retry", "times": 9}
    scenario_id = working.create(task="fails", source=None, params=params, max_attempts=2)

    scenario = working.wait(scenario_id)

    assert (scenario.status, scenario.attempts) == (Status.FAILED, 3)
    assert scenario.error == "Retry: not yet"


@pytest.mark.parametrize(("attempts", "pause"), [(0, 3_600), (1, 5_400)])
def test_the_pause_is_the_tasks_own(attempts: int, pause: int, working: Cluster) -> None:
    scenario_id = working.create(task="patient", status=Status.INACTIVE)
    working.query("UPDATE scenarios SET attempts = :n WHERE id = :id", n=attempts, id=scenario_id)
    start(working, scenario_id)

    scenario = failed_once(working, scenario_id)

    assert (scenario.error or "").startswith("ValueError: at this one (")
    assert scenario.attempts == attempts + 1
    assert pause - 600 < seconds_until_due(working, scenario_id) <= pause


def test_after_progress_the_pauses_begin_anew(working: Cluster) -> None:
    params = {"at": 80, "because": True}  # it takes five seconds to get there: five commits
    scenario_id = working.create(task="patient", params=params, status=Status.INACTIVE)
    working.query("UPDATE scenarios SET attempts = 2 WHERE id = :id", id=scenario_id)
    start(working, scenario_id)

    scenario = failed_once(working, scenario_id)

    assert (scenario.error or "").startswith(
        "ValueError: at this one ("
    )  # what the retry was raised from
    assert scenario.attempts == 1
    assert 3_000 < seconds_until_due(working, scenario_id) <= 3_600


def start(cluster: Cluster, scenario_id: int) -> None:
    """As an SQL user would: a start that keeps the budgets."""
    cluster.query(
        "UPDATE scenarios SET status = 'init_startup', announce_at = now(), ended_at = NULL"
        " WHERE id = :id",
        id=scenario_id,
    )
