"""Progress bars on stderr: frames done, their rate, the time that is left."""

from __future__ import annotations

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    Task,
    TextColumn,
    TimeRemainingColumn,
)
from rich.text import Text


class RateColumn(ProgressColumn):
    """Frames a second, over the last seconds."""

    def render(self, task: Task) -> Text:
        """Write the rate, or nothing while there is none."""
        rate = task.finished_speed or task.speed
        return Text(f"{rate:.0f} fps" if rate else "", style="progress.data.speed")


def frames_progress() -> Progress:
    """A display of frames done, for a terminal; it vanishes when it ends."""
    return Progress(
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        MofNCompleteColumn(),
        RateColumn(),
        TimeRemainingColumn(compact=True),
        console=Console(stderr=True),
        speed_estimate_period=10,
        transient=True,
    )
