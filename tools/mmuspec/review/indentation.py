"""Indentation for a line that lost it, taken from the lines around its place.

=========  ==========================  ==========================================
the line   is                          and is indented as
=========  ==========================  ==========================================
term       names before a colon alone  the nearest term of a definition list
bullet     marked ``-`` or ``*``       the nearest bullet
text       anything else               the text of the entry it stands in, or the
                                       nearest text that is indented
=========  ==========================  ==========================================

Something flattened keeps one column where there was any indentation: a line without one had none.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence

from mmuspec.extract import FIELD_TERM

BULLET = re.compile(r"[-*] +\S")
STEP = 2


def indented_like(line: str, before: Sequence[str], after: Iterable[str]) -> str:
    """`line` as it would stand between `before` and `after`, which have their indentation."""
    text = line.strip()
    if not text or text == line:
        return text
    if is_term(text):
        return _as(text, _nearest(before, after, is_term))
    if BULLET.match(text):
        return _as(text, _nearest(before, after, lambda each: bool(BULLET.match(each))))
    last = next((each for each in reversed(before) if each.strip()), "")
    if is_term(last.strip()):
        return _as(text, _below_a_term(before, after, _indent(last)))
    if BULLET.match(last.strip()):
        marker = BULLET.match(last.strip())
        assert marker is not None
        return _as(text, _indent(last) + marker.end() - 1)
    if _indent(last):
        return _as(text, _indent(last))
    return _as(text, _nearest(before, after, lambda each: not is_term(each) and not BULLET.match(each)))


def is_term(text: str) -> bool:
    """Whether a line, without its indentation, is the term of a field: names, then a colon."""
    return text.endswith(":") and FIELD_TERM.match(text) is not None


def _below_a_term(before: Sequence[str], after: Iterable[str], indent: int) -> int:
    """How far in the text of the other entries stands."""
    rows = [*before, *after]
    for row, below in zip(reversed(rows[:-1]), reversed(rows[1:]), strict=True):
        if is_term(row.strip()) and _indent(row) == indent and _indent(below) > indent:
            return _indent(below)
    return indent + STEP


def _nearest(before: Sequence[str], after: Iterable[str], fits: Callable[[str], bool]) -> int:
    for row in (*reversed(before), *after):
        if _indent(row) and fits(row.strip()):
            return _indent(row)
    return STEP


def _as(text: str, indent: int) -> str:
    return " " * indent + text


def _indent(row: str) -> int:
    return len(row) - len(row.lstrip()) if row.strip() else 0
