"""How words of the command line become values."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vidan.cli import params
from vidan.cli.output import plain, printable
from vidan.cli.scenario_create import typed
from vidan.services.tasks import DETECT, TaskSpec


@pytest.mark.parametrize(
    ("word", "seconds"),
    [("30", 30), ("30s", 30), ("10m", 600), ("2h", 7200), ("1.5h", 5400), ("0", 0), ("1d", 86400)],
)
def test_durations(word: str, seconds: float) -> None:
    assert params.duration(word) == seconds


@pytest.mark.parametrize("word", ["", "-1", "1w", "m", "1 m", "1e3", "nan", "inf", "٣"])
def test_no_durations(word: str) -> None:
    with pytest.raises(ValueError, match="not a duration"):
        params.duration(word)


@pytest.mark.parametrize(
    ("word", "value"),
    [
        ("n=3", 3), ("n=0.5", 0.5), ("n=true", True), ("n=null", None), ("n=[1,2]", [1, 2]),
        ("n=a,b", "a,b"), ("n=", ""), ("n=a=b", "a=b"), ("n=NaN", "NaN"), ('n="3"', "3"),
    ],
)  # fmt: skip
def test_params_are_json_if_they_parse_as_such(word: str, value: object) -> None:
    assert params.param(word) == ("n", value)


def test_params_take_the_types_of_the_schema() -> None:
    given = {"labels": "person, car", "model": 7, "min_score": 0.5, "every": "x"}
    assert typed(given, DETECT) == {
        "labels": ["person", "car"], "model": "7", "min_score": 0.5, "every": "x",
    }  # fmt: skip
    maybe = TaskSpec("t", {"properties": {"a": {"anyOf": [{"type": "string"}, {"type": "null"}]}}})
    assert typed({"a": 12, "b": 12}, maybe) == {"a": "12", "b": 12}
    assert typed({"a": None}, maybe) == {"a": None}


@given(st.text())
def test_a_value_never_leaves_its_field(text: str) -> None:
    shown = plain(text)
    assert shown.isprintable()
    assert "\t" not in shown


def test_control_characters_are_not_printed() -> None:
    assert "\x1b" not in printable("a\x1b[31mb\r\x07")
