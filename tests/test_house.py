"""The shape of the house: how large its parts may be, and that each of them says what it is for.

CONTRIBUTING.md and docs/architecture.md describe the house; these rules hold it. Each one fails
with the list of the places that break it.
"""

from __future__ import annotations

import ast
import os
import re
from collections.abc import Iterator, Sequence
from pathlib import Path

import grimp
import pytest
from radon.complexity import cc_visit
from radon.visitors import Class, Function

ROOT = Path(__file__).resolve().parents[1]
HOUSE = ROOT / "vidan"
TESTS = ROOT / "tests"

MAX_MODULES_IN_ROOT = 12
"""Largest number of modules directly in vidan/, `__init__.py` and `__main__.py` included."""
MAX_BODY = 40
"""Largest number of lines in the body of a function, its docstring not counted."""
MAX_COMPLEXITY = 15
"""Largest cyclomatic complexity of a function, as radon counts it."""
MAX_TEST_LINES = 500
"""Largest number of lines in a Python file of tests/."""

NO_ROOMS = {"chaos", "contract", "documents", "examples", "fuzz", "kafka", "model", "recovery",
            "reference", "support"}  # fmt: skip
"""The folders of tests/ that mirror no room of vidan/."""

NEXT_SENTENCE = r"(?<!e\.g)(?<!i\.e)\.\s+[A-Z`]"
ONE_SENTENCE = re.compile(rf"[A-Z`](?:(?!{NEXT_SENTENCE}).)*\.", re.DOTALL)
LEFT_TO_DO = re.compile(r"\b(TODO|FIXME)\b")

FunctionNode = ast.FunctionDef | ast.AsyncFunctionDef


def modules() -> list[Path]:
    """The Python files of vidan/."""
    return sorted(HOUSE.rglob("*.py"))


def place(path: Path) -> str:
    """A file, named from the repository's root."""
    return str(path.relative_to(ROOT))


def listed(wrong: Sequence[str]) -> str:
    """The places that break a rule, each on a line of its own."""
    return "".join(f"\n  {one}" for one in wrong)


def folders_of_tests() -> set[str]:
    """The folders directly in tests/ that hold something."""
    return {
        path.name
        for path in TESTS.iterdir()
        if path.is_dir() and any(one.suffix not in ("", ".pyc") for one in path.rglob("*"))
    }


# --- the rooms


def test_few_modules_stand_directly_in_the_root() -> None:
    found = sorted(path.name for path in HOUSE.glob("*.py"))
    assert len(found) <= MAX_MODULES_IN_ROOT, (
        f"{len(found)} modules stand directly in vidan/, at most {MAX_MODULES_IN_ROOT} may:"
        f" move one into a room:{listed(found)}"
    )


def test_every_room_says_in_one_sentence_what_it_is_for() -> None:
    wrong = []
    for path in sorted(HOUSE.glob("*/**/__init__.py")):
        docstring = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or ""
        if not ONE_SENTENCE.fullmatch(docstring.partition("\n\n")[0]):
            wrong.append(f"{place(path)}: {docstring[:60]!r}")
    assert not wrong, f"one sentence must begin the docstring of these rooms:{listed(wrong)}"


def test_no_circle_of_imports_stands_between_modules() -> None:
    """Imports for types and imports inside functions count."""
    graph = grimp.build_graph("vidan", cache_dir=None)
    imports = {name: graph.find_modules_directly_imported_by(name) for name in graph.modules}
    found = circle(imports)
    assert not found, f"these modules import each other in a circle: {' → '.join(found)}"


def circle(imports: dict[str, set[str]]) -> list[str]:
    """A circle among the imports, its first module repeated at the end; empty if there is none."""
    left = {name: set(imported) for name, imported in imports.items()}
    while done := {name for name, imported in left.items() if not imported & left.keys()}:
        left = {name: imported for name, imported in left.items() if name not in done}
    if not left:
        return []
    way = [min(left)]
    while way[-1] not in way[:-1]:
        way.append(min(left[way[-1]] & left.keys()))
    return way[way.index(way[-1]) :]


