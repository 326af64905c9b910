"""How alike two texts are, by their words."""

from __future__ import annotations

import re
from collections.abc import Iterable
from difflib import SequenceMatcher, get_close_matches

TOKEN = re.compile(r"\w+|[^\w\s]")


def tokens(text: str) -> list[str]:
    """Words, numbers and marks, each a token."""
    return TOKEN.findall(text)


def likeness(before: str, after: str, at_least: float = 0.0) -> float:
    """From 0, nothing in common, to 1, the same words in the same order. Letter case does not count.

    Below `at_least` the answer is 0: most pairs are nothing alike, and that is found out quickly.
    """
    matcher = SequenceMatcher(None, tokens(before.lower()), tokens(after.lower()), autojunk=False)
    if matcher.real_quick_ratio() < at_least or matcher.quick_ratio() < at_least:
        return 0.0
    return matcher.ratio()


def nearest(wanted: str, known: Iterable[str]) -> str | None:
    """The known name that is most like a misspelt one, if any is."""
    found = get_close_matches(wanted, list(known), n=1, cutoff=0.4)
    return found[0] if found else None
