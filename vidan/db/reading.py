"""Reads values that anybody may have stored by SQL, so that none of them fails a whole statement.

JSON that Python can't hold becomes `Unreadable`; times out of range become the earliest or the
latest one that tables take.
"""

from __future__ import annotations

import json
import re
from datetime import date, datetime, timedelta
from typing import Any

import psycopg
from psycopg.types.datetime import DateLoader, IntervalLoader, TimestamptzLoader
from psycopg.types.json import set_json_loads

from vidan.domain.bounds import EARLIEST, LATEST

MAX_DEPTH = 200
"""Most levels of lists and objects in a JSON value. Deeper ones would use up the stack of what
encodes them again."""

_MINUS = re.compile(r"-|.*BC$", re.DOTALL)


class Unreadable(dict[str, str]):
    """Stands for a JSON value that can't be read, and is shown as `{"unreadable": "why"}`."""

    def __init__(self, reason: str) -> None:
        super().__init__(unreadable=reason)
        self.reason = reason


def json_value(data: str | bytes) -> Any:
    """Return decoded JSON, or Unreadable. Never raises."""
    try:
        value = json.loads(data)
    except RecursionError:
        return Unreadable("it is nested too deeply")
    except ValueError as error:
        if "digits" in str(error):
            return Unreadable("a number in it is too large")
        return Unreadable(f"it is not JSON: {error}")
    return Unreadable("it is nested too deeply") if is_too_deep(data, value) else value


def is_too_deep(data: str | bytes, value: Any) -> bool:
    """Tell whether decoded JSON has more than MAX_DEPTH levels; `data` is its text."""
    if isinstance(data, str):
        brackets = data.count("[") + data.count("{")
    else:
        brackets = data.count(b"[") + data.count(b"{")
    if brackets <= MAX_DEPTH:
        return False
    level, depth = [value], 0
    while level := [one for one in level if isinstance(one, list | tuple | dict)]:
        depth += 1
        if depth > MAX_DEPTH:
            return True
        level = [
            inner for one in level for inner in (one.values() if isinstance(one, dict) else one)
        ]
    return False


class _Time(TimestamptzLoader):
    def load(self, data: Any) -> datetime:
        try:
            return super().load(data)
        except (psycopg.DataError, OverflowError, ValueError):
            return EARLIEST if _is_early(data) else LATEST


class _Date(DateLoader):
    def load(self, data: Any) -> date:
        try:
            return super().load(data)
        except (psycopg.DataError, OverflowError, ValueError):
            return (EARLIEST if _is_early(data) else LATEST).date()


class _Interval(IntervalLoader):
    def load(self, data: Any) -> timedelta:
        try:
            return super().load(data)
        except (psycopg.DataError, OverflowError, ValueError):
            return timedelta.min if _is_early(data) else timedelta.max


def _is_early(data: Any) -> bool:
    return _MINUS.match(bytes(data).decode(errors="replace")) is not None


def json_time(stored: str) -> datetime:
    """Return a time that stands in JSON, as times in columns are read."""
    try:
        return datetime.fromisoformat(stored)
    except ValueError:
        return EARLIEST if _is_early(stored.encode()) else LATEST


def register(connection: psycopg.Connection[Any]) -> None:
    """Have a connection read values in this way."""
    set_json_loads(json_value, connection)
    for name, loader in (("timestamptz", _Time), ("date", _Date), ("interval", _Interval)):
        connection.adapters.register_loader(name, loader)
