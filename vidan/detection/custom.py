"""A user's own detector, named `module:factory`. Loads torch only if the user's module does."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vidan.detection import catalogue
from vidan.detection.arrays import check_pixels
from vidan.detection.detector import Detector
from vidan.domain.detection import Detection
from vidan.errors import InputRejected, RejectedTask, VidanError
from vidan.processes import working_folder


class FactoryDetector(Detector):
    """The object that the user's factory returned, made to keep the promises of a Detector.

    The factory is called with those of the keywords device, min_score, labels, size and weights
    that its signature accepts, the last three only if the scenario sets them. It returns an object
    with `labels` and `detect(pixels, width, height)`; `batch_size` and `decode_size` are optional.
    One thread at a time calls `detect`, not always the thread that called the factory; any thread
    calls `decode_size`, also while another thread is in `detect` or `decode_size`. This class
    applies `min_score` and `labels` to the detections, and cuts boxes at the edge of the frame.
    Raises RejectedTask if the object breaks a promise. Sources of different sizes share no call:
    the user's `detect` may use the size of the source.
    """

    def __init__(
        self,
        model: str,
        *,
        device: str,
        min_score: float,
        labels: Sequence[str] | None,
        size: tuple[int, int] | None,
        weights: str | None,
    ) -> None:
        self._model = model
        factory = _find(model)
        wanted = {"labels": labels, "size": size, "weights": weights}
        asked = {key: value for key, value in wanted.items() if value is not None}
        self._detector = _call(model, factory, {"device": device, "min_score": min_score, **asked})
        known = _labels(model, self._detector)
        try:
            catalogue.check_labels(labels or (), known)
        except InputRejected as error:
            raise RejectedTask(str(error), hint=error.hint) from None
        self.labels = tuple(name for name in known if labels is None or name in labels)
        self.batch_size = int(getattr(self._detector, "batch_size", 1))
        self._known = frozenset(known)
        self._kept = frozenset(self.labels)
        self._min_score = min_score

    def decode_size(self, height: int, width: int) -> tuple[int, int]:
        """Return the (H, W) that the user's object asks for, by default the source's own size."""
        own = getattr(self._detector, "decode_size", None)
        if own is None:
            return height, width
        rows, columns = map(int, own(height, width))
        if rows < 1 or columns < 1:
            raise RejectedTask(
                f"{self._model} asks for frames of {rows} x {columns}",
                hint="decode_size returns height and width, at least 1",
            )
        return rows, columns

    def detect(self, pixels: NDArray[np.uint8], width: int, height: int) -> list[list[Detection]]:
        """Return the detections of each frame, the best first; see Detector."""
        check_pixels(pixels)
        if len(pixels) == 0:
            return []
        results = self._detector.detect(pixels, width, height)
        if not isinstance(results, Sequence) or len(results) != len(pixels):
            got = len(results) if isinstance(results, Sequence) else type(results).__name__
            raise RejectedTask(
                f"{self._model} gave {got} for {len(pixels)} frames",
                hint="detect returns one list of Detection per frame",
            )
        return [self._keep(detections, width, height) for detections in results]

    def _keep(self, detections: Iterable[Any], width: int, height: int) -> list[Detection]:
        kept = []
        for detection in detections:
            if not isinstance(detection, Detection):
                raise RejectedTask(
                    f"{self._model} gave a {type(detection).__name__} in place of a Detection",
                    hint="from vidan.domain import Detection",
                )
            if detection.label not in self._known:
                raise RejectedTask(
                    f"{self._model} gave a label that is not in its labels: {detection.label}",
                    hint="labels names everything that detect may find",
                )
            if detection.score >= self._min_score and detection.label in self._kept:
                kept.append(_inside(detection, width, height))
        return sorted(kept, key=lambda detection: -detection.score)


def _inside(detection: Detection, width: int, height: int) -> Detection:
    """Return the detection with its box cut at the edge of the frame, and plain floats."""
    x1, y1, x2, y2 = (float(side) for side in detection.box)
    box = (
        min(max(x1, 0.0), width),
        min(max(y1, 0.0), height),
        min(max(x2, 0.0), width),
        min(max(y2, 0.0), height),
    )
    return Detection(box, detection.label, float(detection.score), detection.track_id)


def _find(model: str) -> Callable[..., Any]:
    """Import the module, also from the current directory, and return its factory."""
    module_name, _, name = model.partition(":")
    try:
        factory = getattr(working_folder.import_module(module_name), name, None)
    except InputRejected as error:
        raise RejectedTask(f"{module_name} can't be imported: {error}", hint=error.hint) from None
    except (Exception, SystemExit) as error:  # importing the user's module may raise anything
        raise RejectedTask(
            f"{module_name} can't be imported: {type(error).__name__}: {_line(error)}",
            hint="the worker looks in its current directory and in what is installed",
        ) from error
    if not callable(factory):
        raise RejectedTask(
            f"{module_name} has no factory {name}", hint=f"def {name}(device, min_score): …"
        )
    return factory  # type: ignore[no-any-return]  # callable() narrows Any no further


def _call(model: str, factory: Callable[..., Any], keywords: dict[str, Any]) -> Any:
    try:
        parameters = inspect.signature(factory).parameters.values()
    except (TypeError, ValueError):  # built-in callables may have no signature
        accepted = keywords
    else:
        takes_all = any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters)
        names = {p.name for p in parameters if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)}
        accepted = {k: v for k, v in keywords.items() if takes_all or k in names}
    # A factory may do without device, min_score and labels; size and weights would be ignored
    # silently.
    for key in {"size", "weights"} & (keywords.keys() - accepted.keys()):
        raise RejectedTask(
            f"{model} takes no {key}", hint=f"leave {key} out, or let the factory accept it"
        )
    try:
        return factory(**accepted)
    except VidanError:
        raise
    except Exception as error:
        raise RejectedTask(
            f"{model} failed: {type(error).__name__}: {_line(error)}",
            hint=f"it was called with {', '.join(accepted) or 'nothing'}",
        ) from error


def _labels(model: str, detector: Any) -> tuple[str, ...]:
    labels = getattr(detector, "labels", None)
    if not callable(getattr(detector, "detect", None)) or not isinstance(labels, Iterable):
        raise RejectedTask(
            f"{model} gave a {type(detector).__name__}, which is no detector",
            hint="it needs labels and detect(pixels, width, height)",
        )
    names = () if isinstance(labels, str) else tuple(labels)
    if not names or not all(isinstance(name, str) for name in names):
        raise RejectedTask(f"the labels of {model} are not names", hint='labels = ("car", "bus")')
    return names


def _line(error: BaseException) -> str:
    try:
        return str(error).partition("\n")[0]
    except BaseException:  # the class is a user's own, and its __str__ may raise anything
        return "it can't be shown"
