"""The servers of a chaos run, a broker and PostgreSQL behind a proxy, and queries to them."""

from __future__ import annotations

import os
import shutil
import signal
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import psycopg
from psycopg.conninfo import conninfo_to_dict
from psycopg.rows import dict_row

from tests.chaos.fleet import MARKS, Fleet
from tests.support import stack
from tests.support.folders import new_folder
from tests.support.kafka import HostedBroker, RealKafka
from tests.support.proxy import Proxy
from vidan import broker
from vidan.db import schema
from vidan.stack.postgres import PostgresServer

DURABLE_BUT_FOR_POWER_CUTS = {
    "fsync": "off",  # the kernel writes out what a killed server has written
    "synchronous_commit": "on",
    "full_page_writes": "off",
    "max_connections": "70",
}

# Every commit of a run, as the database records it: a trigger misses none, however short
COMMIT_LOG = """
CREATE TABLE chaos_commits (
    scenario_id bigint NOT NULL, epoch bigint NOT NULL, from_frame bigint NOT NULL,
    to_frame bigint NOT NULL, frames bigint NOT NULL, at timestamptz NOT NULL
);
CREATE FUNCTION chaos_commit() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
    INSERT INTO chaos_commits VALUES (NEW.id, NEW.epoch, OLD.checkpoint, NEW.checkpoint,
        NEW.frames_done - OLD.frames_done, clock_timestamp());
    RETURN NULL;
END $$;
CREATE TRIGGER chaos_commit AFTER UPDATE ON scenarios FOR EACH ROW
    WHEN (OLD.checkpoint IS DISTINCT FROM NEW.checkpoint) EXECUTE FUNCTION chaos_commit();
"""


class World:
    """Servers, fleet and folders of a run on one broker."""

    def __init__(self, broker_kind: str, folder: Path, logs: Path) -> None:
        self.broker_kind = broker_kind
        self.logs = logs
        self.marks = folder / "marks"
        self.marks.mkdir()
        self.postgres = PostgresServer(
            folder / "postgres", logs / "postgres.log", DURABLE_BUT_FOR_POWER_CUTS
        )
        self.proxy = Proxy(lambda: self._socket)
        self._home = folder / "home"
        self._home.mkdir()
        self._found = ExitStack()
        self.broker: RealKafka | HostedBroker
        if broker_kind == "kafka":
            (folder / "kafka").mkdir()
            self.broker = RealKafka(folder / "kafka")
        else:
            self.broker = HostedBroker(self._home / "broker.address")

    def start(self) -> None:
        """Start the servers with the newest schema and topics, but not the fleet."""
        self.postgres.start()
        schema.upgrade(self.postgres.url)
        self.rows(COMMIT_LOG)
        self.broker.start()
        url = f"postgresql://vidan@127.0.0.1:{self.proxy.port}/vidan"
        self.settings = self._found.enter_context(stack.found(self._home, url, self.broker))
        broker.connect(self.settings).create_topics(4, 1)
        own = {**os.environ, MARKS: str(self.marks), "OMP_NUM_THREADS": "1"}
        self.fleet = Fleet(self.settings.environment(own), self.logs)

    def close(self) -> None:
        """End the fleet and the servers."""
        if hasattr(self, "fleet"):
            self.fleet.close()
        self.broker.stop()
        self.postgres.stop()
        self.proxy.close()
        self._found.close()

    @property
    def _socket(self) -> Path:
        return Path(str(conninfo_to_dict(self.postgres.url)["host"])) / ".s.PGSQL.5432"

    def rows(self, sql: str, **parameters: Any) -> list[Mapping[str, Any]]:
        """Return the rows of a statement, bypassing the proxy. Raises psycopg.OperationalError."""
        with psycopg.connect(
            self.postgres.url, autocommit=True, application_name="chaos", row_factory=dict_row
        ) as connection:
            found = connection.execute(sql, parameters or None)
            return list(found) if found.description else []

    def held(self) -> list[Mapping[str, Any]]:
        """Return the scenarios that workers hold now, with the processes of the workers."""
        return self.rows(
            "SELECT s.id, s.status, s.crashes, w.pid, w.name FROM scenarios s JOIN workers w"
            " ON w.id = s.worker_id ORDER BY s.id"
        )

    def stop_database(self, number: int) -> None:
        """Stop PostgreSQL by a signal: SIGINT stops it fast, SIGQUIT immediately."""
        pid = self.postgres.pid
        assert pid is not None
        os.kill(pid, number)
        deadline = time.monotonic() + 30
        while self.postgres.poll() is None:
            if time.monotonic() > deadline:
                os.kill(pid, signal.SIGKILL)
            time.sleep(0.01)


@contextmanager
def world(broker_kind: str, logs: Path) -> Iterator[World]:
    """Run the servers of a world for the block; only the logs remain afterwards."""
    folder = new_folder()
    made: World | None = None
    try:
        made = World(broker_kind, folder, logs)
        made.start()
        yield made
    finally:
        if made is not None:
            made.close()
        data = folder / "postgres"
        if data.is_symlink():
            shutil.rmtree(data.readlink(), ignore_errors=True)
        shutil.rmtree(folder, ignore_errors=True)
