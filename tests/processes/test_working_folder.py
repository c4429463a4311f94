"""The working folder of a user shadows no library, and an app's imports mean what they say."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from vidan.errors import InputRejected
from vidan.processes import lifeline, working_folder

ROOT = str(Path(working_folder.__file__).parents[2])
PROGRAM = str(Path(sys.executable).parent / "vidan")
INSTALLED = "typer click rich sqlalchemy psycopg alembic confluent_kafka pydantic jsonschema \
dotenv platformdirs cronsim numpy av torch torchvision decord PIL safetensors fastapi uvicorn"

# `python -m` itself imports these from the working folder, before it runs anything of vidan.
BEFORE_US = {
    "_collections_abc",
    "abc",
    "collections",
    "contextlib",
    "functools",
    "heapq",
    "importlib",
    "keyword",
    "operator",
    "pkgutil",
    "reprlib",
    "runpy",
    "types",
    "warnings",
    "__future__",
}


@pytest.fixture
def shadowing(tmp_path: Path) -> Path:
    """A folder with a module of each name that Python or a library of ours has."""
    for name in {*sys.stdlib_module_names, *INSTALLED.split(), "vidan"}:
        (tmp_path / f"{name}.py").write_text(f"raise SystemExit('{name} of the folder')\n")
    package = tmp_path / "email"
    package.mkdir()
    (package / "__init__.py").write_text("raise SystemExit('email of the folder')\n")
    return tmp_path


def run_in(folder: Path, *command: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": ROOT, "VIDAN_HOME": str(folder / "home")}
    environment.pop("DATABASE_URL", None)
    return subprocess.run(
        command, cwd=folder, env=environment, capture_output=True, text=True, timeout=60
    )


@pytest.mark.parametrize("words", ["--help", "models list", "worker --help", "doctor --help"])
def test_a_command_imports_nothing_from_the_folder(shadowing: Path, words: str) -> None:
    done = run_in(shadowing, PROGRAM, *words.split())
    assert (done.returncode, done.stderr) == (0, "")
    for name in {*BEFORE_US, "vidan"}:
        (shadowing / f"{name}.py").unlink(missing_ok=True)
    done = run_in(shadowing, sys.executable, "-m", "vidan", *words.split())
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize("module", ["vidan.worker", "vidan.supervisor", "vidan.broker.embedded"])
def test_a_child_imports_nothing_from_the_folder(shadowing: Path, module: str) -> None:
    child = lifeline.spawn(
        module,
        ["--help"],
        env={**os.environ, "PYTHONPATH": ROOT},
        cwd=shadowing,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )
    assert child.stdout is not None
    shown = child.stdout.read().decode()
    child.stdout.close()
    child.close()
    assert child.wait() == 0, shown


def test_the_path_of_the_user_is_kept(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text("print('mine')\n")
    environment = {**os.environ, "PYTHONPATH": str(tmp_path)}
    child = lifeline.spawn("mine", env=environment, stdout=subprocess.PIPE)
    assert child.stdout is not None
    assert child.stdout.read() == b"mine\n"
    child.stdout.close()
    child.close()
    assert child.wait() == 0


Write = Callable[..., None]


@pytest.fixture
def write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Write]:
    """Writes modules into the current directory: `write(a="import b", **{"c/d": "…"})`."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    before = set(sys.modules)

    def write(**sources: str) -> None:
        for name, source in sources.items():
            file = tmp_path / f"{name}.py"
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(source)

    yield write
    for name in set(sys.modules) - before:
        del sys.modules[name]


def test_the_folder_comes_behind_the_libraries(write: Write, tmp_path: Path) -> None:
    write(videos_of_mine="import words_of_mine", words_of_mine="x = 1")
    assert working_folder.import_module("videos_of_mine").words_of_mine.x == 1
    assert sys.path[-1] == str(tmp_path)
    working_folder.import_module("words_of_mine")
    assert sys.path.count(str(tmp_path)) == 1


