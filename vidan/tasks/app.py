"""The registry of tasks, and the built-in `detect`."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractContextManager
from dataclasses import replace
from typing import (
    Any,
    Protocol,
    cast,
    overload,
)

from vidan.db.session import Database
from vidan.domain import schedule as scheduling
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


class Stack(Protocol):
    """What a test has of the stack that its app is tested on; `vidan.testing` makes it."""

    database: Database
    """For the services of `vidan.services`; `database.url` is its address."""

    def run_due(self) -> int:
        """Run all that is due, and what comes due by that; returns how many runs it took.

        A retry is due after its pause, and a scenario with `at` or `after` at its time: see
        `bring_forward`.
        """
        ...

    def bring_forward(self) -> int | None:
        """Make the scenario due now that would come due next; returns its id, None if none waits.

        Nothing is slept through: this is what `wait` does once nothing is due.
        """
        ...

    def scenarios(self, task: str | None = None) -> list[Scenario]:
        """Return the scenarios (of a task), in the order in which they were created."""
        ...


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
        # by its name: `testing` stands above `tasks`, and no worker loads it
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
