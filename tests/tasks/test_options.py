"""The options of a scenario: each way to create one takes the same, with the same defaults."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import pytest

from vidan.cli.commands.scenario import create
from vidan.domain.schedule import Schedule
from vidan.protocol.creation import NewScenario
from vidan.tasks.signature import Signature
from vidan.tasks.task import Task

NAMES = {"retries": "max_attempts", "at": "not_before", "wanted": "status", "sources": "source"}
"""Options that are named differently in NewScenario."""

OWN: dict[str, set[str]] = {
    "Signature": set(),
    "Task.new": {"self", "check", "more"},
    "scenario create": {"out", "settings", "file", "no_check", "wait", "timeout", "max_lost"},
    "Schedule": {"cron", "timezone", "catch_up", "name"},
}
"""Parameters that are no options of a scenario; a schedule's `name` names the schedule."""

LEFT_OUT = {
    # a follow-up starts when the scenario before has ended
    "Signature": {"status", "not_before", "after"},
    "Task.new": {"status", "task"},
    # one command creates no chain
    "scenario create": {"then", "on_failure"},
    # a schedule determines the task, the time and the key itself
    "Schedule": set("task name key labels status not_before after max_attempts time_limit"
                    " soft_time_limit then on_failure".split()),
}  # fmt: skip

WAYS: dict[str, Callable[..., Any]] = {
    "Signature": Signature,
    "Task.new": Task.new,
    "scenario create": create.create,
    "Schedule": Schedule,
}


@pytest.mark.parametrize("way", WAYS)
def test_each_way_to_create_a_scenario_takes_its_options(way: str) -> None:
    known = inspect.signature(NewScenario).parameters
    taken = {
        NAMES.get(name, name): parameter.default
        for name, parameter in inspect.signature(WAYS[way]).parameters.items()
        if name not in OWN[way]
    }
    assert set(taken) == set(known) - LEFT_OUT[way]
    for name, default in taken.items():
        if default is not inspect.Parameter.empty and "factory" not in repr(default):
            wanted = known[name].default
            assert default == (None if "factory" in repr(wanted) else wanted), name
