"""`vidan orchestrator`: announcements, retries, expired leases, partitions."""

from __future__ import annotations

from typing import TYPE_CHECKING

from vidan.cli import connect
from vidan.cli.command import Commands
from vidan.cli.options.log import LogJsonOption, log_settings
from vidan.cli.terminal.output import Output

if TYPE_CHECKING:
    from vidan.config import Settings

commands = Commands("orchestrator")


@commands.command(
    "orchestrator",
    json=False,
    quiet=False,
    broker=True,
    examples="""
        vidan orchestrator
        DATABASE_URL=postgresql://db/vidan KAFKA_BOOTSTRAP_SERVERS=kafka:9092 vidan orchestrator
    """,
)
def orchestrator(out: Output, settings: Settings, log_json: LogJsonOption = False) -> int:
    """Run an orchestrator until stopped. Any number may run; they share the work.

    It announces queued scenarios to workers, requeues scenarios of dead workers, fires schedules
    and creates the partitions of the database.
    """
    settings = log_settings(settings, out, log_json)
    with connect.database(settings, out, direct=True):
        pass  # the database is reachable and has the expected schema
    from vidan import logs
    from vidan.orchestrator import serve

    logs.configure(settings, "orchestrator")
    return serve(settings)
