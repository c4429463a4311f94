"""What `vidan doctor` says of the rows: what waits, hangs or was left behind, and the mend."""

from __future__ import annotations

import shlex
from collections.abc import Iterator, MutableMapping, Sequence
from datetime import timedelta
from typing import TYPE_CHECKING

from vidan.cli.commands.doctor import finding
from vidan.cli.commands.doctor.finding import Finding, State
from vidan.cli.terminal.text import counted

if TYPE_CHECKING:
    from vidan.db.session import Connection
    from vidan.services.diagnosis import Some, Waiting
    from vidan.services.workers import WorkerRow

HEARTBEAT_PATIENCE = timedelta(seconds=8)
"""A heartbeat comes every 5 s."""
RELEASE_PATIENCE = timedelta(seconds=5)
"""An orchestrator releases what was left behind within a second."""
ANNOUNCE_PATIENCE = timedelta(seconds=15)
"""An orchestrator announces within a second; while the broker is away it tries every 2 s."""
LATELY = timedelta(days=1)
MOST_REASONS = 8

_ORCHESTRATOR = "`vidan orchestrator` starts one (`vidan up` brings its own)"


def of_rows(connection: Connection, readers: MutableMapping[str, int]) -> Iterator[Finding]:
    """All of it; `readers` gets how many there are to read for each consumer group."""
    from vidan.broker import messages
    from vidan.services import diagnosis, workers

    alive = workers.find(connection)
    orchestrators = diagnosis.orchestrators(connection)
    readers[messages.RUNNERS_GROUP] = len(alive)
    readers[messages.ORCHESTRATORS_GROUP] = orchestrators
    yield from _of_workers(connection, alive)
    yield _of_orchestrators(orchestrators)
    yield from _of_waiting(connection, alive)
    yield _of_held(connection)
    yield _of_announcements(connection)
    yield _of_partitions(connection)
    yield from _of_dead(connection)


def _of_workers(connection: Connection, alive: Sequence[WorkerRow]) -> Iterator[Finding]:
    from vidan.services import diagnosis

    if not alive:
        remedy = "`vidan worker` or `vidan up` starts one"
        yield Finding("workers", State.WARN, "none is alive", remedy)
        return
    busy = sum(worker.state == "busy" for worker in alive)
    draining = sum(worker.state == "draining" for worker in alive)
    found = f"{len(alive)} alive, {busy} busy" + (f", {draining} draining" if draining else "")
    yield Finding("workers", State.OK, found)
    late = diagnosis.late_heartbeats(connection, patience=HEARTBEAT_PATIENCE)
    if late:
        first = late[0]
        found = (
            f"{counted(len(late), 'worker')} late, first {first.name} ({first.worker_id}):"
            f" not seen for {span(first.silent_for)}"
        )
        remedy = (
            f"is its host overloaded, or cut off from the database? `vidan workers show "
            f"{first.worker_id}`; others take over when its lease ends"
        )
        yield Finding("heartbeats", State.WARN, found, remedy)


def _of_orchestrators(count: int) -> Finding:
    if count:
        return Finding("orchestrator", State.OK, f"{count} connected")
    found = "none is connected: nothing is announced, no lease that ended is released"
    return Finding("orchestrator", State.WARN, found, _ORCHESTRATOR)


def _of_waiting(connection: Connection, alive: Sequence[WorkerRow]) -> Iterator[Finding]:
    from vidan.services import diagnosis

    stuck = diagnosis.waiting(connection, alive, patience=finding.PATIENCE)
    if not stuck:
        waiting = diagnosis.waiting_count(connection)
        yield Finding("waiting", State.OK, f"{_most(waiting)} wait, none for long")
    for one in stuck[:MOST_REASONS]:
        why, remedy = _reason(one)
        others = f" and {one.count - 1} more, the longest" if one.count > 1 else ","
        found = f"scenario {one.first_id}{others} for {span(one.waited)}: {why}"
        yield Finding("waiting", State.WARN, found, remedy)
    if len(stuck) > MOST_REASONS:
        found = f"{len(stuck) - MOST_REASONS} reasons more"
        yield Finding("waiting", State.WARN, found, "`vidan scenario list --status init_startup`")


