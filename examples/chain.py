"""A task that follows another: count the people in a video, then write a report, of failures too.

    vidan up --app chain:app                         in this folder, and in another terminal:
    python chain.py street.mp4
    vidan scenario list

The report is created in the transaction in which the count ends: exactly once, even after a crash.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from vidan import Run, Signature, Vidan, flow

app = Vidan()


@app.task(name="count")
def count(run: Run, every: int = 50) -> dict[str, int]:
    """Count the people in each frame, and add up the counts."""
    run.state.setdefault("people", 0)
    for _, found in run.detect(labels=["person"], every=every):
        run.state["people"] += sum(map(len, found))
    return run.state


@app.task(name="report", source=False)
def report(run: Run, title: str) -> dict[str, Any]:
    """Report how the scenario before ended."""
    before = run.parent
    assert before is not None
    return {"title": title, "of": before.id, "status": before.status, "result": before.result}


if __name__ == "__main__":
    if not sys.argv[1:]:
        sys.exit("usage: python chain.py VIDEO")
    video = Path(sys.argv[1]).absolute()
    first = Signature(
        "count",
        source=str(video),
        then=Signature("report", {"title": video.stem}),
        on_failure=Signature("report", {"title": f"{video.stem} failed"}),
    )
    print(flow.start(first))
