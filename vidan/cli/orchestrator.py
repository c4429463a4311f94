"""`vidan orchestrator`: announcements, retries, expired leases, partitions."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from vidan.cli import connect
from vidan.cli.command import Commands
from vidan.cli.output import Output

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
def orchestrator(out: Output, settings: Settings) -> int:
    """Run an orchestrator until stopped. Any number may run; they share the work."""
    with connect.database(settings, out):
        pass  # reachable, and of the expected schema
    from vidan import logs
    from vidan.orchestrator import serve

    logs.configure(json=settings.log_json, level=logging.DEBUG if out.debug else logging.INFO)
    return serve(settings)
