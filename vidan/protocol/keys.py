"""Keys: which scenario has a key, and whether it is the work that is asked for again.

Work is a task, its source and its params, compared as they are stored. A param that is left out
equals its default in the task's schema; the order of names does not count, nor how a number is
written. Where and when work runs (queue, priority, times, limits, labels, name, what follows) is
not compared.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from decimal import Decimal
from typing import Any, NamedTuple

from sqlalchemy import Connection, text

from vidan.db.reading import Unreadable
from vidan.domain.status import Status
from vidan.protocol import param_checks

_DEPTH = 50
"""Most levels of a schema, which may contain itself, down to which defaults are filled in."""


class Work(NamedTuple):
    """What a scenario does. `params` is JSON text, `source` the one that it was created with."""

    task: str
    source: str | None
    params: str


@dataclass(frozen=True, slots=True)
class Holder:
    """The scenario that has a key."""

    id: int
    status: Status
    pruned: bool
    work: Work


def holders(connection: Connection, keys: Collection[str]) -> dict[str, Holder]:
    """Return the scenarios that have these keys, by key."""
    if not keys:
        return {}
    found = connection.execute(
        text(
            "SELECT key, id, status, pruned, task, CASE WHEN NOT source_bound THEN source END"
            " AS source, CAST(params AS text) AS params FROM scenarios WHERE key = ANY(:keys)"
        ),
        {"keys": list(keys)},
    )
    return {
        row.key: Holder(
            row.id, Status(row.status), row.pruned, Work(row.task, row.source, row.params)
        )
        for row in found
    }


def differences(one: Work, other: Work, schema: Mapping[str, Any]) -> list[str]:
    """Return what differs between two pieces of work, none of it if they are the same.

    `schema` is that of the params of `other`'s task. Raises InputRejected if that takes longer than
    `param_checks.limited_to` allows.
    """
    if one.task != other.task:
        return ["task"]
    found = ["source"] if one.source != other.source else []
    if one.params != other.params:
        known, asked = (_filled(schema, _decoded(work.params), schema) for work in (one, other))
        names = sorted(known.keys() | asked.keys())
        found += [f"param {name}" for name in names if not _same_member(known, asked, name)]
    return found


def _decoded(params: str) -> Any:
    """Return JSON with exact numbers: 1, 1.0 and 1e0 are equal, and 1e5000 is no infinity."""
    try:
        return json.loads(params, parse_int=Decimal, parse_float=Decimal)
    except RecursionError:  # inserted by SQL
        return Unreadable("it is nested too deeply")


def _exact(value: Any) -> Any:
    """Return a JSON value as `_decoded` does. Most are no objects: these take little time."""
    if isinstance(value, int | float) and not isinstance(value, bool):
        return Decimal(str(value))
    return value if isinstance(value, str | bool) else _decoded(json.dumps(value))


def _filled(schema: Mapping[str, Any], value: Any, root: Mapping[str, Any], depth: int = 0) -> Any:
    """Return a value in which each object has the defaults of its schema."""
    if depth > _DEPTH or not isinstance(value, list | dict) or not isinstance(schema, Mapping):
        return value
    param_checks.require_time()
    schema = _resolved(schema, root)
    if isinstance(value, list):
        items = schema.get("items", {})
        return [_filled(items, item, root, depth + 1) for item in value]
    known = schema.get("properties", {})
    defaults = {
        name: _exact(one["default"])
        for name, one in known.items()
        if isinstance(one, Mapping) and "default" in one
    }
    return {
        name: _filled(known.get(name, {}), one, root, depth + 1)
        for name, one in {**defaults, **value}.items()
    }


def _resolved(schema: Mapping[str, Any], root: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return what a schema refers to, if it is a reference such as `#/$defs/Crop`.

    Of several possible schemas, as those of an optional object are, the only one with properties is
    taken.
    """
    several = [
        _resolved(one, root)
        for one in (*schema.get("allOf", ()), *schema.get("anyOf", ()))
        if isinstance(one, Mapping)
    ]
    objects = [one for one in several if "properties" in one]
    if len(objects) == 1:
        return objects[0]
    name = schema.get("$ref", "")
    found = root.get("$defs", {}).get(name.removeprefix("#/$defs/"))
    return found if name.startswith("#/$defs/") and isinstance(found, Mapping) else schema


def _same_member(one: Mapping[str, Any], other: Mapping[str, Any], name: str) -> bool:
    return name in one and name in other and _same(one[name], other[name])


def _same(one: Any, other: Any) -> bool:
    """Whether two decoded values are equal; true is no 1."""
    if isinstance(one, dict) and isinstance(other, dict):
        return one.keys() == other.keys() and all(_same(one[name], other[name]) for name in one)
    if isinstance(one, list) and isinstance(other, list):
        return len(one) == len(other) and all(map(_same, one, other))
    return type(one) is type(other) and bool(one == other)
