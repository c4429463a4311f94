"""Definitions of tasks: what each accepts, and whether one accepts all that another accepts.

A definition is the schema of a task's params and whether it needs a source. A new scenario keeps
the digest of the definition that checked it; '' stands for a row that none has checked.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any

UNCHECKED = ""
"""The definition of a scenario that was inserted by plain SQL, or before definitions were kept."""

_REMARKS = {"title", "description", "default", "examples", "deprecated"}
"""Keywords of a schema that refuse nothing."""
_NAMED = {"properties", "$defs", "patternProperties", "dependentSchemas"}
"""Keywords whose values are schemas by name."""
_LOW, _HIGH = (
    ("minimum", "exclusiveMinimum", "minLength", "minItems", "minProperties"),
    ("maximum", "exclusiveMaximum", "maxLength", "maxItems", "maxProperties"),
)


def digest(schema: Mapping[str, Any], needs_source: bool) -> str:
    """Return 16 hexadecimal digits that tell definitions apart, whatever describes their params."""
    written = json.dumps([_essence(schema), needs_source], sort_keys=True)
    return hashlib.sha256(written.encode(errors="replace")).hexdigest()[:16]


def accepts(schema: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
    """Tell whether the first schema surely accepts all params that the second one accepts.

    Equal parts do, and so do further params that are not required, wider bounds, further types and
    further values of an enumeration. Whatever else differs counts as a refusal.
    """
    try:
        new, old = _essence(schema), _essence(other)
        shared = new.pop("$defs", {})
        if any(shared.get(name) != one for name, one in old.pop("$defs", {}).items()):
            return False  # a reference may mean something else
        return _accepts(new, old)
    except (AttributeError, TypeError, RecursionError):  # no schema: it was changed by hand
        return False


def _accepts(new: Any, old: Any) -> bool:
    if new == old or new in ({}, True):
        return True
    if not isinstance(new, dict) or not isinstance(old, dict):
        return False
    if "anyOf" in new and set(new) == {"anyOf"}:
        branches = old["anyOf"] if set(old) == {"anyOf"} else [old]
        return all(any(_accepts(one, each) for one in new["anyOf"]) for each in branches)
    if new.get("type") == "object" and old.get("type") == "object":
        return _accepts_object(new, old)
    return all(_allows(name, wanted, old) for name, wanted in new.items())


def _accepts_object(new: Mapping[str, Any], old: Mapping[str, Any]) -> bool:
    known, before = new.get("properties", {}), old.get("properties", {})
    further = new.get("additionalProperties", True)
    for name, one in before.items():
        if not _accepts(known.get(name, further), one):
            return False
    if set(new.get("required", ())) - set(old.get("required", ())):
        return False
    closed = old.get("additionalProperties", True)
    if closed is not False and not (set(known) <= set(before) and _accepts(further, closed)):
        return False
    listed = {"type", "properties", "required", "additionalProperties"}
    return all(_allows(name, one, old) for name, one in new.items() if name not in listed)


def _allows(name: str, wanted: Any, old: Mapping[str, Any]) -> bool:
    """Tell whether one keyword of a schema refuses nothing that the other schema accepts."""
    if name == "type":
        return _allows_types(wanted, old.get("type", ()))
    if name == "enum":
        values = old["enum"] if "enum" in old else [old["const"]] if "const" in old else None
        return values is not None and all(one in wanted for one in values)
    if name not in old:
        return False
    before = old[name]
    return bool(
        before == wanted
        or (name in _LOW and wanted <= before)
        or (name in _HIGH and wanted >= before)
        or (name == "items" and _accepts(wanted, before))
    )


def _allows_types(wanted: Any, before: Any) -> bool:
    types = {wanted} if isinstance(wanted, str) else set(wanted)
    if "number" in types:
        types.add("integer")
    named = {before} if isinstance(before, str) else set(before)
    return bool(named) and named <= types


def _essence(value: Any) -> Any:
    """Return a schema without remarks, its numbers written in one way."""
    if isinstance(value, dict):
        found = {}
        for name, one in value.items():
            if name in _REMARKS:
                continue
            if name in ("enum", "const"):
                found[name] = one
            elif name in _NAMED and isinstance(one, dict):
                found[name] = {key: _essence(each) for key, each in one.items()}
            else:
                found[name] = _essence(one)
        return found
    if isinstance(value, list | tuple):
        return [_essence(one) for one in value]
    if isinstance(value, int) and not isinstance(value, bool):
        try:
            return float(value)  # jsonb returns 1e16 as an integer
        except OverflowError:
            return value
    return value
