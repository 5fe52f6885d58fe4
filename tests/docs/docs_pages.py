"""The pages of the documentation, their fenced blocks and their links."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
PAGES = [
    ROOT / "README.md",
    ROOT / "CONTRIBUTING.md",
    ROOT / "CHANGELOG.md",
    *sorted((ROOT / "docs").glob("*.md")),
]
_FENCE = re.compile(r"^(?P<marks>`{3,})(?P<info>[^`\n]*)\n(?P<body>.*?)^(?P=marks)$", re.M | re.S)


@dataclass(frozen=True)
class Block:
    """A fenced block: its language, its title if it has one, its text and its first line."""

    page: Path
    language: str
    title: str
    text: str
    line: int
    start: int
    end: int

    @property
    def place(self) -> str:
        return f"{self.page.name}:{self.line}"


def blocks(page: Path, language: str | None = None) -> list[Block]:
    """Return the fenced blocks of a page, in order, of one language where one is given."""
    text = page.read_text(encoding="utf-8")
    found = []
    for match in _FENCE.finditer(text):
        info = match["info"].strip()
        title = re.search(r'title="([^"]+)"', info)
        kind = info.split()[0] if info else ""
        line = text.count("\n", 0, match.start("body")) + 1
        if language in (None, kind):
            found.append(
                Block(page, kind, title[1] if title else "", match["body"], line, *match.span())
            )
    return found


def expected_output(block: Block) -> str | None:
    """Return the ``text`` block that stands right behind a block, or None."""
    for other in blocks(block.page, "text"):
        if other.start > block.end:
            between = block.page.read_text(encoding="utf-8")[block.end : other.start]
            return other.text if not between.strip() else None
    return None


def prose(page: Path) -> str:
    """Return a page without its fenced blocks."""
    return _FENCE.sub("", page.read_text(encoding="utf-8"))


def console_lines(page: Path) -> list[tuple[str, str]]:
    """Return the commands of the console blocks of a page with their places, joined at ``\\``."""
    found = []
    for block in blocks(page, "console"):
        text = block.text.replace("\\\n", " ")
        for number, line in enumerate(text.splitlines()):
            if line.startswith("$ "):
                found.append((f"{page.name}:{block.line + number}", line[2:].strip()))
    return found
