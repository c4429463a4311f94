"""The version of an app that a worker has loaded: a digest of its sources and of its tasks."""

from __future__ import annotations

import hashlib
import json
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import vidan
from vidan.protocol import tasks
from vidan.protocol.tasks import DETECT
from vidan.services import schedules
from vidan.services.versions import BUILTIN, Brought
from vidan.tasks.task import Task


def brought(app: str | None, registry: Mapping[str, Task[..., Any]]) -> list[Brought]:
    """Return what a worker brings: the built-in tasks as an app of their own, then the app."""
    builtin = [task for name, task in registry.items() if name == DETECT.name]
    own = [task for name, task in registry.items() if name != DETECT.name]
    specs = [task.spec for task in builtin]
    found = [Brought(BUILTIN, _digest([vidan.__version__, tasks.as_rows(specs)]), specs)]
    if own:
        specs = [task.spec for task in own]
        times = [(task.name, one) for task in own for one in task.schedules]
        app = app or ""  # a worker that was given tasks without an app
        modules = {app.partition(":")[0], *(task.function.__module__ for task in own)}
        rows = json.dumps(schedules.as_rows(times))
        contents = [tasks.as_rows(specs), rows, *_sources({one.split(".")[0] for one in modules})]
        found.append(Brought(app, _digest(contents), specs, times))
    return found


def _digest(parts: list[str]) -> str:
    found = hashlib.sha256()
    for part in parts:
        found.update(hashlib.sha256(part.encode(errors="surrogatepass")).digest())
    return found.hexdigest()[:16]


def _sources(packages: set[str]) -> Iterator[str]:
    """Yield the name and the digest of each source file of these packages and modules."""
    for package in sorted(packages - {BUILTIN, "__main__"}):
        module = sys.modules.get(package)
        if module is None:
            continue
        folders = [Path(one) for one in getattr(module, "__path__", ())]
        if folders:
            files = {
                f"{package}/{file.relative_to(folder).as_posix()}": file
                for folder in folders
                for file in folder.rglob("*.py")
            }
        else:
            files = {package: Path(getattr(module, "__file__", None) or "")}
        for name, file in sorted(files.items()):
            try:
                yield f"{name} {hashlib.sha256(file.read_bytes()).hexdigest()}"
            except OSError:  # no file of its own, or it is gone by now
                yield name
