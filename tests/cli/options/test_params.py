"""How words of the command line become values."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from enum import StrEnum

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vidan.cli.options import params
from vidan.cli.options.param_types import typed
from vidan.cli.terminal.text import plain, printable
from vidan.protocol.tasks import DETECT
from vidan.run.run import Run
from vidan.tasks.app import Vidan


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
    name, given = params.param(word)
    assert (name, given.value) == ("n", value)
    assert given.word == word.removeprefix("n=")


def test_params_take_the_types_of_the_schema() -> None:
    words = ["labels=person, car", "model=7", "min_score=0.5", "every=x"]
    assert typed(dict(map(params.param, words)), DETECT) == {
        "labels": ["person", "car"], "model": "7", "min_score": 0.5, "every": "x",
    }  # fmt: skip


class Version(StrEnum):
    OLD = "1.10"


def task(
    run: Run,
    text: str,
    maybe: str | None,
    version: Version,
    names: list[str],
    versions: list[Version] | None,
    either: str | float,
    numbers: list[float],
    both: list[str | int],
) -> None:
    """Do nothing."""


TEXTS = ["1.10", "1e5", "1E400", "-0", "12345678901234567890.5", "true", " 7 ", '{"a": 1}', "[1]"]


@pytest.mark.parametrize("name", ["text", "maybe", "version"])
@pytest.mark.parametrize("word", TEXTS)
def test_text_is_the_word_itself(name: str, word: str) -> None:
    assert of_task(f"{name}={word}") == word


@pytest.mark.parametrize(
    ("word", "value"),
    [
        ('text="1.10"', "1.10"), ("maybe=null", None), ('maybe="null"', "null"),
        ("names=1.10", ["1.10"]), ("names=1.10,2", ["1.10", "2"]), ("names=true", ["true"]),
        ('names=["1.10"]', ["1.10"]), ('names="1.10"', ["1.10"]), ("versions=1.10", ["1.10"]),
        ("versions=null", None), ("either=1.10", 1.1), ("numbers=1.10", [1.1]), ("both=1", [1]),
    ],
)  # fmt: skip
def test_what_the_schema_allows_is_what_a_word_becomes(word: str, value: object) -> None:
    assert of_task(word) == value


def of_task(word: str) -> object:
    """What a task with many types of parameters gets for `name=word`."""
    app = Vidan()
    app.task(name="t", source=False)(task)
    name, given = params.param(word)
    return typed({name: given}, app.tasks["t"].spec)[name]


@pytest.mark.parametrize("word", ["36526d", "9999999d", "9" * 400 + "d"])
def test_no_time_is_longer_ago_than_a_century(word: str) -> None:
    with pytest.raises(ValueError, match="longer ago than 100 years"):
        params.before(word)


def test_a_time_or_how_long_ago() -> None:
    assert params.before("36525d") == params.LONGEST_AGO
    assert params.before("2026-11-01T12:00+00:00") == datetime(2026, 11, 1, 12, tzinfo=UTC)
    assert params.before("20261101") == params.before("2026-11-01")
    assert params.before("90s") == timedelta(seconds=90)
    for word in ("soon", "2026", "30", "9" * 400):
        with pytest.raises(ValueError, match="neither a duration"):
            params.before(word)


@given(st.text())
def test_a_value_never_leaves_its_field(text: str) -> None:
    shown = plain(text)
    assert shown.isprintable()
    assert "\t" not in shown


@given(st.floats(allow_nan=False))
def test_a_number_is_written_as_it_is(number: float) -> None:
    assert float(plain(number)) == number
    assert not plain(number).endswith(".0")


def test_control_characters_are_not_printed() -> None:
    assert "\x1b" not in printable("a\x1b[31mb\r\x07")


@pytest.mark.parametrize(
    ("word", "lost", "frames", "exceeded"),
    [
        ("0", 0, 100, False), ("0", 1, 100, True), ("3", 3, 100, False), ("3", 4, 100, True),
        ("1%", 1, 100, False), ("1%", 2, 199, True), ("0.1%", 1, 1000, False),
        ("0.1%", 2, 1999, True), ("0%", 0, 0, False), ("100%", 7, 7, False),
        ("0.000001%", 1, 10**8, False), ("0.000001%", 2, 10**8, True),
    ],
)  # fmt: skip
def test_how_much_may_be_lost(word: str, lost: int, frames: int, exceeded: bool) -> None:
    assert params.max_lost(word).is_exceeded(lost, frames) is exceeded
    assert str(params.max_lost(word)) == word


@pytest.mark.parametrize("word", ["", "-1", "1.5", "101%", "%", "one", "1 %", "nan", "٣"])
def test_no_number_of_frames_and_no_share(word: str) -> None:
    with pytest.raises(ValueError, match="neither a number of frames"):
        params.max_lost(word)
