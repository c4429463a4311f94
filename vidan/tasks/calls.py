"""Calls of tasks: scenarios created from Python, and handles on them. Loads no torch."""

from __future__ import annotations

import math
import os
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from vidan import backoff, config
from vidan.db import schema
from vidan.domain import durations
from vidan.domain.durations import Duration
from vidan.domain.status import ENDED, Status
from vidan.errors import InputRejected, NotCompleted, NotFoundError, TimedOut
from vidan.protocol import creation, tasks
from vidan.services import predictions, queueing, scenarios, steering
from vidan.video.sources import source_for

if TYPE_CHECKING:
    from datetime import datetime

    from sqlalchemy import Connection

    from vidan.db.session import Database
    from vidan.protocol.creation import NewScenario
    from vidan.protocol.tasks import TaskSpec
    from vidan.services.predictions import StoredFrame
    from vidan.services.scenarios import Scenario

T = TypeVar("T")
FIRST_POLL_SECONDS, POLL_SECONDS = 0.02, 0.5
"""Shortest and longest pause, in seconds, between two polls of `wait`: short tasks end soon."""
PAGE_FRAMES = 1_000
"""Frames of predictions that are read in one transaction."""


class Caller:
    """Creates scenarios in the database of an app, opened when first needed, once per process."""

    def __init__(
        self,
        database_url: str | None = None,
        specs: Callable[[], Sequence[TaskSpec]] = tuple,
    ) -> None:
        self._url = database_url
        self._specs = specs
        self._database: Database | None = None
        self._process = 0
        self._lock = threading.Lock()
        self._substitute: Caller | None = None
        self.work_on: Callable[[int], None] = lambda _: None
        """Called by `wait` before each poll: a test has no worker, and runs the scenario there."""

    @property
    def in_effect(self) -> Caller:
        """Return the caller that takes the calls: this one, or its substitute in a test."""
        return self if self._substitute is None else self._substitute

    @contextmanager
    def replaced(self, other: Caller) -> Iterator[None]:
        """Let another caller take the calls while the block lasts; their handles stay with it."""
        before, self._substitute = self._substitute, other
        try:
            yield
        finally:
            self._substitute = before

    @property
    def database(self) -> Database:
        """Return the database, its schema checked.

        It is the one that the app was given, or else the one that the command line would use:
        DATABASE_URL, `.env`, the embedded stack that runs. Raises DatabaseUnavailable or
        SchemaMismatch.
        """
        with self._lock:
            if self._database is None or self._process != os.getpid():
                from vidan.db.session import Database  # needed only by processes that call

                settings = config.load(database_url=self._url)
                opened = Database(settings.require_database())
                schema.check(opened)
                # after a fork the inherited one belongs to the parent process: it is not closed
                self._database, self._process = opened, os.getpid()
            return self._database

    def create(self, news: Sequence[NewScenario]) -> list[ScenarioHandle]:
        """Create scenarios in one transaction.

        It also publishes the app's tasks if no worker has done so yet.
        """
        if self._substitute is not None:
            return self._substitute.create(news)

        def work(connection: Connection) -> list[creation.Created]:
            try:
                return creation.create_many(connection, news)
            except NotFoundError:  # no worker has published the task yet; nothing was written
                tasks.introduce(connection, self._specs())
                return creation.create_many(connection, news)

        created = self.database.retrying(work)
        return [ScenarioHandle(self, one.id, new=one.new, resumed=one.resumed) for one in created]


