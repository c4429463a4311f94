"""The routes. They are plain functions; the framework runs each call in a thread."""

from __future__ import annotations

import logging
from itertools import chain
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Depends, Query, Request
from fastapi.responses import Response, StreamingResponse

from vidan.api import allowed_sources, streaming
from vidan.api.bodies import (
    Change,
    Created,
    Creation,
    Predictions,
    Problem,
    ScenarioLogs,
    ScenarioStatus,
    Updated,
)
from vidan.config import Settings
from vidan.db import schema
from vidan.db.session import Database
from vidan.domain.bounds import MAX_ID
from vidan.errors import InputRejected, NotFoundError
from vidan.protocol import creation, param_checks
from vidan.protocol.creation import NewScenario
from vidan.protocol.kept_logs import MAX_LINES
from vidan.services import queueing, scenario_logs, scenarios, steering

ACTOR = "http"
"""Actor of the changes made here, as `vidan scenario history` shows it."""

CHECK_SECONDS = 2.0
"""Most processor time, in seconds, that the checks of one body may take."""

_ALWAYS: dict[int | str, dict[str, Any]] = {
    401: {"model": Problem, "description": "The bearer token is missing or wrong"},
    403: {"model": Problem, "description": "No token is set: only this machine is answered"},
    500: {"model": Problem, "description": "An error of the server, which its log tells"},
    503: {"model": Problem, "description": "No usable database, or too many requests at once"},
}
_WRONG: dict[int | str, dict[str, Any]] = {422: {"model": Problem, "description": "Wrong input"}}
_WITH_BODY: dict[int | str, dict[str, Any]] = {
    400: {"model": Problem, "description": "The body can't be read"},
    408: {"model": Problem, "description": "The body did not come in time"},
    413: {"model": Problem, "description": "The body is too large"},
    **_WRONG,
}

router = APIRouter(responses=_ALWAYS)
_UNKNOWN: dict[int | str, dict[str, Any]] = {
    404: {"model": Problem, "description": "No such scenario"}
}
_KEY_REFUSED: dict[int | str, dict[str, Any]] = {
    409: {
        "model": Problem,
        "description": "The key belongs to other work: task, source or params differ; or the "
        "scenario that has it can't be retried, since its predictions were pruned",
    }
}
_REFUSED: dict[int | str, dict[str, Any]] = {
    409: {"model": Problem, "description": "Not allowed in the current status"}
}


# Coroutines, since the framework gives a plain function a thread of its own.
async def _database(request: Request) -> Database:
    database: Database = request.app.state.database
    return database


async def _settings(request: Request) -> Settings:
    settings: Settings = request.app.state.settings
    return settings


Opened = Annotated[Database, Depends(_database)]
Frame = Annotated[
    int | None,
    Query(ge=0, le=MAX_ID, description="Only this frame; goes without after and limit."),
]
After = Annotated[int | None, Query(ge=-1, le=MAX_ID, description="Only frames after this one.")]
Limit = Annotated[
    int | None,
    Query(
        ge=1,
        le=MAX_ID,
        description="At most this many frames. Frames without detections are not counted, so an "
        "empty answer means that there are no more.",
    ),
]


@router.post("/scenario/", summary="Create a scenario", responses={**_KEY_REFUSED, **_WITH_BODY})
def create(
    body: Creation, database: Opened, settings: Annotated[Settings, Depends(_settings)]
) -> Created:
    """Queue a scenario, or create it without starting it (`inactive`)."""
    roots = settings.source_roots
    new = NewScenario(
        source=None if body.source is None else allowed_sources.allowed_file(body.source, roots),
        task=body.task,
        params=allowed_sources.allowed_params(body.task, body.params, roots),
        key=body.key,
        key_reuse=body.key_reuse,
        retry_failed=body.retry_failed,
        status=body.status,
    )
    try:
        with param_checks.limited_to(CHECK_SECONDS):
            created = database.retrying(creation.create, new, actor=ACTOR)
    except NotFoundError as error:  # no such task: the body is wrong, not the address
        raise InputRejected(str(error), hint=error.hint) from None
    return Created(scenario_id=created.id)


