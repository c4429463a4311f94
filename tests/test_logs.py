"""Log lines of real processes: each is JSON on request and says which scenario it is about."""

from __future__ import annotations

import json
import logging
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest

from tests.support.cluster import Cluster
from tests.support.processes import eventually
from vidan import logs
from vidan.config import Settings
from vidan.run.control import RunControl
from vidan.run.pipeline import _ReadAhead


def lines(cluster: Cluster) -> list[dict[str, Any]]:
    """Every line that the processes have written: all of them are JSON objects."""
    written = cluster.log_file.read_text(encoding="utf-8").splitlines()
    return [json.loads(line) for line in written if line]


def test_a_run_can_be_followed_through_the_log(cluster: Cluster) -> None:
    cluster.environment["VIDAN_LOG_JSON"] = "1"
    cluster.environment["VIDAN_LOG_LEVEL"] = "debug"
    cluster.environment["VIDAN_KAFKA_DEBUG"] = "cgrp"  # librdkafka's own lines
    cluster.orchestrator()
    supervisor = cluster.supervisor("w", slots=2)
    other = cluster.create(task="count", params={"model": "trial:slow"})
    followed = cluster.create(task="chatty", params={"marks": "here"})
    failing = cluster.create(task="reject")
    for one in (other, followed, failing):
        cluster.wait(one)
    supervisor.terminate()
    assert supervisor.wait(20) == 0

    found = lines(cluster)

    of_it = [line for line in found if line.get("scenario_id") == followed]
    said = [line["message"] for line in of_it]
    for part in ("claimed: task chatty", "active, from frame 0 on", "stored ", "completed after"):
        assert any(message.startswith(part) for message in said), (part, said)
    assert [line["message"] for line in of_it if line["logger"] == "trial"] == ["by logging"]
    assert [line["message"] for line in of_it if line["logger"] == "vidan.task.chatty"] == [
        "by run.log"
    ]
    assert [line["level"] for line in of_it if line["logger"] == "py.warnings"] == ["warning"]
    worker = cluster.query("SELECT id FROM workers WHERE name = 'w'")[0]["id"]
    assert {line["worker_id"] for line in of_it} == {str(worker)}
    assert {line["epoch"] for line in of_it} == {1}
    assert {line["process"] for line in of_it} == {"worker"}
    commits = [line for line in of_it if line["logger"] == "vidan.commits"]
    assert {line["level"] for line in commits} == {"debug"}
    ended = [line for line in found if line.get("scenario_id") == failing]
    assert any("this will never work" in line["message"] for line in ended)
    for line in found:
        assert line["process"] in ("worker", "supervisor", "orchestrator")
        if line["process"] == "worker" and line["logger"] == "vidan.lease":
            assert line["worker_id"] == str(worker)
        if line["logger"] == "vidan.commits":
            assert line["scenario_id"] in (followed, other)
    assert any(line["logger"] == "vidan.broker.librdkafka" for line in found)


def test_a_worker_that_lost_its_lease_logs_under_its_new_id(embedded_cluster: Cluster) -> None:
    embedded_cluster.environment["VIDAN_LOG_JSON"] = "1"
    embedded_cluster.supervisor("w")
    embedded_cluster.query("UPDATE workers SET lease_until = now() - interval '1 second'")
    ids = "SELECT CAST(id AS text) AS id FROM workers ORDER BY registered_at"
    assert eventually(lambda: len(embedded_cluster.query(ids)) == 2, 30)
    first, second = (row["id"] for row in embedded_cluster.query(ids))

    def told() -> dict[str, str]:
        return {line["message"]: line["worker_id"] for line in lines(embedded_cluster)}

    assert eventually(lambda: f"w registered as {second}" in told())
    assert told()[f"the lease of {first} has ended"] == first
    assert told()[f"w registered as {second}"] == second


# --- in this process


