"""Sections and files that text refers to: are they there?"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from difflib import get_close_matches

from mmuspec.document import Document
from mmuspec.outline import Heading
from mmuspec.text import fold

# A title in quotes that the text sends its reader to.
SECTION = re.compile(
    r"\b(?:see|section|in|chapter|under)\s+(?:also\s+)?(?:the\s+)?(?:section\s+)?[\"“](?P<title>[^\"”]{3,80})[\"”]",
    re.IGNORECASE,
)
AFTER = re.compile(r"[\"“](?P<title>[^\"”]{3,80})[\"”],?\s+(?:section|chapter|above|below)\b", re.IGNORECASE)
FILE = re.compile(
    r"\b(?:Documentation|arch|virt|include|tools|kernel|mm|drivers|fs|lib)(?:/[\w.+-]+)+\.(?:rst|txt|[chS])\b"
)
ALIKE = 0.6


def missing_sections(text: str, document: Document) -> Iterator[str]:
    """Titles in quotes that no heading of the document has."""
    titles = {
        fold(block.title).lower(): fold(block.title)
        for block in document.outline.blocks
        if isinstance(block, Heading)
    }
    named = dict.fromkeys(
        fold(found["title"]) for pattern in (SECTION, AFTER) for found in pattern.finditer(text)
    )
    for title in named:
        if title.lower() not in titles:
            near = get_close_matches(title.lower(), list(titles), n=1, cutoff=ALIKE)
            hint = f'; did you mean "{titles[near[0]]}"?' if near else ""
            yield f'the document has no section "{title}"{hint}'


def missing_files(text: str, exists: Callable[[str], bool] | None) -> Iterator[str]:
    """Files of the kernel tree that are not there; nothing where no tree is at hand."""
    if exists is not None:
        for path in dict.fromkeys(found[0] for found in FILE.finditer(text)):
            if not exists(path):
                yield f"the kernel tree has no {path}"
