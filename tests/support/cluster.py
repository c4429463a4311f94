"""vidan's processes for a test: orchestrators and supervisors on a test's database and broker."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import psutil
import pytest

from tests.support import stack
from tests.support.kafka import HostedBroker, RealKafka
from tests.support.processes import eventually
from vidan.config import Settings
from vidan.db.session import Database
from vidan.domain.status import ENDED, Status
from vidan.domain.worker import WorkerOptions
from vidan.processes import lifeline
from vidan.processes.lifeline import Child
from vidan.protocol import creation
from vidan.protocol.creation import NewScenario
from vidan.services import predictions, scenarios
from vidan.services.predictions import StoredFrame
from vidan.services.scenarios import Scenario

APPS = Path(__file__).parent / "apps"
SAMPLE = Path(__file__).parents[2] / "vidan" / "samples" / "pedestrians.mp4"
SAMPLE_FRAMES = 200


class Cluster:
    """Starts processes, queries the database, and ends the processes at the end."""

    def __init__(self, settings: Settings, logs: Path) -> None:
        self.database = Database(settings.require_database())
        self.settings = settings
        self.environment = settings.environment({**os.environ, "OMP_NUM_THREADS": "1"})
        self.folder = APPS  # in which processes are started
        self.log_file = logs / "processes.log"
        self._children: list[Child] = []

    def start(self, module: str, arguments: list[str]) -> Child:
        """Start a process of vidan, named by its module."""
        return self._spawn(module, arguments)

    def orchestrator(self) -> Child:
        """Start an orchestrator."""
        return self._spawn("vidan.orchestrator", [])

    def supervisor(
        self, name: str = "w", *, workers: int = 1, app: str = "trial:app", **options: Any
    ) -> Child:
        """Start a supervisor, and return once its workers have registered.

        Several workers have a number after the name: w-0, w-1, …
        """
        names = [name] if workers == 1 else [f"{name}-{place}" for place in range(workers)]
        posts = [WorkerOptions(name=one, app=app, threads=1, **options) for one in names]
        child = self._spawn(
            "vidan.supervisor", ["--posts", json.dumps([json.loads(p.to_json()) for p in posts])]
        )
        sql = "SELECT DISTINCT name FROM workers WHERE name = ANY(:names)"
        assert eventually(lambda: len(self.query(sql, names=names)) == workers, 60), self.log()
        return child

    def children(self) -> list[psutil.Process]:
        """Return the processes that were started and still run."""
        return [psutil.Process(one.pid) for one in self._children if one.poll() is None]

    def worker_pid(self, name: str = "w") -> int:
        """Return the process id in the newest registration of a worker."""
        sql = "SELECT pid FROM workers WHERE name = :n ORDER BY registered_at DESC LIMIT 1"
        return int(self.query(sql, n=name)[0]["pid"])

    def create(self, **new: Any) -> int:
        """Create a scenario. Its source is the sample video unless the task needs none."""
        if new.get("task") not in ("add", "sleep", "die", "reject", "deaf", "pair", "paced"):
            new.setdefault("source", str(SAMPLE))
        with self.database.begin() as connection:
            return creation.create(connection, NewScenario(**new)).id

    def get(self, scenario_id: int) -> Scenario:
        """Return a scenario."""
        with self.database.begin() as connection:
            return scenarios.get(connection, scenario_id)

    def wait(self, scenario_id: int, seconds: float = 60) -> Scenario:
        """Wait until a scenario has ended, and return it."""
        assert eventually(lambda: self.get(scenario_id).status in ENDED, seconds), (
            f"{self.get(scenario_id)}\n{self.log()}"
        )
        return self.get(scenario_id)

    def wait_for_frames(self, scenario_id: int, frames: int, seconds: float = 60) -> None:
        """Wait until a running scenario has stored at least this many frames."""
        assert eventually(lambda: self.get(scenario_id).frames_done >= frames, seconds), self.log()

    def frames(self, scenario_id: int) -> list[StoredFrame]:
        """Return all frames that a scenario has stored."""
        with self.database.begin() as connection:
            return predictions.read_after(connection, scenario_id, -1, limit=100_000)

    def statuses(self, scenario_id: int) -> list[Status]:
        """Return the statuses of a scenario, from the first to the current one."""
        with self.database.begin() as connection:
            return [step.to_status for step in scenarios.history(connection, scenario_id)]

    def query(self, sql: str, **parameters: Any) -> list[Mapping[str, Any]]:
        """Return the rows of a statement."""
        from sqlalchemy import text

        with self.database.begin() as connection:
            result = connection.execute(text(sql), parameters)
            return [dict(row) for row in result.mappings()] if result.returns_rows else []

    def log(self) -> str:
        """Return the last part of what the processes have logged."""
        return self.log_file.read_text(encoding="utf-8", errors="replace")[-6000:]

    def end_processes(self) -> None:
        """End every process that was started, and the children of those processes."""
        for child in self._children:
            below = (
                psutil.Process(child.pid).children(recursive=True) if child.poll() is None else []
            )
            for process in below:
                if process.is_running():
                    process.send_signal(signal.SIGCONT)
            child.kill()
            child.wait()
            child.close()
            for process in below:
                if process.is_running():
                    process.kill()
        self._children.clear()

    def close(self) -> None:
        """End every process, and close the connections to the database."""
        self.end_processes()
        self.database.close()

    def _spawn(self, module: str, arguments: list[str]) -> Child:
        with self.log_file.open("ab") as log:
            child = lifeline.spawn(
                module, arguments, env=self.environment, stdout=log, stderr=log, cwd=self.folder
            )
        self._children.append(child)
        return child


@pytest.fixture
def cluster(
    database_url: str, broker_server: RealKafka | HostedBroker, tmp_path: Path
) -> Iterator[Cluster]:
    """A cluster; the test runs once on each of the two brokers."""
    with clustered(tmp_path, database_url, broker_server) as made:
        yield made


@pytest.fixture
def embedded_cluster(
    database_url: str, embedded_broker: HostedBroker, tmp_path: Path
) -> Iterator[Cluster]:
    """A cluster on the embedded broker, for tests in which the broker makes no difference."""
    with clustered(tmp_path, database_url, embedded_broker) as made:
        yield made


@contextmanager
def clustered(
    folder: Path, database_url: str, broker: RealKafka | HostedBroker
) -> Iterator[Cluster]:
    """Make a cluster on this database and this broker, for the block."""
    with (
        stack.found(folder, database_url, broker) as settings,
        closing(Cluster(settings, folder)) as made,
    ):
        yield made


__all__ = ["Cluster", "HostedBroker", "RealKafka", "cluster", "embedded_cluster"]