@router.post(
    "/scenario/{scenario_id}/",
    summary="Start or stop it",
    responses={**_UNKNOWN, **_REFUSED, **_WITH_BODY},
)
def change(scenario_id: int, body: Change, database: Opened) -> Updated:
    """Start or stop a scenario. It is no error if that is done already or under way."""
    database.retrying(steering.request, scenario_id, body.status, actor=ACTOR)
    return Updated(scenario_id=str(scenario_id))


@router.get(
    "/scenario/{scenario_id}/",
    summary="Read its status",
    response_model=None,
    responses={200: {"model": ScenarioStatus}, **_UNKNOWN, **_WRONG},
)
def show(
    scenario_id: int,
    database: Opened,
    detail: Annotated[
        bool, Query(description="All fields of `vidan scenario list --json`, and traceback.")
    ] = False,
) -> dict[str, Any]:
    """Return the status of a scenario."""
    with database.begin() as connection:
        found = scenarios.get(connection, scenario_id)
        if detail:
            (found,) = queueing.told(connection, [found])
        trace = scenarios.traceback(connection, scenario_id) if detail else None
    return (
        {**found.as_json(), "traceback": trace}
        if detail
        else {"id": found.id, "status": found.status}
    )


@router.get(
    "/scenario/{scenario_id}/logs/",
    summary="Read the log of its runs",
    response_model=None,
    responses={200: {"model": ScenarioLogs}, **_UNKNOWN, **_WRONG},
)
def logs(
    scenario_id: int,
    database: Opened,
    after: Annotated[int, Query(ge=0, le=MAX_ID, description="Only lines after this one.")] = 0,
    level: Annotated[
        Literal["debug", "info", "warning", "error", "critical"],
        Query(description="Only lines of this level and above."),
    ] = "debug",
    limit: Annotated[int, Query(ge=1, le=MAX_LINES, description="At most this many lines.")] = 500,
) -> dict[str, Any]:
    """Return the oldest lines after `after`; an empty list means that there are no more yet."""
    least = 0 if level == "debug" else logging.getLevelNamesMapping()[level.upper()]
    with database.begin() as connection:
        missing = scenario_logs.cut(connection, scenario_id)
        found = scenario_logs.read_after(connection, scenario_id, after, level=least, limit=limit)
    return {"id": scenario_id, "cut": missing, "lines": [line.as_json() for line in found]}


@router.get(
    "/prediction/{scenario_id}/",
    summary="Read what was found",
    response_class=StreamingResponse,
    responses={200: {"model": Predictions}, **_UNKNOWN, **_WRONG},
)
def read(
    scenario_id: int,
    database: Opened,
    frame: Frame = None,
    after: After = None,
    limit: Limit = None,
    detail: Annotated[
        bool, Query(description="Add frame, time_ms, box and track_id to each detection.")
    ] = False,
) -> Response:
    """Stream all detections stored so far, in the order of the frames.

    The answer of a running scenario ends at the frame that is stored when it begins.
    """
    upto = None
    if frame is not None:
        if after is not None or limit is not None:
            raise InputRejected("frame goes without after and limit")
        after, upto = frame - 1, frame
    found = streaming.pages(
        database,
        scenario_id,
        after=-1 if after is None else after,
        upto=upto,
        limit=limit,
        detail=detail,
    )
    first = next(found)  # errors raised here can still become a status code
    second = next(found, None)
    if second is None:  # one piece needs no thread for each of its parts
        whole = b"".join(streaming.document(scenario_id, [first], detail=detail))
        return Response(whole, media_type="application/json")
    return StreamingResponse(
        streaming.document(scenario_id, chain([first, second], found), detail=detail),
        media_type="application/json",
    )


@router.get("/health", summary="Check the server")
def health(database: Opened) -> dict[str, str]:
    """Check that the database is reachable and has the expected schema."""
    schema.check(database)
    return {"status": "ok"}
