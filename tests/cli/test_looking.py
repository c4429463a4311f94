"""`vidan workers|dead|tasks|models|db|topics|doctor|api`."""

from __future__ import annotations

import sys
from datetime import timedelta
from pathlib import Path

import pytest

from tests.support.played_worker import PlayedWorker
from tests.support.shell import Shell
from vidan.cli.commands.doctor import finding
from vidan.db.session import Database
from vidan.detection import catalogue
from vidan.domain.status import DesiredState
from vidan.protocol import heartbeats, tasks
from vidan.services import dead_letters, workers


def test_workers(vidan: Shell, worker: PlayedWorker) -> None:
    vidan("scenario", "create", "--no-check", "/v/a.mp4")
    worker.claim()
    (record,) = vidan("workers", "list", "--json").json()
    assert (record["name"], record["scenarios"], record["device"]) == ("cpu-0@test", [1], "cpu")
    assert vidan("worker", "list").out.split("\t")[0] == "cpu-0@test"
    assert vidan("workers", "list", "-q").out == f"{worker.id}\n"
    for wanted in ("cpu-0@test", worker.id):
        assert vidan("worker", "show", wanted, "--json").json()["id"] == str(worker.id)
    assert vidan("workers", "show", "nobody").code == 3


def test_dead_letters(vidan: Shell, database: Database) -> None:
    assert vidan("dead", "list").out == ""
    with database.begin() as connection:
        letter = dead_letters.NewLetter(
            topic="scenarios", partition=2, offset=7, timestamp_ms=1000,
            key=None, payload=b"garbage\xff\n\x1b[31m", error="not JSON",
        )  # fmt: skip
        dead_letters.add(connection, [letter])
    (record,) = vidan("dead", "list", "--json").json()
    assert (record["topic"], record["partition"], record["offset"]) == ("scenarios", 2, 7)
    one = record["id"]
    shown = vidan("dead", "show", one)
    assert "payload\tgarbage\\xff" in shown.out
    assert "\x1b" not in shown.out
    assert vidan("dead", "show", one, "--json").json()["error"] == "not JSON"
    assert vidan("dead", "show", 99).code == 3


def test_tasks(vidan: Shell) -> None:
    assert vidan("tasks", "list", "-q").out == "detect\n"
    record = vidan("tasks", "show", "detect", "--json").json()
    assert set(record["params"]["properties"]) >= {"model", "labels", "every", "decoder"}
    assert (record["retries"], record["max_attempts"]) == (3, 3)
    shown = vidan("task", "show", "detect").out
    assert "retries\t3\n" in shown and "max_attempts" not in shown
    assert "param min_score\tnumber, 0 to 1, default 0.35" in shown
    assert vidan("tasks", "show", "shop").code == 3


def test_tasks_say_which_workers_have_them(vidan: Shell, database: Database) -> None:
    with database.begin() as connection:
        tasks.publish(connection, [tasks.TaskSpec("shop.count", {}), tasks.TaskSpec("old", {})])
    PlayedWorker(database, "a@test", tasks=("detect", "shop.count"))
    leaving = PlayedWorker(database, "b@test", tasks=("detect", "old"))
    PlayedWorker(database, "c@test", tasks=("detect", "old")).let_lease_end()
    with database.begin() as connection:
        workers.retire(connection, [leaving.name], DesiredState.DRAINED)
    records = vidan("tasks", "list", "--json").json()
    assert {record["name"]: record["workers"] for record in records} == {
        "detect": ["a@test"],
        "old": [],
        "shop.count": ["a@test"],
    }
    lines = [line.split("\t") for line in vidan("tasks", "list").out.splitlines()]
    assert [(line[0], line[-1]) for line in lines] == [
        ("detect", "1"), ("old", "0"), ("shop.count", "1"),
    ]  # fmt: skip
    assert vidan("tasks", "show", "shop.count", "--json").json()["workers"] == ["a@test"]
    assert "no running worker" in vidan("tasks", "show", "old").err


