"""Transactions that an actor leaves open, with their locks, while the other actors continue."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from datetime import date
from typing import Any, cast
from uuid import UUID

import psycopg
from sqlalchemy import Connection, text

from vidan.db.session import Database
from vidan.errors import DatabaseUnavailable


class _GivenUp(Exception):
    """Raised to roll a transaction back."""


@dataclass
class OpenTransaction:
    """A transaction that was left open. `change` changes the model if the transaction commits."""

    what: str
    worker_id: UUID | None
    change: Callable[[], object]
    in_copy: bool = False

    def begin(self, url: str) -> Connection:
        """Connect as the actor would: the sessions of a worker carry its id."""
        name = "stopped" if self.worker_id is None else str(self.worker_id)
        self._database = Database(url, application_name=name, pool_size=1)
        self._block = self._database.begin()
        self.connection = self._block.__enter__()
        self.pid = self.connection.execute(text("SELECT pg_backend_pid()")).scalar_one()
        return self.connection

    def stop_in_copy(self, scenario_id: int, week: date) -> None:
        """Leave a COPY unfinished, as a stopped client does."""
        driver = cast("psycopg.Connection[Any]", self.connection.connection.driver_connection)
        copy = driver.cursor().copy(
            "COPY predictions (scenario_id, frame, week, time_ms, label_ids, scores, boxes)"
            " FROM STDIN"
        )
        copy.__enter__().write_row((scenario_id, 10**6, week, 0, [], [], []))
        self.in_copy = True

    def commit(self) -> None:
        """The actor continues, and commits."""
        self._block.__exit__(None, None, None)
        self._database.close()
        self.change()

    def roll_back(self) -> None:
        """The actor meets an error, and rolls back."""
        with suppress(_GivenUp):
            given_up = _GivenUp()
            self._block.__exit__(_GivenUp, given_up, None)
        self._database.close()

    def cut(self, database: Database) -> None:
        """The actor dies, or the server ends its session."""
        with database.begin() as connection:
            connection.execute(text("SELECT pg_terminate_backend(:pid)"), {"pid": self.pid})
        self.wait_until_ended(database)

    def wait_until_ended(self, database: Database) -> None:
        """Wait until the server has ended the session, and close this side of it."""
        patience = time.monotonic() + 10
        while True:
            with database.begin() as connection:
                there = connection.execute(
                    text("SELECT count(*) FROM pg_stat_activity WHERE pid = :pid"),
                    {"pid": self.pid},
                ).scalar_one()
            if not there:
                break
            assert time.monotonic() < patience, f"the session of {self.what} was not ended"
            time.sleep(0.002)
        driver = cast("psycopg.Connection[Any]", self.connection.connection.driver_connection)
        driver.close()
        with suppress(_GivenUp, DatabaseUnavailable, psycopg.Error):
            given_up = _GivenUp()
            self._block.__exit__(_GivenUp, given_up, None)
        self._database.close()
