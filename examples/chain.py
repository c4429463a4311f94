"""One task after another: count the people in a video, then write a report; failures, too.

    vidan up --app chain:app                         in this folder, and in another terminal:
    python chain.py street.mp4
    vidan scenario list

The report is created in the transaction in which the count ends: once, whatever is killed when.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from vidan import Run, Signature, Vidan, flow

app = Vidan()


@app.task(name="count")
def count(run: Run, every: int = 50) -> dict[str, int]:
    """Count the people that are seen, frame by frame."""
    run.state.setdefault("people", 0)
    for _, found in run.detect(labels=["person"], every=every):
        run.state["people"] += sum(map(len, found))
    return run.state


@app.task(name="report", source=False)
def report(run: Run, title: str) -> dict[str, Any]:
    """Say what became of the scenario before."""
    former = run.parent
    assert former is not None
    return {"title": title, "of": former.id, "status": former.status, "result": former.result}


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
