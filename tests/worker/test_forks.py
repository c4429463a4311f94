"""Children that tasks start, in every way, from the threads of a worker's slots."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from tests.support.cluster import SAMPLE, SAMPLE_FRAMES, Cluster
from tests.support.processes import eventually
from vidan.domain.status import Status
from vidan.protocol import creation
from vidan.protocol.creation import NewScenario
from vidan.services.scenarios import Scenario

Create = Callable[..., int]

METHODS = ("fork", "spawn", "forkserver")


@pytest.fixture
def create(embedded_cluster: Cluster) -> Create:
    """Creates a scenario of the app `forks`; a supervisor runs, whose worker has two slots."""
    embedded_cluster.supervisor(app="forks:app", slots=2)

    def create(task: str, source: str | None = None, **params: Any) -> int:
        new = NewScenario(task=f"forks.{task}", source=source, params=params)
        with embedded_cluster.database.begin() as connection:
            return creation.create(connection, new).id

    return create


def completed(cluster: Cluster, ids: dict[str, int]) -> dict[str, Any]:
    """Wait for scenarios; return their results."""
    found: dict[str, Scenario] = {name: cluster.wait(one, 120) for name, one in ids.items()}
    assert {one.status for one in found.values()} == {Status.COMPLETED}, (
        {name: one.error for name, one in found.items()},
        cluster.log(),
    )
    return {name: one.result for name, one in found.items()}


@pytest.mark.slow
def test_children_of_every_kind(embedded_cluster: Cluster, create: Create) -> None:
    tasks = ("terminates", "pools", "inherits", "loads")
    ids = {f"{task} {how}": create(task, method=how) for task in tasks for how in METHODS}
    found = completed(embedded_cluster, ids)
    for how in METHODS:
        assert found[f"terminates {how}"] == [-15, -15, -15]
        assert found[f"pools {how}"] == [0, 1, 4, 9, 0, 1, 4, 9]
        assert found[f"inherits {how}"] == [["default", "default_int_handler"], [], []]
        assert found[f"loads {how}"] == [1.0, 2.0, 3.0]


def test_a_child_never_comes_back_from_its_task(embedded_cluster: Cluster, create: Create) -> None:
    """Nor does it read on where its parent reads: connections and threads are not the child's."""
    pid = embedded_cluster.worker_pid()
    ends = {"returns": 0, "raises": 1, "exits": 7, "progresses": 1}
    ids = {how: create("returns", how=how) for how in ends}
    ids["frames"] = create("reads_on", str(SAMPLE))
    ids["program"] = create("runs_a_program")
    found = completed(embedded_cluster, ids)
    assert found.pop("frames") == [1, SAMPLE_FRAMES]
    assert found.pop("program") == "SIG_DFL"
    assert found == ends
    assert embedded_cluster.worker_pid() == pid
    assert "in the child" in embedded_cluster.log()
    assert embedded_cluster.query("SELECT 1 FROM scenarios WHERE crashes > 0") == []


@pytest.mark.parametrize("code", [0, 20])
def test_ending_the_process_is_a_crash_at_once(
    embedded_cluster: Cluster, create: Create, code: int
) -> None:
    """Nobody waits for the end of a lease, and the worker is started again."""
    deadly = create("ends", code=code)
    crashed = "SELECT 1 FROM scenarios WHERE id = :id AND crashes >= 2"
    assert eventually(lambda: embedded_cluster.query(crashed, id=deadly) != [], 60), (
        embedded_cluster.get(deadly)
    )
    waits = embedded_cluster.query(
        "SELECT extract(epoch FROM at - lag(at) OVER (ORDER BY id)) AS seconds, from_status, reason"
        " FROM transitions WHERE scenario_id = :id ORDER BY id",
        id=deadly,
    )
    held = [one for one in waits if one["from_status"] == "active"]
    assert min(float(one["seconds"]) for one in held) < 5
    assert all(f"exit code {code}" in one["reason"] for one in held)
    completed(embedded_cluster, {"next": create("runs_a_program")})
