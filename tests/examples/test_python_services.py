from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

from tests.support.played_worker import PlayedWorker
from tests.support.processes import eventually
from vidan.db.session import Database
from vidan.domain.status import Status
from vidan.services import scenarios

EXAMPLE = Path(__file__).parents[2] / "examples" / "python_services.py"


def start(database_url: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, str(EXAMPLE)],
        env={**os.environ, "DATABASE_URL": database_url, "VIDAN_DOTENV": "0"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def split(output: str) -> tuple[list[str], dict[str, object]]:
    """Return the lines, and the scenario that is printed as JSON after them."""
    lines, _, whole = output.partition("\n{\n")
    return lines.splitlines(), json.loads("{" + whole)


def test_without_a_worker_the_example_stops_what_it_started(database_url: str) -> None:
    output, errors = start(database_url).communicate(timeout=60)

    lines, whole = split(output)
    assert errors == ""
    assert lines[:2] == ["created scenario 1: inactive", "asked for active: init_startup"]
    assert lines[-2:] == ["0 frames, 0 detections: {}", "inactive → init_startup → inactive"]
    assert (whole["id"], whole["status"]) == (1, "inactive")


def test_with_a_worker_the_example_reads_what_it_found(database_url: str) -> None:
    database = Database(database_url)
    worker = PlayedWorker(database)
    example = start(database_url)

    def is_queued() -> bool:
        with database.begin() as connection:
            found = scenarios.find(connection, status=[Status.INIT_STARTUP])
        return bool(found)

    assert eventually(is_queued, 60)
    worker.claim()
    worker.store(range(0, 250, 2), found=1)
    worker.end(Status.COMPLETED)
    output, errors = example.communicate(timeout=60)
    database.close()

    lines, whole = split(output)
    assert errors == ""
    assert "frame 248 at 9920 ms: person 0.90" in lines
    assert sum(line.startswith("frame ") for line in lines) == 125
    assert "125 frames, 125 detections: {'person': 125}" in lines
    assert lines[-1].endswith("init_startup_processing → active → completed")
    assert whole["status"] == "completed"


def test_without_a_database_the_example_says_how_to_get_one(empty_home: Path) -> None:
    environment = {name: v for name, v in os.environ.items() if name != "DATABASE_URL"}
    environment |= {"VIDAN_HOME": str(empty_home), "VIDAN_DOTENV": "0"}
    ran = subprocess.run(
        [sys.executable, str(EXAMPLE)], env=environment, capture_output=True, text=True, timeout=60
    )

    assert ran.returncode == 1
    assert "Traceback" not in ran.stderr
    assert "vidan up" in ran.stderr
