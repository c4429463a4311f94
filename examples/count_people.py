"""A task of your own: count the people in a video.

    vidan up --app count_people:app                  in this folder, and in another terminal:
    python count_people.py street.mp4                or from the command line:
    vidan scenario create street.mp4 --task count_people --param min_score=0.6 --wait
    vidan scenario show 1 --json | jq .result

When a run resumes, after a kill too, the task is called again. Its count is in `run.state`, which
is stored in one transaction with the frames that were counted: each frame counts exactly once.
"""

from __future__ import annotations

import sys
from datetime import timedelta
from typing import Any

from vidan import Run, Vidan

app = Vidan()


@app.task(name="count_people", retries=3)
def count_people(run: Run, every: int = 1, min_score: float = 0.5) -> dict[str, Any]:
    """Count the people in each frame, and add up the counts."""
    run.state.setdefault("people", 0)  # stored with the checkpoint: exact even after a kill
    for _, detections in run.detect(model="nanodet-g", labels=["person"], every=every):
        run.state["people"] += sum(d.score >= min_score for frame in detections for d in frame)
    return run.state


if __name__ == "__main__":
    scenario = count_people.delay(source=sys.argv[1], min_score=0.6)
    print(scenario.wait(timeout=timedelta(minutes=5), check=True).result)
