"""Calls: create scenarios of a task from Python, wait for them, read their results.

    vidan up --app calls:app                         in this folder, and in another terminal:
    python calls.py street.mp4 lane.mp4

Calls use the database of the command line: DATABASE_URL, `.env`, or the embedded stack that runs.
"""

from __future__ import annotations

import sys
from datetime import timedelta

from vidan import Run, Vidan
from vidan.errors import InputRejected

app = Vidan()


@app.task
def brightness(run: Run, every: int = 1) -> float:
    """Return the mean brightness of a video, 0 to 255."""
    run.state.setdefault("sum", 0.0)
    run.state.setdefault("frames", 0)
    for batch in run.frames(every=every):
        run.state["sum"] += float(batch.pixels.mean(axis=(1, 2, 3)).sum())
        run.state["frames"] += len(batch.indices)
    return round(run.state["sum"] / run.state["frames"], 1)


def main(videos: list[str]) -> None:
    """Call the task in each possible way."""
    scenario = brightness.delay(source=videos[0], every=5)
    print("delay:", scenario.wait(timeout=60).result)

    # Options are given beside the params. The same key again returns the same scenario.
    night = {"queue": "default", "priority": 5, "key": f"night-of-{scenario.id}"}
    first = brightness.apply({"every": 10}, source=videos[0], after=timedelta(seconds=1), **night)
    again = brightness.apply({"every": 10}, source=videos[0], **night)
    print("apply:", first.wait(timeout=60).result, "once" if again.id == first.id else "twice")

    # Many are created in one transaction: all of them or none.
    many = brightness.create_many({"source": video, "every": 20} for video in videos)
    print("create_many:", [one.wait(timeout=60, check=True).result for one in many])

    try:
        brightness.delay(source=videos[0], every="often")
    except InputRejected as error:
        print("refused:", error)


if __name__ == "__main__":
    if not sys.argv[1:]:
        sys.exit("usage: python calls.py VIDEO…")
    main(sys.argv[1:])