@pytest.fixture
def written(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Iterator[Callable[[], list[str]]]:
    """The lines that went to stderr; the logging of this process is as before afterwards."""
    root = logging.getLogger()
    before = (root.level, root.handlers[:], sys.excepthook, threading.excepthook)
    monkeypatch.setattr(logs, "_of_process", {})

    def lines_written() -> list[str]:
        return capsys.readouterr().err.splitlines()

    yield lines_written
    logging.captureWarnings(False)
    root.setLevel(before[0])
    root.handlers[:] = before[1]
    sys.excepthook, threading.excepthook = before[2:]


def test_text_names_the_scenario_where_one_is_bound(
    written: Callable[[], list[str]], tmp_path: Path
) -> None:
    logs.configure(Settings(home=tmp_path), "worker")
    log = logging.getLogger("some.library")
    with logs.bound(scenario_id=42, epoch=3):
        log.info("inside %d", 1)
        with logs.bound(scenario_id=43):
            log.info("deeper")
    log.info("outside")
    log.debug("not at this level")
    first, second, third = written()
    assert first.endswith("INFO    some.library: [scenario 42 epoch 3] inside 1")
    assert second.endswith("some.library: [scenario 43 epoch 3] deeper")
    assert third.endswith("some.library: outside")


def test_a_thread_carries_what_is_bound_only_if_told_to(
    written: Callable[[], list[str]], tmp_path: Path
) -> None:
    logs.configure(Settings(home=tmp_path, log_json=True), "worker")
    log = logging.getLogger("x")
    with logs.bound(scenario_id=42):
        for target in (logs.carried(lambda: log.info("carried")), lambda: log.info("bare")):
            thread = threading.Thread(target=target)
            thread.start()
            thread.join()
    carried, bare = map(json.loads, written())
    assert carried["scenario_id"] == 42
    assert "scenario_id" not in bare
    assert list(bare) == ["at", "level", "logger", "message", "process"]


def test_what_a_decoder_logs_is_about_its_run(
    written: Callable[[], list[str]], tmp_path: Path
) -> None:
    class Logging:
        live = False

        def batches(self, _size: int) -> Iterator[Any]:
            logging.getLogger("libav").warning("error while decoding")
            yield from ()

        def close(self) -> None:
            pass

    logs.configure(Settings(home=tmp_path, log_json=True), "worker")
    source: Any = Logging()
    with logs.bound(scenario_id=42):
        ahead = _ReadAhead(source, 4, lambda _: nullcontext())
        assert list(ahead.batches(RunControl())) == []
        ahead.close()
    (line,) = map(json.loads, written())
    assert (line["logger"], line["scenario_id"]) == ("libav", 42)


def test_what_nothing_caught_is_one_line_too(tmp_path: Path) -> None:
    code = (
        "import threading, warnings; from pathlib import Path\n"
        "from vidan import logs; from vidan.config import Settings\n"
        "logs.configure(Settings(home=Path('.'), log_json=True), 'worker')\n"
        "warnings.warn('old')\n"
        "thread = threading.Thread(target=lambda: 1 / 0, name='t'); thread.start(); thread.join()\n"
        "raise ValueError('two\\nlines \\udcff')\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=30, check=False
    )
    assert done.returncode == 1
    warned, thread, main = map(json.loads, done.stderr.splitlines())
    assert "old" in warned["message"]
    assert thread["message"] == "uncaught in thread t"
    assert "ZeroDivisionError" in thread["traceback"]
    assert "two\nlines" in main["traceback"]


PRINTS = """
import logging, os, sys, threading
from pathlib import Path
from vidan import logs
from vidan.config import Settings

logs.configure(Settings(home=Path("."), log_json=True), "worker")
logs.log_prints()
with logs.bound(scenario_id=7):
    print("one", 2, sep=", ")
    print("begun ", end="")
    thread = threading.Thread(target=lambda: print("of a thread"))
    thread.start(); thread.join()
    print("and ended\\n\\nthird")
    for n in range(3):
        print(f"\\r{n} %", end="")
    print()
    print("x" * 20_000)
own = logging.StreamHandler(sys.stdout)
logging.getLogger().addHandler(own)
logging.getLogger("theirs").warning("on stdout")
logging.getLogger().removeHandler(own)
print(sys.stdout.encoding, sys.stdout.isatty(), sys.stdout.fileno(), flush=True)
sys.stdout.buffer.write(b"bytes\\n")
sys.stdout.flush()
"""


def test_what_is_printed_becomes_lines_of_the_log() -> None:
    done = subprocess.run(
        [sys.executable, "-c", PRINTS], capture_output=True, text=True, timeout=30, check=True
    )
    assert done.stdout == "bytes\n"
    raw = [line for line in done.stderr.splitlines() if not line.startswith("{")]
    found = [json.loads(line) for line in done.stderr.splitlines() if line.startswith("{")]
    mine = [one["message"] for one in found if one.get("scenario_id") == 7]
    assert mine[:4] == ["one, 2", "begun and ended", "third", "2 %"]
    assert [len(one) for one in mine[4:]] == [20_000]
    others = [one["message"] for one in found if "scenario_id" not in one]
    assert others[0] == "of a thread"
    assert "on stdout" in others
    assert set(raw) <= {"on stdout"}  # an app's own handler repeats what is logged, once
    assert others[-1] == "utf-8 False 1"
