"""How services log: `--log-json`, and `--debug` for more lines."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Annotated

import typer

from vidan.cli.terminal.output import Output

if TYPE_CHECKING:
    from vidan.config import Settings

LogJsonOption = Annotated[
    bool, typer.Option("--log-json", help="Write log lines as JSON objects [VIDAN_LOG_JSON].")
]


def log_settings(settings: Settings, out: Output, log_json: bool) -> Settings:
    """Return the settings with the log options applied; child processes log alike."""
    return replace(
        settings,
        log_json=log_json or settings.log_json,
        log_level="debug" if out.debug else settings.log_level,
    )
