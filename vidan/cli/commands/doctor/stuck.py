"""Checks of the database's rows: what waits, hangs or was left behind, and how to fix it."""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Mapping, MutableMapping, Sequence
from datetime import timedelta
from typing import TYPE_CHECKING

from vidan.cli.commands.doctor import finding
from vidan.cli.commands.doctor.finding import Finding, State
from vidan.cli.terminal.text import counted
from vidan.protocol import partitions
from vidan.services import acknowledged, diagnosis, versions, workers
from vidan.services.acknowledged import Failure
from vidan.services.diagnosis import Reason

if TYPE_CHECKING:
    from vidan.db.session import Connection
    from vidan.services.diagnosis import Count, OrchestratorSeen, Waiting
    from vidan.services.versions import Version
    from vidan.services.workers import WorkerRow

HEARTBEAT_PATIENCE = timedelta(seconds=8)
"""A worker that was not seen for longer than this is reported. Heartbeats come every 5 s."""

RELEASE_PATIENCE = timedelta(seconds=5)
"""A lease that ended longer ago is reported. An orchestrator releases leases within a second."""

ORCHESTRATOR_PATIENCE = timedelta(seconds=10)
"""An orchestrator that has been silent for longer is reported. It asks twice a second."""

ANNOUNCE_PATIENCE = timedelta(seconds=15)
"""An announcement that is overdue for longer is reported. An orchestrator announces within a
second; while the broker is unavailable it tries again every 2 s."""

LATELY = timedelta(days=1)
"""Dead letters and failed scenarios of this last time span are reported."""

MOST_REASONS = 8
"""Most reasons for waiting that are listed, each on a line of its own."""

_ORCHESTRATOR = "`vidan orchestrator` starts one (`vidan up` brings its own)"


def of_rows(
    connection: Connection, readers: MutableMapping[str, int], *, ack: bool = False
) -> Iterator[Finding]:
    """Yield all findings; fills `readers` (consumer group → number of readers).

    `ack` marks the failures that are found as seen.
    """
    from vidan.broker import messages

    alive = workers.find(connection)
    readers[messages.RUNNERS_GROUP] = len(alive)
    orchestrators = working, _ = _orchestrators(connection)
    readers[messages.ORCHESTRATORS_GROUP] = len(working)
    yield from _of_workers(connection, alive)
    yield from _of_versions(connection)
    yield _of_orchestrators(*orchestrators)
    yield from _of_silent_orchestrators(*orchestrators)
    yield from _of_waiting(connection, alive)
    yield _of_held(connection)
    yield _of_announcements(connection)
    yield _of_partitions(connection)
    yield from _of_dead(connection, ack=ack)


def _of_workers(connection: Connection, alive: Sequence[WorkerRow]) -> Iterator[Finding]:
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
            f"{counted(len(late), 'worker')} with late heartbeats; {first.name} ({first.worker_id})"
            f" was not seen for {span(first.silent_for)}"
        )
        remedy = (
            "its host may be overloaded or cut off from the database: `vidan workers show"
            f" {first.worker_id}`; other workers take its scenarios over when its lease ends"
        )
        yield Finding("heartbeats", State.WARN, found, remedy)


def _of_versions(connection: Connection) -> Iterator[Finding]:
    """Tell of apps of which several versions run at once, which is so during a deployment."""
    by_app: dict[str, list[Version]] = {}
    for one in versions.living(connection):
        by_app.setdefault(one.app, []).append(one)
    for app, several in sorted(by_app.items()):
        if sum(bool(one.workers) for one in several) > 1 or any(one.used for one in several):
            found = ", ".join(
                f"{one.number}{' (governs)' if one.governs else ''} on"
                f" {counted(len(one.workers), 'worker')}"
                for one in several
            )
            yield Finding("versions", State.OK, f"{app}: {found}")


def of_orchestrators(connection: Connection) -> Finding:
    """Find whether an orchestrator works for this database."""
    return _of_orchestrators(*_orchestrators(connection))


def _of_orchestrators(
    working: Sequence[OrchestratorSeen], silent: Sequence[OrchestratorSeen]
) -> Finding:
    if working:
        return Finding("orchestrator", State.OK, f"{len(working)} at work")
    without = "no scenario is announced, scenarios of dead workers stay held"
    if silent:
        return Finding(
            "orchestrator", State.WARN, f"{_silence(silent)}: {without}", _unfreeze(silent)
        )
    return Finding("orchestrator", State.WARN, f"none is connected: {without}", _ORCHESTRATOR)