def test_tasks_show_their_caps(vidan: Shell, database: Database) -> None:
    spec = tasks.TaskSpec("report", {}, summary="Report.", concurrency=2, rate_limit="10/m")
    with database.begin() as connection:
        tasks.publish(connection, [spec])
    listed = vidan("tasks", "list").out.splitlines()
    assert listed[1] == "report\trequired\t-\tReport.\t2\t10/m\t0"
    assert listed[0].endswith("\t-\t-\t0")
    shown = vidan("tasks", "show", "report").out.splitlines()
    assert {"concurrency\t2", "rate_limit\t10/m"} <= set(shown)
    record = vidan("tasks", "show", "report", "--json").json()
    assert (record["concurrency"], record["rate_limit"]) == (2, "10/m")


def test_models_need_no_database(bare: Shell) -> None:
    names = [model["name"] for model in bare("models", "list", "--json").json()]
    assert names[0] == catalogue.DEFAULT_MODEL
    assert bare("model", "show", "nanodet-g", "--json").json()["labels"][0] == "person"
    assert bare("models", "show", "yolo").code == 3


# --- the schema


def test_db_up_and_down(bare: Shell, empty_database_url: str) -> None:
    bare.environment["DATABASE_URL"] = empty_database_url
    unready = bare("db", "check")
    assert unready.code == 8
    assert "vidan db upgrade" in unready.err
    assert bare("scenario", "list").code == 8
    assert bare("db", "current").out == "-\n"
    assert bare("db", "upgrade").code == 0
    assert bare("db", "check").code == 0
    current = bare("db", "current", "--json").json()
    assert current["revision"] == current["expected"]
    assert bare("scenario", "list").code == 0
    assert bare("db", "downgrade", "-1", "--yes").code == 0
    assert bare("db", "current").out != f"{current['expected']}\n"
    assert bare("db", "upgrade").code == 0
    assert "nowhere" in bare("db", "downgrade", "nowhere", "--yes").err
    assert bare("db", "downgrade", "nowhere", "--yes").code == 2


@pytest.mark.processes
def test_sql_needs_no_database(bare: Shell) -> None:
    up = bare.run("db", "upgrade", "--sql")
    assert up.code == 0, up.err
    assert "CREATE TABLE scenarios" in up.out
    down = bare.run("db", "downgrade", "-1", "--sql")
    assert down.code == 0, down.err
    assert "UPDATE alembic_version SET version_num=" in down.out
    assert bare("db", "history", "--json").json()[-1]["revision"] == "0001"


# --- the broker


def test_an_unreachable_broker_is_9(bare: Shell) -> None:
    ended = bare("topics", "list", "--bootstrap-servers", "127.0.0.1:1", "--json")
    assert (ended.code, ended.out) == (9, "")
    assert ended.error()["hint"]
    assert bare("topics", "create", "--bootstrap-servers", "127.0.0.1:1").code == 9


# --- doctor


def states(vidan: Shell) -> dict[str, str]:
    return {one["check"]: one["state"] for one in vidan("doctor", "--json").json()}


@pytest.fixture(autouse=True)
def no_patience(monkeypatch: pytest.MonkeyPatch) -> None:
    """What waits is late at once."""
    monkeypatch.setattr(finding, "PATIENCE", timedelta(0))


def test_doctor_says_what_works(vidan: Shell, worker: PlayedWorker) -> None:
    found = states(vidan)
    for check in ("settings", "database", "schema", "workers", "waiting", "running", "weights"):
        assert found[check] == "ok", check
    assert vidan("doctor").code == 0


def test_doctor_names_what_no_worker_takes(vidan: Shell, worker: PlayedWorker) -> None:
    vidan("scenario", "create", "--no-check", "/v/a.mp4", "--queue", "night")
    ended = vidan("doctor")
    assert ended.code == 0
    (line,) = [line for line in ended.out.splitlines() if line.startswith("warn\twaiting")]
    assert "'night'" in line
    assert "vidan worker --queues night" in line


