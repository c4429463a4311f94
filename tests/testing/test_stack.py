"""`app.testing()`: tasks run in this process, at once, and end as they really would."""

from __future__ import annotations

import _thread
import json
import os
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any, cast

import psutil
import pytest

from tests.support.documents import blocks
from vidan import Reject, Retry, Run, Signature, TimeLimitExceeded, Vidan
from vidan.detection import catalogue
from vidan.domain.status import Status
from vidan.errors import DatabaseUnavailable, InputRejected
from vidan.protocol import creation, groups
from vidan.protocol.creation import NewScenario
from vidan.protocol.tasks import TaskSpec, publish
from vidan.services import scenarios
from vidan.tasks import flow
from vidan.tasks.app import Stack
from vidan.tasks.calls import ScenarioHandle
from vidan.testing.stack import Stack as RealStack

EXAMPLES = Path(__file__).parents[2] / "examples"

app = Vidan()
tries: list[int] = []


def price() -> int:
    """What the tests replace."""
    raise ConnectionError("no shop in a test")


@app.task(name="add", source=False)
def add(run: Run, a: int, b: int = 1) -> int:
    return a + b


@app.task(name="thread", source=False)
def thread(run: Run) -> list[Any]:
    return [os.getpid(), threading.current_thread() is threading.main_thread()]


@app.task(name="buy", source=False, retries=2)
def buy(run: Run) -> int:
    return price()


@app.task(name="second", source=False, retries=3, retry_backoff=3600, retry_backoff_max=7200)
def second(run: Run) -> str:
    tries.append(run.scenario_id)
    if tries.count(run.scenario_id) < 2:
        raise OSError("not at the first time")
    return "at last"


@app.task(name="asks", source=False, retries=1)
def asks(run: Run) -> None:
    raise Retry("the camera restarts", after=7200)


@app.task(name="refuse", source=False)
def refuse(run: Run) -> None:
    tries.append(run.scenario_id)
    raise Reject("never")


@app.task(name="rare", source=False, concurrency=1, rate_limit="1/h")
def rare(run: Run) -> str:
    return "not so rare"


@app.task(name="after", source=False)
def after(run: Run, title: str) -> dict[str, Any]:
    former = run.parent
    assert former is not None
    return {"title": title, "status": former.status, "result": former.result}


@app.task(name="total", source=False)
def total(run: Run) -> int:
    return sum(member.result for member in run.group if member.status == "completed")


@app.task(name="waits", source=False)
def waits(run: Run) -> int:
    return int(add.delay(a=20).wait(check=True).result) * 2


@app.task(name="stops", source=False)
def stops(run: Run) -> None:
    app.scenario(run.scenario_id).stop()
    while not run.stopping:
        threading.Event().wait(0.01)


@app.task(name="interrupted", source=False)
def interrupted(run: Run) -> str:
    tries.append(run.scenario_id)
    if tries.count(run.scenario_id) == 1:
        _thread.interrupt_main()
        while True:
            run.progress()
    return "went on"


@app.task(name="frozen", source=False)
def frozen(run: Run) -> str:
    tries.append(run.scenario_id)
    if tries.count(run.scenario_id) == 1:
        freeze()
        run.progress()
    return "went on"


def freeze() -> None:
    """What a test replaces: a debugger that stops all threads for long ends the lease."""


@app.task(name="long", source=False, soft_time_limit=0.05)
def long(run: Run) -> str:
    try:
        while True:
            run.progress()
    except TimeLimitExceeded:
        return "out of time"


@app.task(name="people")
def people(run: Run) -> dict[str, Any]:
    run.state.setdefault("people", 0)
    for batch, found in run.detect(model="nanodet-g", labels=["person"], every=50):
        run.state["people"] += sum(map(len, found))
        run.store(batch.indices[-1], extra={"last": True})
    return run.state


@pytest.fixture(scope="module")
def stack() -> Iterator[Stack]:
    with app.testing() as stack:
        yield stack


def statuses(stack: Stack, scenario: ScenarioHandle) -> list[str]:
    with stack.database.begin() as connection:
        return [str(one.to_status) for one in scenarios.history(connection, scenario.id)]


def test_a_call_is_run_by_its_wait_and_not_before(stack: Stack) -> None:
    scenario = add.delay(a=1, b=2)

    assert (scenario.status, scenario.result) == (Status.INIT_STARTUP, None)
    assert scenario.wait().result == 3
    assert statuses(stack, scenario) == [
        "init_startup",
        "init_startup_processing",
        "active",
        "completed",
    ]