def _of_silent_orchestrators(
    working: Sequence[OrchestratorSeen], silent: Sequence[OrchestratorSeen]
) -> Iterator[Finding]:
    """Find orchestrators that are frozen while others work."""
    if working and silent:
        found = f"{_silence(silent)}; {len(working)} at work"
        yield Finding("orchestrator", State.WARN, found, _unfreeze(silent))


def _orchestrators(
    connection: Connection,
) -> tuple[list[OrchestratorSeen], list[OrchestratorSeen]]:
    """Return the orchestrators that are at work, and those that are connected but silent."""
    found = diagnosis.orchestrators(connection)
    silent = [one for one in found if one.silent_for and one.silent_for > ORCHESTRATOR_PATIENCE]
    return [one for one in found if one not in silent], silent


def _silence(silent: Sequence[OrchestratorSeen]) -> str:
    first = silent[0]
    assert first.silent_for is not None
    more = f" and {len(silent) - 1} more" if len(silent) > 1 else ""
    return f"{first.name}{more} is connected but has said nothing for {span(first.silent_for)}"


def _unfreeze(silent: Sequence[OrchestratorSeen]) -> str:
    _, _, place = silent[0].name.partition(" ")
    host, _, pid = place.rpartition(" ")
    if not host:
        return f"its process is frozen or its host cut off: end it; {_ORCHESTRATOR}"
    return (
        f"the process is frozen or its host is cut off: on {host}, `kill -CONT {pid}` lets a"
        f" stopped one go on, `kill -9 {pid}` ends one that hangs; {_ORCHESTRATOR}"
    )


def _of_waiting(connection: Connection, alive: Sequence[WorkerRow]) -> Iterator[Finding]:
    stuck = diagnosis.waiting(connection, alive, patience=finding.PATIENCE)
    if not stuck:
        waiting = diagnosis.waiting_count(connection)
        yield Finding("waiting", State.OK, f"{_most(waiting)} waiting, none for long")
    yield from map(_of_reason, stuck[:MOST_REASONS])
    if len(stuck) > MOST_REASONS:
        found = f"{len(stuck) - MOST_REASONS} more reasons"
        yield Finding(
            "waiting", State.WARN, found, "see `vidan scenario list --status init_startup`"
        )


def of_unclaimable(connection: Connection) -> Iterator[Finding]:
    """Find scenarios that have long been due, and that no worker of now will take."""
    alive = workers.find(connection)
    for one in diagnosis.waiting(connection, alive, patience=finding.PATIENCE):
        if one.reason not in (Reason.BUSY, Reason.CAPPED):
            yield _of_reason(one)


def _of_reason(one: Waiting) -> Finding:
    why, remedy = _reason(one)
    others = f" and {one.count - 1} more, the longest" if one.count > 1 else ","
    found = f"scenario {one.first_id}{others} for {span(one.waited)}: {why}"
    return Finding("waiting", State.WARN, found, remedy)


_REASONS: Mapping[Reason, tuple[str, str]] = {
    Reason.NO_QUEUE: ("no worker has queue {queue}", "{start}"),
    Reason.NO_TASK: (
        "no worker in queue {queue} has task {task}",
        "`vidan worker --queues {q} --app MODULE:APP`, with the app that defines the task",
    ),
    Reason.VERSION: (
        "a newer version of task {task} has checked its params, and no worker in queue {queue}"
        " runs that version",
        "`vidan tasks show {task_q}` shows which versions run; start a worker with that version, or"
        " `vidan tasks use VERSION` lets an older one govern, whose workers take all",
    ),
    Reason.NO_SOURCE: ("all workers in queue {queue} were started for other sources", "{start}"),
    Reason.SUSPECT: (
        "it has crashed its worker process repeatedly, and only a worker with one slot takes it",
        "`vidan worker --slots 1 --queues {q}{app}`; `vidan scenario history {id}` shows what"
        " happened",
    ),
    Reason.DRAINING: ("all workers that could take it are draining: {workers}", "{start}"),
    Reason.CAPPED: (
        "no more of task {task} may run or start now in the whole cluster",
        "`vidan tasks show {task_q}` shows its concurrency and rate limits",
    ),
    Reason.BUSY: (
        "all workers that could take it are busy: {workers}",
        "start more workers: {start}; see `vidan workers list`",
    ),
    Reason.FREE: (
        "a worker that could take it is free: {workers}",
        "see `vidan scenario history {id}` and that worker's log",
    ),
}
"""For each reason why scenarios wait: what is found, and how to fix it."""

