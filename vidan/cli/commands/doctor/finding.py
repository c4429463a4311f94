"""What a check of `vidan doctor` finds, and how to fix it."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta
from enum import StrEnum

from vidan.errors import VidanError

PATIENCE = timedelta(seconds=30)
"""A scenario that has been due for longer than this without being taken is reported."""


class State(StrEnum):
    """The result of a check."""

    OK = "ok"
    WARN = "warn"
    FAIL = "fail"


@dataclass(frozen=True)
class Finding:
    """What a check found, and how to fix it; a failure carries the exit code of the command."""

    check: str
    state: State
    finding: str
    remedy: str | None = None
    exit_code: int = 0


def failure(check: str, error: VidanError) -> Finding:
    """Return an error as a finding."""
    return Finding(check, State.FAIL, str(error), error.hint, error.exit_code)