class ScenarioHandle:
    """A scenario that was created; each property is read from the database when asked for.

    `new` is False when a repeated key returned the scenario that has the key; `resumed` is True
    when `retry_failed` has started that one again.
    """

    def __init__(
        self, caller: Caller, scenario_id: int, *, new: bool = False, resumed: bool = False
    ) -> None:
        self.id = scenario_id
        self.new = new
        self.resumed = resumed
        self._caller = caller

    def __repr__(self) -> str:
        return f"<ScenarioHandle {self.id}>"

    def look(self) -> Scenario:
        """Return the scenario as it is now. Raises NotFoundError once it is deleted."""
        with self._caller.database.autocommit() as connection:
            return scenarios.get(connection, self.id)

    @property
    def status(self) -> Status:
        """Return the scenario's status now."""
        return self.look().status

    @property
    def queue_position(self) -> int | str | None:
        """Return its place among the scenarios that are due in its queue, from 1 to 1,000.

        "1000+" is further behind; None unless it is due and waits.
        """
        with self._caller.database.begin() as connection:
            return queueing.told(connection, [scenarios.get(connection, self.id)])[0].queue_position

    @property
    def result(self) -> Any:
        """Return what the task returned, as decoded JSON; None until the scenario completes."""
        return self.look().result

    def wait(self, timeout: Duration | None = None, *, check: bool = False) -> Scenario:
        """Wait until the scenario has ended, and return it: see its `status`.

        `timeout` is a timedelta or seconds. With `check`, NotCompleted is raised if the scenario
        failed or was stopped; without, it is returned like any other. Raises TimedOut; the scenario
        continues then. A task that waits keeps its slot meanwhile.
        """
        seconds = math.inf
        if timeout is not None:
            seconds = durations.seconds(timeout, "timeout", may_be_zero=True)
        until = time.monotonic() + seconds
        pause = FIRST_POLL_SECONDS
        while True:
            self._caller.work_on(self.id)
            found = backoff.patiently(self.look, pause=POLL_SECONDS, until=until)
            if found.status in ENDED:
                break
            left = until - time.monotonic()
            if left <= 0:
                raise TimedOut(
                    f"scenario {self.id} is still {found.status} after {seconds:g} s",
                    hint="the scenario continues: wait longer, or stop it",
                )
            time.sleep(min(pause, left))
            pause = min(1.5 * pause, POLL_SECONDS)
        if check and found.status is not Status.COMPLETED:
            raise NotCompleted(
                f"scenario {self.id} is {found.status}{f': {found.error}' if found.error else ''}",
                hint=f"see `vidan scenario history {self.id}`",
            )
        return found

    def stop(self) -> bool:
        """Ask the scenario to stop with its next commit; it keeps its checkpoint.

        Returns False if it is stopped or stopping. Raises NotAllowedError if it ended otherwise.
        """
        return self._caller.database.retrying(steering.stop, self.id)

    def predictions(self) -> Iterator[StoredFrame]:
        """Yield the frames stored so far, in order; each page is read in a short transaction."""
        last = -1
        while True:
            with self._caller.database.begin() as connection:
                page = predictions.read_after(connection, self.id, last, limit=PAGE_FRAMES)
            if not page:
                return
            yield from page
            last = page[-1].frame


def stored_source(source: str | os.PathLike[str] | None, *, check: bool) -> str | None:
    """Return a source as it is stored: see `sources.source_for`. Raises InputRejected."""
    if source is None:
        return None
    if not isinstance(source, str | os.PathLike):
        raise InputRejected(
            f"a source is a path or a URL, not a {type(source).__name__}",
            hint="a parameter named source is given by apply(params={'source': …})",
        )
    return source_for(source if isinstance(source, str) else str(Path(source)), check=check)


def seconds(task: str, name: str, value: Duration | None) -> float | None:
    """Return an option's duration in seconds. Raises InputRejected."""
    if value is None:
        return None
    return durations.seconds(value, f"task {task}: {name}", may_be_zero=name == "after")


def check_times(at: datetime | None, after: Duration | None) -> None:
    """Raise InputRejected if both are given."""
    if at is not None and after is not None:
        raise InputRejected("at and after exclude each other", hint="give one of them")


def merged(params: Mapping[str, Any] | None, more: Mapping[str, Any]) -> dict[str, Any]:
    """Return params given as a mapping and by name. Raises InputRejected for one given twice."""
    twice = sorted(more.keys() & (params or {}).keys())
    if twice:
        raise InputRejected(f"param {twice[0]} is given twice", hint="by name or in params=")
    return {**(params or {}), **more}
