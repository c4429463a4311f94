"""Functions registered by `@app.task`: their specs, their params, their results."""

from __future__ import annotations

import json
import math
import os
import pickle
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import Enum
from pathlib import Path
from typing import Annotated, Any, cast

import pytest
from pydantic import Field, PlainSerializer

from vidan.detection import catalogue
from vidan.domain.schedule import Schedule
from vidan.errors import InputRejected, RejectedTask
from vidan.protocol.storable import MAX_JSON_BYTES
from vidan.run.run import Run
from vidan.tasks.app import Vidan
from vidan.tasks.loading import load_tasks
from vidan.tasks.task import Task

RUN = cast("Run", None)  # none of these tasks uses its run


def registered(app: Vidan) -> Task[..., Any]:
    (task,) = app.tasks.values()
    return task


def called(app: Vidan, params: dict[str, Any]) -> Any:
    """Perform a call as a worker does; returns the stored result."""
    task = registered(app)
    return json.loads(task.result(task.perform(RUN, params)))


def returning(result: object) -> Callable[[Run], object]:
    def task(run: Run) -> object:
        return result

    return task


def test_a_task_is_described_by_its_function() -> None:
    app = Vidan()

    @app.task(name="count", retries=1, source=False)
    def count(run: Run, upto: int, step: int = 2) -> int:
        """Count up.

        More of it.
        """
        return upto // step

    spec = registered(app).spec
    assert (spec.name, spec.max_attempts, spec.needs_source) == ("count", 1, False)
    assert spec.summary == "Count up."
    assert spec.params_schema["required"] == ["upto"]
    assert spec.params_schema["properties"]["step"]["default"] == 2
    assert spec.params_schema["additionalProperties"] is False
    assert called(app, {"upto": 9}) == 4
    assert count(RUN, 8) == 4  # still a function


def named_otherwise(about: Run) -> None: ...


def test_a_name_is_made_of_module_and_function() -> None:
    app = Vidan()
    app.task()(named_otherwise)
    assert registered(app).name.endswith("test_app.named_otherwise")


@pytest.mark.parametrize("params", [{}, {"n": "many"}, {"n": 1, "m": 2}, {"n": None}])
def test_wrong_params_are_rejected(params: dict[str, Any]) -> None:
    app = Vidan()

    @app.task(name="t")
    def task(run: Run, n: int) -> None:
        raise AssertionError("it must not be called")

    with pytest.raises(RejectedTask, match="task t: param"):
        called(app, params)


@pytest.mark.parametrize(
    "result",
    [object(), {1, 2}, float("nan"), "a\x00b", {"k\x00": 1}, "\ud800", "x" * (MAX_JSON_BYTES + 1)],
    ids=["object", "set", "nan", "nul", "nul-key", "surrogate", "huge"],
)
def test_a_result_that_cannot_be_stored_is_rejected(result: Any) -> None:
    app = Vidan()
    app.task(name="t")(returning(result))
    with pytest.raises(RejectedTask, match="its result is not JSON"):
        called(app, {})


def test_a_result_that_nests_without_end_is_rejected() -> None:
    endless: list[Any] = []
    for _ in range(100_000):
        endless = [endless]
    app = Vidan()
    app.task(name="t")(returning(endless))
    with pytest.raises(RejectedTask, match="nested too deeply"):
        called(app, {})


def test_a_result_stays_what_it_was_when_it_was_returned() -> None:
    totals = {"a": 1}
    app = Vidan()
    app.task(name="t")(returning(totals))
    task = registered(app)
    first = task.result(task.perform(RUN, {}))
    totals["b"] = 2  # as the next run of the task would
    assert json.loads(first) == {"a": 1}


def test_text_that_speaks_of_a_nul_is_no_nul() -> None:
    app = Vidan()
    app.task(name="t")(returning(r"\u0000"))
    assert called(app, {}) == r"\u0000"


def test_a_name_is_registered_once() -> None:
    app = Vidan()
    app.task(name="t")(returning(None))
    for name in ("t", "detect"):
        with pytest.raises(InputRejected, match="registered twice"):
            app.task(name=name)(returning(None))


@pytest.mark.parametrize("retries", [-1, 2**31, 1.5, True, "3"])
def test_retries_have_a_range(retries: int) -> None:
    with pytest.raises(InputRejected, match="retries"):
        Vidan().task(retries=retries)


def without(x: int, y: int) -> int:
    return x + y


def nothing() -> None: ...


def named_alone(*, run: Run) -> None: ...