def test_tasks_run_in_this_process_but_as_in_a_worker_not_in_its_main_thread(stack: Stack) -> None:
    assert thread.delay().wait(check=True).result == [os.getpid(), False]


def test_parameters_are_checked_as_they_are_anywhere(stack: Stack) -> None:
    with pytest.raises(InputRejected, match="task add: param a"):
        add.delay(a="one")


def test_many_are_run_at_once_and_none_twice(stack: Stack) -> None:
    created = add.create_many([{"a": number} for number in range(5)])

    assert stack.run_due() == 5
    assert [one.result for one in created] == [1, 2, 3, 4, 5]
    assert stack.run_due() == 0


def test_what_a_test_replaces_is_replaced_in_the_task(
    stack: Stack, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys.modules[__name__], "price", lambda: 5)

    assert buy.delay().wait().result == 5


def test_an_error_uses_up_the_retries_and_no_pause_is_slept_through(stack: Stack) -> None:
    ended = buy.delay().wait(timeout=60)

    assert (ended.status, ended.attempts) == (Status.FAILED, 3)
    assert (ended.error or "").startswith("ConnectionError: no shop in a test (")


def test_a_retry_waits_for_its_time_until_it_is_brought_forward(stack: Stack) -> None:
    scenario = second.delay()

    assert stack.run_due() == 1
    assert (scenario.status, scenario.look().attempts) == (Status.INIT_STARTUP, 1)
    assert (scenario.look().error or "").startswith("OSError: not at the first time (")
    assert stack.run_due() == 0
    assert stack.bring_forward() == scenario.id
    assert stack.run_due() == 1
    assert scenario.result == "at last"
    assert stack.bring_forward() is None


def test_a_task_that_asks_for_a_retry_gets_it_without_its_pause(stack: Stack) -> None:
    ended = asks.delay().wait()

    assert (ended.status, ended.attempts) == (Status.FAILED, 2)
    assert ended.error == "Retry: the camera restarts"


def test_a_reject_fails_at_once(stack: Stack) -> None:
    scenario = refuse.delay()

    ended = scenario.wait()

    assert (ended.status, ended.error) == (Status.FAILED, "never")
    assert tries.count(scenario.id) == 1


def test_delayed_calls_run_in_the_order_of_their_times(stack: Stack) -> None:
    late = add.apply(a=1, after=timedelta(days=2))
    soon = add.apply(a=2, after=timedelta(days=1))

    assert stack.run_due() == 0
    assert soon.wait().result == 3
    assert late.status is Status.INIT_STARTUP
    assert late.wait().result == 2


def test_a_rate_of_the_cluster_holds_no_test_up(stack: Stack) -> None:
    rare.create_many([{}, {}])

    assert stack.run_due() == 2


def test_a_queue_of_its_own_is_run_too(stack: Stack) -> None:
    assert add.apply(a=1, queue="night").wait().result == 2


def test_a_chain_is_created_by_the_end_of_its_former(stack: Stack) -> None:
    scenario = add.apply(a=4, then=after.signature(title="sum"))

    scenario.wait(check=True)
    (report,) = stack.scenarios("after")
    assert report.status is Status.INIT_STARTUP
    assert stack.run_due() == 1
    (report,) = stack.scenarios("after")
    assert report.result == {"title": "sum", "status": "completed", "result": 5}


def test_a_failure_creates_its_own_follow_up(stack: Stack) -> None:
    refuse.apply(on_failure=after.signature(title="alarm")).wait()

    stack.run_due()
    assert stack.scenarios("after")[-1].result == {
        "title": "alarm",
        "status": "failed",
        "result": None,
    }


def test_a_group_calls_back_when_all_have_ended(stack: Stack) -> None:
    members = flow.group(
        [Signature("add", {"a": 10}), Signature("add", {"a": 20}), Signature("refuse")],
        then=Signature("total"),
    )

    assert [app.scenario(one).wait().status for one in members] == [
        "completed",
        "completed",
        "failed",
    ]
    assert stack.run_due() == 1
    assert stack.scenarios("total")[-1].result == 32


def test_a_task_may_wait_for_another(stack: Stack) -> None:
    assert waits.delay().wait(timeout=60, check=True).result == 42


def test_a_stop_reaches_a_run_with_the_next_heartbeat(stack: Stack) -> None:
    assert stops.delay().wait().status is Status.INACTIVE


def test_ctrl_c_ends_the_run_and_charges_nothing(stack: Stack) -> None:
    scenario = interrupted.delay()

    with pytest.raises(KeyboardInterrupt):
        scenario.wait()

    assert (scenario.status, scenario.look().attempts) == (Status.INIT_STARTUP, 0)
    assert scenario.wait().result == "went on"