@pytest.mark.parametrize(
    ("imports", "found"),
    [
        ({"a": {"b"}, "b": {"c"}, "c": set()}, []),
        ({"a": {"b"}, "b": {"c"}, "c": {"b", "d"}, "d": set()}, ["b", "c", "b"]),
        ({"a": {"a"}}, ["a", "a"]),
    ],
)
def test_a_circle_is_found(imports: dict[str, set[str]], found: list[str]) -> None:
    assert circle(imports) == found


# --- functions


def functions(path: Path) -> Iterator[tuple[str, FunctionNode]]:
    """The functions and methods of a file, with where each begins."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, FunctionNode):
            yield f"{place(path)}:{node.lineno} {node.name}", node


def lines_of_body(function: FunctionNode) -> int:
    """How many lines the body takes, without its docstring."""
    body = function.body[1:] if ast.get_docstring(function, clean=False) else function.body
    return (body[-1].end_lineno or 0) - body[0].lineno + 1 if body else 0


def test_no_function_is_longer_than_a_screen() -> None:
    long = [
        f"{where}: {lines} lines"
        for path in modules()
        for where, function in functions(path)
        if (lines := lines_of_body(function)) > MAX_BODY
    ]
    assert not long, f"split these functions, a body has at most {MAX_BODY} lines:{listed(long)}"


def test_no_function_has_too_many_branches() -> None:
    tangled = [
        f"{place(path)}:{function.lineno} {function.fullname}: {function.complexity}"
        for path in modules()
        for function in complexities(path)
        if function.complexity > MAX_COMPLEXITY
    ]
    assert not tangled, (
        f"split these functions or make tables of their branches, the cyclomatic complexity is at"
        f" most {MAX_COMPLEXITY}:{listed(tangled)}"
    )


def complexities(path: Path) -> list[Function]:
    """What radon has measured of each function and method of a file."""
    blocks = cc_visit(path.read_text(encoding="utf-8"))
    return [block for block in blocks if not isinstance(block, Class)]


def test_nothing_is_left_to_do() -> None:
    found = [
        f"{place(path)}:{number}"
        for path in modules()
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1)
        if LEFT_TO_DO.search(line)
    ]
    assert not found, f"do it or file an issue, no TODO stays in the code:{listed(found)}"


# --- the tests


def test_no_file_of_tests_is_too_long() -> None:
    long = [
        f"{place(path)}: {lines}"
        for path in sorted(TESTS.rglob("*.py"))
        if (lines := len(path.read_text(encoding="utf-8").splitlines())) > MAX_TEST_LINES
    ]
    assert not long, f"split these files by subject, at most {MAX_TEST_LINES} lines:{listed(long)}"


def test_the_folders_of_tests_mirror_the_rooms() -> None:
    rooms = {path.parent.name for path in HOUSE.glob("*/__init__.py")}
    strange = sorted(folders_of_tests() - rooms - NO_ROOMS)
    assert not strange, f"these folders of tests/ mirror no room of vidan/:{listed(strange)}"


def test_the_readme_of_the_tests_names_every_folder() -> None:
    text = (TESTS / "README.md").read_text(encoding="utf-8")
    named = set(re.findall(r"^\| `(\w+)/` \|", text, re.MULTILINE))
    assert not folders_of_tests() - named, "tests/README.md must say what each folder is for"
    assert not named - folders_of_tests(), "tests/README.md names folders that do not exist"


# --- the rules themselves can fail


def test_a_unit_test_that_starts_a_process_fails(request: pytest.FixtureRequest) -> None:
    assert request.node.get_closest_marker("unit")
    with pytest.raises(pytest.fail.Exception, match="starts a process"):
        os.system("true")


@pytest.mark.parametrize(
    ("docstring", "passes"),
    [
        ("Tables, connections and the schema's versions.", True),
        ("The command line: parse → service → print, e.g. `vidan run`.", True),
        ("", False),
        ("Without a full stop", False),
        ("One sentence. And another one.", False),
    ],
)
def test_one_sentence_is_told_from_none_and_from_two(docstring: str, passes: bool) -> None:
    assert bool(ONE_SENTENCE.fullmatch(docstring)) is passes


def test_a_body_is_measured_without_its_docstring() -> None:
    source = 'def outer():\n    """Long\n\n    text."""\n    def inner():\n        pass\n'
    found = [node for node in ast.walk(ast.parse(source)) if isinstance(node, FunctionNode)]
    assert [lines_of_body(node) for node in found] == [2, 1]
