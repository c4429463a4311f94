"""Commands that destroy: they ask at a terminal, and want --yes where nobody can be asked."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from vidan.cli.terminal.output import Output
from vidan.errors import UsageError

YesOption = Annotated[bool, typer.Option("--yes", help="Don't ask for confirmation.")]


def require_answer(yes: bool) -> None:
    """Raise UsageError if there is neither --yes nor a terminal at which a person can answer.

    Call it before anything else, so that a script fails at once and not only when there is
    something to destroy.
    """
    if not yes and not sys.stdin.isatty():
        raise UsageError("this deletes permanently and needs a confirmation", hint="add --yes")


def agreed(out: Output, question: str, yes: bool, *, otherwise: str) -> bool:
    """Return whether the user agrees, with --yes or at the terminal; say `otherwise` if not."""
    if yes or out.asks(question):
        return True
    out.warn(otherwise)
    return False
