"""One value, NewScenario, is behind every way to create: their options have its names and defaults.

`status` has no place in Python, where a scenario that is not to run is not created.
"""

from __future__ import annotations

import inspect
from dataclasses import MISSING, Field, fields
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from tests.support.scenarios import get
from vidan import Run, Vidan
from vidan.api.bodies import Creation
from vidan.cli.commands.scenario.create import create
from vidan.db.session import Database
from vidan.domain.schedule import Schedule
from vidan.domain.status import Status
from vidan.errors import InputRejected, KeyTaken
from vidan.protocol.creation import NewScenario
from vidan.services import steering
from vidan.tasks.signature import Signature
from vidan.tasks.task import Task

SAID = {"not_before": "at", "max_attempts": "retries"}
"""Fields whose name in calls is another one."""


def default(one: Field[Any]) -> Any:
    if one.default_factory is not MISSING:
        return one.default_factory()
    return None if one.default is MISSING else one.default


def defaults(of: Any) -> dict[str, Any]:
    return {SAID.get(one.name, one.name): default(one) for one in fields(of)}


NEW = defaults(NewScenario)


def parameters(of: Any) -> dict[str, Any]:
    found = inspect.signature(of).parameters.values()
    return {one.name: one.default for one in found if one.kind is not one.VAR_KEYWORD}


def without_empty(options: dict[str, Any]) -> dict[str, Any]:
    """The options, in which None and an empty mapping are the same."""
    return {name: value or None for name, value in options.items() if value is not False}


def test_a_signature_has_the_options_of_a_new_scenario() -> None:
    expected = {name: value for name, value in NEW.items() if name != "status"}
    assert defaults(Signature) == {**expected, "task": None}


@pytest.mark.parametrize("method", [Task.new, Task.apply])
def test_a_call_has_the_options_of_a_new_scenario(method: Any) -> None:
    found = parameters(method)
    for name in ("self", "check"):
        found.pop(name)
    expected = {name: value for name, value in NEW.items() if name not in ("task", "status")}
    assert found.keys() == expected.keys()
    assert without_empty(found) == without_empty(expected)


def test_a_schedule_has_some_of_them() -> None:
    own = {"cron", "timezone", "catch_up", "name"}  # its name is not that of the scenarios
    found = {name: value for name, value in defaults(Schedule).items() if name not in own}
    assert found.items() <= NEW.items()
    assert {"params", "source", "queue", "priority"} == found.keys()


def test_a_body_has_some_of_them() -> None:
    found = {
        name: one.get_default(call_default_factory=True)
        for name, one in Creation.model_fields.items()
        if not one.is_required()
    }
    assert found.items() <= NEW.items()
    assert {"key", "key_reuse", "retry_failed"} <= found.keys()


def test_the_command_has_all_but_what_follows() -> None:
    found = parameters(create)
    of_command = {"sources": "source", "wanted": "status"}
    named = {of_command.get(name, name): value for name, value in found.items()}
    options = {name for name in NEW if name not in ("then", "on_failure")}
    assert options <= named.keys()
    for name in options - {"source"}:
        assert (named[name] or None) == (NEW[name] or None), name


def test_a_signature_takes_times_as_a_call_does(database: Database) -> None:
    when = datetime(2030, 1, 1, tzinfo=UTC)
    new = Signature("t", after=timedelta(minutes=2), time_limit=timedelta(hours=1)).new()
    assert (new.after, new.time_limit) == (120.0, 3600.0)
    assert Signature("t", at=when).new().not_before == when
    with pytest.raises(InputRejected, match="exclude"):
        Signature("t", at=when, after=3).new()


def test_a_key_in_python(database: Database) -> None:
    app = Vidan(database.url)

    @app.task(source=False)
    def add(run: Run, a: int = 1) -> int:
        return a

    first = add.apply(key="k")
    assert add.apply(a=1, key="k").id == first.id
    with pytest.raises(KeyTaken, match="param a"):
        add.apply(a=2, key="k")
    assert add.apply(a=2, key="k", key_reuse=True).id == first.id

    with database.begin() as connection:
        steering.stop(connection, first.id)
    assert not add.apply(key="k").resumed
    again = add.apply(key="k", retry_failed=True)
    assert (again.id, again.new, again.resumed) == (first.id, False, True)
    assert get(database, first.id).status is Status.INIT_STARTUP
