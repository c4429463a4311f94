"""The life of a run after its claim: start, shutdown, finish, failure and hand-over.

Most functions take many runs at a time and write them in one statement.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field

from sqlalchemy import Connection, text

from vidan.domain.status import HELD, STOPPING, Status
from vidan.protocol.changes import sql_list, status_literal
from vidan.protocol.fences import MINE, Fence, fence_rows
from vidan.protocol.transitions import BACK_OFF, ENDED_AT, HANDED_OVER, RELEASED, move

_DELAYED = "now() + make_interval(secs => CAST(:delay AS double precision))"


def start(connection: Connection, fences: Sequence[Fence], *, actor: str) -> dict[int, Status]:
    """Set claimed scenarios `active`. Returns the status of each one that the worker still holds.

    A missing id means that the lease was lost. `init_shutdown` means that a user has asked the
    scenario to stop meanwhile; the lease is not lost.
    """
    if not fences:
        return {}
    found = {
        moved.id: moved.to_status
        for moved in move(
            connection,
            rows=MINE.format(columns="", statuses=sql_list({Status.INIT_STARTUP_PROCESSING})),
            to=status_literal(Status.ACTIVE),
            actor=actor,
            assign=("started_at = coalesce(s.started_at, now())",),
            parameters={"fences": fence_rows(fences)},
        )
    }
    if len(found) < len(fences):
        found.update(_still_held(connection, fences))
    return found


def shut_down(connection: Connection, fence: Fence, *, actor: str) -> bool:
    """Note that a run which was asked to stop is shutting down (`in_shutdown_processing`)."""
    return bool(
        move(
            connection,
            rows=MINE.format(columns="", statuses=sql_list({Status.INIT_SHUTDOWN})),
            to=status_literal(Status.IN_SHUTDOWN_PROCESSING),
            actor=actor,
            parameters={"fences": fence_rows([fence])},
        )
    )


@dataclass(frozen=True, slots=True)
class Ending:
    """How a run ended: `completed`, `inactive`, or `failed` without a retry.

    `result` and `state` are JSON text, as `storable.json_text` returns it. `state` is the task's
    own state at the end: the run's last commit, if it had one, may hold an older state.
    """

    fence: Fence
    status: Status
    result: str | None = None
    state: str | None = None
    error: str | None = None
    reason: str | None = None
    trace: str | None = None
    """The traceback of the error."""

    def members(self) -> str:
        """Return what the statement of `finish` reads beside the fence, as members of JSON."""
        return (
            f'"new_status": "{self.status}", "new_result": {self.result or "null"},'
            f' "new_state": {self.state or "null"}, "new_error": {_in_json(self.error)},'
            f' "new_reason": {_in_json(self.reason)}, "new_trace": {_in_json(self.trace)}'
        )


def finish(connection: Connection, endings: Sequence[Ending], *, actor: str) -> set[int]:
    """End runs, all in one statement. Returns the ids of those that the worker still held.

    A scenario whose task had returned when the stop arrived is `completed`; one that was asked to
    stop and then failed is `inactive`.
    """
    if not endings:
        return set()
    ended = _finish(connection, endings, actor)  # locks all rows, in the order of their ids
    left = [one for one in endings if one.fence.scenario_id not in ended]
    # A run that returned before its first frame is not `active` yet, and only an `active` scenario
    # may become `completed`.
    unstarted = [one for one in left if one.status is Status.COMPLETED]
    if unstarted and start(connection, [one.fence for one in unstarted], actor=actor):
        ended |= _finish(connection, unstarted, actor)
    return ended


@dataclass(frozen=True, slots=True)
class Failed:
    """The effect of a failure: the scenario waits for its retry, or its budget is spent."""

    status: Status
    attempts: int
    max_attempts: int = field(default=0, compare=False)
    delay: float = field(default=0.0, compare=False)
    """Seconds until the retry is due."""


def fail(
    connection: Connection,
    fence: Fence,
    error: str,
    *,
    actor: str,
    delay: float | None = None,
    trace: str | None = None,
) -> Failed | None:
    """Charge an error that the run raised. Returns None if the worker has lost the scenario.

    Within the budget the scenario returns to `init_startup` and is due after `delay` seconds (by
    default a back-off with jitter). It is not announced: the worker sends an event to the retry
    topic. `trace` is the traceback of the error, as `storable.block` returns it.
    """
    spent = "r.attempts >= r.max_attempts"
    moved = move(
        connection,
        rows=MINE.format(columns="", statuses=sql_list(HELD)),
        to=(
            f"CASE WHEN r.status IN ({sql_list(STOPPING)}) THEN CAST('inactive' AS text)"
            f" WHEN {spent} THEN 'failed' ELSE 'init_startup' END"
        ),
        reason="CAST(:error AS text)",
        actor=actor,
        assign=(
            *RELEASED,
            "attempts = s.attempts + 1",
            "error = :error",
            "traceback = CAST(:trace AS text)",
            "announce_at = NULL",
            "not_before = now() + make_interval(secs => coalesce(CAST(:delay AS double precision), "
            f"{BACK_OFF.format(count='r.attempts')}))",
            "ended_at = CASE WHEN r.to_status <> 'init_startup' THEN now() END",
        ),
        returning=(
            "s.attempts",
            "s.max_attempts",
            "CAST(extract(epoch FROM s.not_before - now()) AS double precision) AS delay",
        ),
        parameters={"fences": fence_rows([fence]), "error": error, "delay": delay, "trace": trace},
    )
    if not moved:
        return None
    row = moved[0].row
    return Failed(moved[0].to_status, row.attempts, row.max_attempts, row.delay)


def hand_over(
    connection: Connection,
    fences: Sequence[Fence],
    *,
    reason: str,
    actor: str,
    delay: float = 0.0,
) -> set[int]:
    """Hand scenarios over to other workers; no budget is charged.

    They are due, and announced, after `delay` seconds; those that were asked to stop become
    `inactive`. Returns the ids of those that the worker still held.
    """
    if not fences:
        return set()
    moved = move(
        connection,
        rows=MINE.format(columns="", statuses=sql_list(HELD)),
        to=HANDED_OVER,
        reason="CAST(:reason AS text)",
        actor=actor,
        assign=(
            *RELEASED,
            f"not_before = {_DELAYED}",
            f"announce_at = CASE WHEN r.to_status = 'init_startup' THEN {_DELAYED} END",
            *ENDED_AT,
        ),
        parameters={"fences": fence_rows(fences), "reason": reason, "delay": delay},
    )
    return {handed_over.id for handed_over in moved}


def _still_held(connection: Connection, fences: Sequence[Fence]) -> dict[int, Status]:
    found = connection.execute(
        text(MINE.format(columns="", statuses=sql_list(HELD))),
        {"fences": fence_rows(fences)},
    )
    return {row.id: Status(row.status) for row in found}


def _finish(connection: Connection, endings: Sequence[Ending], actor: str) -> set[int]:
    fences = [ending.fence for ending in endings]
    moved = move(
        connection,
        rows=MINE.format(
            columns=", new_status text, new_result jsonb, new_state jsonb, new_error text,"
            " new_reason text, new_trace text",
            statuses=sql_list(HELD),
        ),
        to=(
            "CASE WHEN r.status = 'in_shutdown_processing' THEN CAST('inactive' AS text)"
            " WHEN r.status = 'init_shutdown' AND r.new_status = 'failed' THEN 'inactive'"
            " ELSE r.new_status END"
        ),
        reason="coalesce(r.new_error, r.new_reason)",
        actor=actor,
        assign=(
            *RELEASED,
            "result = CASE WHEN r.to_status = 'completed' THEN nullif(r.new_result, 'null')"
            " ELSE s.result END",
            "state = CASE WHEN jsonb_typeof(r.new_state) = 'object' THEN r.new_state"
            " ELSE s.state END",
            "error = CASE WHEN r.to_status = 'completed' THEN NULL"
            " ELSE coalesce(r.new_error, s.error) END",
            "traceback = CASE WHEN r.to_status = 'completed' THEN NULL"
            " WHEN r.new_error IS NULL THEN s.traceback ELSE r.new_trace END",
            "announce_at = NULL",
            "ended_at = now()",
        ),
        parameters={
            "fences": fence_rows(fences, *(ending.members() for ending in endings)),
        },
    )
    return {ended.id for ended in moved}


def _in_json(line: str | None) -> str:
    return "null" if line is None else json.dumps(line)  # json.dumps(None) takes longer
