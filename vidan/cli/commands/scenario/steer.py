"""`vidan scenario wait|start|stop|retry|delete`, by ids or by filters."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any

import typer

from vidan.cli import connect, failures
from vidan.cli.command import Commands
from vidan.cli.options.params import (
    Ids,
    LabelOption,
    MaxLostOption,
    StatusOption,
    TaskOption,
    TimeoutOption,
    unique,
)
from vidan.cli.terminal.output import Output
from vidan.errors import NotAllowedError, NotFoundError, UsageError, VidanError

if TYPE_CHECKING:
    from vidan.config import Settings
    from vidan.db.session import Connection, Database
    from vidan.domain.status import Status

    Action = Callable[[Connection, int], bool]

PAGE = 1000
"""Scenarios read in one transaction."""


@dataclass(frozen=True)
class Choice:
    """The scenarios that a command is about: either ids or filters."""

    ids: Sequence[int]
    status: Sequence[Status] | None
    labels: dict[str, str]
    task: str | None

    @classmethod
    def of(
        cls,
        ids: list[int] | None,
        status: list[Any] | None,
        label: list[Any] | None,
        task: str | None,
    ) -> Choice:
        """Make a choice from the command line. Raises UsageError."""
        filtered = bool(status or label or task)
        if ids and filtered:
            raise UsageError(
                "ids and filters exclude each other", hint="give ids, or --status, --label, --task"
            )
        if not (ids or filtered):
            raise UsageError(
                "no scenario is named", hint="give ids, or filters: --status, --label, --task"
            )
        return cls(list(dict.fromkeys(ids or ())), status, unique(label or [], "--label"), task)

    @property
    def by_filter(self) -> bool:
        """Whether filters chose the scenarios; then one that can't be changed is skipped."""
        return not self.ids

    def find(self, database: Database) -> list[int]:
        """Return the given ids in their order, or the matching ids, the oldest first."""
        return list(self.ids) if self.ids else list(self._pages(database))

    def _pages(self, database: Database) -> Iterator[int]:
        from vidan.services import scenarios

        last = 0
        while True:
            with database.begin() as connection:
                page = scenarios.find(
                    connection,
                    status=self.status,
                    labels=self.labels,
                    task=self.task,
                    after_id=last,
                    limit=PAGE,
                    newest_first=False,
                )
            yield from (scenario.id for scenario in page)
            if len(page) < PAGE:
                return
            last = page[-1].id


commands = Commands("scenario")


@commands.command(
    "wait",
    examples="""
        vidan scenario wait 42 --timeout 10m
        vidan scenario wait --label batch=7 && echo all completed
        vidan scenario wait 42 --max-lost 1% || echo more than a hundredth is lost
        vidan scenario wait 42 --json | jq .error
    """,
)
def wait(
    out: Output,
    settings: Settings,
    ids: Ids = None,
    status: StatusOption = None,
    label: LabelOption = None,
    task: TaskOption = None,
    timeout: TimeoutOption = None,
    max_lost: MaxLostOption = None,
) -> int:
    """Wait until scenarios have ended.

    Exit code 0: all completed; 5: one failed; 6: one was stopped; 7: timed out; 11: all completed,
    but one has lost more frames than --max-lost allows. If several apply, 5 comes before 6, 6
    before 7, and 7 before 11. Ctrl-C ends the waiting, not the scenarios.
    """
    from vidan.cli import following

    choice = Choice.of(ids, status, label, task)
    with connect.database(settings, out, reads=True, follows=True) as database:
        chosen = choice.find(database)
        if not chosen:
            raise NotFoundError("no scenario matches", hint="see `vidan scenario list`")
        return following.wait_and_tell(database, out, chosen, timeout, max_lost=max_lost)


