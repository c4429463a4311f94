"""The public face: what `vidan` exports, and every import path that documents and examples name."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from importlib import import_module, util
from pathlib import Path

import pytest

import vidan
from tests.support.documents import DOCUMENTS, ROOT

FACE = [
    "Detection",
    "Reject",
    "Retry",
    "Run",
    "ScenarioHandle",
    "Schedule",
    "Signature",
    "TimeLimitExceeded",
    "Vidan",
    "__version__",
]

_IMPORT = re.compile(
    r"^[ \t]*(?:from (vidan[\w.]*) import (\([^)]*\)|[\w, ]+)|import (vidan[\w.]*))", re.MULTILINE
)
_DOTTED = re.compile(r"(?<![\w/.@-])vidan(?:\.[A-Za-z_]\w*)+(?::[A-Za-z_]\w*)?")
_CODE = re.compile(r"^```.*?^```$|`[^`\n]+`", re.MULTILINE | re.DOTALL)
_LOGGER = re.compile(r"vidan\.(runner|commits|keeper|task)\b")
"""Names of loggers that are no import paths; each task has one: `vidan.task.count`."""


def test_the_package_exports_exactly_these_names() -> None:
    assert sorted(vars(vidan)["__all__"]) == FACE
    assert dir(vidan) == FACE
    for name in FACE:
        assert getattr(vidan, name) is not None
    with pytest.raises(AttributeError):
        vidan.nothing  # type: ignore[attr-defined]  # noqa: B018  (the access is the test)


def test_type_checkers_see_the_same_names() -> None:
    stub = ast.parse((ROOT / "vidan" / "__init__.pyi").read_text(encoding="utf-8"))
    named = {
        alias.asname
        for node in stub.body
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
        if alias.asname == alias.name  # `X as X` is exported by a stub, `X` is not
    }
    declared = {
        node.target.id
        for node in stub.body
        if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name)
    }
    assert sorted(named | declared) == FACE


def test_the_stub_names_the_same_homes() -> None:
    """Each name is the same object, whether the package or its stub says where it is defined."""
    stub = ast.parse((ROOT / "vidan" / "__init__.pyi").read_text(encoding="utf-8"))
    for node in stub.body:
        if isinstance(node, ast.ImportFrom):
            for alias in node.names:
                assert getattr(import_module(str(node.module)), alias.name) is getattr(
                    vidan, alias.name
                )


def test_a_run_shows_its_task_only_what_is_for_the_task() -> None:
    shown = {name for name in dir(vidan.Run) if not name.startswith("_")}
    assert shown == {
        *("scenario_id", "source", "state", "log", "parent", "group", "stopping"),
        *("detect", "frames", "progress", "store"),
    }


def imported(text: str) -> Iterator[tuple[str, str | None]]:
    """Yield (module, name) for each import of vidan in a text; the name is None for a module."""
    for found in _IMPORT.finditer(text):
        if found[3]:
            yield found[3], None
        else:
            for name in re.findall(r"\w+(?: as \w+)?", found[2]):
                yield found[1], name.partition(" as ")[0]


def named_paths() -> dict[tuple[str, str | None], Path]:
    """Return each import path that documents and examples name, with a file that names it."""
    paths: dict[tuple[str, str | None], Path] = {}
    for file in (*DOCUMENTS, *sorted((ROOT / "examples").glob("*.py"))):
        text = file.read_text(encoding="utf-8")
        for path in imported(text):
            paths.setdefault(path, file)
        code = "\n".join(_CODE.findall(text)) if file.suffix == ".md" else text
        for dotted in _DOTTED.findall(code):
            module, _, name = dotted.partition(":")
            if not _LOGGER.match(module):
                paths.setdefault((module, name or None), file)
    return paths


def is_there(module: str, name: str | None) -> bool:
    """Whether `module` can be imported and has `name`, as an attribute or as a module in it.

    Without a name, the last part of the path may itself be an attribute: `vidan.errors.Reject`.
    """
    try:
        found = import_module(module)
    except ModuleNotFoundError:
        parent, _, last = module.rpartition(".")
        return name is None and bool(parent) and is_there(parent, last)
    if name is None:
        return True
    try:
        if hasattr(found, name):
            return True
    except SystemExit:  # `vidan.api:app` asks the database first: the name is there
        return True
    return hasattr(found, "__path__") and util.find_spec(f"{module}.{name}") is not None


@pytest.fixture(autouse=True)
def _a_database_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """`vidan.api:app` asks the database of the settings: let it be one that refuses at once."""
    monkeypatch.setenv("DATABASE_URL", "postgresql://127.0.0.1:1/vidan")


@pytest.mark.parametrize(
    ("module", "name"), sorted(named_paths(), key=str), ids=lambda part: str(part or "")
)
def test_import_paths_in_documents_and_examples_exist(module: str, name: str | None) -> None:
    file = named_paths()[module, name].relative_to(ROOT)
    assert is_there(module, name), f"{file} names {module}{f':{name}' if name else ''}"


def test_paths_are_found_in_the_documents() -> None:
    """Else the test above would pass because it looks for nothing."""
    paths = set(named_paths())
    assert {
        ("vidan", "Vidan"),
        ("vidan", "flow"),
        ("vidan.api", "app"),
        ("vidan.db.session", "Database"),
        ("vidan.domain", "Detection"),
        ("vidan.services.scenarios", "NewScenario"),
    } <= paths
    assert not is_there("vidan.no_such_module", None)
    assert not is_there("vidan.errors", "NoSuchError")


PUBLIC = [
    "vidan.api:app",
    "vidan.config:load",
    "vidan.db.session:Database",
    "vidan.domain:Detection",
    "vidan.domain:Gap",
    "vidan.domain:Status",
    "vidan.errors:VidanError",
    "vidan.flow:group",
    "vidan.flow:start",
    "vidan.logs:carried",
    "vidan.services.predictions:read_after",
    "vidan.services.scenarios:NewScenario",
    "vidan.services.scenarios:create",
    "vidan.services.scenarios:create_many",
    "vidan.testing:Stack",
]
"""Paths that stay, whether a document names them or not."""


@pytest.mark.parametrize("path", PUBLIC)
def test_public_paths_stay(path: str) -> None:
    module, _, name = path.partition(":")
    assert is_there(module, name)


def test_the_package_itself_loads_nothing_heavy() -> None:
    heavy = "torch", "av", "numpy", "sqlalchemy", "confluent_kafka"
    script = f"import sys, vidan; sys.exit(any(name in sys.modules for name in {heavy!r}))"
    assert subprocess.run([sys.executable, "-c", script]).returncode == 0
