"""The calling side: scenarios created from Python, and handles on them, without torch."""

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
from vidan.services import predictions, scenarios, steering
from vidan.video.sources import source_for

if TYPE_CHECKING:
    from sqlalchemy import Connection

    from vidan.db.session import Database
    from vidan.protocol.creation import NewScenario
    from vidan.protocol.tasks import TaskSpec
    from vidan.services.predictions import StoredFrame
    from vidan.services.scenarios import Scenario

T = TypeVar("T")
FIRST_POLL_SECONDS, POLL_SECONDS = 0.02, 0.5
"""A wait looks often at first, as short tasks end soon, and then twice a second."""
PAGE_FRAMES = 1_000


class Caller:
    """The database that an app's calls go to: opened when first needed, anew in each process."""

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
        self._instead: Caller | None = None
        self.work_on: Callable[[int], None] = lambda _: None
        """What `wait` does before it looks at a scenario: a test runs it, nobody else will."""

    @property
    def in_effect(self) -> Caller:
        """Return who takes the calls: this one, or the one that stands in for it."""
        return self if self._instead is None else self._instead

    @contextmanager
    def replaced(self, other: Caller) -> Iterator[None]:
        """Let the calls go elsewhere while the block lasts; their handles stay with that."""
        before, self._instead = self._instead, other
        try:
            yield
        finally:
            self._instead = before

    @property
    def database(self) -> Database:
        """Return the database, its schema checked.

        It is the one that the app was made with, else what the command line takes: DATABASE_URL,
        `.env`, the embedded stack that runs. Raises DatabaseUnavailable or SchemaMismatch.
        """
        with self._lock:
            if self._database is None or self._process != os.getpid():
                from vidan.db.session import Database  # a worker has its own

                settings = config.load(database_url=self._url)
                opened = Database(settings.require_database())
                schema.check(opened)
                # one that a fork brought along belongs to the parent: it is not closed
                self._database, self._process = opened, os.getpid()
            return self._database

    def create(self, news: Sequence[NewScenario]) -> list[ScenarioHandle]:
        """Create scenarios in one transaction.

        The database learns of the app's tasks in it, if no worker has published them yet.
        """

        if self._instead is not None:
            return self._instead.create(news)

        def work(connection: Connection) -> list[creation.Created]:
            try:
                return creation.create_many(connection, news)
            except NotFoundError:  # nothing was written: the task is not known yet
                tasks.introduce(connection, self._specs())
                return creation.create_many(connection, news)

        created = self.database.retrying(work)
        return [ScenarioHandle(self, one.id, new=one.new) for one in created]


class ScenarioHandle:
    """A scenario that was created, or that a key led to; what is asked of it is read each time.

    `new` is False when a repeated key returned the scenario that has it.
    """

    def __init__(self, caller: Caller, scenario_id: int, *, new: bool = False) -> None:
        self.id = scenario_id
        self.new = new
        self._caller = caller

    def __repr__(self) -> str:
        return f"<ScenarioHandle {self.id}>"

    def look(self) -> Scenario:
        """Return the scenario as it stands. Raises NotFoundError once it is deleted."""
        with self._caller.database.autocommit() as connection:
            return scenarios.get(connection, self.id)

    @property
    def status(self) -> Status:
        """Return its status now."""
        return self.look().status

    @property
    def result(self) -> Any:
        """Return what the task returned, as JSON has it; None until it is completed."""
        return self.look().result

    def wait(self, timeout: Duration | None = None, *, check: bool = False) -> Scenario:
        """Wait until the scenario has ended, and return it as it ended: see its `status`.

        `timeout` is a timedelta or seconds. With `check` a scenario that is not completed raises
        NotCompleted; without, one that failed or was stopped is returned like any other. Raises
        TimedOut; the scenario goes on then. In a task it holds the task's slot while it waits.
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
                    hint="it goes on: wait longer, or stop it",
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
        """Ask that it stop with its next commit; it keeps its checkpoint.

        Returns False if it is stopped or stopping. Raises NotAllowedError if it ended otherwise.
        """
        return self._caller.database.retrying(lambda c: steering.stop(c, self.id))

    def predictions(self) -> Iterator[StoredFrame]:
        """Yield the frames that are stored by now, in order; a short transaction for each page."""
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
            hint="a parameter of this name is given by apply(params={'source': …})",
        )
    return source_for(source if isinstance(source, str) else str(Path(source)), check=check)


def merged(params: Mapping[str, Any] | None, more: Mapping[str, Any]) -> dict[str, Any]:
    """Return params given as a mapping and by name. Raises InputRejected for one given twice."""
    twice = sorted(more.keys() & (params or {}).keys())
    if twice:
        raise InputRejected(f"param {twice[0]} is given twice", hint="by name or in params=")
    return {**(params or {}), **more}
