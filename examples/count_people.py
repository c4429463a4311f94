"""A task of one's own: count the people in a video.

    vidan up --app count_people:app                  in this folder, and in another terminal:
    vidan scenario create street.mp4 --task count_people --param every=5 --wait
    vidan scenario show 1 --json | jq .result

The task is started anew wherever the run goes on, after a kill too. What it counts is in
`run.state`, which is stored in one transaction with the frames that it has seen: each frame is
counted exactly once.
"""

from __future__ import annotations

from typing import Any

from vidan import Run, Vidan

app = Vidan()


@app.task(name="count_people", retries=3)
def count_people(run: Run, every: int = 1, min_score: float = 0.5) -> dict[str, Any]:
    """Count the frames with people in them, and find the most crowded one."""
    seen = run.state
    seen.setdefault("frames_with_people", 0)
    seen.setdefault("most", {"people": 0, "frame": None})
    for batch, found in run.detect(labels=["person"], every=every, min_score=min_score):
        for frame, people in zip(batch.indices, found, strict=True):
            if people:
                seen["frames_with_people"] += 1
            if len(people) > seen["most"]["people"]:
                seen["most"] = {"people": len(people), "frame": int(frame)}
    return seen
