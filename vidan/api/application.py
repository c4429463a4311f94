"""The application: routes, the guard in front of them, and the answers for errors."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping

from fastapi import FastAPI, Request, Security
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, Response
from fastapi.security import HTTPBearer

from vidan import __version__
from vidan.api import documentation
from vidan.api.guard import Guard, token_of
from vidan.api.request_bodies import RequestBodies
from vidan.api.routes import router
from vidan.config import Settings
from vidan.db import schema
from vidan.db.session import Database
from vidan.errors import (
    DatabaseUnavailable,
    InputRejected,
    KeyTaken,
    NotAllowedError,
    NotFoundError,
    SchemaMismatch,
    VidanError,
)

_CONNECTIONS = 10
"""Most database connections kept open while idle."""

_SHOWN = 5
"""Most errors of one request that its answer names."""

_MAX_DETAIL = 4_000
"""Most characters of an answer's detail, which may quote what a request contained."""

_STATUS: Mapping[type[VidanError], int] = {
    NotFoundError: 404,
    NotAllowedError: 409,
    KeyTaken: 409,  # before the error that it is a kind of
    InputRejected: 422,
    DatabaseUnavailable: 503,
    SchemaMismatch: 503,
}
_RETRY = {"Retry-After": "5"}

log = logging.getLogger(__name__)


def open_database(settings: Settings) -> Database:
    """Open the database of the settings and check its schema; the caller closes it.

    Raises DatabaseUnavailable or SchemaMismatch.
    """
    database = Database(
        settings.require_database(),
        application_name="vidan api",
        guarded=True,  # its time-outs keep a request from waiting for a lock without end
        pool_size=_CONNECTIONS,
    )
    try:
        schema.check(database)
    except BaseException:
        database.close()
        raise
    return database


def build(settings: Settings, database: Database) -> FastAPI:
    """Make the application. Raises UsageError for a token that can't be sent in a header."""
    app = FastAPI(
        title="vidan",
        version=__version__,
        description="Scenarios: videos to be analysed, and what was found in them.",
        docs_url=None,  # FastAPI's own pages load their files from the internet
        redoc_url=None,
    )
    documentation.add(app, app.title)
    app.state.settings = settings
    app.state.database = database
    # the guard checks the token; this only makes the pages of /docs offer a field for it
    described = [Security(HTTPBearer(auto_error=False))] if settings.api_token else []
    app.include_router(router, dependencies=described)
    app.add_exception_handler(VidanError, _of_vidan)
    app.add_exception_handler(RequestValidationError, _of_validation)
    app.add_exception_handler(Exception, _unexpected)
    app.add_middleware(RequestBodies)
    app.add_middleware(Guard, token=token_of(settings))
    return app


def _of_vidan(_request: Request, error: Exception) -> Response:
    assert isinstance(error, VidanError)
    status = next((code for kind, code in _STATUS.items() if isinstance(error, kind)), 500)
    if isinstance(error, DatabaseUnavailable):
        log.warning("%s", error)  # it may name hosts and users, which clients must not see
        return _answer(503, "the database can't be reached", _RETRY)
    if status in (404, 500):
        return _answer(status, str(error))
    detail = f"{error} ({error.hint})" if error.hint else str(error)
    return _answer(status, detail, _RETRY if status == 503 else None)


def _of_validation(_request: Request, error: Exception) -> Response:
    """Answer with the first errors in one line, without the input, which JSON may not hold."""
    assert isinstance(error, RequestValidationError)
    found = error.errors()
    lines = [f"{'.'.join(map(str, one['loc']))}: {one['msg']}" for one in found[:_SHOWN]]
    more = [f"and {len(found) - _SHOWN} more"] if len(found) > _SHOWN else []
    return _answer(422, "; ".join(lines + more))


def _unexpected(_request: Request, _error: Exception) -> Response:
    return _answer(500, "internal error: see the server's log")


def _answer(status: int, detail: str, headers: Mapping[str, str] | None = None) -> Response:
    if len(detail) > _MAX_DETAIL:
        detail = f"{detail[: _MAX_DETAIL // 2]} … {detail[-_MAX_DETAIL // 2 :]}"
    return _AsciiResponse({"detail": detail}, status_code=status, headers=headers)


class _AsciiResponse(JSONResponse):
    """JSON in ASCII: a message may quote a lone surrogate, which UTF-8 can't encode."""

    def render(self, content: object) -> bytes:
        return json.dumps(content).encode("ascii")