REFUSED = {
    "stdlib": {"my_app": "import queue", "queue": ""},
    "loaded already": {"my_app": "from random import choice", "random": ""},
    "built in": {"my_app": "import time", "time": ""},
    "a library": {"my_app": "import numpy as np", "numpy/__init__": ""},
    "vidan": {"my_app": "from vidan import Vidan", "vidan": ""},
    "a part of it": {"my_app": "import xml.dom", "xml/__init__": "", "xml/dom": ""},
    "in a function": {"my_app": "def task():\n    import queue", "queue": ""},
    "in a module that a function imports": {
        "my_app": "def task():\n    import my_help",
        "my_help": "import queue",
        "queue": "",
    },
    "in a package": {
        "my_app": "from my_shop import words",
        "my_shop/__init__": "",
        "my_shop/words": "from . import more",
        "my_shop/more": "import queue",
        "queue": "",
    },
    "by a call": {"my_app": "import importlib\nimportlib.import_module('queue')", "queue": ""},
    "by a name that is made": {
        "my_app": "__import__('my_' + 'help')",
        "my_help": "import queue",
        "queue": "",
    },
    "in spite of an error": {"my_app": "from queue import JobList", "queue": "JobList = list"},
}


@pytest.mark.parametrize("sources", REFUSED.values(), ids=REFUSED)
def test_an_import_that_means_another_module_is_refused(
    write: Write, sources: dict[str, str]
) -> None:
    write(**sources)
    shadowed = list(sources)[-1].partition("/")[0]
    if "xml" in sources["my_app"]:
        shadowed = "xml"
    with pytest.raises(InputRejected) as refused:
        working_folder.import_module("my_app")
    assert f"import {shadowed}" in str(refused.value)
    assert f"{shadowed}" in str(refused.value).partition(", not ")[2]
    assert f"rename {'the folder ' if shadowed in ('numpy', 'xml') else ''}{shadowed}" in str(
        refused.value.hint
    )
    assert "\n" not in str(refused.value)


def test_the_app_itself_is_refused(write: Write) -> None:
    write(queue="raise SystemExit('imported')", time="", **{"xml/app": ""})
    for name in ("queue", "time", "xml.app"):
        with pytest.raises(InputRejected, match=f"import {name} means"):
            working_folder.import_module(name)
        with pytest.raises(InputRejected, match=f"import {name} means"):
            working_folder.find(name)


TAKEN = {
    "no import of the app": {"my_app": "import my_help", "my_help": "", "queue": "1/0"},
    "a part of a package": {
        "my_app": "import my_shop.queue",
        "my_shop/__init__": "from . import queue",
        "my_shop/queue": "",
    },
    "a package without a file": {"my_app": "import my_shop.words", "my_shop/words": ""},
    "for types alone": {
        "my_app": "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    import queue",
        "queue": "",
    },
    "a folder of data": {"my_app": "import numpy", "numpy/weights": ""},
    "of the future": {"my_app": "from __future__ import annotations", "__future__": "1/0"},
}


@pytest.mark.parametrize("sources", TAKEN.values(), ids=TAKEN)
def test_what_means_what_it_says_is_imported(write: Write, sources: dict[str, str]) -> None:
    write(**sources)
    assert working_folder.find("my_app")
    assert working_folder.import_module("my_app").__name__ == "my_app"


def test_a_library_below_the_folder_is_none_of_the_app(
    write: Write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A virtual environment often lies in the folder of a project."""
    write(my_app="import my_library", queue="1/0", **{"venv/my_library": "import queue"})
    monkeypatch.syspath_prepend(tmp_path / "venv")
    working_folder.import_module("my_app")


def test_a_path_that_the_user_set_comes_first_and_is_named(
    write: Write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(my_app="", **{"other/my_app": "other = True"})
    monkeypatch.syspath_prepend(tmp_path / "other")
    with pytest.raises(InputRejected, match=r"means .*/other/my_app\.py, not my_app\.py"):
        working_folder.import_module("my_app")
    (tmp_path / "my_app.py").unlink()
    assert working_folder.import_module("my_app").other


def test_nothing_is_imported_to_find_a_module(write: Write) -> None:
    write(my_app="1/0", **{"my_shop/tasks": "1/0"})
    assert working_folder.find("my_app")
    assert working_folder.find("my_shop.tasks")
    assert not working_folder.find("no_such_module.at_all")
