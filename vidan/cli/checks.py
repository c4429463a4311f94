"""What `vidan doctor` asks of database and broker; each check gives findings and raises nothing."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING

from vidan.cli import connect
from vidan.domain import HELD, Status
from vidan.errors import VidanError

if TYPE_CHECKING:
    from sqlalchemy import Connection

    from vidan.config import Settings
    from vidan.services.scenarios import Scenario
    from vidan.services.workers import WorkerRow

PATIENCE = timedelta(seconds=30)
"""A scenario that is due for longer and that nobody has taken is worth a word."""


class State(StrEnum):
    """How a check came out."""

    OK = "ok"
    WARN = "warn"
    FAIL = "fail"


@dataclass(frozen=True)
class Finding:
    """What a check found, and how to mend it."""

    check: str
    state: State
    finding: str
    remedy: str | None = None
    exit_code: int = 0


def failure(check: str, error: VidanError) -> Finding:
    """An error as a finding."""
    return Finding(check, State.FAIL, str(error), error.hint, error.exit_code)


def settings_origin(settings: Settings) -> Iterator[Finding]:
    """Where the settings come from."""
    from vidan.config import shown_url
    from vidan.home import running_stack

    if settings.database_url is not None:
        where = _origin(settings.database_url, "DATABASE_URL", "--database-url")
        found = f"database {shown_url(settings.database_url)} from {where}"
    elif running_stack(settings.home) is not None:
        found = f"the embedded stack in {settings.home}, which runs"
    else:
        found = f"no DATABASE_URL; the embedded stack in {settings.home} does not run"
    servers = settings.kafka.get("bootstrap.servers")
    if servers is not None:
        where = _origin(servers, "KAFKA_BOOTSTRAP_SERVERS", "--bootstrap-servers")
        found += f"; Kafka {servers} from {where}"
    yield Finding("settings", State.OK, found)


def _origin(value: str, variable: str, option: str) -> str:
    """Where a value came from; the first hit has won."""
    from vidan import config

    def settled(environ: Mapping[str, str], cwd: Path | None) -> list[str | None]:
        found = config.load(environ=environ, cwd=cwd)
        return [found.database_url, found.kafka.get("bootstrap.servers")]

    if value in settled(os.environ, Path("/")):
        return f"{variable} in the environment"
    return f"{variable} in .env" if value in settled(os.environ, None) else option


def of_database(settings: Settings) -> Iterator[Finding]:
    """Reachable, of the expected schema, and what is stuck in it."""
    from vidan.home import running_stack

    if settings.database_url is None and running_stack(settings.home) is None:
        yield _no_database()
        return
    try:
        database = connect.open_database(settings)
    except VidanError as error:
        yield failure("database", error)
        return
    try:
        with database.begin():
            yield Finding("database", State.OK, "reachable")
        database.check_schema()
        yield Finding("schema", State.OK, "the expected one")
        with database.begin() as connection:
            found = list(_of_rows(connection))
        yield from found
    except VidanError as error:
        yield failure("schema" if "schema" in str(error) else "database", error)
    finally:
        database.close()


def _no_database() -> Finding:
    """No database is set; that is no failure where an embedded one can be started."""
    from vidan.stack.postgres import installation

    try:
        installation()
    except VidanError as error:
        return Finding("database", State.FAIL, f"none is set, and {error}", error.hint, 8)
    remedy = "`vidan up` starts one, `vidan run` brings its own; or set DATABASE_URL"
    return Finding("database", State.WARN, "none is set, and no embedded stack runs", remedy)


def _of_rows(connection: Connection) -> Iterator[Finding]:
    from vidan.services import scenarios, workers

    alive = workers.find(connection)
    yield _of_workers(alive)
    waiting = scenarios.find(
        connection, status=[Status.INIT_STARTUP], limit=1000, newest_first=False
    )
    yield _of_waiting(waiting, alive)
    held = scenarios.find(connection, status=sorted(HELD), limit=1000)
    yield _of_held(held, alive)


def _of_workers(alive: Sequence[WorkerRow]) -> Finding:
    if not alive:
        remedy = "`vidan worker` or `vidan up` starts one"
        return Finding("workers", State.WARN, "none is alive", remedy)
    busy = sum(worker.state == "busy" for worker in alive)
    return Finding("workers", State.OK, f"{len(alive)} alive, {busy} busy")


def _of_waiting(waiting: Sequence[Scenario], alive: Sequence[WorkerRow]) -> Finding:
    """What is due and not taken, first of all what no worker can take."""
    late = [s for s in waiting if s.not_before < datetime.now(UTC) - PATIENCE]
    for scenario in late:
        if not any(scenario.queue in w.queues and scenario.task in w.tasks for w in alive):
            found = (
                f"scenario {scenario.id} waits: no worker has queue {scenario.queue!r} "
                f"and task {scenario.task!r}"
            )
            app = "" if scenario.task == "detect" else " --app MODULE:APP"
            remedy = f"`vidan worker --queues {scenario.queue}{app}`"
            return Finding("waiting", State.WARN, found, remedy)
    if late:
        found = f"{len(late)} due and not taken yet, the first is {late[0].id}"
        remedy = "are the workers busy? `vidan workers list`; more workers take more"
        return Finding("waiting", State.WARN, found, remedy)
    return Finding("waiting", State.OK, f"{len(waiting)} wait, none for long")


def _of_held(held: Sequence[Scenario], alive: Sequence[WorkerRow]) -> Finding:
    """What a worker holds that is gone: an orchestrator would have released it."""
    names = {worker.name for worker in alive}
    lost = [scenario for scenario in held if scenario.worker not in names]
    if lost:
        found = f"scenario {lost[0].id} is held by a worker that is gone"
        remedy = "an orchestrator releases it: `vidan orchestrator`"
        return Finding("running", State.WARN, found, remedy)
    return Finding("running", State.OK, f"{len(held)} run")


def of_broker(settings: Settings) -> Iterator[Finding]:
    """Reachable, with the topics in it."""
    from vidan import broker, messages

    servers = settings.bootstrap_servers()
    if servers is None:
        remedy = "`vidan up` brings one, or set KAFKA_BOOTSTRAP_SERVERS"
        found = "none is set: workers find scenarios by looking, a little later"
        yield Finding("broker", State.WARN, found, remedy)
        return
    try:
        topics = broker.connect(settings).topics()
    except VidanError as error:
        yield failure("broker", error)
        return
    yield Finding("broker", State.OK, f"reachable at {servers}")
    missing = [topic for topic in messages.TOPICS if topic not in topics]
    if settings.embedded():
        yield Finding("topics", State.OK, "the embedded broker makes them when they are used")
    elif missing:
        found = f"missing: {', '.join(missing)}"
        yield Finding("topics", State.WARN, found, "`vidan topics create`")
    else:
        counts = ", ".join(f"{topic} ({topics[topic]})" for topic in messages.TOPICS)
        yield Finding("topics", State.OK, counts)
