"""Checks of params: what they refuse, and that no params and no schema make them last."""

from __future__ import annotations

import time
from typing import Any

import pytest

from vidan.errors import InputRejected
from vidan.protocol import param_checks, tasks

SECONDS = 2.0
"""Most processor time, in seconds, of one check here; the faults that were found took 7 to 34."""


def schema(of_x: dict[str, Any], **more: Any) -> dict[str, Any]:
    return {"type": "object", "properties": {"x": of_x}, **more}


def refused(of_x: dict[str, Any], x: Any) -> str | None:
    """Return the message with which a value is refused, None if it is accepted, in bounded time."""
    began = time.thread_time()
    try:
        param_checks.check("t", schema(of_x), {"x": x})
        return None
    except InputRejected as error:
        return str(error)
    finally:
        assert time.thread_time() - began < SECONDS


def refused_by_detect(**params: Any) -> str:
    began = time.thread_time()
    with pytest.raises(InputRejected) as caught:
        tasks.validate(tasks.DETECT, params, None)
    assert time.thread_time() - began < SECONDS
    return str(caught.value)


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ({"labels": [{"a": number} for number in range(9_000)]}, "not of type 'string'"),
        ({"labels": [[number] for number in range(9_000)]}, "not of type 'string'"),
        ({"labels": ["person"] * 90_000}, "too long"),
        ({"labels": ["person", "car", "person"]}, "twice"),
        ({"labels": ["x" * 900_000]}, "too long"),
        ({"model": "x" * 900_000}, "too long"),
        ({"model": "x" * 900}, "no such model"),
        ({"weights": "x" * 900_000}, "too long"),
        ({"size": [1] * 400_000}, "not of type 'string'"),
        ({"y" * 900_000: 1}, "no param yyy"),
        ({f"k{number}": 1 for number in range(80_000)}, "no param k0"),
    ],
    ids=lambda value: str(value)[:30],
)
def test_the_built_in_task_refuses_at_once(params: dict[str, Any], message: str) -> None:
    found = refused_by_detect(**params)
    assert message in found
    assert len(found) < 3_000


SAME_HASH = 2**61 - 1
"""Python's hash of each multiple of this number is 0."""


@pytest.mark.parametrize(
    ("items", "unique"),
    [
        ([1, 2, 3], True),
        ([1, True, "1", None, [1], {"a": 1}], True),
        ([1, 1.0], False),
        ([0, False], True),
        ([{"a": 1, "b": [2.0]}, {"b": [2], "a": 1.0}], False),
        ([{"a": number} for number in range(20_000)], True),
        ([{"a": number} for number in range(20_000)] + [{"a": 7}], False),
        ([number * SAME_HASH for number in range(20_000)], True),
    ],
    ids=lambda value: str(value)[:30],
)
def test_uniqueness_is_that_of_json_schema(items: list[Any], unique: bool) -> None:
    found = refused({"type": "array", "uniqueItems": True}, items)
    assert (found is None) == unique


@pytest.mark.parametrize(
    ("pattern", "text", "fits"),
    [
        ("^(a+)+$", "a" * 5_000, True),
        ("^(a+)+$", "a" * 5_000 + "!", False),
        (r"^\p{Lu}", "Ärger", True),
        (r"^\p{Lu}", "ärger", False),
        ("^(?=a)[a-c]+$", "abc", True),
        ("^(?=a)[a-c]+$", "bca", False),
        ("[", "left to the worker", True),
    ],
    ids=lambda value: str(value)[:20],
)
@pytest.mark.processes
def test_patterns(pattern: str, text: str, fits: bool) -> None:
    found = refused({"type": "string", "pattern": pattern}, text)
    assert (found is None) == fits
    names = {"type": "object", "patternProperties": {pattern: False}}
    left_out = pattern == "["  # no engine can compile it
    assert (refused(names, {text: 1}) is None) == (not fits or left_out)
    others = {
        "type": "object",
        "patternProperties": {pattern: True},
        "additionalProperties": False,
    }
    assert (refused(others, {text: 1}) is None) == fits


@pytest.mark.processes
def test_a_pattern_of_pythons_that_takes_for_ever() -> None:
    began = time.monotonic()
    found = refused({"type": "string", "pattern": "^(?=a)(a+)+$"}, "a" * 5_000 + "!")
    assert found is not None
    assert "takes too long" in found
    assert time.monotonic() - began < param_checks.ELSEWHERE_SECONDS + 10


TREE = {
    "anyOf": [
        {"type": "array", "items": {"$ref": "#/properties/x"}},
        {"type": "array", "items": {"$ref": "#/properties/x"}},
        {"type": "null"},
    ]
}
"""A schema with which each level of nesting doubles the work."""


def nested(levels: int) -> Any:
    value: Any = 1
    for _ in range(levels):
        value = [value]
    return value


def test_a_schema_that_doubles_the_work() -> None:
    with param_checks.limited_to(0.3):
        found = refused(TREE, nested(40))
    assert found is not None
    assert "takes too long" in found


@pytest.mark.parametrize("levels", [300, 900])
def test_params_that_are_nested_deeply(levels: int) -> None:
    found = refused(TREE, nested(levels))
    assert found == "task t: the params are nested too deeply"


def test_many_values_of_the_right_type_end_at_the_limit() -> None:
    numbers = {"type": "array", "items": {"type": "number"}}
    with param_checks.limited_to(0.2), pytest.raises(InputRejected, match="takes too long"):
        param_checks.check("t", schema(numbers), {"x": [1] * 400_000})
    assert refused(numbers, [1] * 1_000) is None


def test_the_limit_holds_in_its_block_only() -> None:
    with param_checks.limited_to(0):
        pass
    assert refused({"type": "number"}, 1) is None


def test_infinity_is_refused_in_words() -> None:
    found = refused({"type": "number", "multipleOf": 0.1}, float("inf"))
    assert found is not None
    assert "can't be checked" in found


def test_a_message_quotes_a_long_value_in_part() -> None:
    found = refused({"type": "array", "maxItems": 3}, list(range(100_000)))
    assert found is not None
    assert found.startswith("task t: param x: [0, 1, 2")
    assert found.endswith("is too long. Expected at most 3 items") or found.endswith("is too long")
    assert len(found) < 2 * param_checks.MAX_MESSAGE
