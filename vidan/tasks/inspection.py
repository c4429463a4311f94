"""Reads a task's function: its parameters, its result, the module that defines it."""

from __future__ import annotations

import cmath
import inspect
import math
import sys
from collections import deque
from collections.abc import Callable
from decimal import Decimal
from enum import Enum
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Concatenate, Never, NoReturn, ParamSpec, TypeVar, get_type_hints

from pydantic import BaseModel, ConfigDict, TypeAdapter, create_model
from pydantic.errors import PydanticUserError

from vidan.errors import InputRejected

Call = ParamSpec("Call")
R = TypeVar("R")

_UNCHECKED = (Any, object, NoReturn, Never)
_PLAIN = {"none", "bool", "int", "float", "str"}
"""The kinds of pydantic's core schemas whose valid values are JSON as they are."""

_POSITIONAL = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
_NO_RUN = {"int", "float", "str", "bool", "bytes", "list", "dict", "tuple", "set", "Path"}
"""Annotations that a Run never has: a first parameter with one of them is not the run."""


def params_of(function: Callable[..., Any]) -> type[BaseModel]:
    """Return a model of the function's parameters after the first, which is the Run."""
    given = list(inspect.signature(function).parameters.values())
    run, parameters = given[:1], given[1:]
    if not any(one.kind in _POSITIONAL and _named(one.annotation) not in _NO_RUN for one in run):
        raise InputRejected(
            f"{function.__qualname__}: its first parameter is the run",
            hint=f"def {function.__name__}(run: Run, …)",
        )
    hints = get_type_hints(
        # only the parameters: the types of the run and the result may exist for type checkers alone
        SimpleNamespace(__annotations__={one.name: one.annotation for one in parameters}),
        globalns=function.__globals__,
        include_extras=True,
    )
    fields: dict[str, Any] = {}
    for parameter in parameters:
        if parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD):
            raise InputRejected(f"{function.__qualname__}: *args and **kwargs can't be parameters")
        default = ... if parameter.default is parameter.empty else parameter.default
        unknown = parameter.annotation is parameter.empty
        fields[parameter.name] = (Any if unknown else hints[parameter.name], default)
    return create_model(
        function.__name__, __config__=ConfigDict(extra="forbid", protected_namespaces=()), **fields
    )


def schema_of(params: type[BaseModel]) -> dict[str, Any]:
    """Return the JSON schema of a function's parameters.

    Infinity and NaN, which JSON lacks, are left out; the model still applies such defaults.
    """
    found: dict[str, Any] = _finite(params.model_json_schema())
    return found


def result_of(function: Callable[..., Any]) -> Callable[[Any], Any] | None:
    """Return a function that checks a result and turns it into JSON; None without an annotation.

    It raises ValidationError and PydanticSerializationError.
    """
    annotation = function.__annotations__.get("return", Any)
    try:
        hint = get_type_hints(
            SimpleNamespace(__annotations__={"return": annotation}),
            globalns=function.__globals__,
            include_extras=True,
        )["return"]
    except NameError:  # the type exists for type checkers alone
        return None
    if hint in _UNCHECKED:
        return None
    try:
        adapter: TypeAdapter[Any] = TypeAdapter(hint)
    except PydanticUserError:
        raise InputRejected(
            f"{function.__qualname__}: its result can't be {hint!r}",
            hint="a result is JSON: numbers, text, lists, dicts, dataclasses, pydantic models",
        ) from None
    if adapter.core_schema["type"] in _PLAIN and "serialization" not in adapter.core_schema:
        # a strict dump would take longer than a short task, and release the GIL in between
        return adapter.validate_python

    def dumped(returned: Any) -> Any:
        valid = adapter.validate_python(returned)
        return json_values(partial(adapter.dump_python, valid, warnings="error"))

    return dumped


def json_values(dump: Callable[..., Any]) -> Any:
    """Return the JSON values that a dump of pydantic's gives; `dump` takes its `mode`.

    Raises ValueError for NaN and infinity: where an annotation is Any, pydantic makes null of them,
    and of others text. Raises PydanticSerializationError.
    """
    values = dump(mode="json")
    waiting = [dump(mode="python", warnings=False)]
    while waiting:
        one = waiting.pop()
        if isinstance(one, dict):
            waiting += [*one, *one.values()]
        elif isinstance(one, list | tuple | set | frozenset | deque):
            waiting += one
        elif isinstance(one, Enum):
            waiting.append(one.value)
        elif not (one.is_finite() if isinstance(one, Decimal) else _is_finite(one)):
            raise ValueError(f"{one} can't be stored")
    return values


def _is_finite(value: Any) -> bool:
    return cmath.isfinite(value) if isinstance(value, float | complex) else True


def check_kind(function: Callable[..., Any]) -> None:
    """Raise InputRejected for a function whose call does not run its code."""
    name = getattr(function, "__qualname__", str(function))
    for one in (function, getattr(function, "__call__", function)):  # noqa: B004  (an object's)
        if inspect.iscoroutinefunction(one) or inspect.isasyncgenfunction(one):
            raise InputRejected(
                f"{name}: an async function can't be a task",
                hint="write it with def, and call asyncio.run(…) in it",
            )
        if inspect.isgeneratorfunction(one):
            raise InputRejected(
                f"{name}: a function with yield can't be a task",
                hint="it returns its result; run.store(…) stores what it finds meanwhile",
            )


def unfinished(returned: Any) -> str | None:
    """Return what a call has given in place of a result, such as a coroutine; None for a result."""
    if inspect.isawaitable(returned) or inspect.isasyncgen(returned):
        if inspect.iscoroutine(returned):
            returned.close()  # else Python warns, later and elsewhere, that nobody awaited it
        return type(returned).__name__
    return None


def module_of(function: Callable[..., Any]) -> str:
    """Return the name under which a worker imports the function's module.

    Raises InputRejected for a module that was run as a program and can't be imported.
    """
    if function.__module__ != "__main__":
        return function.__module__
    main = sys.modules["__main__"]
    spec = getattr(main, "__spec__", None)
    if spec is not None:  # python -m shop.tasks
        return str(spec.name)
    file = getattr(main, "__file__", None)  # python shop.py: its folder is importable
    if file is not None:
        path = Path(file)
        if path.stem.isidentifier() and not (path.parent / "__init__.py").exists():
            return path.stem
    raise InputRejected(
        f"task {function.__qualname__}: it is defined in __main__, which workers can't import",
        hint="run it with `python -m package.module`, or give it a name: @app.task(name='…')",
    )


def same_parameters_as(
    of: Callable[Concatenate[Any, Call], Any],
) -> Callable[[Callable[..., R]], Callable[Concatenate[Any, Call], R]]:
    """Give a method the parameters of another, for type checkers and for `help`."""

    def taking(method: Callable[..., R]) -> Callable[Concatenate[Any, Call], R]:
        method.__signature__ = inspect.signature(of)  # type: ignore[attr-defined]
        return method

    return taking


def _named(annotation: Any) -> str:
    return annotation if isinstance(annotation, str) else str(getattr(annotation, "__name__", ""))


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _finite(one) for name, one in value.items() if not _beyond_json(one)}
    if isinstance(value, list):
        return [_finite(one) for one in value if not _beyond_json(one)]
    return value


def _beyond_json(value: Any) -> bool:
    return isinstance(value, float) and not math.isfinite(value)
