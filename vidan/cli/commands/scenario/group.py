"""`vidan scenario`: the group, and the commands that show scenarios."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Annotated, Any

import typer

from vidan.cli import connect, following, listing
from vidan.cli.command import Commands
from vidan.cli.commands.scenario import create, logs, steer, summary
from vidan.cli.options import completion
from vidan.cli.options.filters import FilterOptions
from vidan.cli.options.params import AllRowsOption, Id, LimitOption, SortOption
from vidan.cli.terminal.output import COUNTED, Output
from vidan.domain.durations import in_words

if TYPE_CHECKING:
    from vidan.config import Settings
    from vidan.services.scenarios import Scenario, Transition

commands = Commands(
    "scenario",
    "Create, follow, start and stop scenarios. A scenario is one durable run of a task, mostly"
    " over one video.",
    examples="""
        vidan scenario create street.mp4
        vidan scenario list --status active
        vidan scenario stop 42
    """,
)
commands.include(create.commands)


def frames(scenario: Scenario) -> str:
    """Return the progress: `120/795`, `120/~795` where the total is estimated, or `120`."""
    return str(scenario.frames_done) + following.of_total(scenario, "/")


@commands.command(
    "list",
    examples="""
        vidan scenario list
        vidan scenario list --status active --status init_startup --label camera=north
        vidan scenario list --status failed --quiet | xargs -r vidan scenario retry
        vidan scenario list --source '*/north/*' --since 7d --sort -frames
        vidan scenario list --json | jq '.[] | select(.crashes > 0)'
    """,
)
def list_scenarios(
    out: Output,
    settings: Settings,
    filters: FilterOptions = FilterOptions(),  # noqa: B008  (frozen)
    sort: SortOption = None,
    limit: LimitOption = None,
    all: AllRowsOption = False,
) -> None:
    """List scenarios, the newest first. A terminal shows 50 and says how many more there are.

    In a pipe, and with --quiet or --json, all are printed, unless --limit is given. In a pipe:
    id, status, frames, task, worker, source, name, time of creation, what comes next (the time
    at which it is due, or #3: the third of those that are due in its queue), seconds waited,
    seconds run and number of lost frames, separated by tabs. A terminal shows the status
    init_startup as queued, init_startup_processing as starting, active as running,
    init_shutdown and in_shutdown_processing as stopping, inactive as stopped; completed and
    failed keep their names. --status takes the names. --source takes a path as create does.
    """
    from vidan.services.filters import Order, count

    most = listing.most(out, limit, all)
    with connect.database(settings, out, reads=True) as database:
        wanted = filters.read(database)

        def total() -> int:
            with database.begin() as connection:
                return count(connection, wanted, most=COUNTED + 1)

        found = listing.scenarios(database, wanted, sort or Order(), most, told=True)
        _print(out, found, most, total)


def upcoming(scenario: Scenario) -> object:
    """Return what a waiting scenario waits for: its place in the queue, or the time it is due."""
    if scenario.queue_position is not None:
        return f"#{scenario.queue_position}"
    return scenario.due_at


def _print(
    out: Output, found: Iterator[Scenario], most: int | None, count: Callable[[], int]
) -> None:
    out.listing(
        found,
        {
            "ID": lambda s: s.id,
            "STATUS": lambda s: s.status,
            "FRAMES": frames,
            "TASK": lambda s: s.task,
            "WORKER": lambda s: s.worker,
            "SOURCE": lambda s: s.source,
            "NAME": lambda s: s.name,
            "CREATED": lambda s: s.created_at,
            "NEXT": upcoming,
            "WAITED": lambda s: s.waited_seconds and round(s.waited_seconds, 1),
            "RAN": lambda s: s.ran_seconds and round(s.ran_seconds, 1),
            "LOST": lambda s: s.lost_frames,
        },
        record=lambda s: s.as_json(),
        id=lambda s: s.id,
        name="scenarios",
        spare=("WAITED", "RAN", "CREATED", "NAME", "WORKER"),
        most=most,
        count=count,
    )


@commands.command(
    "show",
    examples="""
        vidan scenario show 42
        vidan scenario show 42 --traceback
        vidan scenario show 42 --json | jq -r .status
    """,
)
def show(
    out: Output,
    settings: Settings,
    scenario_id: Id,
    traceback: Annotated[
        bool, typer.Option("--traceback", help="Print the traceback of its last error alone.")
    ] = False,
) -> None:
    """Show one scenario with all its fields. With --json the traceback is among them."""
    with connect.database(settings, out, reads=True) as database, database.begin() as connection:
        from vidan.services import queueing, scenarios

        (scenario,) = queueing.told(connection, [scenarios.get(connection, scenario_id)])
        gaps = scenarios.gaps(connection, scenario_id)
        trace = scenarios.traceback(connection, scenario_id)
    if traceback and not out.json:
        if trace is None:
            out.note(f"scenario {scenario_id} has no traceback")
        else:
            out.line({}, trace, id=scenario_id)
        return
    record: dict[str, Any] = scenario.as_json()
    record["gaps"] = [
        {"from_frame": gap.from_frame, "to_frame": gap.to_frame, "reason": gap.reason}
        for gap in gaps
    ]
    if out.json:
        record["traceback"] = trace
    else:
        record["status"] = scenario.status
        if out.terminal:
            record.update((name, getattr(scenario, name)) for name in scenarios.TIMES)
        for name in ("attempts", "max_retries"):
            del record[name]
        record["retries"] = f"{scenario.retries} of {scenario.max_attempts}"
        record["gaps"] = [f"{gap.from_frame}-{gap.to_frame} ({gap.reason})" for gap in gaps]
        for name in ("time_limit", "soft_time_limit"):
            limit = record.pop(name)
            if limit is not None:  # None: the task's own limit applies, if it has one
                record[name] = in_words(limit)
    out.details(record, id=scenario.id)


@commands.command(
    "history",
    quiet=False,
    examples="""
        vidan scenario history 42
        vidan scenario history 42 --last 10
        vidan scenario history 42 --json | jq -r '.[-1].reason'
    """,
)
def history(
    out: Output,
    settings: Settings,
    scenario_id: Id,
    last: Annotated[
        int | None, typer.Option("--last", metavar="N", min=1, help="Show only the last N changes.")
    ] = None,
) -> None:
    """Show when and why a scenario changed its status, and what changed it.

    In a pipe: time, from, to, actor, reason, separated by tabs.
    """
    with connect.database(settings, out, reads=True) as database, database.begin() as connection:
        from vidan.services import scenarios

        found: list[Transition] = scenarios.history(connection, scenario_id, limit=last)
    out.listing(
        found,
        {
            "AT": lambda t: t.at,
            "FROM": lambda t: t.from_status,
            "TO": lambda t: t.to_status,
            "ACTOR": lambda t: t.actor,
            "REASON": lambda t: t.reason,
        },
        record=lambda t: t.as_json(),
        id=lambda t: t.at,
        name="transitions",
        spare=("FROM", "ACTOR"),
    )


@commands.command(
    "transition",
    examples="""
        vidan scenario transition 42 active      same as `vidan scenario start 42`
        vidan scenario transition 42 inactive    same as `vidan scenario stop 42`
    """,
)
def transition(
    out: Output,
    settings: Settings,
    scenario_id: Id,
    status: Annotated[
        str,
        typer.Argument(
            metavar="STATUS", autocompletion=completion.asked_statuses, help="active or inactive."
        ),
    ],
) -> None:
    """Alias of start and stop, kept for scripts of the first system.

    `active` and `init_startup` start the scenario, `inactive` and `init_shutdown` stop it. Only
    workers set the other statuses.
    """
    from vidan.domain.status import Status
    from vidan.errors import UsageError

    may_be_asked = (Status.ACTIVE, Status.INIT_STARTUP, Status.INACTIVE, Status.INIT_SHUTDOWN)
    if status not in list(Status):
        asked = ", ".join(may_be_asked)
        raise UsageError(f"no such status {status!r}", hint=f"ask for one of: {asked}")

    def ask(connection: Any, one: int) -> bool:
        from vidan.services import steering

        return steering.request(connection, one, Status(status))

    with connect.database(settings, out) as database:
        steer.steer_one(database, out, scenario_id, ask)


commands.include(logs.commands)
commands.include(summary.commands)
commands.include(steer.commands)
