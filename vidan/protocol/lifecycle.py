"""A run's way from `active` to its end: start, finish and failure, many at a time."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass

from sqlalchemy import Connection, text

from vidan.domain.status import HELD, STOPPING, Status
from vidan.protocol.fences import MINE, Fence, fence_rows
from vidan.protocol.transitions import (
    BACK_OFF,
    ENDS,
    LET_GO,
    PUT_BACK,
    move,
    sql_list,
    status_literal,
)


def start(connection: Connection, fences: Sequence[Fence], *, actor: str) -> dict[int, Status]:
    """Set claimed scenarios `active`. Returns the status of each that is still the worker's.

    An id that is missing has lost its lease. One that was asked to stop meanwhile is answered with
    `init_shutdown`: that is the stop, not a lost lease.
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
        found.update(_still_mine(connection, fences))
    return found


def shutting_down(connection: Connection, fence: Fence, *, actor: str) -> bool:
    """Say that a run which was asked to stop is letting go (`in_shutdown_processing`)."""
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
    """How a run ended: `completed`, `inactive` or `failed` (what no retry can mend).

    `result` and `state` are JSON text, as `storable.json_text` returns it.
    """

    fence: Fence
    status: Status
    result: str | None = None
    state: str | None = None  # the task's own, where no commit carries it
    error: str | None = None
    reason: str | None = None

    def members(self) -> str:
        """Return what the statement of `finish` reads beside the fence, as members in JSON."""
        return (
            f'"new_status": "{self.status}", "new_result": {self.result or "null"},'
            f' "new_state": {self.state or "null"}, "new_error": {_in_json(self.error)},'
            f' "new_reason": {_in_json(self.reason)}'
        )


def _in_json(line: str | None) -> str:
    return "null" if line is None else json.dumps(line)  # to ask json for it takes longer


def finish(connection: Connection, endings: Sequence[Ending], *, actor: str) -> set[int]:
    """End runs, all in one statement. Returns the ids that were still the worker's.

    A task that had returned when the stop arrived is `completed`; a failure of one that was
    asked to stop is `inactive`.
    """
    if not endings:
        return set()
    ended = _finish(connection, endings, actor)  # locks all of them, in the order of their ids
    left = [one for one in endings if one.fence.scenario_id not in ended]
    # those that returned before their first frame: only what was `active` is `completed`
    unstarted = [one for one in left if one.status is Status.COMPLETED]
    if unstarted and start(connection, [one.fence for one in unstarted], actor=actor):
        ended |= _finish(connection, unstarted, actor)
    return ended


def _finish(connection: Connection, endings: Sequence[Ending], actor: str) -> set[int]:
    fences = [ending.fence for ending in endings]
    moved = move(
        connection,
        rows=MINE.format(
            columns=", new_status text, new_result jsonb, new_state jsonb, new_error text,"
            " new_reason text",
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
            *LET_GO,
            "result = CASE WHEN r.to_status = 'completed' THEN nullif(r.new_result, 'null')"
            " ELSE s.result END",
            "state = CASE WHEN jsonb_typeof(r.new_state) = 'object' THEN r.new_state"
            " ELSE s.state END",
            "error = CASE WHEN r.to_status = 'completed' THEN NULL"
            " ELSE coalesce(r.new_error, s.error) END",
            "announce_at = NULL",
            "ended_at = now()",
        ),
        parameters={
            "fences": fence_rows(fences, *(ending.members() for ending in endings)),
        },
    )
    return {ended.id for ended in moved}


@dataclass(frozen=True, slots=True)
class Failed:
    """What a failure did to a scenario: it waits for its retry, or its budget is spent."""

    status: Status
    attempts: int


def fail(
    connection: Connection,
    fence: Fence,
    error: str,
    *,
    actor: str,
    delay: float | None = None,
) -> Failed | None:
    """Charge an error that the run raised; None if the scenario is not the worker's any more.

    Within the budget it goes back to `init_startup`, due after `delay` seconds (by default a
    back-off with jitter), and is not announced: the worker sends an event to the retry topic.
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
            *LET_GO,
            "attempts = s.attempts + 1",
            "error = :error",
            "announce_at = NULL",
            "not_before = now() + make_interval(secs => coalesce(CAST(:delay AS double precision), "
            f"{BACK_OFF.format(count='r.attempts')}))",
            "ended_at = CASE WHEN r.to_status <> 'init_startup' THEN now() END",
        ),
        returning=("s.attempts",),
        parameters={"fences": fence_rows([fence]), "error": error, "delay": delay},
    )
    return Failed(moved[0].to_status, moved[0].row.attempts) if moved else None


def _still_mine(connection: Connection, fences: Sequence[Fence]) -> dict[int, Status]:
    found = connection.execute(
        text(MINE.format(columns="", statuses=sql_list(HELD))),
        {"fences": fence_rows(fences)},
    )
    return {row.id: Status(row.status) for row in found}


_DELAYED = "now() + make_interval(secs => CAST(:delay AS double precision))"


def hand_over(
    connection: Connection,
    fences: Sequence[Fence],
    *,
    reason: str,
    actor: str,
    delay: float = 0.0,
) -> set[int]:
    """Put scenarios back for others, no budget spent; those asked to stop become `inactive`.

    They are due, and announced, after `delay` seconds. Returns the ids that were still the
    worker's.
    """
    if not fences:
        return set()
    moved = move(
        connection,
        rows=MINE.format(columns="", statuses=sql_list(HELD)),
        to=PUT_BACK,
        reason="CAST(:reason AS text)",
        actor=actor,
        assign=(
            *LET_GO,
            f"not_before = {_DELAYED}",
            f"announce_at = CASE WHEN r.to_status = 'init_startup' THEN {_DELAYED} END",
            *ENDS,
        ),
        parameters={"fences": fence_rows(fences), "reason": reason, "delay": delay},
    )
    return {put_back.id for put_back in moved}
