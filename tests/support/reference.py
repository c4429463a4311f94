"""Writes docs/reference.md from the signatures and docstrings of the code."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from dataclasses import dataclass

from tests.support.documents import ROOT

PATH = ROOT / "docs" / "reference.md"
WIDTH = 92

HEAD = """# Reference

What the code of a task gets, and what programs call: names, signatures, shapes, units and errors,
as they stand in the code. [tasks.md](tasks.md) says how to use them. `from vidan import …` gives
Detection, Reject, Retry, Run, ScenarioHandle, Schedule, Signature, TimeLimitExceeded and Vidan. The
code of a service takes a connection, `with database.begin() as connection`, and the caller's block
is the transaction.
"""


@dataclass(frozen=True)
class Part:
    """A section: the classes and functions of one module that it shows, all public ones by default.

    `members` narrows a class to some of its members: the others are for the worker.
    """

    title: str
    module: str
    names: tuple[str, ...] = ()
    members: tuple[str, ...] = ()


PARTS = (
    Part("The app", "vidan.tasks.app", ("Vidan",)),
    Part(
        "Calls of a task",
        "vidan.tasks.task",
        ("Task",),
        ("delay", "new", "apply", "create_many", "signature", "__call__"),
    ),
    Part("A run", "vidan.run.run", ("Run",)),
    Part("Batches of frames", "vidan.video.frames", ("FrameBatch",)),
    Part("Detections and gaps", "vidan.domain.detection"),
    Part("Handles of scenarios", "vidan.tasks.calls", ("ScenarioHandle",)),
    Part("Signatures", "vidan.tasks.signature", ("Signature",)),
    Part("Chains and groups", "vidan.tasks.flow"),
    Part("Schedules", "vidan.domain.schedule", ("Schedule",)),
    Part("Retries", "vidan.domain.retry", ("Retry",)),
    Part("Predecessors", "vidan.protocol.followups", ("Predecessor",)),
    Part("Members of a group", "vidan.run.predecessors", ("GroupMembers",)),
    Part("Tests", "vidan.tasks.app", ("Stack",)),
    Part("Errors", "vidan.errors"),
    Part(
        "Databases", "vidan.db.session", ("Database",), ("begin", "autocommit", "retrying", "close")
    ),
    Part("Service: scenarios", "vidan.services.scenarios"),
    Part("Service: predictions", "vidan.services.predictions"),
    Part("Service: steering", "vidan.services.steering"),
    Part("Service: logs of scenarios", "vidan.services.scenario_logs"),
    Part("Service: schedules", "vidan.services.schedules"),
    Part("Service: workers", "vidan.services.workers"),
)


def document() -> str:
    """Return the whole document."""
    return "\n".join([HEAD, *(line for part in PARTS for line in _section(part))]).rstrip() + "\n"


def _section(part: Part) -> Iterator[str]:
    yield f"## {part.title}\n"
    tree = ast.parse((ROOT / f"{part.module.replace('.', '/')}.py").read_text(encoding="utf-8"))
    yield f"In `{part.module}`.\n"
    for node in tree.body:
        if not isinstance(node, ast.ClassDef | ast.FunctionDef) or node.name.startswith("_"):
            continue
        if part.names and node.name not in part.names:
            continue
        if isinstance(node, ast.ClassDef):
            yield from _class(node, part.members)
        else:
            yield from _function(node, "")


def _class(node: ast.ClassDef, members: tuple[str, ...]) -> Iterator[str]:
    bases = ", ".join(ast.unparse(base) for base in node.bases)
    yield f"### {node.name}\n"
    shown = [f"class {node.name}{f'({bases})' if bases else ''}"]
    if not members:
        shown += [
            _signature(one, node.name, bound=True)
            for one in node.body
            if isinstance(one, ast.FunctionDef) and one.name == "__init__" and one.args.args[1:]
        ]
    yield "```text\n" + "\n".join(shown) + "\n```\n"
    yield from _prose(ast.get_docstring(node))
    yield from _fields(node)
    for one in node.body:
        if not isinstance(one, ast.FunctionDef) or _is_overload(one):
            continue
        wanted = one.name in members if members else not one.name.startswith("_")
        if wanted:
            yield from _function(one, node.name)


def _fields(node: ast.ClassDef) -> Iterator[str]:
    """The annotated fields of a class, each with the docstring below it."""
    rows = []
    for place, one in enumerate(node.body):
        if isinstance(one, ast.AnnAssign) and isinstance(one.target, ast.Name):
            if one.target.id.startswith("_"):
                continue
            below = node.body[place + 1] if place + 1 < len(node.body) else None
            said = ""
            if isinstance(below, ast.Expr) and isinstance(below.value, ast.Constant):
                said = " ".join(str(below.value.value).split())
            default = "" if one.value is None else f" = {ast.unparse(one.value)}"
            if default.startswith(" = field("):
                default = ""
            shown = f"- `{one.target.id}: {ast.unparse(one.annotation)}{default}`"
            rows.append(f"{shown}: {said}" if said else shown)
    if rows:
        yield "\n".join(rows) + "\n"


def _function(node: ast.FunctionDef, owner: str) -> Iterator[str]:
    kinds = {ast.unparse(one).rpartition(".")[2] for one in node.decorator_list}
    if "setter" in kinds:
        return
    name = f"{owner}.{node.name}" if owner else node.name
    yield f"{'####' if owner else '###'} {name}\n"
    if "property" in kinds:
        yield f"```text\n{name} -> {ast.unparse(node.returns) if node.returns else ''}\n```\n"
    else:
        bound = bool(owner) and "staticmethod" not in kinds
        yield f"```text\n{_signature(node, name, bound=bound)}\n```\n"
    yield from _prose(ast.get_docstring(node))


def _signature(node: ast.FunctionDef, name: str, *, bound: bool) -> str:
    args = node.args
    words: list[str] = []
    plain = [*args.posonlyargs, *args.args]
    defaults = [None] * (len(plain) - len(args.defaults)) + list(args.defaults)
    for one, default in list(zip(plain, defaults, strict=True))[1 if bound else 0 :]:
        words.append(_parameter(one, default))
    if args.vararg:
        words.append(f"*{_parameter(args.vararg, None)}")
    elif args.kwonlyargs:
        words.append("*")
    for one, default in zip(args.kwonlyargs, args.kw_defaults, strict=True):
        words.append(_parameter(one, default))
    if args.kwarg:
        words.append(f"**{_parameter(args.kwarg, None)}")
    back = f" -> {ast.unparse(node.returns)}" if node.returns and node.name != "__init__" else ""
    line = f"{name}({', '.join(words)}){back}"
    if len(line) <= WIDTH:
        return line
    return "\n".join([f"{name}(", *(f"    {word}," for word in words), f"){back}"])


def _parameter(one: ast.arg, default: ast.expr | None) -> str:
    shown = one.arg + (f": {ast.unparse(one.annotation)}" if one.annotation else "")
    return shown if default is None else f"{shown} = {ast.unparse(default)}"


def _prose(docstring: str | None) -> Iterator[str]:
    if docstring:
        yield re.sub(r"[ \t]+\n", "\n", docstring).strip() + "\n"


def _is_overload(node: ast.FunctionDef) -> bool:
    return any(ast.unparse(one) == "overload" for one in node.decorator_list)
