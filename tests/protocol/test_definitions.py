"""Definitions of tasks: which of them accepts all that another one accepts."""

from __future__ import annotations

import json
from typing import Annotated, Any, Literal

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import BaseModel, ConfigDict, Field, create_model

from vidan.errors import InputRejected
from vidan.protocol import definitions, param_checks
from vidan.run.run import Run
from vidan.tasks import inspection
from vidan.tasks.app import Vidan


class Box(BaseModel):
    width: int


def schema(**params: Any) -> dict[str, Any]:
    given: dict[str, Any] = {
        name: one if isinstance(one, tuple) else (one, ...) for name, one in params.items()
    }
    made = create_model("task", __config__=ConfigDict(extra="forbid"), **given)
    return inspection.schema_of(made)


SMALL = Annotated[int, Field(ge=0, le=9)]
LARGE = Annotated[int, Field(ge=-1, le=99)]


@pytest.mark.parametrize(
    ("new", "old", "accepted"),
    [
        (schema(a=int), schema(a=int), True),
        (schema(a=int, b=(int, 1)), schema(a=int), True),
        (schema(a=int, b=int), schema(a=int), False),
        (schema(a=int), schema(a=int, b=(int, 1)), False),
        (schema(a=(int, 1)), schema(a=int), True),
        (schema(a=int), schema(a=(int, 1)), False),
        (schema(a=(int, 2)), schema(a=(int, 1)), True),
        (schema(a=float), schema(a=int), True),
        (schema(a=int), schema(a=float), False),
        (schema(a=int | None), schema(a=int), True),
        (schema(a=int), schema(a=int | None), False),
        (schema(a=int | str | None), schema(a=int | None), True),
        (schema(a=Any), schema(a=int), True),
        (schema(a=int), schema(a=Any), False),
        (schema(a=LARGE), schema(a=SMALL), True),
        (schema(a=SMALL), schema(a=LARGE), False),
        (schema(a=SMALL), schema(a=int), False),
        (schema(a=Literal["x", "y"]), schema(a=Literal["x"]), True),
        (schema(a=Literal["x"]), schema(a=Literal["x", "y"]), False),
        (schema(a=str), schema(a=Literal["x", "y"]), True),
        (schema(a=list[float]), schema(a=list[int]), True),
        (schema(a=list[int]), schema(a=list[float]), False),
        (schema(a=Box), schema(a=Box), True),
        (schema(a=Box, b=(int, 1)), schema(a=Box), True),
        ({}, schema(a=int), True),
        ({"type": "object"}, schema(a=int), True),
        (schema(a=int), {}, False),
        (schema(a=int), "text", False),
        (schema(a=int), {"properties": 3}, False),
    ],
)
def test_one_accepts_what_another_does(new: Any, old: Any, accepted: bool) -> None:
    assert definitions.accepts(new, old) is accepted


def test_a_digest_is_that_of_what_is_accepted() -> None:
    described = Vidan()

    @described.task(name="t", source=False)
    def first(run: Run, a: int = 1, b: Annotated[float, Field(le=1e16)] = 0.5) -> None:
        """Does this."""

    spec = first.spec
    remarked = json.loads(json.dumps(spec.params_schema))
    remarked["properties"]["a"] |= {"default": 2, "description": "another", "title": "Other"}
    remarked["properties"]["b"]["maximum"] = 10**16  # as jsonb returns it
    assert definitions.digest(remarked, False) == spec.definition
    assert definitions.digest(remarked, True) != spec.definition
    remarked["properties"]["title"] = {"type": "integer"}  # a param of this name
    assert definitions.digest(remarked, False) != spec.definition


KINDS = [int, float, str, bool, SMALL, LARGE, Literal["x"], Literal["x", "y"], int | None, Any]
PARAMS = st.dictionaries(
    st.sampled_from("ab"),
    st.tuples(st.sampled_from([*KINDS, list[int], list[float]]), st.sampled_from([..., None])),
)
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-2, 100) | st.floats(0, 1) | st.sampled_from("xyz"),
    lambda inner: st.lists(inner, max_size=2),
    max_leaves=3,
)


@settings(max_examples=300, deadline=None)
@given(PARAMS, PARAMS, st.dictionaries(st.sampled_from("ab"), VALUES))
def test_nothing_is_refused_that_was_to_be_accepted(
    new: dict[str, Any], old: dict[str, Any], params: dict[str, Any]
) -> None:
    wider, narrower = schema(**new), schema(**old)
    if not definitions.accepts(wider, narrower):
        return
    try:
        param_checks.check("t", narrower, params)
    except InputRejected:
        return
    param_checks.check("t", wider, params)