def test_doctor_names_what_a_dead_worker_holds(
    vidan: Shell, worker: PlayedWorker, database: Database
) -> None:
    vidan("scenario", "create", "--no-check", "/v/a.mp4")
    worker.claim()
    with database.begin() as connection:
        heartbeats.sign_off(connection, worker.id)
    found = states(vidan)
    assert (found["workers"], found["running"]) == ("warn", "warn")


def test_doctor_gives_the_code_of_the_first_failure(bare: Shell, empty_database_url: str) -> None:
    unreachable = ["--database-url", "postgresql://x:geheim@127.0.0.1:1/x"]
    servers = ["--bootstrap-servers", "127.0.0.1:1"]
    ended = bare("doctor", *unreachable, *servers)
    assert ended.code == 8
    assert "geheim" not in ended.out + ended.err
    assert bare("doctor", "--database-url", empty_database_url, *servers).code == 8


def test_doctor_finds_damaged_weights(
    vidan: Shell, worker: PlayedWorker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    damaged = tmp_path / "weights"
    damaged.write_bytes(catalogue.NANODET_WEIGHTS.read_bytes()[:-1] + b"x")
    monkeypatch.setattr(catalogue, "NANODET_WEIGHTS", damaged)
    ended = vidan("doctor")
    assert ended.code == 10
    assert "damaged" in ended.out


def test_doctor_says_where_settings_come_from(bare: Shell, database_url: str) -> None:
    def origin(*words: str) -> str:
        return str(bare("doctor", "--json", *words).json()[0]["finding"])

    assert "--database-url" in origin("--database-url", database_url)
    (bare.folder / ".env").write_text(f"DATABASE_URL={database_url}\n")
    assert "DATABASE_URL in .env" in origin()
    bare.environment["DATABASE_URL"] = database_url
    assert "in the environment" in origin()


# --- what is not installed


def test_a_missing_extra_is_named_in_one_line(
    vidan: Shell, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("vidan.api.find_spec", lambda _: None)
    ended = vidan("api", "--json")
    assert ended.code == 10
    assert "vidan[api]" in ended.error()["hint"]


def test_a_package_that_is_not_there_names_its_extra(
    bare: Shell, monkeypatch: pytest.MonkeyPatch
) -> None:
    def missing() -> None:
        raise ModuleNotFoundError("No module named 'av'", name="av")

    monkeypatch.setattr(catalogue, "models", missing)
    ended = bare("models", "list")
    assert ended.code == 10
    assert "vidan[worker]" in ended.err


def test_a_gpu_that_is_not_there(bare: Shell, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("vidan.supervisor.devices.gpu_count", lambda: 0)
    for words in (["worker", "--gpus", "0"], ["up", "--gpus", "all"]):
        ended = bare(*words)
        assert ended.code == 10
        assert "--cpus" in ended.err
    ended = bare("run", "--sample", "--gpus", "3", "--json")
    assert ended.code == 10
    assert "vidan.stack" in sys.modules or not (bare.folder / "home").exists()
    assert not (bare.folder / "home").exists()


@pytest.mark.parametrize(
    "words",
    [
        ["no.mp4"],
        ["--sample", "--labels", "persn"],
        ["--sample", "--size", "33x33"],
        ["--sample", "--model", "yolo"],
        ["--sample", "--weights", "no.pt"],
        ["--sample", "--decoder", "vlc"],
        ["--sample", "--every", "2", "--fps", "3"],
        ["--sample", "--out", "clip.mp4/x"],
    ],
)
def test_run_refuses_before_it_starts_anything(bare: Shell, video: Path, words: list[str]) -> None:
    ended = bare("run", *words, "--json")
    assert (ended.code, ended.out) == (10, "")
    assert ended.error()["error"]
    assert not (bare.folder / "home").exists()
