"""The registry of tasks, and the built-in `detect`."""

from __future__ import annotations

import importlib
import inspect
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any, TypeVar, get_type_hints, overload

from pydantic import BaseModel, ConfigDict, ValidationError, create_model

from vidan import catalogue
from vidan.errors import InputRejected, RejectedTask, VidanError
from vidan.run import Run
from vidan.services import caps, storable
from vidan.services.tasks import DETECT, TaskSpec

F = TypeVar("F", bound=Callable[..., Any])


class Task:
    """A registered function: its parameters as a schema, and how to call it."""

    def __init__(
        self,
        function: Callable[..., Any],
        name: str,
        retries: int,
        source: bool,
        *,
        concurrency: int | None = None,
        rate_limit: str | None = None,
    ) -> None:
        caps.check(concurrency, rate_limit)
        self.name = name
        self.function = function
        self.params = _params_of(function)
        documentation = (inspect.getdoc(function) or "").strip()
        self.spec = TaskSpec(
            name=name,
            params_schema=self.params.model_json_schema(),
            needs_source=source,
            summary=documentation.splitlines()[0] if documentation else None,
            max_attempts=retries,
            concurrency=concurrency,
            rate_limit=rate_limit,
        )

    def __call__(self, run: Run, params: Mapping[str, Any]) -> Any:
        """Call the function with checked parameters.

        Returns its result, which has to be JSON. Raises RejectedTask for either that isn't.
        """
        try:
            checked = self.params.model_validate(dict(params))
        except ValidationError as error:
            first = error.errors(include_url=False, include_input=False)[0]
            where = ".".join(map(str, first["loc"]))
            raise RejectedTask(f"task {self.name}: param {where}: {first['msg']}") from None
        arguments = {name: getattr(checked, name) for name in type(checked).model_fields}
        result = self.function(run, **arguments)
        try:
            storable.json_text(result)
        except ValueError as error:
            raise RejectedTask(f"task {self.name}: its result is not JSON: {error}") from None
        return result


def _params_of(function: Callable[..., Any]) -> type[BaseModel]:
    """Return a model of the function's parameters after the first, which is the Run."""
    parameters = list(inspect.signature(function).parameters.values())[1:]
    hints = get_type_hints(
        # only of these: the Run and the result may be named for type checkers alone
        SimpleNamespace(__annotations__={one.name: one.annotation for one in parameters}),
        globalns=function.__globals__,
        include_extras=True,
    )
    fields: dict[str, Any] = {}
    for parameter in parameters:
        if parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD):
            raise InputRejected(f"{function.__qualname__}: *args and **kwargs can't be parameters")
        default = ... if parameter.default is parameter.empty else parameter.default
        unknown = parameter.annotation is parameter.empty
        fields[parameter.name] = (Any if unknown else hints[parameter.name], default)
    return create_model(
        function.__name__, __config__=ConfigDict(extra="forbid", protected_namespaces=()), **fields
    )


class Vidan:
    """An app: the tasks that its module registers. Load it with `vidan worker --app module:app`."""

    def __init__(self) -> None:
        self.tasks: dict[str, Task] = {}

    @overload
    def task(self, function: F) -> F: ...

    @overload
    def task(
        self,
        *,
        name: str | None = None,
        retries: int = 3,
        source: bool = True,
        concurrency: int | None = None,
        rate_limit: str | None = None,
    ) -> Callable[[F], F]: ...

    def task(
        self,
        function: F | None = None,
        *,
        name: str | None = None,
        retries: int = 3,
        source: bool = True,
        concurrency: int | None = None,
        rate_limit: str | None = None,
    ) -> F | Callable[[F], F]:
        """Register a function `f(run: Run, …typed parameters) -> JSON` as a task.

        It is named `module.function` unless `name` is given. After an error it is tried again
        `retries` times. `source=False`: it needs no video. Plain `@app.task` works too.

        `concurrency`: so many at most run at once in the whole cluster. `rate_limit`: so often one
        starts in the whole cluster: `10/s`, `10/m`, `10/h`. Raises InputRejected.
        """
        if not 0 <= retries < 2**31:
            raise InputRejected(f"retries={retries} is out of range", hint="0 or more")

        def register(function: F) -> F:
            task_name = name or f"{function.__module__}.{function.__qualname__}"
            if task_name in self.tasks or task_name == DETECT.name:
                raise InputRejected(f"task {task_name!r} is registered twice")
            self.tasks[task_name] = Task(
                function,
                task_name,
                retries,
                source,
                concurrency=concurrency,
                rate_limit=rate_limit,
            )
            return function

        return register if function is None else register(function)


def detect(
    run: Run,
    model: str = catalogue.DEFAULT_MODEL,
    weights: str | None = None,
    min_score: float = catalogue.DEFAULT_MIN_SCORE,
    labels: list[str] | None = None,
    size: str | None = None,
    every: int = 1,
    fps: float | None = None,
    decoder: str = "pyav",
) -> None:
    """Detect objects in every frame of a video and store them."""
    for _ in run.detect(
        model=model,
        weights=weights,
        min_score=min_score,
        labels=labels,
        size=None if size is None else catalogue.parse_size(size),
        every=every,
        fps=fps,
        decoder=decoder,
    ):
        pass  # what was found is stored as it comes


def load_tasks(app: str | None) -> dict[str, Task]:
    """Return the built-in task and those of `module:app`; the current directory is importable.

    Raises InputRejected when there is no such app.
    """
    builtin = Task(detect, DETECT.name, DETECT.max_attempts, source=True)
    tasks = {DETECT.name: builtin}
    if app is not None:
        tasks.update(_load_app(app).tasks)
    return tasks


def _load_app(app: str) -> Vidan:
    module_name, _, attribute = app.partition(":")
    if not module_name or not attribute:
        raise InputRejected(f"--app {app!r} is not module:app", hint="such as myvideos:app")
    here = str(Path.cwd())
    if here not in sys.path:
        sys.path.insert(0, here)
    try:
        found = getattr(importlib.import_module(module_name), attribute)
    except VidanError:
        raise
    except Exception as error:  # it is the user's code: anything may go wrong in it
        raise InputRejected(
            f"--app {app}: {type(error).__name__}: {storable.line(error)}",
            hint="the current directory is importable",
        ) from error
    if not isinstance(found, Vidan):
        raise InputRejected(f"--app {app} is a {type(found).__name__}, not a Vidan app")
    return found
