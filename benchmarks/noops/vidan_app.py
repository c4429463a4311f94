"""The task in vidan."""

from __future__ import annotations

import time

from vidan import Run, Vidan

app = Vidan()


@app.task(name="noop", source=False)
def noop(run: Run) -> float:
    """Do nothing; return the time at which that began (seconds since 1970)."""
    return time.time()
