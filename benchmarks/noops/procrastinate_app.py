"""The task in Procrastinate. The database comes from the environment."""

from __future__ import annotations

import os

from procrastinate import App, PsycopgConnector

app = App(connector=PsycopgConnector(conninfo=os.environ["BENCH_PROCRASTINATE_DATABASE"]))


@app.task(name="noop")  # type: ignore[untyped-decorator]
async def noop() -> None:
    """Do nothing: procrastinate keeps no results."""
