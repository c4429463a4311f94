"""Caps of a task in the whole cluster: how many of its runs there are at once, how many may start.

    vidan up --app limits:app                        in this folder, and in another terminal:
    vidan scenario create --task archive --param camera=north
    vidan scenario create --task report --param camera=north --wait
    vidan tasks show archive

They hold for all workers on all hosts together. A scenario over a cap waits, and takes no slot.
"""

from __future__ import annotations

import time

from vidan import Run, Vidan

app = Vidan()


@app.task(name="archive", source=False, concurrency=2)
def archive(run: Run, camera: str) -> dict[str, float]:
    """Write a camera's films to tape; there are two tape drives."""
    began = time.time()
    run.log.info("writing the films of %s", camera)
    time.sleep(0.3)
    return {"began": began, "ended": time.time()}


@app.task(name="report", source=False, rate_limit="2/s")
def report(run: Run, camera: str) -> str:
    """Report a camera to a service that takes two calls a second."""
    run.log.info("reporting %s", camera)
    return f"reported {camera}"
