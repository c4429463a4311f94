"""Every command has help that ends in examples, and the examples are right."""

from __future__ import annotations

import pkgutil
import re
import shlex
from collections.abc import Iterator
from importlib import import_module
from typing import Any

import pytest
import typer

from tests.support.shell import Shell
from vidan.cli import command
from vidan.cli import commands as commands_room
from vidan.cli.main import ALIASES, COMMANDS, app

EXPECTED = """
run up doctor orchestrator worker api events top
db:upgrade,downgrade,history,current,check,prune
topics:create,list
workers:list,show,scale,drain,stop
scenario:create,list,show,history,logs,summary,wait,start,stop,retry,transition,delete
predictions:show,watch,find,export,render
dead:list,show,replay,purge
tasks:list,show,use
schedules:list,show,pause,resume
models:list,show
"""


def commands() -> Iterator[tuple[str, Any]]:
    """Every command by its words."""
    for name, entry in COMMANDS.items():
        built = import_module(f"vidan.cli.commands.{entry.module}").commands.build()
        if not hasattr(built, "commands"):
            yield name, built
        else:
            yield from ((f"{name} {sub}", found) for sub, found in built.commands.items())


ALL = dict(commands())


def test_the_commands_of_this_version_are_there_and_no_others() -> None:
    expected = set()
    for word in EXPECTED.split():
        name, _, subs = word.partition(":")
        expected |= {f"{name} {sub}" for sub in subs.split(",")} if subs else {name}
    assert set(ALL) == expected


@pytest.mark.parametrize("name", ALL)
def test_help_says_what_it_does_and_ends_in_an_example(name: str) -> None:
    found = ALL[name]
    with found.make_context(f"vidan {name}", [], resilient_parsing=True) as ctx:
        text = found.get_help(ctx)
    assert found.help
    examples = text.partition("\nExamples:\n")[2].splitlines()
    assert any(line.startswith(f"  vidan {name}") or f" vidan {name} " in line for line in examples)
    undescribed = [p.name for p in found.params if not getattr(p, "help", None)]
    assert undescribed == []


@pytest.mark.parametrize("name", ALL)
def test_examples_name_commands_and_options_that_exist(name: str) -> None:
    epilog = ALL[name].epilog
    for line in epilog.splitlines():
        for words in _calls(line):
            path = " ".join(words[:2]) if " ".join(words[:2]) in ALL else words[0]
            assert path in ALL, line
            options = {o for p in ALL[path].params for o in (*p.opts, *p.secondary_opts)}
            for word in words:
                if word.startswith("--"):
                    assert word.partition("=")[0] in options, line


def _calls(line: str) -> Iterator[list[str]]:
    """The words of each `vidan …` in a line of examples, up to the remark or the next program."""
    for found in re.finditer(r"\bvidan ([a-z][^|$)&>]*)", line.partition("   ")[0].strip() or line):
        words = shlex.split(found[1].partition("  ")[0])
        if words:
            yield words


def test_there_is_one_way_to_register_a_command() -> None:
    """A module's `commands`, reached from COMMANDS: directly, or as a part of its group."""
    registered = set()
    for module in pkgutil.walk_packages(commands_room.__path__, f"{commands_room.__name__}."):
        part = getattr(import_module(module.name), "commands", None)
        if isinstance(part, command.Commands):
            names = [str(found.name) for found in part.app.registered_commands]
            registered |= {name if part.name == name else f"{part.name} {name}" for name in names}
    assert registered == set(ALL)
    for name, entry in COMMANDS.items():
        assert import_module(f"vidan.cli.commands.{entry.module}").commands.name == name


def test_help_of_a_group_ends_in_examples() -> None:
    group = typer.main.get_command(app)
    for name in COMMANDS:
        built = import_module(f"vidan.cli.commands.{COMMANDS[name].module}").commands.build()
        assert isinstance(built, command.Command) or built.epilog
    assert group.epilog


def test_help_lists_the_commands_and_hides_aliases(bare: Shell) -> None:
    shown = bare("--help")
    assert shown.code == 0
    assert shown.err == ""
    listed = re.findall(r"^  (\w+) +\S", shown.out.partition("Options:")[0], re.M)
    assert [name for name in listed if name in COMMANDS] == list(COMMANDS)
    assert not set(ALIASES) & set(listed)
    assert "Examples:" in shown.out


@pytest.mark.parametrize(
    ("alias", "path"),
    [
        (["worker", "list"], "vidan workers list"),
        (["worker", "--json", "show"], "vidan workers show"),
        (["worker", "drain"], "vidan workers drain"),
        (["worker", "scale"], "vidan workers scale"),
        (["scenarios", "list"], "vidan scenario list"),
        (["prediction", "show"], "vidan predictions show"),
        (["topic", "create"], "vidan topics create"),
        (["task", "show"], "vidan tasks show"),
        (["schedule", "pause"], "vidan schedules pause"),
        (["model", "list"], "vidan models list"),
    ],
)
def test_singular_and_plural_work(bare: Shell, alias: list[str], path: str) -> None:
    shown = bare(*alias, "--help")
    assert shown.code == 0
    assert shown.out.startswith(("Usage: " + path, "Usage: vidan " + " ".join(alias[:1])))
    assert path.rsplit(maxsplit=1)[-1] in shown.out.splitlines()[0]


def test_the_singular_of_events_works(bare: Shell) -> None:
    assert bare("event", "--help").out.startswith("Usage: vidan event [OPTIONS]")


def test_version(bare: Shell) -> None:
    from vidan import __version__

    shown = bare("--version")
    assert (shown.code, shown.out) == (0, f"vidan {__version__}\n")


@pytest.mark.processes
def test_completion_knows_commands_without_their_modules(bare: Shell) -> None:
    shown = bare.run(_VIDAN_COMPLETE="complete_bash", COMP_WORDS="vidan scen", COMP_CWORD="1")
    assert shown.out.split() == ["scenario"]
