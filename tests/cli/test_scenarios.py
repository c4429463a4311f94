"""`vidan scenario …`, each against a fresh database."""

from __future__ import annotations

import json
import signal
from datetime import UTC, datetime
from pathlib import Path

import pytest
from sqlalchemy import text

from tests.support.played_worker import PlayedWorker
from tests.support.processes import eventually
from tests.support.shell import Ended, Shell
from vidan.db.session import Database
from vidan.domain.detection import Gap
from vidan.domain.status import Status
from vidan.protocol import creation, tasks
from vidan.protocol.creation import NewScenario
from vidan.protocol.tasks import TaskSpec

KEYS = set(
    "id name key labels task source params queue priority status frames_done frames_total pruned"
    " lost_frames attempts crashes worker result error created_at started_at ended_at time_limit"
    " soft_time_limit parent_id source_info notes due_at next_try_at retries_left queue_position"
    " waited_seconds ran_seconds retries max_retries".split()
)


def create(vidan: Shell, *words: object, source: str = "/videos/a.mp4") -> int:
    ended = vidan("scenario", "create", "--no-check", source, *words)
    assert ended.code == 0, ended.err
    return int(ended.out)


def rows(vidan: Shell) -> list[dict[str, object]]:
    found: list[dict[str, object]] = vidan("scenario", "list", "--json", "--limit", "1000").json()
    return found


# --- create


def test_create_prints_ids_on_stdout_and_the_confirmation_on_stderr(
    vidan: Shell, video: Path
) -> None:
    ended = vidan.run("scenario", "create", "clip.mp4", video)
    assert ended.code == 0
    assert ended.out == "1\n2\n"
    assert "2 scenarios queued" in ended.err
    assert [row["source"] for row in rows(vidan)] == [str(video)] * 2


def test_create_takes_when_and_how_long(vidan: Shell, database: Database) -> None:
    create(vidan, "--after", "2h", "--retries", "9", "--time-limit", "10m",
           "--soft-time-limit", "9m")  # fmt: skip
    create(vidan, "--at", "2030-11-01T06:00+00:00")
    with database.begin() as connection:
        later, fixed = connection.execute(
            text(
                "SELECT extract(epoch FROM not_before - created_at) AS after, max_attempts,"
                " time_limit, soft_time_limit, not_before FROM scenarios ORDER BY id"
            )
        ).all()
    assert tuple(later)[:4] == (7200, 9, 600, 540)
    assert fixed.not_before == datetime(2030, 11, 1, 6, tzinfo=UTC)
    for wrong in (["--at", "soon"], ["--after", "soon"], ["--retries", "-1"],
                  ["--after", "1h", "--at", "2030-11-01"]):  # fmt: skip
        assert vidan("scenario", "create", "rtsp://camera/1", *wrong).code == 2
    assert vidan("scenario", "create", "rtsp://camera/1", "--time-limit", "0").code == 10
    assert len(rows(vidan)) == 2


def test_create_takes_all_that_a_scenario_has(vidan: Shell) -> None:
    ended = vidan(
        "scenario", "create", "rtsp://camera/1", "--param", "labels=person,car", "--param",
        "min_score=0.5", "--name", "north", "--label", "camera=north", "--label", "n=",
        "--queue", "night", "--priority", "-3", "--status", "inactive", "--key", "k1", "--json",
    )  # fmt: skip
    assert ended.code == 0
    record = ended.json()
    assert set(record) == KEYS
    assert record["source"] == "rtsp://camera/1"
    assert record["params"] == {"labels": ["person", "car"], "min_score": 0.5}
    assert record["labels"] == {"camera": "north", "n": ""}
    assert (record["name"], record["key"]) == ("north", "k1")
    assert (record["queue"], record["priority"], record["status"]) == ("night", -3, "inactive")
    assert record["created_at"].endswith("+00:00")


def test_a_param_that_is_text_is_stored_as_it_was_written(vidan: Shell, database: Database) -> None:
    properties = {
        "version": {"type": "string"},
        "names": {"type": "array", "items": {"type": "string"}},
    }
    with database.begin() as connection:
        tasks.publish(connection, [TaskSpec("t", {"properties": properties}, needs_source=False)])
    words = ["--param", "version=1.10", "--param", "names=1.10"]
    ended = vidan("scenario", "create", "--task", "t", *words, "--json")
    assert ended.json()["params"] == {"version": "1.10", "names": ["1.10"]}


