"""Steering: what users ask of a scenario: start, stop, retry, delete."""

from __future__ import annotations

from collections.abc import Sequence

from sqlalchemy import Connection, text

from vidan.domain.bounds import MAX_ID
from vidan.domain.status import ENDED, HELD, RUNNING, STOPPING, Status
from vidan.errors import NotAllowedError
from vidan.protocol import followups, kept_logs, partitions, restarts
from vidan.protocol.changes import status_literal
from vidan.protocol.transitions import move
from vidan.services.scenarios import no_such_scenario

_START = frozenset({Status.ACTIVE, Status.INIT_STARTUP})
_STOP = frozenset({Status.INACTIVE, Status.INIT_SHUTDOWN})
REQUESTABLE = _START | _STOP
"""The statuses that a user may ask for; only workers set the other ones."""


def request(
    connection: Connection,
    scenario_id: int,
    wanted: Status,
    *,
    actor: str = "user",
    from_beginning: bool = False,
) -> bool:
    """Ask a scenario to become `active` or `inactive`, also by the statuses that lead there.

    Returns False if it is already there or on its way. Raises NotFoundError, or NotAllowedError
    that names what the scenario's status allows.
    """
    if wanted in _START:
        return start(connection, scenario_id, actor=actor, from_beginning=from_beginning)
    if wanted in _STOP:
        return stop(connection, scenario_id, actor=actor)
    raise NotAllowedError(
        f"only workers set the status {wanted}", hint=f"ask for one of: {_names(REQUESTABLE)}"
    )


def start(
    connection: Connection, scenario_id: int, *, actor: str = "user", from_beginning: bool = False
) -> bool:
    """Start a scenario that has ended: at its checkpoint with fresh budgets, or from the beginning.

    A start from the beginning drops predictions, gaps, checkpoint and state in the same
    transaction; a completed scenario can only start this way. Returns False if the scenario is
    starting or running already.
    """
    status, pruned = _lock(connection, scenario_id)
    if from_beginning and status not in ENDED:
        raise NotAllowedError(
            f"scenario {scenario_id} is {status}: it can start from the beginning only when ended",
            hint=f"`vidan scenario stop {scenario_id}` first",
        )
    if status in RUNNING or status is Status.INIT_STARTUP:
        return False
    if status in STOPPING:
        raise NotAllowedError(
            f"scenario {scenario_id} is still stopping ({status})", hint="wait until it is inactive"
        )
    if status is Status.COMPLETED and not from_beginning:
        raise NotAllowedError(
            f"scenario {scenario_id} is completed",
            hint=f"`vidan scenario start {scenario_id} --from-beginning` runs it again",
        )
    if pruned and not from_beginning:
        raise restarts.pruned(scenario_id)
    if from_beginning:
        _drop_work(connection, scenario_id)
    reason = "from the beginning" if from_beginning else "started"
    restarts.restart(connection, [scenario_id], actor=actor, reason=reason)
    return True


def retry(connection: Connection, scenario_id: int, *, actor: str = "user") -> bool:
    """Resume a failed scenario at its checkpoint with fresh budgets. Raises NotAllowedError."""
    status, pruned = _lock(connection, scenario_id)
    if status is not Status.FAILED:
        raise NotAllowedError(
            f"scenario {scenario_id} is {status}: only a failed one can be retried",
            hint=f"`vidan scenario start {scenario_id}` starts an inactive one",
        )
    if pruned:
        raise restarts.pruned(scenario_id)
    restarts.restart(connection, [scenario_id], actor=actor, reason="retry asked for")
    return True


