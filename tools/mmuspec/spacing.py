"""Blank lines that a reader does not need but docutils does.

A sub-bullet may stand directly under the text it belongs to; docutils then takes it for more of that text.
`spaced` puts the blank lines in and says which source line each line of the result is.
"""

from __future__ import annotations

import re

BULLET = re.compile(r"(\s*)([-*+•])(\s+)\S")
MARKUP = re.compile(r"\s*(\.\. |__ |:[^:\s]+:|\||\+[-=+]+\+)")
IDENTIFIER_TERM = re.compile(r"\s*\w[\w.]*(\s*[/,]\s*\w[\w.]*)*:?\s*$")
BORDER = re.compile(r"\s*=+(\s+=+)+\s*$")
INSERTED = 0


def spaced(source_lines: list[str]) -> tuple[list[str], list[int]]:
    """The lines with blank ones put in, and the source line of each, from 1; `INSERTED` for those put in."""
    lines: list[str] = []
    numbers: list[int] = []
    in_table = False
    for number, line in enumerate(source_lines, 1):
        before = source_lines[number - 2] if number > 1 else ""
        if BORDER.match(line):
            after = source_lines[number] if number < len(source_lines) else ""
            in_table = not (in_table and not after.strip())
        if not in_table and _starts_a_list_inside_text(before, line):
            lines.append("")
            numbers.append(INSERTED)
        lines.append(line)
        numbers.append(number)
    return lines, numbers


def _starts_a_list_inside_text(before: str, line: str) -> bool:
    bullet = BULLET.match(line)
    if not bullet or not before.strip() or MARKUP.match(before):
        return False
    indent, indent_before = _width(bullet[1]), _width(before[: len(before) - len(before.lstrip())])
    bullet_before = BULLET.match(before)
    if bullet_before:
        return indent == _width(before[: bullet_before.end() - 1])
    if indent_before < indent:
        return not IDENTIFIER_TERM.match(before)
    return indent == indent_before


def _width(blank: str) -> int:
    return len(blank.expandtabs(8))
