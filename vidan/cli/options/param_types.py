"""Gives the words of `--param` the types that the task's schema asks for."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from vidan.cli.options.params import Given
    from vidan.protocol.tasks import TaskSpec

Schema = Mapping[str, Any]

_TEXT = {"string", "null"}


def typed(given: Mapping[str, Given], spec: TaskSpec) -> dict[str, Any]:
    """Return params with the types of the task's schema: `labels=a,b` may be a list, `n=1` text.

    Where the schema asks for text, the word is taken as it is, unless it is a JSON string in
    quotes. The word `null` is None, not text.
    """
    properties = spec.params_schema.get("properties", {})
    definitions = spec.params_schema.get("$defs", {})
    found: dict[str, Any] = {}
    for name, one in given.items():
        schemas = list(_alternatives(properties.get(name, {}), definitions))
        items = [
            item
            for schema in schemas
            for item in _alternatives(schema.get("items", {}), definitions)
        ]
        found[name] = _typed(one, _kinds(schemas), _kinds(items))
    return found


def _typed(given: Given, kinds: set[str], item_kinds: set[str]) -> Any:
    value = given.value
    if value is None:
        return None
    text = value if isinstance(value, str) else given.word
    if "array" in kinds and not isinstance(value, list):
        if isinstance(value, str) or (item_kinds and item_kinds <= _TEXT):
            return [item.strip() for item in text.split(",")]
        return [value]
    return text if kinds and kinds <= _TEXT else value


def _alternatives(schema: Schema, definitions: Schema) -> Iterator[Schema]:
    """Yield a schema and all schemas that it names with $ref, anyOf or oneOf."""
    yield schema
    named = definitions.get(schema.get("$ref", "").removeprefix("#/$defs/"))
    for other in (*([named] if named else ()), *schema.get("anyOf", ()), *schema.get("oneOf", ())):
        yield from _alternatives(other, definitions)


def _kinds(schemas: Sequence[Schema]) -> set[str]:
    kinds: set[str] = set()
    for schema in schemas:
        kind = schema.get("type", [])
        kinds |= {kind} if isinstance(kind, str) else set(kind)
    return kinds
