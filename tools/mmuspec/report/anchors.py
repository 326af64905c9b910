"""Names of places in a page, one for each statement, field and section: ids in a form a link can name."""

from __future__ import annotations

import re

from mmuspec.slugs import unique
from mmuspec.visible import visible

PAGE = (
    "document",
    "obsolete",
    "overview",
    "wrong",
    "changes",
    "gaps",
    "kernels",
    "totals",
    "keys",
    "pictures",
)
"""What the page itself calls its parts, after ``page:``."""
BLANK = re.compile(r"\s+")


class Anchors:
    """Gives each place its anchor, and none twice. Who comes first gets the name asked for."""

    def __init__(self) -> None:
        self.taken = {f"page:{name}" for name in PAGE}

    def give(self, wanted: str) -> str:
        """`wanted`, less what an HTML id must not have; a number behind it if it is taken."""
        return unique(BLANK.sub("_", visible(wanted)), self.taken)
