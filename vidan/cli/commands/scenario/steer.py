"""`vidan scenario wait|start|stop|retry|delete`, by ids or by filters."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Annotated

import typer

from vidan.cli import confirming, connect, failures
from vidan.cli.choice import Choice, Loss
from vidan.cli.command import Commands
from vidan.cli.confirming import YesOption
from vidan.cli.options.filters import FilterOptions
from vidan.cli.options.params import Ids, MaxLostOption, TimeoutOption
from vidan.cli.terminal.output import Output
from vidan.errors import NotAllowedError, NotFoundError, VidanError

if TYPE_CHECKING:
    from vidan.config import Settings
    from vidan.db.session import Connection, Database

    Action = Callable[[Connection, int], bool]

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
    filters: FilterOptions = FilterOptions(),  # noqa: B008  (frozen)
    timeout: TimeoutOption = None,
    max_lost: MaxLostOption = None,
) -> int:
    """Wait until scenarios have ended.

    Exit code 0: all completed; 5: one failed; 6: one was stopped; 7: timed out; 11: all completed,
    but one has lost more frames than --max-lost allows. If several apply, 5 comes before 6, 6
    before 7, and 7 before 11. Ctrl-C ends the waiting, not the scenarios.
    """
    from vidan.cli import following

    choice = Choice(ids, filters)
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
        vidan scenario start --from-beginning --label batch=7 --yes
    """,
)
def start(
    out: Output,
    settings: Settings,
    ids: Ids = None,
    filters: FilterOptions = FilterOptions(),  # noqa: B008  (frozen)
    from_beginning: Annotated[
        bool,
        typer.Option("--from-beginning", help="Delete what was stored and begin again."),
    ] = False,
    yes: YesOption = False,
) -> int:
    """Start stopped or failed scenarios; they resume at their checkpoint.

    A completed scenario starts only with --from-beginning. With --from-beginning and filters it
    asks first in a terminal; scripts add --yes.
    """
    from vidan.services import steering

    choice = Choice(ids, filters)
    if not from_beginning:
        return _steer(out, settings, choice, steering.start)

    def again(connection: Connection, one: int) -> bool:
        choice.require_match(connection, one)
        return steering.start(connection, one, from_beginning=True)

    return _steer(out, settings, choice, again, loss=Loss("Start {} again, deleting {}", yes))


@commands.command(
    "stop",
    examples="""
        vidan scenario stop 42
        vidan scenario stop --status active --label batch=7
        vidan scenario stop --queue night --since 2h
    """,
)
def stop(
    out: Output,
    settings: Settings,
    ids: Ids = None,
    filters: FilterOptions = FilterOptions(),  # noqa: B008  (frozen)
) -> int:
    """Stop scenarios; they keep their checkpoint and what they stored."""
    from vidan.services import steering

    return _steer(out, settings, Choice(ids, filters), steering.stop)


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
    filters: FilterOptions = FilterOptions(),  # noqa: B008  (frozen)
) -> int:
    """Resume failed scenarios at their checkpoint; retries and crashes count from 0 again."""
    from vidan.services import steering

    return _steer(out, settings, Choice(ids, filters), steering.retry)


@commands.command(
    "delete",
    examples="""
        vidan scenario delete 42
        vidan scenario delete --status completed --label batch=7 --yes
    """,
)
def delete(
    out: Output,
    settings: Settings,
    ids: Ids = None,
    filters: FilterOptions = FilterOptions(),  # noqa: B008  (frozen)
    yes: YesOption = False,
) -> int:
    """Delete scenarios that have ended, with all that they stored.

    With filters it asks first in a terminal; scripts add --yes.
    """
    from vidan.services import steering

    def remove(connection: Connection, one: int) -> bool:
        choice.require_match(connection, one)
        steering.delete(connection, one)
        return True

    choice = Choice(ids, filters)
    loss = Loss("Delete {} and {}", yes)
    return _steer(out, settings, choice, remove, deletes=True, loss=loss)


def _steer(
    out: Output,
    settings: Settings,
    choice: Choice,
    action: Action,
    *,
    deletes: bool = False,
    loss: Loss | None = None,
) -> int:
    """Do the action to each scenario, in a transaction each; a refusal does not stop the others.

    A `loss` of what filters chose has to be accepted first.
    """
    code = 0
    asks = loss if choice.by_filter else None
    if asks:
        confirming.require_answer(asks.yes)
    # deleting needs no worker, so an embedded database that does not run is started for it
    with connect.database(settings, out, reads=deletes) as database:
        chosen = choice.find(database)
        if not chosen:
            out.note("no scenario matches")
        elif asks and not asks.accepted(database, out, chosen):
            return failures.UNEXPECTED
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
    from vidan.services import queueing, scenarios

    def work(connection: Connection) -> tuple[bool, scenarios.Scenario | None]:
        changed = action(connection, one)
        if deletes:
            return changed, None
        return changed, queueing.told(connection, [scenarios.get(connection, one)])[0]

    changed, after = database.retrying(work)
    if after is None:
        out.line({"id": one, "deleted": True}, str(one), id=one)
        out.note(f"scenario {one} is deleted")
        return
    out.line(after.as_json(), f"{one}\t{out.shown(after.status)}", id=one)
    if out.terminal or not changed:
        out.note(f"scenario {one} is {out.said(after.status)}" + ("" if changed else " already"))
