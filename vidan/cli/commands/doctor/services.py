"""Checks of database and broker; each of them yields findings and raises no error."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, MutableMapping
from pathlib import Path
from typing import TYPE_CHECKING

from vidan.cli import connect
from vidan.cli.commands.doctor.finding import Finding, State, failure
from vidan.cli.commands.doctor.pooler import of_pooler
from vidan.errors import VidanError

if TYPE_CHECKING:
    from vidan.broker import Broker
    from vidan.config import Settings

MUCH_LAG = 1000
"""Unread messages of a topic above which `vidan doctor` warns."""


def settings_origin(settings: Settings) -> Iterator[Finding]:
    """Find where the settings come from."""
    from vidan.config import shown_url
    from vidan.stack_state import running_stack

    if settings.database_url is not None:
        where = _origin(settings.database_url, "DATABASE_URL", "--database-url")
        found = f"database {shown_url(settings.database_url)} from {where}"
    elif (stack := running_stack(settings.home)) is not None and stack.for_all:
        found = f"the embedded stack in {settings.home}, which runs"
    else:
        found = f"no DATABASE_URL; the embedded stack in {settings.home} does not run"
    servers = settings.kafka.get("bootstrap.servers")
    if servers is not None:
        where = _origin(servers, "KAFKA_BOOTSTRAP_SERVERS", "--bootstrap-servers")
        found += f"; Kafka {servers} from {where}"
    yield Finding("settings", State.OK, found)


def _origin(value: str, variable: str, option: str) -> str:
    """Return where a value comes from: the environment, .env or the option."""
    from vidan import config

    def settled(environ: Mapping[str, str], cwd: Path | None) -> list[str | None]:
        found = config.load(environ=environ, cwd=cwd)
        return [found.database_url, found.kafka.get("bootstrap.servers")]

    if value in settled(os.environ, Path("/")):
        return f"{variable} in the environment"
    return f"{variable} in .env" if value in settled(os.environ, None) else option


def of_database(
    settings: Settings, readers: MutableMapping[str, int], *, ack: bool = False
) -> Iterator[Finding]:
    """Check that the database is reachable and has the expected schema, and find stuck rows.

    Fills `readers`: consumer group → number of workers or orchestrators that read for it. `ack`
    marks what failed as seen.
    """
    from vidan.cli.commands.doctor import stuck
    from vidan.db import schema
    from vidan.stack_state import running_stack

    stack = running_stack(settings.home)
    if settings.database_url is None and (stack is None or not stack.for_all):
        yield _no_database()
        return
    try:
        database = connect.open_database(settings, guarded=True)
    except VidanError as error:
        yield failure("database", error)
        return
    try:
        with database.begin():
            yield Finding("database", State.OK, "reachable")
        yield from of_pooler(settings, database)
        schema.check(database)
        yield Finding("schema", State.OK, "the expected one")
        with database.begin() as connection:
            found = list(stuck.of_rows(connection, readers, ack=ack))
        yield from found
    except VidanError as error:
        yield failure("schema" if "schema" in str(error) else "database", error)
    finally:
        database.close()


def _no_database() -> Finding:
    """No database is configured: only a warning if an embedded one can be started."""
    from vidan.stack.postgres import installation

    try:
        installation()
    except VidanError as error:
        return Finding("database", State.FAIL, f"none is configured, and {error}", error.hint, 8)
    remedy = "`vidan up` starts one, `vidan run` uses its own; or set DATABASE_URL"
    return Finding("database", State.WARN, "none is configured, and no embedded stack runs", remedy)


def of_broker(settings: Settings, readers: Mapping[str, int]) -> Iterator[Finding]:
    """Check that the broker is reachable and has the topics, and count unread messages.

    `readers`: consumer group → number of workers or orchestrators that read for it, where known.
    """
    from vidan import broker
    from vidan.broker import messages

    servers = settings.bootstrap_servers()
    if servers is None:
        remedy = "`vidan up` starts one, or set KAFKA_BOOTSTRAP_SERVERS"
        found = "no broker configured: workers poll the database (up to 0.25 s slower)"
        yield Finding("broker", State.WARN, found, remedy)
        return
    try:
        cluster = broker.connect(settings)
        topics = cluster.topics()
    except VidanError as error:
        yield failure("broker", error)
        return
    yield Finding("broker", State.OK, f"reachable at {servers}")
    missing = [topic for topic in messages.TOPICS if topic not in topics]
    if settings.embedded():
        yield Finding("topics", State.OK, "the embedded broker creates them when they are used")
    elif missing:
        found = f"missing: {', '.join(missing)}"
        yield Finding("topics", State.WARN, found, "`vidan topics create`")
    else:
        counts = ", ".join(f"{topic} ({topics[topic]})" for topic in messages.TOPICS)
        yield Finding("topics", State.OK, counts)
    try:
        yield _of_lag(cluster, messages.RUNNERS_GROUP, messages.SCENARIOS_TOPIC, readers)
        yield _of_lag(cluster, messages.ORCHESTRATORS_GROUP, messages.RETRY_TOPIC, readers)
    except VidanError as error:
        yield failure("lag", error)


def _of_lag(cluster: Broker, group: str, topic: str, readers: Mapping[str, int]) -> Finding:
    """Count the messages that a group has not read. Messages are hints: lag only costs time."""
    lag = cluster.lag(group, topic)
    reader = "worker" if topic == "scenarios" else "orchestrator"
    found = f"{lag} messages of topic {topic} not read yet by group {group}"
    if lag and readers.get(group) == 0:
        found = f"{found}, and no {reader} is running"
        return Finding("lag", State.WARN, found, f"`vidan {reader}` starts one")
    if lag > MUCH_LAG:
        remedy = (
            "busy workers don't read them and poll the database instead: see `vidan workers list`"
            if reader == "worker"
            else "an orchestrator may hang: see its log"
        )
        return Finding("lag", State.WARN, found, remedy)
    return Finding("lag", State.OK, found)
