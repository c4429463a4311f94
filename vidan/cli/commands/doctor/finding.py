"""TODO: say what this module is for."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta
from enum import StrEnum
from typing import TYPE_CHECKING

from vidan.errors import VidanError

if TYPE_CHECKING:
    pass


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
