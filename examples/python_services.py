"""The service layer from Python: create a scenario, start and stop it, read what it found.

    DATABASE_URL=postgresql://… python examples/python_services.py [VIDEO]

Without DATABASE_URL it uses the embedded stack if that runs (`vidan up`). A service takes the
connection of a transaction that you open, so several calls happen together or not at all.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path

from vidan import config
from vidan.db import schema
from vidan.db.session import Database
from vidan.detection import catalogue
from vidan.domain import ENDED, Status
from vidan.errors import VidanError
from vidan.services import predictions, scenarios, steering, workers
from vidan.services.scenarios import NewScenario


def main(video: Path) -> None:
    """Create a scenario, start it, wait for it, and read all that is stored of it."""
    database = Database(config.load().require_database())
    schema.check(database)

    # Create it without starting it. A key makes this safe to repeat: it returns the same scenario.
    new = NewScenario(
        source=str(video.absolute()),
        params={"labels": ["person"], "every": 5},
        key=f"example-{time.time_ns()}",
        status=Status.INACTIVE,
    )
    with database.begin() as connection:
        created = scenarios.create(connection, new)
    print(f"created scenario {created.id}: {status_of(database, created.id)}")

    # Ask for the status `active`; the scenario gets it once a worker has taken it.
    with database.begin() as connection:
        steering.request(connection, created.id, Status.ACTIVE)
        a_worker_runs = bool(workers.find(connection))
    print(f"asked for active: {status_of(database, created.id)}")

    if a_worker_runs:
        wait(database, created.id)
    else:
        print("no worker runs (`vidan worker` starts one), so it is stopped again")
        with database.begin() as connection:
            steering.request(connection, created.id, Status.INACTIVE)

    # Read the predictions page by page, each in a short transaction.
    last = -1
    while True:
        with database.begin() as connection:
            page = predictions.read_after(connection, created.id, last, limit=100)
        if not page:
            break
        for frame in page:
            seen = ", ".join(f"{one.label} {one.score:.2f}" for one in frame.detections)
            print(f"frame {frame.frame} at {frame.time_ms} ms: {seen or 'nothing'}")
        last = page[-1].frame

    # Read the scenario, a summary of its predictions, and its history.
    with database.begin() as connection:
        whole = scenarios.get(connection, created.id)
        summary = predictions.summary(connection, created.id)
        history = scenarios.history(connection, created.id)
    print(f"{summary.frames} frames, {summary.detections} detections: {summary.by_label}")
    print(" → ".join(change.to_status for change in history))
    print(json.dumps(whole.as_json(), indent=2))
    database.close()


def status_of(database: Database, scenario_id: int) -> Status:
    """Read a scenario's status."""
    with database.begin() as connection:
        return scenarios.get(connection, scenario_id).status


def wait(database: Database, scenario_id: int) -> None:
    """Wait until a scenario has ended."""
    while status_of(database, scenario_id) not in ENDED:
        time.sleep(0.2)


if __name__ == "__main__":
    try:
        main(Path(sys.argv[1]) if sys.argv[1:] else catalogue.sample_video())
    except VidanError as error:
        sys.exit(f"Error: {error}\nHint: {error.hint}")
