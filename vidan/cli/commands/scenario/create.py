"""`vidan scenario create`: check sources, then queue a scenario for each."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from vidan.cli import connect
from vidan.cli.command import Commands
from vidan.cli.options import completion
from vidan.cli.options.param_types import typed
from vidan.cli.options.params import (
    MaxLostOption,
    RecursiveOption,
    SkipBadOption,
    TimeoutOption,
    duration,
    label,
    moment,
    param,
    status,
    unique,
)
from vidan.cli.terminal.output import Output
from vidan.domain.bounds import DEFAULT_QUEUE, MAX_INTEGER
from vidan.domain.durations import in_words
from vidan.domain.status import Status
from vidan.errors import InputRejected, UsageError
from vidan.protocol import creation

if TYPE_CHECKING:
    from vidan.config import Settings
    from vidan.db.session import Connection, Database
    from vidan.protocol.creation import NewScenario
    from vidan.protocol.tasks import TaskSpec


commands = Commands("scenario")


@commands.command(
    "create",
    examples="""
        vidan scenario create street.mp4
        vidan scenario create *.mp4 --label batch=7 --param labels=person,car
        vidan scenario create rtsp://camera/stream --name north --param fps=5
        vidan scenario create /videos --recursive --skip-bad
        find /videos -name '*.mkv' | vidan scenario create --from - --quiet
        id=$(vidan scenario create street.mp4 --key street-1 --json | jq .id)
        vidan scenario create street.mp4 --key street-1 --retry-failed --wait
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
        typer.Argument(
            metavar="[SOURCE]...", help="Video files, URLs such as rtsp://camera/1, or folders."
        ),
    ] = None,
    file: Annotated[
        str | None,
        typer.Option(
            "--from", metavar="FILE", help="Read sources from FILE, one per line; - is stdin."
        ),
    ] = None,
    recursive: RecursiveOption = False,
    skip_bad: SkipBadOption = False,
    task: Annotated[
        str,
        typer.Option("--task", metavar="T", autocompletion=completion.tasks, help="Task to run."),
    ] = "detect",
    params: Annotated[
        list[Any] | None,
        typer.Option(
            "--param",
            metavar="K=V",
            parser=param,
            help="Set a parameter of the task, e.g. every=5. Repeatable.",
        ),
    ] = None,
    name: Annotated[
        str | None,
        typer.Option("--name", metavar="N", help="Display name, shown in listings."),
    ] = None,
    labels: Annotated[
        list[Any] | None,
        typer.Option(
            "--label", metavar="K=V", parser=label, help="Add a label, e.g. batch=7. Repeatable."
        ),
    ] = None,
    key: Annotated[
        str | None,
        typer.Option(
            "--key",
            metavar="K",
            help="If a scenario has this key already, return it, create none. Another task, source"
            " or other params are refused (exit code 10).",
        ),
    ] = None,
    key_reuse: Annotated[
        bool,
        typer.Option(
            "--key-reuse", help="Return the scenario that has the key, even if its work differs."
        ),
    ] = False,
    retry_failed: Annotated[
        bool,
        typer.Option(
            "--retry-failed",
            help="If the scenario that has the key has failed or was stopped, resume it.",
        ),
    ] = False,
    queue: Annotated[
        str,
        typer.Option(
            "--queue",
            metavar="Q",
            autocompletion=completion.queues,
            help="Queue; only workers started with `--queues Q` take it.",
        ),
    ] = DEFAULT_QUEUE,
    priority: Annotated[
        int,
        typer.Option(
            "--priority",
            metavar="P",
            min=-MAX_INTEGER - 1,
            max=MAX_INTEGER,
            help="Higher numbers run first.",
        ),
    ] = 0,
    wanted: Annotated[
        Any,
        typer.Option(
            "--status",
            metavar="S",
            parser=status,
            autocompletion=completion.wanted_statuses,
            help="init_startup queues it; inactive creates it without starting it.",
        ),
    ] = "init_startup",
    no_check: Annotated[
        bool,
        typer.Option("--no-check", help="Don't open the files: only the workers can see them."),
    ] = False,
    at: Annotated[
        Any,
        typer.Option(
            "--at",
            metavar="TIME",
            parser=moment,
            help="Start no earlier than this, e.g. 2027-01-31T06:00 (in this machine's time zone)"
            " or 2027-01-31T06:00+01:00.",
        ),
    ] = None,
    after: Annotated[
        Any,
        typer.Option(
            "--after",
            metavar="D",
            parser=duration,
            help="Start no earlier than this from now, e.g. 2h.",
        ),
    ] = None,
    retries: Annotated[
        int | None,
        typer.Option(
            "--retries",
            metavar="N",
            min=0,
            max=MAX_INTEGER,
            help="Retry at most N times after errors [the task's own number].",
        ),
    ] = None,
    time_limit: Annotated[
        Any,
        typer.Option(
            "--time-limit",
            metavar="D",
            parser=duration,
            help="End a run that takes longer than this [the task's own limit].",
        ),
    ] = None,
    soft_time_limit: Annotated[
        Any,
        typer.Option(
            "--soft-time-limit",
            metavar="D",
            parser=duration,
            help="After this long raise TimeLimitExceeded in the task, at its next frame [the"
            " task's own limit].",
        ),
    ] = None,
    wait: Annotated[
        bool, typer.Option("--wait", help="Wait until the scenarios have ended.")
    ] = False,
    timeout: TimeoutOption = None,
    max_lost: MaxLostOption = None,
) -> int:
    """Queue scenarios, one per source, and print their ids.

    Several sources are one transaction: all are queued or none. Paths are made absolute, and the
    files are opened first, unless --no-check is given; all that can't be read are named, and
    --skip-bad queues the others. A scenario with a key is created once: the same command returns it
    again, and with --retry-failed starts it again if it has failed or was stopped. With --wait the
    exit code says how the scenarios ended: 0 completed, 5 failed, 6 stopped, 7 timed out, 11
    completed with more frames lost than --max-lost allows. With --json one line of JSON is printed
    for each.
    """
    from vidan.cli import following
    from vidan.cli.gathering import gather

    named, held, check = sources or [], Status(wanted) is Status.INACTIVE, not no_check
    _check_usage(named, file, key=key, wait=wait, status=Status(wanted), times=(at, after))
    about_key = {"--key-reuse": key_reuse, "--retry-failed": retry_failed}
    _check_goes_with("--key", key is not None, about_key)
    _check_goes_with("--wait", wait, {"--timeout": timeout, "--max-lost": max_lost})
    given, tags = unique(params or [], "--param"), unique(labels or [], "--label")
    places = _places(named, file)
    checked = gather(out, places, check=check, recursive=recursive, skip_bad=skip_bad)
    if key is not None and len(checked) > 1:
        raise UsageError("--key is for one source alone", hint="create them one by one")
    new = creation.NewScenario(
        task=task,
        name=name,
        key=key,
        key_reuse=key_reuse,
        retry_failed=retry_failed,
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
    with connect.database(settings, out) as database:
        created = _create(database, new, given, checked, check=check)
        _note_time(out, at, after)
        _confirm(out, created, queue, held=held, unsourced=not checked and task == "detect")
        ids = [one.id for one in created]
        if out.json and not wait:
            _print_records(database, out, ids)
    if not wait:
        return 0
    with closing(connect.open_database(settings, guarded=True)) as database:
        return following.wait_and_tell(database, out, ids, timeout, created=True, max_lost=max_lost)


def _check_usage(
    sources: Sequence[str],
    file: str | None,
    *,
    key: str | None,
    wait: bool,
    status: str,
    times: tuple[datetime | None, float | None],
) -> None:
    """Raise UsageError for options that contradict each other."""
    rules = (
        ("-" in sources, "- is no source", "--from - reads sources from stdin, one per line"),
        (
            key is not None and (len(sources) > 1 or file is not None),
            "--key is for one source alone",
            "create them one by one",
        ),
        (
            status not in ("init_startup", "inactive"),
            f"a scenario can't be created as {status}",
            "--status init_startup or inactive",
        ),
        (
            wait and status == "inactive",
            "--wait would never end: an inactive scenario is not started",
            "leave out --wait or --status",
        ),
        (None not in times, "--at and --after exclude each other", "give one of them"),
    )
    for broken, problem, hint in rules:
        if broken:
            raise UsageError(problem, hint=hint)


def _check_goes_with(option: str, is_given: bool, given: Mapping[str, object]) -> None:
    """Raise UsageError for a given option that means something only beside another one."""
    for one, value in given.items():
        if value not in (None, False) and not is_given:
            raise UsageError(f"{one} goes with {option}", hint=f"add {option}, or leave out {one}")


def _places(sources: Sequence[str], file: str | None) -> list[str]:
    """All sources: those named as arguments, then those in the file."""
    return [*sources, *(_read_sources(file) if file is not None else [])]


def _read_sources(file: str) -> list[str]:
    try:
        text = sys.stdin.read() if file == "-" else Path(file).read_text(encoding="utf-8")
    except OSError as error:
        raise InputRejected(f"can't read {file}: {error.strerror}") from None
    except UnicodeDecodeError:
        raise InputRejected(
            f"{file} is not a text file", hint="--from reads sources, one per line"
        ) from None
    found = [line.strip() for line in text.splitlines() if line.strip()]
    if not found:
        where = "stdin" if file == "-" else file
        raise InputRejected(f"no sources in {where}", hint="write one source per line")
    return found


def _create(
    database: Database,
    new: NewScenario,
    params: Mapping[str, Any],
    sources: Sequence[str],
    *,
    check: bool,
) -> list[creation.Created]:
    """Create a scenario for each source, all or none; the params are words, typed by the task."""
    from vidan.protocol import tasks

    def work(connection: Connection) -> list[creation.Created]:
        spec = tasks.get(connection, new.task)
        each = _each(replace(new, params=typed(params, spec)), spec, sources, check=check)
        return creation.create_many(connection, each)

    return database.retrying(work)


def _each(
    new: NewScenario, spec: TaskSpec, sources: Sequence[str], *, check: bool
) -> list[NewScenario]:
    if spec.name == "detect":
        from vidan.detection.catalogue import detect_params

        new = replace(new, params=detect_params(new.params, check=check))
    return [replace(new, source=source) for source in sources] or [new]


def _confirm(
    out: Output,
    created: Sequence[creation.Created],
    queue: str,
    *,
    held: bool,
    unsourced: bool,
) -> None:
    """Print the ids, and say on stderr what was created."""
    if not out.json:
        for one in created:
            out.line({}, str(one.id), id=one.id)
        out.flush()
    old = [one for one in created if not one.new]
    count = len(created) - len(old)
    for one in old:
        _tell_found(out, one)
    if count:
        what = "scenario" if count == 1 else f"{count} scenarios"
        which = f" {created[0].id}" if count == 1 else ""
        done = "created, not started" if held else f"queued in {queue}"
        out.note(f"{what}{which} {done}")
    if unsourced:
        out.note("without a source it waits for a worker started with --source")


def _note_time(out: Output, at: datetime | None, after: float | None) -> None:
    """Say when new scenarios are due, and that a time has passed."""
    now = datetime.now(UTC)
    if at is not None and at <= now:
        out.note(f"--at {out.when(at)} has passed: it is due at once")
    elif at is not None:
        left = in_words(max(1, round((at - now).total_seconds())))
        out.note(f"due at {out.when(at)} (in {left})")
    elif after:
        out.note(f"due in {in_words(after)}")


def _tell_found(out: Output, one: creation.Created) -> None:
    """Say which scenario has the key, in which status, and whether it was started again."""
    status = one.found or Status.INIT_STARTUP
    said = f"scenario {one.id} has this key already and is {out.said(status)}"
    if one.resumed:
        out.note(f"{said}: it resumes")
    elif status in (Status.FAILED, Status.INACTIVE):
        out.note(f"{said}; --retry-failed resumes it")
    else:
        out.note(said)


def _print_records(database: Database, out: Output, ids: Sequence[int]) -> None:
    """Print a line of JSON for each scenario, in the order in which they were created."""
    from vidan.services import queueing, scenarios

    with database.begin() as connection:
        stored = scenarios.find(connection, ids=ids, limit=len(ids))
        found = {s.id: s for s in queueing.told(connection, stored)}
    for one in ids:
        out.line(found[one].as_json(), str(one), id=one)
