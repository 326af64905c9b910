"""What the project's own pages tell a reader to type, and the files that they show.

The info string of a fenced block says what it is:

==========================  ===========================================================================
``sh``                      commands, run one after the other
``sh ci``                   commands that `.ci/run` runs
``sh live``                 commands that need real kernels: `.ci/live` runs them
``sh long``                 commands that take an hour or a cluster; that they would begin is tested
``LANGUAGE file=PATH``      a file, written to PATH
``yaml claim=ID``           what stands in the spec's entry of that statement, in place of what stood there
anything else               is shown, and not used
==========================  ===========================================================================
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from markdown_it import MarkdownIt

ROOT = Path(__file__).parents[2]
PAGES = sorted([ROOT / "README.md", ROOT / "CONTRIBUTING.md", *(ROOT / "docs").glob("*.md")])


@dataclass(frozen=True, slots=True)
class Block:
    """A fenced block: where it begins, what it is, what it says."""

    page: Path
    line: int
    language: str
    use: str
    text: str

    @property
    def where(self) -> str:
        return f"{self.page.relative_to(ROOT)}:{self.line}"

    def commands(self) -> list[str]:
        """The command lines, without their comments; a line that ends in a backslash goes on in the next."""
        lines = re.sub(r"\\\n\s*", "", self.text).splitlines()
        return [bare for line in lines if (bare := re.sub(r"(^|\s)#\s.*", "", line).strip())]


def blocks(page: Path) -> Iterator[Block]:
    """The blocks of a page, in its order. An indented block is one without a language."""
    for token in MarkdownIt().parse(page.read_text("utf-8")):
        if token.type in ("fence", "code_block") and token.map:
            language, _, use = token.info.strip().partition(" ")
            yield Block(page, token.map[0] + 1, language, use, token.content)


def commands(use: str) -> list[tuple[Block, str]]:
    """All commands of all pages with that use."""
    return [
        (block, command)
        for page in PAGES
        for block in blocks(page)
        if (block.language, block.use) == ("sh", use)
        for command in block.commands()
    ]
