"""`vidan dead replay|purge`: send unreadable messages (dead letters) again, or delete them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import chain
from typing import TYPE_CHECKING, Annotated, Any

import typer

from vidan.cli import confirming, connect, failures
from vidan.cli.command import Commands
from vidan.cli.confirming import YesOption
from vidan.cli.options.params import before
from vidan.cli.terminal.output import Output
from vidan.domain.bounds import MAX_ID
from vidan.errors import BrokerUnavailable, UsageError

if TYPE_CHECKING:
    from vidan.config import Settings
    from vidan.db.session import Database
    from vidan.services.dead_letters import Before, DeadLetter

Ids = Annotated[
    list[int] | None,
    typer.Argument(metavar="[ID]...", min=1, max=MAX_ID, help="Ids of dead letters."),
]
AllOption = Annotated[bool, typer.Option("--all", help="All dead letters.")]
TopicOption = Annotated[
    str | None,
    typer.Option("--topic", metavar="T", help="With --all: only this topic."),
]


commands = Commands("dead")


@commands.command(
    "replay",
    broker=True,
    examples="""
        vidan dead replay 7
        vidan dead replay --all --topic scenarios
        vidan dead list -q | xargs -r vidan dead replay
    """,
)
def replay(
    out: Output,
    settings: Settings,
    ids: Ids = None,
    all: AllOption = False,
    topic: TopicOption = None,
) -> int:
    """Send unreadable messages (dead letters) to their topics again; delivered ones are removed.

    Use it when a newer vidan can read them. A message that is still unreadable comes back as a new
    dead letter. If the command is interrupted, a message may have been sent and kept: replaying it
    sends it twice, which does no harm. Exit code 9: messages that could not be delivered are kept.
    """
    from vidan import broker, inbox

    _check(ids, all, topic=topic)
    with connect.database(settings, out) as database:
        cluster = broker.connect(settings)
        code, batches = 0, inbox.letters(database, topic) if all else None
        if batches is None:
            code, letters = _named(database, out, ids or [])
            batches = iter([letters] if letters else [])
        first = next(batches, None)
        if first is None:
            if all:
                out.note("no dead letter matches")
            return code
        cluster.topics()  # raises BrokerUnavailable, which says why
        producer = cluster.producer()
        try:
            kept = _replay(database, out, producer, chain([first], batches))
        finally:
            producer.close()
    if kept:
        raise BrokerUnavailable(
            f"{kept} could not be delivered, and {'is' if kept == 1 else 'are'} kept",
            hint="check with `vidan doctor` that the broker works and the topic exists",
        )
    return code


def _replay(
    database: Database, out: Output, producer: Any, batches: Iterable[list[DeadLetter]]
) -> int:
    """Send all messages again; return how many could not be delivered."""
    from vidan import inbox
    from vidan.broker import envelope

    count = kept = unusable = 0
    for batch in batches:
        sent = inbox.send_again(database, producer, batch)
        for letter in sent:
            line = f"{letter.id}\t{letter.topic}"
            out.line({"id": letter.id, "topic": letter.topic, "replayed": True}, line, id=letter.id)
            try:
                envelope.decode(letter.payload)
            except ValueError:
                unusable += 1
        out.flush()
        count += len(sent)
        kept += len(batch) - len(sent)
        if not sent:  # the broker is unavailable, and each further try would take seconds
            break
    out.note(f"{count} sent again")
    if unusable:
        out.note(f"this version can't read {unusable} of them either: they will come back")
    return kept


@commands.command(
    "purge",
    examples="""
        vidan dead purge 7 8
        vidan dead purge --all --before 30d --yes
        vidan dead purge --all --topic retry_topic --before 2026-11-01 --yes
    """,
)
def purge(
    out: Output,
    settings: Settings,
    ids: Ids = None,
    all: AllOption = False,
    received: Annotated[
        Any,
        typer.Option(
            "--before",
            metavar="D",
            parser=before,
            help="With --all: only those older than this, e.g. 30d or 2026-11-01T12:00.",
        ),
    ] = None,
    topic: TopicOption = None,
    yes: YesOption = False,
) -> int:
    """Delete unreadable messages (dead letters). It asks first in a terminal; scripts add --yes.

    It does not delete failed scenarios; `vidan scenario delete` does.
    """
    from vidan.services import dead_letters

    _check(ids, all, topic=topic, before=received)
    confirming.require_answer(yes)
    with connect.database(settings, out, reads=True) as database:
        code = 0
        if all:
            with database.begin() as connection:
                count = dead_letters.count(connection, topic=topic, before=received)
            chosen: list[DeadLetter] = []
        else:
            code, chosen = _named(database, out, ids or [])
            count = len(chosen)
        if not count:
            if all:
                out.note("no dead letter matches")
            return code
        letters = "1 dead letter" if count == 1 else f"{count} dead letters"
        question = f"Delete {letters} permanently?"
        if not confirming.agreed(out, question, yes, otherwise="nothing was deleted"):
            return failures.UNEXPECTED
        _delete(database, out, None if all else [one.id for one in chosen], topic, received)
    return code


def _delete(
    database: Database, out: Output, ids: list[int] | None, topic: str | None, received: Before
) -> None:
    """Delete the messages with these ids, or all that match, in short transactions."""
    from vidan.services import dead_letters

    count = 0
    while True:
        if ids is None:
            gone = database.retrying(dead_letters.delete_some, topic=topic, before=received)
        else:
            gone = sorted(database.retrying(dead_letters.delete, ids))
        for one in gone:
            out.line({"id": one, "deleted": True}, str(one), id=one)
        count += len(gone)
        if ids is not None or not gone:
            break
    out.note(f"{count} deleted")


def _check(ids: Sequence[int] | None, all: bool, **filters: Any) -> None:
    """Raise UsageError unless exactly one of ids and --all is given."""
    if ids and all:
        raise UsageError("ids and --all exclude each other", hint="give one of them")
    if not (ids or all):
        raise UsageError("no dead letter is named", hint="give ids (`vidan dead list`), or --all")
    for name, value in filters.items():
        if ids and value is not None:
            raise UsageError(f"ids and --{name} exclude each other", hint=f"--all --{name} …")


def _named(database: Database, out: Output, ids: Sequence[int]) -> tuple[int, list[DeadLetter]]:
    """Return the exit code and the messages with these ids; an unknown id is reported."""
    from vidan.services import dead_letters

    with database.begin() as connection:
        found = dead_letters.get_many(connection, ids)
    code = 0
    for one in dict.fromkeys(ids):
        if one not in found:
            error = dead_letters.no_such_letter(one)
            if len(set(ids)) == 1:
                raise error
            code = failures.report(error, json=out.json, debug=out.debug)
    return code, [found[one] for one in dict.fromkeys(ids) if one in found]
