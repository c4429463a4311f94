"""The files that a request may name: only those below the folders of VIDAN_SOURCE_ROOTS.

Workers open the file that a request names, so its path is resolved (symlinks, `..`) before it is
compared, and the resolved path is stored. URLs are refused: a request could use them to make
workers connect anywhere. `vidan scenario create` accepts URLs.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from vidan.detection import catalogue
from vidan.errors import InputRejected
from vidan.video.opening import check_source

_URL = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://")
_VARIABLE = "VIDAN_SOURCE_ROOTS"


def allowed_file(given: str, roots: Sequence[Path], *, what: str = "source") -> str:
    """Return the resolved path of a file that is below one of `roots` and not empty.

    A relative path is tried below each root in turn. Raises InputRejected; for a path outside the
    roots the message does not reveal whether a file exists there.
    """
    if not roots:
        raise InputRejected(
            f"this server takes no {what}: {_VARIABLE} is not set",
            hint=f"set {_VARIABLE} to the folders of the videos",
        )
    if _URL.match(given):
        raise InputRejected(
            f"a {what} has to be a file below a folder of {_VARIABLE}, not a URL",
            hint="`vidan scenario create` accepts URLs",
        )
    if len(given) > catalogue.MAX_PATH:  # resolving takes time with the square of the length
        raise InputRejected(
            f"the path of the {what} is too long", hint=f"at most {catalogue.MAX_PATH} characters"
        )
    inside = list(_inside(given, roots))
    if not inside:
        raise InputRejected(f"the {what} is not below a folder of {_VARIABLE}: {given!r}")
    problems = [_problem(path) for path in inside]
    for path, problem in zip(inside, problems, strict=True):
        if problem is None:
            if what == "source":
                check_source(str(path))
            return str(path)
    raise InputRejected(f"the {what} {problems[0]}: {given!r}")


def allowed_params(task: str, params: Mapping[str, Any], roots: Sequence[Path]) -> dict[str, Any]:
    """Return the params of a task; the path of weights is resolved by the same rule as sources.

    A `module:factory` as the model of `detect` is refused, since workers would import and call code
    that a request has chosen. Params of other tasks are left to the authors of those tasks. Raises
    InputRejected.
    """
    found = dict(params)
    if task != "detect":
        return found
    if isinstance(found.get("weights"), str):
        found["weights"] = allowed_file(found["weights"], roots, what="weights file")
    model = found.get("model")
    if isinstance(model, str) and catalogue.is_factory(model):
        raise InputRejected(
            f"a request can't name code for workers to load: model {model!r}",
            hint="use it in a task of your own, or `vidan scenario create`",
        )
    return found


def _inside(given: str, roots: Sequence[Path]) -> Iterator[Path]:
    try:
        folders = [root.resolve() for root in roots]
        candidates = [(folder / given).resolve() for folder in folders]
    except (OSError, RuntimeError, ValueError):  # a loop of symlinks, a NUL byte
        return
    for path in dict.fromkeys(candidates):  # an absolute path is the same for every folder
        if any(path.is_relative_to(folder) and path != folder for folder in folders):
            yield path


def _problem(path: Path) -> str | None:
    try:
        if not path.exists():
            return "does not exist"
        if not path.is_file():
            return "is not a file"
        return "is empty" if path.stat().st_size == 0 else None
    except OSError:
        return "can't be read"