def _reason(one: Waiting) -> tuple[str, str]:
    """Why they wait, and what mends it."""
    from vidan.services.diagnosis import Reason

    app = "" if one.task == "detect" else " --app MODULE:APP"
    queue = shlex.quote(one.queue)
    start = f"`vidan worker --queues {queue}{app}`"
    who = _names(one.workers)
    match one.reason:
        case Reason.NO_QUEUE:
            return f"no worker has queue {one.queue!r}", start
        case Reason.NO_TASK:
            return (
                f"no worker of queue {one.queue!r} has task {one.task!r}",
                f"`vidan worker --queues {queue} --app MODULE:APP`, with the app that has it",
            )
        case Reason.NO_SOURCE if one.source is not None:
            start = f"`vidan worker --queues {queue}{app} --source {shlex.quote(one.source)}`"
            return f"bound to source {one.source}, and no worker was started with it", start
        case Reason.NO_SOURCE:
            return (
                f"no worker of queue {one.queue!r} was started for such sources",
                f"without a source: a worker with --source FILE takes it; with one: {start}",
            )
        case Reason.SUSPECT:
            return (
                "it has killed its process more than once, and only one of one slot takes it",
                f"`vidan worker --slots 1 --queues {queue}{app}`; what happened: "
                f"`vidan scenario history {one.first_id}`",
            )
        case Reason.DRAINING:
            return f"all workers that could take it are draining: {who}", start
        case Reason.CAPPED:
            return (
                f"no more of task {one.task!r} may run or start at once in the whole cluster",
                f"its concurrency and rate: `vidan tasks show {shlex.quote(one.task)}`",
            )
        case Reason.BUSY:
            return (
                f"all workers that could take it are busy: {who}",
                f"more workers take more: {start}; see `vidan workers list`",
            )
        case Reason.FREE:
            return (
                f"a worker that could take it is free: {who}",
                f"`vidan scenario history {one.first_id}`, and that worker's log",
            )


def _of_held(connection: Connection) -> Finding:
    from vidan.services import diagnosis

    lost = diagnosis.left_behind(connection, patience=RELEASE_PATIENCE)
    if lost.count:
        found = (
            f"{_most(lost)} held by workers that are gone, first: scenario {lost.first_id};"
            " no orchestrator has released it"
        )
        return Finding("running", State.WARN, found, _ORCHESTRATOR)
    return Finding("running", State.OK, f"{_most(diagnosis.held_count(connection))} run")


def _of_announcements(connection: Connection) -> Finding:
    from vidan.services import diagnosis

    oldest = diagnosis.oldest_announcement(connection)
    if oldest is None or oldest.age <= ANNOUNCE_PATIENCE:
        return Finding("announcements", State.OK, "none is overdue")
    found = f"overdue for {span(oldest.age)}, first: scenario {oldest.scenario_id}"
    remedy = f"no orchestrator runs, or the broker is away: {_ORCHESTRATOR}"
    return Finding("announcements", State.WARN, found, remedy)


def _of_partitions(connection: Connection) -> Finding:
    from vidan.protocol import partitions

    missing = partitions.missing(connection, weeks=1)
    if not missing:
        return Finding("partitions", State.OK, "predictions of this week and the next have theirs")
    weeks = ", ".join(map(str, missing))
    found = f"predictions have none for the week of {weeks}"
    return Finding("partitions", State.WARN, found, f"an orchestrator makes them: {_ORCHESTRATOR}")


def _of_dead(connection: Connection) -> Iterator[Finding]:
    from vidan.services import diagnosis

    dead = diagnosis.dead_letters_since(connection, LATELY)
    if dead.count:
        found = f"{_most(dead)} since yesterday, the last is {dead.first_id}"
        remedy = f"`vidan dead show {dead.first_id}`; `vidan dead replay` or `vidan dead purge`"
        yield Finding("dead letters", State.WARN, found, remedy)
    else:
        yield Finding("dead letters", State.OK, "none since yesterday")
    failed = diagnosis.failed_since(connection, LATELY)
    if failed.count:
        found = f"{_most(failed)} since yesterday, the last is scenario {failed.first_id}"
        remedy = (
            f"`vidan scenario history {failed.first_id}`; `vidan scenario retry {failed.first_id}`"
        )
        yield Finding("failed", State.WARN, found, remedy)
    else:
        yield Finding("failed", State.OK, "no scenario since yesterday")


def span(time: timedelta) -> str:
    """A time span as a person says it: 45 s, 12 min, 3 h, 2 days."""
    seconds = int(time.total_seconds())
    for size, unit in ((86400, "days"), (3600, "h"), (60, "min")):
        if seconds >= 2 * size:
            return f"{seconds // size} {unit}"
    return f"{seconds} s"


def _most(some: Some) -> str:
    from vidan.services.diagnosis import COUNTED

    return f"{some.count} or more" if some.count >= COUNTED else str(some.count)


def _names(workers: Sequence[str], most: int = 3) -> str:
    listed = list(dict.fromkeys(workers))
    return ", ".join(listed[:most]) + (f" and {len(listed) - most} more" * (len(listed) > most))