def stop(connection: Connection, scenario_id: int, *, actor: str = "user") -> bool:
    """Stop a scenario, which keeps its checkpoint. A running one stops with its next commit.

    Returns False if it is inactive or stopping already.
    """
    status, _ = _lock(connection, scenario_id)
    if status in STOPPING or status is Status.INACTIVE:
        return False
    if status in ENDED:
        raise NotAllowedError(
            f"scenario {scenario_id} is {status}: there is nothing to stop",
            hint=f"`vidan scenario start {scenario_id}"
            f"{' --from-beginning' if status is Status.COMPLETED else ''}` would run it again",
        )
    to = Status.INACTIVE if status is Status.INIT_STARTUP else Status.INIT_SHUTDOWN
    move(
        connection,
        rows="SELECT s.id, s.status FROM scenarios s WHERE s.id = :id",
        to=status_literal(to),
        reason="CAST('stop asked for' AS text)",
        actor=actor,
        assign=(
            "announce_at = NULL",
            "ended_at = CASE WHEN r.to_status = 'inactive' THEN now() ELSE s.ended_at END",
        ),
        parameters={"id": scenario_id},
    )
    return True


def delete(connection: Connection, scenario_id: int) -> None:
    """Delete a scenario that has ended, with everything that it stored.

    Raises NotFoundError, or NotAllowedError while the scenario waits, runs or stops.
    """
    status, _ = _lock(connection, scenario_id)
    if status in HELD or status is Status.INIT_STARTUP:
        raise NotAllowedError(
            f"scenario {scenario_id} is {status}: it can be deleted only when ended",
            hint=f"`vidan scenario stop {scenario_id}` first",
        )
    _drop_predictions(connection, scenario_id)
    followups.forget(connection, scenario_id, actor="delete")
    kept_logs.forget(connection, scenario_id)
    for statement in (
        "DELETE FROM transitions WHERE scenario_id = :id",
        "DELETE FROM scenarios WHERE id = :id",
    ):
        connection.execute(text(statement), {"id": scenario_id})


def at_stake(connection: Connection, ids: Sequence[int]) -> tuple[int, int]:
    """Return how many of these scenarios have ended, and how many frames of them are stored.

    Only scenarios that have ended can be deleted, or start from the beginning.
    """
    found = connection.execute(
        text(
            "SELECT count(*) AS ended,"
            " coalesce(sum(frames_done) FILTER (WHERE NOT pruned), 0)::bigint AS frames"
            " FROM scenarios WHERE id = ANY(CAST(:ids AS bigint[]))"
            " AND status = ANY(CAST(:ended AS text[]))"
        ),
        {"ids": list(ids), "ended": sorted(ENDED)},
    ).one()
    return found.ended, found.frames


def _lock(connection: Connection, scenario_id: int) -> tuple[Status, bool]:
    """Lock the scenario's row. Returns its status, and whether its predictions were pruned."""
    found = None
    if 0 < scenario_id <= MAX_ID:
        found = connection.execute(
            text("SELECT status, pruned FROM scenarios WHERE id = :id FOR UPDATE"),
            {"id": scenario_id},
        ).one_or_none()
    if found is None:
        raise no_such_scenario(scenario_id)
    return Status(found.status), found.pruned


def _drop_predictions(connection: Connection, scenario_id: int) -> None:
    for statement in (
        "DELETE FROM predictions WHERE scenario_id = :id"
        " AND week = (SELECT week FROM scenarios WHERE id = :id)",
        "DELETE FROM gaps WHERE scenario_id = :id",
    ):
        connection.execute(text(statement), {"id": scenario_id})


def _drop_work(connection: Connection, scenario_id: int) -> None:
    _drop_predictions(connection, scenario_id)
    week = partitions.this_week(connection)
    partitions.ensure_week(connection, week)
    connection.execute(
        text(
            "UPDATE scenarios SET checkpoint = 0, checkpoint_pts = NULL, restart_packet = NULL,"
            " restart_frame = NULL, state = '{}', frames_total = NULL, frames_done = 0,"
            " label_names = '{}', source_info = NULL, notes = '{}', started_at = NULL,"
            " week = :week, pruned = false WHERE id = :id"
        ),
        {"id": scenario_id, "week": week},
    )


def _names(statuses: frozenset[Status]) -> str:
    return ", ".join(sorted(statuses))
