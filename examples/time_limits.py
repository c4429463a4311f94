"""Time limits: how many people can be found in a video in five seconds.

    vidan up --app time_limits:app                   in this folder, and in another terminal:
    vidan scenario create street.mp4 --task glance --wait
    vidan scenario show 1 --json | jq .result

When the soft limit is over, the task gets TimeLimitExceeded instead of its next frame, and returns
what it has. If its code hangs, the hard limit ends the process. Both limit one run, and loading the
model counts.
"""

from __future__ import annotations

from datetime import timedelta
from typing import Any

from vidan import Run, TimeLimitExceeded, Vidan

app = Vidan()


@app.task(name="glance", soft_time_limit=5, time_limit=timedelta(minutes=1))
def glance(run: Run) -> dict[str, Any]:
    """Find the most people in one frame, among as many frames as there is time for."""
    seen = run.state
    seen.setdefault("frames", 0)
    seen.setdefault("people", 0)
    try:
        for batch, found in run.detect(labels=["person"]):
            seen["frames"] += len(batch.indices)
            seen["people"] = max(seen["people"], *map(len, found))
    except TimeLimitExceeded as limit:
        run.log.info("%s: saw %d frames", limit, seen["frames"])
        return {**seen, "complete": False}
    return {**seen, "complete": True}
