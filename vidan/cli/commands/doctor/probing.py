"""`vidan doctor --probe`: whether database, broker and orchestrator answer, for health checks."""

from __future__ import annotations

from typing import TYPE_CHECKING

from vidan.cli import connect
from vidan.cli.commands.doctor.finding import Finding, State
from vidan.errors import VidanError

if TYPE_CHECKING:
    from vidan.config import Settings


def probe(settings: Settings, *, stuck: bool) -> None:
    """Ask the database, the broker if there is one, and whether an orchestrator works.

    With `stuck` it is also a problem if scenarios wait that no worker can take. Raises VidanError,
    with the exit code, for the first problem in this order.
    """
    problems = _of_database(settings, waiting=stuck)
    if settings.bootstrap_servers() is not None:
        from vidan import broker

        broker.connect(settings).topics()
    for problem in problems:
        raise VidanError(problem.finding, hint=problem.remedy)


def _of_database(settings: Settings, *, waiting: bool) -> list[Finding]:
    from vidan.cli.commands.doctor import stuck
    from vidan.db import schema

    database = connect.open_database(settings, guarded=True)
    try:
        schema.check(database)
        with database.begin() as connection:
            found = [stuck.of_orchestrators(connection)]
            if waiting:
                found += stuck.of_unclaimable(connection)
    finally:
        database.close()
    return [one for one in found if one.state is not State.OK]
