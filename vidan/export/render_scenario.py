"""Draws a scenario's stored boxes on the video in which they were found."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

from vidan.domain.status import ENDED
from vidan.errors import InputRejected
from vidan.export import targets
from vidan.protocol import tasks
from vidan.services import predictions, scenarios
from vidan.video.opening import is_local, open_source

if TYPE_CHECKING:
    from vidan.db.session import Database
    from vidan.domain.detection import Detection
    from vidan.services.scenarios import Scenario
    from vidan.video.frames import FrameSource


def render_scenario(
    database: Database,
    scenario_id: int,
    file: str,
    on_progress: Callable[[int, int], None] = lambda _done, _total: None,
) -> int:
    """Write the scenario's stored frames with their boxes to an MP4; return how many.

    `on_progress` is called with the numbers of frames written so far and in all. Raises
    NotFoundError, InputRejected if there is nothing to draw or nothing to draw on, RejectedTask if
    the source can't be read.
    """
    with database.begin() as connection:
        scenario = scenarios.get(connection, scenario_id)
    source = _source(scenario)
    targets.spare(file, source)
    path = targets.video(file)
    total = scenario.frames_done
    if total == 0:
        over = scenario.status in ENDED
        raise InputRejected(
            f"scenario {scenario_id} is {scenario.status} and has stored no frames",
            hint=f"see `vidan scenario show {scenario_id}`" if over else "wait until it has",
        )
    from vidan.export.annotated_video import render  # loads PyAV and Pillow

    frames = _opened(scenario, source)
    try:
        on_progress(0, total)
        return render(
            frames,
            _stored(database, scenario_id),
            path,
            only_predicted=True,
            on_progress=lambda done: on_progress(done, total),
        )
    finally:
        frames.close()


def _source(scenario: Scenario) -> str:
    source = scenario.source
    if source is None or not is_local(source):
        raise InputRejected(
            f"scenario {scenario.id} has no file to draw on: {source or 'no source'}",
            hint="only videos in files can be read again",
        )
    return source


def _opened(scenario: Scenario, source: str) -> FrameSource:
    """Open the source so that it gives the frames that the scenario has stored."""
    # only for the built-in task: a user's task may use `every` and `fps` for anything
    params = scenario.params if scenario.task == tasks.DETECT.name else {}
    return open_source(
        source,
        decoder=params.get("decoder", "pyav"),
        every=params.get("every", 1),
        fps=params.get("fps"),
    )


def _stored(database: Database, scenario_id: int) -> Iterator[tuple[int, list[Detection]]]:
    """Yield all stored frames in order, each page from a short transaction of its own."""
    last = -1
    while True:
        with database.begin() as connection:
            page = predictions.read_after(connection, scenario_id, last)
        yield from ((frame.frame, list(frame.detections)) for frame in page)
        if not page:
            return
        last = page[-1].frame
