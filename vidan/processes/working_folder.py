"""The working folder of a user: its files shadow no library, and an app in it can be imported.

No process of vidan has the folder in front of the libraries: a `queue.py` in it would replace that
of Python for everything. What an app means by `import queue` then differs from what the app gets,
so such an import is refused by name.
"""

from __future__ import annotations

import ast
import importlib
import sys
from collections.abc import Iterator
from importlib.machinery import PathFinder
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType

from vidan.errors import InputRejected


def import_module(name: str) -> ModuleType:
    """Import a module of a user's, from the libraries or else from the current directory.

    Raises InputRejected if it, or a module of the folder that it imports, names a module that is in
    the folder and would come from elsewhere; besides, whatever the module raises.
    """
    folder = Path.cwd()
    if str(folder) not in sys.path:
        sys.path.append(str(folder))
    importlib.invalidate_caches()  # the file may be newer than the last look at the folder
    seen: set[str] = set()
    _check(name, folder, seen)
    found = importlib.import_module(name)
    for loaded in list(sys.modules):  # those that it has imported in other ways
        if _was_loaded_from(loaded, folder):
            _check(loaded, folder, seen)
    return found


def find(name: str) -> bool:
    """Tell whether `import_module` would find a module; imports nothing.

    Of a dotted name, only the first package is searched: its parts may be made by its code. Raises
    InputRejected as `import_module` does, for this name alone.
    """
    top, folder = name.partition(".")[0], Path.cwd()
    return (
        _is_of_folder(name, folder)
        or PathFinder.find_spec(top, [str(folder)]) is not None
        or find_spec(top) is not None
    )


def _check(name: str, folder: Path, seen: set[str]) -> None:
    """Refuse the imports of a module, and of the modules of the folder that it imports."""
    waiting = [name]
    while waiting:
        module = waiting.pop()
        parts = module.split(".")
        if module in seen or parts[0] == "__future__":
            continue
        seen.add(module)
        if not _is_of_folder(module, folder) or parts[0] == "vidan":
            continue
        for count in range(1, len(parts) + 1):  # `a.b.c` runs a, a.b and a.b.c
            file = _file(parts[:count], folder)
            if file is not None:
                waiting.extend(_imports(file, parts[:count]))


def _is_of_folder(module: str, folder: Path) -> bool:
    """Tell whether an import of a module comes from the folder.

    Raises InputRejected if the folder has the module, and Python would take another.
    """
    parts = module.split(".")
    spec = PathFinder.find_spec(parts[0], [str(folder)])
    if spec is None:
        return False
    here = Path(spec.origin) if spec.has_location and spec.origin else None
    if here is None:  # a package without a file of its own, or a folder of data: libraries win
        here = _file(parts, folder) if len(parts) > 1 else None
        if here is None:
            return False
    if (other := _elsewhere(parts[0], here, folder / parts[0])) is None:
        return True
    shown = here.relative_to(folder) if here.is_relative_to(folder) else here
    what = str(shown) if len(shown.parts) == 1 else f"the folder {shown.parts[0]}"
    raise InputRejected(
        f"import {module} means {other}, not {shown} in this folder",
        hint=f"rename {what}: libraries come before the working folder",
    )


def _elsewhere(top: str, here: Path, package: Path) -> str | None:
    """Return from where an import of a name comes, in words; None if it comes from the folder.

    If nothing is found, then because this process has not added the folder to `sys.path`.
    """
    if (loaded := sys.modules.get(top)) is not None:
        file, places = getattr(loaded, "__file__", None), getattr(loaded, "__path__", ())
    elif (spec := find_spec(top)) is not None:
        file = spec.origin if spec.has_location else None
        places = spec.submodule_search_locations or ()
    else:
        return None
    if any(_same(file, one) for one in (here, package / "__init__.py")):
        return None
    if file is None:
        of_folder = any(_same(place, package) for place in places)
        return None if of_folder else "a module that Python has already"
    return str(file)


def _same(one: str | None, other: Path) -> bool:
    try:
        return one is not None and other.samefile(one)
    except OSError:
        return False


def _was_loaded_from(name: str, folder: Path) -> bool:
    """Tell whether a loaded module was found in the folder, not in libraries below it."""
    file = getattr(sys.modules.get(name), "__file__", None)
    return (
        isinstance(file, str)
        and file.startswith(f"{folder}/")
        and _same(file, _file(name.split("."), folder) or folder)
    )


def _file(parts: list[str], folder: Path) -> Path | None:
    """Return the source of a module of the folder, None if it has none."""
    place = folder.joinpath(*parts)
    files = (place / "__init__.py", place.with_name(f"{place.name}.py"))
    return next((file for file in files if file.is_file()), None)


def _imports(file: Path, parts: list[str]) -> Iterator[str]:
    """Return the names of the modules that a source imports, also inside its functions."""
    try:
        tree = ast.parse(file.read_bytes())
    except (OSError, SyntaxError, ValueError, RecursionError):
        return  # the import itself tells
    waiting: list[ast.AST] = [tree]
    while waiting:
        node = waiting.pop()
        if isinstance(node, ast.If) and _is_for_types(node.test):
            waiting.extend(node.orelse)
            continue
        waiting.extend(ast.iter_child_nodes(node))
        yield from _imported(node, parts if file.name == "__init__.py" else parts[:-1])


def _imported(node: ast.AST, package: list[str]) -> Iterator[str]:
    """Return the names of the modules that one statement or call imports in a package."""
    match node:
        case ast.Import(names=names):
            yield from (one.name for one in names)
        case ast.ImportFrom(module=module, names=names, level=level):
            base = package[: len(package) - level + 1] if level else []
            start = [*base, *(module or "").split(".")] if module else base
            if start:
                yield ".".join(start)
                yield from (".".join([*start, one.name]) for one in names if one.name != "*")
        case ast.Call(func=function, args=[ast.Constant(value=str(name)), *_]):
            called = getattr(function, "attr", getattr(function, "id", ""))
            if called in ("import_module", "__import__") and not name.startswith("."):
                yield name


def _is_for_types(test: ast.expr) -> bool:
    return "TYPE_CHECKING" in (getattr(test, "id", ""), getattr(test, "attr", ""))
