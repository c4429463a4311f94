"""The built-in task `detect`."""

from __future__ import annotations

from vidan.detection import catalogue
from vidan.run.run import Run


def detect(
    run: Run,
    model: str = catalogue.DEFAULT_MODEL,
    weights: str | None = None,
    min_score: float = catalogue.DEFAULT_MIN_SCORE,
    labels: list[str] | None = None,
    size: str | None = None,
    every: int = 1,
    fps: float | None = None,
    decoder: str = "pyav",
    deinterlace: bool = False,
) -> None:
    """Detect objects in every frame of a video and store them."""
    for _ in run.detect(
        model=model,
        weights=weights,
        min_score=min_score,
        labels=labels,
        size=None if size is None else catalogue.parse_size(size),
        every=every,
        fps=fps,
        decoder=decoder,
        deinterlace=deinterlace,
    ):
        pass  # `run.detect` stores the detections of each batch
