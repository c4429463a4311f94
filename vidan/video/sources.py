"""What a caller names, as it is stored: a local path is absolute, and was looked at."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from vidan.detection import catalogue
from vidan.errors import InputRejected
from vidan.video.frames import check_source, is_local


def source_for(place: str, *, check: bool) -> str:
    """Return the source as it is stored: a local path absolute, and opened if `check`.

    A URL stays as it is. Raises InputRejected.
    """
    if not place:
        raise InputRejected("a source can't be empty", hint="is a variable of your shell unset?")
    try:
        place.encode()
    except UnicodeEncodeError:
        raise InputRejected(
            f"the file's name is not UTF-8: {place!r}", hint="rename it, or link to it"
        ) from None
    if not is_local(place):
        return place
    if place.startswith("file:"):
        source = place
    else:
        source = str(Path(place).expanduser().absolute())
    if check:
        check_source(source)
    return source


def detect_params(params: Mapping[str, Any], *, check: bool) -> dict[str, Any]:
    """Return params of the built-in task, the weights' path absolute, and looked at if `check`.

    Raises InputRejected for a missing weight file or an unknown model; the service checks the rest.
    """
    found = dict(params)
    model, weights = found.get("model", catalogue.DEFAULT_MODEL), found.get("weights")
    if isinstance(weights, str) and weights:
        found["weights"] = str(Path(weights).expanduser().absolute())
        if check and isinstance(model, str):
            catalogue.check_model(model, weights=found["weights"])
    return found
