"""Time limits of one run, soft and hard, on real processes."""

from __future__ import annotations

import pytest

from tests.support.cluster import SAMPLE_FRAMES, Cluster
from tests.support.processes import eventually, is_gone
from vidan.domain.status import Status
from vidan.errors import InputRejected

APP = "unsteady:app"


def reasons(cluster: Cluster, scenario_id: int) -> list[str]:
    sql = "SELECT reason FROM transitions WHERE scenario_id = :id ORDER BY id"
    return [str(row["reason"]) for row in cluster.query(sql, id=scenario_id)]


# --- soft


def test_a_soft_limit_that_nobody_catches_is_an_error_and_the_run_goes_on_there(
    embedded_cluster: Cluster,
) -> None:
    """Each run is shorter than the pause between two commits: what it has done is stored still."""
    cluster = embedded_cluster
    cluster.orchestrator()
    cluster.supervisor(app=APP)
    scenario_id = cluster.create(task="count", soft_time_limit=0.7)

    scenario = cluster.wait(scenario_id, 120)

    assert scenario.status is Status.COMPLETED, scenario.error
    assert scenario.result == {"frames": SAMPLE_FRAMES}
    assert scenario.state == {"frames": SAMPLE_FRAMES}
    assert [one.frame for one in cluster.frames(scenario_id)] == list(range(SAMPLE_FRAMES))
    told = [one for one in reasons(cluster, scenario_id) if "TimeLimitExceeded" in one]
    assert set(told) == {"TimeLimitExceeded: over its soft time limit of 0.7 s"}


def test_a_task_may_return_what_it_has_at_its_soft_limit(embedded_cluster: Cluster) -> None:
    cluster = embedded_cluster
    cluster.supervisor(app=APP)
    scenario_id = cluster.create(task="part", soft_time_limit=3)

    scenario = cluster.wait(scenario_id)

    assert scenario.status is Status.COMPLETED, scenario.error
    assert (scenario.result["told"], scenario.attempts) == (1, 0)
    assert scenario.result["frames"] == scenario.frames_done < SAMPLE_FRAMES
    assert len(cluster.frames(scenario_id)) == scenario.frames_done


def test_it_is_told_once_and_another_pass_goes_on_where_it_was(embedded_cluster: Cluster) -> None:
    cluster = embedded_cluster
    cluster.supervisor(app=APP)
    scenario_id = cluster.create(task="part", params={"go_on": True}, soft_time_limit=1)

    scenario = cluster.wait(scenario_id)

    assert scenario.result == {"frames": SAMPLE_FRAMES, "told": 1}, scenario.error
    assert [one.frame for one in cluster.frames(scenario_id)] == list(range(SAMPLE_FRAMES))


def test_progress_tells_of_it_too_and_a_task_may_reject_it(embedded_cluster: Cluster) -> None:
    cluster = embedded_cluster
    cluster.supervisor(app=APP)
    scenario_id = cluster.create(task="ponder", source=None, soft_time_limit=1)

    scenario = cluster.wait(scenario_id)

    assert (scenario.status, scenario.attempts, scenario.crashes) == (Status.FAILED, 0, 0)
    assert scenario.error == "TimeLimitExceeded: over its soft time limit of 1 s"


# --- hard


@pytest.mark.parametrize("task", ["deaf", "stuck"])
def test_a_hard_limit_ends_the_process_and_is_charged(task: str, embedded_cluster: Cluster) -> None:
    cluster = embedded_cluster
    cluster.orchestrator()
    cluster.supervisor(app=APP)
    pid = cluster.worker_pid()
    params = {"seconds": 600} if task == "deaf" else {}
    scenario_id = cluster.create(task=task, source=None, params=params, time_limit=1.5)
    cluster.query("UPDATE scenarios SET max_crashes = 1 WHERE id = :id", id=scenario_id)

    scenario = cluster.wait(scenario_id)

    assert (scenario.status, scenario.attempts, scenario.crashes) == (Status.FAILED, 0, 2)
    assert scenario.error == (
        "it ended its worker process 2 times; at last it ran over its time limit of 1.5 s"
    )
    assert is_gone(pid)


def test_its_neighbour_in_the_process_is_not_charged(embedded_cluster: Cluster) -> None:
    cluster = embedded_cluster
    cluster.orchestrator()
    cluster.supervisor(app=APP, slots=2)
    neighbour = cluster.create(task="count", params={"model": "trial:crawling"})
    cluster.wait_for_frames(neighbour, 10)
    late = cluster.create(task="deaf", source=None, params={"seconds": 600})
    cluster.query("UPDATE scenarios SET max_crashes = 0 WHERE id = :id", id=late)

    assert cluster.wait(late).error == (
        "it ended its worker process 1 times; at last it ran over its time limit of 1 s"
    )
    scenario = cluster.wait(neighbour)

    assert scenario.result == {"frames": SAMPLE_FRAMES}, scenario.error
    assert (scenario.attempts, scenario.crashes) == (0, 0)
    assert cluster.statuses(neighbour).count(Status.INIT_STARTUP_PROCESSING) == 2
    assert [one.frame for one in cluster.frames(neighbour)] == list(range(SAMPLE_FRAMES))


def test_a_scenarios_own_limit_outweighs_its_tasks(embedded_cluster: Cluster) -> None:
    cluster = embedded_cluster
    cluster.supervisor(app=APP)
    scenario_id = cluster.create(task="deaf", source=None, params={"seconds": 4}, time_limit=600)

    scenario = cluster.wait(scenario_id)

    assert (scenario.result, scenario.crashes) == ("slept", 0), scenario.error


def test_a_supervisor_that_leaves_waits_no_longer_than_a_time_limit(
    embedded_cluster: Cluster,
) -> None:
    """It was ended because all workers leave: no scenario is charged."""
    cluster = embedded_cluster
    child = cluster.supervisor(app=APP)
    params = {"seconds": 600}
    scenario_id = cluster.create(task="deaf", source=None, params=params, time_limit=4)
    assert eventually(lambda: cluster.get(scenario_id).status is Status.ACTIVE, 30)

    child.terminate()

    assert child.wait(30) == 0
    scenario = cluster.get(scenario_id)
    assert scenario.status is Status.INIT_STARTUP
    assert (scenario.attempts, scenario.crashes) == (0, 0)


def test_limits_that_fit_not_together_are_refused_when_it_is_created(
    embedded_cluster: Cluster,
) -> None:
    cluster = embedded_cluster
    cluster.supervisor(app=APP)
    with pytest.raises(InputRejected, match=r"\(2 s\) is not below the time_limit \(1 s\)"):
        cluster.create(task="deaf", source=None, params={"seconds": 1}, soft_time_limit=2)
    with pytest.raises(InputRejected, match=r"time_limit=0 is out of range"):
        cluster.create(task="deaf", source=None, params={"seconds": 1}, time_limit=0)
