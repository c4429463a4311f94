"""A task that runs at fixed times: every morning at six in Berlin, and on Mondays at noon, in UTC.

    vidan up --app schedule:app                      in this folder, and in another terminal:
    vidan schedules list
    vidan schedules pause tidy

Each time runs once, whatever the number of orchestrators. If no orchestrator ran at six, the task
runs as soon as one does (`catch_up="latest"`): once for all missed times. `"all"` runs it once for
each missed time, `"skip"` for none.
"""

from __future__ import annotations

from vidan import Run, Schedule, Vidan

app = Vidan()


@app.task(
    name="tidy",
    source=False,
    schedule=[
        Schedule("0 6 * * *", timezone="Europe/Berlin", params={"keep_days": 30}),
        Schedule("0 12 * * MON", name="tidy-weekly", catch_up="skip", params={"keep_days": 90}),
    ],
)
def tidy(run: Run, keep_days: int) -> dict[str, int]:
    """Tidy up, but keep some days."""
    run.log.info("keeping %d days", keep_days)
    return {"kept_days": keep_days}
