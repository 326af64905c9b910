"""The diffs in a message: found, mended where the way here damaged them, and read by `unidiff`.

A hunk says how many lines it has. Within that number a line with no mark before it is a context line whose
leading white space was lost; what comes after is no part of the diff, whatever it looks like.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import PurePosixPath

from unidiff.errors import UnidiffParseError
from unidiff.patch import Hunk as ParsedHunk
from unidiff.patch import PatchedFile, PatchSet

from mmuspec.review.message import Line

HUNK = re.compile(r"@@ -(\d+)(?:,(\d+))? \+(\d+)(?:,(\d+))? @@")
BINARY = re.compile(r"(?:Binary files .* differ|GIT binary patch)$")
MARKS = "+- "
MARKED = (*MARKS, "\\")
CONTEXT = 3


class Kind(StrEnum):
    """What a diff does with a line; the values are its marks."""

    ADDED = "+"
    REMOVED = "-"
    CONTEXT = " "


@dataclass(frozen=True, slots=True)
class DiffLine:
    """A line of a hunk: what it says, and the line of the message that says it."""

    kind: Kind
    text: str
    at: Line


@dataclass(frozen=True, slots=True)
class Hunk:
    """`start` is the first line of the old file that it shows, from 1; `line` is that of its ``@@``."""

    start: int
    lines: tuple[DiffLine, ...]
    line: int

    @property
    def old(self) -> list[DiffLine]:
        """What has to stand in the file: context and what is removed."""
        return [line for line in self.lines if line.kind is not Kind.ADDED]


@dataclass(frozen=True, slots=True)
class FileDiff:
    """What a patch does to one file. `broken` says why it cannot be used; empty if it can."""

    path: str
    line: int
    hunks: tuple[Hunk, ...] = ()
    broken: str = ""
    renamed_to: str = ""


def file_diffs(body: Sequence[Line]) -> Iterator[FileDiff]:
    """Every diff in the lines of a message. Never raises; see `FileDiff.broken`."""
    place = 0
    while place < len(body):
        if _begins_a_file(body, place):
            end, rows, complaint = _extent(body, place)
            yield _parsed(rows, body[place].number, complaint)
            place = max(end, place + 1)
        else:
            place += 1


def _begins_a_file(body: Sequence[Line], place: int) -> bool:
    text = body[place].text
    if text.startswith("--- "):
        return place + 1 < len(body) and body[place + 1].text.startswith("+++ ")
    return text.startswith("diff --git ")


@dataclass(frozen=True, slots=True)
class _Row:
    """A line as `unidiff` is to see it, and where it came from."""

    text: str
    at: Line


def _extent(body: Sequence[Line], place: int) -> tuple[int, list[_Row], str]:
    """Where the diff of the file that begins at `place` ends, its lines mended, and what is wrong with it."""
    rows = [_Row(body[place].text, body[place])]
    place += 1
    while place < len(body):
        text = body[place].text
        if HUNK.match(text):
            hunk, place, complaint = _hunk(body, place)
            rows += hunk
            if complaint:
                return place, rows, complaint
        elif BINARY.match(text):
            rows.append(_Row(text, body[place]))
            return place + 1, rows, "is a binary diff; there is nothing in it to review"
        elif _has_hunk(rows) or text.startswith("diff --git "):
            return place, rows, ""
        else:
            rows.append(_Row(text, body[place]))
            place += 1
    return place, rows, ""


def _has_hunk(rows: Sequence[_Row]) -> bool:
    return any(HUNK.match(row.text) for row in rows)


def _hunk(body: Sequence[Line], place: int) -> tuple[list[_Row], int, str]:
    """The lines of a hunk. Read as it stands; if its counts do not add up, as something flattened.

    A context line that is a bullet looks like a removed line once its white space is lost. Before the first
    change and behind the last stand `CONTEXT` lines of context, as diffs are made; fewer at the end of a file.
    """
    plain = _counted(body, place, None)
    if plain[2]:
        for trail in range(CONTEXT, -1, -1):
            rows, end, complaint = _counted(body, place, trail)
            if not complaint and any(row.text.startswith(("+", "-")) for row in rows):
                return rows, end, ""
    return plain


def _counted(body: Sequence[Line], place: int, trail: int | None) -> tuple[list[_Row], int, str]:
    """The lines that the head of a hunk counts; `trail` is how many of context end one that was flattened."""
    head = HUNK.match(body[place].text)
    assert head is not None
    old, new = (1 if count is None else int(count) for count in (head[2], head[4]))
    start = body[place]
    rows = [_Row(start.text, start)]
    for line in body[place + 1 :]:
        if not (old or new):
            break
        is_context = trail is not None and (len(rows) <= CONTEXT < int(head[1]) or old == new <= trail)
        text = line.text if line.text.startswith(MARKED) and not is_context else f" {line.text}"
        old -= text[0] in "- "
        new -= text[0] in "+ "
        if old < 0 or new < 0:
            return (
                rows,
                place + len(rows),
                f"the hunk has more lines than line {start.number} says; is it wrapped?",
            )
        rows.append(_Row(text, line))
    if old or new:
        return (
            rows,
            place + len(rows),
            f"the hunk of line {start.number} ends early ({max(old, new)} lines short)",
        )
    return rows, place + len(rows), ""


def _parsed(rows: Sequence[_Row], line: int, complaint: str) -> FileDiff:
    # Lines between the diff's first line and `---` are git's own and none of ours: modes, index, similarity.
    try:
        files = PatchSet(f"{row.text}\n" for row in rows) if not complaint else PatchSet([])
    except UnidiffParseError as error:
        return FileDiff(_path_said(rows), line, broken=f"cannot be read as a diff: {error}")
    if complaint or not files:
        return FileDiff(_path_said(rows), line, broken=complaint)
    file = files[0]
    renamed = _stripped(file.target_file) if file.is_rename else ""
    return FileDiff(_source(file), line, tuple(_converted(hunk, rows) for hunk in file), "", renamed)


def _converted(hunk: ParsedHunk, rows: Sequence[_Row]) -> Hunk:
    lines = []
    first = 0
    for parsed in hunk:
        row = rows[(parsed.diff_line_no or 1) - 1]
        first = first or (parsed.diff_line_no or 1) - 1
        if parsed.line_type in MARKS:
            lines.append(DiffLine(Kind(parsed.line_type), parsed.value.rstrip("\n"), row.at))
    head = rows[max(first - 1, 0)].at.number
    return Hunk(hunk.source_start, tuple(lines), head)


def _source(file: PatchedFile) -> str:
    return _stripped(file.source_file if file.source_file != "/dev/null" else file.target_file)


def _path_said(rows: Sequence[_Row]) -> str:
    for row in rows:
        if row.text.startswith("+++ "):
            return _stripped(row.text[4:].split("\t")[0].strip())
    words = rows[0].text.split()
    return _stripped(words[-1]) if words else ""


def _stripped(path: str) -> str:
    return re.sub(r"^[ab]/", "", path.strip().strip('"'))


def is_unsafe(path: str) -> bool:
    """Whether a path leads out of the tree that a diff is for."""
    pure = PurePosixPath(path)
    return path != "/dev/null" and (pure.is_absolute() or ".." in pure.parts or "\\" in path)
