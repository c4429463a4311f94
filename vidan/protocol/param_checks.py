"""Checks the params of a new scenario against the JSON Schema of its task, in bounded time.

Schemas come from tasks of users, and params from requests. So each check takes time in proportion
to the params: types are checked first, uniqueness is found by sorting, patterns are matched without
backtracking. Where a schema multiplies the work all the same, `limited_to` bounds it.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from datetime import time as time_of_day
from functools import cache, lru_cache, partial
from itertools import islice, pairwise
from typing import Any
from uuid import UUID

from vidan.errors import InputRejected
from vidan.suggestions import close_names

MAX_MESSAGE = 1_000
"""Most characters of the checker's message, which may quote the value that it refuses."""

MAX_ERRORS = 20
"""Most errors that are gathered before the one to be shown is chosen."""

ELSEWHERE_SECONDS = 3.0
"""Longest time, in seconds, that one check may spend on patterns which only `re` understands."""

_Keyword = Callable[..., Iterator[Any]]

_MAX_DEPTH = 200
"""Most keywords of a schema inside one another. Deeper ones would use up the interpreter's stack,
which libraries below jsonschema do not survive."""

_deadline: ContextVar[float | None] = ContextVar("deadline", default=None)


@dataclass
class _Progress:
    """How deep one check is in the schema, and how long it may still wait for other processes."""

    depth: int = 0
    elsewhere: float = ELSEWHERE_SECONDS


_progress: ContextVar[_Progress] = ContextVar("progress")


class _TooLong(Exception):
    """The check has used the time that it was given."""


class _TooDeep(Exception):
    """The check goes too many levels down."""


@contextmanager
def limited_to(seconds: float) -> Iterator[None]:
    """Refuse params in this block whose check takes more than `seconds` of processor time."""
    token = _deadline.set(time.thread_time() + seconds)
    try:
        yield
    finally:
        _deadline.reset(token)


def require_time() -> None:
    """Raise InputRejected if the check of this block's params has used its time."""
    deadline = _deadline.get()
    if deadline is not None and time.thread_time() > deadline:
        raise InputRejected("checking the params takes too long", hint="they are too large")


def check(task: str, schema: Mapping[str, Any], params: Mapping[str, Any]) -> None:
    """Check params against the schema of a task. Raises InputRejected, which names what is allowed.

    A message quotes at most MAX_MESSAGE characters of a value.
    """
    from jsonschema.exceptions import best_match

    checker = _validator()(schema, format_checker=_format_checker())
    _progress.set(_Progress())
    try:
        error = best_match(islice(checker.iter_errors(dict(params)), MAX_ERRORS))
    except _TooLong:
        raise InputRejected(
            f"task {task}: checking the params takes too long",
            hint="they are too large, or match in too many ways, for the schema of this task",
        ) from None
    except (_TooDeep, RecursionError):
        raise InputRejected(f"task {task}: the params are nested too deeply") from None
    except (OverflowError, ValueError) as problem:  # 1e999, for example
        raise InputRejected(f"task {task}: the params can't be checked: {problem}") from None
    if error is None:
        return
    known = schema.get("properties", {})
    allowed = ", ".join(known) or "none"
    if error.validator == "additionalProperties" and not error.absolute_path:
        wrong = next((name for name in params if name not in known), None)
        if wrong is not None and error.validator_value is False:
            close = close_names(wrong, known)
            raise InputRejected(
                f"task {task} has no param {_shortened(wrong)}",
                hint=f"did you mean {' or '.join(close)}?" if close else f"its params: {allowed}",
            )
    where = _shortened(".".join(str(part) for part in error.absolute_path))
    raise InputRejected(
        f"task {task}: {f'param {where}: ' if where else ''}{_shortened(error.message)}",
        hint=f"its params: {allowed} (see `vidan tasks show {task}`)",
    )


def _shortened(message: str) -> str:
    """Return a message with its middle left out if it is long: what is wrong stands at its end."""
    if len(message) <= MAX_MESSAGE:
        return message
    return f"{message[: MAX_MESSAGE // 2]} … {message[-MAX_MESSAGE // 2 :]}"


_KINDS = {
    "date-time": datetime,
    "date": date,
    "time": time_of_day,
    "duration": timedelta,
    "uuid": UUID,
}


@cache
def _format_checker() -> Any:
    """Return a checker of formats such as `date`, which uses pydantic as the worker does."""
    from jsonschema import FormatChecker

    checker = FormatChecker(formats=())
    for name, kind in _KINDS.items():
        checker.checks(name, raises=ValueError)(partial(_fits, kind))
    return checker


def _fits(kind: type, value: object) -> bool:
    _adapter(kind).validate_python(value)
    return True


@cache
def _adapter(kind: type) -> Any:
    from pydantic import TypeAdapter  # slow to import, and needed only by params of these formats

    return TypeAdapter(kind)


@cache
def _validator() -> Any:
    """Return jsonschema's validator with checks that take bounded time."""
    from jsonschema import Draft202012Validator
    from jsonschema.validators import extend

    checks: dict[str, Any] = dict(Draft202012Validator.VALIDATORS)
    checks["uniqueItems"] = _unique_items
    checks["pattern"] = _pattern
    checks["patternProperties"] = _pattern_properties
    checks["additionalProperties"] = partial(_additional_properties, checks["additionalProperties"])
    bounded = {name: _in_order(name, one) for name, one in checks.items()}
    return extend(Draft202012Validator, bounded)  # type: ignore[no-untyped-call]


