"""An app under test: it calls a PostgreSQL of the test's own, and its tasks run in this process.

with app.testing() as stack:
    assert count.delay(source="clip.mp4").wait().result == {"people": 3}
"""

from __future__ import annotations

import os
from collections import ChainMap
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Any

from vidan.db import schema
from vidan.domain.bounds import PAGE
from vidan.domain.status import ENDED, Status
from vidan.errors import InputRejected
from vidan.services import scenarios
from vidan.tasks.app import Vidan
from vidan.tasks.calls import Caller
from vidan.tasks.loading import load_tasks
from vidan.tasks.task import Task
from vidan.testing import postgres, queries
from vidan.testing.worker import InProcess

if TYPE_CHECKING:
    from vidan.db.session import Database
    from vidan.services.scenarios import Scenario


class Stack:
    """What a test sees of the stack that its app is tested on."""

    def __init__(
        self, database: Database, worker: InProcess, registry: Mapping[str, Task[..., Any]]
    ) -> None:
        self.database = database
        """The database, for `vidan.services`; `database.url` is its address."""
        self._worker = worker
        self._registry = registry

    def run_due(self) -> int:
        """Run all due scenarios, and those that come due meanwhile; return the number of runs.

        A retry is due after its pause, and a scenario with `at` or `after` at its time: see
        `bring_forward`.
        """
        runs = 0
        while self._worker.step():
            runs += 1
        return runs

    def bring_forward(self) -> int | None:
        """Make the scenario that is due next due now; return its id, or None if none waits.

        `wait` does this once nothing is due, instead of sleeping.
        """
        return self.database.retrying(queries.bring_forward, tuple(self._registry))

    def scenarios(self, task: str | None = None) -> list[Scenario]:
        """Return all scenarios, or those of a task, in the order of their creation."""
        found: list[Scenario] = []
        while True:
            after = found[-1].id if found else None
            with self.database.begin() as connection:
                page = scenarios.find(
                    connection, task=task, after_id=after, limit=PAGE, newest_first=False
                )
            found += page
            if len(page) < PAGE:
                return found

    def work_on(self, scenario_id: int) -> None:
        """Run due scenarios, in the order of priority and time, until this one has ended.

        When nothing is due, brings the next scenario forward. Returns early if this scenario waits
        for something else, such as its own run around this call; raises InputRejected if nothing
        that this process can run will ever end it.
        """
        while True:
            with self.database.autocommit() as connection:
                found = scenarios.get(connection, scenario_id)
            if found.status in ENDED:
                return
            if not self._worker.step() and self.bring_forward() is None:
                break
        if found.status is not Status.INIT_STARTUP:
            return  # it runs: in another thread, or this call is inside of its run
        if found.task not in self._registry:
            raise InputRejected(
                f"scenario {scenario_id} is left: the app has no task {found.task!r}",
                hint="only tasks of the app whose `testing()` was entered run here",
            )
        if found.source is None and self._registry[found.task].spec.needs_source:
            raise InputRejected(
                f"scenario {scenario_id} is left: it has no source", hint="give it one: source=…"
            )


@contextmanager
def stack(app: Vidan, *, device: str = "cpu") -> Iterator[Stack]:
    """Start a PostgreSQL for the test, and send the app's calls there while the block runs.

    DATABASE_URL names it meanwhile, so that all other code uses it, too. It is stopped and removed
    at the end. Raises MissingExtra without the extra `local`.
    """
    registry = ChainMap(app.tasks, load_tasks(None))
    with ExitStack() as at_end:
        url = at_end.enter_context(postgres.postgres())
        schema.upgrade(url)
        # an empty variable hides the one of `.env`
        at_end.enter_context(_environment({"DATABASE_URL": url, "KAFKA_BOOTSTRAP_SERVERS": ""}))
        worker = InProcess(url, registry, device)
        at_end.callback(worker.close)
        caller = Caller(url, lambda: [task.spec for task in app.tasks.values()])
        made = Stack(caller.database, worker, registry)
        at_end.callback(made.database.close)
        caller.work_on = made.work_on
        at_end.enter_context(app.caller.replaced(caller))
        yield made


@contextmanager
def _environment(variables: Mapping[str, str]) -> Iterator[None]:
    before = {name: os.environ.get(name) for name in variables}
    os.environ.update(variables)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value
