"""Values that anybody may have stored by SQL: none of them fails the statement that reads it."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest
from sqlalchemy import text

from vidan.db.reading import MAX_DEPTH, Unreadable, json_time, json_value
from vidan.db.session import Database
from vidan.domain.bounds import EARLIEST, LATEST


@pytest.mark.parametrize(
    ("written", "reason"),
    [
        ('{"e": 1' + "0" * 5000 + "}", "a number in it is too large"),
        ("[" * (MAX_DEPTH + 1) + "]" * (MAX_DEPTH + 1), "it is nested too deeply"),
        ('{"a":' * 3000 + "1" + "}" * 3000, "it is nested too deeply"),
        ("{", "it is not JSON"),
    ],
)
@pytest.mark.parametrize("as_bytes", [False, True])
def test_json_that_can_not_be_read_says_why(written: str, reason: str, as_bytes: bool) -> None:
    found = json_value(written.encode() if as_bytes else written)
    assert isinstance(found, Unreadable)
    assert found.reason.startswith(reason)
    assert found == {"unreadable": found.reason}


@pytest.mark.parametrize("value", [[{}] * 1000, "[" * 1000, {"a": "{" * 500}])
def test_many_brackets_are_no_depth(value: Any) -> None:
    import json

    assert json_value(json.dumps(value)) == value


def test_a_statement_reads_what_python_lacks(database: Database) -> None:
    with database.begin() as connection:
        row = connection.execute(
            text(
                "SELECT CAST('infinity' AS timestamptz), CAST('-infinity' AS timestamptz),"
                " CAST('20000-01-01' AS timestamptz), CAST('4000-01-01 BC' AS timestamptz),"
                " CAST('infinity' AS date), CAST('4000-01-01 BC' AS date),"
                " CAST('5000000 years' AS interval), CAST('-5000000 years' AS interval),"
                " CAST('{\"e\": 1e5000}' AS jsonb), now()"
            )
        ).one()
    assert tuple(row[:4]) == (LATEST, EARLIEST, LATEST, EARLIEST)
    assert tuple(row[4:6]) == (LATEST.date(), EARLIEST.date())
    assert tuple(row[6:8]) == (timedelta.max, timedelta.min)
    assert isinstance(row[8], Unreadable)
    assert EARLIEST < row[9] < LATEST
    assert (json_time("infinity"), json_time("-infinity")) == (LATEST, EARLIEST)
