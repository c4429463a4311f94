"""What an interrupted `vidan run` has left, for the next one that is asked for the same."""

from __future__ import annotations

import json
import os
import socket
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, text

from vidan.domain.status import ENDED, STOPPING, Status
from vidan.protocol.tasks import DETECT
from vidan.services import scenarios, steering, workers
from vidan.services.filters import Filters
from vidan.services.scenarios import Scenario

QUEUE_PREFIX = "run-"
"""How the queue of each `vidan run` begins."""

LOOKED_AT = 1000
"""Most scenarios that are looked at for one source, the newest first."""

UNFINISHED = [status for status in Status if status not in ENDED or status is Status.INACTIVE]


@dataclass(frozen=True, slots=True)
class Left:
    """A scenario of the same source and params; `changed` if its file is another one now."""

    scenario: Scenario
    changed: bool


def find(
    connection: Connection,
    source: str,
    params: Mapping[str, Any],
    identity: Mapping[str, Any] | None,
) -> Left | None:
    """Return the newest scenario that an interrupted run has left for this source.

    `identity` is that of the file, as in `source_info`. A scenario that another run works on, or
    whose predictions were pruned, is not left. One that has stored nothing may have any file.
    """
    there = [worker for worker in workers.find(connection) if not _is_gone(worker)]
    served = {queue for worker in there for queue in worker.queues}
    for one in _of_runs(connection, UNFINISHED, source, params):
        if one.queue not in served:
            return Left(one, changed=one.checkpoint > 0 and not _is_of(one, identity))
    return None


def take_completed(
    connection: Connection,
    source: str,
    params: Mapping[str, Any],
    identity: Mapping[str, Any] | None,
    queues: Collection[str],
    queue: str,
) -> int | None:
    """Return the scenario that the run of one of `queues` has completed for this source.

    It becomes one of the run of `queue`, so that a further run finds it there. None: there is none,
    or the file is another one now.
    """
    for one in _of_runs(connection, [Status.COMPLETED], source, params):
        if one.queue in queues and _is_of(one, identity):
            connection.execute(
                text("UPDATE scenarios SET queue = :queue WHERE id = :id AND status = :completed"),
                {"queue": queue, "id": one.id, "completed": str(Status.COMPLETED)},
            )
            return one.id
    return None


def _of_runs(
    connection: Connection, statuses: Sequence[Status], source: str, params: Mapping[str, Any]
) -> Iterator[Scenario]:
    """Yield the scenarios of runs with this source and these params, the newest first."""
    wanted = json.loads(json.dumps(dict(params)))
    filters = Filters(status=list(statuses), task=DETECT.name, source=source)
    for one in scenarios.page(connection, filters, limit=LOOKED_AT):
        of_run = one.queue.startswith(QUEUE_PREFIX) and not one.pruned
        if of_run and (one.source, one.params) == (source, wanted):
            yield one


def _is_of(scenario: Scenario, identity: Mapping[str, Any] | None) -> bool:
    """Whether a scenario's file is the one with this identity."""
    known = (scenario.source_info or {}).get("file")
    return bool(known == (identity and dict(identity)))


def _is_gone(worker: workers.WorkerRow) -> bool:
    """Whether a worker of this machine has no process: its lease ends some seconds later."""
    if worker.host != socket.gethostname():
        return False
    try:
        os.kill(worker.pid, 0)
    except ProcessLookupError:
        return True
    except OSError:
        return False
    return False


def take_over(connection: Connection, scenario: Scenario, queue: str, *, actor: str) -> bool:
    """Give a scenario to the workers of another queue, and start it if it was stopped.

    Returns False if it is not there any more as it was. One that a dead worker holds is claimed
    once its lease has ended.
    """
    moved = connection.execute(
        text(
            "UPDATE scenarios SET queue = :queue WHERE id = :id AND queue = :old"
            " AND status <> ALL (CAST(:not AS text[])) RETURNING status"
        ),
        {
            "queue": queue,
            "id": scenario.id,
            "old": scenario.queue,
            "not": [str(one) for one in {*STOPPING, Status.COMPLETED, Status.FAILED}],
        },
    ).scalar_one_or_none()
    if moved is None:
        return False
    if Status(moved) is Status.INACTIVE:
        steering.start(connection, scenario.id, actor=actor)
    return True
