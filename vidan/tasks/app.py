"""The registry of tasks, and the built-in `detect`."""

from __future__ import annotations

import functools
import importlib
import inspect
import logging
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import asdict, replace
from datetime import datetime
from os import PathLike
from pathlib import Path
from typing import (
    TYPE_CHECKING,
    Any,
    Generic,
    ParamSpec,
    TypeVar,
    cast,
    overload,
)

from pydantic import ValidationError
from pydantic_core import PydanticSerializationError

from vidan.detection import catalogue
from vidan.domain import durations
from vidan.domain import schedule as scheduling
from vidan.domain.durations import Duration
from vidan.domain.retry import Errors, RetryPolicy
from vidan.domain.schedule import Schedule
from vidan.domain.time_limits import TimeLimits
from vidan.errors import InputRejected, RejectedTask, VidanError
from vidan.protocol import caps, storable
from vidan.protocol.tasks import DETECT, TaskSpec
from vidan.run.run import Run
from vidan.services import schedules
from vidan.services.scenarios import NewScenario
from vidan.tasks import calls, inspection, signature
from vidan.tasks.calls import Caller, ScenarioHandle
from vidan.tasks.signature import Signature

if TYPE_CHECKING:
    from vidan.testing.stack import Stack

P = ParamSpec("P")
R = TypeVar("R")


class Task(Generic[P, R]):
    """A registered function, which can still be called as such: `task(run, n=1)`.

    `delay`, `apply` and `create_many` create scenarios of it. A worker uses `perform`.
    """

    def __init__(
        self,
        function: Callable[P, R],
        name: str,
        retries: int,
        source: bool,
        caller: Caller,
        policy: RetryPolicy = RetryPolicy(),  # noqa: B008  (frozen)
        limits: TimeLimits = TimeLimits(),  # noqa: B008
        concurrency: int | None = None,
        rate_limit: str | None = None,
    ) -> None:
        caps.check(concurrency, rate_limit)
        functools.update_wrapper(self, function)
        self.name = name
        self.policy = policy
        self.limits = limits
        self.function = function
        self.log = logging.getLogger(f"vidan.task.{name}")
        self.params = inspection.params_of(function)
        self.schedules: list[Schedule] = []
        documentation = (inspect.getdoc(function) or "").strip()
        self.spec = TaskSpec(
            name=name,
            params_schema=inspection.schema_of(self.params),
            needs_source=source,
            summary=documentation.splitlines()[0] if documentation else None,
            max_attempts=retries,
            time_limit=limits.hard,
            soft_time_limit=limits.soft,
            concurrency=concurrency,
            rate_limit=rate_limit,
        )
        _check_storable(self.spec)
        self._caller = caller
        self._returns = inspection.result_of(function)

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> R:
        """Call the function itself, here and now."""
        return self.function(*args, **kwargs)

    def __reduce__(self) -> str:
        return str(getattr(self, "__qualname__", self.name))  # pickled as a function is: by name

    # --- calling

    def delay(self, *, source: str | PathLike[str] | None = None, **params: Any) -> ScenarioHandle:
        """Create a scenario of this task; `apply` with nothing but its source and params."""
        return self.apply(params, source=source)

    def new(
        self,
        /,
        params: Mapping[str, Any] | None = None,
        *,
        source: str | PathLike[str] | None = None,
        at: datetime | None = None,
        after: Duration | None = None,
        queue: str = "default",
        priority: int = 0,
        key: str | None = None,
        retries: int | None = None,
        time_limit: Duration | None = None,
        soft_time_limit: Duration | None = None,
        name: str | None = None,
        labels: Mapping[str, str] | None = None,
        then: Signature | Sequence[Signature] = (),
        on_failure: Signature | Sequence[Signature] = (),
        check: bool = True,
        **more: Any,
    ) -> NewScenario:
        """Return what `apply` would create.

        Params are given by name, or as a mapping if one has the name of an option. A local source
        is made absolute and, with `check`, looked at; without one, it waits for a worker that was
        started with a source. `at` is a time with its zone, `after` a delay; a `key` that exists
        leads to the scenario that has it. Limits are of one run; None takes the task's own. `then`
        is created when it completes, `on_failure` when it fails. Raises InputRejected.
        """
        if at is not None and after is not None:
            raise InputRejected("at and after exclude each other", hint="give one of them")
        limit = functools.partial(_seconds, self.name)
        return NewScenario(
            source=calls.stored_source(source, check=check),
            task=self.name,
            params=self._checked(calls.merged(params, more)),
            name=name,
            key=key,
            labels=labels or {},
            queue=queue,
            priority=priority,
            not_before=at,
            after=limit("after", after),
            max_attempts=retries,
            time_limit=limit("time_limit", time_limit),
            soft_time_limit=limit("soft_time_limit", soft_time_limit),
            then=signature.news(then),
            on_failure=signature.news(on_failure),
        )

    @inspection.like(new)
    def apply(self, *args: Any, **kwargs: Any) -> ScenarioHandle:
        """Create a scenario of this task: see `new` for what is taken.

        Raises InputRejected before anything is queued, DatabaseUnavailable, SchemaMismatch.
        """
        return self._caller.create([self.new(*args, **kwargs)])[0]

    def create_many(self, each: Iterable[Mapping[str, Any]]) -> list[ScenarioHandle]:
        """Create many scenarios in one transaction, all or none.

        Each is what `apply` would be called with: `{"source": "a.mp4", "min_score": 0.6}`.
        """
        return self._caller.create([self.new(**one) for one in each])

    def signature(
        self, *, source: str | PathLike[str] | None = None, check: bool = True, **params: Any
    ) -> Signature:
        """Return a call that is to be made later, such as by `then=`; `.set(…)` its options.

        Raises InputRejected.
        """
        place = calls.stored_source(source, check=check)
        return Signature(self.name, self._checked(params), place)

    def _checked(self, params: Mapping[str, Any]) -> dict[str, Any]:
        """Return params as JSON has them. Raises InputRejected."""
        try:
            checked = self.params.model_validate(dict(params))
            return checked.model_dump(mode="json", exclude_unset=True)
        except ValidationError as error:
            known = ", ".join(self.params.model_fields) or "none"
            raise InputRejected(_said(self.name, error), hint=f"its params: {known}") from None
        except PydanticSerializationError as error:
            raise InputRejected(
                f"task {self.name}: a param is not JSON: {storable.line(error)}"
            ) from None

    # --- running

    def perform(self, run: Run, params: Mapping[str, Any]) -> Any:
        """Call the function with checked parameters. Raises RejectedTask for wrong ones."""
        try:
            checked = self.params.model_validate(dict(params))
        except ValidationError as error:
            raise RejectedTask(_said(self.name, error)) from None
        arguments = {name: getattr(checked, name) for name in type(checked).model_fields}
        return cast("Callable[..., Any]", self.function)(run, **arguments)

    def result(self, returned: Any) -> str:
        """Return what the function returned as JSON text, checked against its annotation.

        As text, since the function may have kept it, and change it. Raises RejectedTask.
        """
        try:
            return storable.json_text(
                returned if self._returns is None else self._returns(returned)
            )
        except ValidationError as error:
            raise RejectedTask(_said(self.name, error, "its result")) from None
        except (ValueError, PydanticSerializationError) as error:
            raise RejectedTask(
                f"task {self.name}: its result is not JSON: {storable.line(error)}"
            ) from None


