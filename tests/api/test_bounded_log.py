"""A log that can't fill a disk: lines of one place are counted, whatever they say."""

from __future__ import annotations

import logging

import pytest

from vidan.api import bounded_log
from vidan.api.bounded_log import MOST_LINES, BoundedLog


def record(name: str, line: int, message: str) -> logging.LogRecord:
    return logging.LogRecord(name, logging.ERROR, "loop.py", line, message, None, None)


def passed(bounded: BoundedLog, name: str, line: int, count: int) -> int:
    return sum(bounded.filter(record(name, line, f"socket {n}")) for n in range(count))


def test_lines_of_one_place_are_bounded_though_each_differs() -> None:
    bounded = BoundedLog()
    assert passed(bounded, "asyncio", 7, 500) == MOST_LINES
    assert passed(bounded, "asyncio", 8, 5) == 5
    assert passed(bounded, "uvicorn.access", 7, 500) == 500
    assert passed(bounded, "uvicorn.access", 7, 5_000) == bounded_log.MOST_REQUESTS - 500


def test_what_was_left_out_is_told_once_and_counted_anew(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    bounded = BoundedLog()
    passed(bounded, "asyncio", 7, 500)
    bounded.tell()
    assert caplog.messages == []
    monkeypatch.setattr(bounded_log, "WINDOW", 0.0)
    bounded.tell()
    bounded.tell()
    (told,) = caplog.messages
    assert told.startswith(
        f"{500 - MOST_LINES} more lines like those of asyncio, line 7, were left"
    )
    assert bounded.filter(caplog.records[0])
    assert passed(bounded, "asyncio", 7, 500) == MOST_LINES
