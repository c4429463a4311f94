"""Turns the words of a command line into values.

Typer does this with pydantic, whose import takes three times as long as all the rest of a quick
command. The command line needs whole numbers, decimals, text and parsers of its own, so it does
them itself; `Command` puts a `Coercion` in each parameter where Typer would put its adapter.
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
    """How one parameter's words become its value (a list's, each of its items)."""

    kind: Any
    low: float | None = None
    high: float | None = None
    parser: Callable[[str], Any] | None = None

    @classmethod
    def of(cls, param: TyperArgument | TyperOption) -> Coercion:
        """The coercion that a parameter's annotation asks for."""
        kind: Any = param.type_descriptor.annotation
        if get_origin(kind) is list:
            (kind,) = get_args(kind)
        parser = param.type_descriptor.parameter_info.parser
        return cls(kind, param.min, param.max, parser)

    def coerce(self, value: Any, param: Any, ctx: Any) -> Any:
        """The value, or BadParameter, which names the parameter."""
        try:
            if value is None:
                return () if param.multiple or param.nargs == -1 else None
            if isinstance(value, (list, tuple)):
                return [self._one(item) for item in value]
            return self._one(value)
        except ValueError as error:
            raise typer.BadParameter(str(error), ctx=ctx, param=param) from None

    def _one(self, word: Any) -> Any:
        if not isinstance(word, str):  # a default
            return word
        if self.parser is not None:
            return self.parser(word)
        if self.kind is int:
            return self._within(_whole(word), word)
        if self.kind is float:
            return self._within(_decimal(word), word)
        if "\0" in word:
            raise ValueError("it has a NUL byte in it")
        return word

    def _within(self, number: float, word: str) -> float:
        if self.low is not None and number < self.low:
            raise ValueError(f"{word} is too small, the smallest is {self.low}")
        if self.high is not None and number > self.high:
            raise ValueError(f"{word} is too large, the largest is {self.high}")
        return number


def _whole(word: str) -> int:
    # int() also takes " 1", "1_000" and digits of other scripts: a typo then, not a number
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