def _check_storable(spec: TaskSpec) -> None:
    try:
        storable.json_text(asdict(spec))
    except ValueError as error:
        raise InputRejected(
            f"task {spec.name!r} can't be stored: {error}",
            hint="see its name, its docstring, its params' defaults, titles and descriptions",
        ) from None


def _schedules(
    given: str | Schedule | Sequence[str | Schedule] | None, spec: TaskSpec
) -> list[Schedule]:
    """Return a task's schedules as they are stored. Raises InputRejected."""
    found = []
    for one in scheduling.named(given, spec.name):
        with schedules.named_in_errors(one):
            stored = replace(one, source=calls.stored_source(one.source, check=False))
        schedules.check(spec, stored)
        found.append(stored)
    return found


def _said(task: str, error: ValidationError, what: str = "param") -> str:
    first = error.errors(include_url=False, include_input=False, include_context=False)[0]
    where = ".".join(map(str, first["loc"]))
    return f"task {task}: {what}{f' {where}' if where else ''}: {storable.line(first['msg'])}"


def _seconds(task: str, name: str, value: Duration | None) -> float | None:
    if value is None:
        return None
    return durations.seconds(value, f"task {task}: {name}", may_be_zero=name == "after")


class Vidan:
    """An app: the tasks that its module registers. Load it with `vidan worker --app module:app`.

    Calls of its tasks go to `database_url`; without one to where the command line would go.
    """

    def __init__(self, database_url: str | None = None) -> None:
        self.tasks: dict[str, Task[..., Any]] = {}
        self.caller = Caller(database_url, lambda: [task.spec for task in self.tasks.values()])
        """Where the calls of its tasks go."""

    def scenario(self, scenario_id: int) -> ScenarioHandle:
        """Return a handle on a scenario that was created elsewhere; nothing is read yet."""
        return ScenarioHandle(self.caller.in_effect, scenario_id)

    def testing(self, *, device: str = "cpu") -> AbstractContextManager[Stack]:
        """Test the app while the block lasts: calls go to a PostgreSQL of its own, started for it.

        `wait` runs what it waits for in this process, on `device`. Raises MissingExtra without the
        extra `local`.
        """
        # by name: it stands above the tasks, on the servers that no worker has to do with
        testing = importlib.import_module("vidan.testing.stack")
        return cast("AbstractContextManager[Stack]", testing.stack(self, device=device))

    def _check_names(self, added: Iterable[Schedule]) -> None:
        taken = {one.name: task.name for task in self.tasks.values() for one in task.schedules}
        for one in added:
            if one.name in taken:
                raise InputRejected(
                    f"schedule {one.name!r} is that of task {taken[one.name]!r} already",
                    hint='Schedule("0 6 * * *", name="morning")',
                )

    @overload
    def task(self, function: Callable[P, R]) -> Task[P, R]: ...

    @overload
    def task(
        self,
        *,
        name: str | None = None,
        retries: int = 3,
        source: bool = True,
        retry_on: Errors = Exception,
        reject_on: Errors = (),
        retry_backoff: Duration = 1.0,
        retry_backoff_max: Duration = 300.0,
        retry_jitter: bool = True,
        time_limit: Duration | None = None,
        soft_time_limit: Duration | None = None,
        concurrency: int | None = None,
        rate_limit: str | None = None,
        schedule: str | Schedule | Sequence[str | Schedule] | None = None,
    ) -> Callable[[Callable[P, R]], Task[P, R]]: ...

    def task(
        self,
        function: Callable[P, R] | None = None,
        *,
        name: str | None = None,
        retries: int = 3,
        source: bool = True,
        retry_on: Errors = Exception,
        reject_on: Errors = (),
        retry_backoff: Duration = 1.0,
        retry_backoff_max: Duration = 300.0,
        retry_jitter: bool = True,
        time_limit: Duration | None = None,
        soft_time_limit: Duration | None = None,
        concurrency: int | None = None,
        rate_limit: str | None = None,
        schedule: str | Schedule | Sequence[str | Schedule] | None = None,
    ) -> Task[P, R] | Callable[[Callable[P, R]], Task[P, R]]:
        """Register a function `f(run: Run, …typed parameters) -> JSON` as a task.

        It is named `module.function` unless `name` is given. After an error it is tried again
        `retries` times. `source=False`: it needs no video. Plain `@app.task` works too.

        Only errors of the types `retry_on` are tried again, none of `reject_on`. The pause before a
        retry doubles from `retry_backoff` on, up to `retry_backoff_max`, and with `retry_jitter` it
        is up to a half shorter. `soft_time_limit` raises TimeLimitExceeded in the task's code, at
        `time_limit` its process is ended; both are of one run. Seconds or timedeltas.

        `concurrency`: so many at most run at once in the whole cluster. `rate_limit`: so often one
        starts in the whole cluster: `10/s`, `10/m`, `10/h`.

        `schedule="0 6 * * *"` runs it by the clock, in UTC; a `Schedule` says more.

        Raises InputRejected for what is out of range.
        """
        policy = RetryPolicy.of(retry_on, reject_on, retry_backoff, retry_backoff_max, retry_jitter)
        limits = TimeLimits.of(time_limit, soft_time_limit)
        if not storable.is_whole(retries) or not 0 <= retries < 2**31:
            raise InputRejected(
                f"retries={retries!r} is out of range", hint="a whole number, 0 or more"
            )

        def register(function: Callable[P, R]) -> Task[P, R]:
            task_name = name or f"{inspection.module_of(function)}.{function.__qualname__}"
            if task_name in self.tasks or task_name == DETECT.name:
                raise InputRejected(f"task {task_name!r} is registered twice")
            made = Task(
                function,
                task_name,
                retries,
                source,
                self.caller,
                policy,
                limits,
                concurrency,
                rate_limit,
            )
            made.schedules = _schedules(schedule, made.spec)
            self._check_names(made.schedules)
            self.tasks[task_name] = made
            return made

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


def load_tasks(app: str | None) -> dict[str, Task[..., Any]]:
    """Return the built-in task and those of `module:app`; the current directory is importable.

    Raises InputRejected when there is no such app.
    """
    builtin = Task(detect, DETECT.name, DETECT.max_attempts, source=True, caller=Caller())
    tasks: dict[str, Task[..., Any]] = {DETECT.name: builtin}
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
