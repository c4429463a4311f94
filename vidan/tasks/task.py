"""Task: a function that is registered with an app, to be called and to be run."""

from __future__ import annotations

import functools
import inspect
import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict
from datetime import datetime
from os import PathLike
from typing import Any, Generic, ParamSpec, TypeVar, cast

from pydantic import ValidationError
from pydantic_core import PydanticSerializationError

from vidan.domain.bounds import DEFAULT_QUEUE
from vidan.domain.durations import Duration
from vidan.domain.retry import RetryPolicy
from vidan.domain.schedule import Schedule
from vidan.domain.time_limits import TimeLimits
from vidan.errors import InputRejected, RejectedTask
from vidan.protocol import caps, storable
from vidan.protocol.creation import NewScenario
from vidan.protocol.tasks import TaskSpec
from vidan.run.run import Run
from vidan.tasks import calls, inspection, signature
from vidan.tasks.calls import Caller, ScenarioHandle
from vidan.tasks.signature import Signature

P = ParamSpec("P")
R = TypeVar("R")


class Task(Generic[P, R]):
    """A registered function. It can still be called as such: `task(run, n=1)`.

    `delay`, `apply` and `create_many` create scenarios of it. Workers call `perform` and `result`.
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
        inspection.check_kind(function)
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
        """Create a scenario of this task; `apply` takes options as well."""
        return self.apply(params, source=source)

    def new(
        self,
        /,
        params: Mapping[str, Any] | None = None,
        *,
        source: str | PathLike[str] | None = None,
        at: datetime | None = None,
        after: Duration | None = None,
        queue: str = DEFAULT_QUEUE,
        priority: int = 0,
        key: str | None = None,
        key_reuse: bool = False,
        retry_failed: bool = False,
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
        """Return the scenario that `apply` would create.

        Params are given by name, or as a mapping if one has the name of an option. A local source
        is made absolute and, with `check`, opened; without a source, the scenario waits for a
        worker that was started with one. `at` is a time with its zone, `after` a delay. A `key`
        that exists returns the scenario that has it; KeyTaken is raised by `apply` if that one has
        another task, source or other params, unless `key_reuse` is given. With `retry_failed` it
        resumes if it has failed or was stopped. Limits are for one run; None takes the task's own.
        `then` is created when the scenario completes, `on_failure` when it fails. Raises
        InputRejected.
        """
        calls.check_times(at, after)
        limit = functools.partial(calls.seconds, self.name)
        return NewScenario(
            source=calls.stored_source(source, check=check),
            task=self.name,
            params=self._checked(calls.merged(params, more)),
            name=name,
            key=key,
            key_reuse=key_reuse,
            retry_failed=retry_failed,
            labels=labels or {},
            queue=queue,
            priority=priority,
            not_before=at,
            after=limit("after", after),
            max_attempts=retries,
            time_limit=limit("time_limit", time_limit),
            soft_time_limit=limit("soft_time_limit", soft_time_limit),
            then=signature.new_scenarios(then),
            on_failure=signature.new_scenarios(on_failure),
        )

    @inspection.same_parameters_as(new)
    def apply(self, *args: Any, **kwargs: Any) -> ScenarioHandle:
        """Create a scenario of this task; takes the arguments of `new`.

        Raises InputRejected before anything is queued, DatabaseUnavailable, SchemaMismatch.
        """
        return self._caller.create([self.new(*args, **kwargs)])[0]

    def create_many(self, each: Iterable[Mapping[str, Any]]) -> list[ScenarioHandle]:
        """Create many scenarios in one transaction, all or none.

        Each mapping holds the arguments of an `apply`: `{"source": "a.mp4", "min_score": 0.6}`.
        """
        return self._caller.create([self.new(**one) for one in each])

    def signature(
        self, *, source: str | PathLike[str] | None = None, check: bool = True, **params: Any
    ) -> Signature:
        """Return a call that is to be made later, as by `then=`; `.set(…)` gives it options.

        Raises InputRejected.
        """
        place = calls.stored_source(source, check=check)
        return Signature(self.name, self._checked(params), place)

    def _checked(self, params: Mapping[str, Any]) -> dict[str, Any]:
        """Return the params, checked, as JSON values. Raises InputRejected."""
        try:
            checked = self.params.model_validate(dict(params))
            found: dict[str, Any] = inspection.json_values(
                functools.partial(checked.model_dump, exclude_unset=True)
            )
            return found
        except ValidationError as error:
            known = ", ".join(self.params.model_fields) or "none"
            raise InputRejected(_said(self.name, error), hint=f"its params: {known}") from None
        except (ValueError, PydanticSerializationError) as error:
            raise InputRejected(
                f"task {self.name}: a param is not JSON: {storable.line(error)}"
            ) from None

    # --- running

    def perform(self, run: Run, params: Mapping[str, Any]) -> Any:
        """Call the function with the params, checked. Raises RejectedTask for wrong ones."""
        try:
            checked = self.params.model_validate(dict(params))
        except ValidationError as error:
            raise RejectedTask(_said(self.name, error)) from None
        arguments = {name: getattr(checked, name) for name in type(checked).model_fields}
        return cast("Callable[..., Any]", self.function)(run, **arguments)

    def result(self, returned: Any) -> str:
        """Return what the function returned as JSON text, checked against its annotation.

        It is text, since the task's code may still change what it returned. Raises RejectedTask.
        """
        if (kind := inspection.unfinished(returned)) is not None:
            raise RejectedTask(
                f"task {self.name}: it returned a {kind}, whose code has not run",
                hint="call asyncio.run(…) in the task",
            )
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


def _said(task: str, error: ValidationError, what: str = "param") -> str:
    first = error.errors(include_url=False, include_input=False, include_context=False)[0]
    where = ".".join(map(str, first["loc"]))
    return f"task {task}: {what}{f' {where}' if where else ''}: {storable.line(first['msg'])}"