@pytest.mark.parametrize("function", [without, nothing, named_alone])
def test_the_first_parameter_is_the_run(function: Callable[..., Any]) -> None:
    with pytest.raises(InputRejected, match="its first parameter is the run") as refused:
        Vidan().task(source=False)(function)
    assert "(run: Run, …)" in (refused.value.hint or "")


def test_what_is_no_schedule_or_no_error_is_refused() -> None:
    every: Any = 30.0
    for given in (every, [every]):
        with pytest.raises(InputRejected, match="is not a schedule"):
            Vidan().task(name="t", source=False, schedule=given)(returning(None))
    with pytest.raises(InputRejected, match="is not an exception type"):
        Vidan().task(retry_on=every)


def test_star_parameters_are_refused() -> None:
    def task(run: Run, *numbers: int) -> None: ...

    with pytest.raises(InputRejected, match="can't be parameters"):
        Vidan().task()(task)


def test_the_built_in_task_takes_what_the_catalogue_says() -> None:
    detect = load_tasks(None)["detect"]
    assert set(detect.params.model_fields) == set(catalogue.DETECT_SCHEMA["properties"])


APP = """
from vidan.tasks.app import Vidan

app = Vidan()
other = 1

@app.task(name="mine")
def mine(run):
    return 1
"""


def test_an_app_is_loaded_from_the_current_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "some_videos.py").write_text(APP)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    assert set(load_tasks("some_videos:app")) == {"detect", "mine"}
    for wrong in ("some_videos", "some_videos:nothing", "some_videos:other", "no_such_module:app"):
        with pytest.raises(InputRejected, match=wrong):
            load_tasks(wrong)


def test_a_bound_in_the_signature_is_in_the_schema() -> None:
    app = Vidan()

    @app.task
    def bounded(run: Run, every: Annotated[int, Field(ge=1)] = 1) -> None:
        """Do nothing."""

    (task,) = app.tasks.values()
    assert task.spec.params_schema["properties"]["every"]["minimum"] == 1


class Distance(float, Enum):
    NEAR = 1.0
    ANY = math.inf


def test_what_json_lacks_is_left_out_of_the_schema_and_applied_all_the_same() -> None:
    app = Vidan()

    @app.task(name="t")
    def task(
        run: Run,
        least: float = math.inf,
        default: dict[str, float] = {"a": math.inf, "b": 1},  # noqa: B006
        distance: Distance = Distance.ANY,
        example: Annotated[float, Field(examples=[-math.inf, 2.0])] = 2.0,
    ) -> list[bool]:
        return [least == default["a"] == distance == math.inf, default["b"] == 1]

    schema = registered(app).spec.params_schema
    assert json.loads(json.dumps(schema, allow_nan=False)) == schema
    assert schema["properties"]["least"] == {"title": "Least", "type": "number"}
    assert schema["properties"]["default"]["type"] == "object"
    assert schema["properties"]["example"]["examples"] == [2.0]
    assert called(app, {}) == [True, True]


def test_schedules_of_two_tasks_have_names_of_their_own() -> None:
    app = Vidan()
    app.task(name="first", source=False, schedule="0 6 * * *")(returning(None))
    second = app.task(name="second", source=False, schedule=Schedule("0 7 * * *", name="first"))
    with pytest.raises(InputRejected, match="schedule 'first' belongs to task 'first' already"):
        second(returning(None))
    assert list(app.tasks) == ["first"]


def in_the_docstring(run: Run) -> None: ...


def in_a_default(run: Run, end: str = "\x00") -> None: ...


def in_a_description(run: Run, n: Annotated[int, Field(description="\ud800")] = 1) -> None: ...


in_the_docstring.__doc__ = "Do\x00nothing."


@pytest.mark.parametrize("function", [in_the_docstring, in_a_default, in_a_description])
def test_a_task_that_can_not_be_stored_is_refused_at_once(function: Callable[..., None]) -> None:
    app = Vidan()
    with pytest.raises(InputRejected, match=r"task 'shop\.t' can't be stored: a NUL"):
        app.task(name="shop.t")(function)
    assert app.tasks == {}


