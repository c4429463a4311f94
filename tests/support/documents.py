"""What the documents of the repository promise: blocks of commands and code, commands in text."""

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
    """A fenced block: where it stands, its language, its text."""

    document: Path
    heading: str
    language: str
    text: str

    @property
    def place(self) -> str:
        """Document and heading, as a test is named after them."""
        return f"{self.document.relative_to(ROOT)}: {self.heading}"


def blocks(*languages: str) -> Iterator[Block]:
    """The fenced blocks of all documents, of these languages or of any."""
    for document in DOCUMENTS:
        text = document.read_text(encoding="utf-8")
        for found in _FENCE.finditer(text):
            if not languages or found[1] in languages:
                yield Block(document, _heading(text, found.start()), found[1], found[2])


def sections() -> dict[str, list[Block]]:
    """The blocks of commands by section: one section is one session at a terminal."""
    gathered: dict[str, list[Block]] = {}
    for block in blocks("sh"):
        gathered.setdefault(block.place, []).append(block)
    return gathered


def commands(block: Block) -> list[str]:
    """The commands of a block: lines, joined where a quote or a backslash continues them."""
    found: list[str] = []
    pending = ""
    for line in block.text.splitlines():
        pending += line
        if pending.endswith("\\") or pending.count('"') % 2 or pending.count("'") % 2:
            pending += "\n"
        else:
            found.append(pending)
            pending = ""
    assert not pending, f"{block.place}: a command that doesn't end: {pending}"
    return [command for command in found if command.strip()]


def inline_commands() -> Iterator[tuple[Path, str]]:
    """Each `vidan …` in running text and tables."""
    for document in DOCUMENTS:
        text = _FENCE.sub("", document.read_text(encoding="utf-8"))
        for found in re.finditer(r"`(vidan -?[^`]+)`", text):
            yield document, " ".join(found[1].split())


def links() -> Iterator[tuple[Path, str]]:
    """Each link to a file of the repository."""
    for document in DOCUMENTS:
        for found in re.finditer(r"\]\(([^)]+)\)", document.read_text(encoding="utf-8")):
            if "://" not in found[1]:
                yield document, found[1].partition("#")[0]


def _heading(text: str, position: int) -> str:
    *_, last = _HEADING.finditer(_without_code(text[:position]))
    return last[1]


def _without_code(text: str) -> str:
    """A comment of a shell looks like a heading."""
    return _FENCE.sub("", text)
