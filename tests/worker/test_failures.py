"""What the log tells of a run that raised, and where `error` says that it was."""

from __future__ import annotations

import logging
import re
import subprocess
import sys
import time
from pathlib import Path

import pytest
from sqlalchemy import text

from tests.support.cluster import APPS
from tests.support.stepped_worker import ENDED, create, step_until
from vidan.config import Settings
from vidan.db.session import Database
from vidan.domain.status import Status
from vidan.domain.worker import WorkerOptions
from vidan.services import scenarios, steering
from vidan.tasks import blame
from vidan.worker.worker import Worker


def told(caplog: pytest.LogCaptureFixture, level: int) -> list[logging.LogRecord]:
    return [one for one in caplog.records if one.name == "vidan.runner" and one.levelno == level]


def test_a_retry_is_announced_and_the_last_try_has_its_traceback(
    worker: Worker, database: Database, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO):
        ended = step_until(worker, database, create(database, "fails"), Status.FAILED)
    (again,) = told(caplog, logging.WARNING)
    assert re.fullmatch(
        r"failed after \d\.\d s: ValueError: again \(.*stepped_worker\.py:\d+\);"
        r" again in [\d.]+ s \(1 of 1\)",
        again.getMessage(),
    )
    (last,) = told(caplog, logging.ERROR)
    assert ended.error in last.getMessage()
    trace = str(getattr(last, "trace", None))
    assert trace.startswith("Traceback")
    assert trace.endswith("ValueError: again")
    assert "stepped_worker.py" in trace
    assert stored(database, ended.id) == trace


def stored(database: Database, scenario_id: int) -> str | None:
    with database.begin() as connection:
        return scenarios.traceback(connection, scenario_id)


def test_each_try_stores_its_traceback_and_a_new_start_forgets_it(
    worker: Worker, database: Database
) -> None:
    scenario_id = create(database, "fails")
    again = "SELECT 1 FROM scenarios WHERE id = :id AND attempts = 1"
    for _ in range(200):
        worker.run_once()
        with database.begin() as connection:
            if connection.execute(text(again), {"id": scenario_id}).first():
                break
        time.sleep(0.02)
    assert str(stored(database, scenario_id)).endswith("ValueError: again")
    step_until(worker, database, scenario_id, Status.FAILED)
    with database.begin() as connection:
        steering.request(connection, scenario_id, Status.INIT_STARTUP, actor="test")
    assert stored(database, scenario_id) is None


def test_what_no_retry_fixes_has_its_traceback_at_once(
    worker: Worker, database: Database, caplog: pytest.LogCaptureFixture
) -> None:
    ended = step_until(worker, database, create(database, "odd", what="nan"), *ENDED)
    assert ended.status is Status.FAILED
    (record,) = told(caplog, logging.ERROR)
    assert "JSON" in record.getMessage()
    assert "Traceback" in str(getattr(record, "trace", None))
    assert stored(database, ended.id) == getattr(record, "trace", None)


def raised(function: object) -> BaseException:
    try:
        function()  # type: ignore[operator]
    except BaseException as error:
        return error
    raise AssertionError("it raised nothing")


def test_the_place_is_in_the_code_of_the_app(monkeypatch: pytest.MonkeyPatch) -> None:
    def in_a_library() -> None:
        re.compile("(")

    def in_vidan() -> None:
        WorkerOptions.from_json("{")

    monkeypatch.chdir(Path(__file__).parent)
    for function in (in_a_library, in_vidan):
        line = function.__code__.co_firstlineno + 1
        assert blame.place(raised(function)) == f"test_failures.py:{line}"
    monkeypatch.chdir("/")
    assert blame.place(raised(in_vidan)) == f"{__file__.lstrip('/')}:{line}"
    assert blame.place(ValueError("never raised")) is None


def test_a_traceback_is_bounded() -> None:
    def deep(n: int) -> None:
        if n == 0:
            raise ValueError("x" * 50_000 + "the end")
        deep(n - 1)

    trace = blame.trace(raised(lambda: deep(100)))
    assert trace is not None
    assert len(trace) == blame.MAX_TRACE
    assert trace.startswith("Traceback (most recent call last):\n")
    assert re.search(r"\n… [\d,]+ characters are cut here …\n", trace)
    assert trace.endswith("the end")


def test_a_traceback_can_be_stored_and_shows_no_password() -> None:
    def connects() -> None:
        raise ValueError("\x00 \udcff at rtsp://me:secr@et@camera/1 and http://camera/a@b")

    trace = blame.trace(raised(connects))
    assert trace is not None
    assert trace.endswith("ValueError: \\x00 \\udcff at rtsp://camera/1 and http://camera/a@b")


@pytest.mark.parametrize("json", [False, True])
def test_an_app_that_can_not_be_loaded_is_told_with_its_place(
    tmp_path: Path, database_url: str, json: bool
) -> None:
    (tmp_path / "broken_app.py").write_text("import os\n\nos.environ['no such variable']\n")
    options = WorkerOptions("w", app="broken_app:app")
    settings = Settings(home=tmp_path, database_url=database_url, log_json=json)
    done = subprocess.run(
        [sys.executable, "-m", "vidan.worker", "--options", options.to_json()],
        env={**settings.environment(), "PYTHONPATH": str(APPS.parents[2])},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 10
    assert "KeyError: 'no such variable' (broken_app.py:3)" in done.stderr
    assert ('"traceback"' in done.stderr) is json
    assert "Traceback" in done.stderr
