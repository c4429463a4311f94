"""Progress bars on stderr: frames done, frames per second, remaining time."""

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
    """Frames per second, over the last ten seconds."""

    def render(self, task: Task) -> Text:
        """Return the rate; empty text while it is unknown."""
        rate = task.finished_speed or task.speed
        return Text(f"{rate:.0f} fps" if rate else "", style="progress.data.speed")


class FramesColumn(MofNCompleteColumn):
    """Frames done and in all; a total that is estimated (the field `about`) is marked `~`."""

    def render(self, task: Task) -> Text:
        """Return `120/795`, `120/~795` or `120/?`."""
        if task.total is None or not task.fields.get("about"):
            return super().render(task)
        return Text(f"{int(task.completed)}/~{int(task.total)}", style="progress.download")


def frames_progress() -> Progress:
    """Make a display of frames done; it is erased when it ends."""
    return Progress(
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        FramesColumn(),
        RateColumn(),
        TimeRemainingColumn(compact=True),
        console=Console(stderr=True),
        speed_estimate_period=10,
        transient=True,
    )
