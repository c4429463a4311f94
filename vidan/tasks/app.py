"""Vidan: the app, in which the functions of a module are registered as tasks."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractContextManager
from dataclasses import replace
from typing import Any, Protocol, cast, overload

from vidan.db.session import Database
from vidan.domain import schedule as scheduling
from vidan.domain.bounds import MAX_INTEGER
from vidan.domain.durations import Duration
from vidan.domain.retry import Errors, RetryPolicy
from vidan.domain.schedule import Schedule
from vidan.domain.time_limits import TimeLimits
from vidan.errors import InputRejected
from vidan.protocol import storable
from vidan.protocol.tasks import DETECT, TaskSpec
from vidan.services import schedules
from vidan.services.scenarios import Scenario
from vidan.tasks import calls, inspection
from vidan.tasks.calls import Caller, ScenarioHandle
from vidan.tasks.task import P, R, Task


class Stack(Protocol):
    """The stack on which a test runs its app, as the test sees it; `vidan.testing` makes it."""

    database: Database
    """For the services of `vidan.services`; `database.url` is its address."""

    def run_due(self) -> int:
        """Run all scenarios that are due, until none is left; returns the number of runs.

        A retry is due after its pause, a scenario with `at` or `after` at its time: see
        `bring_forward`.
        """
        ...

    def bring_forward(self) -> int | None:
        """Make the scenario that would come due next due now; returns its id, None if none waits.

        `wait` does this once nothing is due, so that no test sleeps.
        """
        ...

    def scenarios(self, task: str | None = None) -> list[Scenario]:
        """Return all scenarios, or those of one task, in the order in which they were created."""
        ...


class Vidan:
    """An app: the tasks that its module registers. Load it with `vidan worker --app module:app`.

    Calls of its tasks use `database_url`, or else the database that the command line would use.
    """

    def __init__(self, database_url: str | None = None) -> None:
        self.tasks: dict[str, Task[..., Any]] = {}
        self.caller = Caller(database_url, lambda: [task.spec for task in self.tasks.values()])
        """Creates the scenarios of its tasks' calls."""

    def scenario(self, scenario_id: int) -> ScenarioHandle:
        """Return a handle on a scenario that was created elsewhere, without reading it yet."""
        return ScenarioHandle(self.caller.in_effect, scenario_id)

    def testing(self, *, device: str = "cpu") -> AbstractContextManager[Stack]:
        """Test the app while the block lasts, on a PostgreSQL that is started for the test.

        `wait` runs the scenario that it waits for in this process, on `device`. Raises MissingExtra
        without the extra `local`.
        """
        # imported by its name: `testing` lies above `tasks`, and workers don't load it
        testing = importlib.import_module("vidan.testing.stack")
        return cast("AbstractContextManager[Stack]", testing.stack(self, device=device))

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

        The task is named `module.function` unless `name` is given. After an error it is retried up
        to `retries` times. A task with `source=False` needs no video. Plain `@app.task` works too.

        Only errors of the types in `retry_on` are retried, and none of those in `reject_on`. The
        pause before a retry starts at `retry_backoff` and doubles each time, up to
        `retry_backoff_max`; `retry_jitter` shortens it by up to a half. `soft_time_limit` raises
        TimeLimitExceeded in the task's code; `time_limit` ends its process. Both limit one run.
        All are seconds or timedeltas.

        `concurrency` is how many runs of the task there may be at once in the whole cluster,
        `rate_limit` how many may start: `10/s`, `10/m`, `10/h`.

        `schedule="0 6 * * *"` runs the task at these times, in UTC; a `Schedule` has more options.

        Raises InputRejected for a value out of range, and for an async function or a generator.
        """
        policy = RetryPolicy.of(retry_on, reject_on, retry_backoff, retry_backoff_max, retry_jitter)
        limits = TimeLimits.of(time_limit, soft_time_limit)
        if not storable.is_whole(retries) or not 0 <= retries <= MAX_INTEGER:
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

    def _check_names(self, added: Iterable[Schedule]) -> None:
        taken = {one.name: task.name for task in self.tasks.values() for one in task.schedules}
        for one in added:
            if one.name in taken:
                raise InputRejected(
                    f"schedule {one.name!r} belongs to task {taken[one.name]!r} already",
                    hint='Schedule("0 6 * * *", name="morning")',
                )


def _schedules(
    given: str | Schedule | Sequence[str | Schedule] | None, spec: TaskSpec
) -> list[Schedule]:
    """Return a task's schedules, checked, with absolute sources. Raises InputRejected."""
    found = []
    for one in scheduling.named(given, spec.name):
        with schedules.named_in_errors(one):
            stored = replace(one, source=calls.stored_source(one.source, check=False))
        schedules.check(spec, stored)
        found.append(stored)
    return found
