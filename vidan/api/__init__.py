"""The HTTP interface: a route parses a request, calls a service, and answers in JSON.

It needs the extra `vidan[api]`.

`vidan api` serves it, and so does an ASGI server of your own: `uvicorn vidan.api:app`. `app` is
built from the environment when it is first accessed; importing this package loads nothing else.
"""

from __future__ import annotations

from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

from vidan.errors import MissingExtra, VidanError

if TYPE_CHECKING:
    from fastapi import FastAPI

    from vidan.config import Settings

    app: FastAPI

__all__ = ["app", "serve"]


def serve(settings: Settings, host: str = "127.0.0.1", port: int = 8000) -> int:
    """Serve the HTTP interface until SIGINT or SIGTERM; return the exit code.

    Raises MissingExtra; UsageError for an address that other machines can reach while no token is
    set; DatabaseUnavailable or SchemaMismatch; VidanError if the port is not available.
    """
    _require("fastapi", "uvicorn")
    from vidan.api import serving

    return serving.serve(settings, host, port)


def __getattr__(name: str) -> Any:
    if name != "app":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    try:
        built = _app()
    except VidanError as error:
        # an ASGI server that imports `app` would show a traceback instead of the hint
        hint = f"\nHint: {error.hint}" if error.hint else ""
        raise SystemExit(f"Error: {error}{hint}") from None
    globals()["app"] = built
    return built


def _app() -> FastAPI:
    _require("fastapi")
    from vidan import config
    from vidan.api import application

    settings = config.load()
    database = application.open_database(settings)
    return application.build(settings, database)


def _require(*packages: str) -> None:
    for package in packages:
        if find_spec(package) is None:
            raise MissingExtra(
                f"the HTTP interface needs {package}", hint='pip install "vidan[api]"'
            )