_UNSOURCED = (
    "no worker in queue {queue} accepts scenarios without a source",
    "`vidan worker --queues {q}{app} --source FILE`",
)
_BOUND = (
    "it runs only on a worker started with source {source}, and there is none",
    "`vidan worker --queues {q}{app} --source {source_q}`",
)


def _reason(one: Waiting) -> tuple[str, str]:
    """Return why scenarios wait, and how to fix it."""
    why, remedy = _REASONS[one.reason]
    if one.reason is Reason.NO_SOURCE:
        if one.source is not None:
            why, remedy = _BOUND
        elif one.unsourced:
            why, remedy = _UNSOURCED
    queue, app = shlex.quote(one.queue), "" if one.task == "detect" else " --app MODULE:APP"
    words = {
        "id": one.first_id,
        "queue": repr(one.queue),
        "q": queue,
        "task": repr(one.task),
        "task_q": shlex.quote(one.task),
        "source": one.source,
        "source_q": shlex.quote(one.source or ""),
        "app": app,
        "start": f"`vidan worker --queues {queue}{app}`",
        "workers": _names(one.workers),
    }
    return why.format_map(words), remedy.format_map(words)


def _of_held(connection: Connection) -> Finding:
    lost = diagnosis.left_behind(connection, patience=RELEASE_PATIENCE)
    if lost.count:
        found = (
            f"{_most(lost)} held by workers that are gone, first: scenario {lost.first_id};"
            " no orchestrator has released it"
        )
        return Finding("running", State.WARN, found, _ORCHESTRATOR)
    return Finding("running", State.OK, f"{_most(diagnosis.held_count(connection))} running")


def _of_announcements(connection: Connection) -> Finding:
    oldest = diagnosis.oldest_announcement(connection)
    if oldest is None or oldest.age <= ANNOUNCE_PATIENCE:
        return Finding("announcements", State.OK, "none is overdue")
    found = f"overdue for {span(oldest.age)}, first: scenario {oldest.scenario_id}"
    remedy = f"no orchestrator runs, or the broker is unavailable: {_ORCHESTRATOR}"
    return Finding("announcements", State.WARN, found, remedy)


def _of_partitions(connection: Connection) -> Finding:
    missing = partitions.missing(connection, weeks=1)
    if not missing:
        return Finding("partitions", State.OK, "those of this week and the next exist")
    weeks = ", ".join(map(str, missing))
    found = f"predictions have none for the week of {weeks}"
    return Finding("partitions", State.WARN, found, f"an orchestrator adds them: {_ORCHESTRATOR}")


def _of_dead(connection: Connection, *, ack: bool) -> Iterator[Finding]:
    look = acknowledged.mark if ack else acknowledged.unseen
    for failure in Failure:
        found = look(connection, failure, LATELY)
        check, remedy = _FAILURES[failure]
        if not found.count:
            yield Finding(check, State.OK, "no new one since yesterday")
            continue
        last = f"{_most(found)} since yesterday, the last is {_LAST[failure]}{found.first_id}"
        if ack:
            yield Finding(check, State.OK, f"{last}: marked as seen")
        else:
            yield Finding(check, State.WARN, last, remedy.format(id=found.first_id))


_LAST = {Failure.DEAD_LETTER: "", Failure.SCENARIO: "scenario "}
_FAILURES = {
    Failure.DEAD_LETTER: (
        "dead letters",
        "`vidan dead show {id}` shows it; `vidan dead replay` sends it again, `vidan dead purge`"
        " deletes it; `vidan doctor --ack` marks all as seen",
    ),
    Failure.SCENARIO: (
        "failed",
        "`vidan scenario history {id}` shows why; `vidan scenario retry {id}` resumes it;"
        " `vidan doctor --ack` marks all as seen",
    ),
}
"""For each kind of failure: the name of its check, and how to fix it."""


def span(time: timedelta) -> str:
    """Return a time span in words: 45 s, 12 min, 3 h, 2 days."""
    seconds = int(time.total_seconds())
    for size, unit in ((86400, "days"), (3600, "h"), (60, "min")):
        if seconds >= 2 * size:
            return f"{seconds // size} {unit}"
    return f"{seconds} s"


def _most(some: Count) -> str:
    return f"{some.count} or more" if some.count >= diagnosis.COUNTED else str(some.count)


def _names(workers: Sequence[str], most: int = 3) -> str:
    listed = list(dict.fromkeys(workers))
    return ", ".join(listed[:most]) + (f" and {len(listed) - most} more" * (len(listed) > most))
