"""Finds the commands, code blocks and links in the documents of the repository."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
DOCUMENTS = (
    ROOT / "README.md",
    ROOT / "CONTRIBUTING.md",
    ROOT / "CHANGELOG.md",
    *sorted((ROOT / "docs").glob("*.md")),
    ROOT / "examples" / "README.md",
)

_FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_HEADING = re.compile(r"^#+ (.+)$", re.MULTILINE)


@dataclass(frozen=True)
class Block:
    """A fenced block of a document."""

    document: Path
    heading: str
    language: str
    text: str

    @property
    def place(self) -> str:
        """The document and the heading above the block; tests are named after it."""
        return f"{self.document.relative_to(ROOT)}: {self.heading}"


def blocks(*languages: str) -> Iterator[Block]:
    """Yield the fenced blocks of all documents, in these languages or in any."""
    for document in DOCUMENTS:
        text = document.read_text(encoding="utf-8")
        for found in _FENCE.finditer(text):
            if not languages or found[1] in languages:
                yield Block(document, _heading(text, found.start()), found[1], found[2])


def sections() -> dict[str, list[Block]]:
    """Return the blocks of commands by section; a section is one session at a terminal."""
    gathered: dict[str, list[Block]] = {}
    for block in blocks("sh"):
        gathered.setdefault(block.place, []).append(block)
    return gathered


def commands(block: Block) -> list[str]:
    """Return the commands of a block; a quote or a backslash may continue one over lines."""
    found: list[str] = []
    pending = ""
    for line in block.text.splitlines():
        pending += line
        if pending.endswith("\\") or pending.count('"') % 2 or pending.count("'") % 2:
            pending += "\n"
        else:
            found.append(pending)
            pending = ""
    assert not pending, f"{block.place}: this command does not end: {pending}"
    return [command for command in found if command.strip()]


def inline_commands() -> Iterator[tuple[Path, str]]:
    """Yield each `vidan …` in running text and tables."""
    for document in DOCUMENTS:
        text = _FENCE.sub("", document.read_text(encoding="utf-8"))
        for found in re.finditer(r"`(vidan -?[^`]+)`", text):
            yield document, " ".join(found[1].split())


def links() -> Iterator[tuple[Path, str]]:
    """Yield each link to a file of the repository."""
    for document in DOCUMENTS:
        for found in re.finditer(r"\]\(([^)]+)\)", document.read_text(encoding="utf-8")):
            if "://" not in found[1]:
                yield document, found[1].partition("#")[0]


def _heading(text: str, position: int) -> str:
    *_, last = _HEADING.finditer(_without_code(text[:position]))
    return last[1]


def _without_code(text: str) -> str:
    """Leave out the blocks, since a comment of a shell looks like a heading."""
    return _FENCE.sub("", text)
