"""docs/architecture.md and CONTRIBUTING.md are true: paths exist, rooms are named, layers agree."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

import pytest

from tests.support.documents import DOCUMENTS, ROOT, blocks, links

MAP = ROOT / "docs" / "architecture.md"
GUIDE = ROOT / "CONTRIBUTING.md"
SUFFIXES = "py pyi md sql toml yaml ini txt"
_CODE = re.compile(r"`([^`\n]+)`")


def code_spans(document: Path) -> Iterator[str]:
    """What stands in backquotes in running text and tables."""
    text = re.sub(r"^```.*?^```$", "", document.read_text(encoding="utf-8"), flags=re.M | re.S)
    yield from _CODE.findall(text)


def paths(document: Path) -> list[str]:
    """The paths of files and folders of the repository that a document names."""
    return [word for word in code_spans(document) if is_path(word)]


def is_path(word: str) -> bool:
    """Whether it is a path: a folder ends in a slash, a file has a suffix."""
    if re.search(r"[^\w./<>-]", word) or word.startswith("/"):
        return False
    return "/" in word and (word.endswith("/") or word.rpartition(".")[2] in SUFFIXES.split())


def rooms() -> set[str]:
    """The packages and modules directly in vidan/, as the layers name them."""
    package = ROOT / "vidan"
    folders = {path.parent.name for path in package.glob("*/__init__.py")}
    return folders | {path.stem for path in package.glob("*.py")} - {"__init__"}


def declared_layers() -> dict[str, list[set[str]]]:
    """The layers of each contract in pyproject.toml by its id, the highest first."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    contracts = project["tool"]["importlinter"]["contracts"]
    return {
        contract["id"]: [rooms_of(layer) for layer in contract["layers"]]
        for contract in contracts
        if contract["type"] == "layers"
    }


def rooms_of(layer: str) -> set[str]:
    return {room.strip() for room in re.split(r"[|:]", layer)}


def named_layers() -> dict[str, list[set[str]]]:
    """The layers that the map names: a block of text whose first line is a contract's id."""
    named = {}
    for block in blocks("text"):
        identity, *layers = block.text.splitlines()
        if block.document == MAP and identity in declared_layers():
            named[identity] = [rooms_of(layer) for layer in layers]
    return named


def test_every_path_that_is_named_exists() -> None:
    for document in (MAP, GUIDE):
        named = paths(document)
        assert len(named) > 20
        for path in named:
            pattern = re.sub(r"<\w+>", "*", path)
            assert any(ROOT.glob(pattern)), f"{document.name} names {path}"


def test_a_path_that_does_not_exist_would_be_found() -> None:
    assert is_path("vidan/no_such_room/")
    assert is_path("vidan/no_such_file.py")
    assert not any(ROOT.glob("vidan/no_such_file.py"))
    assert not is_path("10/m")
    assert not is_path("module:factory")


def test_every_dotted_name_of_a_module_exists() -> None:
    for document in DOCUMENTS:
        for word in code_spans(document):
            if not re.fullmatch(r"vidan(\.\w+)+", word):
                continue
            parts = word.split(".")
            modules = [".".join(parts[:length]) for length in range(len(parts), 0, -1)]
            module = next(name for name in modules if is_module(name))
            # what is left is at most an attribute: a function, a class, a name with its method
            assert len(parts) - len(module.split(".")) <= 2, f"{document.name}: {word}"
            assert module != "vidan" or parts[1].istitle(), f"{document.name}: {word}"


def is_module(name: str) -> bool:
    try:
        return find_spec(name) is not None
    except ModuleNotFoundError:  # what is before the last point is no package
        return False


def test_every_room_has_its_row_and_no_other_has() -> None:
    section = MAP.read_text(encoding="utf-8").partition("\n## Rooms\n")[2].partition("\n## ")[0]
    rows = re.findall(r"^\| `vidan/(\w+)(?:/|\.py)` \|", section, re.M)
    assert sorted(rows) == sorted(rooms())


def test_the_layers_are_those_that_are_checked() -> None:
    named = named_layers()
    assert "layers" in named
    for identity, layers in named.items():
        assert layers == declared_layers()[identity], identity


def test_the_way_of_a_scenario_has_eleven_files() -> None:
    text = MAP.read_text(encoding="utf-8")
    assert re.findall(r"^\| (\d+) \| `vidan/", text, re.M) == [str(n) for n in range(1, 12)]


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda document: document.name)
def test_relative_links_lead_to_files_and_headings(document: Path) -> None:
    for target, anchor in links_of(document):
        found = (document.parent / target).resolve() if target else document
        assert found.exists(), f"{document.name}: {target}"
        if anchor:
            assert anchor in anchors(found), f"{document.name}: {target}#{anchor}"


def links_of(document: Path) -> Iterator[tuple[str, str]]:
    for found in re.finditer(r"\]\(([^)]+)\)", document.read_text(encoding="utf-8")):
        if "://" not in found[1]:
            target, _, anchor = found[1].partition("#")
            yield target, anchor


def anchors(document: Path) -> set[str]:
    """The anchors of a document's headings, as GitHub makes them."""
    headings = re.findall(r"^#+ (.+)$", document.read_text(encoding="utf-8"), re.M)
    plain = (re.sub(r"[^\w\- ]", "", heading.lower()) for heading in headings)
    return {heading.replace(" ", "-") for heading in plain}


def test_the_map_is_linked_from_the_readme() -> None:
    linked = {target for document, target in links() if document == ROOT / "README.md"}
    assert {"docs/architecture.md", "CONTRIBUTING.md"} <= linked
