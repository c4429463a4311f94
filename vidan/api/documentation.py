"""The pages /docs and /redoc. All of their files are in this package: they need no internet."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from fastapi import FastAPI
from fastapi.openapi.docs import get_redoc_html, get_swagger_ui_html
from fastapi.responses import FileResponse, HTMLResponse

_FOLDER = Path(__file__).with_name("static")
_TYPES = {".js": "text/javascript", ".css": "text/css", ".png": "image/png"}
_FILES = {f"/static/{path.name}": path for path in _FOLDER.iterdir() if path.suffix in _TYPES}

PATHS = frozenset({"/docs", "/redoc", *_FILES})
"""The paths of the pages, and of the files that they load."""

# A browser loads nothing from elsewhere, such as the logo to which Redoc links.
_POLICY = (
    "default-src 'self'; script-src 'self' 'unsafe-inline'; style-src 'self' 'unsafe-inline'; "
    "img-src 'self' data:; worker-src 'self' blob:"
)


def add(app: FastAPI, title: str) -> None:
    """Add the pages and their files to the application."""

    def docs() -> HTMLResponse:
        return _guarded(
            get_swagger_ui_html(
                openapi_url="openapi.json",
                title=title,
                swagger_js_url="static/swagger-ui-bundle.js",
                swagger_css_url="static/swagger-ui.css",
                swagger_favicon_url="static/favicon.png",
            )
        )

    def redoc() -> HTMLResponse:
        return _guarded(
            get_redoc_html(
                openapi_url="openapi.json",
                title=title,
                redoc_js_url="static/redoc.standalone.js",
                redoc_favicon_url="static/favicon.png",
                with_google_fonts=False,
            )
        )

    app.add_api_route("/docs", docs, include_in_schema=False)
    app.add_api_route("/redoc", redoc, include_in_schema=False)
    for path, file in _FILES.items():
        app.add_api_route(path, _sender(file), include_in_schema=False)


def _guarded(page: HTMLResponse) -> HTMLResponse:
    page.headers["Content-Security-Policy"] = _POLICY
    return page


def _sender(file: Path) -> Callable[[], FileResponse]:
    def send() -> FileResponse:
        return FileResponse(
            file, media_type=_TYPES[file.suffix], headers={"Cache-Control": "max-age=3600"}
        )

    return send
