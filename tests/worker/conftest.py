"""A worker in the test's own process, which is stepped by hand."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from tests.support.stepped_worker import app, go_on
from vidan.config import Settings
from vidan.db.session import Database
from vidan.domain.worker import WorkerOptions
from vidan.worker.execution import Outcome
from vidan.worker.outcomes import OutcomeWriter
from vidan.worker.worker import Worker


@pytest.fixture
def worker(database_url: str, tmp_path: Path) -> Iterator[Worker]:
    """A worker of two slots."""
    go_on.clear()
    settings = Settings(home=tmp_path, database_url=database_url)
    made = Worker(settings, WorkerOptions("w@test", slots=2), app.tasks)
    made.run_once()
    yield made
    go_on.set()
    made.leave()
    made._slots.close()


@pytest.fixture
def may_write(monkeypatch: pytest.MonkeyPatch) -> threading.Event:
    """Ends are written once it is set."""
    write = OutcomeWriter.write
    may = threading.Event()

    def later(self: OutcomeWriter, where: Database, outcomes: Sequence[Outcome]) -> None:
        assert may.wait(30)
        write(self, where, outcomes)

    monkeypatch.setattr(OutcomeWriter, "write", later)
    return may
