"""`vidan api`: the HTTP interface."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from vidan.cli import connect
from vidan.cli.command import Commands
from vidan.cli.options.log import LogJsonOption, log_settings
from vidan.cli.terminal.output import Output

if TYPE_CHECKING:
    from vidan.config import Settings

commands = Commands("api")


@commands.command(
    "api",
    json=False,
    quiet=False,
    examples="""
        vidan api
        VIDAN_API_TOKEN=secret vidan api --host 0.0.0.0 --port 8000
    """,
)
def api(
    out: Output,
    settings: Settings,
    host: Annotated[str, typer.Option(metavar="HOST", help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[
        int, typer.Option(metavar="PORT", min=1, max=65535, help="Port to listen on.")
    ] = 8000,
    log_json: LogJsonOption = False,
) -> int:
    """Run the HTTP interface until stopped; its documentation is at /docs.

    To listen on an address that other machines can reach, set VIDAN_API_TOKEN: every request then
    has to carry it as a bearer token.
    """
    settings = log_settings(settings, out, log_json)
    connect.tell(settings, out)
    from vidan import api as interface

    return interface.serve(settings, host, port)
