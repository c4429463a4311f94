"""Two versions of an app, in worker processes: which governs, and which runs what."""

from __future__ import annotations

import itertools
import shutil
from pathlib import Path
from typing import Any

import pytest

from tests.support.cluster import Cluster
from tests.support.processes import eventually
from tests.support.shell import Shell
from vidan.domain.status import Status
from vidan.domain.worker import WorkerOptions
from vidan.errors import InputRejected
from vidan.processes import lifeline
from vidan.processes.lifeline import Child
from vidan.protocol import tasks

V1 = """
import time
from vidan import Run, Schedule, Vidan

app = Vidan()

@app.task(name="pay", source=False, schedule=Schedule("0 6 * * *", name="morning"))
def pay(run: Run, amount: int = 1) -> list:
    began = time.time()
    time.sleep(0.05)
    return ["v1", began, time.time()]
"""
V2 = V1.replace('"v1"', '"v2"').replace("amount: int = 1", 'amount: int = 1, currency: str = "EUR"')
V2 = V2.replace("source=False,", "source=False, concurrency=1,").replace("morning", "evening")
NARROW = V2.replace('amount: int = 1, currency: str = "EUR"', 'currency: str = "EUR"')


class Versions:
    """Worker processes of versions of one app, each in a folder of its own."""

    def __init__(self, cluster: Cluster, folder: Path) -> None:
        self.cluster = cluster
        self.folder = folder

    def worker(self, name: str, source: str, queue: str = "default", slots: int = 2) -> Child:
        """Start a worker, and return once it has registered."""
        place = self.folder / name
        shutil.rmtree(place, ignore_errors=True)
        place.mkdir()
        (place / "shop.py").write_text(source)
        options = WorkerOptions(name=name, app="shop:app", queues=(queue,), slots=slots)
        sql = "SELECT count(*) AS n FROM workers WHERE name = :name"
        before = self.cluster.query(sql, name=name)[0]["n"]
        with (self.folder / f"{name}.log").open("ab") as log:
            child = lifeline.spawn(
                "vidan.worker",
                ["--options", options.to_json()],
                env=self.cluster.environment,
                stdout=log,
                stderr=log,
                cwd=place,
            )
        self.cluster._children.append(child)
        assert eventually(lambda: self.cluster.query(sql, name=name)[0]["n"] > before, 60), (
            self.folder / f"{name}.log"
        ).read_text()
        return child

    def leave(self, child: Child) -> None:
        """End a worker as a deployment does."""
        child.terminate()
        assert eventually(lambda: child.poll() is not None, 60)

    def spec(self) -> tasks.TaskSpec:
        """The task as it is published."""
        with self.cluster.database.begin() as connection:
            return tasks.get(connection, "pay")

    def governs(self, *params: str) -> bool:
        """Tell whether the task has these params at present."""
        return set(self.spec().params_schema["properties"]) == set(params)

    def pay(self, queue: str = "default", **params: Any) -> int:
        return self.cluster.create(task="pay", params=params, queue=queue, source=None)

    def results(self, ids: list[int]) -> list[Any]:
        ended = [self.cluster.wait(one) for one in ids]
        assert {one.status for one in ended} == {Status.COMPLETED}, [one.error for one in ended]
        return [one.result for one in ended]


@pytest.fixture
def versions(embedded_cluster: Cluster, tmp_path: Path) -> Versions:
    embedded_cluster.orchestrator()
    return Versions(embedded_cluster, tmp_path)


def overlaps(results: list[Any]) -> int:
    spans = sorted((began, ended) for _, began, ended in results)
    return sum(after[0] < before[1] for before, after in itertools.pairwise(spans))


def schedule_names(cluster: Cluster) -> list[str]:
    return [row["name"] for row in cluster.query("SELECT name FROM schedules ORDER BY name")]


