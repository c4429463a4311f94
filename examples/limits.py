"""Caps of a task over the whole cluster: how many run at once, and how often one starts.

    vidan up --app limits:app                        in this folder, and in another terminal:
    vidan scenario create --task archive --param camera=north
    vidan scenario create --task report --param camera=north --wait
    vidan tasks show archive

However many workers there are, on however many hosts: what has no room waits, and costs no slot.
"""

from __future__ import annotations

import time

from vidan import Run, Vidan

app = Vidan()


@app.task(name="archive", source=False, concurrency=2)
def archive(run: Run, camera: str) -> dict[str, float]:
    """Write a camera's films to tape: there are two drives."""
    began = time.time()
    run.log.info("writing the films of %s", camera)
    time.sleep(0.3)
    return {"began": began, "ended": time.time()}


@app.task(name="report", source=False, rate_limit="2/s")
def report(run: Run, camera: str) -> str:
    """Tell a service about a camera: it takes two calls a second."""
    run.log.info("telling of %s", camera)
    return f"told of {camera}"
