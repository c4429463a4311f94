"""The workers that `up` and `run` start for themselves."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.processes import eventually
from vidan.cli import own_workers
from vidan.cli.own_workers import TRIES, OwnWorkers
from vidan.config import Settings
from vidan.domain.worker import WorkerOptions


@pytest.mark.processes
def test_a_database_that_is_away_for_a_while_does_not_give_them_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(own_workers, "AWAY_SECONDS", 0.0)
    settings = Settings(home=tmp_path, database_url="postgresql://vidan@127.0.0.1:1/vidan")
    log = tmp_path / "workers.log"
    started = 0

    with OwnWorkers(settings, [WorkerOptions("w")], log) as workers:

        def started_often() -> bool:
            nonlocal started
            started += workers.check()
            return started > TRIES

        assert eventually(started_often, 60), log.read_text()
    assert "can't reach the database" in log.read_text()
