"""`vidan tasks`: the tasks that can be run, and their parameters."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from vidan.cli import connect
from vidan.cli.command import Commands
from vidan.cli.options import completion
from vidan.cli.terminal.output import Output
from vidan.cli.terminal.text import plain, to_json
from vidan.domain.durations import in_words

if TYPE_CHECKING:
    from vidan.config import Settings
    from vidan.services.versions import Version, WaitingFor

commands = Commands(
    "tasks",
    "Show tasks: the built-in `detect`, and those of apps; choose the version of an app.",
    examples="""
        vidan tasks list
        vidan tasks show detect
        vidan tasks use 3
    """,
)


@commands.command(
    "list",
    examples="""
        vidan tasks list
        vidan tasks list --quiet
        vidan tasks list --json | jq -r '.[] | select(.workers == []) | .name'
    """,
)
def list_tasks(out: Output, settings: Settings) -> None:
    """List tasks, and how many running workers can execute each; `none`: no worker can.

    In a pipe: name, whether it needs a source, parameters, summary, limit on how many run at once
    in the cluster, limit on how often one starts, number of workers, separated by tabs. With --json
    `workers` are the names of the workers.
    """
    with connect.database(settings, out, reads=True) as database, database.begin() as connection:
        from vidan.protocol import tasks
        from vidan.services import workers

        found = tasks.find(connection)
        having = workers.by_task(connection)

    def count(name: str) -> object:
        there = len(having.get(name, []))
        return "none" if out.terminal and not there else there

    out.listing(
        found,
        {
            "NAME": lambda t: t.name,
            "SOURCE": lambda t: "required" if t.needs_source else "none",
            "PARAMS": lambda t: list(t.params_schema.get("properties", {})),
            "SUMMARY": lambda t: t.summary,
            "CONCURRENCY": lambda t: t.concurrency,
            "RATE": lambda t: t.rate_limit,
            "WORKERS": lambda t: count(t.name),
        },
        record=lambda t: t.as_json() | {"workers": having.get(t.name, [])},
        id=lambda t: t.name,
        name="tasks",
        spare=("PARAMS", "RATE", "CONCURRENCY"),
    )


@commands.command(
    "show",
    examples="""
        vidan tasks show detect
        vidan tasks show detect --json | jq .params
    """,
)
def show(
    out: Output,
    settings: Settings,
    task: Annotated[
        str,
        typer.Argument(metavar="TASK", autocompletion=completion.tasks, help="Name of the task."),
    ],
) -> None:
    """Show one task, its parameters, the running workers that can execute it, and its versions.

    The highest version of the app among running workers governs: its parameters and limits hold.
    What waits is listed by the version that has checked its parameters. `vidan tasks use` lets
    another version govern.
    """
    with connect.database(settings, out, reads=True) as database, database.begin() as connection:
        from vidan.protocol import tasks
        from vidan.services import versions, workers

        found = tasks.get(connection, task)
        there = workers.by_task(connection).get(found.name, [])
        governing = versions.governing(connection, task)
        living = versions.of_task(connection, task)
        waiting = versions.waiting_for(connection, task)
    record = found.as_json() | {
        "workers": there,
        "version": governing,
        "versions": [one.as_json() for one in living],
        "waiting": [one.as_json() for one in waiting],
    }
    if not out.json:
        del record["versions"], record["waiting"], record["max_attempts"]
        record.update((f"version {one.number}", _version(one, governing)) for one in living)
        record.update(_waiting(one, found.definition) for one in waiting)
        properties = record.pop("params").get("properties", {})
        for name in ("time_limit", "soft_time_limit"):
            record[name] = record[name] and in_words(record[name])
        record.update((f"param {name}", _in_words(schema)) for name, schema in properties.items())
    out.details(record, id=found.name)
    if not there:
        out.note(f"no running worker can execute {found.name}: its scenarios wait for one")


@commands.command(
    "use",
    examples="""
        vidan tasks show shop.look            lists the versions
        vidan tasks use 3
    """,
)
def use(
    out: Output,
    settings: Settings,
    version: Annotated[int, typer.Argument(metavar="VERSION", help="Number of the version.")],
) -> None:
    """Let a version of an app govern at once: its parameters, limits and schedules hold.

    It governs until a newer version is registered. Without this, a version that was rolled back
    governs again when the last worker of the newer one has left.
    """
    with connect.database(settings, out) as database:
        from vidan.services import versions

        used = database.retrying(versions.use, version)
    out.details(used.as_json(), id=str(used.number))
    if not used.workers:
        out.note(f"no running worker has version {used.number} of {used.app}")


def _version(one: Version, governing: int | None) -> str:
    """Return a version in words: `of shop:app, governs, on cpu-0@host`."""
    said = [f"of {one.app}"]
    if one.number == governing:
        said.append("governs, as `vidan tasks use` asked" if one.used else "governs")
    said.append(f"on {', '.join(dict.fromkeys(one.workers))}" if one.workers else "on no worker")
    return ", ".join(said)


def _waiting(one: WaitingFor, current: str) -> tuple[str, str]:
    """Return name and words for what waits: `12, the first is scenario 7, checked by version 3`."""
    from vidan.services.versions import COUNTED

    count = f"{one.count} or more" if one.count >= COUNTED else str(one.count)
    said = [count, f"the first is scenario {one.first_id}"]
    if one.definition != current:
        numbers = ", ".join(map(str, one.versions)) or "an unknown one"
        said.append(f"checked by another version ({numbers})" if one.definition else "not checked")
        if one.definition and not one.workers:
            said.append("which no running worker has")
    return f"waiting {one.definition}".rstrip(), ", ".join(said)


def _in_words(schema: dict[str, Any]) -> str:
    """Return the values of a parameter: `number, 0 to 1, default 0.35; its description`."""
    said = [plain(schema.get("type"))] if "type" in schema else []
    if "enum" in schema:
        said = ["one of " + ", ".join(map(str, schema["enum"]))]
    low, high = schema.get("minimum"), schema.get("maximum")
    if low is not None and high is not None:
        said.append(f"{low} to {high}")
    elif low is not None:
        said.append(f"at least {low}")
    elif "exclusiveMinimum" in schema:
        said.append(f"more than {schema['exclusiveMinimum']}")
    if schema.get("default") is not None:
        said.append(f"default {to_json(schema['default'])}")
    text = ", ".join(said)
    return f"{text}; {schema['description']}" if "description" in schema else text
