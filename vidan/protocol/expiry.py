"""Expiry: release the scenarios of workers whose lease has ended, and charge the deaths."""

from __future__ import annotations

from collections.abc import Collection
from datetime import datetime
from uuid import UUID

from sqlalchemy import Connection, text

from vidan.domain.worker import LEASE_SECONDS
from vidan.protocol.changes import Moved
from vidan.protocol.transitions import BACK_OFF, ENDED_AT, HANDED_OVER, RELEASED, move

_ENDED = """s.worker_id IS NOT NULL AND (w.id IS NULL OR w.lease_until <= now())
      AND (CAST(:worker AS uuid) IS NULL OR s.worker_id = :worker)"""
_HELD_BY_ENDED = f"scenarios s LEFT JOIN workers w ON w.id = s.worker_id WHERE {_ENDED}"
# Lock first, judge in a second statement: with one snapshot, a row that was released and claimed
# again meanwhile would be judged by its previous worker.
# The rows are found first and sorted afterwards,
# because a planner with old statistics prefers to read a million rows in the order of their ids
# until it has found 500.
_LOCK_ENDED = f"""
    WITH ended AS MATERIALIZED (
        SELECT s.id FROM {_HELD_BY_ENDED}
    )
    SELECT s.id FROM scenarios s
    WHERE s.id = ANY(ARRAY(SELECT id FROM ended))
      AND s.worker_id IS NOT NULL
    ORDER BY s.id LIMIT 500 FOR NO KEY UPDATE SKIP LOCKED
"""
_ENDED_LEASES = """
    SELECT s.id, s.status, s.crashes, s.max_crashes,
           s.status IN ('init_startup_processing', 'active') AND (
               s.id = ANY(CAST(:executing AS bigint[])) OR coalesce(
               s.status = 'active' AND isfinite(w.lease_until)
               AND w.lease_until - make_interval(secs => :lease)
                   >= CAST(:connected_since AS timestamptz), false)) AS died,
           CASE WHEN s.crashes = 0 THEN now() ELSE now() + make_interval(secs => {back_off}) END
               AS retry_at
    FROM scenarios s LEFT JOIN workers w ON w.id = s.worker_id
    WHERE s.id = ANY(:locked) AND {ended}
"""


def any_ended(connection: Connection) -> tuple[datetime, bool]:
    """Return the database's time, and whether `expire` has anything to do (rarely)."""
    now, found = connection.execute(
        text(
            "SELECT now(), EXISTS (SELECT 1 FROM workers"
            " WHERE lease_until <= now() AND state <> 'gone')"
            f" OR EXISTS (SELECT 1 FROM {_HELD_BY_ENDED})"
        ),
        {"worker": None},
    ).one()
    return now, found


def expire(
    connection: Connection,
    *,
    actor: str,
    connected_since: datetime | None = None,
    worker_id: UUID | None = None,
    executing: Collection[int] = (),
    cause: str | None = None,
) -> list[Moved]:
    """Release every held scenario whose worker's lease has ended or whose worker's row is missing.

    The database sessions of such workers are ended first, so that a stopped client in the middle of
    COPY frees its rows; a row that is still locked is left to the next round. A supervisor that
    reaped the process charges the death to the rows in `executing`. Other callers charge it to the
    `active` rows, if they have been connected to the database since `connected_since` (its clock)
    and so through the whole lease. `worker_id` restricts the call to one worker; `cause` says how
    that worker died, as far as it is known. Returns the released scenarios.
    """
    _end_sessions(connection)
    locked = list(connection.execute(text(_LOCK_ENDED), {"worker": worker_id}).scalars())
    if not locked:
        return []
    spent = "r.died AND r.crashes >= r.max_crashes"
    return move(
        connection,
        rows=_ENDED_LEASES.format(ended=_ENDED, back_off=BACK_OFF.format(count="s.crashes")),
        to=f"CASE WHEN {spent} THEN CAST('failed' AS text) ELSE {HANDED_OVER} END",
        reason="CASE WHEN r.died THEN coalesce(CAST(:cause AS text), 'the worker died')"
        " ELSE 'the lease ended' END",
        actor=actor,
        assign=(
            *RELEASED,
            "crashes = s.crashes + CASE WHEN r.died THEN 1 ELSE 0 END",
            f"error = CASE WHEN {spent} THEN 'it ended its worker process ' || (r.crashes + 1)"
            " || ' times' || coalesce('; at last ' || CAST(:cause AS text), '') ELSE s.error END",
            # the process has died without one
            f"traceback = CASE WHEN {spent} THEN NULL ELSE s.traceback END",
            "not_before = CASE WHEN r.died THEN r.retry_at ELSE now() END",
            "announce_at = CASE WHEN r.to_status <> 'init_startup' THEN NULL"
            " WHEN r.died THEN r.retry_at ELSE now() END",
            *ENDED_AT,
        ),
        returning=("r.died",),
        parameters={
            "locked": locked,
            "executing": list(executing),
            "connected_since": connected_since,
            "lease": LEASE_SECONDS,
            "worker": worker_id,
            "cause": cause,
        },
    )


def release_worker(
    connection: Connection,
    worker_id: UUID,
    *,
    actor: str,
    executing: Collection[int] = (),
    cause: str | None = None,
) -> bool:
    """End the lease of a process that was reaped, and release the scenarios that it held.

    `executing` are the scenarios whose code it ran when it died; they are charged. `cause` says how
    it died. Returns whether it holds nothing; if a dying session still locks a row, call again.
    """
    connection.execute(
        text("UPDATE workers SET lease_until = '-infinity' WHERE id = :worker"),
        {"worker": worker_id},
    )
    # Until nothing is left: an orchestrator that released the rest could not charge the right ones.
    while expire(connection, actor=actor, worker_id=worker_id, executing=executing, cause=cause):
        pass
    return not connection.execute(
        text("SELECT EXISTS (SELECT 1 FROM scenarios WHERE worker_id = :worker)"),
        {"worker": worker_id},
    ).scalar_one()


def _end_sessions(connection: Connection) -> None:
    """End the database sessions of workers whose lease has ended, and mark such workers gone."""
    connection.execute(
        text(
            "SELECT pg_terminate_backend(a.pid) FROM pg_stat_activity a JOIN workers w"
            " ON a.application_name = CAST(w.id AS text)"
            " WHERE w.lease_until <= now() AND a.pid <> pg_backend_pid()"
            " AND a.datname = current_database()"
            # Ending a session of another role without the right to do so would fail the round.
            " AND (pg_has_role(a.usesysid, 'USAGE') OR pg_has_role('pg_signal_backend', 'USAGE'))"
            " AND (w.state <> 'gone'"
            " OR EXISTS (SELECT 1 FROM scenarios s WHERE s.worker_id = w.id))"
        )
    ).all()
    connection.execute(
        text(
            "UPDATE workers SET state = 'gone', fps = 0 WHERE id IN (SELECT id FROM workers"
            " WHERE lease_until <= now() AND state <> 'gone' ORDER BY id FOR UPDATE SKIP LOCKED)"
        )
    )