@commands.command(
    "start",
    examples="""
        vidan scenario start 42                      resume at the checkpoint
        vidan scenario start 42 --from-beginning     delete what was stored, begin again
        vidan scenario start --status inactive --label camera=north
    """,
)
def start(
    out: Output,
    settings: Settings,
    ids: Ids = None,
    status: StatusOption = None,
    label: LabelOption = None,
    task: TaskOption = None,
    from_beginning: Annotated[
        bool,
        typer.Option("--from-beginning", help="Delete what was stored and begin again."),
    ] = False,
) -> int:
    """Start stopped or failed scenarios; they resume at their checkpoint.

    A completed scenario starts only with --from-beginning.
    """
    from vidan.services import steering

    return _steer(
        out,
        settings,
        Choice.of(ids, status, label, task),
        lambda c, one: steering.start(c, one, from_beginning=from_beginning),
    )


@commands.command(
    "stop",
    examples="""
        vidan scenario stop 42
        vidan scenario stop --status active --label batch=7
    """,
)
def stop(
    out: Output,
    settings: Settings,
    ids: Ids = None,
    status: StatusOption = None,
    label: LabelOption = None,
    task: TaskOption = None,
) -> int:
    """Stop scenarios; they keep their checkpoint and what they stored."""
    from vidan.services import steering

    return _steer(out, settings, Choice.of(ids, status, label, task), steering.stop)


@commands.command(
    "retry",
    examples="""
        vidan scenario retry 42
        vidan scenario retry --status failed --task detect
    """,
)
def retry(
    out: Output,
    settings: Settings,
    ids: Ids = None,
    status: StatusOption = None,
    label: LabelOption = None,
    task: TaskOption = None,
) -> int:
    """Resume failed scenarios at their checkpoint; retries and crashes count from 0 again."""
    from vidan.services import steering

    return _steer(out, settings, Choice.of(ids, status, label, task), steering.retry)


@commands.command(
    "delete",
    examples="""
        vidan scenario delete 42
        vidan scenario delete --status completed --label batch=7
    """,
)
def delete(
    out: Output,
    settings: Settings,
    ids: Ids = None,
    status: StatusOption = None,
    label: LabelOption = None,
    task: TaskOption = None,
) -> int:
    """Delete scenarios that have ended, with all that they stored."""
    from vidan.services import steering

    def remove(connection: Connection, one: int) -> bool:
        steering.delete(connection, one)
        return True

    choice = Choice.of(ids, status, label, task)
    return _steer(out, settings, choice, remove, deletes=True)


def _steer(
    out: Output, settings: Settings, choice: Choice, action: Action, *, deletes: bool = False
) -> int:
    """Do the action to each scenario, in a transaction each; a refusal does not stop the others."""
    code = 0
    # deleting needs no worker, so an embedded database that does not run is started for it
    with connect.database(settings, out, reads=deletes) as database:
        chosen = choice.find(database)
        if not chosen:
            out.note("no scenario matches")
        for one in chosen:
            try:
                steer_one(database, out, one, action, deletes=deletes)
            except (NotAllowedError, NotFoundError) as error:
                if choice.by_filter:  # its status has changed since, or never allowed the action
                    out.note(f"skipped: {error}")
                    continue
                refused = _refused(out, error, alone=len(chosen) == 1)
                code = code or refused
    return code


def _refused(out: Output, error: VidanError, *, alone: bool) -> int:
    if alone:
        raise error
    return failures.report(error, json=out.json, debug=out.debug)


def steer_one(
    database: Database, out: Output, one: int, action: Action, *, deletes: bool = False
) -> None:
    """Do the action to one scenario, print its status afterwards, and say what was done."""
    from vidan.services import scenarios

    def work(connection: Connection) -> tuple[bool, scenarios.Scenario | None]:
        changed = action(connection, one)
        return changed, None if deletes else scenarios.get(connection, one)

    changed, after = database.retrying(work)
    if after is None:
        out.line({"id": one, "deleted": True}, str(one), id=one)
        out.note(f"scenario {one} is deleted")
        return
    out.line(after.as_json(), f"{one}\t{out.shown(after.status)}", id=one)
    if out.terminal or not changed:
        out.note(f"scenario {one} is {out.said(after.status)}" + ("" if changed else " already"))
