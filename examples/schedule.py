"""A task that runs by the clock: every morning at six in Berlin, and at noon on Mondays, in UTC.

    vidan up --app schedule:app                      in this folder, and in another terminal:
    vidan schedules list
    vidan schedules pause tidy

Once over any number of orchestrators. When none ran at six, the last missed time is made up for as
soon as one does (`catch_up="latest"`); `"all"` makes up for each, `"skip"` for none.
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
    """Tidy up."""
    run.log.info("keeping %d days", keep_days)
    return {"kept_days": keep_days}
