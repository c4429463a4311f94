"""Loads the tasks that a worker can run: the built-in one, and those of an app by its name."""

from __future__ import annotations

from typing import Any

from vidan.errors import InputRejected, VidanError
from vidan.processes import forks, working_folder
from vidan.protocol import storable
from vidan.protocol.tasks import DETECT
from vidan.tasks import blame
from vidan.tasks.app import Vidan
from vidan.tasks.builtin import detect
from vidan.tasks.calls import Caller
from vidan.tasks.task import Task


def load_tasks(app: str | None) -> dict[str, Task[..., Any]]:
    """Return the built-in task and those of `module:app`, by their names.

    The current directory is importable, behind all libraries. Raises InputRejected when there is no
    such app, when its module raises anything, and when it imports a module of the directory that a
    library's has the name of.
    """
    builtin = Task(detect, DETECT.name, DETECT.max_attempts, source=True, caller=Caller())
    tasks: dict[str, Task[..., Any]] = {DETECT.name: builtin}
    if app is not None:
        tasks.update(_load_app(app).tasks)
    return tasks


def _load_app(app: str) -> Vidan:
    module_name, _, attribute = app.partition(":")
    if not module_name or not attribute:
        raise InputRejected(f"--app {app!r} is not module:app", hint="such as myvideos:app")
    try:
        with forks.Contained():
            found = getattr(working_folder.import_module(module_name), attribute)
    except InputRejected as error:
        raise InputRejected(f"--app {app}: {error}", hint=error.hint) from error.__cause__
    except VidanError:
        raise
    except BaseException as error:  # the user's module may raise anything, also a SystemExit
        place = blame.place(error)
        words = ": ".join(filter(None, (type(error).__name__, storable.line(error))))
        raise InputRejected(
            f"--app {app}: {words}" + (f" ({place})" if place else ""),
            hint="the current directory is importable",
        ) from error
    if not isinstance(found, Vidan):
        raise InputRejected(f"--app {app} is a {type(found).__name__}, not a Vidan app")
    return found
