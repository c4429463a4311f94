"""What is no result: numbers that JSON lacks, wherever they stand, and code that has not run."""

from __future__ import annotations

import asyncio
import enum
import functools
import json
import math
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass
from decimal import Decimal
from typing import Any, NamedTuple, cast

import pytest
from pydantic import BaseModel, ConfigDict

from vidan.errors import InputRejected, RejectedTask
from vidan.run.run import Run
from vidan.tasks.app import Vidan
from vidan.tasks.task import Task

RUN = cast("Run", None)


class Loose(BaseModel):
    """A model that says nothing of its value."""

    value: Any = None


class Lenient(BaseModel):
    model_config = ConfigDict(ser_json_inf_nan="strings")
    value: float = 0.0


class Far(enum.Enum):
    END = math.inf


class Pair(NamedTuple):
    first: float
    second: Any


@dataclass
class Held:
    of: Loose
    more: dict[str, Any]


HINTS: dict[str, tuple[Any, Callable[[Any], Any]]] = {
    "nothing": (None, lambda one: {"a": [one]}),
    "any": (Any, lambda one: one),
    "object": (object, lambda one: [one]),
    "float": (float, lambda one: one),
    "perhaps a float": (float | None, lambda one: one),
    "floats": (list[float], lambda one: [1.0, one]),
    "list": (list, lambda one: [[one]]),
    "dict of any": (dict[str, Any], lambda one: {"a": {"b": one}}),
    "keys": (dict[float, int], lambda one: {one: 1}),
    "set": (set[float], lambda one: {one}),
    "model": (Loose, lambda one: Loose(value=one)),
    "model in a model": (Loose, lambda one: Loose(value=[Loose(value=one)])),
    "models": (list[Loose], lambda one: [Loose(), Loose(value={"a": (one,)})]),
    "lenient": (Lenient, lambda one: Lenient(value=one)),
    "dataclass": (Held, lambda one: Held(Loose(value=[one]), {})),
    "dict of a dataclass": (Held, lambda one: Held(Loose(), {"a": one})),
    "named tuple": (Pair, lambda one: Pair(0.0, one)),
    "decimal": (Decimal, Decimal),
    "decimal in any": (dict[str, Any], lambda one: {"a": Decimal(one)}),
    "complex": (dict[str, Any], lambda one: {"a": complex(0, one)}),
}


def of(function: Callable[..., Any], hint: Any = None) -> Task[..., Any]:
    if hint is not None:
        function.__annotations__["return"] = hint
    app = Vidan()
    app.task(name="t", source=False)(function)
    return app.tasks["t"]


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf], ids=str)
@pytest.mark.parametrize("name", HINTS)
def test_a_number_that_json_lacks_is_refused_wherever_it_stands(name: str, value: float) -> None:
    hint, made = HINTS[name]

    def task(run: Run):  # type: ignore[no-untyped-def]
        return made(value)

    found = of(task, hint)
    with pytest.raises(RejectedTask, match="its result"):
        found.result(found.perform(RUN, {}))


@pytest.mark.parametrize("name", [name for name in HINTS if name not in ("keys", "set", "complex")])
def test_others_are_stored(name: str) -> None:
    hint, made = HINTS[name]

    def task(run: Run):  # type: ignore[no-untyped-def]
        return made(1.5)

    if hint is None and name != "nothing":
        pytest.skip("no annotation")
    if name == "decimal in any":
        hint = dict[str, Any]
    found = of(task, hint)
    assert "1.5" in found.result(found.perform(RUN, {}))


def test_an_enum_may_hide_one() -> None:
    def task(run: Run) -> dict[str, Any]:
        return {"a": Far.END}

    found = of(task)
    with pytest.raises(RejectedTask, match="its result"):
        found.result(found.perform(RUN, {}))


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_param_that_json_lacks_is_refused(value: float) -> None:
    def task(run: Run, n: Any = None, of: dict[str, Any] | None = None) -> None: ...

    for params in ({"n": value}, {"n": [Loose(value=value)]}, {"of": {"a": value}}):
        with pytest.raises(InputRejected, match="a param is not JSON"):
            of(task).new(params)
    assert of(task).new({"n": [1.5]}).params == {"n": [1.5]}


# --- code that a call does not run


async def waits(run: Run) -> int:
    return 1


async def waits_and_yields(run: Run) -> AsyncIterator[int]:
    yield 1


def yields(run: Run) -> Iterator[int]:
    yield 1


class AsyncObject:
    __qualname__ = "AsyncObject"

    async def __call__(self, run: Run) -> int:
        return 1


@pytest.mark.parametrize(
    ("function", "said"),
    [
        (waits, "an async function"),
        (waits_and_yields, "an async function"),
        (yields, "a function with yield"),
        (functools.partial(waits), "an async function"),
        (functools.partial(yields), "a function with yield"),
        (AsyncObject(), "an async function"),
    ],
    ids=["async", "async-yield", "yield", "partial-async", "partial-yield", "object"],
)
def test_a_function_whose_call_runs_nothing_is_refused(
    function: Callable[..., Any], said: str
) -> None:
    with pytest.raises(InputRejected, match=f"{said} can't be a task"):
        Vidan().task(name="t")(function)


def test_a_decorator_may_hide_one_until_it_is_called(recwarn: pytest.WarningsRecorder) -> None:
    @functools.wraps(waits)
    def hidden(run: Run) -> Any:
        return waits(run)

    found = of(hidden, Any)
    with pytest.raises(RejectedTask, match="it returned a coroutine, whose code has not run"):
        found.result(found.perform(RUN, {}))
    assert not [one for one in recwarn if "never awaited" in str(one.message)]


def test_a_decorator_that_runs_an_async_function_makes_a_task_of_it() -> None:
    @functools.wraps(waits)
    def run_here(run: Run) -> int:
        return asyncio.run(waits(run))

    found = of(run_here)
    assert json.loads(found.result(found.perform(RUN, {}))) == 1
