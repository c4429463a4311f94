"""An app for tests of retries and time limits: its tasks fail, stop early or never end.

The detectors are those of `trial`.
"""

from __future__ import annotations

import ctypes
import time
from pathlib import Path

from vidan import Reject, Retry, Run, TimeLimitExceeded, Vidan

app = Vidan()


@app.task(name="count", retries=50, retry_backoff=0)
def count(run: Run, model: str = "trial:slow") -> dict[str, int]:
    """Count frames, and ignore time limits."""
    run.state.setdefault("frames", 0)
    for batch, _ in run.detect(model=model, min_score=0.0):
        run.state["frames"] += len(batch.indices)
    return {"frames": run.state["frames"]}


@app.task(name="part")
def part(run: Run, go_on: bool = False) -> dict[str, int]:
    """Count frames until the time limit, and return how many; with `go_on` make a second pass.

    The first pass is slow.
    """
    run.state.update(frames=0, told=0)
    for model in ("trial:crawling", "trial:quick"):
        try:
            for batch, _ in run.detect(model=model, min_score=0.0):
                run.state["frames"] += len(batch.indices)
        except TimeLimitExceeded:
            run.state["told"] += 1
        if not go_on:
            break
    return dict(run.state)


@app.task(name="ponder", source=False, reject_on=TimeLimitExceeded)
def ponder(run: Run) -> None:
    """Report progress for ever."""
    while True:
        run.progress()
        time.sleep(0.01)


@app.task(name="deaf", source=False, time_limit=1)
def deaf(run: Run, seconds: float) -> str:
    """Sleep, and never check whether the time limit was reached."""
    time.sleep(seconds)
    return "slept"


@app.task(name="stuck", source=False)
def stuck(run: Run) -> None:
    """Call native code that lets no other thread run, so that the worker sends no heartbeats."""
    ctypes.PyDLL(None).sleep(600)


ERRORS = {
    "os": ConnectionResetError("reset"),
    "missing": FileNotFoundError("not there"),
    "value": ValueError("no number"),
    "reject": Reject("it never will"),
    "retry": Retry("not yet", after=0),
    "later": Retry("in an hour", after=3_600),
}


@app.task(name="fails", source=False, retry_on=OSError, reject_on=(FileNotFoundError,),
          retry_backoff=0)  # fmt: skip
def fails(run: Run, marks: str, how: str, times: int = 1) -> str:
    """Fail in this way, this many times."""
    so_far = len(list(Path(marks).iterdir()))
    if so_far < times:
        (Path(marks) / str(so_far)).touch()
        raise ERRORS[how]
    return "done"


@app.task(name="patient", retry_backoff=3_600, retry_backoff_max=5_400, retry_jitter=False)
def patient(run: Run, at: int = 0, because: bool = False) -> None:
    """Fail at a frame; the pause before the retry is long."""
    for batch, _ in run.detect(model="trial:crawling", min_score=0.0):
        if batch.next_frame > at:
            error = ValueError("at this one")
            if because:
                raise Retry from error
            raise error
