"""Stored boxes drawn on the video that they were found in."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from vidan.domain.status import ENDED
from vidan.errors import InputRejected
from vidan.export import targets

if TYPE_CHECKING:
    from rich.progress import Progress

    from vidan.db.session import Database
    from vidan.domain.detection import Detection

PAGE = 500


def render_scenario(
    database: Database, scenario_id: int, file: str, progress: Progress | None
) -> int:
    """Write the frames that a scenario has stored, with their boxes, to an MP4; how many.

    Raises NotFoundError, InputRejected for what can't be drawn, RejectedTask for an unreadable
    source.
    """
    from vidan.protocol import tasks
    from vidan.services import scenarios
    from vidan.video.opening import is_local, open_source

    with database.begin() as connection:
        scenario = scenarios.get(connection, scenario_id)
    source = scenario.source
    if source is None or not is_local(source):
        raise InputRejected(
            f"scenario {scenario_id} has no file to draw on: {source or 'no source'}",
            hint="only videos in files can be read again",
        )
    targets.spare(file, source)
    path = targets.video(file)
    if scenario.frames_done == 0:
        over = scenario.status in ENDED
        raise InputRejected(
            f"scenario {scenario_id} is {scenario.status} and has stored no frames",
            hint=f"see `vidan scenario show {scenario_id}`" if over else "wait until it has",
        )
    from vidan.export.annotated_video import render

    # a task of one's own may call anything `every`
    params = scenario.params if scenario.task == tasks.DETECT.name else {}
    frames = open_source(
        source,
        decoder=params.get("decoder", "pyav"),
        every=params.get("every", 1),
        fps=params.get("fps"),
    )
    bar = None if progress is None else progress.add_task("drawing", total=scenario.frames_done)

    def show(done: int) -> None:
        if progress is not None and bar is not None:
            progress.update(bar, completed=done)

    try:
        return render(
            frames, _stored(database, scenario_id), path, only_predicted=True, on_progress=show
        )
    finally:
        frames.close()


def _stored(database: Database, scenario_id: int) -> Iterator[tuple[int, list[Detection]]]:
    """All that is stored, in order: keyset pages, a short transaction each."""
    from vidan.services import predictions

    last = -1
    while True:
        with database.begin() as connection:
            page = predictions.read_after(connection, scenario_id, last, limit=PAGE)
        yield from ((frame.frame, list(frame.detections)) for frame in page)
        if not page:
            return
        last = page[-1].frame
