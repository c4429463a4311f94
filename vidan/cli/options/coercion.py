"""Turns the words of a command line into values.

Typer does this with pydantic, whose import takes three times as long as all the rest of a quick
command. The command line needs only whole numbers, decimals, text and parsers of its own, so
`Command` gives each parameter a `Coercion` in place of Typer's pydantic adapter.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, get_args, get_origin

import typer

if TYPE_CHECKING:
    from collections.abc import Callable

    from typer.core import TyperArgument, TyperOption


@dataclass(frozen=True)
class Coercion:
    """How the words of one parameter become its value; for a list, each word becomes an item."""

    kind: Any
    low: float | None = None
    high: float | None = None
    parser: Callable[[str], Any] | None = None

    @classmethod
    def of(cls, param: TyperArgument | TyperOption) -> Coercion:
        """Make the coercion for a parameter from its annotation."""
        kind: Any = param.type_descriptor.annotation
        if get_origin(kind) is list:
            (kind,) = get_args(kind)
        parser = param.type_descriptor.parameter_info.parser
        return cls(kind, param.min, param.max, parser)

    def coerce(self, value: Any, param: Any, ctx: Any) -> Any:
        """Return the value. Raises BadParameter, which names the parameter."""
        try:
            if value is None:
                return () if param.multiple or param.nargs == -1 else None
            if isinstance(value, (list, tuple)):
                return [self._one(item) for item in value]
            return self._one(value)
        except ValueError as error:
            raise typer.BadParameter(str(error), ctx=ctx, param=param) from None

    def _one(self, word: Any) -> Any:
        if not isinstance(word, str):  # a default value
            return word
        if self.parser is not None:
            return self.parser(word)
        if self.kind is int:
            return self._within(_whole(word), word)
        if self.kind is float:
            return self._within(_decimal(word), word)
        if "\0" in word:
            raise ValueError("it contains a NUL byte")
        return word

    def _within(self, number: float, word: str) -> float:
        if self.low is not None and number < self.low:
            raise ValueError(f"{word} is too small, the smallest is {self.low}")
        if self.high is not None and number > self.high:
            raise ValueError(f"{word} is too large, the largest is {self.high}")
        return number


def _whole(word: str) -> int:
    # int() also accepts " 1", "1_000" and digits of other scripts, which here are typing errors
    if not (word.removeprefix("-").isdecimal() and word.isascii()) or len(word) > 20:
        raise ValueError(f"{word!r} is not a whole number")
    return int(word)


def _decimal(word: str) -> float:
    try:
        number = float(word)
    except ValueError:
        number = math.nan
    if not math.isfinite(number):
        raise ValueError(f"{word!r} is not a number")
    return number
