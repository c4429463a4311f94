"""An app under test: its calls go to a PostgreSQL of the test's own, its tasks run in this process.

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

PAGE = 500


class Stack:
    """What a test has of the stack that its app is tested on."""

    def __init__(
        self, database: Database, worker: InProcess, registry: Mapping[str, Task[..., Any]]
    ) -> None:
        self.database = database
        """For the services of `vidan.services`; `database.url` is its address."""
        self._worker = worker
        self._registry = registry

    def run_due(self) -> int:
        """Run all that is due, and what comes due by that; returns how many runs it took.

        A retry is due after its pause, and a scenario with `at` or `after` at its time: see
        `bring_forward`.
        """
        runs = 0
        while self._worker.step():
            runs += 1
        return runs

    def bring_forward(self) -> int | None:
        """Make the scenario due now that would come due next; returns its id, None if none waits.

        Nothing is slept through: this is what `wait` does once nothing is due.
        """
        return self.database.retrying(lambda c: queries.bring_forward(c, tuple(self._registry)))

    def scenarios(self, task: str | None = None) -> list[Scenario]:
        """Return the scenarios (of a task), in the order in which they were created."""
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
        """Run what is due, in the order of priority and time, until this scenario has ended.

        Where nothing is due, what would come due next is brought forward. Returns early if
        something else has to happen first; raises InputRejected if nothing ever will.
        """
        while True:
            with self.database.autocommit() as connection:
                found = scenarios.get(connection, scenario_id)
            if found.status in ENDED:
                return
            if not self._worker.step() and self.bring_forward() is None:
                break
        if found.status is not Status.INIT_STARTUP:
            return  # it runs, in another thread or around this one
        if found.task not in self._registry:
            raise InputRejected(
                f"scenario {scenario_id} is left: the app has no task {found.task!r}",
                hint="only tasks of the app whose `testing()` it is run here",
            )
        if found.source is None and self._registry[found.task].spec.needs_source:
            raise InputRejected(
                f"scenario {scenario_id} is left: it has no source", hint="give it one: source=…"
            )


@contextmanager
def stack(app: Vidan, *, device: str = "cpu") -> Iterator[Stack]:
    """Bring up a PostgreSQL of its own, and let the app's calls go there while the block lasts.

    DATABASE_URL names it meanwhile, so that everything else goes there too. All is stopped and
    removed at the end. Raises MissingExtra without the extra `local`.
    """
    registry = ChainMap(app.tasks, load_tasks(None))
    with ExitStack() as at_end:
        url = at_end.enter_context(postgres.postgres())
        schema.upgrade(url)
        # one that is set to nothing hides what `.env` says
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