def test_many_from_stdin_and_from_a_file(vidan: Shell, tmp_path: Path) -> None:
    given = "/v/a.mp4\n\n  /v/b c.mp4  \nhttp://x/y.mp4\n"
    ended = vidan.run("scenario", "create", "--no-check", "--from", "-", "-q", given=given)
    assert (ended.code, ended.out, ended.err) == (0, "1\n2\n3\n", "")
    (tmp_path / "list").write_text(given)
    assert vidan("scenario", "create", "--no-check", "--from", "list").out == "4\n5\n6\n"
    sources = [row["source"] for row in reversed(rows(vidan))]
    assert sources == ["/v/a.mp4", "/v/b c.mp4", "http://x/y.mp4"] * 2


REFUSED = {
    "no such file": (["no.mp4"], 10, "no.mp4"),
    "a folder": (["."], 10, "folder"),
    "an empty file": (["empty.mp4"], 10, "empty.mp4"),
    "a text file": (["text.mp4"], 10, "text.mp4"),
    "one of many": (["clip.mp4", "no.mp4"], 10, "no.mp4"),
    "no such list": (["--from", "nowhere"], 10, "nowhere"),
    "an empty list": (["--from", "empty.mp4"], 10, "no sources"),
    "no such param": (["clip.mp4", "--param", "speed=3"], 10, "min_score"),
    "a wrong param": (["clip.mp4", "--param", "min_score=7"], 10, "min_score"),
    "no such model": (["clip.mp4", "--param", "model=yolo"], 10, "nanodet-g"),
    "no such label": (["clip.mp4", "--param", "labels=persn"], 10, "person"),
    "no weights": (["clip.mp4", "--param", "weights=no.pt"], 10, "no.pt"),
    "a wrong size": (["clip.mp4", "--param", "size=33x33"], 10, "32"),
    "a size that is none": (["clip.mp4", "--param", "size=10"], 10, "write HEIGHTxWIDTH"),
    "an empty word": ([""], 10, "a source can't be empty"),
    "no such task": (["clip.mp4", "--task", "shop"], 3, "detect"),
    "no such decoder": (["clip.mp4", "--param", "decoder=vlc"], 10, "pyav"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_is_refused_queues_nothing(
    vidan: Shell, video: Path, tmp_path: Path, case: str
) -> None:
    (tmp_path / "empty.mp4").touch()
    (tmp_path / "text.mp4").write_text("not a video\n" * 100)
    words, code, said = REFUSED[case]
    ended = vidan("scenario", "create", *words, "--json")
    assert (ended.code, ended.out) == (code, "")
    error = ended.error()
    assert said in error["error"] + (error["hint"] or "")
    assert rows(vidan) == []


def test_relative_weights_are_made_absolute(vidan: Shell, tmp_path: Path) -> None:
    one = create(vidan, "--param", "weights=mine.safetensors")
    params = vidan("scenario", "show", one, "--json").json()["params"]
    assert params == {"weights": str(tmp_path / "mine.safetensors")}


def test_create_and_wait_gives_the_result(vidan: Shell, worker: PlayedWorker, video: Path) -> None:
    process = vidan.start("scenario", "create", "clip.mp4", "--wait", "--json")
    assert eventually(lambda: rows(vidan) != [])
    worker.claim()
    worker.store(range(5), total=5)
    worker.end(Status.COMPLETED)
    out, err = process.communicate(timeout=30)
    assert process.returncode == 0, err
    assert json.loads(out)["frames_done"] == 5


# --- looking


def test_list_filters_and_prints_a_line_a_scenario(vidan: Shell) -> None:
    for camera in ("north", "south", "north"):
        create(vidan, "--label", f"camera={camera}", source=f"/v/{camera}\t[red].mp4")
    assert vidan("scenario", "list", "--label", "camera=north", "-q").out == "3\n1\n"
    assert vidan("scenario", "list", "--limit", "1", "-q").out == "3\n"
    assert vidan("scenario", "list", "--task", "other", "--json").json() == []
    vidan("scenario", "stop", 2)
    assert vidan("scenario", "list", "--status", "inactive", "-q").out == "2\n"
    lines = vidan("scenario", "list").out.splitlines()
    assert [line.split("\t")[0] for line in lines] == ["3", "2", "1"]
    assert {len(line.split("\t")) for line in lines} == {12}
    assert all(set(row) == KEYS for row in rows(vidan))


def test_show_has_a_scenarios_own_limits(vidan: Shell, database: Database) -> None:
    with database.begin() as connection:
        new = NewScenario(source="/a.mp4", time_limit=7_200, soft_time_limit=90)
        creation.create(connection, new)
    record = vidan("scenario", "show", 1, "--json").json()
    assert (record["time_limit"], record["soft_time_limit"]) == (7_200, 90)
    shown = vidan("scenario", "show", 1).out
    assert "\ntime_limit\t2 h\nsoft_time_limit\t1 min 30 s\n" in shown


def test_show_and_history(vidan: Shell, worker: PlayedWorker) -> None:
    create(vidan)
    worker.claim()
    worker.store(range(3), gaps=[Gap(7, 9, "damaged")])
    worker.end(Status.FAILED, "the video can't be read")
    record = vidan("scenario", "show", 1, "--json").json()
    assert set(record) == KEYS | {"gaps", "traceback"}
    assert (record["status"], record["error"]) == ("failed", "the video can't be read")
    assert record["gaps"] == [{"from_frame": 7, "to_frame": 9, "reason": "damaged"}]
    shown = vidan("scenario", "show", 1).out
    assert "status\tfailed\n" in shown
    assert "time_limit" not in shown  # it has none of its own
    steps = vidan("scenario", "history", 1, "--json").json()
    assert [step["to"] for step in steps] == [
        "init_startup", "init_startup_processing", "active", "failed",
    ]  # fmt: skip
    assert len(vidan("scenario", "history", 1).out.splitlines()) == 4


@pytest.mark.parametrize("command", ["show", "history", "wait", "start", "stop", "retry", "delete"])
def test_no_such_scenario(vidan: Shell, command: str) -> None:
    ended = vidan("scenario", command, 77, "--json")
    assert (ended.code, ended.out) == (3, "")
    assert "77" in ended.error()["error"]


# --- steering


def test_stop_start_delete(vidan: Shell) -> None:
    one = create(vidan)
    assert vidan("scenario", "stop", one).out == f"{one}\tinactive\n"
    again = vidan("scenario", "stop", one)
    assert again.code == 0
    assert "already" in again.err
    assert vidan("scenario", "start", one, "--json").json()["status"] == "init_startup"
    refused = vidan("scenario", "delete", one)
    assert refused.code == 4
    assert "stop" in refused.err
    vidan("scenario", "stop", one)
    assert vidan("scenario", "delete", one, "--json").json() == {"id": one, "deleted": True}
    assert rows(vidan) == []


def test_completed_starts_only_from_the_beginning(vidan: Shell, worker: PlayedWorker) -> None:
    one = create(vidan)
    worker.claim()
    worker.store(range(5))
    worker.end(Status.COMPLETED)
    refused = vidan("scenario", "start", one)
    assert refused.code == 4
    assert "--from-beginning" in refused.err
    assert vidan("scenario", "retry", one).code == 4
    assert vidan("scenario", "start", one, "--from-beginning").code == 0
    assert vidan("predictions", "show", one).out == ""


def test_retry_goes_on_at_the_checkpoint(vidan: Shell, worker: PlayedWorker) -> None:
    one = create(vidan)
    worker.claim()
    worker.store(range(5))
    worker.end(Status.FAILED, "broken")
    assert vidan("scenario", "retry", one).out == f"{one}\tinit_startup\n"
    assert len(vidan("predictions", "show", one).out.splitlines()) == 5


def test_of_many_the_others_are_still_done(vidan: Shell) -> None:
    one, two = create(vidan), create(vidan)
    ended = vidan("scenario", "stop", one, 99, two, "--json")
    assert ended.code == 3
    assert [json.loads(line)["status"] for line in ended.out.splitlines()] == ["inactive"] * 2
    assert ended.error()["error"] == "no scenario 99"


def test_filters_pass_over_what_does_not_fit(vidan: Shell, worker: PlayedWorker) -> None:
    one = create(vidan, "--label", "batch=7")
    worker.claim()
    worker.end(Status.COMPLETED)
    two = create(vidan, "--label", "batch=7")
    ended = vidan("scenario", "stop", "--label", "batch=7")
    assert (ended.code, ended.out) == (0, f"{two}\tinactive\n")
    assert f"skipped: scenario {one}" in ended.err
    assert vidan("scenario", "stop", "--label", "batch=8").code == 0


def test_filters_reach_beyond_a_page(vidan: Shell, monkeypatch: pytest.MonkeyPatch) -> None:
    from vidan.cli import listing

    monkeypatch.setattr(listing, "PAGE", 2)
    vidan("scenario", "create", "--no-check", *(f"/v/{n}.mp4" for n in range(5)))
    ended = vidan("scenario", "stop", "--task", "detect", "-q")
    assert ended.out.split() == ["1", "2", "3", "4", "5"]


def test_transition_asks_for_a_state_to_be_in(vidan: Shell) -> None:
    one = create(vidan)
    assert vidan("scenario", "transition", one, "inactive").out == f"{one}\tinactive\n"
    assert vidan("scenario", "transition", one, "active").out == f"{one}\tinit_startup\n"
    unknown = vidan("scenario", "transition", one, "paused")
    assert unknown.code == 2
    for status in ("active", "init_startup", "inactive", "init_shutdown"):
        assert status in unknown.err
    assert "completed" not in unknown.err
    refused = vidan("scenario", "transition", one, "completed")
    assert refused.code == 4
    assert "inactive" in refused.err


# --- waiting


def ended_scenarios(vidan: Shell, worker: PlayedWorker) -> dict[Status, int]:
    ids = {}
    for status in (Status.COMPLETED, Status.FAILED, Status.INACTIVE):
        ids[status] = create(vidan, "--label", f"end={status}")
        if status is Status.INACTIVE:
            vidan("scenario", "stop", ids[status])
        else:
            worker.claim()
            worker.end(status)
    ids[Status.INIT_STARTUP] = create(vidan)
    return ids


def test_wait_says_by_its_exit_code_how_it_ended(vidan: Shell, worker: PlayedWorker) -> None:
    ids = ended_scenarios(vidan, worker)
    done, failed, stopped, waiting = ids.values()

    def wait(*words: object) -> Ended:
        return vidan("scenario", "wait", *words)

    assert (wait(done).code, wait(failed).code, wait(stopped).code) == (0, 5, 6)
    assert wait(waiting, "--timeout", "0").code == 7
    assert wait(waiting, done, stopped, "--timeout", "0.1s").code == 6
    assert wait(stopped, failed, waiting, "--timeout", "0").code == 5
    assert wait("--label", "end=completed").out == f"{done}\tcompleted\n"
    assert wait("--label", "end=no").code == 3
    assert wait(done, "--json").json()["status"] == "completed"
    assert wait(done, failed, "-q").out == f"{done}\n{failed}\n"


def test_it_is_said_that_nobody_is_there_to_be_waited_for(
    vidan: Shell, worker: PlayedWorker
) -> None:
    waiting, elsewhere = create(vidan), create(vidan, "--queue", "night")
    note = f"scenario {elsewhere} waits: no worker has queue 'night' now"
    assert note in vidan("scenario", "wait", elsewhere, "--timeout", "0").err
    assert "no worker" not in vidan("scenario", "wait", waiting, "--timeout", "0").err
    watching = vidan.start("predictions", "watch", elsewhere)
    assert watching.stderr is not None
    assert note in watching.stderr.readline()
    watching.kill()
    watching.communicate()


def test_ctrl_c_ends_the_waiting_alone(vidan: Shell, database: Database) -> None:
    one = create(vidan)
    assert eventually(lambda: not _is_connected(database))  # the session of `create` has ended
    process = vidan.start("scenario", "wait", one)
    assert process.stderr is not None
    assert "no worker has queue" in process.stderr.readline()  # the waiting has begun
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=30)
    assert (process.returncode, out) == (130, "")
    assert f"vidan scenario stop {one}" in err
    assert rows(vidan)[0]["status"] == "init_startup"


def test_sigterm_is_143(vidan: Shell, database: Database) -> None:
    one = create(vidan)
    assert eventually(lambda: not _is_connected(database))
    process = vidan.start("scenario", "wait", one)
    assert eventually(lambda: _is_connected(database))
    process.terminate()
    process.communicate(timeout=30)
    assert process.returncode == 143


def _is_connected(database: Database) -> bool:
    from sqlalchemy import text

    query = (
        "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database()"
        " AND pid <> pg_backend_pid() AND application_name = 'vidan'"
    )
    with database.begin() as connection:
        return bool(connection.execute(text(query)).scalar_one())