@pytest.mark.parametrize(
    ("code", "problem"),
    [
        ("def broken(:", "app_under_test.py, line 1"),
        ("raise OSError('no licence')", "no licence"),
        (
            "from vidan import Vidan\napp = Vidan()\n@app.task\ndef f(run, x: Nothing): ...",
            "Nothing",
        ),
    ],
)
def test_an_app_that_does_not_import_is_refused_in_one_line(
    code: str, problem: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "app_under_test.py").write_text(code)
    monkeypatch.chdir(tmp_path)
    monkeypatch.delitem(sys.modules, "app_under_test", raising=False)
    monkeypatch.setattr(sys, "path", list(sys.path))
    with pytest.raises(InputRejected) as refused:
        load_tasks("app_under_test:app")
    assert problem in str(refused.value)
    assert "\n" not in str(refused.value)


def test_the_run_may_be_named_for_type_checkers_alone() -> None:
    app = Vidan()

    @app.task
    def shy(run: OnlyForTypeCheckers, n: int = 1) -> OnlyForTypeCheckers:  # type: ignore[name-defined]  # noqa: F821
        """Do nothing."""

    assert registered(app).spec.params_schema["properties"]["n"]["type"] == "integer"


# --- results and names


@dataclass
class Seen:
    """The result of a task."""

    at: datetime
    people: int


class Opaque:
    """A class that JSON can't hold."""


def test_a_result_is_checked_against_its_annotation() -> None:
    app = Vidan()

    @app.task(name="t")
    def task(run: Run, people: Any) -> Seen:
        return Seen(datetime(2026, 1, 1, tzinfo=UTC), people)

    assert called(app, {"people": 3}) == {"at": "2026-01-01T00:00:00Z", "people": 3}
    with pytest.raises(RejectedTask, match="its result is not JSON"):
        called(app, {"people": "many"})


def test_a_number_that_says_how_it_is_written_is_written_so() -> None:
    app = Vidan()

    @app.task(name="t")
    def task(run: Run) -> Annotated[float, PlainSerializer(lambda value: f"{value:.1f} s")]:
        return 2

    assert called(app, {}) == "2.0 s"


def test_a_plain_result_is_checked_too() -> None:
    app = Vidan()

    @app.task(name="t")
    def task(run: Run, of: Any) -> float:
        return cast("float", of)

    assert called(app, {"of": 1}) == 1.0
    with pytest.raises(RejectedTask, match="its result"):
        called(app, {"of": "much"})
    with pytest.raises(RejectedTask, match="its result is not JSON"):
        called(app, {"of": float("nan")})


def test_a_result_of_the_wrong_kind_is_rejected() -> None:
    app = Vidan()

    @app.task(name="t")
    def task(run: Run) -> dict[str, int]:
        return cast("dict[str, int]", [1])

    with pytest.raises(RejectedTask, match="its result"):
        called(app, {})


def test_a_result_that_can_never_be_json_is_refused_at_once() -> None:
    def task(run: Run) -> Opaque:
        return Opaque()

    with pytest.raises(InputRejected, match="its result can't be"):
        Vidan().task(task)


MAIN = """
from vidan import Vidan
from vidan.errors import InputRejected
app = Vidan()
def look(run): ...
try:
    print(app.task(look).name)
except InputRejected as error:
    print(error, "|", error.hint)
"""


@pytest.mark.parametrize(
    ("file", "command", "name"),
    [
        ("shop.py", ["shop.py"], "shop.look"),
        ("shop/films.py", ["-m", "shop.films"], "shop.films.look"),
        ("shop/__init__.py shop/films.py", ["shop/films.py"], None),
        ("two-words.py", ["two-words.py"], None),
        ("shop.py", ["-c", MAIN], None),
    ],
    ids=["program", "module", "in-a-package", "no-name", "no-file"],
)
def test_a_task_of_main_is_named_as_workers_import_it(
    file: str, command: list[str], name: str | None, tmp_path: Path
) -> None:
    for one in file.split():
        (tmp_path / one).parent.mkdir(exist_ok=True)
        (tmp_path / one).write_text(MAIN)
    root = str(Path(__file__).parents[2])
    done = subprocess.run(
        [sys.executable, *command],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": root},
        capture_output=True,
        text=True,
    )
    if name is None:
        assert "which workers can't import | run it with `python -m" in done.stdout, done.stderr
    else:
        assert done.stdout == f"{name}\n", done.stderr


def test_a_task_is_pickled_by_its_name() -> None:
    assert pickle.loads(pickle.dumps(pickled)) is pickled


@Vidan().task(name="pickled")
def pickled(run: Run) -> None:
    """Do nothing."""


def test_an_app_is_imported_without_what_only_workers_need() -> None:
    heavy = ("numpy", "torch", "av", "confluent_kafka")
    code = f"import sys; from vidan import Vidan; print([m for m in {heavy} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout == "[]\n", done.stderr
