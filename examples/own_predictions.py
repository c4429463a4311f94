"""Predictions of your own: a task stores what it finds with the frame, exactly once.

vidan up --app own_predictions:app               in this folder, and in another terminal:
vidan scenario create street.mp4 --task own_predictions.find_dark --wait
vidan predictions show 1 --json
"""

from __future__ import annotations

from vidan import Detection, Run, Vidan

app = Vidan()


@app.task
def find_dark(run: Run, darker_than: float = 90.0) -> None:
    """Store the brightness of each frame, and a box around each half that is dark."""
    for batch in run.frames():
        width, height = batch.width, batch.height
        halves = {"left": (0, width // 2), "right": (width // 2, width)}
        for frame, pixels in zip(batch.indices, batch.pixels, strict=True):
            light = {name: pixels[:, x1:x2].mean() for name, (x1, x2) in halves.items()}
            dark = [
                Detection((x1, 0, x2, height), f"dark {name}", 1 - light[name] / 255)
                for name, (x1, x2) in halves.items()
                if light[name] < darker_than
            ]
            extra = {"brightness": round(float(pixels.mean()), 1)}
            run.store(frame, detections=dark, extra=extra)  # committed with this batch
