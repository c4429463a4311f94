"""`vidan scenario create`: queue sources, checked before anything is queued."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from vidan.cli import connect
from vidan.cli.command import Commands
from vidan.cli.options.param_types import typed
from vidan.cli.options.params import TimeoutOption, duration, label, moment, param, status, unique
from vidan.cli.terminal.output import Output
from vidan.errors import InputRejected, UsageError
from vidan.protocol import creation

if TYPE_CHECKING:
    from vidan.config import Settings
    from vidan.db.session import Connection
    from vidan.protocol.creation import NewScenario
    from vidan.protocol.tasks import TaskSpec


commands = Commands("scenario")


@commands.command(
    "create",
    examples="""
        vidan scenario create street.mp4
        vidan scenario create *.mp4 --label batch=7 --param labels=person,car
        vidan scenario create rtsp://camera/stream --name north --param fps=5
        find /videos -name '*.mkv' | vidan scenario create --from - --quiet
        id=$(vidan scenario create street.mp4 --key street-1 --json | jq .id)
        vidan scenario create street.mp4 --wait --timeout 10m
        vidan scenario create street.mp4 --after 2h --retries 5 --time-limit 30m
        vidan scenario create street.mp4 --at 2030-11-01T06:00+00:00
    """,
)
def create(
    out: Output,
    settings: Settings,
    sources: Annotated[
        list[str] | None,
        typer.Argument(metavar="[SOURCE]...", help="Video files, or URLs such as rtsp://camera/1."),
    ] = None,
    file: Annotated[
        str | None,
        typer.Option("--from", metavar="FILE", help="Sources, one a line; - reads stdin."),
    ] = None,
    task: Annotated[str, typer.Option("--task", metavar="T", help="What to run.")] = "detect",
    params: Annotated[
        list[Any] | None,
        typer.Option(
            "--param", metavar="K=V", parser=param, help="One of the task's; may be repeated."
        ),
    ] = None,
    name: Annotated[str | None, typer.Option("--name", metavar="N", help="For people.")] = None,
    labels: Annotated[
        list[Any] | None,
        typer.Option("--label", metavar="K=V", parser=label, help="A tag; may be repeated."),
    ] = None,
    key: Annotated[
        str | None,
        typer.Option("--key", metavar="K", help="Repeated, it returns the scenario that has it."),
    ] = None,
    queue: Annotated[
        str, typer.Option("--queue", metavar="Q", help="For its workers.")
    ] = "default",
    priority: Annotated[
        int,
        typer.Option(
            "--priority", metavar="P", min=-(2**31), max=2**31 - 1, help="Higher ones go first."
        ),
    ] = 0,
    wanted: Annotated[
        Any,
        typer.Option(
            "--status", metavar="S", parser=status, help="init_startup, or inactive: held back."
        ),
    ] = "init_startup",
    no_check: Annotated[
        bool, typer.Option("--no-check", help="Don't open the files: the workers see others.")
    ] = False,
    at: Annotated[
        Any,
        typer.Option(
            "--at",
            metavar="TIME",
            parser=moment,
            help="Not before, such as 2027-01-31T06:00, of this machine's zone, or …+01:00.",
        ),
    ] = None,
    after: Annotated[
        Any,
        typer.Option(
            "--after", metavar="D", parser=duration, help="Not before this time has passed: 10m."
        ),
    ] = None,
    retries: Annotated[
        int | None,
        typer.Option(
            "--retries", metavar="N", min=0, max=2**31 - 1, help="After errors; or the task's own."
        ),
    ] = None,
    time_limit: Annotated[
        Any,
        typer.Option(
            "--time-limit", metavar="D", parser=duration, help="A run that takes longer is ended."
        ),
    ] = None,
    soft_time_limit: Annotated[
        Any,
        typer.Option(
            "--soft-time-limit",
            metavar="D",
            parser=duration,
            help="The task is told after so long, at its next frame.",
        ),
    ] = None,
    wait: Annotated[bool, typer.Option("--wait", help="Wait until they have ended.")] = False,
    timeout: TimeoutOption = None,
) -> int:
    """Queue scenarios, one a source, and print their ids.

    Several sources are one transaction: all are queued or none. Files are made absolute and opened
    first, unless --no-check is given. With --wait the exit code says how they ended: 0 completed,
    5 failed, 6 stopped, 7 timed out. With --json, a line of JSON each.
    """
    from vidan.cli import following
    from vidan.domain.status import Status
    from vidan.video.sources import source_for

    _check_usage(sources or [], file, key=key, wait=wait, timeout=timeout, status=Status(wanted))
    places = [*(sources or []), *(_read_sources(file) if file is not None else [])]
    if at is not None and after is not None:
        raise UsageError("--at and --after exclude each other", hint="give one of them")
    given = unique(params or [], "--param")
    tags = unique(labels or [], "--label")
    checked = [source_for(place, check=not no_check) for place in places]
    with connect.database(settings, out) as database:
        from vidan.protocol import tasks
        from vidan.services import scenarios

        def work(connection: Connection) -> list[creation.Created]:
            spec = tasks.get(connection, task)
            new = creation.NewScenario(
                task=task,
                params=typed(given, spec),
                name=name,
                key=key,
                labels=tags,
                queue=queue,
                priority=priority,
                status=Status(wanted),
                not_before=at,
                after=after,
                max_attempts=retries,
                time_limit=time_limit,
                soft_time_limit=soft_time_limit,
            )
            return creation.create_many(connection, _each(new, spec, checked, check=not no_check))

        created = database.retrying(work)
        ids = [one.id for one in created]
        _confirm(out, created, queue, held=Status(wanted) is Status.INACTIVE)
        if not checked and task == "detect":
            out.note("without a source it waits for a worker started with --source")
        if out.json and not wait:
            with database.begin() as connection:
                found = {s.id: s for s in scenarios.find(connection, ids=ids, limit=len(ids))}
            for one in ids:
                out.line(found[one].as_json(), str(one), id=one)
    if not wait:
        return 0
    with closing(connect.open_database(settings, guarded=True)) as database:
        return following.wait_and_tell(database, out, ids, timeout, created=True)


def _check_usage(
    sources: Sequence[str],
    file: str | None,
    *,
    key: str | None,
    wait: bool,
    timeout: float | None,
    status: str,
) -> None:
    if "-" in sources:
        raise UsageError("- is no source", hint="--from - reads sources from stdin, one a line")
    if key is not None and (len(sources) > 1 or file is not None):
        raise UsageError("--key is for one source alone", hint="create them one by one")
    if timeout is not None and not wait:
        raise UsageError("--timeout goes with --wait", hint="add --wait, or leave it out")
    if status not in ("init_startup", "inactive"):
        raise UsageError(
            f"a scenario can't be created as {status}", hint="--status init_startup or inactive"
        )
    if wait and status == "inactive":
        raise UsageError("one that is held back never ends", hint="leave out --wait or --status")


def _read_sources(file: str) -> list[str]:
    try:
        text = sys.stdin.read() if file == "-" else Path(file).read_text(encoding="utf-8")
    except OSError as error:
        raise InputRejected(f"can't read {file}: {error.strerror}") from None
    except UnicodeDecodeError:
        raise InputRejected(
            f"{file} is not a text file", hint="--from takes sources, one a line"
        ) from None
    found = [line.strip() for line in text.splitlines() if line.strip()]
    if not found:
        where = "stdin" if file == "-" else file
        raise InputRejected(f"no sources in {where}", hint="one a line is expected")
    return found


def _each(
    new: NewScenario, spec: TaskSpec, sources: Sequence[str], *, check: bool
) -> list[NewScenario]:
    if spec.name == "detect":
        from vidan.detection.catalogue import detect_params

        new = replace(new, params=detect_params(new.params, check=check))
    return [replace(new, source=source) for source in sources] or [new]


def _confirm(out: Output, created: Sequence[Any], queue: str, *, held: bool) -> None:
    if not out.json:
        for one in created:
            out.line({}, str(one.id), id=one.id)
        out.flush()
    old = [one.id for one in created if not one.new]
    count = len(created) - len(old)
    for one in old:
        out.note(f"scenario {one} has this key already")
    if count:
        what = "scenario" if count == 1 else f"{count} scenarios"
        which = f" {created[0].id}" if count == 1 else ""
        done = "created, not started" if held else f"queued in {queue}"
        out.note(f"{what}{which} {done}")