def test_a_run_whose_lease_a_debugger_let_end_begins_again(
    stack: Stack, monkeypatch: pytest.MonkeyPatch
) -> None:
    worker = cast(RealStack, stack)._worker
    monkeypatch.setattr(sys.modules[__name__], "freeze", worker._lease._end)
    scenario = frozen.delay()

    ended = scenario.wait()

    assert (ended.result, ended.attempts) == ("went on", 0)
    assert tries.count(scenario.id) == 2


def test_the_soft_time_limit_is_told(stack: Stack) -> None:
    assert long.delay().wait().result == "out of time"


def test_a_video_is_read_and_its_predictions_are_stored(stack: Stack) -> None:
    scenario = people.delay(source=catalogue.sample_video())

    ended = scenario.wait(check=True)

    frames = list(scenario.predictions())
    assert [one.frame for one in frames] == [0, 50, 100, 150]
    assert ended.result["people"] == sum(len(one.detections) for one in frames) > 0
    assert frames[-1].extra == {"last": True}
    assert ended.checkpoint == 200


def test_a_file_that_went_away_fails_and_is_not_waited_for(stack: Stack, tmp_path: Path) -> None:
    scenario = people.apply(source=tmp_path / "gone.mp4", check=False)

    ended = scenario.wait()
    assert ended.status is Status.FAILED
    assert "no such file" in (ended.error or "")


def test_what_nobody_here_can_run_is_said_at_once(stack: Stack) -> None:
    without = people.delay()
    with pytest.raises(InputRejected, match="it has no source"):
        without.wait()

    with stack.database.begin() as connection:
        publish(connection, [TaskSpec("other.task", {}, needs_source=False)])
        other = creation.create(connection, NewScenario(task="other.task")).id
    with pytest.raises(InputRejected, match="the app has no task 'other"):
        app.scenario(other).wait()


def test_services_and_commands_reach_the_same_database(stack: Stack) -> None:
    with stack.database.begin() as connection:
        made = groups.create(
            connection,
            [NewScenario(task="add", params={"a": 1})],
            NewScenario(task="total"),
        )
    stack.run_due()
    shown = subprocess.run(
        [
            Path(sys.executable).parent / "vidan",
            "scenario",
            "show",
            str(made.members[0].id),
            "--json",
        ],
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert json.loads(shown.stdout)["result"] == 2, shown.stderr


def test_a_test_that_fails_leaves_nothing_behind(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    monkeypatch.setenv("DATABASE_URL", "postgresql://elsewhere/shop")
    tmp_path.chmod(0o755)
    own = Vidan("postgresql:///nowhere?host=/nonexistent")
    own.task(name="own.refuse", source=False)(refuse.function)
    before = children()

    def fail() -> None:
        with own.testing():
            assert children() > before
            assert list(tmp_path.iterdir()) != []
            handles.append(own.tasks["own.refuse"].delay())
            assert handles[0].wait().status == "completed", "it failed"

    handles: list[ScenarioHandle] = []
    with pytest.raises(AssertionError, match="it failed"):
        fail()

    assert children() == before
    assert list(tmp_path.iterdir()) == []
    assert os.environ["DATABASE_URL"] == "postgresql://elsewhere/shop"
    with pytest.raises(DatabaseUnavailable):  # it stays with the test's database
        handles[0].look()
    with pytest.raises(DatabaseUnavailable, match="nonexistent"):  # and calls go where they went
        own.tasks["own.refuse"].delay()


def children() -> set[int]:
    """Those of this process alone: the servers of other tests come and go with their sessions."""
    return {one.pid for one in psutil.Process().children()}


def test_a_task_may_be_registered_inside_of_the_block(stack: Stack) -> None:
    @app.task(name="late", source=False)
    def late(run: Run) -> str:
        return "here"

    assert late.delay().wait().result == "here"


def test_the_example_and_the_one_of_the_documents_pass(tmp_path: Path) -> None:
    for name in ("count_people.py", "test_count_people.py"):
        shutil.copy(EXAMPLES / name, tmp_path)
    (block,) = (one for one in blocks("python") if one.place == "docs/tasks.md: Testing")
    (tmp_path / "test_convert.py").write_text(block.text)
    ran = subprocess.run(
        [sys.executable, "-m", "pytest", "-q"],
        cwd=tmp_path,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert ran.returncode == 0, ran.stdout + ran.stderr
    assert "4 passed" in ran.stdout
