"""The kinds of tests: markers given by what each test uses, so that no test names its own kind.

A test has the kinds of its fixtures and of what its code refers to, helpers in tests/ included. A
test without any of them is a `unit` test, unless it stands in one of the folders that go across the
rooms. A unit test fails if it starts a process after all; since servers are processes, it can use
neither a database nor a broker.
"""

from __future__ import annotations

import multiprocessing
import subprocess
import sys
from collections.abc import Callable, Generator, Iterator
from pathlib import Path
from types import CodeType, FunctionType
from typing import Any

import pytest

from vidan.processes import lifeline
from vidan.stack.postgres import PostgresServer
from vidan.testing import postgres

FIXTURES = {
    "postgres": ("database", "processes"),
    "home_template": ("database", "processes"),
    "empty_home": ("database", "processes"),
    "embedded_broker": ("processes",),
    "hosted": ("processes",),
    "broker_kind": ("processes",),
    "real_kafka": ("kafka", "processes"),
}
"""The kinds of the tests that use a fixture, directly or through others."""

REFERENCES: list[tuple[object, tuple[str, ...]]] = [
    (subprocess, ("processes",)),
    (multiprocessing, ("processes",)),
    (lifeline, ("processes",)),
    (PostgresServer, ("database", "processes")),
    (postgres, ("database", "processes")),
]
"""The kinds of the tests whose code refers to a global object."""

METHODS = {"testing": ("database", "processes")}
"""The kinds of the tests whose code calls a method of this name: `app.testing()` starts servers."""

TESTS = Path(__file__).resolve().parents[1]
KINDS = {"database", "kafka", "processes"}
ACROSS = {"chaos", "contract", "fuzz", "model", "recovery"}
"""The folders whose tests are never `unit` tests: they take longer, and are run by their folder."""
STARTS = {"subprocess.Popen", "os.fork", "os.forkpty", "os.posix_spawn", "os.system"}
"""The events of the interpreter (PEP 578) that announce a new process."""

_unit_tests: list[str] = []
"""The unit test that this process runs now, if any."""
_known: dict[CodeType, set[str]] = {}


@pytest.hookimpl(tryfirst=True)  # before `-m` chooses by the markers
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Give each test the markers of its kinds, or `unit`."""
    for item in items:
        marked = {mark.name for mark in item.iter_markers()}
        kinds = _kinds(item) | (marked & KINDS)
        if not kinds and item.path.relative_to(TESTS).parts[0] not in ACROSS:
            kinds = {"unit"}
        for kind in sorted(kinds - marked):
            item.add_marker(kind)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item: pytest.Item) -> Generator[None, object, object]:
    """Watch a unit test, its set-up and its end included."""
    if item.get_closest_marker("unit") is None:
        return (yield)
    _unit_tests.append(item.nodeid)
    try:
        return (yield)
    finally:
        _unit_tests.pop()


def _kinds(item: pytest.Item) -> set[str]:
    if not isinstance(item, pytest.Function):
        return set()
    found: set[str] = set()
    for name in item.fixturenames:
        found.update(FIXTURES.get(name, ()))
    fixtures = item._fixtureinfo.name2fixturedefs
    for function in (item.function, *(one.func for all_ in fixtures.values() for one in all_)):
        found |= _referred_to(function)
    return found


def _referred_to(function: Callable[..., Any]) -> set[str]:
    """The kinds of what a function of the tests refers to, itself and through functions of theirs.

    Methods are not followed: the fixture `bare` starts no process, but `bare.run` does. A test that
    calls such a method is marked by hand, and fails as long as it is not.
    """
    if not isinstance(function, FunctionType) or not function.__module__.startswith("tests."):
        return set()
    code = function.__code__
    if code not in _known:
        found = _known[code] = set[str]()  # entered at once, for functions that call each other
        for name in _names(code):
            found.update(METHODS.get(name, ()))
            value = function.__globals__.get(name)
            found.update(*(kinds for one, kinds in REFERENCES if one is value))
            if callable(value):
                found |= _referred_to(value)
    return _known[code]


def _names(code: CodeType) -> Iterator[str]:
    """The globals and attributes that a function names, and those of the functions inside it."""
    yield from code.co_names
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield from _names(constant)


def _watch(event: str, arguments: tuple[Any, ...]) -> None:
    if _unit_tests and event in STARTS:
        pytest.fail(
            f"{_unit_tests[-1]} starts a process ({event} {arguments[0]!r}): mark it with"
            " @pytest.mark.processes, or let it use a fixture that tests/support/kinds.py knows"
        )


sys.addaudithook(_watch)