_FIRST = ("type", "maxItems", "maxLength", "maxProperties")
"""Keywords that are checked first: the others are left out where one of these fails."""


def _in_order(name: str, keyword: _Keyword) -> _Keyword:
    """Return a check that is left out where type or size are wrong, and that ends in time."""

    def bounded(validator: Any, wanted: Any, value: Any, schema: Any) -> Iterator[Any]:
        deadline = _deadline.get()
        if deadline is not None and time.thread_time() > deadline:
            raise _TooLong
        if name not in _FIRST and not _is_sound(validator, value, schema):
            return
        progress = _progress.get()
        if progress.depth >= _MAX_DEPTH:
            raise _TooDeep
        progress.depth += 1
        try:
            yield from keyword(validator, wanted, value, schema) or ()
        finally:
            progress.depth -= 1

    return bounded


def _is_sound(validator: Any, value: Any, schema: Mapping[str, Any]) -> bool:
    types = schema.get("type")
    if types is not None:
        named = [types] if isinstance(types, str) else types
        if not any(validator.is_type(value, one) for one in named):
            return False
    for kind, bound in ((list, "maxItems"), (str, "maxLength"), (dict, "maxProperties")):
        if isinstance(value, kind):
            return bound not in schema or len(value) <= schema[bound]
    return True


def _unique_items(validator: Any, wanted: Any, value: Any, _schema: Any) -> Iterator[Any]:
    """Compare the items of a list once they are sorted, and not each one with each other one."""
    from jsonschema.exceptions import ValidationError

    if not (wanted and validator.is_type(value, "array")):
        return
    # Text is compared, since numbers can be chosen so that all of them have the same hash.
    written = sorted(json.dumps(_plain_numbers(item), sort_keys=True) for item in value)
    if any(one == following for one, following in pairwise(written)):
        yield ValidationError(f"{_shortened(repr(value))} has non-unique elements")


def _plain_numbers(value: Any) -> Any:
    """Return a value in which 1.0 is written 1: JSON Schema calls both equal."""
    if isinstance(value, float) and value.is_integer():
        return int(value)
    if isinstance(value, list | tuple):
        return [_plain_numbers(one) for one in value]
    if isinstance(value, dict):
        return {name: _plain_numbers(one) for name, one in value.items()}
    return value


def _pattern(validator: Any, pattern: str, value: Any, _schema: Any) -> Iterator[Any]:
    from jsonschema.exceptions import ValidationError

    if validator.is_type(value, "string") and not _matches(pattern, value):
        yield ValidationError(f"{value!r} does not match {pattern!r}")


def _pattern_properties(validator: Any, wanted: Any, value: Any, _schema: Any) -> Iterator[Any]:
    if not validator.is_type(value, "object"):
        return
    for pattern, schema in wanted.items():
        for name, one in value.items():
            # A pattern that can't be compiled is left to the worker.
            if _compiled(pattern) is not None and _matches(pattern, name):
                yield from validator.descend(one, schema, path=name, schema_path=pattern)


def _additional_properties(
    keyword: _Keyword, validator: Any, wanted: Any, value: Any, schema: Any
) -> Iterator[Any]:
    """Check the properties that no name and no pattern of the schema describes."""
    if not validator.is_type(value, "object"):
        return
    patterns = schema.get("patternProperties", ())
    named = schema.get("properties", {})
    others = {
        name: one
        for name, one in value.items()
        if name not in named and not any(_matches(pattern, name) for pattern in patterns)
    }
    without = {key: one for key, one in schema.items() if key != "patternProperties"}
    yield from keyword(validator, wanted, others, without) or ()


def _matches(pattern: str, text: str) -> bool:
    """Tell whether a pattern is found in a text. A pattern that can't be compiled always is."""
    compiled = _compiled(pattern)
    return compiled is None or compiled(text)


@lru_cache(maxsize=1_000)
def _compiled(pattern: str) -> Callable[[str], bool] | None:
    """Return a function that searches for a pattern; None if no engine can compile it.

    The engine is that of pydantic, as in the worker: its time is linear, where that of `re` may
    double with each character, while no other thread can run.
    """
    from pydantic_core import SchemaError, SchemaValidator, core_schema

    try:
        engine = SchemaValidator(core_schema.str_schema(pattern=pattern, strict=True))
    except SchemaError:
        try:
            re.compile(pattern)
        except re.error:
            return None
        return partial(_found_elsewhere, pattern)
    return engine.isinstance_python


@lru_cache(maxsize=10_000)
def _found_elsewhere(pattern: str, text: str) -> bool:
    """Search with `re` in a process that can be ended; such a pattern looks ahead or behind."""
    program = "import re, sys, json; p, t = json.load(sys.stdin); print(bool(re.search(p, t)))"
    progress, began = _progress.get(), time.monotonic()
    try:
        ran = subprocess.run(
            [sys.executable, "-I", "-S", "-c", program],
            input=json.dumps([pattern, text]),
            capture_output=True,
            text=True,
            timeout=progress.elsewhere,
            check=True,
        )
    except subprocess.TimeoutExpired:
        raise _TooLong from None
    progress.elsewhere = max(0.01, progress.elsewhere - (time.monotonic() - began))
    return ran.stdout.strip() == "True"