@pytest.mark.slow
def test_an_old_worker_never_takes_a_definition_back(versions: Versions) -> None:
    old = versions.worker("old", V1, slots=4)
    assert versions.governs("amount")
    versions.worker("new", V2, slots=4)
    assert eventually(lambda: versions.governs("amount", "currency"))
    assert versions.spec().concurrency == 1
    assert schedule_names(versions.cluster) == ["evening"]

    versions.leave(old)
    versions.worker("old", V1, slots=4)
    versions.worker("elsewhere", V1, queue="night")
    assert versions.governs("amount", "currency")
    assert versions.spec().concurrency == 1
    assert schedule_names(versions.cluster) == ["evening"]

    with_new = [versions.pay(currency="USD") for _ in range(10)]
    with_old = [versions.pay(amount=2) for _ in range(10)]
    found = versions.results(with_new + with_old)
    assert {one[0] for one in found} == {"v2"}  # all were checked by the newer definition
    assert overlaps(found) == 0


@pytest.mark.slow
def test_versions_with_equal_definitions_share_the_work_and_the_cap(versions: Versions) -> None:
    capped = V1.replace("source=False,", "source=False, concurrency=1,").replace('"v1"', '"v2"')
    first = [versions.worker(f"old-{n}", V1) for n in range(2)]
    versions.worker("new", capped)
    assert eventually(lambda: versions.spec().concurrency == 1)
    ids = [versions.pay(amount=number) for number in range(20)]
    found = versions.results(ids)
    assert overlaps(found) == 0
    assert all(one.poll() is None for one in first)


@pytest.mark.slow
def test_a_rollback_takes_effect_when_the_newer_worker_has_left(versions: Versions) -> None:
    versions.worker("old", V1)
    new = versions.worker("new", V2, queue="night")
    waiting = versions.pay(currency="USD")  # only the newer version takes it, on another queue
    versions.results([versions.pay(queue="night", currency="USD")])
    assert versions.cluster.get(waiting).status is Status.INIT_STARTUP

    versions.leave(new)
    assert eventually(lambda: versions.governs("amount"), 20)
    assert versions.spec().concurrency is None
    assert eventually(lambda: schedule_names(versions.cluster) == ["morning"])
    with pytest.raises(InputRejected, match="no param currency"):
        versions.pay(currency="USD")
    refused = versions.cluster.wait(waiting)  # what the governing version refuses fails by name
    assert refused.status is Status.FAILED
    assert "currency" in (refused.error or "")
    assert [one[0] for one in versions.results([versions.pay(amount=3)])] == ["v1"]


@pytest.mark.slow
def test_a_version_is_used_at_once(versions: Versions, vidan: Shell) -> None:
    versions.worker("old", V1)
    versions.worker("new", V2)
    numbers = {
        row["version"]: row["definition"]
        for row in versions.cluster.query(
            "SELECT version, definition FROM task_versions WHERE name = 'pay' ORDER BY version"
        )
    }
    first, second = numbers
    shown = vidan("tasks", "show", "pay", "--json").json()
    assert shown["version"] == second
    assert [(one["number"], one["workers"]) for one in shown["versions"]] == [
        (second, ["new"]),
        (first, ["old"]),
    ]
    assert vidan("tasks", "use", first).code == 0
    assert versions.governs("amount")
    assert schedule_names(versions.cluster) == ["morning"]
    versions.results([versions.pay(amount=3)])
    versions.worker("third", V2.replace('"v2"', '"v3"'))
    assert versions.governs("amount", "currency")
    assert "governs" in vidan("tasks", "show", "pay").out
    assert vidan("tasks", "use", 999).code == 3


@pytest.mark.slow
def test_the_governing_version_takes_what_an_older_one_has_checked(versions: Versions) -> None:
    old = versions.worker("old", V1, queue="elsewhere")
    fits, refused = versions.pay(), versions.pay(amount=3)
    versions.worker("new", NARROW)
    assert [one[0] for one in versions.results([fits])] == ["v2"]
    ended = versions.cluster.wait(refused)
    assert ended.status is Status.FAILED
    assert "amount" in (ended.error or "")
    assert old.poll() is None
