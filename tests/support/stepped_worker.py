"""Tasks for a worker in the test's process, and what its tests do with it step by step.

There is no broker: the worker's sweeps alone find the work.
"""

from __future__ import annotations

import threading
import time
from typing import Any

from tests.support.processes import eventually
from vidan.db.session import Database
from vidan.domain.status import Status
from vidan.errors import BrokerUnavailable, DatabaseUnavailable
from vidan.protocol import creation
from vidan.protocol.creation import NewScenario
from vidan.run.run import Run
from vidan.services import scenarios
from vidan.tasks.app import Vidan
from vidan.worker.worker import Worker

app = Vidan()
go_on = threading.Event()
calls: list[int] = []
totals: dict[str, int] = {}
AWAY = [DatabaseUnavailable("no answer from other:5432"), BrokerUnavailable("no broker at other")]
ENDED = (Status.COMPLETED, Status.FAILED, Status.INACTIVE)


class Unspeakable(Exception):
    """Its words fail."""

    def __str__(self) -> str:
        raise KeyError("no words")


ERRORS = {
    "nul": ValueError("a NUL\x00 here"),
    "surrogate": OSError("no such file: \udcff.mp4"),
    "long": RuntimeError("word " * 100_000),
    "silent": KeyError(),
    "exit": SystemExit(3),
    "unspeakable": Unspeakable(),
}


@app.task(name="echo", source=False, retries=0)
def echo(run: Run, value: Any = None) -> Any:
    return value


@app.task(name="breaks", source=False, retries=0)
def breaks(run: Run, how: str) -> None:
    raise ERRORS[how]


@app.task(name="fails", source=False, retries=1)
def fails(run: Run) -> None:
    raise ValueError("again")


@app.task(name="odd", source=False)
def odd(run: Run, what: str) -> Any:
    if what == "result":
        return "\x00"
    run.state["x"] = {"nul": "\x00", "object": object(), "nan": float("nan")}[what]
    return None


@app.task(name="waits", source=False)
def waits(run: Run) -> str:
    while not go_on.wait(0.01):
        run.progress()
    return "went on"


@app.task(name="looks", source=False)
def looks(run: Run) -> str:
    while not run.stopping:
        go_on.wait(0.01)
    return "left off"


@app.task(name="lingers", source=False)
def lingers(run: Run) -> None:
    try:
        waits(run)
    finally:
        time.sleep(0.5)


@app.task(name="stuck", source=False)
def stuck(run: Run) -> None:
    go_on.wait()


@app.task(name="one by one", source=False, concurrency=1)
def one_by_one(run: Run) -> None:
    time.sleep(0.01)


@app.task(name="forwards", source=False)
def forwards(run: Run) -> None:
    calls.append(run.scenario_id)
    raise AWAY[run.scenario_id % 2]


@app.task(name="sees")
def sees(run: Run) -> int:
    return sum(len(batch.indices) for batch in run.frames())


@app.task(name="adds up", source=False)
def adds_up(run: Run, camera: str) -> Any:
    """Returns and keeps what its next run changes."""
    totals[camera] = totals.get(camera, 0) + 1
    run.state["totals"] = totals
    return totals


def create(database: Database, task: str, **params: Any) -> int:
    with database.begin() as connection:
        return creation.create(connection, NewScenario(task=task, params=params)).id


def get(database: Database, scenario_id: int) -> scenarios.Scenario:
    with database.begin() as connection:
        return scenarios.get(connection, scenario_id)


def step_until(worker: Worker, database: Database, scenario_id: int, *wanted: Status) -> Any:
    def reached() -> bool:
        worker.run_once()
        return get(database, scenario_id).status in wanted

    assert eventually(reached, 15), get(database, scenario_id)
    return get(database, scenario_id)


def run_all(worker: Worker, count: int) -> None:
    """Step until `count` runs have ended whose outcomes are not written."""

    def ran() -> bool:
        worker._polling.claim_now = True
        worker.run_once()
        return worker._slots.unwritten == count

    assert eventually(ran, 15)
