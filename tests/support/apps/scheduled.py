"""An app with a task that runs at set times."""

from __future__ import annotations

from vidan import Run, Vidan

app = Vidan()


@app.task(name="tick", source=False, schedule="* * * * *")
def tick(run: Run) -> str:
    """Say that it ran."""
    return "ticked"
